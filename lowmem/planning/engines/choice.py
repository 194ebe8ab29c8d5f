"""Which engine carries out a plan: the compiled one where it can, else NumPy's. No NumPy.

What is asked for comes from the argument `engine`, then from LOWMEM_ENGINE in the environment. Without either, the
compiled engine is chosen if it was built at install and knows everything that the network is made of. That the library
can really be loaded is only known once NumPy is there; `note_unusable` tells those who plan after that.
"""

import os
from pathlib import Path

from lowmem.common.checks import lookup
from lowmem.errors import InputError
from lowmem.network.architecture import Architecture
from lowmem.network.native_names import ACTIVATIONS, LOSSES, RULES

ENGINES = ("native", "numpy")

NATIVE = Path(__file__).parents[2] / "runtime" / "engines" / "native"
LIBRARY = NATIVE / ("_native.dll" if os.name == "nt" else "_native.so")
"""The compiled engine, built when lowmem is installed where there is a C compiler."""

_unusable: list[str] = []


def note_unusable(reason: str) -> None:
    """Remember why the compiled engine cannot be loaded in this process."""
    _unusable[:] = [reason]


def choose_engine(
    wish: str | None, architecture: Architecture, optimizer: str | None, own_rule: str | None = None
) -> str:
    """Return "native" or "numpy" for a network and an optimizer's name.

    wish: what the caller asks for; None leaves it to LOWMEM_ENGINE, and without that to what is there.
    own_rule: the class of an optimizer whose rule is its own, whatever its name.
    Raises `InputError` if the compiled engine is asked for and cannot be used, `UnknownNameError` for other names.
    """
    source = f"engine={wish!r}"
    if wish is None and os.environ.get("LOWMEM_ENGINE"):
        wish = os.environ["LOWMEM_ENGINE"]
        source = f"LOWMEM_ENGINE={wish}"
    if wish is not None:
        lookup("engine", wish, dict.fromkeys(ENGINES))
    if wish == "numpy":
        return wish
    reason = why_not_native(architecture, optimizer, own_rule)
    if reason is None:
        return "native"
    if wish is not None:
        raise InputError(f'{source} cannot be had: {reason}. Ask for "numpy", or for none to take what is there.')
    return "numpy"


def why_not_native(
    architecture: Architecture | None = None, optimizer: str | None = None, own_rule: str | None = None
) -> str | None:
    """Return why the compiled engine is not used, as the end of a sentence; None if it can be, as far as is known."""
    if _unusable:
        return _unusable[0]
    if not LIBRARY.exists():
        return "it was not compiled when lowmem was installed (no C compiler, or LOWMEM_BUILD=forbid)"
    unknown = []
    if architecture is not None:
        if architecture.activation not in ACTIVATIONS:
            unknown.append(f"the activation {architecture.activation!r}")
        if architecture.loss not in LOSSES:
            unknown.append(f"the loss {architecture.loss!r}")
        if not all(layer.is_native for layer in set(architecture.each_layer)):
            unknown.append("a kind of layer of this network")
    if own_rule is not None:
        unknown.append(f"the optimizer {own_rule}, which has a rule of its own")
    elif optimizer not in RULES:
        unknown.append(f"the optimizer {optimizer!r}")
    return f"the compiled engine does not know {' and '.join(unknown)}" if unknown else None
