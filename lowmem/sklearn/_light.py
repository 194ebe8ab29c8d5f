"""Puts the import of a module off until something in it is needed.

`import sklearn.base` takes 75 MiB, 35 of them for scipy.stats, which sklearn.utils.fixes imports for a function that
no estimator here calls. The standard library's LazyLoader does not help: it loads at the first look at `__spec__`,
which is what the next import statement does.
"""

import sys
from importlib.util import find_spec, module_from_spec
from threading import RLock
from types import ModuleType
from typing import Any

_LOCK = RLock()


class _Later(ModuleType):
    """A module that has its name, spec and path, and is executed when anything else is asked for."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the module holds
        # Who only looks around, as doctest and inspect do, gets the answer of a module without such a name.
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        with _LOCK:
            if type(self) is _Later:
                self.__class__ = ModuleType  # type: ignore[assignment]  # no longer one of these
                spec = self.__spec__
                assert spec is not None
                assert spec.loader is not None
                spec.loader.exec_module(self)
        return getattr(self, name)


def postpone(name: str, *, before: str) -> None:
    """Let the module `name` be imported at its first use, unless it or `before` was imported already."""
    if name in sys.modules or before in sys.modules:
        return
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:
        return
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    module.__class__ = _Later
    sys.modules[name] = module
