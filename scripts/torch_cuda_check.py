"""Plans for PyTorch chains on a GPU: bytes promised and taken, bits of gradients, time beside checkpoint_sequential.

Three chains that are worth such a GPU, under autocast to bfloat16, and the three small ones of
`scripts.benchmark_torch_chains`; each at six budgets between the least that works and what storing everything takes.
A chain has two processes, one with the default allocator and one with expandable segments. Each measures the stages,
plans, and checks gradients and memory. The first also times in turns all plans, storing everything, and those numbers
of segments of checkpoint_sequential that take no more memory than a budget and recompute least. A step ends when the
GPU is done.

Memory, above what was held before a step: what was requested of the allocator, which a plan promises; what
`torch.cuda.max_memory_allocated` tells; and what the allocator took from the GPU, beginning with an empty cache.

Without a GPU, --quick runs on the processor, to see that the script works. Run from the repository's root:
python -m scripts.torch_cuda_check [--quick] [--only CHAIN] [--cases FILE]
"""

import json
from collections.abc import Mapping
from statistics import median
from time import perf_counter
from typing import Any

from scripts.benchmark_torch_chains import CANDIDATES, candidates, numbers_of_segments, plans_of, predicted, recomputed
from scripts.measuring import Case, in_fresh_process, note, run_script

SHARES = (1.0, 0.75, 0.5, 0.3, 0.15, 0.0)
"""Of the way from the least that works to storing everything."""

TURNS = 4
"""Of each side of a timing; the first does not count."""

MODULE = "scripts.torch_cuda_check"

CHAINS = ("large transformer", "large mlp", "large convolutions", "mlp", "transformer", "convolutions")

DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""What cuBLAS needs in the environment to give the same bits each time."""

EXPANDABLE = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


class Bench:
    """A chain on its device, and what is measured of its steps."""

    def __init__(self, name: str, *, quick: bool) -> None:
        import torch

        from scripts.torch_chains import chain, plain_step, within

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.device == "cpu" and not quick:
            raise SystemExit("this check needs a GPU that PyTorch sees; --quick runs without one.")
        torch.use_deterministic_algorithms(mode=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
        with torch.device(self.device):
            self.model, self.x, self.loss = chain(name, quick=quick)
        self.within = within(name, self.device)
        self.plain = plain_step(self.model, self.x, self.loss, within=self.within)
        self.plain()
        self.expected = self._gradients(self.plain)

    def planned(self, text: str) -> Any:  # noqa: ANN401 - a step
        """Return a step by a plan."""
        import lowmem.torch as lt
        from scripts.torch_chains import planned_step

        return planned_step(self.model, self.x, self.loss, lt.Plan.from_json(text), self.within)

    def sequential(self, segments: int) -> Any:  # noqa: ANN401 - a step
        """Return a step by checkpoint_sequential."""
        from scripts.torch_chains import sequential_step

        return sequential_step(self.model, self.x, self.loss, segments, self.within)

    def plans(self) -> Case:
        """Measure the stages and plan the budgets."""
        import lowmem.torch as lt

        self.model.zero_grad(set_to_none=True)
        begin = perf_counter()
        with self.within():
            measured = lt.measure(self.model, self.x, loss=self.loss)
        seconds = perf_counter() - begin
        return plans_of(measured, SHARES) | {"measuring_seconds": seconds, "children": len(self.model)}

    def _gradients(self, step: Any) -> list[Any]:  # noqa: ANN401
        """Run a step and return the gradients of all parameters."""
        import torch

        torch.manual_seed(1)
        step()
        gradients = [parameter.grad for parameter in self.model.parameters()]
        self.model.zero_grad(set_to_none=True)
        return gradients

    def requested(self, step: Any) -> int:  # noqa: ANN401
        """Return the most bytes that a step requests."""
        import lowmem.torch as lt

        self.model.zero_grad(set_to_none=True)
        return lt.measured_peak(step, self.device)

    def memory(self, step: Any) -> Case:  # noqa: ANN401
        """Return the most bytes that a step takes, and whether its gradients have the bits of the plain model's."""
        import torch

        pairs = zip(self.expected, self._gradients(step), strict=True)
        same = all(torch.equal(one.view(torch.int32), other.view(torch.int32)) for one, other in pairs)
        found: Case = {"same_gradients": same, "requested": self.requested(step)}
        if self.device == "cpu":
            return found | {"allocated": found["requested"], "reserved": found["requested"]}
        self.model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        held = step()
        found["allocated"] = torch.cuda.max_memory_allocated() - allocated
        found["reserved"] = torch.cuda.max_memory_reserved() - reserved
        del held
        return found

    def timed(self, step: Any) -> Any:  # noqa: ANN401
        """Return a step that ends when the device is done, and returns its loss."""
        import torch

        def whole() -> float:
            value = float(step()[1].detach())
            if self.device == "cuda":
                torch.cuda.synchronize()
            return value

        return whole


def measure(case: Case) -> Case:
    """Measure a chain in this process: its memory, and where the case wants them, times."""
    bench = Bench(case["chain"], quick=case["quick"])
    found = bench.plans()
    steps = [bench.planned(text) for text in found["plans"]]
    found["plain"] = bench.memory(bench.plain)
    found["memory"] = [bench.memory(step) for step in steps]
    if not case["timed"]:
        return found
    bench.expected.clear()
    return found | _times(bench, steps, [json.loads(text)["budget"] for text in found["plans"]]) | _device()


def _times(bench: Bench, steps: list[Any], budgets: list[int]) -> Case:
    """Return what checkpoint_sequential takes, and the seconds of a step of each plan, of it and plain, in turns."""
    from scripts.turns import in_turns

    stages = len(bench.model)
    sequential = {
        n: {"peak_bytes": bench.requested(bench.sequential(n)), "recomputed": recomputed(stages, n)}
        for n in numbers_of_segments(stages)
    }
    sides = {"plain": bench.plain} | {f"plan {number}": step for number, step in enumerate(steps)}
    for n in sorted({n for budget in budgets for n in candidates(budget, sequential)[:CANDIDATES]}):
        sides[f"{n} segments"] = bench.sequential(n)
    turns = in_turns({name: bench.timed(step) for name, step in sides.items()}, 0.0, TURNS)
    times = {
        name: {"median": median(side["seconds"][1:]), "all": side["seconds"], "losses": side["losses"]}
        for name, side in turns.items()
    }
    return {"sequential": sequential, "times": times}


def _device() -> Case:
    """Describe the GPU, if there is one, and say how often the allocator had to empty its cache."""
    import torch

    if not torch.cuda.is_available():
        return {"device": "no GPU", "retries": 0}
    return {"device": torch.cuda.get_device_name(), "retries": torch.cuda.memory_stats()["num_alloc_retries"]}


def everything(
    quick: bool, environment: Mapping[str, str], only: str | None = None, threads: int | None = None
) -> list[Case]:
    """Measure all chains and return one record for each budget."""
    records: list[Case] = []
    for name in (only,) if only else CHAINS:
        case = {"chain": name, "quick": quick}
        own = {**environment, **DETERMINISTIC}
        first = in_fresh_process(MODULE, case | {"timed": True}, own)
        again = in_fresh_process(MODULE, case | {"timed": False}, own | EXPANDABLE)
        records += [_record(name, number, first, again) for number in range(len(SHARES))]
        note(f"{name}: plain {first['plain']}, plans {first['memory']}")
    return records


def _record(name: str, number: int, first: Case, again: Case) -> Case:
    """Return the figures of one budget."""
    plan, other = (json.loads(found["plans"][number]) for found in (first, again))
    sequential = {int(n): found for n, found in first["sequential"].items()}
    fits = candidates(plan["budget"], sequential)
    sides = {"plain": "plain", "plan": f"plan {number}"} | {
        f"{n} segments": f"{n} segments" for n in fits[:CANDIDATES]
    }
    common = ("store_all_bytes", "least_bytes", "measuring_seconds", "children", "device", "retries")
    return {
        "chain": name,
        "share": SHARES[number],
        "budget": plan["budget"],
        "parameter_bytes": plan["measured"]["parameter_bytes"],
        "default": first["memory"][number] | {"promised": plan["peak_bytes"]},
        "expandable": again["memory"][number] | {"promised": other["peak_bytes"]},
        "plain": {"default": first["plain"], "expandable": again["plain"]},
        **predicted(plan, fits),
        "times": {side: first["times"][whole] for side, whole in sides.items()},
        "sequential": {str(n): found["peak_bytes"] for n, found in sequential.items()},
        **{key: first[key] for key in common},
    }


if __name__ == "__main__":
    run_script(
        "Measure plans for PyTorch chains on a GPU beside checkpoint_sequential.",
        "torch_cuda_check",
        measure,
        everything,
        ("torch",),
        {"choices": CHAINS, "help": "one chain"},
    )
