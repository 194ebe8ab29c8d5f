"""Draw lowmem beside its peers: time of a step against the memory that the process takes for it.

Reads docs/data/compare_peers.json, writes docs/figures/peers.{svg,png} and docs/tables/peers.md.
Run: python -m analysis.peers
"""

import lowmem as lm
from analysis.drawing import Record, caption, load, save, save_tables
from lowmem.common.tables import Table
from lowmem.plots import Point, frontier

READING = (
    "Memory is resident (VmHWM), parameters included: the same bytes for all. PyTorch and JAX were measured with "
    "glibc's default allocator and with MALLOC_MMAP_THRESHOLD_=1048576 (mmap), which gives freed memory back at once. "
    "hook: parameters updated as gradients come, as in lowmem. remat: jax.checkpoint around segments of layers. Time: "
    "processor time of a step over that of its matrix products alone, with which it takes turns in one process; of "
    "lowmem, storing everything, it is 1."
)
DRAWN = (
    "Drawn are the settings (segments, allocator) of a method of which no other one takes less memory and less time. "
    "A colour for each tool."
)


def main() -> None:
    """Draw the figure and write the table."""
    data = load("compare_peers")
    records = data["records"]
    widths, batch = records[0]["widths"], records[0]["batch"]
    title = f"{len(widths) - 1} layers of {widths[0]}, relu, batch {batch}, SGD; {rounds(records)}"
    whole = time_of(records[0])
    points = [
        Point(record["name"], record["above_floor_bytes"] / 2**20, time_of(record) / whole, measured=True)
        for record in sorted(better(records), key=lambda record: record["above_floor_bytes"])
    ]
    figure = frontier(
        points,
        title=title,
        memory_label="process memory above its floor (MiB)",
        compute_label="CPU time, lowmem storing all = 1",
        relative=False,
    )
    save(figure, "peers", f"{READING} {DRAWN}\n{caption(data)}")
    save_tables([table(title, records)], "peers", f"{READING}\n{caption(data)}")


def better(records: list[Record]) -> list[Record]:
    """Return the records without those that another setting of the same method beats in memory and in time."""
    return [
        record
        for record in records
        if not any(beats(other, record) for other in records if other["name"] == record["name"])
    ]


def beats(one: Record, other: Record) -> bool:
    """Whether one takes less of both than the other."""
    return bool(one["above_floor_bytes"] < other["above_floor_bytes"]) and time_of(one) < time_of(other)


def time_of(record: Record) -> float:
    """Return the processor time of a step over that of its products alone."""
    return float(record["over_floor"])


def rounds(records: list[Record]) -> str:
    """Return how often each case was measured."""
    count = len(records[0]["over_floor_of_rounds"])
    return "one round" if count == 1 else f"medians of {count} rounds"


def setting(record: Record) -> str:
    """Say how a case saves memory."""
    if record.get("segments"):
        return f"{record['segments']} segments"
    return str(record.get("budget") or "stores everything")


def promised(record: Record) -> str:
    """Return the peak in MiB that a plan of lowmem counts; the peers promise nothing."""
    if record["library"] != "lowmem":
        return ""
    architecture = lm.Architecture(tuple(record["widths"]))
    return f"{lm.plan(architecture, record['batch'], record['budget'], 'sgd').peak_bytes / 2**20:.0f}"


def table(title: str, records: list[Record]) -> Table:
    """Return memory, time and the check that all did the same work."""
    whole, losses = time_of(records[0]), records[0]["losses"]
    rows = []
    for record in records:
        apart = max(abs(mine / first - 1) for mine, first in zip(record["losses"], losses, strict=True))
        times = [over / whole for over in record["over_floor_of_rounds"]]
        sizes = [size / 2**20 for size in record["above_floor_bytes_of_rounds"]]
        rows.append(
            [
                record["name"],
                setting(record),
                record.get("allocator", ""),
                f"{record['above_floor_bytes'] / 2**20:.0f}",
                f"{min(sizes):.0f} to {max(sizes):.0f}",
                promised(record),
                f"{time_of(record) / whole:.2f} ×",
                f"{min(times):.2f} to {max(times):.2f}",
                f"{apart:.0e}",
            ]
        )
    columns = ["", "setting", "allocator", "memory (MiB)", "of the rounds", "promised", "time", "of the rounds"]
    columns.append("losses differ by")
    return Table(f"**{title}**", columns, rows)


if __name__ == "__main__":
    main()
