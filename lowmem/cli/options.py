"""Flags that several commands share, and what becomes of them: an architecture and a cost model."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from lowmem.common.checks import is_digits, positive, whole
from lowmem.errors import InputError, UnknownNameError, nearest, shown
from lowmem.network.architecture import Architecture
from lowmem.network.layers import NORMS
from lowmem.network.specs import ACTIVATIONS, ITEM_BYTES, LOSSES
from lowmem.nn.optimizers import OPTIMIZERS
from lowmem.planning.choose import STRATEGIES
from lowmem.planning.cost_model import CostModel
from lowmem.planning.engines.choice import ENGINES
from lowmem.planning.engines.machine import disk_tier

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

T = TypeVar("T")

LAYERS, WIDTH, BATCH = 100, 128, 128
"""The network and the batch that commands plan where no flag says others; `lowmem train` chooses its own."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `InputError` for bad arguments, so that they look like all other errors."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - those of argparse
        super().__init__(*arguments, **options)
        for kind in (int, float):
            self.register("type", kind, partial(_number, kind))

    def _print_message(self, message: str, file: "SupportsWrite[str] | None" = None) -> None:
        """Print help; other than argparse's own method, it hides no error of a full disk."""
        if message:
            (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        """Raise the message that argparse would print below its usage."""
        raise InputError(f"{self.prog.removeprefix('lowmem ')}: {message}. See {self.prog} --help.")

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """Refuse an unknown command with the nearest one; other than argparse's own method, in the words of names."""
        if isinstance(action, argparse._SubParsersAction):
            if value not in action.choices:
                raise UnknownNameError("command", value, action.choices)
        else:
            super()._check_value(action, value)

    def flags(self) -> list[str]:
        """Return the flags of this parser, with their dashes."""
        return [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]

    def commands(self) -> "dict[str, Parser]":
        """Return the parsers of the commands by name."""
        groups = (action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        return {name: parser for group in groups for name, parser in group.choices.items()}


def _number(kind: type[T], text: str) -> T:
    """Return the number that a text stands for. Raises `ValueError` for digits other than 0 to 9, as for no number."""
    if not text.isascii():
        raise ValueError
    return kind(text)  # type: ignore[call-arg]


def unknown_arguments(parser: Parser, command: str | None, rest: Sequence[str]) -> InputError:
    """Return the error of arguments that a command does not take. It names the nearest flag, and who has such a flag.

    command: its name, None if there is none.
    """
    commands = parser.commands()
    own = commands.get(command or "", parser)
    name, flag = command or own.prog, rest[0].partition("=")[0]
    if not flag.startswith("-"):
        return InputError(f"{name} takes no argument {shown(rest[0])}. See {own.prog} --help.")
    near, others = nearest(flag, own.flags()), [other for other, of in commands.items() if flag in of.flags()]
    hint = f" Did you mean {near}?" if near else ""
    if others and not (near or "").startswith(flag):
        hint += f" {flag} is a flag of lowmem {' and of lowmem '.join(others[:3])}."
    return InputError(f"{name} has no flag {flag}.{hint} See {own.prog} --help.")


def add_network(
    parser: argparse.ArgumentParser,
    *,
    loss: str = "cross_entropy",
    layers: str = f"default {LAYERS}",
    width: str = f"default {WIDTH}",
) -> None:
    """Add the flags that describe a network. loss, layers, width: what --help says of their defaults."""
    group = parser.add_argument_group("network")
    group.add_argument("--layers", type=int, metavar="N", help=f"number of hidden layers ({layers})")
    group.add_argument("--width", type=int, metavar="N", help=f"width of each hidden layer ({width})")
    group.add_argument("--widths", metavar="A,B,...", help="all widths, input first, such as 64,256x100,10")
    names = f"{', '.join(ACTIVATIONS)} (default relu)"
    group.add_argument("--activation", default="relu", metavar="NAME", help=f"activation: {names}")
    group.add_argument(
        "--residual",
        nargs="?",
        const="yes",
        metavar="KIND",
        help="add skips between layers of equal width; with KIND scaled or learned, their branches get a factor",
    )
    norms = f"{', '.join(NORMS)} (default: none)"
    group.add_argument("--norm", metavar="NAME", help=f"normalisation before each activation: {norms}")
    group.add_argument(
        "--dropout", type=float, default=0.0, metavar="F", help="share of activations dropped in training (default 0)"
    )
    group.add_argument(
        "--label-smoothing",
        type=float,
        default=0.0,
        metavar="F",
        help="smoothing of labels in cross_entropy (default 0)",
    )
    group.add_argument(
        "--quantile", type=float, default=0.5, metavar="F", help="with --loss quantile: which one (default 0.5)"
    )
    group.add_argument("--loss", metavar="NAME", help=f"loss: {', '.join(LOSSES)} (default: {loss})")
    dtypes = f"{' or '.join(ITEM_BYTES)} (default float32)"
    group.add_argument("--dtype", default="float32", metavar="NAME", help=f"dtype of the network: {dtypes}")


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the widths of input and output, for commands without data."""
    parser.add_argument("--inputs", type=int, metavar="N", help="width of the input (default 64, that of the digits)")
    parser.add_argument("--outputs", type=int, metavar="N", help="width of the output (default 10)")


def add_planning(
    parser: argparse.ArgumentParser, *, optimizer: str | None, budgets: bool = False, batch: str | None = None
) -> None:
    """Add the flags of `lowmem.plan`.

    optimizer: the default of --optimizer. batch: how a default of --batch that depends on the data is told.
    budgets: for commands that run all strategies: --budget takes several budgets, and no flag chooses a strategy.
    """
    group = parser.add_argument_group("memory")
    rows = None if batch else BATCH
    group.add_argument(
        "--batch", type=int, default=rows, metavar="N", help=f"samples per step (default {batch or rows})"
    )
    forms = '24MiB, 24MB, 50%% of storing everything, or "25%% of activations"'
    what = "budgets to compare, separated by commas" if budgets else "memory for all of training"
    group.add_argument("--budget", metavar="SIZE", help=f"{what}: {forms}")
    if budgets:
        parser.set_defaults(strategy="auto")
    else:
        names = f"{', '.join(STRATEGIES)} (default auto)"
        group.add_argument("--strategy", default="auto", metavar="NAME", help=f"which activations to keep: {names}")
        group.add_argument("--segments", type=int, metavar="K", help="with --strategy segments: keep every K-th state")
        group.add_argument("--slots", type=int, metavar="N", help="with --strategy revolve: keep at most N states")
    group.add_argument(
        "--threads", type=int, metavar="N", help="threads that share a batch (default: by network and machine)"
    )
    parser.add_argument(
        "--engine", metavar="NAME", help=f"{' or '.join(ENGINES)} (default: native, the compiled one, if it is there)"
    )
    group.add_argument("--disk", metavar="DIR", help="folder on a disk: what has no room in memory may go there")
    group.add_argument("--disk-limit", metavar="SIZE", help="what files there may take (default: all that is free)")
    group.add_argument(
        "--shards",
        type=int,
        default=1,
        metavar="N",
        help="cut each batch in N shards, whose gradients are added up in a fixed order (default 1)",
    )
    group.add_argument("--micro-batch", type=int, metavar="N", help="run each batch in passes of N samples")
    names = f"{', '.join(OPTIMIZERS)} (default: {optimizer or 'none'})"
    group.add_argument("--optimizer", default=optimizer, metavar="NAME", help=f"optimizer: {names}")


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


def add_calibration(parser: argparse.ArgumentParser) -> None:
    """Add the flag --no-calibrate."""
    parser.add_argument(
        "--no-calibrate",
        action="store_true",
        help="plan by FLOPs, each batch in one pass, and not by times measured on this machine (see lowmem calibrate)",
    )


def cost_model(arguments: argparse.Namespace, dtype: str) -> CostModel | None:
    """Return the cost model of this machine, None where --no-calibrate or the other flags leave no choice to it."""
    if (
        arguments.no_calibrate
        or (arguments.budget is None and not hasattr(arguments, "inputs"))
        or arguments.strategy != "auto"
    ):
        return None
    from lowmem.measure.calibration import calibrated  # imports NumPy, which planning by FLOPs does not need

    return calibrated(dtype)


def disk_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords of `lowmem.plan` for the flags --disk and --disk-limit, the disk measured once."""
    return {"disk": disk_tier(arguments.disk, arguments.disk_limit)}


def add_network_disk(parser: argparse.ArgumentParser) -> None:
    """Add the flag --disk of commands that use a saved network."""
    parser.add_argument(
        "--disk",
        metavar="DIR",
        help="folder on a disk: the network lives in a file there, with a few layers in memory (default: in memory)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the flag --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON object to standard output, and no text")


def architecture(arguments: argparse.Namespace, inputs: int, outputs: int, loss: str) -> Architecture:
    """Return the network that the flags describe.

    inputs, outputs: widths of the data, unless --widths names all widths.
    loss: of the network, unless --loss names another.
    """
    if arguments.widths is not None:
        for flag in ("layers", "width"):
            if getattr(arguments, flag) is not None:
                raise InputError(f"--{flag} does not go with --widths, which names every layer; leave one out.")
        widths = read_widths(arguments.widths)
    else:
        layers = given(arguments.layers, LAYERS)
        whole("--layers", layers)
        widths = (inputs, *[positive("--width", given(arguments.width, WIDTH))] * layers, outputs)
    return Architecture(
        widths,
        arguments.activation,
        given(arguments.loss, loss),
        arguments.dtype,
        residual={None: False, "yes": True}.get(arguments.residual, arguments.residual),
        norm=arguments.norm,
        dropout=arguments.dropout,
        label_smoothing=arguments.label_smoothing,
        quantile=arguments.quantile,
    )


def network_of(arguments: argparse.Namespace) -> Architecture:
    """Return the network that the flags describe, for commands without data."""
    if arguments.widths is not None and (arguments.inputs, arguments.outputs) != (None, None):
        raise InputError("--inputs and --outputs do not go with --widths, which names every layer; leave them out.")
    return architecture(arguments, given(arguments.inputs, 64), given(arguments.outputs, 10), "cross_entropy")


def read_widths(text: str) -> tuple[int, ...]:
    """Return the widths in a text such as "64,256x100,10", where 256x100 stands for a hundred times 256."""
    widths: list[int] = []
    for part in text.split(","):
        width, _, repeat = part.strip().partition("x")
        if not is_digits(width) or not is_digits(repeat or "1") or int(repeat or "1") < 1:
            raise InputError(f'cannot read {part.strip()!r} in --widths {text!r}. Write "64,256x100,10".')
        widths += [int(width)] * int(repeat or "1")
    return tuple(widths)


def check_budget(budget: str | None) -> None:
    """Refuse shares above all, which would be no budget, and digits of other scripts. Raises `InputError`."""
    for part in (budget or "").split(","):
        share, percent, _ = part.partition("%")
        if not part.isascii():
            raise InputError(
                f"cannot read --budget {part.strip()}. Write it with the digits 0 to 9, such as 24MiB or 50%."
            )
        if percent and as_number_text(share) > 100:
            raise InputError(f"--budget {part.strip()} is more than storing everything takes; give at most 100%.")


def as_number_text(text: str) -> float:
    """Return the number that a text stands for, 0 if it is none."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def given(value: T | None, default: T) -> T:
    """Return the value, or the default if the value is None."""
    return default if value is None else value
