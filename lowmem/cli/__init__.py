"""The command line: a file for each command. Errors are one line; the exit code is 0, 1 (failed) or 2 (bad input).

A command's file has `HELP`, `add_arguments`, which adds its flags to a parser, and `run`, which returns the exit code.
"""

import argparse
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from lowmem.cli import (
    calibrate,
    compare,
    completion,
    doctor,
    evaluate,
    export,
    import_,
    plan,
    plot,
    predict,
    profile,
    ranks,
    resume,
    torch_plan,
    train,
)
from lowmem.cli.config import flags_of
from lowmem.cli.console import OutputError, prepared, unheard
from lowmem.cli.options import Parser, unknown_arguments
from lowmem.cli.wording import in_flags
from lowmem.common.files import reason
from lowmem.errors import LowmemError
from lowmem.units import units_of

_MODULES = (
    plan,
    train,
    resume,
    evaluate,
    predict,
    plot,
    compare,
    profile,
    calibrate,
    export,
    import_,
    doctor,
    completion,
    torch_plan,
)
COMMANDS = {module.__name__.rpartition(".")[2].rstrip("_").replace("_", "-"): module for module in _MODULES}
"""The commands by name, which is that of the module."""


def make_parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(prog="lowmem", description="Train deep MLPs inside a memory budget that is kept.")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", parser_class=Parser)
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.HELP, description=command.HELP)
        command.add_arguments(own)
        if command is completion:
            own.set_defaults(whole=parser)  # the script completes all commands
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    argv: the arguments without the program's name; those of the process if None.
    """
    given = sys.argv[1:] if argv is None else list(argv)
    with units_of(_typed_size(given)), unheard():
        return _main(given)


def _typed_size(given: Sequence[str]) -> str | None:
    """Return the size that was typed, as sizes are then written in its units; None if there is none."""
    for position, argument in enumerate(given):
        flag, equals, size = argument.partition("=")
        if flag in ("--budget", "--ram"):
            size = size if equals else " ".join(given[position + 1 : position + 2])
            return size.partition(",")[0]  # of several budgets the first
    return None


def _main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    try:
        with prepared():
            try:
                return _run(make_parser(), argv)
            except SystemExit as end:  # --help
                return int(end.code or 0)
    except OutputError as error:
        return ranks.end(error.exit_code, in_flags(error), _keep_silent if error.gone else _tell)
    except LowmemError as error:
        return ranks.end(error.exit_code, in_flags(error), _tell)
    except KeyboardInterrupt:
        return ranks.end(128 + signal.SIGINT, "interrupted", _tell)
    except MemoryError as error:
        why, limited = f" ({error})" if str(error) else "", _typed_size(argv) is not None
        advice = "Lower the budget" if limited else "Free some, or make the network or the batch smaller"
        return ranks.end(1, f"this machine cannot give the memory asked for{why}. {advice}.", _tell)
    except BrokenPipeError:  # whoever read a pipe of --output
        return ranks.end(1, "", _keep_silent)
    except OSError as problem:  # a file where nothing has foreseen it; the standard output says so itself
        where = "" if problem.filename is None else f"{problem.filename}: "
        return ranks.end(1, f"{where}{reason(problem)}.", _tell)


def _keep_silent(text: str) -> None:
    """Say nothing of an end that is none: whoever read the output had enough."""


def _tell(text: str) -> None:
    """Write an error as a line of its own."""
    print(f"lowmem: {text}", file=sys.stderr)


def _run(parser: Parser, given: Sequence[str]) -> int:
    """Parse the arguments and run the command that they name."""
    arguments = _parsed(parser, given)
    if getattr(arguments, "config", None) is not None:
        known = vars(arguments).keys() - {"config", "command", "version"}
        arguments = _parsed(parser, [given[0], *flags_of(arguments.config, known, arguments.command), *given[1:]])
    if arguments.version:
        from lowmem import __version__

        print(f"lowmem {__version__}")
        return 0
    if arguments.command is None:
        parser.print_help()
        return 2
    with warnings.catch_warnings():
        warnings.showwarning = _say
        warnings.simplefilter("always", RuntimeWarning)
        return int(COMMANDS[arguments.command].run(arguments))


def _parsed(parser: Parser, given: Sequence[str]) -> argparse.Namespace:
    """Return the arguments. Raises `InputError` for flags that the command does not have, with the nearest one."""
    arguments, rest = parser.parse_known_args(given)
    if rest:
        raise unknown_arguments(parser, arguments.command, rest)
    return arguments


def _say(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Write a warning as one line, as errors are written; the arguments are those of `warnings.showwarning`."""
    print(f"lowmem: warning: {message}", file=sys.stderr)
