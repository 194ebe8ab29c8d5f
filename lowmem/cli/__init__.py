"""The command line: one file for each command, errors as one clear line, exit code 0, 1 (failed) or 2 (bad input)."""

import sys
from collections.abc import Sequence

from lowmem.cli import calibrate, compare, plan, profile, train
from lowmem.cli.options import Parser
from lowmem.errors import LowmemError

COMMANDS = (plan, train, compare, profile, calibrate)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. argv: arguments without the program's name, those of the process by default."""
    parser = Parser(prog="lowmem", description="Train deep MLPs inside a memory budget that is kept.")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", parser_class=Parser)
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        command.add_arguments(commands.add_parser(name, help=command.HELP, description=command.HELP))
    try:
        return _run(parser, argv)
    except LowmemError as error:
        print(f"lowmem: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("lowmem: interrupted", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(f"lowmem: this machine cannot give the memory asked for ({error}). Lower the budget.", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; nothing is left to say
        return 1


def _run(parser: Parser, argv: Sequence[str] | None) -> int:
    """Parse the arguments and run the command they name."""
    arguments = parser.parse_args(argv)
    if arguments.version:
        from lowmem import __version__

        print(f"lowmem {__version__}")
        return 0
    for command in COMMANDS:
        if command.__name__.rpartition(".")[2] == arguments.command:
            return int(command.run(arguments))
    parser.print_help()
    return 2
