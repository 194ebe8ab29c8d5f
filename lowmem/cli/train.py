"""`lowmem train`: trains a network inside a budget, and reports what was promised and what was measured."""

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lowmem.cli.options import (
    BATCH,
    WIDTH,
    add_calibration,
    add_json,
    add_network,
    add_planning,
    add_steps,
    architecture,
    check_budget,
    cost_model,
    disk_options,
    given,
)
from lowmem.cli.outputs import check_replaced
from lowmem.cli.ranks import join
from lowmem.cli.samples import MASKED, add_data, add_training_data, is_table, open_samples, streamed
from lowmem.cli.session import add_run, check_files, check_run, load_printing, run_epochs
from lowmem.errors import InputError
from lowmem.planning.choose import plan_for, request_of

if TYPE_CHECKING:
    from lowmem.measure.expected import Expected, Made
    from lowmem.network.architecture import Architecture
    from lowmem.nn.optimizers import Optimizer
    from lowmem.planning.plan import Plan
    from lowmem.runtime.collectives.group import Group
    from lowmem.training.class_weights import ClassWeights
    from lowmem.training.learning_rate import LearningRate
    from lowmem.training.trainer import Trainer

LAYERS, WIDE = 2, 256
"""Hidden layers, and their width, where no flag says either: these learn without skips, norms or patience."""

STEPS = 1000
"""Steps that a run takes at least where no flag says how many epochs, between 10 and 100 epochs."""

HELP = "Train a network on a data set inside a memory budget."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("--config", metavar="FILE", help="read flags from a TOML file; those on the command line win")
    group = parser.add_argument_group("data and training")
    add_data(group, default="digits")
    add_training_data(group)
    group.add_argument("--stream", action="store_true", help="read the data in blocks instead of into memory")
    group.add_argument(
        "--shuffle-rows", type=int, metavar="N", help="read in blocks, and shuffle N rows at a time (default: 8 MiB)"
    )
    group.add_argument(
        "--standardise", action="store_true", help="scale each feature to mean 0 and deviation 1 (default for tables)"
    )
    group.add_argument("--no-standardise", action="store_true", help="leave the features of a table as they are")
    group.add_argument(
        "--epochs", type=int, metavar="N", help=f"passes over the data (default: enough for {STEPS} steps, 10 to 100)"
    )
    group.add_argument(
        "--class-weights",
        metavar="A,B,...",
        help="a factor for the loss of each class: 1,2.5,1 or name=1,other=2.5 or balanced",
    )
    group.add_argument("--init", metavar="NAME", help="initialiser of the weights (default: by the activation)")
    group.add_argument(
        "--gain",
        type=float,
        metavar="F",
        help="with --init orthogonal: factor of the weights, such as 1.1 for deep tanh",
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of weights, split, order and dropout (default 0)"
    )
    add_run(group)
    add_steps(parser.add_argument_group("learning rate and gradients"))
    add_network(
        parser,
        loss="cross_entropy for labels, else mse",
        layers=f"default {LAYERS}",
        width=f"default {WIDTH}, or {WIDE} without --layers",
    )
    add_planning(parser, optimizer="adam", batch="a 32nd of the samples, as a power of two from 8 to 128")
    add_calibration(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train, and print the report."""
    # NumPy is imported only here: `lowmem --help` and `lowmem plan` do not need it.
    import lowmem.training.trainer  # noqa: F401 - imported before memory is traced, as imports are not training
    from lowmem.measure.expected import Expected
    from lowmem.measure.memory import TracedPeak

    check_budget(arguments.budget)
    check_run(arguments)
    group = join()
    arguments.standardise = _standardised(arguments)
    arguments.stream, arguments.splitting = streamed(arguments), MASKED
    train, held_out = open_samples(arguments)
    check_files(arguments, (train, held_out))
    chosen = _choose(arguments, len(train))
    outputs = train.classes
    if arguments.loss == "bce" and train.labels:
        # Two classes are one output from 0 to 1; more are rows with a one.
        arguments.one_hot = outputs > 2 or (arguments.widths or "").endswith(f",{outputs}")
        outputs = outputs if arguments.one_hot else 1
        if arguments.one_hot:
            arguments.stream = True
            train, held_out = open_samples(arguments)
    network = architecture(arguments, train.features, outputs, "cross_entropy" if train.labels else "mse")
    check_replaced(arguments.save, network, train, force=arguments.force)
    options: dict[str, Any] = {
        "strategy": arguments.strategy,
        "micro_batch": arguments.micro_batch,
        "segments": arguments.segments,
        "slots": arguments.slots,
        "threads": arguments.threads,
        "engine": arguments.engine,
        "shards": arguments.shards,
        "costs": cost_model(arguments, network.dtype),
        **disk_options(arguments),
    }
    folder = _folder(arguments, network, options, group)
    expected = Expected(train, held_out, arguments.patience is not None)
    if arguments.ram is not None:
        # Tracing would take some of the memory that the cap allows.
        load_printing()
        trainer = _trainer(arguments, network, expected, options, group, folder)
        return run_epochs(trainer, (train, held_out), arguments.epochs, arguments, None, chosen)
    # This plan refuses a budget that cannot work before the weights are drawn, and is made before memory is traced,
    # which slows planning down. It also imports what planning and printing need, which is no training either.
    made = _planned(arguments, network, expected, options, group, folder)
    str(made.plan)
    expected = replace(expected, made=made)
    traced = TracedPeak()
    try:
        trainer = _trainer(arguments, network, expected, options, group, folder)
        return run_epochs(trainer, (train, held_out), arguments.epochs, arguments, traced, chosen)
    finally:
        traced.stop()


def _planned(
    arguments: argparse.Namespace,
    network: "Architecture",
    expected: "Expected",
    options: dict[str, Any],
    group: "Group | None",
    folder: str | None,
) -> "Made":
    """Return the plan that the trainer will ask for, which counts the data.

    options: keywords of `lowmem.plan`. folder: where the parameters lie, None for memory.

    Raises `BudgetError` if none fits, with a budget that has room for the data too.
    """
    from lowmem.measure.expected import Made, plan_counting, second_network
    from lowmem.training.sample_weights import BatchWeights

    weighting = BatchWeights(network, _class_weights(arguments.class_weights)).bytes_for(arguments.batch)
    second = second_network(network) if expected.patience else 0
    clips, twice = arguments.clip_norm is not None, arguments.clip_twice
    options = options | {"gather": clips and not twice, "rehearse": clips and twice}
    options |= {"ranks": 1 if group is None else group.size}

    made: Made | None = None

    def beside(budget: int | str | None, buffers: int) -> "Plan":
        nonlocal made
        asked = request_of(network, arguments.batch, budget, arguments.optimizer, **options, batch_buffers=buffers)
        asked = replace(asked, odd_batches=expected.odd(arguments.batch), on_disk=folder is not None)
        made = Made(asked, plan_for(asked))
        return made.plan

    def needs(planned: "Plan") -> int:
        share = None if group is None else planned.sharing.of_rank(group.rank)
        return second + expected.bytes_with(planned, weighting, share)

    plan_counting(lambda buffers: beside(arguments.budget, buffers), beside, needs)
    assert made is not None  # the last one is that which is returned
    return made


def _folder(
    arguments: argparse.Namespace, network: "Architecture", options: dict[str, Any], group: "Group | None"
) -> str | None:
    """Return the folder on whose disk the network's parameters go: that of --disk if memory cannot hold them."""
    from lowmem.measure.placement import folder_for

    names = {"batch_size": "batch", **{name: name for name in ("budget", "ram", "clip_norm", "clip_twice")}}
    given = {keyword: getattr(arguments, name) for keyword, name in names.items()}
    second = 0 if arguments.patience is None else (network.parameters + network.running) * network.item_bytes
    folder = folder_for(network, arguments.optimizer, options | given | {"group": group}, beside=second)
    if folder is not None:
        import lowmem.common.disk.paged_array  # noqa: F401 - imported before memory is traced
    return folder


def _standardised(arguments: argparse.Namespace) -> bool:
    """Say whether features are standardised: as a flag says, else those of tables are."""
    if arguments.standardise and arguments.no_standardise:
        raise InputError("--standardise and --no-standardise contradict each other; leave one out.")
    return bool(arguments.standardise or (is_table(arguments.data) and not arguments.no_standardise))


def _choose(arguments: argparse.Namespace, samples: int) -> str:
    """Fill in what no flag says and the data decide, and return what was chosen as a note; empty if nothing was.

    samples: to train on.
    """
    chosen = []
    if arguments.widths is None and None in (arguments.layers, arguments.width):
        arguments.width = given(arguments.width, WIDTH if arguments.layers is not None else WIDE)
        arguments.layers = given(arguments.layers, LAYERS)
        chosen.append(f"{arguments.layers} hidden layers of {arguments.width} (--layers, --width)")
    if arguments.batch is None:
        arguments.batch = min(max(1 << max(samples // 32, 1).bit_length() - 1, 8), BATCH)
        chosen.append(f"batches of {arguments.batch} (--batch)")
    if arguments.epochs is None:
        arguments.epochs = min(max(-(-STEPS // -(-samples // max(arguments.batch, 1))), 10), 100)
        chosen.append(f"{arguments.epochs} epochs (--epochs)")
    return f"chosen: {', '.join(chosen)}" if chosen else ""


def _trainer(
    arguments: argparse.Namespace,
    network: "Architecture",
    expected: "Expected",
    options: dict[str, Any],
    group: "Group | None",
    folder: str | None,
) -> "Trainer":
    """Return a trainer with a new network and optimizer; its notes hold the flags, for a saved run.

    folder: where the parameters lie, None for memory.
    """
    from lowmem.nn.mlp import MLP
    from lowmem.nn.optimizers import make_optimizer
    from lowmem.training.trainer import Trainer

    optimizer = make_optimizer(arguments.optimizer, lr=arguments.lr, weight_decay=arguments.weight_decay)
    trainer = Trainer(
        MLP(network, arguments.seed, initialiser=arguments.init, gain=arguments.gain, disk=folder),
        optimizer,
        batch_size=arguments.batch,
        budget=arguments.budget,
        ram=arguments.ram,
        seed=arguments.seed,
        schedule=_schedule(arguments, optimizer, _batches(expected, arguments.batch)),
        clip_value=arguments.clip_value,
        clip_norm=arguments.clip_norm,
        clip_twice=arguments.clip_twice,
        class_weights=_class_weights(arguments.class_weights),
        non_finite=arguments.non_finite,
        group=group,
        expected=expected,
        **options,
    )
    trainer.notes = {"flags": {name: value for name, value in vars(arguments).items() if name != "config"}}
    return trainer


def _batches(expected: "Expected", rows: int) -> int:
    """Return the batches of an epoch, of so many rows each."""
    samples = len(expected.train)
    return -(-samples // min(rows, samples))


def _class_weights(text: str | None) -> "ClassWeights | None":
    """Return the weights of the classes in a text: "1,2.5,1", "a=1,b=2.5" or "balanced"."""
    if text is None or text == "balanced":
        return text  # type: ignore[return-value]
    try:
        if "=" not in text:
            return [float(part) for part in text.split(",")]
        pairs = [part.rpartition("=") for part in text.split(",")]
        weights = [(name.strip(), float(weight)) for name, _, weight in pairs]
    except ValueError:
        raise InputError(
            f"cannot read --class-weights {text!r}; write numbers such as 1,2.5,1, or name=1,other=2.5, or balanced."
        ) from None
    names = [name for name, _ in weights]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--class-weights names {name!r} twice. Name every class once.")
    return dict(weights)


def _schedule(arguments: argparse.Namespace, optimizer: "Optimizer", steps: int) -> "LearningRate | None":
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
