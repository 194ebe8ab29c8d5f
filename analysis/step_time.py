"""Draw and tabulate the time of a training step: over its floor, beside PyTorch's, and against memory.

Reads docs/data/benchmark_step.json, writes docs/figures/step_time.{svg,png} and docs/tables/step_time.md.
Run: python -m analysis.step_time
"""

from collections.abc import Iterator
from itertools import groupby, pairwise
from statistics import median

from analysis.drawing import Record, caption, load, save, save_tables
from analysis.peers import setting
from lowmem.common.tables import Table
from lowmem.plots import Point, frontier
from lowmem.units import format_bytes

SERIES = {
    "lowmem": "lowmem",
    "PyTorch": "PyTorch, everything stored",
    "checkpoint_sequential": "PyTorch, checkpoint_sequential",
}
"""Names in the legend."""

FLOOR = (
    "Elapsed time of a step; the floor is the time of its matrix products alone, back to back, measured in turns with "
    "lowmem in one process. With all states: the same products, every layer with a state of its own, as a step that "
    "stores everything must, and nothing else. Spread: first to third quartile of the turns' ratios."
)
BESIDE = (
    "PyTorch in fresh processes of its own, alternately, with its default allocator. Spread: the rounds. Products "
    "alone: the time of a step's matrix products in PyTorch's BLAS over that in NumPy's."
)
MEMORY = (
    "Memory is resident (VmHWM) above the process's floor, parameters included. PyTorch that stores everything has "
    "its default allocator, which may hold more than is in use. checkpoint_sequential at its best in memory: "
    "MALLOC_MMAP_THRESHOLD_=1048576, parameters updated in hooks."
)
DRAWN = (
    "Drawn: of lowmem the arena of the plan, of PyTorch the memory less the parameters. Fresh processes, in each of "
    "which the step takes turns with the matrix products of lowmem's."
)


def main() -> None:
    """Draw the figure and write the tables."""
    data = load("benchmark_step")
    steps, points = split(data["records"])
    tables = [over_floor(steps), against_pytorch(steps)]
    note = f"{FLOOR} {BESIDE} {medians(steps)}"
    if points:
        tables.append(at_no_more_memory(points))
        tables.append(settings(points))
        note = f"{note} {MEMORY}"
        figure = frontier(
            list(drawn(points)),
            title=f"{network(points[0])}, {points[0]['activation']}, SGD",
            memory_label="arena; of PyTorch, memory less parameters (MiB)",
            compute_label="step time, its matrix products = 1",
            relative=False,
        )
        save(figure, "step_time", f"{DRAWN} {MEMORY}\n{caption(data)}")
    save_tables(tables, "step_time", f"{note}\n{caption(data)}")


def medians(steps: list[Record]) -> str:
    """Say where the middle of both tables is, of plain networks."""
    plain = [record for record in steps if is_plain(record)]
    over = median(record["over_floor"]["median"] for record in plain)
    beside = median(record["torch_over_lowmem"]["median"] for record in plain)
    theirs, own = (median(map(ratio, plain)) for ratio in (products, over_own_products))
    return (
        f"In the median of {len(plain)} plain networks: {over:.2f} over the floor, PyTorch / lowmem {beside:.2f}, "
        f"products in PyTorch's BLAS over those in NumPy's {theirs:.2f}, PyTorch's step over its own products "
        f"{own:.2f}."
    )


def split(records: list[Record]) -> tuple[list[Record], list[Record]]:
    """Return the records of steps, and those of the frontier."""
    steps, points = ([record for record in records if record["part"] == part] for part in ("step", "frontier"))
    return steps, points


def network(record: Record) -> str:
    """Name a network and its batch."""
    return f"{record['hidden']} × {record['width']}, batch {record['batch']}"


def is_plain(record: Record) -> bool:
    """Say whether a record is of a step of a plain network with SGD."""
    return not (record.get("residual") or record.get("inference") or "optimizer" in record)


def variant(record: Record) -> str:
    """Name the activation of a record, and what else sets it apart."""
    if record.get("residual"):
        return f"{record['activation']}, residual, LayerNorm, dropout"
    if record.get("inference"):
        return f"{record['activation']}, inference"
    return f"{record['activation']}, {record['optimizer']}" if "optimizer" in record else str(record["activation"])


def over_floor(steps: list[Record]) -> Table:
    """Return a row for each plain network: the floor, and over it the floor with all states and lowmem."""
    steps = [record for record in steps if is_plain(record)]
    names = list(dict.fromkeys(record["activation"] for record in steps))
    rows = []
    for title, group in groupby(steps, key=network):
        records = {record["activation"]: record for record in group}
        floors = [record["floor"]["seconds"] for record in records.values()]
        kept = median(
            record["floor_with_states"]["seconds"] / record["floor"]["seconds"] for record in records.values()
        )
        row = [title, milliseconds(median(floors)), f"{kept:.3f} ×"]
        for name in names:
            found = records[name]["over_floor"] if name in records else None
            row += ["", ""] if found is None else [f"{found['median']:.3f} ×", spread(found["quartiles"])]
        rows.append(row)
    columns = [column for name in names for column in (name, "spread")]
    return Table(
        "**Over the floor: lowmem's step, its matrix products = 1**",
        ["", "products", "with all states", *columns],
        rows,
    )


def with_states(records: list[Record]) -> float:
    """Return the time of one network's products with a state for each layer, over that of its products alone."""
    return float(median(record["floor_with_states"]["seconds"] / record["floor"]["seconds"] for record in records))


def against_pytorch(steps: list[Record]) -> Table:
    """Return a row for each network and activation: both, elapsed and in processor time, and whether they agree."""
    rows = []
    for record in steps:
        ours, theirs, ratio = record["lowmem"], record["torch"], record["torch_over_lowmem"]
        rows.append(
            [
                network(record),
                variant(record),
                milliseconds(ours["seconds"]),
                milliseconds(theirs["seconds"]),
                f"{ratio['median']:.2f} ×",
                spread(ratio["of_rounds"]),
                f"{theirs['cpu_seconds'] / ours['cpu_seconds']:.2f} ×",
                f"{products(record):.2f} ×",
                f"{losses_apart(ours, theirs):.0e}",
            ]
        )
    columns = ["", "σ", "lowmem", "PyTorch", "PyTorch / lowmem", "spread", "CPU time", "products alone"]
    columns.append("losses differ by")
    return Table("**Against PyTorch, everything stored**", columns, rows)


def products(record: Record) -> float:
    """Return the time of a step's products in PyTorch over that of NumPy's: what their BLAS alone makes of it."""
    return float(record["torch_floor"]["seconds"] / record["floor"]["seconds"])


def over_own_products(record: Record) -> float:
    """Return the time of PyTorch's step over that of its products alone."""
    return float(record["torch"]["seconds"] / record["torch_floor"]["seconds"])


def at_no_more_memory(points: list[Record]) -> Table:
    """Return a row for each budget: lowmem, and the quickest checkpoint_sequential that takes no more memory."""
    rows = []
    for point in points:
        if point["library"] != "lowmem":
            continue
        best = best_within(point["above_floor_bytes"], points)
        row = [
            point["budget"],
            format_bytes(point["arena_bytes"]),
            format_bytes(point["above_floor_bytes"]),
            f"{floors(point):.2f} ×",
        ]
        if best is None:
            row += ["none", "", "", ""]
        else:
            row += [
                f"{best['segments']} segments",
                format_bytes(best["above_floor_bytes"]),
                f"{floors(best):.2f} ×",
                f"{floors(best) / floors(point):.2f} ×",
            ]
        rows.append(row)
    columns = ["lowmem", "arena", "memory", "over the floor", "checkpoint_sequential", "memory", "over the floor"]
    title = f"**{network(points[0])}, {points[0]['activation']}: the frontier, at no more memory**"
    return Table(title, [*columns, "PyTorch / lowmem"], rows)


def best_within(memory: float, points: list[Record]) -> Record | None:
    """Return the quickest setting of checkpoint_sequential that takes no more than so many bytes."""
    fit = [point for point in points if point.get("segments") and point["above_floor_bytes"] <= memory]
    return min(fit, key=floors, default=None)


def floors(point: Record) -> float:
    """Return the time of a step of a point over that of its products, which took turns with it."""
    return float(point["over_floor"]["median"])


def settings(points: list[Record]) -> Table:
    """Return a row for each setting of PyTorch and each budget of lowmem."""
    rows = [
        [
            point["name"],
            setting(point),
            format_bytes(point["above_floor_bytes"]),
            format_bytes(point["promised_bytes"]) if "promised_bytes" in point else "",
            milliseconds(point["seconds"]),
            f"{floors(point):.2f} ×",
            spread(point["over_floor"]["quartiles"], ".2f"),
            milliseconds(point["cpu_seconds"]),
            f"{losses_apart(points[0], point):.0e}",
        ]
        for point in points
    ]
    columns = ["", "setting", "memory", "promised", "step", "over the floor", "quartiles", "CPU time"]
    return Table("**The same, all settings**", [*columns, "losses differ by"], rows)


def drawn(points: list[Record]) -> Iterator[Point]:
    """Yield the points of the figure, in the order of their memory."""
    placed = []
    for point in points:
        parameters = 4 * sum(wide * (narrow + 1) for narrow, wide in pairwise(point["widths"]))
        size = point.get("arena_bytes", point["above_floor_bytes"] - parameters)
        placed.append(Point(SERIES[point["name"]], size / 2**20, floors(point), measured=True))
    yield from sorted(placed, key=lambda point: point.memory)


def losses_apart(one: Record, other: Record) -> float:
    """Return by how much the losses of the same steps differ at most, relative to themselves."""
    return max(abs(float(mine / theirs) - 1) for mine, theirs in zip(one["losses"], other["losses"], strict=True))


def milliseconds(seconds: float) -> str:
    """Write a time for people."""
    return f"{1e3 * seconds:,.3g} ms" if seconds < 1 else f"{1e3 * seconds:,.0f} ms"


def spread(numbers: list[float], form: str = ".3f") -> str:
    """Write the ends of a range of numbers."""
    return f"{min(numbers):{form}} to {max(numbers):{form}}"


if __name__ == "__main__":
    main()
