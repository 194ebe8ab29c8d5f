"""Plans for three PyTorch chains: bytes promised and measured, and time beside checkpoint_sequential.

For each chain a first process measures its stages and plans five budgets, between the least that works and what
storing everything takes. Then each figure comes from a fresh process. Memory: the most that PyTorch's allocator held
above what it held before a step, by PyTorch's own profiler. Gradients: a digest of their bits. checkpoint_sequential
is measured with every number of segments; of those that take no more than the budget, the ones that recompute least
are timed, in turns with the plan in one process, and the fastest counts. So is storing everything. Times are seconds
of the processor on one thread: what a step takes on a machine that nobody else uses.

What any plan could gain on these even cuts: the planner's lower bound, over what the even cuts cost by the same
seconds of stages (`even_cost`: every stage twice, but for the last segment's).

Needs PyTorch (`pip install -e ".[torch]"`). Run from the repository's root:
python -m scripts.benchmark_torch_chains [--quick] [--only CHAIN] [--cases FILE]
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from scripts.measuring import Case, in_fresh_process, note, run_script

SHARES = (0.75, 0.5, 0.3, 0.15, 0.03)
"""Of the way from the least that works to storing everything."""

CANDIDATES = 2
"""Numbers of segments of checkpoint_sequential that are timed: those that recompute least and fit."""

MOST = 12
"""Numbers of segments that are measured, the smallest: more of them recompute more and take more memory again."""

TURNS = 3
"""Of each side of a timing; the first does not count."""

MODULE = "scripts.benchmark_torch_chains"


def measure(case: Case) -> Case:
    """Measure one case in this process."""
    import torch

    torch.set_num_threads(case["threads"])
    work = {"plan": _plans, "memory": _memory, "segments": _segments, "time": _time}[case["what"]]
    return work(case)


def _plans(case: Case) -> Case:
    """Measure the stages and plan the budgets."""
    import lowmem.torch as lt
    from scripts.torch_chains import chain

    model, x, loss = chain(case["chain"], quick=case["quick"])
    return plans_of(lt.measure(model, x, loss=loss), SHARES)


def plans_of(measured: Any, shares: Sequence[float]) -> Case:  # noqa: ANN401 - a lowmem.torch.MeasuredChain
    """Plan a chain. shares: of the way from the least budget that works to storing everything."""
    import lowmem.torch as lt
    from lowmem.errors import BudgetError

    most = lt.plan(measured).peak_bytes
    try:
        least = lt.plan(measured, budget=1).peak_bytes
    except BudgetError as error:
        least = error.minimum
    plans = [lt.plan(measured, budget=int(least + share * (most - least))) for share in shares]
    return {"plans": [plan.to_json() for plan in plans], "store_all_bytes": most, "least_bytes": least}


def _memory(case: Case) -> Case:
    """Return the peak of a step by a plan, or of a plain one, and its gradients."""
    import torch

    import lowmem.torch as lt
    from scripts.torch_chains import chain, gradients_of, plain_step, planned_step

    model, x, loss = chain(case["chain"], quick=case["quick"])
    step = plain_step(model, x, loss)
    if case["plan"] is not None:
        step = planned_step(model, x, loss, lt.Plan.from_json(case["plan"]))
    step()
    model.zero_grad(set_to_none=True)
    torch.manual_seed(1)
    return {"peak_bytes": lt.measured_peak(step), "gradients": gradients_of(model)}


def _segments(case: Case) -> Case:
    """Return the peak of checkpoint_sequential for a number of segments."""
    import lowmem.torch as lt
    from scripts.torch_chains import chain, sequential_step

    model, x, loss = chain(case["chain"], quick=case["quick"])
    step = sequential_step(model, x, loss, case["segments"])
    step()
    model.zero_grad(set_to_none=True)
    return {"peak_bytes": lt.measured_peak(step), "recomputed": recomputed(len(model), case["segments"])}


def numbers_of_segments(stages: int) -> list[int]:
    """Return the numbers of segments of checkpoint_sequential that are measured, for so many stages."""
    return sorted({stages // (stages // n) for n in range(2, stages + 1)} | {2, 3})[:MOST]


def recomputed(stages: int, segments: int) -> int:
    """Return how many stages checkpoint_sequential runs again: all but those of the last segment."""
    return (segments - 1) * (stages // segments)


def candidates(budget: int, sequential: Mapping[int, Case]) -> list[int]:
    """Return the numbers of segments that take no more than a budget, those first that recompute least."""
    fits = [n for n, found in sequential.items() if found["peak_bytes"] <= budget]
    return sorted(fits, key=lambda n: (sequential[n]["recomputed"], n))


def even_cost(plan: Case, children: int, segments: int) -> float:
    """Return the cost of checkpoint_sequential by the seconds of stages that a plan was made of."""
    behind = (segments - 1) * (children // segments)
    stages = plan["measured"]["stages"]
    again = [stage["forward"] for stage in stages if int(stage["name"].partition(".")[0]) < behind]
    return float(plan["store_all_cost"] + sum(again))


def predicted(plan: Case, fits: Sequence[int]) -> Case:
    """Return what a plan predicts, beside the even cuts. fits: numbers of segments that take no more memory."""
    children = 1 + int(plan["measured"]["stages"][-1]["name"].partition(".")[0])
    return {
        "gap": plan["gap"],
        "cost_factor": plan["cost"] / plan["store_all_cost"],
        "lower_bound": plan["lower_bound"],
        "cost": plan["cost"],
        "even_cost": min((even_cost(plan, children, n) for n in fits), default=None),
    }


def _time(case: Case) -> Case:
    """Return the seconds of a step by a plan, by checkpoint_sequential and plain, taken in turns."""
    import lowmem.torch as lt
    from scripts.torch_chains import chain, plain_step, planned_step, sequential_step
    from scripts.turns import in_turns

    model, x, loss = chain(case["chain"], quick=case["quick"])
    plan = lt.Plan.from_json(case["plan"])
    sides: dict[str, Any] = {"plain": plain_step(model, x, loss), "plan": planned_step(model, x, loss, plan)}
    for segments in case["segments"]:
        sides[f"{segments} segments"] = sequential_step(model, x, loss, segments)

    def timed(step: Any) -> Any:  # noqa: ANN401
        return lambda: float(step()[1].detach())

    steps = {name: timed(step) for name, step in sides.items()}
    found = in_turns(steps, 0.0, TURNS)
    return {
        name: {"median": median(side["cpu_seconds"][1:]), "all": side["cpu_seconds"]} for name, side in found.items()
    }


def everything(
    quick: bool, environment: Mapping[str, str], only: str | None = None, threads: int | None = None
) -> list[Case]:
    """Measure all chains and return one record for each budget."""
    records: list[Case] = []
    common = {"quick": quick, "threads": threads or 2}
    for name in (only,) if only else ("mlp", "transformer", "convolutions"):

        def fresh(what: str, name: str = name, **case: Any) -> Case:  # noqa: ANN401
            return in_fresh_process(MODULE, common | {"what": what, "chain": name} | case, environment)

        planned = fresh("plan")
        plain = fresh("memory", plan=None)
        stages = {"mlp": 20 if quick else 100, "transformer": 6 if quick else 24, "convolutions": 20}[name]
        sequential = {n: fresh("segments", segments=n) for n in numbers_of_segments(stages)}
        note(f"{name}: plain {plain['peak_bytes']:,}, {sequential}")
        for share, text in zip(SHARES, planned["plans"], strict=True):
            records.append(_record(name, share, text, planned, plain, sequential, fresh))
            note(f"{records[-1]}")
    return records


def _record(
    name: str,
    share: float,
    text: str,
    planned: Case,
    plain: Case,
    sequential: dict[int, Case],
    fresh: Any,  # noqa: ANN401
) -> Case:
    """Return the figures of one budget."""
    import json

    plan = json.loads(text)
    memory = fresh("memory", plan=text)
    fits = candidates(plan["budget"], sequential)
    times = fresh("time", plan=text, segments=fits[:CANDIDATES], threads=1)
    return {
        "chain": name,
        "share": share,
        "budget": plan["budget"],
        "promised_bytes": plan["peak_bytes"],
        "measured_bytes": memory["peak_bytes"],
        "same_gradients": memory["gradients"] == plain["gradients"],
        **predicted(plan, fits),
        "store_all_bytes": planned["store_all_bytes"],
        "least_bytes": planned["least_bytes"],
        "plain_bytes": plain["peak_bytes"],
        "times": times,
        "sequential": {str(n): found["peak_bytes"] for n, found in sequential.items()},
    }


if __name__ == "__main__":
    run_script(
        "Measure plans for PyTorch chains beside checkpoint_sequential.",
        "benchmark_torch_chains",
        measure,
        everything,
        ("torch",),
        {"choices": ("mlp", "transformer", "convolutions"), "help": "one chain"},
    )
