"""`lowmem completion`: a script with which a shell completes commands, flags, names and files."""

import argparse

from lowmem.cli.export import FORMATS
from lowmem.common.checks import lookup
from lowmem.network.specs import ACTIVATIONS, ITEM_BYTES, LOSSES
from lowmem.nn.optimizers import OPTIMIZERS
from lowmem.planning.choose import STRATEGIES

HELP = "Print the completion script of a shell: bash, zsh or fish."

SHELLS = ("bash", "zsh", "fish")

NAMES = {
    "activation": ACTIVATIONS,
    "loss": LOSSES,
    "dtype": ITEM_BYTES,
    "optimizer": OPTIMIZERS,
    "strategy": STRATEGIES,
    "format": tuple(FORMATS),
    "shell": SHELLS,
}
"""What can stand behind a flag that takes a name."""

FILES = ("FILE", "RUN", "PATH", "WHAT")
"""The metavars of arguments that are files."""

INSTALL = """To try it in this shell: bash: eval "$(lowmem completion bash)"; zsh: eval "$(lowmem completion zsh)";
fish: lowmem completion fish | source.
To keep it: write the output to ~/.local/share/bash-completion/completions/lowmem, to a file _lowmem in a folder of
zsh's $fpath, or to ~/.config/fish/completions/lowmem.fish."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("shell", metavar="SHELL", help=f"one of {', '.join(SHELLS)}")
    parser.epilog = INSTALL


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    from lowmem.cli import make_parser

    lookup("shell", arguments.shell, dict.fromkeys(SHELLS))
    parser = make_parser()
    _describe(parser)
    print(shtab.complete(parser, shell=arguments.shell))
    return 0


def _describe(parser: argparse.ArgumentParser) -> None:
    """Tell what each argument of a parser, and of those below it, takes. Help keeps its metavars, so only here."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _describe(below)
        elif action.dest in NAMES:
            action.choices = list(NAMES[action.dest])
        elif action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
