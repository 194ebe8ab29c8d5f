"""`lowmem resume`: continues a saved run where it stopped, to the same bits as if it had never stopped."""

import argparse
from typing import Any

from lowmem.cli.options import add_json, check_budget
from lowmem.cli.ranks import join
from lowmem.cli.samples import open_samples
from lowmem.cli.session import add_run, run_epochs
from lowmem.errors import InputError

TEXT, NUMBER = (str, type(None)), (int, type(None))
NEEDED: dict[str, tuple[type, ...]] = {
    **{"data": (str,), "targets": TEXT, "target": TEXT, "held_out": (float, type(None)), "stream": (bool,)},
    **{"shuffle_rows": NUMBER, "standardise": (bool,), "seed": (int,), "epochs": (int,), "save_every": TEXT},
    **{"journal": TEXT, "patience": NUMBER, "ram": TEXT, "weights": TEXT, "save": TEXT},
}
"""The flags of `lowmem train` that a saved run must hold to be continued, and their types."""

LATER = ("features", "ignore", "header", "task", "validation", "splitting", "one_hot")
"""Flags that runs of earlier versions do not know."""

HELP = "Continue a saved run where it stopped."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("run", metavar="RUN", help="the saved run, as lowmem train --save writes it")
    group = parser.add_argument_group("what may change")
    group.add_argument(
        "--epochs", type=int, metavar="N", help="epochs in all, those done included (default: as before)"
    )
    group.add_argument("--data", metavar="WHAT", help="where the training data are now (default: as before)")
    group.add_argument("--targets", metavar="PATH", help="where the file with the targets is now (default: as before)")
    group.add_argument("--budget", metavar="SIZE", help="new budget; the results have the same bits")
    group.add_argument("--strategy", metavar="NAME", help="new strategy; the results have the same bits")
    add_run(group)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Continue a run, and print the report."""
    from lowmem.training.saved_run import open_run
    from lowmem.training.trainer import Trainer

    check_budget(arguments.budget)
    group = join()
    saved = open_run(arguments.run)
    changes = {name: getattr(arguments, name) for name in ("budget", "ram", "strategy")}
    flags = _flags(arguments, saved.notes)
    data = open_samples(flags, saved)
    changes = {name: value for name, value in changes.items() if value is not None}
    trainer = Trainer.of_run(saved, group=group, **changes)
    until = flags.epochs if arguments.epochs is not None else saved.position.until
    if until <= trainer.epochs_done:
        raise InputError(
            f"{arguments.run} has all of its {trainer.epochs_done} epochs; --epochs {trainer.epochs_done + 1} or more "
            "goes on."
        )
    return run_epochs(trainer, data, until - trainer.epochs_done, flags, None)


def _flags(arguments: argparse.Namespace, notes: dict[str, Any]) -> argparse.Namespace:
    """Return the flags that the run was begun with, replaced by those given now."""
    earlier = notes.get("flags")
    if not isinstance(earlier, dict) or not all(type(earlier.get(name)) in kinds for name, kinds in NEEDED.items()):
        raise InputError(
            f"{arguments.run} was not saved by lowmem train, so where its data are is not known. Use "
            "lowmem.Trainer.resume(path) in Python."
        )
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    names = ("save_every", "journal", "patience", "ram", "weights", *LATER)
    defaults = {"save": arguments.run, **dict.fromkeys(names)}
    flags = defaults | {name: value for name, value in earlier.items() if value is not None or name not in defaults}
    return argparse.Namespace(**(dict.fromkeys(NEEDED) | flags | given))
