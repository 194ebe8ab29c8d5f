"""Print, for a few chains and budgets on a GPU, what a plan promises and what PyTorch's allocator measured.

Measured: the bytes that were requested, and those that `torch.cuda.max_memory_allocated` tells. The latter keep the
promise too where the allocator has expandable segments. Run from the repository's root:
PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True python -m scripts.torch_cuda_check [--quick]
"""

import argparse
import os
import time

import torch

import lowmem.torch as lt
from lowmem.errors import BudgetError
from scripts.torch_chains import CHAINS, MIB, chain, gradients_of, plain_step, planned_step

SHARES = (1.0, 0.75, 0.5, 0.3, 0.15, 0.0)


def main() -> None:
    """Check every chain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small chains")
    quick = parser.parse_args().quick
    if not torch.cuda.is_available():
        raise SystemExit("this check needs a GPU that PyTorch sees.")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    print(
        torch.cuda.get_device_name(), torch.__version__, os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "default allocator")
    )
    ratios: list[tuple[float, float]] = []
    different = 0
    for name in CHAINS:
        model, x, loss = chain(name, quick=quick)
        model, x = model.cuda(), x.cuda()
        begin = time.perf_counter()
        measured = lt.measure(model, x, loss=loss)
        print(f"{name}: {len(measured.stages)} stages, measured in {time.perf_counter() - begin:.2f} s")
        most = lt.plan(measured).peak_bytes
        try:
            least = lt.plan(measured, budget=1).peak_bytes
        except BudgetError as error:
            least = error.minimum
        plain = plain_step(model, x, loss)
        plain()
        torch.manual_seed(1)
        plain()
        expected = gradients_of(model)
        plain_seconds = _seconds(plain)
        model.zero_grad(set_to_none=True)
        peak = lt.measured_peak(plain, "cuda")
        print(f"  plain: {peak / MIB:.1f} MiB, storing everything promises {most / MIB:.1f} MiB")
        for share in SHARES:
            plan = lt.plan(measured, budget=int(least + share * (most - least)))
            step = planned_step(model, x, loss, plan)
            torch.manual_seed(1)
            step()
            same = gradients_of(model) == expected
            model.zero_grad(set_to_none=True)
            peak = lt.measured_peak(step, "cuda")
            model.zero_grad(set_to_none=True)
            ratio, allocated = peak / plan.peak_bytes, _allocated(step) / plan.peak_bytes
            ratios.append((ratio, allocated))
            different += not same
            print(
                f"  share {share:.2f}  promised {plan.peak_bytes / MIB:7.1f}"
                f"  requested {ratio:.4f} allocated {allocated:.4f}"
                f"  gradients {'equal' if same else 'DIFFERENT'}  cost {plan.cost / plan.store_all_cost:.3f}"
                f"  time {_seconds(step) / plain_seconds:.3f}"
            )
    for name, values in zip(("requested", "allocated"), zip(*ratios, strict=True), strict=True):
        above = sum(value > 1 for value in values)
        print(f"{name}/promised: {min(values):.4f} to {max(values):.4f}; above the promise: {above} of {len(values)}")
    print(f"other gradients than the plain model's: {different}")


def _allocated(step: object) -> int:
    """Return the most bytes that PyTorch's allocator gave out during a step, rounding and rests of blocks included."""
    assert callable(step)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    held = step()
    peak = torch.cuda.max_memory_allocated() - before
    del held
    return int(peak)


def _seconds(step: object) -> float:
    """Return the shortest time of a step."""
    assert callable(step)
    times = []
    for _ in range(5):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        step()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times)


if __name__ == "__main__":
    main()
