"""`lowmem torch-plan`: what does a PyTorch chain take, and what does it cost inside a budget?"""

import argparse
import json
import sys
from importlib import import_module
from typing import Any

from lowmem.cli.options import add_json
from lowmem.cli.outputs import PAGES, check_output, output_file, write_output
from lowmem.common.checks import is_digits
from lowmem.common.files import check_apart
from lowmem.errors import InputError, LowmemError

HELP = "Plan the training steps of a PyTorch chain (an nn.Sequential) inside a budget of bytes."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("model", metavar="MODULE:FACTORY", help="a function that returns the model, such as nets:make")
    parser.add_argument("--sample", required=True, metavar="SHAPE", help="shape of a batch, such as 32x3x64x64")
    parser.add_argument(
        "--budget", metavar="SIZE", help="bytes for a step: 2GiB, 500MB, or 40%% of storing everything"
    )
    parser.add_argument("--strategy", default="optimal", metavar="NAME", help="optimal, sqrt, segments or store_all")
    parser.add_argument("--segments", type=int, metavar="K", help="with --strategy segments: keep every K-th output")
    parser.add_argument("--loss", metavar="MODULE:FUNCTION", help="the loss as a function of the model's output")
    parser.add_argument("--dtype", default="float32", metavar="NAME", help="type of the sample (default float32)")
    parser.add_argument(
        "--device", default="cpu", metavar="NAME", help="where to measure: cpu, cuda, ... (default cpu)"
    )
    parser.add_argument(
        "--accumulating", action="store_true", help="gradients are there before a step, to be added to"
    )
    parser.add_argument(
        "--output", type=output_file, metavar="FILE", help="write the plan as JSON, for lowmem.torch.Plan"
    )
    parser.add_argument("--html", type=output_file, metavar="FILE", help="write the plan as a web page with figures")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, plan, and print both."""
    check_output(arguments.output, "the plan", (".json",))
    check_output(arguments.html, "the report", PAGES)
    check_apart({"output": arguments.output, "html": arguments.html})
    shape = read_shape(arguments.sample)
    try:
        import torch

        import lowmem.torch as lt  # PyTorch takes 200 MiB: only those who plan for it pay
    except ImportError:
        raise InputError('PyTorch is not installed. Install it: pip install "lowmem[torch]".') from None
    dtype = getattr(torch, arguments.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise InputError(f"--dtype {arguments.dtype}: PyTorch has no such type. Write float32, bfloat16, int64, ...")
    loss = None if arguments.loss is None else named(arguments.loss)
    model = _called(named(arguments.model), arguments.model)
    try:
        # With numbers other than 0 it shows what draws random numbers of its own. Whole numbers may be indices.
        values = torch.randn(shape) if dtype.is_floating_point or dtype.is_complex else torch.zeros(shape)
        sample = values.to(device=arguments.device, dtype=dtype)
        model = model.to(arguments.device) if hasattr(model, "to") else model
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {arguments.device}: {str(error).splitlines()[0]}") from None
    measured = lt.measure(model, sample, loss=loss)
    plan = lt.plan(
        measured,
        budget=arguments.budget,
        strategy=arguments.strategy,
        segments=arguments.segments,
        accumulating=arguments.accumulating,
    )
    if arguments.output is not None:
        write_output(arguments.output, f"{plan.to_json()}\n".encode())
    if arguments.html is not None:
        write_output(arguments.html, lt.Report(plan).to_html().encode())
    print(json.dumps(plan.to_dict()) if arguments.json else f"{measured}\n\n{plan}")
    return 0


def read_shape(text: str) -> tuple[int, ...]:
    """Read "32x3x64x64"."""
    parts = text.lower().split("x")
    if not all(is_digits(part) and int(part) > 0 for part in parts):
        raise InputError(
            f"cannot read {text!r} as a shape. Write sizes from 1 with x between them, such as 32x3x64x64."
        )
    return tuple(map(int, parts))


def named(text: str) -> Any:  # noqa: ANN401 - whatever the user wrote
    """Return the function that "module:name" names; modules in the working directory are found."""
    module, _, name = text.partition(":")
    if not module or not name:
        raise InputError(f"cannot read {text!r}. Write a module and a function in it, such as nets:make.")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = import_module(module)
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"cannot import {module!r} for {text!r}: {_why(error)}.") from None
    if not callable(getattr(found, name, None)):
        raise InputError(f"the module {module!r} has no function {name!r}.")
    return getattr(found, name)


def _called(factory: Any, text: str) -> Any:  # noqa: ANN401 - the user's model
    """Return the model that the factory makes."""
    try:
        return factory()
    except LowmemError:
        raise
    except Exception as error:  # the user's code may raise anything, and a command shows no traceback
        raise InputError(f"{text}() failed with {_why(error)}.") from None


def _why(error: Exception) -> str:
    """Return the kind of an error and the first line of what it says."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
