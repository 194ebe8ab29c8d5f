"""The same training step in lowmem and its peers: time and memory of the process, measured alike, in one run.

Same weights, data, loss and plain SGD; a fresh process for each measurement; rounds interleaved (A B C, A B C), of
which the medians count. Memory is resident: the peak during the steps (a warm-up included) above the floor. So
parameters are in it, in every library the same. The losses are kept, to see that all did the same work.

Time is processor time over that of the step's matrix products alone, in NumPy (`scripts.turns`). Both take turns in
one process, once its memory is known: what else the machine does slows both. Seconds alone, minutes apart, differed by
1.7 for the very same step.

The floor is that of a second process, which has the imports and the data, has compiled what is compiled, and has
run a step of a tiny network, as libraries load parts of themselves at their first use. In the process that is
measured nothing ran before, so that no block left behind shapes the heap.

Peers' figures depend on the C library: by default glibc keeps freed blocks of some MiB for itself, small blocks settle
in them, and the process grows over the first steps, differently in each run: the table shows the spread of the rounds.
With MALLOC_MMAP_THRESHOLD_=1048576 it gives every larger block back at once, at the price of page faults. Both are
measured. "hook" updates each parameter as soon as its gradient is there, as lowmem does. JAX is measured as one
compiled step that may overwrite its parameters: storing everything; with `jax.checkpoint` around each segment; and as
a scan over segments of layers, each under `jax.checkpoint`, which needs layers of one width.

Needs the peers (`pip install -e ".[peers]"`). Run from the repository's root:
python -m scripts.compare_peers [--brief] [--quick]
"""

import gc
import importlib
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.process_memory import resident
from lowmem.measure.memory import reset_resident_peak, resident_peak
from lowmem.planning.plan import Plan
from scripts.measuring import Case, Timer, in_fresh_process, note, run_script

Array = NDArray[Any]
Step = Callable[[], float]
"""Runs one training step and returns the loss before its update."""

RATE, ROUNDS, STEPS, TURNS = 1e-4, 2, 1, 3
MEDIANS = ("step_seconds", "cpu_seconds", "above_floor_bytes", "over_floor")

IMPORTS = {
    "lowmem": ("lowmem.runtime.backprop", "lowmem.planning.choose", "lowmem.nn.optimizers"),
    "torch": ("torch", "torch.utils.checkpoint", "torch._dynamo"),  # the last is what the first optimizer loads
    "jax": ("scripts.jax_peer",),
    "sklearn": ("sklearn.neural_network",),
    "numpy": ("numpy",),
}
TINY = {"widths": [32] * 50 + [10], "batch": 32, "budget": None}
"""The step that is run before the floor is taken: with layers for every number of segments."""
MMAP = {"MALLOC_MMAP_THRESHOLD_": "1048576"}

DROPOUT = 0.1
"""Rate in the residual network."""

VARIANCES = {"relu": 2.0, "tanh": 1.0, "gelu": 4.0, "silu": 4.0}
"""Of weights, times n_{l-1}: what keeps states and deltas at one size over a thousand layers. Others would bring
numbers so small that arithmetic becomes slow, or infinite ones. For gelu and silu it holds around 0, where their slope
is ½."""
GELU_FIRST = 0.001
"""Weights of a gelu network's first layer are that much smaller, so that s stays around 0."""


def weights(widths: list[int], activation: str = "relu") -> Iterator[Array]:
    """Yield the weights of each layer, (n_l, n_{l-1}): normal, of `VARIANCES`; biases are 0 everywhere."""
    rng = np.random.default_rng(0)
    size = GELU_FIRST if activation in ("gelu", "silu") else 1.0
    for entering, leaving in pairwise(widths):
        w = rng.standard_normal((leaving, entering), np.float32)
        w *= size * (VARIANCES[activation] / entering) ** 0.5
        size = 1.0
        yield w


def batch(case: Case) -> tuple[Array, Array]:
    """Return the data of every step: x (B, n_0) and labels (B,)."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((case["batch"], case["widths"][0]), np.float32)
    return x, rng.integers(0, case["widths"][-1], case["batch"])


def lowmem_plan(case: Case) -> Plan:
    """Return lowmem's plan; `threads` are passed on only where the case names them."""
    import lowmem as lm

    residual: dict[str, Any] = {"residual": True, "norm": "layer", "dropout": DROPOUT}
    kinds = residual if case.get("residual") else {}
    architecture = lm.Architecture(tuple(case["widths"]), case.get("activation", "relu"), **kinds)
    options: dict[str, Any] = {"threads": case["threads"]} if "threads" in case else {}
    return lm.plan(architecture, case["batch"], case["budget"], case.get("optimizer", "sgd"), **options)


def lowmem_step(case: Case, x: Array, y: Array) -> Step:
    """Return lowmem's step, the update fused into the backward pass."""
    import lowmem as lm

    plan = lowmem_plan(case)
    mlp = lm.MLP(plan.architecture)
    for mine, w in zip(mlp.weights, weights(case["widths"], plan.architecture.activation), strict=True):
        mine[:] = w
    if case.get("inference"):
        from lowmem.runtime.prediction import runner_of

        runner, outputs = runner_of(mlp, len(x)), np.empty((len(x), case["widths"][-1]), np.float32)

        def predict() -> float:
            runner.into(x, outputs)
            return float(outputs[0, 0])

        return predict
    backprop = lm.Backprop(mlp, plan, lm.make_optimizer(plan.optimizer or "sgd", lr=case.get("rate", RATE)))
    return lambda: backprop(x, y)[0]


def torch_step(case: Case, x: Array, y: Array) -> Step:
    """Return PyTorch's step; `segments` is for checkpoint_sequential, None stores everything."""
    import torch
    from torch.utils.checkpoint import checkpoint_sequential

    activation = case.get("activation", "relu")
    layers = []
    for w in weights(case["widths"], activation):
        linear = torch.nn.utils.skip_init(torch.nn.Linear, w.shape[1], w.shape[0])
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(w))
            linear.bias.zero_()
        if activation == "relu":  # in place: of each layer one array is kept, as in lowmem
            nonlinear = torch.nn.ReLU(inplace=True)
        else:
            nonlinear = {"tanh": torch.nn.Tanh, "gelu": torch.nn.GELU, "silu": torch.nn.SiLU}[activation]()
        layers.append(torch.nn.Sequential(linear, nonlinear))
    model = torch.nn.Sequential(*layers[:-1], layers[-1][0])
    if case.get("residual"):
        model = torch_residual([layer[0] for layer in layers])
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    rate = case.get("rate", RATE)
    if case.get("optimizer") == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    if case.get("inference"):
        model.eval()

        def predict() -> float:
            with torch.inference_mode():
                return float(model(inputs)[0, 0])

        return predict

    def update(parameter: Any) -> None:  # noqa: ANN401 - a tensor
        with torch.no_grad():
            parameter.add_(parameter.grad, alpha=-rate)
        parameter.grad = None

    if case["hook"]:
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(update)

    def step() -> float:
        if case["segments"] is None:
            outputs = model(inputs)
        else:
            outputs = checkpoint_sequential(model, case["segments"], inputs, use_reentrant=False)
        loss = torch.nn.functional.cross_entropy(outputs, labels)
        loss.backward()
        if not case["hook"]:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def torch_residual(linears: list[Any]) -> Any:  # noqa: ANN401 - a module
    """Return PyTorch's residual network in pre-activation form: x + linear(dropout(gelu(norm(x)))) between equals."""
    import torch

    class Layer(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, linear: Any, *, skips: bool) -> None:  # noqa: ANN401
            super().__init__()
            self.norm, self.linear, self.skips = torch.nn.LayerNorm(linear.in_features), linear, skips
            self.sigma, self.drop = torch.nn.GELU(), torch.nn.Dropout(DROPOUT)

        def forward(self, x: Any) -> Any:  # noqa: ANN401
            out = self.linear(self.drop(self.sigma(self.norm(x))))
            return x + out if self.skips else out

    first, *inner, last = linears
    return torch.nn.Sequential(first, *(Layer(one, skips=True) for one in inner), Layer(last, skips=False))


def jax_step(case: Case, x: Array, y: Array) -> Step:
    """Return JAX's step, compiled."""
    from scripts import jax_peer

    return jax_peer.step(case, list(weights(case["widths"])), x, y, RATE)


def sklearn_step(case: Case, x: Array, y: Array) -> Step:
    """Return scikit-learn's step: `partial_fit` on one batch, without penalty and momentum."""
    import warnings

    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore")  # the batch that makes the network is smaller than batch_size
    model = MLPClassifier(
        tuple(case["widths"][1:-1]),
        solver="sgd",
        alpha=0,
        batch_size=len(x),
        learning_rate_init=RATE,
        momentum=0,
        nesterovs_momentum=False,
        random_state=0,
    )
    model.partial_fit(x[:16], y[:16], classes=np.arange(case["widths"][-1]))
    for mine, b, w in zip(model.coefs_, model.intercepts_, weights(case["widths"]), strict=True):
        mine[:], b[:] = w.T, 0
    return lambda: float(model.partial_fit(x, y).loss_)


def numpy_step(case: Case, x: Array, y: Array) -> Step:
    """Return the step that one writes first: store every layer's output, allocate freely."""
    parameters = [(w, np.zeros(len(w), np.float32)) for w in weights(case["widths"])]
    rows = np.arange(len(x))

    def step() -> float:
        states = [x]
        for w, b in parameters[:-1]:
            states.append(np.maximum(states[-1] @ w.T + b, 0))
        w, b = parameters[-1]
        s = states[-1] @ w.T + b
        s -= s.max(axis=1, keepdims=True)
        p = np.exp(s) / np.exp(s).sum(axis=1, keepdims=True)
        loss = -float(np.log(p[rows, y]).mean())
        delta = p
        delta[rows, y] -= 1
        delta /= np.float32(len(x))
        for layer in range(len(parameters), 0, -1):
            (w, b), state = parameters[layer - 1], states.pop()
            g_w, g_b = delta.T @ state, delta.sum(axis=0)
            if layer > 1:
                delta = (delta @ w) * (state > 0)
            w -= RATE * g_w
            b -= RATE * g_b
        return loss

    return step


STEP_MAKERS: dict[str, Callable[[Case, Array, Array], Step]] = {
    "lowmem": lowmem_step,
    "torch": torch_step,
    "jax": jax_step,
    "sklearn": sklearn_step,
    "numpy": numpy_step,
}


def measure(case: Case) -> Case:
    """Measure one case in this process, or only its floor."""
    found, step = measure_memory(case)
    return found if step is None else found | _beside_floor(case, step)


def measure_memory(case: Case) -> tuple[Case, Step | None]:
    """Measure what one case takes in this process, and return the step too; of a floor there is none."""
    for module in IMPORTS[case["library"]]:
        importlib.import_module(module)
    if case["library"] == "jax":
        # What the compiler leaves behind is the library's, as imports are.
        importlib.import_module("scripts.jax_peer").compiled(case, RATE)
    make_step = STEP_MAKERS[case["library"]]
    x, y = batch(case)
    if case["only_floor"]:
        if case["library"] != "jax":  # compiling has loaded all there is, and would do it again for another shape
            tiny = case | TINY
            make_step(tiny, *batch(tiny))()
        gc.collect()
        return {"floor_bytes": resident()}, None
    step = make_step(case, x, y)
    gc.collect()
    reset_resident_peak()
    timer, losses = Timer(), []
    for _ in range(1 + case.get("steps", STEPS)):
        with timer:
            losses.append(step())
    return {"peak_bytes": resident_peak(), "losses": losses} | timer.medians(), step


def _beside_floor(case: Case, step: Step) -> Case:
    """Return the processor time of a step over that of its products alone, which take turns with it."""
    from scripts.turns import floor_step, in_turns, over

    turns = in_turns({"floor": floor_step(case | {"library": "numpy"}), "step": step}, 0, TURNS)
    return {"over_floor": over([turns["floor"]], [turns["step"]], "cpu_seconds")["median"]}


def measured(case: Case, environment: Mapping[str, str]) -> Case:
    """Measure one case in two processes: its floor, and what it takes above that."""
    variables = environment | case.get("environment", {})
    floor, taken = (
        in_fresh_process("scripts.compare_peers", case | {"only_floor": only}, variables) for only in (True, False)
    )
    return taken | {"above_floor_bytes": taken.pop("peak_bytes") - floor["floor_bytes"]}


def cases(quick: bool) -> list[Case]:
    """List what is compared."""
    layers, width, rows = (20, 64, 512) if quick else (200, 256, 2048)
    shape: Case = {"widths": [width] * layers + [10], "batch": rows}
    budgets = [f"{share}% of activations" for share in ((50, 25) if quick else (50, 25, 12, 6, 3))]
    listed: list[Case] = [{"library": "lowmem", "name": "lowmem", "budget": budget} for budget in [None, *budgets]]
    segment_counts = [2, 5] if quick else [5, 10, 20, 40]
    for allocator, variables in (("glibc", {}), ("mmap", MMAP)):
        torch: Case = {"library": "torch", "allocator": allocator, "environment": variables}
        listed.append(torch | {"name": "PyTorch", "segments": None, "hook": False})
        for name, hook, counts in (("", False, segment_counts), (", hook", True, segment_counts[1:3])):
            listed += [torch | {"name": f"PyTorch checkpoint{name}", "segments": n, "hook": hook} for n in counts]
        jax: Case = {"library": "jax", "allocator": allocator, "environment": variables}
        listed.append(jax | {"name": "JAX", "segments": None, "scan": False})
        for name, scan, counts in (("remat", False, segment_counts[1:3]), ("scan, remat", True, segment_counts)):
            listed += [jax | {"name": f"JAX {name}", "segments": n, "scan": scan} for n in counts]
    listed += [{"library": "sklearn", "name": "scikit-learn"}, {"library": "numpy", "name": "naive NumPy"}]
    return [shape | case for case in listed]


def everything(quick: bool, environment: Mapping[str, str], brief: bool = False) -> list[Case]:
    """Run all rounds and return one record for each case: medians, and the loss of every step."""
    listed = cases(quick)
    found: list[list[Case]] = [[] for _ in listed]
    for number in range(1 if quick or brief else ROUNDS):
        for case, results in zip(listed, found, strict=True):
            result = measured(case, environment)
            results.append(result)
            over, memory = result["over_floor"], result["above_floor_bytes"] / 2**20
            label = f"{case['name']} {case.get('budget') or case.get('segments') or ''} {case.get('allocator', '')}"
            note(f"round {number + 1}, {label}: {over:.3f} x, {memory:.1f} MiB, losses {result['losses']}")
    return [case | _summary(results) for case, results in zip(listed, found, strict=True)]


def _summary(results: list[Case]) -> Case:
    """Return medians over the rounds, with every round's time and memory, and the losses, the same in each."""
    medians = {name: median(result[name] for result in results) for name in MEDIANS}
    of_rounds = {f"{name}_of_rounds": [result[name] for result in results] for name in MEDIANS}
    return medians | of_rounds | {"losses": results[0]["losses"]}


if __name__ == "__main__":
    run_script(
        "Compare lowmem with its peers on the same step.",
        "compare_peers",
        measure,
        everything,
        ("numpy", "torch", "jax", "scikit-learn"),
        brief="one round of all settings",
    )
