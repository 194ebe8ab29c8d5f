"""Tell in one small table how promises were kept: memory over all budgets of a shape, and the rule of thumb.

Reads docs/data/profile_memory.json, writes docs/tables/promises.md. Run: python -m analysis.promises
"""

from collections.abc import Iterable
from itertools import groupby

from analysis.compute_versus_memory import shape_of
from analysis.drawing import Record, caption, load, save_tables
from lowmem.common.tables import Table

NOTE = (
    "Measured relative to promised, least to most over all budgets. Arena: bytes written by a step. Traced: every "
    "allocation of Python and NumPy. Resident: the whole process, its floor included. Backward over forward while "
    "everything is stored: the rule of thumb is 2."
)


def main() -> None:
    """Write the table."""
    data = load("profile_memory")
    budgets = [record for record in data["records"] if record["family"] == "budgets"]
    rows = [row(list(group)) for _, group in groupby(budgets, key=shape_of)]
    columns = ["network", "budgets", "arena", "traced", "resident", "backward / forward: FLOPs", "seconds"]
    save_tables([Table("", columns, rows)], "promises", f"{NOTE}\n{caption(data)}")


def row(records: list[Record]) -> list[str]:
    """Return what the budgets of one shape have shown."""
    found = [record["measured"] for record in records]
    hidden, width, batch, activation = shape_of(records[0])
    ratios = found[0].get("profile", {}).get("backward_over_forward", {})
    return [
        f"{hidden} × {width}, {activation}, batch {batch}",
        f"{len(records)}",
        spread(m["arena_written"] / m["promised_arena"] for m in found),
        spread(m["traced_peak"] / m["promised_peak"] for m in found),
        spread((m["floor"] + m["resident_above_floor"]) / (m["floor"] + m["promised_peak"]) for m in found),
        *(f"{ratios[name]:.2f}" if name in ratios else "" for name in ("flops", "seconds")),
    ]


def spread(ratios: Iterable[float]) -> str:
    """Write the least and the largest ratio as deviations."""
    sorted_ones = sorted(ratios)
    return f"{sorted_ones[0] - 1:+.2%} to {sorted_ones[-1] - 1:+.2%}"


if __name__ == "__main__":
    main()
