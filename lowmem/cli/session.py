"""A training session of `lowmem train` and `lowmem resume`: epochs, signals, saves, and the report at the end."""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Any

from lowmem.cli.console import OutputError
from lowmem.cli.options import given
from lowmem.cli.outputs import PAGES, check_output, write_output
from lowmem.cli.progress import Progress, epoch_line
from lowmem.cli.wording import flag
from lowmem.common.checks import as_path
from lowmem.common.files import check_apart
from lowmem.errors import InputError, RunError, StoppedError
from lowmem.measure.learning import EpochRecord
from lowmem.training.signals import INTERRUPT, SIGNALS
from lowmem.units import format_bytes

if TYPE_CHECKING:
    from lowmem.data.samples import Samples, Targets
    from lowmem.measure.memory import TracedPeak
    from lowmem.planning.plan import Plan
    from lowmem.training.loop import Epoch
    from lowmem.training.trainer import Trainer


def add_run(group: argparse._ArgumentGroup) -> None:
    """Add the flags of a session, which may differ when a run is resumed."""
    group.add_argument(
        "--ram", metavar="SIZE", help="cap for the whole process, such as 128MB, or auto; data are read in blocks then"
    )
    group.add_argument(
        "--save", metavar="FILE", help="save the run after each epoch, and when Ctrl-C, SIGTERM or SIGHUP ends it"
    )
    group.add_argument(
        "--save-every", metavar="N", help="save every N steps, or a time such as 30s or 10min (default: each epoch)"
    )
    group.add_argument("--journal", metavar="FILE", help="append a line of JSON to FILE for each epoch and event")
    group.add_argument("--html", metavar="FILE", help="write the report with figures to one HTML file")
    group.add_argument("--force", action="store_true", help="let --save replace the run of another network")
    group.add_argument(
        "--patience",
        type=int,
        metavar="N",
        help="end the run after N epochs without an improvement, and keep the weights of the best epoch",
    )
    group.add_argument(
        "--patience-metric", metavar="NAME", help="what is to improve: the held-out loss or accuracy (default loss)"
    )
    group.add_argument(
        "--min-improvement",
        type=float,
        metavar="F",
        help="what an epoch must gain to count with --patience",
    )


def _wear(plan: "Plan", steps: int) -> list[str]:
    """Return a remark on what an epoch of so many steps writes to the disk, none if it writes nothing."""
    if not plan.disk_written:
        return []
    return [
        f"an epoch writes {format_bytes(steps * plan.disk_written)} to the disk. Flash memory wears with what is "
        "written: drives are made for some hundreds of times their size"
    ]


WRITTEN = {"save_to": "save", "journal": "journal", "html": "html"}
"""What a session writes: by the keyword in Python or the flag, and where the arguments have its file."""

LARGE = 100
"""Numbers in targets of regression that are larger slow learning: outputs begin near 0, and steps are small."""


def _large_targets(targets: "Targets", loss: str) -> list[str]:
    """Return a remark on targets that are far from what outputs begin with, none if they are not or are classes."""
    if targets.labels or loss not in ("mse", "huber") or max(abs(targets.low), abs(targets.high)) <= LARGE:
        return []
    return [
        f"the targets reach from {targets.low:g} to {targets.high:g}, and a network learns such large ones slowly. No "
        "flag scales them: in the data subtract their mean, divide by their deviation, and undo that in predictions"
    ]


def check_run(arguments: argparse.Namespace) -> None:
    """Refuse flags of a new session that mean nothing without another one. Raises `InputError`."""
    for name, needs, value in (
        ("save_every", "save", "FILE"),
        ("patience_metric", "patience", "N"),
        ("min_improvement", "patience", "N"),
    ):
        if getattr(arguments, name) is not None and getattr(arguments, needs) is None:
            raise InputError(f"{flag(name)} goes with {flag(needs)} {value}; give that too.")


def check_files(
    arguments: argparse.Namespace, data: tuple["Samples", "Samples | None"], own: str | None = None
) -> None:
    """Refuse two files to write that are one, a file that is read, and a report that cannot be written.

    data: to train on, and to evaluate on. own: the run that is continued, which may be saved to the same file.

    Raises `InputError`.
    """
    written = {name: getattr(arguments, flag, None) for name, flag in WRITTEN.items()}
    paths = {name: None if path is None else as_path(name, path) for name, path in written.items()}
    check_output(paths["html"], "the report", PAGES)
    files = [file for samples in data if samples is not None for file in samples.files]
    check_apart(paths, {"data of this run": files, "the flags of --config": [getattr(arguments, "config", None)]})
    check_apart(paths | {"save_to": None}, {"the run that goes on": [own]})


def run_epochs(
    trainer: "Trainer",
    data: tuple["Samples", "Samples | None"],
    until: int,
    arguments: argparse.Namespace,
    traced: "TracedPeak | None",
    chosen: str = "",
) -> int:
    """Train, print a line for each epoch and the report, and return the exit code 0.

    data: to train on, and to evaluate after each epoch.
    until: epochs of the run in all, those done included.
    traced: measures the peak of the first epoch; None measures nothing.
    chosen: a note of what was chosen for the user.
    """
    from lowmem.data.class_names import listed

    page, (train, held_out) = getattr(arguments, "html", None), data
    say: Callable[[str], None] = (lambda text: print(text, file=sys.stderr)) if arguments.json else print
    if not trainer.speaks:
        say = lambda text: None  # noqa: E731 - another rank says it
    progress = Progress(sys.stderr if trainer.speaks else StringIO())
    before = trainer.epochs_done
    options: dict[str, Any] = {name: getattr(arguments, name) for name in ("save_every", "patience", "journal")}
    options |= {"patience_metric": given(arguments.patience_metric, "loss"), "save_to": arguments.save, "until": until}
    options |= {"min_improvement": arguments.min_improvement or 0.0, "on_step": progress.step}
    epochs = trainer.epochs(train, None, held_out, on_evaluation=progress.evaluation, **options)
    if traced is not None:
        traced.restart()  # planning is over, and its own peak does not count; everything is allocated
    say(str(trainer.plan))
    classes = "" if train.class_names is None else f"; classes {listed(train.class_names)}"
    rest = 0 if held_out is None else len(held_out)
    say(f"\n{train.name}: {len(train):,} samples to train on, {rest:,} held out{classes}")
    remarks = [*train.remarks, *_wear(trainer.plan, -(-len(train) // trainer.batch_size))]
    remarks += [] if before else _large_targets(train.targets, trainer.mlp.architecture.loss)
    notes = (chosen, *train.notes, *(f"note: {remark}" for remark in remarks))
    say("".join(f"  {note}\n" for note in notes if note))
    peak, start, learned = None, perf_counter(), []
    with _ended_early(trainer, arguments.save), progress:
        for epoch in epochs:
            if traced is not None and peak is None:
                peak = traced.stop()  # one epoch has every kind of step; the others run faster untraced
            left = (perf_counter() - start) / (epoch.number - before) * (until - epoch.number)
            learned.append(_record(epoch, trainer.steps_done))
            progress.clear()
            say(epoch_line(epoch, until, left))
    report = replace(trainer.report(), traced_peak=peak, epochs=learned)
    best = trainer.best_epoch if arguments.patience is not None else None
    if best is not None:
        say(f"the network has the weights of epoch {best}, the best of {trainer.epochs_done}")
    say(f"\n{report}")
    if not trainer.speaks:
        return 0
    if page is not None:
        from lowmem.plots import report_html

        write_output(Path(page), report_html(report).encode())
    if arguments.json:
        print(json.dumps(report.to_dict() | {"epochs_done": trainer.epochs_done, "best_epoch": best}))
    return 0


def _record(epoch: "Epoch", steps: int) -> EpochRecord:
    """Return what a report holds of an epoch. steps: done until its end."""
    return EpochRecord(
        number=epoch.number,
        steps=steps,
        loss=epoch.loss,
        validation_loss=epoch.validation_loss,
        accuracy=epoch.accuracy,
        learning_rate=epoch.learning_rate,
        seconds=epoch.seconds,
    )


def load_printing() -> None:
    """Load what prints tables: with a cap it shall be part of the process that planning measures."""
    from lowmem.common.tables import Table

    str(Table("", ("", ""), (("", ""),)))


@contextmanager
def _ended_early(trainer: "Trainer", path: str | None) -> Iterator[None]:
    """Turn signals into a `StoppedError` that says how to go on, and let an `OutputError` say so too.

    path: the file that the run is saved to; None if it is not saved.
    """
    number = signal.SIGINT

    def stop(noted: int, frame: FrameType | None) -> None:
        nonlocal number
        number = signal.Signals(noted)
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    heard = [each for each in SIGNALS if each not in INTERRUPT and signal.getsignal(each) is not signal.SIG_IGN]
    earlier = {each: signal.signal(each, stop) for each in heard if main}
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError(f"stopped by {number.name}. {_saved(trainer, path)}", signal=number) from None
    except OutputError as error:
        raise RunError(f"{error} {_saved(trainer, path)}") from None
    finally:
        for each, handler in earlier.items():
            signal.signal(each, signal.SIG_DFL if handler is None else handler)


def _saved(trainer: "Trainer", path: str | None) -> str:
    """Save a run that ends early, and return where it is and how to go on, in a sentence.

    path: the file that the run is saved to; None if it is not saved.
    """
    # In the middle of an epoch the trainer has saved already, or a step is half done.
    if path and trainer.between_epochs and trainer.alone:
        trainer.save(path)
    if trainer.save_problem is not None:
        raise trainer.save_problem from None
    saved = trainer.last_save
    return f"The run is in {saved}; go on with: lowmem resume {path}" if path and saved else "Nothing was saved."
