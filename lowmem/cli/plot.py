"""`lowmem plot`: draws loss, accuracy and learning rate of a run from its journal."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from lowmem.cli.options import add_json
from lowmem.cli.outputs import FIGURES, check_output, input_file, output_file, save_figure
from lowmem.common.files import check_apart
from lowmem.common.tables import Table
from lowmem.measure.learning import EpochRecord, read_journal
from lowmem.units import format_loss, format_seconds

HELP = "Draw loss, accuracy and learning rate of a run over its steps."

SHOWN = 8
"""Epochs in the table that is printed, at most."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument(
        "journal", type=input_file, metavar="JOURNAL", help="the journal, as lowmem train --journal writes it"
    )
    parser.add_argument(
        "--output",
        type=output_file,
        metavar="FILE",
        help="write the figure to FILE: .svg, .png or .pdf (default: beside the journal, with the ending .svg)",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Draw the figure, and print some of the epochs and where the figure is."""
    journal = Path(arguments.journal)
    output = journal.with_suffix(".svg") if arguments.output is None else arguments.output
    check_output(output, "the figure", FIGURES)
    check_apart({"output": output}, {"the journal": [journal]})
    epochs = read_journal(journal)

    from lowmem.plots import learning_curves

    save_figure(learning_curves(epochs, title=journal.name), output)
    if arguments.json:
        print(json.dumps({"figure": str(output), "epochs": [epoch.to_dict() for epoch in epochs]}))
    else:
        print(f"{_table(journal.name, epochs)}\n\nThe figure is in {output}.")
    return 0


def _table(name: str, epochs: Sequence[EpochRecord]) -> Table:
    """Return some epochs, the first and the last among them, and where the loss was lowest."""
    step = max(1, -(-(len(epochs) - 1) // (SHOWN - 1)))
    some = [*epochs[:-1:step], epochs[-1]]
    rows = [
        [
            f"{epoch.number}",
            f"{epoch.steps:,}",
            format_loss(epoch.loss),
            "" if epoch.validation_loss is None else format_loss(epoch.validation_loss),
            "" if epoch.accuracy is None else f"{epoch.accuracy:.2%}",
            f"{epoch.learning_rate:.3g}" if epoch.learning_rate else "",
            format_seconds(epoch.seconds) if epoch.seconds else "",
        ]
        for epoch in some
    ]
    judged = [epoch for epoch in epochs if epoch.validation_loss is not None] or epochs
    best = min(judged, key=lambda epoch: epoch.loss if epoch.validation_loss is None else epoch.validation_loss)
    what = "loss" if best.validation_loss is None else "held-out loss"
    lowest = format_loss(best.loss if best.validation_loss is None else best.validation_loss)
    heads = ["epoch", "steps", "loss", "held-out loss", "accuracy", "rate", "time"]
    return Table(name, heads, rows, f"lowest {what}: {lowest}, in epoch {best.number} of {len(epochs)}")
