"""`lowmem evaluate`: loss and scores of a saved run on a data set, which is read in blocks."""

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lowmem.cli.options import add_json, add_network_disk
from lowmem.cli.outputs import input_file
from lowmem.cli.samples import add_data, add_part, options_of_run, say_remarks
from lowmem.common.tables import Table
from lowmem.errors import InputError
from lowmem.units import format_loss

if TYPE_CHECKING:
    from lowmem.network.architecture import Architecture
    from lowmem.runtime.scores import ClassScores, NumberScores

HELP = "Measure loss and scores of a saved run on a data set."

MOST = 30
"""Classes whose scores are printed, at most; --json has those of all."""

SHOWN = 16
"""Classes for which the confusion matrix is printed, at most; --json has every one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("run", type=input_file, metavar="RUN", help="the saved run, as lowmem train --save writes it")
    group = parser.add_argument_group("data")
    add_data(group, default=None)
    add_part(group)
    add_network_disk(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate a saved run, and print loss and scores."""
    from lowmem.data.compatibility import matching
    from lowmem.data.open import open_data, part_to_use
    from lowmem.runtime.inference import Inference
    from lowmem.training.saved_run import open_run

    if arguments.data is None:
        raise InputError("--data is needed: a file or folder of samples with their targets.")
    saved = open_run(arguments.run)
    part = part_to_use(arguments.data, arguments.part)
    stream = open_data(arguments.data, arguments.targets, part=part, **options_of_run(arguments, saved))
    say_remarks(stream)
    matching(stream, saved.architecture, "the data", saved.class_names, saved.columns)
    inference = Inference(saved.network(arguments.disk))
    batches = stream.batches(min(inference.rows, len(stream)), saved.architecture, None)
    scores = _scores(saved.architecture)
    loss, accuracy = inference.evaluate(batches, scores.add)
    names = saved.class_names or [str(number) for number in range(saved.architecture.widths[-1])]
    if arguments.json:
        told = {"samples": len(stream), "loss": loss, "accuracy": accuracy}
        print(json.dumps(told | scores.to_dict(names)))
        return 0
    share = "" if accuracy is None else f"  accuracy {accuracy:.2%}"
    print(f"{stream.name}: {len(stream):,} samples  loss {format_loss(loss)}{share}")
    for table in scores.tables(names):
        print(f"\n{table}")
    return 0


class _Classes:
    """Scores of classes, gathered from outputs and labels."""

    def __init__(self, scores: "ClassScores") -> None:
        self._scores = scores

    def add(self, outputs: Any, y: Any) -> None:  # noqa: ANN401 - arrays
        """Count a batch."""
        self._scores.add(outputs.argmax(axis=1), y)

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the scores for JSON; a row of the matrix is a true class, a column what it was taken for."""
        rows = [{"class": name, **row} for name, row in zip(names, self._scores.per_class(), strict=False)]
        return {"classes": rows, "confusion": self._scores.confusion.tolist()}

    def tables(self, names: Sequence[str]) -> list[Table]:
        """Return the scores of each class, and the confusion matrix."""
        scores = list(zip(names, self._scores.per_class(), strict=False))
        shown = sorted(scores, key=lambda row: row[1]["f1"] if row[1]["f1"] is not None else 2)[:MOST]
        some = len(scores) > MOST
        rows = [
            [name, *(_share(row[key]) for key in ("precision", "recall", "f1")), f"{row['samples']:,}"]
            for name, row in (shown if some else scores)
        ]
        note = f"The {MOST} classes of lowest F1 of {len(scores)}; --json has all." if some else ""
        tables = [Table("", ["class", "precision", "recall", "F1", "samples"], rows, note)]
        if len(scores) <= SHOWN:
            counts = self._scores.confusion.tolist()
            cells = [[name, *(f"{n:,}" if n else "." for n in row)] for name, row in zip(names, counts, strict=False)]
            tables.append(Table("", ["true \\ predicted", *names[: len(scores)]], cells))
        return tables


class _Numbers:
    """Errors of numbers, gathered from outputs and targets."""

    def __init__(self, scores: "NumberScores", *, logarithm: bool) -> None:
        self._scores, self._logarithm = scores, logarithm

    def add(self, outputs: Any, y: Any) -> None:  # noqa: ANN401 - arrays
        """Count a batch; outputs of some losses are logarithms of what is predicted."""
        import numpy as np

        self._scores.add(np.exp(outputs) if self._logarithm else outputs, y)

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the scores for JSON."""
        return {"rmse": self._scores.rmse, "mae": self._scores.mae, "r2": self._scores.r2}

    def tables(self, names: Sequence[str]) -> list[Table]:
        """Return the errors."""
        r2 = self._scores.r2
        rows = [["RMSE", f"{self._scores.rmse:.6g}"], ["MAE", f"{self._scores.mae:.6g}"]]
        rows.append(["R²", "none: an output's targets are all alike" if r2 is None else f"{r2:.4f}"])
        return [Table("", ["score", ""], rows)]


class _Sides:
    """Scores of outputs that are each a yes or a no, gathered from outputs and targets of bce."""

    def __init__(self, outputs: int) -> None:
        from lowmem.runtime.scores import ClassScores

        self._each = [ClassScores.of(2) for _ in range(outputs)]

    def add(self, outputs: Any, y: Any) -> None:  # noqa: ANN401 - arrays
        """Count a batch: an output above 0 is a yes, a target from 1/2 on."""
        for number, scores in enumerate(self._each):
            scores.add(outputs[:, number] > 0, y.reshape(len(y), -1)[:, number] >= 0.5)

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the scores for JSON; a row of a matrix is the truth, no before yes."""
        rows = [
            {**scores.per_class()[1], "accuracy": scores.accuracy, "confusion": scores.confusion.tolist()}
            for scores in self._each
        ]
        return {"outputs": rows}

    def tables(self, names: Sequence[str]) -> list[Table]:
        """Return the scores of each output."""
        rows = []
        for number, scores in list(enumerate(self._each))[:MOST]:
            yes, counts = scores.per_class()[1], scores.confusion
            cells = [f"{counts[1, 1]:,}", f"{counts[0, 1]:,}", f"{counts[1, 0]:,}", f"{counts[0, 0]:,}"]
            shares = [_share(yes[key]) for key in ("precision", "recall", "f1")]
            rows.append([f"{number}", f"{scores.accuracy:.2%}", *shares, *cells])
        heads = ["output", "accuracy", "precision", "recall", "F1", "true yes", "false yes", "false no", "true no"]
        return [Table("", heads, rows)]


def _scores(architecture: "Architecture") -> _Classes | _Numbers | _Sides:
    """Return what gathers the scores of a network's task."""
    from lowmem.runtime.scores import ClassScores, NumberScores

    if architecture.loss_facts.labels:
        return _Classes(ClassScores.of(architecture.widths[-1]))
    if architecture.loss == "bce":
        return _Sides(architecture.widths[-1])
    return _Numbers(NumberScores(), logarithm=architecture.loss_facts.logarithm)


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"
