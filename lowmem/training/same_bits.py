"""A saved run goes on with the engine and the lanes that it was made with, as its bits depend on them."""

import warnings
from collections.abc import Mapping
from typing import Any

from lowmem.planning.engines.choice import why_not_native
from lowmem.planning.plan import Plan
from lowmem.training.saved_run import SavedRun


def what_bits_depend_on(plan: Plan) -> dict[str, Any]:
    """Return the keywords of the trainer that a saved run keeps as they were chosen.

    Another machine might choose others, and with them other bits.
    """
    threads = plan.lanes if plan.engine == "native" else plan.threads
    return {"micro_batch": plan.micro_batch, "threads": threads, "engine": plan.engine}


def with_its_engine(run: SavedRun, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of the trainer that goes on with a run.

    changes: keywords that replace those of the run.

    Warns, in one line, where another engine or number of lanes must be used or was asked for: the run then goes on to
    other bits, within rounding.
    """
    kept = dict(run.options)
    if "engine" not in kept:
        # Runs of version 0.1 were made with NumPy, in one lane or in lanes of Python's threads, which are no more.
        if (kept.get("threads") or 1) > 1:
            _warn(run, f"{kept['threads']} lanes of an earlier version", "NumPy in one lane")
            kept["threads"] = None
        kept["engine"] = "numpy"
    if kept["engine"] == "native":
        reason = why_not_native(run.architecture, run.optimizer.name)
        if reason is not None and "engine" not in changes:
            _warn(run, "the compiled engine", f"NumPy: {reason}")
            kept |= {"engine": "numpy", "threads": None}
    for name, what in (("engine", "engine"), ("threads", "threads")):
        if name in changes and changes[name] not in (None, kept[name]):
            _warn(run, f"{what} {kept[name]}", f"{what} {changes[name]}, as asked for")
    return kept | dict(changes)


def _warn(run: SavedRun, before: str, now: str) -> None:
    """Say that the run goes on to other bits."""
    warnings.warn(
        f"{run.path} was made with {before} and goes on with {now}. Results agree within rounding, not bit for bit.",
        RuntimeWarning,
        stacklevel=4,
    )
