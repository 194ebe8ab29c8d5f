"""A saved run goes on with the engine and the lanes that it was made with, as its bits depend on them.

What else belongs to the run, such as its optimizer, cannot be changed, and refusals do not advise it.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lowmem.common.checks import one_of, positive
from lowmem.common.disk.spill_file import check_folder
from lowmem.errors import Advice, BudgetError, InputError, UnknownNameError
from lowmem.planning.engines.choice import ENGINES, why_not_native
from lowmem.planning.plan import Plan
from lowmem.training.saved_run import SavedRun


def what_bits_depend_on(plan: Plan) -> dict[str, Any]:
    """Return the keywords of the trainer that a saved run keeps as they were chosen.

    Another machine might choose others, and with them other bits.
    """
    threads = plan.lanes if plan.engine == "native" else plan.threads
    return {"micro_batch": plan.micro_batch, "threads": threads, "engine": plan.engine}


def replaced(run: SavedRun, changes: Mapping[str, Any], trainer: Callable[..., Any]) -> dict[str, Any]:
    """Return the keywords of the trainer that goes on with a run; the rest is as in `with_its_engine`.

    Raises `InputError` for changes that are no keywords, or none of a resumed run.
    """
    check_changes(changes, trainer)
    if "disk" not in changes and run.options.get("disk") is not None:
        try:
            check_folder(run.options["disk"])
        except InputError as error:
            raise InputError(
                f"{error} It is that of the saved run {run.path}: name another one with ",
                Advice("disk", "..."),
                ", or go on in memory with ",
                Advice("disk", None),
                ".",
            ) from None
    return with_its_engine(run, changes)


@contextmanager
def going_on(run: SavedRun) -> Iterator[None]:
    """Tell what goes wrong inside as what resuming a run is told: what the file holds is not what somebody gave."""
    try:
        with advice_for(resumed=True):
            yield
    except (TypeError, KeyError) as problem:
        raise InputError(
            f"{run.path} holds options that this version does not know: {problem}. Resume it with the version that "
            "saved it."
        ) from None


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
    for name in ("engine", "threads"):
        if changes.get(name) is None:
            continue
        asked = positive(name, changes[name]) if name == "threads" else one_of(name, changes[name], ENGINES)
        if asked != kept[name]:
            _warn(run, f"{name} {kept[name]}", f"{name} {asked}, as asked for")
    return kept | dict(changes)


OF_THE_RUN = ("optimizer", "batch_size", "micro_batch")
"""Advice for new runs that is none for a saved one: it would go on as another run."""


def check_changes(changes: Mapping[str, Any], trainer: Callable[..., Any]) -> None:
    """Refuse what does not replace a keyword of a trainer when a run is resumed. Raises `InputError`."""
    facts = inspect.signature(trainer).parameters.values()
    known = [one.name for one in facts if one.kind is one.KEYWORD_ONLY]
    for name in changes:
        if name in ("mlp", "optimizer"):
            what = "network" if name == "mlp" else "optimizer"
            raise InputError(
                f"Trainer.resume takes no {name}: a saved run goes on with its own {what}. Leave it out, or begin a "
                "new run with lowmem.Trainer."
            )
        if name not in known:
            raise UnknownNameError("keyword of Trainer.resume", name, known)


@contextmanager
def advice_for(resumed: bool) -> Iterator[None]:
    """Let a refusal inside advise only what goes with a resumed run, if it is one."""
    try:
        yield
    except BudgetError as error:
        if resumed:
            error.advice = tuple(one for one in error.advice if not _is_of_the_run(one))
        raise


def _is_of_the_run(advice: Advice | str) -> bool:
    return isinstance(advice, Advice) and advice.keyword in OF_THE_RUN


def _warn(run: SavedRun, before: str, now: str) -> None:
    """Say that the run goes on to other bits."""
    warnings.warn(
        f"{run.path} was made with {before} and goes on with {now}. Results agree within rounding, not bit for bit.",
        RuntimeWarning,
        stacklevel=5,
    )
