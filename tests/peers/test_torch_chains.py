"""Plans for PyTorch chains: the gradients of the plain model bit for bit, inside the bytes that were promised."""

import copy
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lowmem.cli import main
from lowmem.errors import BudgetError, InputError, LowmemError, RunError

pytest.importorskip("torch")

import torch
from torch import nn

import lowmem.torch as lt
from lowmem.torch.measuring.meter import meter
from tests.test_docs import CHAINS
from tests.test_readme import run_page

Loss = Callable[[Any], Any]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


# Models ----------------------------------------------------------------------------------------------------------


def mlp(depth: int = 8, width: int = 64) -> Any:
    return nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(depth)))


def convolutions(*, inplace: bool = True) -> Any:
    widths = [3, 8, 8, 16, 16, 32]
    layers: list[Any] = []
    for n, (a, b) in enumerate(pairwise(widths)):
        layers += [nn.Conv2d(a, b, 3, stride=1 + n % 2, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=inplace)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def transformer(*, dropout: float = 0.1) -> Any:
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=dropout, batch_first=True)
    return nn.Sequential(*(copy.deepcopy(layer) for _ in range(5)))


class Twice(nn.Module):
    """A block with a skip, whose input is used twice."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Any) -> Any:
        return x + torch.tanh(self.inner(self.norm(x)))


class Pair(nn.Module):
    """A stage from a pair of tensors to a pair, of which the second has no gradient."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, pair: Any) -> Any:
        x, mask = pair
        return torch.tanh(self.inner(x)) * mask, mask.clone()


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


class Squared(nn.Module):
    def forward(self, x: Any) -> Any:
        return Square.apply(x)


class Noise(nn.Module):
    """Draws random numbers in a way that no layer of PyTorch does."""

    def forward(self, x: Any) -> Any:
        return x * (1 + 0.1 * torch.rand_like(x))


CASES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "mlp": (mlp, lambda: torch.randn(256, 64)),
    "relu in its own stages": (
        lambda: nn.Sequential(*(m for _ in range(6) for m in (nn.Linear(64, 64), nn.ReLU()))),
        lambda: torch.randn(256, 64),
    ),
    "in-place activations": (
        lambda: nn.Sequential(*(m for _ in range(6) for m in (nn.Linear(64, 64), nn.ReLU(inplace=True)))),
        lambda: torch.randn(256, 64),
    ),
    "convolutions": (convolutions, lambda: torch.randn(4, 3, 16, 16)),
    "channels last": (convolutions, lambda: torch.randn(4, 3, 16, 16).to(memory_format=torch.channels_last)),
    "transformer": (transformer, lambda: torch.randn(16, 12, 32)),
    "skips": (lambda: nn.Sequential(*(Twice() for _ in range(6))), lambda: torch.randn(256, 64)),
    "dropout": (
        lambda: nn.Sequential(*(m for _ in range(6) for m in (nn.Linear(64, 64), nn.Dropout(0.3), nn.Tanh()))),
        lambda: torch.randn(256, 64),
    ),
    "noise": (
        lambda: nn.Sequential(*(m for _ in range(5) for m in (nn.Linear(64, 64), Noise()))),
        lambda: torch.randn(256, 64),
    ),
    "custom functions": (
        lambda: nn.Sequential(*(m for _ in range(5) for m in (nn.Linear(64, 64), Squared(), nn.LayerNorm(64)))),
        lambda: torch.randn(256, 64),
    ),
    "tuples": (
        lambda: nn.Sequential(*(Pair() for _ in range(6))),
        lambda: (torch.randn(256, 64), (torch.rand(256, 64) > 0.3).float()),
    ),
    "views at the start": (
        lambda: nn.Sequential(nn.Flatten(), nn.Identity(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)),
        lambda: torch.randn(256, 4, 16),
    ),
    "spectral sizes": (
        lambda: nn.Sequential(nn.Linear(16, 256), nn.GELU(), nn.Linear(256, 8), nn.GELU(), nn.Linear(8, 128)),
        lambda: torch.randn(64, 16),
    ),
}


def loss_of(output: Any) -> Any:
    """Return a loss that gives every element a gradient of its own."""
    first = output[0] if isinstance(output, tuple) else output
    return (first * torch.linspace(-1, 1, first.numel()).reshape(first.shape)).sum() + first.square().mean()


def step(model: Any, x: Any, loss: Loss = loss_of) -> tuple[Any, Any]:
    output = model(x)
    value = loss(output)
    value.backward()
    return output, value


def peak_of(model: Any, x: Any, loss: Loss = loss_of) -> int:
    """Return the most bytes that a step allocates."""
    first = x[0] if isinstance(x, tuple) else x
    return int(lt.measured_peak(partial(step, model, x, loss), first.device))


def gradients(model: Any) -> list[Any]:
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def equal(some: list[Any], others: list[Any]) -> bool:
    return len(some) == len(others) and all(
        a is b if a is None or b is None else torch.equal(a, b) for a, b in zip(some, others, strict=True)
    )


def tightest(chain: Any, number: int = 3) -> Iterator[Any]:
    """Yield plans by rule, and then from storing everything to the least memory."""
    yield lt.plan(chain, strategy="segments", segments=2)
    yield lt.plan(chain, strategy="sqrt")
    whole = lt.plan(chain)
    try:
        least = lt.plan(chain, budget=1)
    except BudgetError as error:
        least = lt.plan(chain, budget=error.minimum)
    for n in range(number):
        share = n / (number - 1)
        yield lt.plan(chain, budget=int(whole.peak_bytes + share * (least.peak_bytes - whole.peak_bytes)) + 1)


def plain_and_planned(
    make: Callable[[], Any], x: Any, loss: Loss = loss_of, steps: int = 2
) -> Iterator[tuple[Any, Any, Any]]:
    """Train the plain model and each planned one for some steps, and yield (plan, plain model, planned model)."""
    torch.manual_seed(1)
    model = make()
    measured = lt.measure(model, x, loss=loss, rounds=1)
    for plan in tightest(measured):
        plain, planned = copy.deepcopy(model), lt.checkpointed(copy.deepcopy(model), plan)
        for each in (plain, planned):
            torch.manual_seed(2)
            for _ in range(steps):
                step(each, x, loss)
        yield plan, plain, planned


# Claims ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_plain_model_bit_for_bit(name: str) -> None:
    make, batch = CASES[name]
    x, runs = batch(), []
    for plan, plain, planned in plain_and_planned(make, x):
        runs.append(plan.forward_runs)
        assert equal(gradients(plain), gradients(planned))
        states = torch.get_rng_state()  # of the planned one, which ran last
        torch.manual_seed(2)
        for _ in range(2):
            step(plain, x)
        assert torch.equal(states, torch.get_rng_state())
    assert runs[2] == len(plan.measured.stages) < max(runs)


@pytest.mark.parametrize("name", CASES)
def test_what_a_step_takes_is_what_was_promised(name: str) -> None:
    make, batch = CASES[name]
    x = batch()
    for plan, _, planned in plain_and_planned(make, x, steps=1):
        planned.zero_grad()
        peak = peak_of(planned, x)
        small = plan.measured.source_bytes  # states of random generators count little where sizes are real
        assert (
            plan.peak_bytes - small - 0.03 * plan.peak_bytes
            <= peak
            <= plan.peak_bytes
            <= (plan.budget or plan.peak_bytes)
        )


def test_running_statistics_move_once() -> None:
    x = torch.randn(4, 3, 16, 16)
    for _, plain, planned in plain_and_planned(convolutions, x):
        assert equal(list(plain.buffers()), list(planned.buffers()))
        assert all(norm.track_running_stats for norm in planned.modules() if isinstance(norm, nn.BatchNorm2d))


def test_measuring_leaves_the_model_as_it_was() -> None:
    model, x = convolutions(), torch.randn(4, 3, 16, 16)
    step(model, x)
    calls: list[Any] = []
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(calls.append)
    before = copy.deepcopy(model.state_dict()), gradients(model), torch.get_rng_state(), x.clone()
    lt.measure(model, x)
    assert equal(list(before[0].values()), list(model.state_dict().values()))
    assert equal(before[1], gradients(model))
    assert torch.equal(before[2], torch.get_rng_state())
    assert torch.equal(before[3], x)
    assert not calls
    step(model, x)
    assert len(calls) == len(list(model.parameters()))


def test_storing_everything_takes_what_plain_pytorch_takes() -> None:
    model, x = mlp(), torch.randn(256, 64)
    plan = lt.plan(model, x, loss=loss_of)
    planned = lt.checkpointed(model, plan)
    step(model, x)
    model.zero_grad()
    plain = peak_of(model, x)
    model.zero_grad()
    assert peak_of(planned, x) <= plain <= plan.peak_bytes


def test_evaluation_and_no_grad_pass_straight_through() -> None:
    model, x = convolutions(), torch.randn(4, 3, 16, 16)
    planned = lt.checkpointed(copy.deepcopy(model), next(tightest(lt.measure(model, x, rounds=1))))
    other = torch.randn(9, 3, 20, 20)  # a shape that the plan does not know
    model.eval()
    planned.eval()
    assert torch.equal(model(other), planned(other))
    model.train()
    planned.train()
    with torch.no_grad():
        assert torch.equal(model(other), planned(other))
    assert equal(list(model.buffers()), list(planned.buffers()))


def test_keys_devices_and_copies_are_those_of_a_module() -> None:
    model, x = mlp(), torch.randn(8, 64)
    *_, plan = tightest(lt.measure(model, x, rounds=1))
    planned = lt.checkpointed(model, plan)
    assert list(planned.state_dict()) == list(model.state_dict())
    assert list(map(id, planned.parameters())) == list(map(id, model.parameters()))
    assert planned.eval() is planned
    assert not model[0].training
    twin = copy.deepcopy(planned.train())
    step(planned, x)
    assert all(p.grad is None for p in twin.parameters())
    step(twin, x)
    assert equal(gradients(planned), gradients(twin))
    planned.load_state_dict(twin.state_dict())
    with pytest.raises(InputError, match=r"inputs of type .*float32.*got .*float64"):
        planned.to(torch.float64)(x.double())


def test_a_list_of_modules_is_a_chain() -> None:
    stages = [Twice(), nn.Sequential(Twice(), Twice()), Twice()]
    x = torch.randn(8, 64)
    plan = lt.plan(stages, x)
    assert [stage.name for stage in plan.measured.stages] == ["0", "1.0", "1.1", "2"]
    planned = lt.checkpointed(stages, plan)
    assert torch.equal(planned(x), nn.Sequential(*stages)(x))


def test_an_input_with_a_gradient_gets_it() -> None:
    embedding, tokens = nn.Embedding(50, 64), torch.randint(0, 50, (16,))
    model = mlp()
    for plan in tightest(lt.measure(model, embedding(tokens), rounds=1)):
        planned = lt.checkpointed(model, plan)
        found = []
        for each in (model, planned):
            embedding.zero_grad()
            model.zero_grad()
            step(each, embedding(tokens))
            found.append([embedding.weight.grad.clone(), *gradients(model)])
        assert equal(*found)


@pytest.mark.parametrize("kind", ["first", "last", "middle"])
def test_frozen_stages_work(kind: str) -> None:
    def make() -> Any:
        model = mlp()
        frozen = {"first": range(4), "last": range(5, 8), "middle": range(2, 5)}[kind]
        for n in frozen:
            model[n].requires_grad_(requires_grad=False)
        return model

    x = torch.randn(256, 64)
    for plan, plain, planned in plain_and_planned(make, x):
        assert equal(gradients(plain), gradients(planned))
        assert plan.measured.frozen == (8 if kind == "first" else 0)
        planned.zero_grad()
        assert peak_of(planned, x) <= plan.peak_bytes
        planned[0].requires_grad_(requires_grad=kind == "first")
        with pytest.raises(InputError, match="frozen or unfrozen"):
            planned(x)
    with pytest.raises(InputError, match="all of it is frozen"):
        lt.measure(mlp().requires_grad_(requires_grad=False), x)


class Tied(nn.Module):
    """A layer whose weight another one has too."""

    def __init__(self, weight: Any) -> None:
        super().__init__()
        self.weight, self.bias = weight, nn.Parameter(torch.zeros(len(weight)))

    def forward(self, x: Any) -> Any:
        return torch.tanh(x @ self.weight.T + self.bias)


def tied() -> Any:
    weight = nn.Parameter(torch.randn(64, 64) / 8)
    model = nn.Sequential(*(m for _ in range(4) for m in (Tied(weight), nn.Linear(64, 64), nn.GELU())))
    model[3].bias.requires_grad_(requires_grad=False)
    return model


def test_shared_parameters_get_one_gradient_and_one_call_of_their_hooks() -> None:
    x = torch.randn(256, 64)
    for plan, plain, planned in plain_and_planned(tied, x, steps=3):  # gradients of three steps add up
        assert equal(gradients(plain), gradients(planned))
        calls: list[Any] = []
        planned[0].weight.register_post_accumulate_grad_hook(calls.append)
        planned.zero_grad()
        peak = peak_of(planned, x)
        assert peak <= plan.peak_bytes
        assert len(calls) == 1


def test_gradient_accumulation_has_its_own_promise() -> None:
    model, x = mlp(6), torch.randn(64, 64)
    measured = lt.measure(model, x, loss=loss_of, rounds=1)
    most = lt.plan(measured, accumulating=True).peak_bytes
    plan = lt.plan(measured, budget=most * 4 // 5, accumulating=True)
    plain, planned = copy.deepcopy(model), lt.checkpointed(copy.deepcopy(model), plan)
    for each in (plain, planned):
        step(each, x)
        step(each, x)
    assert equal(gradients(plain), gradients(planned))
    there = sum(p.grad.nbytes for p in planned.parameters())
    peak = peak_of(planned, x) + there
    assert 0.9 * plan.peak_bytes <= peak <= plan.peak_bytes


def test_autocast_is_the_same_when_a_stage_runs_again() -> None:
    model, x = nn.Sequential(*(Twice() for _ in range(6))), torch.randn(256, 64)
    with torch.autocast("cpu", torch.bfloat16):
        measured = lt.measure(model, x, loss=loss_of, rounds=1)
    for plan in tightest(measured):
        found = []
        for each in (model, lt.checkpointed(model, plan)):
            model.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                output = each(x)
                value = loss_of(output)
            value.backward()
            found.append(gradients(model))
        assert equal(*found)
        with pytest.raises(InputError, match="autocast to .*bfloat16.*got nothing"):
            lt.checkpointed(model, plan)(x)
        model.zero_grad()

        def one(planned: Any) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                output = planned(x)
                value = loss_of(output)
            value.backward()
            return output, value

        peak = lt.measured_peak(partial(one, lt.checkpointed(model, plan)))
        assert peak <= plan.peak_bytes


@pytest.mark.parametrize("inside", [False, True])
def test_backward_runs_under_the_autocast_that_it_is_called_in(inside: bool) -> None:
    model, x = transformer(), torch.randn(8, 16, 32)  # the backward of attention with dropout takes products
    with torch.autocast("cpu", torch.bfloat16):
        measured = lt.measure(model, x, loss=loss_of, rounds=1)
    for plan in tightest(measured):
        found = []
        for each in (model, lt.checkpointed(model, plan)):
            model.zero_grad()
            torch.manual_seed(2)
            with torch.autocast("cpu", torch.bfloat16):
                value = loss_of(each(x))
                if inside:
                    value.backward()
            if not inside:
                value.backward()
            found.append(gradients(model))
        assert equal(*found)


def test_an_uneven_last_batch_runs_and_a_larger_one_is_refused() -> None:
    model, x = convolutions(), torch.randn(6, 3, 16, 16)
    measured = lt.measure(model, x, loss=loss_of, rounds=1)
    for plan in tightest(measured):
        plain, planned = copy.deepcopy(model), lt.checkpointed(copy.deepcopy(model), plan)
        for each in (plain, planned):
            step(each, x[:5])
        assert equal(gradients(plain), gradients(planned))
        planned.zero_grad()
        assert peak_of(planned, x[:5]) <= plan.peak_bytes
        with pytest.raises(InputError, match="shapes up to 6x3x16x16; got 7x3x16x16"):
            planned(torch.randn(7, 3, 16, 16))
        with pytest.raises(InputError, match="shapes up to"):
            planned(torch.randn(6, 3, 16, 17))


class Growing(nn.Module):
    """Gives more than it was measured with, depending on the values of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 64)

    def forward(self, x: Any) -> Any:
        y = self.inner(x)
        return torch.cat([y, y]) if float(x.detach().sum()) > 1e4 else y


def test_a_stage_that_gives_more_than_planned_is_refused_by_name() -> None:
    model, x = nn.Sequential(nn.Linear(64, 64), nn.GELU(), Growing()), torch.randn(8, 64)
    planned = lt.checkpointed(model, lt.plan(model, x))
    step(planned, x)
    model[0].weight.data.fill_(1e3)
    with pytest.raises(InputError, match=r"stage 2 \(Growing\) gave 4,096 bytes, and the plan knows of 2,048"):
        planned(x.abs())


# What is refused -------------------------------------------------------------------------------------------------


class Overwrites(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.mul_(2) + 1


class TwoInputs(nn.Module):
    def forward(self, x: Any, y: Any) -> Any:
        return x + y


class PassesOn(nn.Module):
    def forward(self, pair: Any) -> Any:
        return pair[0] * 2, pair[1]


class Borrows(nn.Module):
    def __init__(self, other: Any) -> None:
        super().__init__()
        self.other = [other]

    def forward(self, x: Any) -> Any:
        return x @ self.other[0].weight


class Renamed(nn.Sequential):
    def forward(self, x: Any) -> Any:
        return super().forward(x) + 1


LINEAR = nn.Linear(64, 64)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            nn.Sequential(nn.Linear(64, 64), TwoInputs()),
            r"stage 1 \(TwoInputs\) cannot be run on what the stage before",
        ),
        (nn.Sequential(Overwrites(), nn.Linear(64, 64)), r"stage 0 \(Overwrites\) overwrites the batch"),
        (nn.Sequential(nn.Flatten()), "stage 0 .Flatten. returns the batch that it is given, and nothing"),
        (nn.Sequential(LINEAR, Borrows(LINEAR)), r"stage 1 \(Borrows\) uses a parameter of shape \(64, 64\)"),
        (Renamed(nn.Linear(64, 64)), "a torch.nn.Sequential or a list of modules is needed; got Renamed"),
        (nn.Linear(64, 64), "a torch.nn.Sequential or a list of modules is needed; got Linear"),
        (nn.Sequential(), "the model has no stages"),
    ],
    ids=str,
)
def test_what_cannot_be_a_chain_is_refused_by_name(model: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        lt.measure(model, torch.randn(8, 64))


def test_tensors_that_are_passed_on_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"stage 0 \(PassesOn\) returns memory that it was given"):
        lt.measure(nn.Sequential(PassesOn(), Pair()), (torch.randn(8, 64), torch.ones(8, 64)))


def test_what_overwrites_its_input_is_joined_with_the_stage_before() -> None:
    model = nn.Sequential(nn.Linear(64, 64), Overwrites(), nn.Linear(64, 64), nn.Flatten(), nn.ReLU(inplace=True))
    measured = lt.measure(model, torch.randn(8, 64))
    assert [stage.name for stage in measured.stages] == ["0 to 1", "2 to 4"]
    assert [stage.kind for stage in measured.stages] == ["Linear + Overwrites", "Linear + Flatten + ReLU"]


def test_hooks_of_the_model_itself_are_refused_and_those_of_stages_run() -> None:
    model, x = mlp(4), torch.randn(8, 64)
    calls: list[str] = []
    model[1].register_forward_hook(lambda *_: calls.append("forward"))
    model[1].register_full_backward_hook(lambda *_: calls.append("backward"))
    model[2][0].weight.register_hook(lambda _: calls.append("tensor"))
    *_, plan = tightest(lt.measure(model, x, rounds=1))
    planned = lt.checkpointed(model, plan)
    calls.clear()
    step(planned, x)
    assert calls.count("backward") == calls.count("tensor") == 1
    assert calls.count("forward") >= 1
    model.register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match="the model itself has hooks"):
        lt.checkpointed(model, plan)


def test_gradients_that_no_plan_gives_are_refused() -> None:
    model, x = mlp(4), torch.randn(8, 64, requires_grad=True)
    planned = lt.checkpointed(model, lt.plan(model, x))
    with pytest.raises(InputError, match="gradients of gradients"):
        loss_of(planned(x)).backward(create_graph=True)
    output = planned(x)
    loss_of(output).backward(retain_graph=True)
    with pytest.raises(RunError, match="this step was reversed already"):
        loss_of(output).backward()


def test_outputs_without_a_gradient_stay_without() -> None:
    model, x = nn.Sequential(*(Pair() for _ in range(4))), (torch.randn(8, 64), torch.ones(8, 64))
    *_, plan = tightest(lt.measure(model, x, rounds=1))
    planned = lt.checkpointed(model, plan)
    first, mask = planned(x)
    assert first.requires_grad
    assert not mask.requires_grad
    assert planned[0].inner.weight.grad is None


def test_a_step_without_a_backward_leaves_nothing_behind() -> None:
    model, x = mlp(), torch.randn(64, 64)
    planned = lt.checkpointed(model, lt.plan(model, x))

    def forward() -> None:
        planned(x)

    forward()
    with meter(torch.device("cpu")) as of_step:
        of_step.mark()
        forward()
        of_step.mark()
    assert of_step.readings.live[1] == 0


# Around it -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("static", [False, True])
def test_distributed_data_parallel_works(static: bool, tmp_path: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model, x = mlp(), torch.randn(256, 64)
        *_, plan = tightest(lt.measure(model, x, rounds=1))
        plain = copy.deepcopy(model)
        parallel = nn.parallel.DistributedDataParallel(lt.checkpointed(model, plan), static_graph=static)
        for _ in range(3):
            step(parallel, x)
            step(plain, x)
        assert equal(gradients(model), gradients(plain))
    finally:
        torch.distributed.destroy_process_group()


def test_compiled_around_it_a_plan_runs_as_it_is() -> None:
    model, x = mlp(4), torch.randn(8, 64)
    *_, plan = tightest(lt.measure(model, x, rounds=1))
    planned = lt.checkpointed(model, plan)
    compiled = torch.compile(planned, backend="eager")
    found = []
    for each in (planned, compiled):
        model.zero_grad()
        step(each, x)
        found.append(gradients(model))
    assert equal(*found)


def test_training_with_an_optimizer_gives_the_same_weights() -> None:
    x = torch.randn(16, 12, 32)
    torch.manual_seed(3)
    model = transformer()
    *_, plan = tightest(lt.measure(model, x, rounds=1))
    weights = []
    for each in (copy.deepcopy(model), lt.checkpointed(copy.deepcopy(model), plan)):
        torch.manual_seed(4)
        optimizer = torch.optim.AdamW(each.parameters(), lr=1e-3)
        for _ in range(4):
            optimizer.zero_grad()
            step(each, x)
            optimizer.step()
        weights.append(list(each.state_dict().values()))
    assert equal(*weights)


# Plans -----------------------------------------------------------------------------------------------------------


def test_strategies_budgets_and_errors() -> None:
    measured = lt.measure(mlp(12), torch.randn(128, 64), rounds=1)
    whole = lt.plan(measured, strategy="store_all")
    assert (whole.gap, whole.peak_bytes, whole.cost) == (0, whole.store_all_bytes, whole.store_all_cost)
    half = lt.plan(measured, budget="70%")
    assert half.budget == whole.peak_bytes * 7 // 10
    assert half.peak_bytes <= half.budget
    assert 0 <= half.gap < 0.2
    for plan in (lt.plan(measured, strategy="sqrt"), lt.plan(measured, strategy="segments", segments=3)):
        assert lt.plan(measured, budget=plan.peak_bytes).cost <= plan.cost
    with pytest.raises(BudgetError, match="is less than the .* that a step of this model needs") as refused:
        lt.plan(measured, budget="10KiB")
    assert lt.plan(measured, budget=refused.value.minimum).peak_bytes == refused.value.minimum
    with pytest.raises(BudgetError, match='strategy="store_all" takes'):
        lt.plan(measured, budget=refused.value.minimum, strategy="store_all")
    with pytest.raises(InputError, match="unknown strategy 'optimul'. Did you mean 'optimal'"):
        lt.plan(measured, strategy="optimul")
    with pytest.raises(InputError, match="segments= goes with"):
        lt.plan(measured, strategy="segments")
    with pytest.raises(InputError, match="as a share"):
        lt.plan(measured, budget="x%")
    with pytest.raises(InputError, match="a sample is needed"):
        lt.plan(mlp())
    with pytest.raises(InputError, match="the sample must be a tensor"):
        lt.plan(mlp(), "32x64")


def test_a_plan_is_read_back_from_json() -> None:
    model, x = convolutions(), torch.randn(4, 3, 16, 16)
    *_, plan = tightest(lt.measure(model, x, rounds=1))
    again = lt.Plan.from_json(plan.to_json())
    assert again == plan
    assert json.loads(plan.to_json())["peak_bytes"] == plan.peak_bytes
    step(lt.checkpointed(model, again), x)
    for text in ("{}", "[]", plan.to_json().replace("record", "recall", 1), plan.to_json().replace("loss_peak", "x")):
        with pytest.raises(InputError, match="not a plan"):
            lt.Plan.from_json(text)
    with pytest.raises(InputError, match="the plan is for a model of"):
        lt.checkpointed(mlp(), plan)


def test_tables_say_what_was_measured_and_promised() -> None:
    plan = lt.plan(mlp(3), torch.randn(128, 64), budget="95%", rounds=1)
    text = str(plan)
    for words in ("6 stages, strategy optimal", "budget", "peak of a step", "forwards of stages", "Parameters take"):
        assert words in text
    assert "tape" in str(plan.measured)
    assert "6 stages, batch 128x64 on cpu" in str(plan.measured)


def test_a_report_shows_promised_and_measured_and_draws_the_plan() -> None:
    model, x = mlp(12), torch.randn(256, 64)
    plan = lt.plan(model, x, budget="75%", loss=loss_of, rounds=1)
    peak = peak_of(lt.checkpointed(model, plan), x)
    report = lt.Report(plan, peak, seconds=0.5)
    text = str(report)
    for words in ("promised", "measured", "budget", "500.0 ms", f"{peak / plan.peak_bytes - 1:+.2%}"):
        assert words in text
    assert report.to_html().count("<svg") == 3
    plans = lt.cheapest(plan.measured)
    assert [each.cost for each in plans] == sorted((each.cost for each in plans), reverse=True)
    assert plans[-1].peak_bytes == plan.store_all_bytes


def test_the_command_prints_and_writes_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nets_of_a_test.py").write_text(
        "import torch\n\n\ndef make():\n"
        "    return torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(8)))\n\n\n"
        "def fails():\n    raise KeyError('no')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    command = ["torch-plan", "nets_of_a_test:make", "--sample", "1024x64", "--budget", "90%"]
    assert main([*command, "--output", "plan.json", "--html", "plan.html"]) == 0
    assert "8 stages, strategy optimal" in capsys.readouterr().out
    plan = lt.Plan.from_json((tmp_path / "plan.json").read_text())
    assert plan.budget is not None
    assert plan.peak_bytes <= plan.budget
    assert (tmp_path / "plan.html").read_text().count("<svg") == 3
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["budget"] == plan.budget
    for arguments, words in (
        (["nets_of_a_test:make", "--sample", "4x3"], "cannot be run on what the stage before gives: RuntimeError"),
        (["nets_of_a_test:fails", "--sample", "4x64"], "nets_of_a_test:fails() failed with KeyError: 'no'."),
        (["nets_of_a_test:none", "--sample", "4x64"], "the module 'nets_of_a_test' has no function 'none'."),
        (["not_there:make", "--sample", "4x64"], "cannot import 'not_there'"),
        (["make", "--sample", "4x64"], "Write a module and a function in it"),
        (["nets_of_a_test:make", "--sample", "4xy"], "cannot read '4xy' as a shape"),
        (["nets_of_a_test:make", "--sample", "4x64", "--dtype", "float33"], "PyTorch has no such type"),
        (["nets_of_a_test:make", "--sample", "4x64", "--budget", "1KiB"], "is less than the"),
    ):
        assert main(["torch-plan", *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["mlp", "convolutions", "transformer", "dropout"])
@pytest.mark.parametrize("cast", [False, True])
def test_promises_hold_on_a_gpu(name: str, cast: bool) -> None:
    make, batch = CASES[name]
    torch.manual_seed(1)
    x, model = batch().cuda(), make().cuda()
    autocast = partial(torch.autocast, "cuda", torch.bfloat16, enabled=cast)

    def loss(output: Any) -> Any:
        return output.square().mean()

    def one(each: Any) -> Any:
        with autocast():
            output = each(x)
            value = loss(output)
        value.backward()
        return output, value

    with autocast():
        measured = lt.measure(model, x, loss=loss)
    for plan in tightest(measured):
        planned, found = lt.checkpointed(model, plan), []
        for each in (model, planned):
            model.zero_grad()
            torch.manual_seed(2)
            one(each)
            found.append(gradients(model))
        assert equal(*found)
        model.zero_grad()
        assert lt.measured_peak(partial(one, planned), "cuda") <= plan.peak_bytes


def test_the_code_of_the_page_runs_in_order() -> None:
    assert run_page(CHAINS) == 3


def test_every_error_is_one_of_ours() -> None:
    assert issubclass(InputError, LowmemError)
    assert "KINETO_LOG_LEVEL" in os.environ
