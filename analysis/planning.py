"""Tell how long planning takes, what it costs and how far it may be from the optimum, and rotor's beside it.

Reads docs/data/benchmark_planning.json, writes docs/tables/planning.md. Run: python -m analysis.planning
"""

from analysis.drawing import Record, caption, load, save_tables
from lowmem.common.tables import Table
from lowmem.units import format_bytes

KINDS = {
    "iid": "any, 32 to 512",
    "iid16": "multiples of 16, 32 to 512",
    "runs": "runs of twenty of one width",
    "pyramid": "ever narrower, 512 to 32",
    "even": "all 64",
    "abstract": "an abstract chain of equal steps",
}

NOTE = (
    "Budget: percent of the peak of storing everything. Time and memory: of the schedule alone, in a fresh process, "
    "its imports included in the memory. Cost: relative to storing everything. Gap: how far the cost may be above the "
    "persistent optimum, as proven; all segments: the same by a table of every segment, which takes seconds. Budgets "
    "below the least memory of a chain are left out. Rotor: the C solver of PyPI's rockmate on 500 levels of memory; "
    "both schedules run by lowmem's simulator, rotor's without the runs that no backward needs here, lowmem's for the "
    "bytes that rotor's takes."
)


def main() -> None:
    """Write the tables."""
    data = load("benchmark_planning")
    records = [record for record in data["records"] if "share" in record and "skipped" not in record]
    own = [row(record) for record in records if "rotor" not in record]
    others = [row_of_rotor(record) for record in records if "rotor" in record]
    tables = [
        Table("**Planning**", ["layers", "widths", "budget", "time", "memory", "cost", "gap", "all segments"], own),
        Table(
            "**Beside rotor**",
            ["layers", "widths", "budget", "time", "of rotor", "gap", "cost over rotor's"],
            others,
        ),
    ]
    save_tables(tables, "planning", f"{NOTE}\n{caption(data)}")


def of_case(record: Record) -> list[str]:
    """Return the cells that say what was planned."""
    return [f"{record['layers']:,.0f}", KINDS[record["kind"]], f"{record['share']:.0f}%"]


def row(record: Record) -> list[str]:
    """Return what planning one case took and gave."""
    return [
        *of_case(record),
        f"{record['seconds']:.2f} s",
        format_bytes(record["resident_peak_bytes"]),
        f"{record['cost_factor']:.3f} ×",
        f"{record['gap']:.2%}",
        f"{record['full_gap']:.2%}" if "full_gap" in record else "",
    ]


def row_of_rotor(record: Record) -> list[str]:
    """Return one case of both."""
    return [
        *of_case(record),
        f"{record['seconds']:.2f} s",
        f"{record['rotor_seconds']:.2f} s",
        f"{record['gap']:.2%}",
        f"{record['cost_over_rotor']:.3f} ×",
    ]


if __name__ == "__main__":
    main()
