"""Tell what plans for PyTorch chains promise and keep, and their time beside checkpoint_sequential.

Reads docs/data/benchmark_torch_chains.json, writes docs/tables/torch_chains.md. Run: python -m analysis.torch_chains
"""

from statistics import median

from analysis.drawing import Record, caption, load, save_tables
from lowmem.common.tables import Table
from lowmem.units import format_bytes

CHAINS = {
    "mlp": "MLP, 100 x 512, gelu",
    "transformer": "24 transformer encoder layers, width 256, 8 heads, sequence 128",
    "convolutions": "20 convolutions with BatchNorm, sizes falling",
}

NOTE = (
    "Promised and measured: the most bytes that a step allocates at once, gradients of parameters included. Time: "
    "medians of steps in turns, in seconds of the processor on one thread, relative to storing everything. "
    "checkpoint_sequential: the fastest number of segments "
    "that takes no more memory than the budget; none where no number does. least possible: what the cheapest schedule "
    "could take whose checkpoints stay, over the best of these even cuts, both by the seconds of stages that were "
    "measured. Every gradient had the bits of the plain model's."
)

COLUMNS = [
    "budget",
    "promised",
    "measured",
    "gap",
    "time",
    "checkpoint_sequential",
    "plan over it",
    "plan over it, predicted",
    "least possible",
]


def main() -> None:
    """Write the tables."""
    data = load("benchmark_torch_chains")
    tables = []
    for name, title in CHAINS.items():
        records = [record for record in data["records"] if record["chain"] == name]
        if not records:
            continue
        whole = format_bytes(records[0]["store_all_bytes"])
        ratios = [ratio for ratio in map(over_even_cuts, records) if ratio is not None]
        middle = f"; median plan over checkpoint_sequential {median(ratios):.3f}" if ratios else ""
        title = f"**{title}** (storing everything: {whole}{middle})"
        tables.append(Table(title, COLUMNS, [row(record) for record in records]))
    save_tables(tables, "torch_chains", f"{NOTE}\n{caption(data)}")


def fastest(record: Record) -> tuple[str, float] | None:
    """Return the fastest number of segments that fits, with its seconds; None where none does."""
    times = {name: side["median"] for name, side in record["times"].items() if name not in ("plain", "plan")}
    return min(times.items(), key=lambda item: item[1]) if times else None


def over_even_cuts(record: Record) -> float | None:
    """Return the time of the plan over that of the fastest even cuts."""
    best = fastest(record)
    return None if best is None else float(record["times"]["plan"]["median"] / best[1])


def row(record: Record) -> list[str]:
    """Return what one budget took."""
    plain, plan = (record["times"][name]["median"] for name in ("plain", "plan"))
    best, over, even = fastest(record), over_even_cuts(record), record["even_cost"]
    ratio = record["measured_bytes"] / record["promised_bytes"]
    assert record["same_gradients"], record
    assert ratio <= 1, record
    return [
        format_bytes(record["budget"]),
        format_bytes(record["promised_bytes"]),
        f"{format_bytes(record['measured_bytes'])} ({ratio - 1:+.2%})",
        f"{record['gap']:.1%}",
        f"{plan / plain:.3f} ×",
        "none" if best is None else f"{best[1] / plain:.3f} × ({best[0]})",
        "" if over is None else f"{over:.3f} ×",
        "" if even is None else f"{record['cost'] / even:.3f} ×",
        "" if even is None else f"{record['lower_bound'] / even:.3f} ×",
    ]


if __name__ == "__main__":
    main()
