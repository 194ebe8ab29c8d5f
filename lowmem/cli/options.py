"""Flags that several commands share, and how they become an architecture."""

import argparse
from typing import NoReturn, TypeVar

from lowmem.architecture import ACTIVATIONS, ITEM_BYTES, LOSSES, OPTIMIZERS, Architecture
from lowmem.errors import InputError
from lowmem.planning import STRATEGIES

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
    group.add_argument("--loss", metavar="NAME", help=f"one of {', '.join(LOSSES)} (default: by the targets)")
    group.add_argument("--dtype", default="float32", metavar="NAME", help=f"one of {', '.join(ITEM_BYTES)}")


def add_planning(parser: argparse.ArgumentParser, *, optimizer: str | None) -> None:
    """Add the flags of `lowmem.plan`."""
    group = parser.add_argument_group("memory")
    group.add_argument("--batch", type=int, default=128, metavar="N", help="samples per step (default 128)")
    group.add_argument(
        "--budget", metavar="SIZE", help='bytes for all of training: 24MiB, 24MB, 50%%, or "25%% of activations"'
    )
    group.add_argument("--strategy", default="auto", metavar="NAME", help=f"one of {', '.join(STRATEGIES)}")
    group.add_argument("--segments", type=int, metavar="K", help="for --strategy segments: keep every K-th state")
    group.add_argument("--slots", type=int, metavar="N", help="for --strategy revolve: states kept besides the batch")
    group.add_argument("--micro-batch", type=int, metavar="N", help="run a batch in passes of N samples")
    group.add_argument(
        "--optimizer",
        default=optimizer,
        metavar="NAME",
        help=f"one of {', '.join(OPTIMIZERS)}" + (f" (default {optimizer})" if optimizer else " (default: none)"),
    )


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
    return Architecture(widths, arguments.activation, arguments.loss or loss, arguments.dtype)


def read_widths(text: str) -> tuple[int, ...]:
    """Read "64,256x100,10": widths, each with an optional repetition."""
    widths: list[int] = []
    for part in text.split(","):
        width, _, repeat = part.strip().partition("x")
        try:
            widths += [int(width)] * (int(repeat) if repeat else 1)
        except ValueError:
            raise InputError(f'cannot read {part.strip()!r} in --widths {text!r}. Write "64,256x100,10".') from None
    return tuple(widths)


def given(value: T | None, default: T) -> T:
    """Return the value, or the default where none was given."""
    return default if value is None else value
