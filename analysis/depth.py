"""Draw how networks of 1000 layers learn, residual and plain, within a share of the activations.

Reads docs/data/train_deep.json, writes docs/figures/depth.{svg,png} and docs/tables/depth.md.
Run: python -m analysis.depth
"""

from matplotlib.figure import Figure

from analysis.drawing import Record, caption, load, save, save_tables
from lowmem.common.tables import Table
from lowmem.plots.lettering import set_marks
from lowmem.plots.style import house_style, legend_above, looks, new_figure, set_title
from lowmem.units import format_bytes

TITLES = {"digits": "digits (shipped)", "mnist": "MNIST"}


def main() -> None:
    """Draw the figure and write the table."""
    data = load("train_deep")
    save(drawn(data["records"]), "depth", caption(data))
    save_tables([table(data["records"])], "depth", caption(data))


def drawn(records: list[Record]) -> Figure:
    """Return accuracy on held-out samples by epoch, a panel for each data set."""
    shown = [record for record in records if record["budget"] is not None]
    sets = list(dict.fromkeys(record["set"] for record in shown))
    names = looks([record["name"] for record in shown])
    with house_style():
        figure, panels = new_figure(4.6 * len(sets), 4, len(sets))
        for axes, name in zip(panels, sets, strict=True):
            own = [record for record in shown if record["set"] == name]
            for record in own:
                accuracy = [epoch["accuracy"] for epoch in record["measured"]["curve"]]
                look, epochs = names[record["name"]], range(1, len(accuracy) + 1)
                axes.plot(
                    epochs,
                    accuracy,
                    color=look.colour,
                    linestyle=look.line,
                    marker=look.marker,
                    markersize=5,
                    label=named(record["name"], shown),
                )
            set_title(axes, f"{TITLES[name]}: {own[0]['layers']} layers of {own[0]['width']}", 3.6)
            axes.set_xlabel("epoch (linear scale)")
            axes.set_ylim(0, 1.02)
            longest = max(len(record["measured"]["curve"]) for record in own)
            set_marks(axes.xaxis, *axes.get_xlim(), 3.4, whole=True, among=range(0 if longest > 5 else 1, longest + 1))
            set_marks(axes.yaxis, 0, 1.02, 2.8, lambda share: f"{100 * share:.0f} %")
        panels[0].set_ylabel("accuracy on held-out\nsamples (linear scale)")
        legend_above(figure)
    return figure


def named(name: str, records: list[Record]) -> str:
    """Return a network's name with where it ended on each data set."""
    ends = [
        f"{record['measured']['curve'][-1]['accuracy']:.1%} on {TITLES[record['set']].partition(' ')[0]}"
        for record in records
        if record["name"] == name
    ]
    return f"{name}: {', '.join(ends)}"


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
