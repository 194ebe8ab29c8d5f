"""`lowmem train`: learn a data set inside a budget, and say what was promised and what was measured."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from lowmem.cli.options import add_calibration, add_json, add_network, add_planning, architecture, cost_model
from lowmem.errors import InputError
from lowmem.planning import plan

if TYPE_CHECKING:
    from lowmem.architecture import Architecture
    from lowmem.data import Dataset
    from lowmem.meter import TracedPeak
    from lowmem.trainer import Epoch

HELP = "Train a network on a data set inside a memory budget."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    group = parser.add_argument_group("data and training")
    group.add_argument("--data", default="digits", metavar="WHAT", help="digits, or a .npz, .npy, idx file or folder")
    group.add_argument("--targets", metavar="PATH", help="the file with y, where the data file holds x alone")
    group.add_argument("--held-out", type=float, default=0.2, metavar="F", help="share held out for validation (0.2)")
    group.add_argument("--epochs", type=int, default=10, metavar="N", help="passes over the data (default 10)")
    group.add_argument("--lr", type=float, metavar="F", help="learning rate (default: the optimizer's usual one)")
    group.add_argument("--weight-decay", type=float, default=0.0, metavar="F", help="weight decay (default 0)")
    group.add_argument("--init", metavar="NAME", help="initialiser (default: the one that matches the activation)")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of weights, split and order (default 0)")
    add_network(parser)
    add_planning(parser, optimizer="adam")
    add_calibration(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train, and print the report."""
    # NumPy comes in only here: `lowmem --help` and `lowmem plan` do without.
    import lowmem.trainer  # noqa: F401 - what importing and printing load is not training's
    from lowmem.meter import TracedPeak

    train, held_out = _data(arguments)
    network = architecture(arguments, train.features, train.classes, "cross_entropy" if train.labels else "mse")
    options: dict[str, Any] = {
        "strategy": arguments.strategy,
        "micro_batch": arguments.micro_batch,
        "segments": arguments.segments,
        "slots": arguments.slots,
        "costs": cost_model(arguments, network.dtype),
    }
    # A budget that cannot work is refused here, before the weights are made; and what planning and printing import is
    # not counted as training's.
    str(plan(network, arguments.batch, arguments.budget, arguments.optimizer, **options))
    traced = TracedPeak()
    try:
        return _train(arguments, network, train, held_out, options, traced)
    finally:
        traced.stop()


def _train(
    arguments: argparse.Namespace,
    network: "Architecture",
    train: "Dataset",
    held_out: "Dataset",
    options: dict[str, Any],
    traced: "TracedPeak",
) -> int:
    """Train inside the budget, under a trace of the first epoch's allocations."""
    from lowmem.nn.mlp import MLP
    from lowmem.nn.optimizers import make_optimizer
    from lowmem.trainer import Trainer

    say = (lambda text: print(text, file=sys.stderr)) if arguments.json else print
    optimizer = make_optimizer(arguments.optimizer, lr=arguments.lr, weight_decay=arguments.weight_decay)
    mlp = MLP(network, arguments.seed, initialiser=arguments.init)
    trainer = Trainer(
        mlp, optimizer, batch_size=arguments.batch, budget=arguments.budget, seed=arguments.seed, **options
    )
    epochs = trainer.epochs(train, arguments.epochs, held_out)
    traced.restart()  # planning, which may take memory of its own for a moment, is over; all is allocated
    say(str(trainer.plan))
    say(f"\n{train.name}: {len(train):,} samples to train on, {len(held_out):,} held out\n")
    peak, start = 0, perf_counter()
    for epoch in epochs:
        if epoch.number == 1:
            peak = traced.stop()  # one epoch has seen every kind of step; the others run untraced
        left = (perf_counter() - start) / epoch.number * (arguments.epochs - epoch.number)
        say(_line(epoch, arguments.epochs, left))
    report = replace(trainer.report(), traced_peak=peak)
    say(f"\n{report}")
    if arguments.json:
        print(json.dumps(report.to_dict()))
    return 0


def _line(epoch: "Epoch", count: int, left: float) -> str:
    """Write one epoch for people."""
    parts = [f"epoch {epoch.number:>{len(str(count))}}/{count}", f"loss {epoch.loss:.4f}"]
    if epoch.validation_loss is not None:
        parts.append(f"held-out loss {epoch.validation_loss:.4f}")
    if epoch.accuracy is not None:
        parts.append(f"accuracy {epoch.accuracy:6.2%}")
    parts.append(f"{epoch.samples_per_second:,.0f} samples/s")
    if epoch.number < count:
        parts.append(f"{left:.0f} s left")
    return "  ".join(parts)


def _data(arguments: argparse.Namespace) -> tuple["Dataset", "Dataset"]:
    """Return training and held-out data: two parts of a folder that has them, else a split."""
    from lowmem.data import load, split

    if Path(arguments.data).is_dir():
        return load(arguments.data), load(arguments.data, part="test")
    whole = load(arguments.data, arguments.targets)
    if not 0 < arguments.held_out < 1:
        raise InputError(f"--held-out must be a share between 0 and 1, such as 0.2; got {arguments.held_out:g}.")
    train, held_out = split(whole, arguments.held_out, arguments.seed)
    return whole.take(train), whole.take(held_out)
