"""Tell what plans for PyTorch chains promise and keep, and their time beside checkpoint_sequential.

Reads docs/data/torch_chains.json, writes docs/tables/torch_chains.md. Run: python -m analysis.torch_chains
"""

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
    "medians of steps in turns, relative to storing everything. checkpoint_sequential: the fastest number of segments "
    "that takes no more memory than the budget; none where no number does. Every gradient had the bits of the plain "
    "model's."
)


def main() -> None:
    """Write the tables."""
    data = load("torch_chains")
    columns = ["budget", "promised", "measured", "gap", "time", "checkpoint_sequential", "plan over it"]
    tables = []
    for name, title in CHAINS.items():
        records = [record for record in data["records"] if record["chain"] == name]
        if records:
            whole = format_bytes(records[0]["store_all_bytes"])
            tables.append(Table(f"**{title}** (storing everything: {whole})", columns, [row(r) for r in records]))
    save_tables(tables, "torch_chains", f"{NOTE}\n{caption(data)}")


def row(record: Record) -> list[str]:
    """Return what one budget took."""
    times = {name: side["median"] for name, side in record["times"].items()}
    plain, plan = times.pop("plain"), times.pop("plan")
    best = min(times, key=times.__getitem__, default=None)
    ratio = record["measured_bytes"] / record["promised_bytes"]
    assert record["same_gradients"], record
    return [
        format_bytes(record["budget"]),
        format_bytes(record["promised_bytes"]),
        f"{format_bytes(record['measured_bytes'])} ({ratio - 1:+.2%})",
        f"{record['gap']:.1%}",
        f"{plan / plain:.3f} ×",
        "none" if best is None else f"{times[best] / plain:.3f} × ({best})",
        "" if best is None else f"{plan / times[best]:.3f} ×",
    ]


if __name__ == "__main__":
    main()
