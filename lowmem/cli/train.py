"""`lowmem train`: learn a data set inside a budget, and say what was promised and what was measured."""

import argparse
from typing import TYPE_CHECKING, Any, Literal

from lowmem.cli.options import add_calibration, add_json, add_network, add_planning, architecture, cost_model
from lowmem.cli.session import add_data, add_run, open_samples, run_epochs, streamed
from lowmem.errors import InputError
from lowmem.planning.choose import plan

if TYPE_CHECKING:
    from lowmem.data.samples import Samples
    from lowmem.network.architecture import Architecture
    from lowmem.nn.optimizers import Optimizer
    from lowmem.training.learning_rate import LearningRate
    from lowmem.training.trainer import Trainer

HELP = "Train a network on a data set inside a memory budget."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("--config", metavar="FILE", help="a TOML file with flags, such as epochs = 5; flags here win")
    group = parser.add_argument_group("data and training")
    add_data(group, default="digits")
    group.add_argument("--stream", action="store_true", help="read the data in blocks, not into memory")
    group.add_argument("--shuffle-rows", type=int, metavar="N", help="rows of a block that are shuffled together")
    group.add_argument("--standardise", action="store_true", help="bring features to mean 0 and deviation 1")
    group.add_argument("--held-out", type=float, default=0.2, metavar="F", help="share held out for validation (0.2)")
    group.add_argument("--epochs", type=int, default=10, metavar="N", help="passes over the data (default 10)")
    group.add_argument("--lr", type=float, metavar="F", help="learning rate (default: the optimizer's usual one)")
    group.add_argument("--lr-schedule", metavar="NAME", help="constant, step or cosine (over all steps)")
    group.add_argument("--lr-every", type=int, metavar="N", help="of a step schedule: steps until the rate falls")
    group.add_argument("--lr-factor", type=float, default=0.1, metavar="F", help="and what it is multiplied by (0.1)")
    group.add_argument("--warm-up", type=int, default=0, metavar="N", help="steps in which the rate rises (default 0)")
    group.add_argument("--weight-decay", type=float, default=0.0, metavar="F", help="weight decay (default 0)")
    group.add_argument("--clip-value", type=float, metavar="F", help="cut each gradient to this size")
    group.add_argument("--clip-norm", type=float, metavar="F", help="cut the norm of all gradients; they are gathered")
    group.add_argument("--clip-twice", action="store_true", help="run each step twice for that, and gather nothing")
    group.add_argument("--class-weights", metavar="A,B,...", help="factors for the loss of each class, or balanced")
    group.add_argument("--non-finite", default="stop", metavar="WHAT", help="when the loss is: stop (default) or skip")
    group.add_argument("--init", metavar="NAME", help="initialiser (default: the one that matches the activation)")
    group.add_argument("--gain", type=float, metavar="F", help="of --init orthogonal, such as 1.1 for deep tanh")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of weights, split and order (default 0)")
    add_run(group)
    add_network(parser)
    add_planning(parser, optimizer="adam")
    add_calibration(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train, and print the report."""
    # NumPy comes in only here: `lowmem --help` and `lowmem plan` do without.
    import lowmem.training.trainer  # noqa: F401 - what importing and printing load is not training's
    from lowmem.measure.memory import TracedPeak

    arguments.stream = streamed(arguments)
    train, held_out = open_samples(arguments)
    network = architecture(arguments, train.features, train.classes, "cross_entropy" if train.labels else "mse")
    options: dict[str, Any] = {
        "strategy": arguments.strategy,
        "micro_batch": arguments.micro_batch,
        "segments": arguments.segments,
        "slots": arguments.slots,
        "threads": arguments.threads,
        "costs": cost_model(arguments, network.dtype),
    }
    if arguments.ram is not None:
        # Tracing would take memory of the cap.
        trainer = _trainer(arguments, network, train, options)
        return run_epochs(trainer, (train, held_out), arguments.epochs, arguments, None)
    # A budget that cannot work is refused here, before the weights are made; and what planning and printing import is
    # not counted as training's.
    clips, twice = arguments.clip_norm is not None, arguments.clip_twice
    how: dict[str, Any] = {"gather": clips and not twice, "rehearse": clips and twice}
    str(plan(network, arguments.batch, arguments.budget, arguments.optimizer, **how, **options))
    traced = TracedPeak()
    try:
        trainer = _trainer(arguments, network, train, options)
        return run_epochs(trainer, (train, held_out), arguments.epochs, arguments, traced)
    finally:
        traced.stop()


def _trainer(
    arguments: argparse.Namespace, network: "Architecture", train: "Samples", options: dict[str, Any]
) -> "Trainer":
    """Make network, optimizer and trainer; the flags go into the saved run."""
    from lowmem.nn.mlp import MLP
    from lowmem.nn.optimizers import make_optimizer
    from lowmem.training.trainer import Trainer

    optimizer = make_optimizer(arguments.optimizer, lr=arguments.lr, weight_decay=arguments.weight_decay)
    trainer = Trainer(
        MLP(network, arguments.seed, initialiser=arguments.init, gain=arguments.gain),
        optimizer,
        batch_size=arguments.batch,
        budget=arguments.budget,
        ram=arguments.ram,
        seed=arguments.seed,
        schedule=_schedule(arguments, optimizer, -(-len(train) // min(arguments.batch, len(train)))),
        clip_value=arguments.clip_value,
        clip_norm=arguments.clip_norm,
        clip_twice=arguments.clip_twice,
        class_weights=_class_weights(arguments.class_weights),
        non_finite=arguments.non_finite,
        **options,
    )
    trainer.notes = {"flags": {name: value for name, value in vars(arguments).items() if name != "config"}}
    return trainer


def _class_weights(text: str | None) -> "list[float] | Literal['balanced'] | None":
    """Read numbers separated by commas, or the word that stands for them."""
    if text == "balanced":
        return "balanced"
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"cannot read --class-weights {text!r}; write numbers such as 1,2.5,1, or balanced."
        ) from None


def _schedule(arguments: argparse.Namespace, optimizer: "Optimizer", steps: int) -> "LearningRate | None":
    """Return the schedule that the flags describe, if any; `steps` are those of an epoch."""
    from lowmem.training.learning_rate import LearningRate

    if arguments.lr_schedule is None and not arguments.warm_up:
        if arguments.lr_every is not None:
            raise InputError("--lr-every goes with --lr-schedule step; give that too.")
        return None
    return LearningRate(
        optimizer.lr,
        arguments.lr_schedule or "constant",
        warm_up=arguments.warm_up,
        every=arguments.lr_every,
        factor=arguments.lr_factor,
        steps=arguments.epochs * steps,
    )
