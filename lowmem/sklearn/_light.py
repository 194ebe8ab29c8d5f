"""Delays the import of a module until something in it is used.

`import sklearn.base` takes 75 MiB. 35 of them are those of scipy.stats, which sklearn.utils.fixes imports for a
function that no estimator here calls. The LazyLoader of the standard library cannot delay that: it loads the module as
soon as `__spec__` is read, and the next import statement reads it.
"""

import sys
from importlib.util import find_spec, module_from_spec
from threading import RLock
from types import ModuleType
from typing import Any

_LOCK = RLock()


class _Later(ModuleType):
    """A module with a name, a spec and a path; it is executed when anything else of it is read."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the module holds
        # Tools such as doctest and inspect read special names of every module; that must not load this one.
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        with _LOCK:
            if type(self) is _Later:
                self.__class__ = ModuleType  # type: ignore[assignment]  # from now on a module like others
                spec = self.__spec__
                assert spec is not None
                assert spec.loader is not None
                spec.loader.exec_module(self)
        return getattr(self, name)


def postpone(name: str, *, before: str) -> None:
    """Delay the import of the module `name` to its first use, unless it or the module `before` is imported already."""
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
