"""Search for budgets that break a promise: a least budget that is not the least, a plan that more budget makes dearer.

Two searches over random networks, each case from a seed of its own:

- least: `minimum_budget` beside the least that any strategy takes, with all its slots and strides, as this library
  places them; whether the least works, less does not, and the advice of refusals works at the first try.
- dearer: plans for budgets from the least to what storing everything takes; costs may never rise.

Run from the repository's root:
python -m scripts.search_least {least,dearer} ... [--first N] [--count N] [--steps N] [--done FILE] [--output FILE]

Prints each case that breaks a promise, and the figures at the end. With --done, each case becomes a line of JSON in
that file as soon as it is tried, and is not tried again: a search that was broken off goes on, and pieces with seeds
of their own can be searched side by side. What does not depend on budgets is shared among those of a network; what
several refusals advise alike is tried once.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import lru_cache, partial
from itertools import accumulate
from math import log
from pathlib import Path
from random import Random
from time import process_time
from typing import Any

import lowmem as lm
from lowmem.planning import candidates, choose, extremes, ladder
from lowmem.planning.accounting import least_overhead
from lowmem.planning.candidates import Candidates
from lowmem.planning.choose import request_of
from lowmem.planning.cost_model import ROWS, WIDTHS, CostModel
from lowmem.planning.drafts import fixed
from lowmem.planning.request import Limit, PlanRequest
from lowmem.schedule.optimal.planner import Planner
from scripts.measuring import about, write_data

KINDS = ("uneven", "uneven", "funnel", "runs")
BATCHES = (1, 7, 64, 256, 1000, 2048)

PLANNED = ("network", "schedule", "nn", "planning")
"""Folders of `lowmem` whose files decide what is planned."""


def network(rng: Random, layers: int) -> lm.Architecture:
    """Return a network of uneven widths, some with norms, dropout and skips."""
    least, most = rng.choice([(8, 300), (64, 128), (17, 32), (1, 16)])
    widths = [rng.randint(least, most) for _ in range(layers)]
    kind = rng.choice(KINDS)
    if kind == "funnel":
        widths.sort(reverse=True)
    if kind == "runs":
        widths = [widths[n - n % 7] for n in range(layers)]
    options: dict[str, Any] = {}
    if rng.random() < 0.2:
        options["norm"] = rng.choice(["batch", "layer"])
    if rng.random() < 0.2:
        options["dropout"] = 0.2
    if rng.random() < 0.2:
        options["residual"] = rng.choice([True, "scaled", "learned"])
    activation, loss = rng.choice(["relu", "tanh", "gelu"]), rng.choice(["mse", "cross_entropy"])
    return lm.Architecture((rng.choice([4, 64, 300]), *widths, rng.choice([1, 10, 100])), activation, loss, **options)


def cost_model(rng: Random) -> CostModel:
    """Return a machine whose rates make no sense, which any plan must bear."""

    def rates() -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(10 ** rng.uniform(-12, -9.5) for _ in WIDTHS) for _ in ROWS)

    def kernels() -> dict[str, float]:
        return {name: 10 ** rng.uniform(-10, -8) for name in ("relu", "tanh", "gelu")}

    bias, accumulating = 10 ** rng.uniform(-10, -8), 10 ** rng.uniform(-11, -9)
    return CostModel("random", "float32", rates(), rates(), kernels(), kernels(), bias, accumulating)


def case(seed: int, layers: Sequence[int], *, costs: bool = False) -> tuple[lm.Architecture, int, dict[str, Any]]:
    """Return a network, a batch and options of `lowmem.plan`."""
    rng = Random(seed)
    architecture = network(rng, rng.randint(*layers))
    batch = rng.choice(BATCHES[bool(architecture.couples) :])
    options: dict[str, Any] = {"optimizer": rng.choice([None, "sgd", "adam"])}
    options["engine"] = rng.choice(["native", "numpy"])
    if costs:
        options["costs"] = cost_model(rng)
    return architecture, batch, options


# The least ---------------------------------------------------------------------------------------------------------


def least_of_all(architecture: lm.Architecture, batch: int, options: dict[str, Any]) -> int:
    """Return the least that any strategy takes, whatever its number of slots or its stride.

    A plan whose simulated peak is more than the least found so far is not placed. For the NumPy engine, where objects
    make that rare, numbers beyond 12 lie 5 % apart.
    """
    request = request_of(architecture, batch, None, **options)
    layers = architecture.layers
    everything = fixed(request, "store_all").plan
    account = everything.account()
    least = everything.peak_bytes
    drafts = [fixed(request, name) for name in ("sqrt", "recompute_all")]
    numbers = [
        n for n in range(layers) if request.engine == "native" or n <= 12 or log(n, 1.05) // 1 > log(n - 1, 1.05) // 1
    ]
    drafts += [fixed(request, "segments", segments=stride) for stride in numbers[2:]]
    drafts += [fixed(request, "revolve", slots=slots) for slots in numbers[:-1]]
    beside = account.total - account.arena - account.overhead + least_overhead(request)
    for draft in sorted(drafts, key=lambda draft: draft.peak_bytes):
        if beside + draft.peak_bytes < least:
            least = min(least, draft.plan.peak_bytes)
    return least


def refusals(
    architecture: lm.Architecture, batch: int, options: dict[str, Any], least: int, half: int
) -> Iterator[str]:
    """Yield what is wrong with refusals below the least: of one half, 0 or 1, of six budgets in bytes and shares."""
    stored = lm.plan(architecture, batch, **options)
    share = 100 * least / stored.peak_bytes
    budgets: list[int | str] = [least - 1, least // 2, f"{share * 0.9:.4f}%", f"{share * 0.999:.6f}%"]
    budgets += ["0.01% of activations", "3% of activations"]
    worked = set[str]()
    for budget in budgets[half::2]:
        try:
            lm.plan(architecture, batch, budget, **options)
            if isinstance(budget, int) or not budget.endswith("activations"):
                yield f"{budget} is below the least, and is planned"
            continue
        except lm.BudgetError as error:
            message = str(error)
        advised = re.search(r'Try budget="([^"]*)"', message)
        if advised is None:
            yield f"{budget}: no advice in {message}"
            continue
        sizes = re.match(r"(.*) (?:is|of activations are) less than the (.*?) (?:\(|that)", message)
        if sizes is None or sizes[1] == sizes[2]:
            yield f"{budget}: sizes do not differ in {message}"
        if advised[1] in worked:
            continue
        try:
            lm.plan(architecture, batch, advised[1], **options)
            worked.add(advised[1])
        except lm.BudgetError as error:
            yield f"{budget}: advised {advised[1]}, then {error}"


def try_least(seed: int) -> dict[str, Any]:
    """Try one network. Return its least budget over that of the best strategy, and what is wrong, in lines."""
    architecture, batch, options = case(seed, (26, 200))
    least, best = lm.minimum_budget(architecture, batch, **options), least_of_all(architecture, batch, options)
    problems = list(refusals(architecture, batch, options, least, seed % 2))
    planned = lm.plan(architecture, batch, least, **options)
    if planned.peak_bytes != least:
        problems.append(f"planned with {planned.peak_bytes} at the least of {least}")
    if least > 1.02 * best:
        problems.append(f"the least of {least} is {least / best:.4f} times that of the best strategy")
    return {"ratio": least / best, "wrong": described(problems, architecture, batch, options)}


def search_least(seeds: Sequence[int], done: Path | None) -> dict[str, Any]:
    """Return in how many networks something was wrong, and the least budget over that of the best strategy of each."""
    found = tried("least", seeds, done, try_least)
    ratios = [one["ratio"] for one in found]
    print(f"least over best {min(ratios):.3f} to {max(ratios):.4f}; {sum(ratio <= 1 for ratio in ratios)} no more")
    return summary("least", found) | {"ratios": ratios}


def summary(search: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what every search tells of all its networks."""
    wrong = [one["wrong"] for one in found if one["wrong"]]
    seconds = sum(one["seconds"] for one in found)
    return {"search": search, "networks": len(found), "wrong": wrong, "seconds": seconds}


def described(
    problems: Sequence[str], architecture: lm.Architecture, batch: int, options: dict[str, Any]
) -> list[str]:
    """Return what is wrong with a network behind what it is, nothing if nothing is."""
    return [f"{architecture}, batch {batch}, {options}", *problems] if problems else []


class Shared:
    """What the budgets of a network share, as it depends on none: chains, drafts, and what schedules take.

    For one budget the planner keeps these itself, see `Candidates`; a search for many is several times as quick so.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Any] = {}

    def clear(self) -> None:
        """Forget all: another network comes."""
        self._known.clear()

    def install(self) -> None:
        """Let the planner look here first."""
        vars(ladder)["Planner"] = lru_cache(maxsize=8)(Planner)

        def begin(found: Candidates, request: PlanRequest, limit: Limit | None) -> None:
            self._begin(found, request, limit)

        vars(candidates)["Candidates"] = type("Candidates", (Candidates,), {"__init__": begin})
        for module in (choose, extremes):
            vars(module)["Candidates"] = candidates.Candidates
        for name in ("revolving", "segmented", "floor_bytes"):
            vars(candidates)[name] = self._remembering(vars(candidates)[name])

    def _remembering(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that makes a thing once for the same request and the same arguments."""

        def remembered(request: PlanRequest, *rest: Any) -> Any:  # noqa: ANN401 - whatever is made
            key = (make.__name__, id(request), *rest)
            if key not in self._known:
                made = make(request, *rest)
                self._known[key] = request, [*made] if isinstance(made, Iterator) else made
            return self._known[key][1]

        return remembered

    def _begin(self, found: Candidates, request: PlanRequest, limit: Limit | None) -> None:
        """Begin candidates with what others of the same request but for the budget have."""
        names = [field.name for field in fields(PlanRequest) if field.name not in ("budget", "costs")]
        key = (*(getattr(request, name) for name in names), id(request.costs))
        if key not in self._known:
            first = Candidates(request, None)
            self._known[key] = request, {name: getattr(first, name) for name in BY_REQUEST}
        known, made = self._known[key]
        Candidates.__init__(found, known, limit)
        vars(found).update(made)


BY_REQUEST = ("store_all", "_thrifty", "_spilled", "_placed")
"""What candidates have for a request whatever the limit."""

SHARED = Shared()


def tried(
    search: str, seeds: Sequence[int], done: Path | None, try_one: Callable[[int], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return what came of each seed; of those that a file holds it is read, the others are tried and written there."""
    lines = done.read_text().splitlines() if done is not None and done.exists() else []
    known = {one["seed"]: one for one in map(json.loads, lines) if one["search"] == search}
    for seed in seeds:
        if seed not in known:
            SHARED.clear()
            begin = process_time()
            known[seed] = {"search": search, "seed": seed, **try_one(seed), "seconds": process_time() - begin}
            if done is not None:
                with done.open("a") as out:
                    out.write(json.dumps(known[seed]) + "\n")
        if known[seed]["wrong"]:
            print(seed, *known[seed]["wrong"], sep="\n    ", flush=True)
    found = [known[seed] for seed in seeds]
    wrong, seconds = sum(bool(one["wrong"]) for one in found), sum(one["seconds"] for one in found)
    print(f"{len(found)} networks, {wrong} wrong, {seconds:.0f} s of processor time")
    return found


# Dearer ------------------------------------------------------------------------------------------------------------


def costs_by_budget(architecture: lm.Architecture, batch: int, options: dict[str, Any], steps: int) -> list[lm.Plan]:
    """Return plans for so many budgets, from the least to what storing everything takes."""
    least = lm.minimum_budget(architecture, batch, **options)
    most = max(lm.plan(architecture, batch, **options).peak_bytes, least)
    budgets = [least + (most - least) * step // steps for step in range(steps + 1)]
    return [lm.plan(architecture, batch, budget, **options) for budget in budgets]


def dearer(plans: Sequence[lm.Plan]) -> list[str]:
    """Return what is wrong with plans for ever larger budgets."""
    problems = []
    for plan, cheapest in zip(plans[1:], accumulate((plan.cost for plan in plans), min), strict=False):
        if plan.cost > cheapest * (1 + 1e-9):
            gap = "" if plan.gap else ", which states a gap of 0"
            problems.append(f"{plan.cost / cheapest:.4f} times dearer at {plan.budget}{gap}")
    problems += [f"{plan.peak_bytes} in {plan.budget}" for plan in plans if plan.peak_bytes > (plan.budget or 0)]
    return problems


def try_dearer(seed: int, steps: int) -> dict[str, Any]:
    """Try one network. Every other one has costs, or is short."""
    costs, short = seed % 2 == 0, seed % 4 < 2
    architecture, batch, options = case(seed, (2, 24) if short else (25, 120), costs=costs)
    plans = costs_by_budget(architecture, batch, options, steps)
    return {"plans": len(plans), "wrong": described(dearer(plans)[:3], architecture, batch, options)}


def search_dearer(seeds: Sequence[int], done: Path | None, steps: int) -> dict[str, Any]:
    """Return for which networks more budget made a plan dearer, and how many plans were made."""
    found = tried("dearer", seeds, done, partial(try_dearer, steps=steps))
    plans = sum(one["plans"] for one in found)
    print(f"{plans} plans")
    return summary("dearer", found) | {"plans": plans}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("search", choices=["least", "dearer"], nargs="+")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, help="how many networks; 300 for least, 100 for dearer")
    parser.add_argument("--steps", type=int, default=300, help="budgets for each network of dearer")
    parser.add_argument("--done", type=Path, metavar="FILE", help="what was tried; it is not tried again")
    parser.add_argument("--output", type=Path, metavar="FILE", help="a JSON file for the figures, as in docs/data")
    arguments = parser.parse_args()
    SHARED.install()
    records = []
    for search in arguments.search:
        count = arguments.count or (300 if search == "least" else 100)
        seeds = range(arguments.first, arguments.first + count)
        if search == "least":
            records.append(search_least(seeds, arguments.done))
        else:
            records.append(search_dearer(seeds, arguments.done, arguments.steps))
    if arguments.output is not None:
        write_data(about(f"search_least {' '.join(arguments.search)}", records, folders=PLANNED), arguments.output)
