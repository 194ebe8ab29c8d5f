"""Draw how networks of 1000 layers learn, residual and plain, within a share of the activations.

Reads docs/data/train_deep.json, writes docs/figures/depth.{svg,png} and docs/tables/depth.md.
Run: python -m analysis.depth
"""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from analysis.drawing import Record, caption, load, save, save_tables
from lowmem.plots.style import house_style, looks
from lowmem.tables import Table
from lowmem.units import format_bytes

TITLES = {"digits": "digits (shipped)", "mnist": "MNIST"}


def main() -> None:
    """Draw the figure and write the table."""
    data = load("train_deep")
    save(drawn(data["records"]), "depth", caption(data))
    save_tables([table(data["records"])], "depth", caption(data))


def drawn(records: list[Record]) -> Figure:
    """Return accuracy on held-out samples by epoch, a panel for each data set."""
    sets = list(dict.fromkeys(record["set"] for record in records))
    names = looks([record["name"] for record in records])
    with house_style():
        figure = Figure(figsize=(4.2 * len(sets), 3.4), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(sets), squeeze=False, sharey=True)[0], sets, strict=True):
            own = [record for record in records if record["set"] == name and record["budget"] is not None]
            for record in own:
                look = names[record["name"]]
                accuracy = [epoch["accuracy"] for epoch in record["measured"]["curve"]]
                label = f"{record['name']}: {accuracy[-1]:.1%}"
                axes.plot(
                    range(1, len(accuracy) + 1),
                    accuracy,
                    color=look.colour,
                    linestyle=look.line,
                    marker=look.marker,
                    label=label,
                )
            first = own[0]
            axes.set_title(f"{TITLES[name]}, {first['layers']} layers of {first['width']}, {first['budget']}")
            axes.set_xlabel("epoch")
            axes.set_ylim(0, 1)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.set_major_formatter(PercentFormatter(1))
            axes.legend(loc="center right")
        figure.axes[0].set_ylabel("accuracy on held-out samples")
    return figure


def table(records: list[Record]) -> Table:
    """Return what each training took and reached."""
    rows = []
    for record in records:
        its = record["measured"]
        seconds = sorted(epoch["seconds"] for epoch in its["curve"])[len(its["curve"]) // 2]
        rows.append(
            [
                TITLES[record["set"]],
                record["name"],
                f"{its['curve'][-1]['accuracy']:.2%}",
                f"{format_bytes(its['arena_bytes'])} of {format_bytes(its['store_all_bytes'])}",
                f"{format_bytes(its['peak_bytes'])} of {format_bytes(its['stored_peak_bytes'])}",
                f"{its['flop_factor']:.2f}",
                f"{seconds:.1f}",
            ]
        )
    headings = ["data", "layers", "held-out accuracy", "activations", "all of training", "FLOP factor", "s an epoch"]
    first = records[0]
    return Table(f"{first['layers']} layers, relu, Adam, cosine", headings, rows, "")


if __name__ == "__main__":
    main()
