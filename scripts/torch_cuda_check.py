"""Print, for a few chains and budgets on a GPU, what a plan promises and what PyTorch's allocator measured.

Run from the repository's root: python -m scripts.torch_cuda_check [--quick]
"""

import argparse
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
    print(torch.cuda.get_device_name(), torch.__version__)
    worst, above, different = 1.0, 0, 0
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
            ratio = peak / plan.peak_bytes
            worst, above, different = min(worst, ratio), above + (ratio > 1), different + (not same)
            print(
                f"  share {share:.2f}  promised {plan.peak_bytes / MIB:7.1f}  measured {peak / MIB:7.1f} ({ratio:.4f})"
                f"  gradients {'equal' if same else 'DIFFERENT'}  cost {plan.cost / plan.store_all_cost:.3f}"
                f"  time {_seconds(step) / plain_seconds:.3f}"
            )
    print(f"least measured/promised {worst:.4f}; above the promise: {above}; other gradients: {different}")


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
