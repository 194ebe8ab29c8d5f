"""Parameters and optimizer's arrays on a disk: the same bits, the memory and the traffic that the plan tells."""

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.common.disk.conditions import Conditions
from lowmem.errors import BudgetError, DiskError, InputError
from lowmem.measure.memory import TracedPeak
from lowmem.measure.step_profile import profile_step
from lowmem.planning.engines.machine import DiskTier
from lowmem.schedule.disk.transfers import DiskRates
from tests.helpers import batch, model, randomised
from tests.test_paged_array import in_child

FAST = DiskRates((1,), (1e12,), (1e12,))
ENGINES = ("native", "numpy")
ARCH = lm.Architecture((40, *[128] * 16, 10), activation="tanh")
ROWS = 48


def tier(folder: Path, rates: DiskRates = FAST, limit: int | None = None) -> DiskTier:
    return DiskTier(str(folder), rates, limit)


def on_disk(folder: Path, arch: lm.Architecture) -> lm.MLP:
    """Return a network like that of `randomised` whose parameters lie on a disk."""
    mlp, source = lm.MLP.empty(arch, disk=folder), randomised(arch)
    assert mlp.paged is not None
    mlp.learned[:] = source.learned
    mlp.paged.drop(0, len(source.learned), changed=True)
    return mlp


def taken_in(folder: Path) -> int:
    """Return the bytes of the files in a folder that this process has open."""
    gc.collect()
    sizes = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            facts, path = os.stat(f"/proc/self/fd/{name}"), os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # that of the list itself
            continue
        if path.startswith(str(folder)):
            sizes[facts.st_ino] = facts.st_size
    return sum(sizes.values())


def smallest(folder: Path, mlp: lm.MLP, optimizer: str | None, **options: Any) -> lm.Plan:
    """Return the plan for the least budget."""
    usual: dict[str, Any] = {"batch_size": ROWS, "costs": model(dtype=mlp.architecture.dtype), "micro_batch": ROWS}
    usual |= {"threads": 1, "disk": tier(folder)} | options
    least = lm.minimum_budget(mlp, optimizer=optimizer, **usual)
    return lm.plan(mlp, budget=least, optimizer=optimizer, **usual)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("optimizer", "threads"), [(None, 1), ("sgd", 2), ("adam", 1), ("adam", 2)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": "gelu", "norm": "layer", "residual": "learned", "dropout": 0.2},
        {"norm": "batch", "activation": "silu"},
        {"dtype": "float64", "loss": "mse"},
    ],
    ids=lambda options: ",".join(options) or "plain",
)
def test_streaming_changes_no_bit(
    tmp_path: Path, engine: str, threads: int, optimizer: str | None, options: dict[str, Any]
) -> None:
    arch = lm.Architecture((40, *[128] * 8, 10), **{"activation": "tanh"} | options)
    plain, paged = randomised(arch), on_disk(tmp_path, arch)
    plan = smallest(tmp_path, paged, optimizer, engine=engine, threads=threads)
    assert plan.streams == (True, optimizer == "adam")
    rules = [None if optimizer is None else lm.make_optimizer(optimizer) for _ in range(2)]
    everything = lm.plan(arch, ROWS, None, optimizer, engine=engine, threads=threads)
    steps = lm.Backprop(plain, everything, rules[0]), lm.Backprop(paged, plan, rules[1])
    for seed in range(3):
        one, other = (step(*batch(arch, ROWS, seed)) for step in steps)
        assert one[0] == other[0]
        for first, second in zip(one[1].arrays, other[1].arrays, strict=True):
            for name, array in first.items():
                np.testing.assert_array_equal(array, second[name])
        assert steps[1].disk_traffic == plan.disk_traffic
    np.testing.assert_array_equal(plain.learned, paged.learned)
    x, y = batch(arch, ROWS)
    outs = []
    for step in steps:
        out = np.zeros((ROWS, arch.widths[-1]), arch.dtype)
        step.forward(x, out)
        outs.append((out.copy(), step.loss(out, y)))
    np.testing.assert_array_equal(outs[0][0], outs[1][0])
    assert outs[0][1] == outs[1][1]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_the_optimizers_arrays_alone_may_lie_on_the_disk(tmp_path: Path, engine: str, optimizer: str) -> None:
    plain, other = randomised(ARCH), randomised(ARCH)
    plan = smallest(tmp_path, other, optimizer, engine=engine)
    assert plan.streams == (False, True)
    everything = lm.plan(ARCH, ROWS, None, optimizer, engine=engine, threads=1)
    rules = [lm.make_optimizer(optimizer) for _ in range(2)]
    steps = lm.Backprop(plain, everything, rules[0]), lm.Backprop(other, plan, rules[1])
    for seed in range(3):
        assert steps[0](*batch(ARCH, ROWS, seed))[0] == steps[1](*batch(ARCH, ROWS, seed))[0]
        assert steps[1].disk_traffic == plan.disk_traffic
    np.testing.assert_array_equal(plain.learned, other.learned)
    for one, two in zip(steps[0].optimizer_state, steps[1].optimizer_state, strict=True):
        np.testing.assert_array_equal(one, two)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_that_is_run_twice_streams_to_the_same_bits(tmp_path: Path, engine: str) -> None:
    from lowmem.runtime.clipping import ClippedBackprop

    plain, paged = randomised(ARCH), on_disk(tmp_path, ARCH)
    plan = smallest(tmp_path, paged, "adam", engine=engine, rehearse=True)
    assert plan.streams == (True, True)
    everything = lm.plan(ARCH, ROWS, None, "adam", engine=engine, threads=1, rehearse=True)
    pairs = ((plain, everything), (paged, plan))
    steps = [ClippedBackprop(mlp, how, lm.Adam(0.01), 0.05) for mlp, how in pairs]
    for seed in range(2):
        assert steps[0](*batch(ARCH, ROWS, seed))[0] == steps[1](*batch(ARCH, ROWS, seed))[0]
        assert steps[1].disk_traffic == plan.disk_traffic
    np.testing.assert_array_equal(plain.learned, paged.learned)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optimizer", [None, "adam"])
def test_passes_of_fewer_rows_stream_to_the_same_bits(tmp_path: Path, engine: str, optimizer: str | None) -> None:
    plain, paged = randomised(ARCH), on_disk(tmp_path, ARCH)
    usual: dict[str, Any] = {"batch_size": 3 * ROWS, "micro_batch": ROWS, "engine": engine, "threads": 1}
    plan = smallest(tmp_path, paged, optimizer, **usual)
    assert plan.streams == (True, optimizer is not None)
    everything = lm.plan(ARCH, budget=None, optimizer=optimizer, **usual)
    rules = [None if optimizer is None else lm.Adam(0.01) for _ in range(2)]
    steps = lm.Backprop(plain, everything, rules[0]), lm.Backprop(paged, plan, rules[1])
    for rows in (3 * ROWS, 2 * ROWS + 5):
        one, other = (step(*batch(ARCH, rows)) for step in steps)
        assert one[0] == other[0]
        for first, second in zip(one[1].weights, other[1].weights, strict=True):
            np.testing.assert_array_equal(first, second)
        assert steps[1].disk_traffic == plan.disk_traffic
    np.testing.assert_array_equal(plain.learned, paged.learned)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_profiled_step_streams_as_well(tmp_path: Path, engine: str) -> None:
    plain, paged = randomised(ARCH), on_disk(tmp_path, ARCH)
    plan = smallest(tmp_path, paged, "adam", engine=engine)
    everything = lm.plan(ARCH, ROWS, None, "adam", engine=engine, threads=1)
    pairs = (plain, everything), (paged, plan)
    for mlp, how in pairs:
        backprop = lm.Backprop(mlp, how, lm.Adam(0.01))
        profile_step(backprop, *batch(ARCH, ROWS))
    assert backprop.disk_traffic == plan.disk_traffic
    np.testing.assert_array_equal(plain.learned, paged.learned)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_promise_is_kept_and_what_is_resident_is_what_was_said(
    tmp_path: Path, engine: str, optimizer: str
) -> None:
    paged = on_disk(tmp_path, ARCH)
    plan = smallest(tmp_path, paged, optimizer, engine=engine)
    x, y = batch(ARCH, ROWS)
    traced = TracedPeak()
    gc.collect()
    traced.restart()
    backprop = lm.Backprop(paged, plan, lm.make_optimizer(optimizer))
    for _ in range(3):
        backprop(x, y)
    streamed = plan.parameter_bytes * plan.streams[0] + (plan.optimizer_bytes if plan.streams[1] else 0)
    assert traced.stop() <= plan.peak_bytes - streamed + 65_536
    measured, promised = backprop.account(), plan.account()
    assert measured.parameters is not None
    assert measured.optimizer is not None
    both = measured.parameters + measured.optimizer
    assert both <= promised.parameters + promised.optimizer
    assert both >= 0.9 * (promised.parameters + promised.optimizer)
    assert plan.parameter_bytes < paged.parameters.nbytes / 3
    assert backprop.engine.disk is not None
    assert backprop.engine.disk.streams is not None
    assert resident_pages(paged) <= len(ARCH.widths) + 1


def resident_pages(mlp: lm.MLP) -> int:
    """Return how many pages of a network on a disk are in the page cache, by the system's own count."""
    import ctypes
    import mmap

    address, size = mlp.learned.ctypes.data, mlp.learned.nbytes
    pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    if ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), pages):
        pytest.skip("this system does not say which pages are in memory")
    return sum(page & 1 for page in pages)


# Choices -----------------------------------------------------------------------------------------------------------


def test_with_room_everything_stays_in_memory(tmp_path: Path) -> None:
    mlp = on_disk(tmp_path, ARCH)
    for network, size in ((ARCH, 0), (randomised(ARCH), 0), (mlp, taken_in(tmp_path))):
        plan = lm.plan(network, ROWS, "1GiB", "adam", costs=model(), micro_batch=ROWS, disk=tier(tmp_path))
        assert (plan.streaming, plan.disk_bytes, plan.disk_traffic) == (None, size, 0)
        assert ("parameters, in" in str(plan)) == (network is mlp)


def test_as_little_as_needed_is_streamed(tmp_path: Path) -> None:
    """With ever less memory, first moments are streamed, and then parameters too."""
    mlp, seen = on_disk(tmp_path, ARCH), []
    usual: dict[str, Any] = {"batch_size": ROWS, "optimizer": "adam", "costs": model(), "micro_batch": ROWS}
    usual |= {"disk": tier(tmp_path), "threads": 1}
    whole, least = lm.plan(mlp, **usual).peak_bytes, lm.minimum_budget(mlp, **usual)
    for part in range(21):
        plan = lm.plan(mlp, budget=least + (whole - least) * part // 20, **usual)
        assert plan.peak_bytes <= plan.budget  # type: ignore[operator]
        seen.append(sum(plan.streams))
    assert (seen[0], seen[-1]) == (2, 0)
    assert seen == sorted(seen, reverse=True)


def test_without_a_disk_and_for_networks_in_memory_nothing_changes(tmp_path: Path) -> None:
    """The least budget without a disk is as before; with one, a network in memory keeps its parameters there."""
    mlp = randomised(ARCH)
    usual: dict[str, Any] = {"batch_size": ROWS, "costs": model(), "micro_batch": ROWS, "threads": 1}
    plain = lm.minimum_budget(mlp, optimizer="sgd", **usual)
    assert lm.plan(mlp, budget=plain, optimizer="sgd", **usual).streaming is None
    least = lm.plan(mlp, budget=plain + 100_000, optimizer="sgd", disk=tier(tmp_path), **usual)
    assert not least.streams[0]
    with pytest.raises(BudgetError):
        lm.plan(mlp, budget=plain // 2, optimizer="sgd", disk=tier(tmp_path), **usual)


def test_a_plan_that_streams_parameters_needs_a_network_on_a_disk(tmp_path: Path) -> None:
    usual: dict[str, Any] = {"batch_size": ROWS, "costs": model(), "micro_batch": ROWS, "disk": tier(tmp_path)}
    least = lm.minimum_budget(ARCH, optimizer="sgd", **usual)  # nobody knows where the parameters of these layers lie
    plan = lm.plan(ARCH, budget=least, optimizer="sgd", **usual)
    assert plan.streams == (True, False)
    with pytest.raises(InputError, match=r"lowmem\.MLP\(architecture, disk="):
        lm.Backprop(randomised(ARCH), plan, lm.SGD(0.1))


def test_gathered_gradients_and_shards_are_not_streamed(tmp_path: Path) -> None:
    mlp = on_disk(tmp_path, ARCH)
    usual: dict[str, Any] = {"costs": model(), "disk": tier(tmp_path), "threads": 1}
    for options in ({"gather": True}, {"shards": 2}):
        least = lm.minimum_budget(mlp, ROWS, "adam", **usual, **options)
        assert least > 3 * mlp.parameters.nbytes
        plan = lm.plan(mlp, ROWS, least, "adam", **usual, **options)
        assert plan.streaming is None


def test_the_disk_limit_holds_for_all_files(tmp_path: Path) -> None:
    mlp = on_disk(tmp_path, ARCH)
    usual: dict[str, Any] = {"batch_size": ROWS, "optimizer": "adam", "costs": model(), "micro_batch": ROWS}
    free = lm.minimum_budget(mlp, disk=tier(tmp_path), **usual)
    limit = 3 * mlp.parameters.nbytes
    less = lm.minimum_budget(mlp, disk=tier(tmp_path, limit=limit), **usual)
    assert less > free
    assert lm.plan(mlp, budget=less, disk=tier(tmp_path, limit=limit), **usual).disk_bytes <= limit
    with pytest.raises(BudgetError, match="Try .*or a larger disk_limit"):
        lm.plan(mlp, budget=free, disk=tier(tmp_path, limit=limit), **usual)
    with pytest.raises(InputError, match=r"lives on the disk, and disk_limit=.* is less than the .* that the file"):
        lm.plan(mlp, disk=tier(tmp_path, limit=mlp.parameters.nbytes - 1), **usual)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not say which files are open")
@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize(("streamed", "patience"), [(0, None), (1, None), (1, 2), (2, None), (2, 2)])
def test_the_plan_says_the_bytes_of_all_files(
    tmp_path: Path, streamed: int, patience: int | None, norm: str | None
) -> None:
    """Whatever is streamed, the network's own file is there, and with patience that of its best weights."""
    mlp = on_disk(tmp_path, lm.Architecture(ARCH.widths, norm=norm))
    usual: dict[str, Any] = {"batch_size": ROWS, "optimizer": "adam", "costs": model(), "micro_batch": ROWS}
    least, whole = lm.minimum_budget(mlp, disk=tier(tmp_path), **usual), lm.plan(mlp, **usual).peak_bytes
    budget = (whole + 10**7, (least + whole) // 2, int(1.05 * least) + 100_000)[streamed] + (10**7 if patience else 0)
    trainer = lm.Trainer(mlp, budget=budget, disk=tier(tmp_path), **usual)
    x, y = batch(mlp.architecture, 2 * ROWS)
    list(trainer.epochs((x, y), 1, patience=patience))
    assert trainer.plan.disk_bytes == taken_in(tmp_path)
    if not patience:
        assert sum(trainer.plan.streams) == streamed


def test_shards_of_a_network_on_the_disk_are_trained_with_a_disk(tmp_path: Path) -> None:
    losses = []
    for mlp in (on_disk(tmp_path, ARCH), randomised(ARCH)):
        trainer = lm.Trainer(mlp, "sgd", batch_size=ROWS, shards=2, costs=model(), disk=tier(tmp_path))
        losses.append([epoch.loss for epoch in trainer.epochs(batch(ARCH, 2 * ROWS), 1)])
    assert losses[0] == losses[1]


def test_the_plan_says_what_is_streamed(tmp_path: Path) -> None:
    plan = smallest(tmp_path, on_disk(tmp_path, ARCH), "adam")
    text = str(plan)
    assert "parameters and moments, in" in text
    assert "those of the layers at hand" in text
    assert plan.to_dict()["streamed"] == {"parameters": True, "moments": True, "ahead": plan.streaming.ahead}  # type: ignore[union-attr]
    assert plan.disk_bytes >= 3 * on_disk(tmp_path, ARCH).parameters.nbytes


def test_a_forked_process_that_trains_is_told_whose_network_it_is(tmp_path: Path) -> None:
    mlp = on_disk(tmp_path, ARCH)
    plan = smallest(tmp_path, mlp, "adam")
    backprop = lm.Backprop(mlp, plan, lm.Adam(0.01))
    backprop(*batch(ARCH, ROWS))

    def work() -> None:
        with pytest.raises(InputError, match=r"^an array that lives on the disk belongs to process \d+, which made"):
            backprop(*batch(ARCH, ROWS))

    assert in_child(work) == 0


# Errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fails", ["parameters", "moments"])
def test_a_disk_that_fails_says_whether_parameters_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, fails: str
) -> None:
    plan = smallest(tmp_path, on_disk(tmp_path, ARCH), "adam", engine=engine)
    source, torn = randomised(ARCH).learned, set()
    for number in (3, 9, 25, 33, 40, 50) if fails == "parameters" else (1, 2, 3, 10, 25):
        start = lm.MLP.empty(ARCH)
        np.copyto(start.learned, source)
        mlp, rule = lm.MLP.empty(ARCH, disk=tmp_path), lm.Adam(0.01)
        mlp.learned[:] = source
        backprop = lm.Backprop(mlp, plan, rule)
        assert mlp.paged is not None
        # One array alone fails, and not the file with states.
        array = mlp.paged if fails == "parameters" else backprop.buffers.paged_states[0]
        array._gate._conditions = Conditions(fail=number)
        with pytest.raises(DiskError, match=r"the disk failed at (writing|reading)") as caught:
            backprop(*batch(ARCH, ROWS))
        changed = bool((mlp.learned != source).any())
        assert caught.value.torn == changed
        assert rule.step_count == int(changed)
        torn.add(changed)
        if not changed:  # the next step finds nothing of the one that failed
            other = lm.Backprop(start, lm.plan(ARCH, ROWS, None, "adam", engine=engine, threads=1), lm.Adam(0.01))
            assert backprop(*batch(ARCH, ROWS))[0] == other(*batch(ARCH, ROWS))[0]
            np.testing.assert_array_equal(mlp.learned, start.learned)
    assert torn == {False, True}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_loss_that_overflows_leaves_parameters_and_memory_as_they_were(tmp_path: Path, engine: str) -> None:
    mlp = on_disk(tmp_path, ARCH)
    plan = smallest(tmp_path, mlp, "adam", engine=engine)
    backprop = lm.Backprop(mlp, plan, lm.Adam(0.01))
    mlp.weights[-1][:] = 1e38
    before = mlp.learned.copy()
    x, y = batch(ARCH, ROWS)
    with pytest.raises(lm.NonFiniteError):
        backprop(np.full_like(x, 1e30), y)
    assert resident_pages(mlp) >= 0
    np.testing.assert_array_equal(mlp.learned, before)
