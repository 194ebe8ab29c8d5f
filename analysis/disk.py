"""Tell what a step takes whose states, moments or parameters go to a disk, and what memory it lives in.

Reads docs/data/measure_disk.json and measure_streaming.json, writes docs/tables/disk.md and streaming.md, and the
sentences of docs/disk.md. Run: python -m analysis.disk
"""

from statistics import median

from analysis.drawing import DOCS, Record, caption, load, save_tables
from lowmem.common.tables import Table
from lowmem.units import format_bytes

STATES = (
    "SGD, compiled engine; share: of the activations, in memory. Time: over a step that stores everything, medians of "
    "steps in turns in one process; spread: largest less smallest of the steps with the disk, over their median. "
    "Checksums: what they add to the step with the disk, which has them by default where that is predicted to be "
    "little. "
    "Moved: written and read a step, as counted. Predicted: the plan's seconds over the measured ones. All plans end "
    "at the same bits. Throttled: the store moves no more bytes a second than that, each way."
)
GROUPS = (
    "In a control group of memory of that size, page cache and all. Promised and process: of the whole process, "
    "resident; group: the most that the group held, a saved file's pages among it."
)


def main() -> None:
    """Write the tables."""
    data = load("measure_disk")
    tables = [of_states([record for record in data["records"] if "plans" in record])]
    grouped = [record for record in data["records"] if "ram" in record]
    notes = STATES
    if grouped:
        tables, notes = [*tables, of_groups(grouped)], f"{notes}\n{GROUPS}"
    save_tables(tables, "disk", f"{notes}\n{caption(data)}")
    if streaming() is not None:
        data = load("measure_streaming")
        note = f"{GROUPS} Adam; every epoch was a process that was killed and resumed; the bits are those in memory."
        save_tables([of_streams(data["records"])], "streaming", f"{note}\n{caption(data)}")


def streaming() -> Record | None:
    """Return the run that outweighs its memory, None if none was measured."""
    if not (DOCS / "data" / "measure_streaming.json").exists():
        return None
    found: Record = load("measure_streaming")["records"][0]
    return found


def named(case: list[int]) -> str:
    """Name a network and its batch."""
    layers, width, batch = case[:3]
    return f"{layers} × {width}, batch {batch}"


def of_states(records: list[Record]) -> Table:
    """Return a row for each network, share and disk."""
    rows = []
    for record in records:
        assert record["same_bits"], record
        disk, again = by_default(record), record["plans"]["recomputation"]
        middle, cost = median(disk["seconds"]), checksum_cost(record)
        rows.append(
            [
                named(record["case"]),
                f"{record['case'][3]} %",
                record["throttle"].removeprefix("throttle="),
                f"{disk['ratio']:.2f} ×",
                f"{(max(disk['seconds']) - min(disk['seconds'])) / middle:.0%}",
                "" if cost is None else f"{cost:+.1%}",
                f"{again['ratio']:.2f} ×",
                format_bytes(disk["traffic_counted"]),
                f"{disk['predicted'] / middle:.2f} ×",
            ]
        )
    columns = ["network", "share", "throttled to", "with the disk", "spread", "checksums", "by recomputation", "moved"]
    return Table("**States on a disk**", [*columns, "predicted"], rows)


def by_default(record: Record) -> Record:
    """Return what was measured of the disk with checksums or without, as the plan has it by default."""
    plans = record["plans"]
    if "disk" in plans:  # measured before plans decided
        return dict(plans["disk"])
    return dict(plans["disk, checksums" if record["checksums"] else "disk, no checksums"])


def checksum_cost(record: Record) -> float | None:
    """Return the share of a step that checksums take, None where that was not measured or nothing is moved."""
    plain = record["plans"].get("disk, no checksums")
    if plain is None or not plain["traffic_counted"]:
        return None
    return float(median(record["plans"]["disk, checksums"]["seconds"]) / median(plain["seconds"]) - 1)


def of_groups(records: list[Record]) -> Table:
    """Return a row for each network whose states outweigh its control group."""
    rows = []
    for record in records:
        assert record["exit"] == 0, record
        sizes = (record[name] for name in ("store_all", "ram", "promise", "resident_peak", "group_peak"))
        rows.append([named(record["case"]), *map(format_bytes, sizes)])
    columns = ["network", "storing everything", "group", "promised", "process", "most in the group"]
    return Table("**States on a disk, in a control group**", columns, rows)


def of_streams(records: list[Record]) -> Table:
    """Return a row for each network that is larger than its control group."""
    rows = []
    for record in records:
        assert record["same_bits"], record
        sizes = [record["disk"][0]["parameters_and_moments"]]
        sizes += [record[name] for name in ("ram", "promise", "resident_peak", "group_peak")]
        rows.append(
            [
                named([int(number) for number in record["case"].split(",")]),
                *map(format_bytes, sizes),
                f"{record['ratio']:.2f} ×",
                f"{record['predicted_over_measured']:.2f} ×",
                format_bytes(record["disk"][-1]["traffic_counted"]),
            ]
        )
    columns = ["network", "parameters and moments", "group", "promised", "process", "most in the group"]
    return Table("**Parameters and moments on a disk**", [*columns, "time", "predicted", "moved"], rows)


# Sentences ---------------------------------------------------------------------------------------------------------


def of_checksums() -> str:
    """Tell what checksums cost."""
    records = [record for record in load("measure_disk")["records"] if "plans" in record and not record["throttle"]]
    costs = [cost for record in records if (cost := checksum_cost(record)) is not None]
    if not costs:
        return "What checksums cost a step has not been measured on a quiet machine."
    return (
        f"Checksums added {min(costs):+.1%} to {max(costs):+.1%} to a step (steps with and without them in turns, "
        f"{len(costs)} networks, a disk that is not throttled)."
    )


def of_streaming() -> str:
    """Tell what a run took that outweighs its memory."""
    record = streaming()
    if record is None:
        return (
            "A network whose parameters and moments outweigh its control group: `scripts/measure_streaming.py` trains "
            "one there and in memory, in turns, and compares the bits. It has not been run on a quiet machine."
        )
    network = named([int(number) for number in record["case"].split(",")])
    first, kills = record["disk"][0], record["kills"]
    return (
        f"{network}, with Adam, whose parameters and moments take {format_bytes(first['parameters_and_moments'])}, in "
        f"a control group of {format_bytes(record['ram'])}, page cache and all ([table](tables/streaming.md)): the "
        f"process took {format_bytes(record['resident_peak'])} where {format_bytes(record['promise'])} were promised, "
        f"moved the {format_bytes(first['traffic'])} a step that were planned, and a step took {record['ratio']:.2f} "
        f"times the one in memory. It was killed {'once' if kills == 1 else f'{kills} times'} in "
        f"{record['steps']} steps, resumed, and ended with the bits of the run in memory."
    )


if __name__ == "__main__":
    main()
