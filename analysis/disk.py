"""Tell what a step takes whose states, moments or parameters go to a disk, and what memory it lives in.

Reads docs/data/measure_disk.json and measure_streaming.json, writes docs/tables/disk.md and streaming.md.
Run: python -m analysis.disk
"""

from statistics import median

from analysis.drawing import DOCS, Record, caption, load, save_tables
from lowmem.common.tables import Table
from lowmem.units import format_bytes

STATES = (
    "SGD, compiled engine; share: of the activations, in memory. Time: over a step that stores everything, medians of "
    "steps in turns in one process; spread: largest less smallest of the steps with the disk, over their median. "
    "Moved: written and read a step, as counted. Predicted: the plan's seconds over the measured ones. All three end "
    "at the same bits. Throttled: the store moves no more bytes a second than that, each way."
)
GROUPS = (
    "In a control group of memory of that size, page cache and all. Promised and process: of the whole process, "
    "resident; group: the most that the group held, a saved file's pages among it."
)


def main() -> None:
    """Write the tables."""
    data = load("measure_disk")
    save_tables([of_states(data["records"])], "disk", f"{STATES}\n{caption(data)}")
    if (DOCS / "data" / "measure_streaming.json").exists():
        data = load("measure_streaming")
        note = f"{GROUPS} Adam; saved, killed behind the second step, resumed: the same bits as in memory."
        save_tables([of_streams(data["records"])], "streaming", f"{note}\n{caption(data)}")


def named(case: list[int]) -> str:
    """Name a network and its batch."""
    layers, width, batch = case[:3]
    return f"{layers} × {width}, batch {batch}"


def of_states(records: list[Record]) -> Table:
    """Return a row for each network, share and disk."""
    rows = []
    for record in records:
        if "plans" not in record:
            continue
        assert record["same_bits"], record
        disk, again = record["plans"]["disk"], record["plans"]["recomputation"]
        middle = median(disk["seconds"])
        rows.append(
            [
                named(record["case"]),
                f"{record['case'][3]} %",
                record["throttle"].removeprefix("throttle="),
                f"{disk['ratio']:.2f} ×",
                f"{(max(disk['seconds']) - min(disk['seconds'])) / middle:.0%}",
                f"{again['ratio']:.2f} ×",
                format_bytes(disk["traffic_counted"]),
                f"{disk['predicted'] / middle:.2f} ×",
            ]
        )
    columns = ["network", "share", "throttled to", "with the disk", "spread", "by recomputation", "moved", "predicted"]
    return Table("**States on a disk**", columns, rows)


def of_streams(records: list[Record]) -> Table:
    """Return a row for each network that is larger than its control group."""
    rows = []
    for record in records:
        assert record["same_bits"], record
        found = record["resumed"]
        rows.append(
            [
                named([int(number) for number in record["case"].split(",")]),
                format_bytes(found["parameters_and_moments"]),
                format_bytes(record["ram"]),
                format_bytes(found["promise"]),
                format_bytes(found["resident_peak"]),
                format_bytes(found["group_peak"]),
                f"{record['ratio']:.2f} ×",
                f"{found['predicted'] / median(found['seconds']):.2f} ×",
                format_bytes(found["traffic_counted"]),
            ]
        )
    columns = ["network", "parameters and moments", "group", "promised", "process", "most in the group"]
    return Table("**Parameters and moments on a disk**", [*columns, "time", "predicted", "moved"], rows)


if __name__ == "__main__":
    main()
