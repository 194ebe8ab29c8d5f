"""Draw memory and compute against depth, planned and measured, for strategies that grow differently.

Reads docs/data/profile_memory.json, writes docs/figures/memory_versus_depth.{svg,png} and
docs/tables/memory_versus_depth.md. Run: python -m analysis.memory_versus_depth
"""

from math import log2

import lowmem as lm
from analysis.drawing import Record, caption, load, save, save_tables
from lowmem.common.tables import Table
from lowmem.plots import Depth, scaling
from lowmem.units import format_bytes

WIDTH = 256
"""Of the network in the figure; the table has all."""


def main() -> None:
    """Draw the figure and write the table."""
    data = load("profile_memory")
    records = [record for record in data["records"] if record["family"] == "depths"]
    drawn = [record for record in records if record["width"] == WIDTH]
    batch = drawn[0]["batch"]
    figure = scaling(
        [*predicted(sorted({record["hidden"] for record in drawn}), batch), *measured(drawn)],
        title=f"layers of {WIDTH}, relu, batch {batch}; revolve keeps log₂ L states",
        compute_label="compute, relative to storing all",
    )
    note = f"Lines: planned. Open markers: arena and processor time, measured.\n{caption(data)}"
    save(figure, "memory_versus_depth", note)
    save_tables([table(records)], "memory_versus_depth", caption(data))


def predicted(depths: list[int], batch: int) -> list[Depth]:
    """Return the plans of all strategies at all depths."""
    found = []
    for hidden in depths:
        architecture = lm.Architecture((64, *[WIDTH] * hidden, 10))
        plans = [lm.plan(architecture, batch, None, "sgd", name) for name in ("store_all", "sqrt", "recompute_all")]
        plans.append(lm.plan(architecture, batch, None, "sgd", "revolve", slots=round(log2(hidden))))
        found += [Depth(made.strategy, hidden, made.arena_bytes, made.flop_factor) for made in plans]
    return found


def measured(records: list[Record]) -> list[Depth]:
    """Return what was measured; time relative to that of storing everything at the same depth."""
    return [
        Depth(
            record["strategy"],
            record["hidden"],
            record["measured"]["arena_written"],
            time_factor(record, records),
            measured=True,
        )
        for record in records
    ]


def time_factor(record: Record, records: list[Record]) -> float:
    """Return the processor time of a step relative to storing everything in the same network."""
    shape = record["hidden"], record["width"]
    whole = next(r for r in records if (r["hidden"], r["width"], r["strategy"]) == (*shape, "store_all"))
    return float(record["measured"]["cpu_seconds"] / whole["measured"]["cpu_seconds"])


def table(records: list[Record]) -> Table:
    """Return promise and measurement at every depth and width."""
    columns = ["layers", "width", "strategy", "arena", "written", "peak", "traced", "", "FLOPs", "time"]
    rows = [
        [
            f"{record['hidden']}",
            f"{record['width']}",
            record["strategy"],
            format_bytes(m["promised_arena"]),
            format_bytes(m["arena_written"]),
            format_bytes(m["promised_peak"]),
            format_bytes(m["traced_peak"]),
            f"{m['traced_peak'] / m['promised_peak'] - 1:+.2%}",
            f"{m['flop_factor']:.3f} ×",
            f"{time_factor(record, records):.2f} ×",
        ]
        for record in records
        for m in [record["measured"]]
    ]
    return Table(f"**Depths and widths**, relu, batch {records[0]['batch']}, SGD", columns, rows)


if __name__ == "__main__":
    main()
