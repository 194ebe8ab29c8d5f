"""`lowmem resume`: continues a saved run where it stopped, to the same bits as if it had never stopped."""

import argparse
from typing import TYPE_CHECKING, Any

from lowmem.cli.options import add_json, check_budget
from lowmem.cli.outputs import check_replaced, input_file
from lowmem.cli.ranks import join
from lowmem.cli.samples import open_samples
from lowmem.cli.session import add_run, check_files, load_printing, run_epochs
from lowmem.common.checks import number, positive
from lowmem.errors import BudgetError, InputError

if TYPE_CHECKING:
    from lowmem.training.trainer import Trainer

TEXT, NUMBER = (str, type(None)), (int, type(None))
NEEDED: dict[str, tuple[type, ...]] = {
    **{"data": (str,), "targets": TEXT, "target": TEXT, "held_out": (float, type(None)), "stream": (bool,)},
    **{"shuffle_rows": NUMBER, "standardise": (bool,), "seed": (int,), "epochs": (int,), "save_every": TEXT},
    **{"journal": TEXT, "patience": NUMBER, "ram": TEXT, "weights": TEXT, "save": TEXT},
}
"""The flags of `lowmem train` that a saved run must hold to be continued, and their types."""

LATER: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("features", "ignore", "header", "task", "validation", "splitting", "patience_metric"), TEXT),
    **{"one_hot": (bool, type(None)), "min_improvement": (float, int, type(None)), "html": TEXT},
}
"""Flags that runs of earlier versions do not know, and their types."""

HELP = "Continue a saved run where it stopped."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("run", type=input_file, metavar="RUN", help="the saved run, as lowmem train --save writes it")
    group = parser.add_argument_group("what may change")
    group.add_argument(
        "--epochs", type=int, metavar="N", help="epochs in all, those done included (default: as before)"
    )
    group.add_argument("--more", type=int, metavar="N", help="epochs to train now, in place of --epochs")
    group.add_argument("--lr", type=float, metavar="F", help="constant learning rate from here on")
    group.add_argument("--data", metavar="WHAT", help="where the training data are now (default: as before)")
    group.add_argument("--targets", metavar="PATH", help="where the file with the targets is now (default: as before)")
    group.add_argument("--budget", metavar="SIZE", help="new budget; the results have the same bits")
    group.add_argument("--strategy", metavar="NAME", help="new strategy; the results have the same bits")
    group.add_argument("--disk", metavar="DIR", help="folder on a disk, in place of that of the run; none for no disk")
    group.add_argument("--disk-limit", metavar="SIZE", help="what the file on the disk may take")
    group.add_argument("--engine", metavar="NAME", help="new engine; the results agree within rounding")
    group.add_argument("--threads", type=int, metavar="N", help="new number of threads; agrees within rounding")
    add_run(group)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Continue a run, and print the report."""
    from lowmem.measure.expected import Expected
    from lowmem.training.saved_run import open_run
    from lowmem.training.trainer import Trainer

    check_budget(arguments.budget)
    group = join()
    saved = open_run(arguments.run)
    names = ("budget", "ram", "strategy", "engine", "threads", "disk", "disk_limit")
    changes = {name: getattr(arguments, name) for name in names} | {"schedule": _rate(arguments.lr)}
    flags = _flags(arguments, saved.notes)
    data = open_samples(flags, saved)
    check_files(flags, data, arguments.run)
    check_replaced(flags.save, saved.architecture, data[0], force=arguments.force, own=arguments.run)
    changes = {name: value for name, value in changes.items() if value is not None}
    if arguments.disk == "none":
        changes |= {"disk": None, "disk_limit": None}
    load_printing()
    expected = Expected(*data, flags.patience is not None)
    try:
        trainer = Trainer.of_run(saved, group=group, expected=expected, **changes)
    except BudgetError as error:  # of what a trainer takes, this command has no flag for one
        error.advice = tuple(one for one in error.advice if "clip_twice" not in str(one))
        raise
    return run_epochs(trainer, data, _until(arguments, trainer), flags, None)


def _rate(given: float | None) -> float | None:
    """Return the rate of --lr, None if there is none. Raises `InputError` for what is no rate."""
    return None if given is None else number("--lr", given)


def _until(arguments: argparse.Namespace, trainer: "Trainer") -> int:
    """Return the number of epochs after which the run ends. Raises `InputError` if it has as many."""
    done, planned = trainer.epochs_done, trainer.epochs_planned
    if arguments.more is not None:
        if arguments.epochs is not None:
            raise InputError("--epochs says how many epochs there are in all, --more how many come now; give one.")
        return done + positive("--more", arguments.more)
    until = planned if arguments.epochs is None else positive("--epochs", arguments.epochs)
    if until <= done:
        share = "all of its " if done >= planned else ""
        raise InputError(
            f"{arguments.run} has {share}{done} epochs; --epochs {done + 1} or more goes on. --more N trains N more."
        )
    return until


def _flags(arguments: argparse.Namespace, notes: dict[str, Any]) -> argparse.Namespace:
    """Return the flags that the run was begun with, replaced by those given now."""
    earlier = notes.get("flags")
    types = NEEDED | LATER
    if not isinstance(earlier, dict) or not all(type(earlier.get(name)) in kinds for name, kinds in types.items()):
        raise InputError(
            f"{arguments.run} was not saved by lowmem train, so where its data are is not known. Use "
            "lowmem.Trainer.resume(path) in Python."
        )
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    names = ("save_every", "journal", "patience", "ram", "weights", *LATER)
    defaults = {"save": arguments.run, **dict.fromkeys(names)}
    flags = defaults | {name: value for name, value in earlier.items() if value is not None or name not in defaults}
    return argparse.Namespace(**(dict.fromkeys(NEEDED) | flags | given))
