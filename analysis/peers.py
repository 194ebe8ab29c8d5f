"""Draw lowmem beside its peers: time of a step against the memory that the process takes for it.

Reads docs/data/compare_peers.json, writes docs/figures/peers.{svg,png} and docs/tables/peers.md.
Run: python -m analysis.peers
"""

from analysis.drawing import Record, caption, load, save, save_tables
from lowmem.plots import Point, frontier
from lowmem.tables import Table

READING = (
    "Memory is resident (VmHWM), parameters included: the same bytes for all. mmap: MALLOC_MMAP_THRESHOLD_=1048576, "
    "else glibc's default, which grows with the steps and differs between runs. hook: parameters updated as gradients "
    "come, as in lowmem."
)


def main() -> None:
    """Draw the figure and write the table."""
    data = load("compare_peers")
    records = data["records"]
    widths, batch = records[0]["widths"], records[0]["batch"]
    title = f"{len(widths) - 1} layers of {widths[0]}, relu, batch {batch}, SGD; medians of {rounds(records)} rounds"
    whole = records[0]["cpu_seconds"]
    points = [
        Point(record["name"], record["above_floor_bytes"] / 2**20, record["cpu_seconds"] / whole, measured=True)
        for record in records
    ]
    figure = frontier(
        points,
        title=title,
        memory_label="process memory above its floor (MiB)",
        compute_label="CPU time (× lowmem storing all)",
        relative=False,
    )
    save(figure, "peers", f"{READING}\n{caption(data)}")
    save_tables([table(title, records)], "peers", f"{READING}\n{caption(data)}")


def rounds(records: list[Record]) -> int:
    """Return how often each case was measured."""
    return len(records[0]["cpu_seconds_of_rounds"])


def setting(record: Record) -> str:
    """Say how a case saves memory."""
    if record.get("segments"):
        return f"{record['segments']} segments"
    return str(record.get("budget") or "stores everything")


def table(title: str, records: list[Record]) -> Table:
    """Return memory, time and the check that all did the same work."""
    whole, losses = records[0]["cpu_seconds"], records[0]["losses"]
    rows = []
    for record in records:
        apart = max(abs(mine / first - 1) for mine, first in zip(record["losses"], losses, strict=True))
        times = [seconds / whole for seconds in record["cpu_seconds_of_rounds"]]
        sizes = [size / 2**20 for size in record["above_floor_bytes_of_rounds"]]
        rows.append(
            [
                record["name"],
                setting(record),
                f"{record['above_floor_bytes'] / 2**20:.0f}",
                f"{min(sizes):.0f} to {max(sizes):.0f}",
                f"{record['cpu_seconds'] / whole:.2f} ×",
                f"{min(times):.2f} to {max(times):.2f}",
                f"{apart:.0e}",
            ]
        )
    columns = ["", "setting", "memory (MiB)", "of the rounds", "time", "of the rounds", "losses differ by"]
    return Table(f"**{title}**", columns, rows)


if __name__ == "__main__":
    main()
