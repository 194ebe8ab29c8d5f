"""Stages of every kind in a plan: each runs right, with the bits of the plain model, or is refused by its name."""

import copy
import gc
import pickle
import random
import re
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any, cast

import pytest

from lowmem.errors import BudgetError, InputError, RunError

pytest.importorskip("torch")

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import lowmem.torch as lt
from lowmem.torch.measuring.meter import meter
from tests.peers.test_torch_chains import (
    _one_thread,
    equal,
    gradients,
    loss_of,
    mlp,
    peak_of,
    plain_and_planned,
    step,
    tightest,
)

assert _one_thread  # a fixture for every test

Named = namedtuple("Named", ["left", "right"])


class Calls(nn.Module):
    """A stage that is a function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


class Lstm(nn.Module):
    """PyTorch has another kernel for it where nothing is recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LSTM(64, 64, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.inner(x)[0]


class Counts(nn.Module):
    """Its output depends on a buffer that it writes to; rebinds: puts another tensor there."""

    count: Any

    def __init__(self, *, rebinds: bool) -> None:
        super().__init__()
        self.rebinds = rebinds
        self.register_buffer("count", torch.zeros(64))

    def forward(self, x: Any) -> Any:
        if self.rebinds:
            self.count = self.count + x.detach().mean(0)
        else:
            self.count += 1
        return x * (1 + self.count)


class Recomputes(nn.Module):
    """A stage with a checkpoint of PyTorch's own inside."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.inner = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 64))

    def forward(self, x: Any) -> Any:
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


class Differentiates(nn.Module):
    """A stage that takes a gradient itself: the force that belongs to an energy."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, x: Any) -> Any:
        at = x if x.requires_grad else x.detach().requires_grad_()
        (force,) = torch.autograd.grad(self.energy(at).sum(), at, create_graph=True)
        return x + force


class Functional(nn.Module):
    """A stage that uses torch.func."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 64)

    def forward(self, x: Any) -> Any:
        return torch.func.vmap(torch.func.grad(lambda row: torch.tanh(self.inner(row)).sum()))(x)


class Attends(nn.Module):
    """In evaluation mode PyTorch has another kernel for it where nothing is recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.TransformerEncoderLayer(64, 4, 64, dropout=0.0, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.inner(x[None])[0]


def between(*stages: Callable[[], nn.Module], depth: int = 4) -> Callable[[], Any]:
    """Return what makes a chain of these stages with linear layers between."""

    def make() -> Any:
        return nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(64, 64), *(stage() for stage in stages))))

    return make


def reused() -> Any:
    layer, activation = nn.Linear(64, 64), nn.GELU()
    return nn.Sequential(layer, activation, layer, activation, nn.Linear(64, 64), activation, layer)


def partly_evaluating() -> Any:
    model = nn.Sequential(*(Attends() for _ in range(4)))
    model[1].eval()
    model[3].inner.eval()
    return model


def tied_embedding() -> Any:
    first, last = nn.Embedding(50, 64), nn.Linear(64, 50, bias=False)
    last.weight = first.weight
    return nn.Sequential(first, *mlp(4), last)


def detaches(x: Any) -> Any:
    return x.detach() * 2


def rows() -> Any:
    return torch.randn(96, 64)


def tokens() -> Any:
    return torch.randint(0, 50, (16, 6))


RIGHT: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "LSTM": (lambda: nn.Sequential(*(Lstm() for _ in range(4))), lambda: torch.randn(4, 10, 64)),
    "evaluation inside": (partly_evaluating, rows),
    "a tuple of one": (
        between(lambda: Calls(lambda x: (x * 2,)), lambda: Calls(lambda pair: pair[0].tanh())),
        rows,
    ),
    "a tuple of one at the end": (lambda: nn.Sequential(*mlp(3), Calls(lambda x: (x * 2,))), rows),
    "a batch in a tuple of one": (lambda: nn.Sequential(Calls(lambda x: x[0] + 1), *mlp(3)), lambda: (rows(),)),
    "named tuples": (
        between(lambda: Calls(lambda x: Named(x * 2, x.tanh())), lambda: Calls(lambda pair: pair.left * pair.right)),
        rows,
    ),
    "tuples of PyTorch": (
        between(
            lambda: Calls(lambda x: torch.max(x, 1)),
            lambda: Calls(lambda pair: pair.values[:, None].expand(-1, 64) * 1),
        ),
        rows,
    ),
    "a tensor twice": (between(lambda: Calls(lambda x: (x * 2,) * 2), lambda: Calls(sum)), rows),
    "InstanceNorm with statistics": (
        lambda: nn.Sequential(
            *(
                m
                for _ in range(4)
                for m in (nn.Conv1d(4, 4, 3, padding=1), nn.InstanceNorm1d(4, track_running_stats=True))
            )
        ),
        lambda: torch.randn(8, 4, 32),
    ),
    "spectral norm": (between(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(64, 64)), nn.GELU), rows),
    "buffers that are written": (between(lambda: Counts(rebinds=False), nn.Tanh), rows),
    "buffers that are replaced": (between(lambda: Counts(rebinds=True), nn.Tanh), rows),
    "BatchNorm with a mean of all batches": (between(lambda: nn.BatchNorm1d(64, momentum=None), nn.ReLU), rows),
    "a module that comes again": (reused, rows),
    "checkpoints inside": (between(lambda: Recomputes(reentrant=False)), rows),
    "reentrant checkpoints inside": (between(lambda: Recomputes(reentrant=True)), rows),
    "gradients inside": (between(Differentiates), rows),
    "torch.func inside": (between(Functional), rows),
    "an embedding": (lambda: nn.Sequential(nn.Embedding(50, 64), *mlp(4)), tokens),
    "an embedding with sparse gradients": (lambda: nn.Sequential(nn.Embedding(50, 64, sparse=True), *mlp(4)), tokens),
    "an embedding of bounded norm": (lambda: nn.Sequential(nn.Embedding(50, 64, max_norm=1.0), *mlp(4)), tokens),
    "an embedding that is the last layer too": (tied_embedding, tokens),
    "lazy layers": (lambda: nn.Sequential(nn.LazyLinear(64), nn.ReLU(), nn.LazyLinear(64), nn.Tanh()), rows),
    "a gradient that ends": (lambda: nn.Sequential(*mlp(2), Calls(detaches), *mlp(3)), rows),
    "integers between": (
        lambda: nn.Sequential(*mlp(2), Calls(lambda x: x.argmax(-1)), nn.Embedding(64, 64), *mlp(2)),
        rows,
    ),
    "nothing to train": (
        lambda: nn.Sequential(*(Calls(each) for each in (torch.tanh, torch.exp, torch.sin, torch.sigmoid, torch.cos))),
        lambda: rows().requires_grad_(),
    ),
    "float64": (lambda: mlp(4).double(), lambda: rows().double()),
    "bfloat16": (lambda: mlp(4).bfloat16(), lambda: rows().bfloat16()),
    "half precision": (lambda: mlp(4).half(), lambda: rows().half()),
    "one row": (mlp, lambda: torch.randn(1, 64)),
    "no rows": (mlp, lambda: torch.randn(0, 64)),
    "a vector": (mlp, lambda: torch.randn(64)),
    "a transposed batch": (mlp, lambda: torch.randn(64, 96).t()),
    "an expanded batch": (mlp, lambda: torch.randn(1, 64).expand(96, 64)),
    "one stage": (lambda: nn.Sequential(nn.Linear(64, 64)), rows),
    "empty Sequentials": (lambda: nn.Sequential(nn.Linear(64, 64), nn.Sequential(), nn.Sequential(nn.Tanh())), rows),
    "plans inside": (
        lambda: nn.Sequential(*(tight(part, rows().requires_grad_()) for part in (mlp(2), mlp(3)))),
        lambda: rows().requires_grad_(),
    ),
}
"""What stages may be: how to make the model, and a batch."""


def loss(output: Any) -> Any:
    """Return a loss of all outputs that are numbers."""
    every = output if isinstance(output, tuple) else (output,)
    return loss_of(every[0].float() if every[0].dtype in (torch.bfloat16, torch.half) else every[0])


@pytest.mark.filterwarnings("ignore:.*[Ll]azy modules.*:UserWarning")
@pytest.mark.parametrize("name", RIGHT)
def test_stages_of_every_kind_have_the_bits_of_the_plain_model_in_the_bytes_that_were_promised(name: str) -> None:
    make, batch = RIGHT[name]
    x, runs = batch(), []
    for plan, plain, planned in plain_and_planned(make, x, loss):
        runs.append(plan.forward_runs)
        assert equal(list(map(dense, gradients(plain))), list(map(dense, gradients(planned))))
        assert equal(list(plain.buffers()), list(planned.buffers()))
        planned.zero_grad()
        peak = peak_of(planned, x, loss)
        assert peak <= plan.peak_bytes
    assert max(runs) > len(plan.measured.stages) or len(plan.measured.stages) <= 3


def dense(gradient: Any) -> Any:
    return gradient.to_dense() if gradient is not None and gradient.is_sparse else gradient


# Products that nobody needs --------------------------------------------------------------------------------------


class Products(TorchDispatchMode):
    """Counts the products that are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.forwards = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        products = (torch.ops.aten.addmm.default, torch.ops.aten.convolution.default)
        self.forwards += func in products and args[0].device.type == "cpu"
        return func(*args, **(kwargs or {}))


def convolutions() -> Any:
    return nn.Sequential(*(m for _ in range(8) for m in (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ELU())))


PRODUCTS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "linear": (mlp, rows),
    "linear, sequences": (mlp, lambda: torch.randn(6, 16, 64)),
    "convolutions": (convolutions, lambda: torch.randn(4, 4, 12, 12)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_that_nobody_needs_are_not_taken_again(name: str) -> None:
    make, batch = PRODUCTS[name]
    model, x = make(), batch()
    count = sum(isinstance(module, (nn.Linear, nn.Conv2d)) for module in model.modules())
    plan = lt.plan(
        model, x, strategy="segments", segments=1, rounds=1
    )  # each stage is recorded with nothing behind it
    planned, found = lt.checkpointed(model, plan), []
    for each in (model, planned):
        model.zero_grad()
        with Products() as products:
            step(each, x)
        assert products.forwards == count
        found.append(gradients(model))
    assert equal(*found)
    assert plan.forward_runs == len(plan.measured.stages) + others(plan) > len(plan.measured.stages)


def others(plan: Any) -> int:
    """Return how many stages run again that are no products, the last stage of the chain left out."""
    return sum(stage.alone is None for stage in plan.measured.stages[:-1])


def test_a_layer_with_a_hook_gives_it_what_it_gave() -> None:
    model, x = mlp(), rows()
    planned = lt.checkpointed(model, lt.plan(model, x, strategy="segments", segments=1, rounds=1))
    seen: dict[Any, list[Any]] = {part[0]: [] for part in model}
    for layer in seen:
        layer.register_forward_hook(lambda layer, given, output: seen[layer].append(output.detach().clone()))
    step(planned, x)
    assert sum(len(outputs) > 1 for outputs in seen.values()) == len(seen)
    assert all(torch.equal(outputs[0], each) for outputs in seen.values() for each in outputs)


# What is refused -------------------------------------------------------------------------------------------------


class Keeps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.auxiliary = nn.Linear(64, 64), [torch.zeros(())]

    def forward(self, x: Any) -> Any:
        y = self.inner(x)
        self.auxiliary[0] = y.square().mean()
        return y.tanh()


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Any) -> Any:
        self.calls += 1
        return x * self.calls


class Gives(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64, 64))

    def forward(self, x: Any) -> Any:
        return x * 2, self.weight


class Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        raise ArithmeticError


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "random numbers of Python": (
        lambda: Calls(lambda x: x * (1 + random.random())),
        "gives something else when it runs again",
    ),
    "a count of runs": (Counter, "gives something else when it runs again"),
    "a loss kept aside": (Keeps, "keeps tensors of its run in '1.auxiliary'"),
    "its parameter": (Gives, "returns memory of its own parameters or buffers"),
    "a sparse tensor": (lambda: Calls(lambda x: x.to_sparse()), "gives a tensor of layout sparse_coo"),
    "a dictionary": (lambda: Calls(lambda x: {"x": x * 2}), r"must give a tensor or a tuple of tensors; got \(dict\)"),
    "None": (lambda: Calls(lambda x: None), r"must give a tensor or a tuple of tensors; got \(NoneType\)"),
    "another device": (lambda: Calls(lambda x: x.to("meta")), "takes tensors on cpu and gives one on meta"),
    "an error without words": (
        lambda: Calls(lambda x: [][0]),
        "cannot be run on what the stage before gives: IndexError",
    ),
    "an error of a backward": (lambda: Calls(Backwards.apply), r"cannot be reversed: ArithmeticError"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_run_again_is_refused_by_name(name: str) -> None:
    make, words = REFUSED[name]
    model = nn.Sequential(nn.Linear(64, 64), make())
    with pytest.raises(InputError, match=rf"stage 1 \(\w+\) {words}") as refused:
        lt.measure(model, rows())
    assert "\n" not in str(refused.value)


def test_a_refused_model_is_as_it_was() -> None:
    model = nn.Sequential(Counts(rebinds=True), nn.Linear(64, 64), Keeps())
    buffer = model[0].count
    with pytest.raises(InputError, match="keeps tensors"):
        lt.measure(model, rows())
    assert model[0].count is buffer
    assert not buffer.any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: lt.measure(mlp(2).eval(), rows()), "the model is in evaluation mode"),
        (lambda: lt.measure(mlp(2), rows(), rounds=0), "rounds must be a whole number from 1; got 0"),
        (lambda: lt.measure(mlp(2), rows().to("meta")), "memory cannot be measured on the device 'meta'"),
        (lambda: lt.measured_peak(lambda: None, "meta"), "memory cannot be measured on the device 'meta'"),
        (lambda: lt.measured_peak(lambda: None, "gpu"), "PyTorch knows no device 'gpu'"),
        (lambda: lt.plan(mlp(2), rows(), budget="inf%"), "cannot read 'inf%' as a share"),
        (lambda: lt.checkpointed(mlp(2), cast("Any", "plan")), "plan must be a lowmem.torch.Plan"),
        (lambda: lt.measure(mlp(2), rows(), loss=lambda y: y), r"a tensor of one number; got one of shape \(96, 64\)"),
        (lambda: lt.measure(mlp(2), rows(), loss=lambda y: 1.0), "a tensor of one number; got float"),
        (
            lambda: lt.measure(mlp(2), rows(), loss=lambda y: y.none),
            "cannot be computed from the model's output: Attr",
        ),
        (lambda: lt.measure(mlp(2), rows(), loss=lambda y: y.detach().sum()), "the loss has no gradient"),
    ],
)
def test_what_cannot_be_measured_is_refused(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()


# On a GPU --------------------------------------------------------------------------------------------------------


class Allocator:
    """An allocator that counts as PyTorch's does on a GPU: it gives a block larger than was requested."""

    def __init__(self, *, counts_requests: bool) -> None:
        self.counts_requests = counts_requests
        self.now: list[int] = []
        self.most: dict[str, int] = {}

    def _count(self) -> dict[str, int]:
        requested = sum(self.now) if self.counts_requests else 0
        return {"requested_bytes": requested, "allocated_bytes": 2**20 * len(self.now), "allocation": len(self.now)}

    def init(self) -> None:
        self.take(4)

    def memory_stats(self, device: Any) -> dict[str, int]:
        now = self._count()
        found = {f"{name}.all.current": value for name, value in now.items()}
        found |= {f"{name}.all.peak": max(value, self.most.get(name, 0)) for name, value in now.items()}
        return found | {"requested_bytes.all.allocated": now["requested_bytes"]}

    def reset_peak_memory_stats(self, device: Any) -> None:
        self.most = self._count()

    def take(self, *sizes: int) -> None:
        self.now += sizes
        self.most = {name: max(value, self.most.get(name, 0)) for name, value in self._count().items()}

    def drop(self) -> None:
        self.now.pop()


@pytest.mark.parametrize(("counts", "padded", "each"), [(True, False, 100), (True, True, 612), (False, False, 2**20)])
def test_a_gpu_is_asked_for_the_bytes_that_were_requested(
    counts: bool, padded: bool, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocator = Allocator(counts_requests=counts)
    monkeypatch.setattr(torch, "get_device_module", lambda device: allocator)
    allocator.take(7, 7)
    with meter(torch.device("cuda"), padded=padded) as of_gpu:
        of_gpu.mark()
        allocator.take(100, 100)
        allocator.drop()
        of_gpu.mark()
        allocator.drop()
        of_gpu.mark()
    assert of_gpu.readings.live == [0, each, 0]
    assert of_gpu.readings.peaks == [2 * each, each]

    def step() -> None:
        allocator.take(100, 100, 100)
        allocator.drop()

    assert lt.measured_peak(step, "cuda") == (300 if counts else 3 * 2**20)


class InACycle:
    """A tensor that only a garbage collection frees."""

    def __init__(self, allocator: Allocator) -> None:
        self.allocator, self.itself = allocator, self
        allocator.take(100)

    def __del__(self) -> None:
        self.allocator.drop()


def test_tensors_that_wait_for_a_garbage_collection_go_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allocator = Allocator(counts_requests=True)
    monkeypatch.setattr(torch, "get_device_module", lambda device: allocator)
    allocator.take(7)
    gc.disable()
    try:
        InACycle(allocator)
        with meter(torch.device("cuda"), padded=False) as of_gpu:
            of_gpu.mark()
            gc.collect()
            of_gpu.mark()
    finally:
        gc.enable()
    assert of_gpu.readings.live == [0, 0]


# What changes after the plan -------------------------------------------------------------------------------------


def tight(model: Any, x: Any) -> Any:
    """Return the model by the plan that takes least."""
    *_, plan = tightest(lt.measure(model, x, rounds=1))
    return lt.checkpointed(model, plan)


def replaced(planned: Any) -> None:
    planned[1][0] = nn.Linear(64, 64)


def hooked(planned: Any) -> None:
    planned[1].register_forward_hook(lambda *_: None)


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a layer is replaced": (replaced, "stages were replaced"),
    "a layer is added": (lambda planned: planned.append(nn.Tanh()), "stages were replaced"),
    "a part gets a hook": (hooked, "stages were replaced, added, removed or given hooks"),
    "a layer evaluates": (lambda planned: planned[0].eval(), "modules have been put in evaluation mode"),
    "a layer is frozen": (
        lambda planned: planned[0].requires_grad_(requires_grad=False),
        "parameters have been frozen",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_model_that_changes_after_its_plan_is_refused(name: str) -> None:
    change, words = CHANGES[name]
    planned = tight(mlp(4), rows())
    change(planned)
    with pytest.raises(InputError, match=words):
        planned(rows())


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (lambda: torch.randn(64, 96).t(), "inputs that lie in memory .*contiguous.*with gaps or transposed"),
        (lambda: torch.randn(97, 64), "shapes up to 96x64; got 97x64"),
        (lambda: torch.randn(4, 8, 64), "shapes up to 96x64; got 4x8x64"),
        (lambda: [rows()], "a batch must be a tensor or a tuple of tensors; got list"),
        (lambda: (rows(), rows()), "shapes up to 96x64; got 96x64, 96x64"),
    ],
)
def test_another_batch_is_refused(batch: Callable[[], Any], words: str) -> None:
    planned = tight(mlp(4), rows())
    with pytest.raises(InputError, match=words):
        planned(batch())


def test_a_plan_for_another_model_is_refused() -> None:
    plan = lt.plan(mlp(3), rows())
    with pytest.raises(
        InputError, match=r"whose stage 0.0 is a Linear with 16,640 bytes.*here stage 0.0 is a Linear with 4"
    ):
        lt.checkpointed(mlp(3, 32), plan)
    text = plan.to_json()
    altered = text.replace(f'"peak_bytes": {plan.peak_bytes}', f'"peak_bytes": {plan.peak_bytes - 1}', 1)
    with pytest.raises(InputError, match="was altered"):
        lt.Plan.from_json(altered)
    with pytest.raises(InputError, match="not a plan that lowmem.torch wrote: output_bytes cannot be 'many'"):
        lt.Plan.from_json(re.sub(r'"output_bytes": \d+', '"output_bytes": "many"', text, count=1))


def test_what_was_overwritten_before_backward_is_refused() -> None:
    model, x = mlp(4), rows()
    planned = tight(model, x)
    value = loss_of(planned(x))
    x.add_(1)
    with pytest.raises(RunError, match="the batch or a parameter was overwritten or replaced between"):
        value.backward()
    value = loss_of(planned(x))
    with torch.no_grad():
        model[0][0].weight.mul_(2)
    with pytest.raises(RunError, match="was overwritten"):
        value.backward()


# Ways to ask for gradients ---------------------------------------------------------------------------------------


def test_gradients_may_be_asked_for_one_by_one() -> None:
    model, x = mlp(5), rows().requires_grad_()
    shared = nn.Sequential(*model, nn.Linear(64, 64))
    shared[-1].weight = shared[0][0].weight
    for plan in tightest(lt.measure(shared, x, rounds=1)):
        planned = lt.checkpointed(shared, plan)
        wanted = [x, *shared.parameters()]
        assert equal(*(list(torch.autograd.grad(loss_of(each(x)), wanted)) for each in (shared, planned)))
        assert equal(*(list(torch.autograd.grad(loss_of(each(x)), wanted[2:4])) for each in (shared, planned)))
        found = []
        for each in (shared, planned):
            shared.zero_grad()
            loss_of(each(x)).backward(inputs=wanted[1:4])
            found.append(gradients(shared))
        assert equal(*found)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # PyTorch's own forward mode uses it
def test_other_ways_to_differentiate_are_refused() -> None:
    planned, x = tight(mlp(4), rows()), rows()
    words = "torch.func and forward-mode differentiation cannot go through a plan"
    with pytest.raises(InputError, match=words):
        torch.vmap(planned)(torch.stack([x, x]))
    parameters = dict(planned.named_parameters())
    with pytest.raises(InputError, match=words):
        torch.func.grad(lambda own: loss_of(torch.func.functional_call(planned, own, (x,))))(parameters)
    with forward_ad.dual_level(), pytest.raises(InputError, match=words):
        planned(forward_ad.make_dual(x, x))
    own = {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
    value = loss_of(torch.func.functional_call(planned, own, (x,)))
    with pytest.raises(RunError, match="overwritten or replaced"):
        value.backward()


def test_gradients_one_by_one_are_refused_where_parameters_have_hooks() -> None:
    model, x = mlp(3), rows().requires_grad_()
    planned = tight(model, x)
    model[0][0].weight.register_hook(lambda _: None)
    with pytest.raises(InputError, match=r"backward\(inputs=...\) cannot go through a plan .*hooks"):
        torch.autograd.grad(loss_of(planned(x)), [x])


def test_two_forwards_before_one_backward() -> None:
    model, one, other = mlp(4), rows(), rows()
    planned, found = tight(model, one), []
    for each in (model, planned):
        model.zero_grad()
        (loss_of(each(one)) + loss_of(each(other))).backward()
        found.append(gradients(model))
    assert equal(*found)


def test_a_loss_with_parameters_is_part_of_the_promise() -> None:
    model, x = mlp(4, 128), torch.randn(32, 128)
    centers = nn.Parameter(torch.randn(500, 128))
    centers.grad = before = torch.ones_like(centers)

    def far(output: Any) -> Any:  # parameters of its own, and those of the model
        return (output @ centers.T).square().mean() + sum(p.square().sum() for p in model.parameters())

    measured = lt.measure(model, x, loss=far, rounds=1)
    assert centers.grad is before
    assert bool((before == 1).all())
    for plan in tightest(measured):
        planned, found = lt.checkpointed(model, plan), []
        for each in (model, planned):
            model.zero_grad()
            centers.grad = None
            step(each, x, far)
            found.append([*gradients(model), centers.grad])
        assert equal(*found)
        model.zero_grad()
        centers.grad = None
        del found
        assert 0.97 * plan.peak_bytes - plan.measured.source_bytes <= peak_of(planned, x, far) <= plan.peak_bytes


def test_a_frozen_start_that_takes_most_is_part_of_the_promise() -> None:
    frozen = [nn.Linear(64, 2048), nn.GELU(), nn.Linear(2048, 16)]
    model = nn.Sequential(*frozen, nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16))
    for layer in frozen:
        layer.requires_grad_(requires_grad=False)
    x = rows()
    plan = lt.plan(model, x, rounds=1)
    peak = peak_of(lt.checkpointed(model, plan), x)
    assert 0.9 * plan.peak_bytes <= peak <= plan.peak_bytes
    with pytest.raises(BudgetError, match="is less than the") as refused:
        lt.plan(plan.measured, budget=plan.peak_bytes - 1)
    assert refused.value.minimum == plan.peak_bytes


# A module like others --------------------------------------------------------------------------------------------


def test_a_planned_model_is_pickled_sliced_and_planned_again() -> None:
    model, x = mlp(4), rows()
    planned = tight(model, x)
    twin = pickle.loads(pickle.dumps(planned))
    step(planned, x)
    step(twin, x)
    assert equal(gradients(planned), gradients(twin))
    assert type(planned[1:3]) is nn.Sequential
    assert list(planned[1:3].state_dict()) == list(model[1:3].state_dict())
    again = lt.checkpointed(planned, lt.plan(planned, torch.randn(200, 64)))
    assert list(again.state_dict()) == list(model.state_dict())
    assert again(torch.randn(200, 64)).shape == (200, 64)


def test_parameters_and_buffers_of_the_model_itself_stay() -> None:
    model = nn.Sequential(OrderedDict(first=nn.Linear(64, 64), second=nn.Tanh(), third=nn.Linear(64, 64)))
    model.register_parameter("scale", nn.Parameter(torch.ones(3)))
    model.register_buffer("steps", torch.zeros(2))
    model.register_buffer("scratch", torch.zeros(2), persistent=False)
    planned = tight(model, rows())
    assert list(planned.state_dict()) == list(model.state_dict())
    assert [name for name, _ in planned.named_buffers()] == ["steps", "scratch"]
    step(planned, rows())
    assert copy.deepcopy(planned).state_dict().keys() == model.state_dict().keys()


def test_hooks_of_the_planned_model_run_once() -> None:
    model, x = mlp(4), rows().requires_grad_()
    planned, calls = tight(model, x), []
    planned.register_forward_pre_hook(lambda *_: calls.append("before"))
    planned.register_forward_hook(lambda *_: calls.append("after"))
    planned.register_full_backward_hook(lambda *_: calls.append("backward"))
    step(planned, x)
    assert calls == ["before", "after", "backward"]


def test_names_of_stages_stand_in_errors_of_a_run() -> None:
    wide = Calls(lambda x: torch.cat([x, x]) if wide.training and wide.grown else x * 2)
    wide.grown = False
    planned = tight(nn.Sequential(nn.Linear(64, 64), wide), rows())
    wide.grown = True
    with pytest.raises(InputError, match=re.escape("stage 1 (Calls) gave 49,152 bytes, and the plan knows of 24,576")):
        planned(rows())
