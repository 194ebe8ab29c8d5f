"""Draw compute against memory for the profiled shapes: what plans predict, and what was measured.

Reads docs/data/profile_memory.json, writes docs/figures/compute_versus_memory_*.{svg,png} and
docs/tables/compute_versus_memory.md. Run: python -m analysis.compute_versus_memory
"""

from itertools import groupby

import lowmem as lm
from analysis.drawing import Record, caption, load, save, save_tables
from lowmem.common.tables import Table
from lowmem.plots import Point, frontier
from lowmem.units import format_bytes

CURVE = 40
"""Budgets that make up the curve of a shape, in equal ratios."""

FIXED = ("store_all", "sqrt")

DEAREST = 6.0
"""Plans that cost more are not drawn: the part that people use would be flat beside them. The note names the end."""


def main() -> None:
    """Draw one figure for each shape, and one table for all."""
    data = load("profile_memory")
    budgets = [record for record in data["records"] if record["family"] == "budgets"]
    tables = []
    for (hidden, width, batch, activation), group in groupby(budgets, key=shape_of):
        records = list(group)
        plans = predicted(records[0])
        title = f"{hidden} hidden layers of {width}, {activation}, batch {batch}, SGD"
        figure = frontier(
            [*(point for point in plans if point.compute <= DEAREST), *measured(records)],
            title=title,
            compute_label="compute, relative to storing all",
            whole=records[0]["measured"]["store_all_arena"],
        )
        end = min(plans, key=lambda point: point.memory)
        note = (
            "Lines, filled markers: FLOPs, planned. Open markers: processor time and arena, measured. Not drawn: the "
            f"line goes on to {100 * end.memory:.2g} % at {end.compute:.0f} ×."
        )
        save(figure, f"compute_versus_memory_{hidden}x{width}_{activation}", f"{note}\n{caption(data)}")
        tables.append(table(title, records))
    note = (
        "Arena, peak and process are promised. Written: bytes of the arena that a step wrote to. Traced: every "
        "allocation of Python and NumPy; where it is above the promise, 0.4 MiB are Python's table of strings, which "
        "grew while the schedule was planned. Resident: VmHWM of the process, interpreter and libraries included. "
        f"Time: processor time of a step.\n{caption(data)}"
    )
    save_tables(tables, "compute_versus_memory", note)


def shape_of(record: Record) -> tuple[int, int, int, str]:
    """Return what names a shape."""
    return record["hidden"], record["width"], record["batch"], record["activation"]


def predicted(record: Record) -> list[Point]:
    """Return the plans of the fixed strategies, and of the cheapest schedules over all budgets, for one shape."""
    hidden, width, batch, activation = shape_of(record)
    architecture = lm.Architecture((64, *[width] * hidden, 10), activation)
    points = [Point.of(lm.plan(architecture, batch, None, "sgd", strategy)) for strategy in FIXED]
    most = lm.plan(architecture, batch, None, "sgd").peak_bytes
    least = lm.minimum_budget(architecture, batch, "sgd")
    fixed = most - record["measured"]["store_all_arena"]
    for n in range(CURVE + 1):
        # In equal ratios of the activations, from the least that works to all of them.
        share = ((least - fixed) / (most - fixed)) ** (1 - n / CURVE)
        budget = max(least, fixed + int(share * (most - fixed)))
        made = lm.plan(architecture, batch, budget, "sgd", micro_batch=batch)
        points.append(Point("optimal", made.arena_bytes / made.store_all_bytes, made.flop_factor))
    return points


def measured(records: list[Record]) -> list[Point]:
    """Return the measured activations and times of one shape, relative to storing everything."""
    found = [record["measured"] for record in records]
    return [
        Point(
            "optimal",
            m["arena_written"] / m["store_all_arena"],
            m["cpu_seconds"] / found[0]["cpu_seconds"],
            measured=True,
        )
        for m in found
    ]


def table(title: str, records: list[Record]) -> Table:
    """Return promise and measurement of one shape."""
    columns = ["budget", "arena", "written", "peak", "traced", "", "process", "resident", "", "FLOPs", "time"]
    rows = []
    for record in records:
        m = record["measured"]
        promised, floor = m["promised_peak"], m["floor"]
        resident = floor + m["resident_above_floor"]
        rows.append(
            [
                record["budget"],
                format_bytes(m["promised_arena"]),
                format_bytes(m["arena_written"]),
                format_bytes(promised),
                format_bytes(m["traced_peak"]),
                f"{m['traced_peak'] / promised - 1:+.2%}",
                format_bytes(floor + promised),
                format_bytes(resident),
                f"{resident / (floor + promised) - 1:+.2%}",
                f"{m['flop_factor']:.3f} ×",
                f"{m['cpu_seconds'] / records[0]['measured']['cpu_seconds']:.2f} ×",
            ]
        )
    return Table(f"**{title}**", columns, rows)


if __name__ == "__main__":
    main()
