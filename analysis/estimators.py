"""Tables of lowmem's scikit-learn estimators beside scikit-learn's MLP.

Reads docs/data/compare_sklearn.json, writes docs/tables/sklearn.md. Run: python -m analysis.estimators
"""

from statistics import mean, median

from analysis.drawing import Record, caption, load, save_tables
from lowmem.common.tables import Table

READING = (
    "Score: accuracy, or R² of regression, on the quarter of the samples held out; time: the processor's, of the fit; "
    "memory of a fit: what Python and NumPy allocate (tracemalloc) in an epoch. Of the deep network memory is that of "
    "the whole process (VmHWM), libraries included, and time a ratio to scikit-learn's with the same solver."
)


def main() -> None:
    """Write both tables."""
    data = load("compare_sklearn")
    fits = [record for record in data["records"] if "data" in record]
    deep = [record for record in data["records"] if "data" not in record]
    save_tables([scores(fits), depths(deep)], "sklearn", f"{READING}\n{caption(data)}")


def scores(records: list[Record]) -> Table:
    """Return a row for each data set: both libraries' scores over the seeds, and ours relative to theirs."""
    rows = []
    for name in dict.fromkeys(record["data"] for record in records):
        ours, theirs = (
            [record for record in records if record["data"] == name and record["library"] == library]
            for library in ("ours", "theirs")
        )
        pairs = list(zip(ours, theirs, strict=True))
        apart = max(abs(one["score"] - other["score"]) for one, other in pairs)
        rows.append(
            [
                name,
                f"{mean(record['score'] for record in ours):.4f}",
                f"{mean(record['score'] for record in theirs):.4f}",
                f"{apart:.1g}",
                f"{median(one['cpu_seconds'] / other['cpu_seconds'] for one, other in pairs):.2f} ×",
                f"{median(record['allocated_bytes'] for record in ours) / 2**20:.2f}",
                f"{median(record['allocated_bytes'] for record in theirs) / 2**20:.2f}",
            ]
        )
    seeds = len({record["seed"] for record in records})
    columns = [
        "data",
        "score",
        "of scikit-learn",
        "differ by at most",
        "time",
        "memory (MiB)",
        "of scikit-learn (MiB)",
    ]
    return Table(f"**The same settings and {seeds} seeds: means of scores, medians of the rest**", columns, rows)


def depths(records: list[Record]) -> Table:
    """Return a row for each fit of the deep network."""
    theirs = {record["settings"]["solver"]: record for record in records if record["library"] == "theirs"}
    rows = []
    for record in records:
        settings = record["settings"]
        other = theirs[settings["solver"]]
        apart = max(abs(one / two - 1) for one, two in zip(record["losses"], other["losses"], strict=True))
        rows.append(
            [
                "lowmem" if record["library"] == "ours" else "scikit-learn",
                settings["solver"],
                str(settings.get("memory_limit") or ""),
                f"{record['peak_bytes'] / 1e6:.0f}",
                f"{record['imported_bytes'] / 1e6:.0f}",
                f"{record['flop_factor']:.2f} ×" if "flop_factor" in record else "",
                f"{record['cpu_seconds'] / other['cpu_seconds']:.2f} ×",
                f"{apart:.0e}",
            ]
        )
    settings = records[0]["settings"]
    layers, width = len(settings["hidden_layer_sizes"]), settings["hidden_layer_sizes"][0]
    title = f"**{layers} hidden layers of {width}, batch {settings['batch_size']}, float32**"
    columns = [
        "",
        "solver",
        "memory_limit",
        "process (MB)",
        "of that imports (MB)",
        "FLOPs",
        "time",
        "losses differ by",
    ]
    return Table(title, columns, rows)


if __name__ == "__main__":
    main()
