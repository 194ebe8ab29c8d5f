"""Flags that several commands share, and how they become an architecture."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from lowmem.errors import InputError
from lowmem.network.architecture import Architecture
from lowmem.network.layers import NORMS
from lowmem.network.specs import ACTIVATIONS, ITEM_BYTES, LOSSES
from lowmem.nn.optimizers import OPTIMIZERS
from lowmem.planning.choose import STRATEGIES
from lowmem.planning.cost_model import CostModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are `InputError`s, so that they look like all others."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print with its usage."""
        raise InputError(f"{message}. See {self.prog} --help.")


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add the flags that describe a network."""
    group = parser.add_argument_group("network")
    group.add_argument("--layers", type=int, metavar="N", help="number of hidden layers (default 100)")
    group.add_argument("--width", type=int, metavar="N", help="width of each hidden layer (default 128)")
    group.add_argument("--widths", metavar="A,B,...", help="all widths, input first, instead of --layers and --width")
    group.add_argument("--activation", default="relu", metavar="NAME", help=f"one of {', '.join(ACTIVATIONS)}")
    group.add_argument(
        "--residual",
        nargs="?",
        const="yes",
        metavar="KIND",
        help="skips between equal widths: --residual, or with branches that are scaled or learned",
    )
    group.add_argument("--norm", metavar="NAME", help=f"before each activation: {', '.join(NORMS)} (default: none)")
    group.add_argument("--dropout", type=float, default=0.0, metavar="F", help="rate of dropout in training (0)")
    group.add_argument("--label-smoothing", type=float, default=0.0, metavar="F", help="of the cross-entropy (0)")
    group.add_argument("--loss", metavar="NAME", help=f"one of {', '.join(LOSSES)} (default: by the targets)")
    group.add_argument("--dtype", default="float32", metavar="NAME", help=f"one of {', '.join(ITEM_BYTES)}")


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the widths that come from the data where there are some."""
    parser.add_argument("--inputs", type=int, metavar="N", help="width of the input (default 64, as the digits)")
    parser.add_argument("--outputs", type=int, metavar="N", help="width of the output (default 10)")


def add_planning(parser: argparse.ArgumentParser, *, optimizer: str | None, budgets: bool = False) -> None:
    """Add the flags of `lowmem.plan`; with `budgets`, for all strategies and several budgets."""
    group = parser.add_argument_group("memory")
    group.add_argument("--batch", type=int, default=128, metavar="N", help="samples per step (default 128)")
    forms = '24MiB, 24MB, 50%%, or "25%% of activations"'
    several = "budgets to compare, separated by commas" if budgets else "bytes for all of training"
    group.add_argument("--budget", metavar="SIZE", help=f"{several}: {forms}")
    if budgets:
        parser.set_defaults(strategy="auto")
    else:
        group.add_argument("--strategy", default="auto", metavar="NAME", help=f"one of {', '.join(STRATEGIES)}")
        group.add_argument("--segments", type=int, metavar="K", help="with --strategy segments: keep every K-th state")
        group.add_argument("--slots", type=int, metavar="N", help="with --strategy revolve: states kept")
    group.add_argument("--threads", type=int, metavar="N", help="threads that share a batch (default: by the machine)")
    group.add_argument("--micro-batch", type=int, metavar="N", help="run a batch in passes of N samples")
    group.add_argument(
        "--optimizer",
        default=optimizer,
        metavar="NAME",
        help=f"one of {', '.join(OPTIMIZERS)}" + (f" (default {optimizer})" if optimizer else " (default: none)"),
    )


def add_calibration(parser: argparse.ArgumentParser) -> None:
    """Add --no-calibrate."""
    parser.add_argument(
        "--no-calibrate",
        action="store_true",
        help="plan by FLOPs alone, in one pass, and not by times measured on this machine (see lowmem calibrate)",
    )


def cost_model(arguments: argparse.Namespace, dtype: str) -> CostModel | None:
    """Return this machine's cost model where the flags leave something to weigh by it."""
    if (
        arguments.no_calibrate
        or (arguments.budget is None and not hasattr(arguments, "inputs"))
        or arguments.strategy != "auto"
    ):
        return None
    from lowmem.measure.calibration import calibrated  # NumPy, for those who want it

    return calibrated(dtype)


def check_folder(path: Path | None) -> None:
    """Refuse a file whose folder is not there, before anything is run for it."""
    if path is not None and not path.resolve().parent.is_dir():
        raise InputError(f"there is no folder {str(path.parent)!r} to write {path.name} to; make it first.")


def save(figure: "Figure", path: Path) -> None:
    """Write a figure in the format that the file's name asks for."""
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write the figure {str(path)!r}: {error}. Name it .svg, .png or .pdf.") from None


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON object to standard output")


def architecture(arguments: argparse.Namespace, inputs: int, outputs: int, loss: str) -> Architecture:
    """Return the network that the flags describe, with the data's inputs and outputs unless --widths says others."""
    if arguments.widths is not None:
        for flag in ("layers", "width"):
            if getattr(arguments, flag) is not None:
                raise InputError(f"--{flag} does not go with --widths, which names every layer; leave one out.")
        widths = read_widths(arguments.widths)
    else:
        layers = given(arguments.layers, 100)
        if layers < 0:
            raise InputError(f"--layers must be 0 or more; got {layers}.")
        widths = (inputs, *[given(arguments.width, 128)] * layers, outputs)
    return Architecture(
        widths,
        arguments.activation,
        arguments.loss or loss,
        arguments.dtype,
        residual={None: False, "yes": True}.get(arguments.residual, arguments.residual),
        norm=arguments.norm,
        dropout=arguments.dropout,
        label_smoothing=arguments.label_smoothing,
    )


def network_of(arguments: argparse.Namespace) -> Architecture:
    """Return the network that the flags describe, where no data say its inputs and outputs."""
    if arguments.widths is not None and (arguments.inputs, arguments.outputs) != (None, None):
        raise InputError("--inputs and --outputs do not go with --widths, which names every layer; leave them out.")
    return architecture(arguments, given(arguments.inputs, 64), given(arguments.outputs, 10), "cross_entropy")


def read_widths(text: str) -> tuple[int, ...]:
    """Read "64,256x100,10": widths, each with an optional repetition."""
    widths: list[int] = []
    for part in text.split(","):
        width, _, repeat = part.strip().partition("x")
        if not width.isdecimal() or not (repeat or "1").isdecimal() or int(repeat or "1") < 1:
            raise InputError(f'cannot read {part.strip()!r} in --widths {text!r}. Write "64,256x100,10".')
        widths += [int(width)] * int(repeat or "1")
    return tuple(widths)


def given(value: T | None, default: T) -> T:
    """Return the value, or the default where none was given."""
    return default if value is None else value
