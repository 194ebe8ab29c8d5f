"""`lowmem completion`: a script by which a shell completes commands, flags, names and files."""

import argparse

from lowmem.cli.export import FORMATS
from lowmem.common.checks import one_of
from lowmem.network.specs import ACTIVATIONS, ITEM_BYTES, LOSSES
from lowmem.nn.optimizers import OPTIMIZERS
from lowmem.planning.choose import STRATEGIES
from lowmem.planning.engines.choice import ENGINES

HELP = "Print a script that lets bash, zsh or fish complete this command line."

SHELLS = ("bash", "zsh", "fish")

NAMES = {
    "activation": ACTIVATIONS,
    "loss": LOSSES,
    "dtype": ITEM_BYTES,
    "optimizer": OPTIMIZERS,
    "strategy": STRATEGIES,
    "engine": ENGINES,
    "format": tuple(FORMATS),
    "shell": SHELLS,
}
"""The names that a flag takes, by flag."""

FILES = ("FILE", "RUN", "PATH", "WHAT")
"""The metavars of arguments that name files."""

INSTALL = """to try it in this shell:
  bash  eval "$(lowmem completion bash)"
  zsh   eval "$(lowmem completion zsh)"
  fish  lowmem completion fish | source

to keep it, write the output to:
  bash  ~/.local/share/bash-completion/completions/lowmem
  zsh   a file _lowmem in a folder of $fpath
  fish  ~/.config/fish/completions/lowmem.fish"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("shell", metavar="SHELL", help=f"the shell: {', '.join(SHELLS)}")
    parser.epilog, parser.formatter_class = INSTALL, argparse.RawDescriptionHelpFormatter


def run(arguments: argparse.Namespace) -> int:
    """Print the script of a shell."""
    import shtab

    one_of("shell", arguments.shell, SHELLS)
    _describe(arguments.whole)
    print(shtab.complete(arguments.whole, shell=arguments.shell))
    return 0


def _describe(parser: argparse.ArgumentParser) -> None:
    """Note at each argument of a parser, and of its commands, which names it takes or that it takes files.

    The parser is only for the script: with these names, its help would lose the metavars.
    """
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _describe(command)
        elif action.dest in NAMES:
            action.choices = list(NAMES[action.dest])
        elif action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
