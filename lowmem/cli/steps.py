"""What a step of `lowmem train` does with learning rate and gradients: flags, and the rate that they describe."""

import argparse
from typing import TYPE_CHECKING

from lowmem.cli.options import given
from lowmem.errors import InputError

if TYPE_CHECKING:
    from lowmem.nn.optimizers import Optimizer
    from lowmem.training.learning_rate import LearningRate


def add_steps(group: argparse._ArgumentGroup) -> None:
    """Add the flags that say what a step does with the learning rate and the gradients."""
    group.add_argument(
        "--lr", type=float, metavar="F", help="learning rate (default: 0.001 for adam and adamw, else 0.01)"
    )
    group.add_argument(
        "--lr-schedule", metavar="NAME", help="how the rate changes: constant, step or cosine (default constant)"
    )
    group.add_argument(
        "--lr-every", type=int, metavar="N", help="with --lr-schedule step: steps after which the rate falls"
    )
    group.add_argument(
        "--lr-factor",
        type=float,
        default=0.1,
        metavar="F",
        help="with --lr-schedule step: what the rate is multiplied by when it falls (default 0.1)",
    )
    group.add_argument(
        "--warm-up", type=int, default=0, metavar="N", help="number of first steps in which the rate rises (default 0)"
    )
    group.add_argument(
        "--weight-decay", type=float, default=0.0, metavar="F", help="weight decay of the optimizer (default 0)"
    )
    group.add_argument("--clip-value", type=float, metavar="F", help="cut every gradient to the range from -F to F")
    group.add_argument(
        "--clip-norm", type=float, metavar="F", help="cut the norm of all gradients together to F; all are kept for it"
    )
    group.add_argument(
        "--clip-twice",
        action="store_true",
        help="with --clip-norm: run each step twice instead of keeping all gradients",
    )
    group.add_argument(
        "--non-finite",
        default="stop",
        metavar="WHAT",
        help="if the loss is NaN or infinite: stop the run, or skip the step (default stop)",
    )


def schedule_of(arguments: argparse.Namespace, optimizer: "Optimizer", steps: int) -> "LearningRate | None":
    """Return the learning rate that the flags describe, None if they describe none. steps: of an epoch."""
    from lowmem.training.learning_rate import LearningRate

    if arguments.lr_every is not None and arguments.lr_schedule != "step":
        raise InputError("--lr-every goes with --lr-schedule step; give that too.")
    if arguments.lr_schedule == "step" and arguments.lr_every is None:
        raise InputError("--lr-schedule step needs --lr-every N, the steps after which the rate falls; give that too.")
    if arguments.lr_schedule is None and not arguments.warm_up:
        return None
    return LearningRate(
        optimizer.lr,
        given(arguments.lr_schedule, "constant"),
        warm_up=arguments.warm_up,
        every=arguments.lr_every,
        factor=arguments.lr_factor,
        steps=arguments.epochs * steps,
    )
