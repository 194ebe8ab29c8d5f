"""Steps that send states to a disk: the same bits, the traffic that the plan tells, and errors of the disk."""

import gc
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lowmem as lm
from lowmem.errors import DiskError, InputError
from lowmem.measure.memory import TracedPeak
from lowmem.measure.step_profile import profile_step
from lowmem.planning.choose import request_of
from lowmem.planning.engines.machine import DiskTier
from lowmem.runtime.offload import checksums
from lowmem.schedule import Load, Store
from lowmem.schedule.disk.transfers import DiskRates
from tests.helpers import batch, model, randomised

FAST = DiskRates((1,), (1e12,), (1e12,))
ENGINES = ("native", "numpy")
ARCH = lm.Architecture((40, *[48] * 18, 10), activation="tanh")
ROWS = 96


def tier(folder: Path, rates: DiskRates = FAST, limit: int | None = None) -> DiskTier:
    return DiskTier(str(folder), rates, limit)


def planned(
    folder: Path | None, arch: lm.Architecture = ARCH, budget: int | str | None = "45% of activations", **options: Any
) -> lm.Plan:
    disk = None if folder is None else tier(folder)
    usual: dict[str, Any] = {"batch_size": ROWS, "costs": model(dtype=arch.dtype), "micro_batch": ROWS, "threads": 1}
    return lm.plan(arch, budget=budget, disk=disk, **usual | options)


def gradients(plan: lm.Plan, mlp: lm.MLP, rows: int = ROWS) -> tuple[float, Any, lm.Backprop]:
    backprop = lm.Backprop(mlp, plan)
    x, y = batch(mlp.architecture, rows)
    for _ in range(2):  # the second step finds in the file what the first one left
        loss, found = backprop(x, y)
    return loss, [array for layer in found.arrays for array in layer.values()], backprop


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("threads", [1, 2, 3])
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
def test_states_on_a_disk_change_no_bit(tmp_path: Path, engine: str, threads: int, options: dict[str, Any]) -> None:
    arch = lm.Architecture((40, *[48] * 18, 10), **{"activation": "tanh"} | options)
    mlp = randomised(arch)
    plain = planned(None, arch, None, engine=engine, threads=threads)
    spilled = planned(tmp_path, arch, engine=engine, threads=threads)
    assert spilled.strategy == "disk"
    assert spilled.disk_bytes > 0
    loss, expected, _ = gradients(plain, mlp)
    other, found, backprop = gradients(spilled, mlp)
    assert loss == other
    for one, two in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, two)
    assert backprop.disk_traffic == spilled.disk_traffic == spilled.disk_written + spilled.disk_read
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_batches_of_fewer_rows_and_several_passes_change_no_bit_either(tmp_path: Path, engine: str) -> None:
    mlp = randomised(ARCH)
    for rows in (1200, 900, 7):
        options: dict[str, Any] = {"engine": engine, "batch_size": 1200, "micro_batch": 400}
        plain = planned(None, budget=None, **options)
        spilled = planned(tmp_path, budget="15% of activations", **options)
        assert spilled.disk_bytes > 0
        assert spilled.disk_written == 3 * spilled.disk_bytes
        loss, expected, _ = gradients(plain, mlp, rows)
        other, found, backprop = gradients(spilled, mlp, rows)
        assert loss == other
        for one, two in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one, two)
        assert backprop.disk_traffic == spilled.disk_traffic * -(-rows // 400) // 3


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    widths=st.lists(st.integers(1, 90), min_size=5, max_size=12),
    share=st.integers(15, 80),
    engine=st.sampled_from(ENGINES),
    seconds=st.sampled_from([1e6, 1e8, 1e10]),
)
def test_ragged_networks_and_disks_of_any_speed_change_no_bit(
    tmp_path: Path, widths: list[int], share: int, engine: str, seconds: float
) -> None:
    arch = lm.Architecture(tuple(widths), activation="gelu")
    mlp = randomised(arch)
    rates = DiskRates((1,), (seconds,), (seconds,), 0.6)
    options: dict[str, Any] = {"batch_size": 400, "costs": model(), "micro_batch": 400, "engine": engine, "threads": 2}
    plain = lm.plan(arch, **options)
    try:
        spilled = lm.plan(arch, budget=f"{share}% of activations", disk=tier(tmp_path, rates), **options)
    except lm.BudgetError:
        return
    loss, expected, _ = gradients(plain, mlp, 400)
    other, found, backprop = gradients(spilled, mlp, 400)
    assert loss == other
    for one, two in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, two)
    assert backprop.disk_traffic == spilled.disk_traffic
    assert spilled.peak_bytes <= spilled.budget  # type: ignore[operator]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", [{}, {"gather": True}, {"rehearse": True}], ids=lambda options: str(*options))
def test_updates_are_the_same_with_and_without_a_disk(tmp_path: Path, engine: str, options: dict[str, Any]) -> None:
    networks = []
    for folder in (None, tmp_path):
        mlp = randomised(ARCH)
        budget = None if folder is None else "40% of activations"
        plan = planned(folder, budget=budget, optimizer="adam", engine=engine, **options)
        assert (plan.disk_bytes > 0) == (folder is not None)
        optimizer = lm.Adam(0.01)
        backprop = lm.Backprop(mlp, plan, optimizer)
        if options:
            from lowmem.runtime.clipping import ClippedBackprop

            del backprop
            backprop = ClippedBackprop(mlp, plan, optimizer, 0.5)
        for seed in range(3):
            backprop(*batch(ARCH, ROWS, seed))
        assert backprop.disk_traffic == plan.disk_traffic
        networks.append(mlp.parameters)
    np.testing.assert_array_equal(networks[0], networks[1])


def test_without_a_disk_nothing_is_written_and_plans_are_as_before(tmp_path: Path) -> None:
    plan = planned(None)
    assert not any(isinstance(op, Store | Load) for op in plan.schedule)
    assert (plan.disk, plan.disk_bytes, plan.disk_traffic) == (None, 0, 0)
    assert lm.Backprop(randomised(ARCH), plan).engine.disk is None


def test_a_budget_with_room_for_everything_sends_nothing_to_the_disk(tmp_path: Path) -> None:
    plan = planned(tmp_path, budget="2GiB")
    assert (plan.strategy, plan.disk_bytes) == ("store_all", 0)
    assert lm.Backprop(randomised(ARCH), plan).engine.disk is None


@pytest.mark.parametrize("strategy", ["auto", "sqrt", "optimal"])
@pytest.mark.parametrize("engine", ENGINES)
def test_with_a_disk_no_network_needs_more_memory(tmp_path: Path, engine: str, strategy: str) -> None:
    """States that stay in memory need no whole pages, also where searching by time leads elsewhere than by FLOPs."""
    measured: dict[str, Any] = {"costs": model(), "disk": tier(tmp_path)}
    for widths, rows in (((30, 8, 64, 10), 16), ((4, 40, 64, 8, 8, 3, 17, 8, 40, 17, 5), 5)):
        arch = lm.Architecture(widths, "gelu")
        usual: dict[str, Any] = {"batch_size": rows, "optimizer": "adam", "engine": engine, "strategy": strategy}
        least = lm.minimum_budget(arch, **usual)
        assert lm.minimum_budget(arch, **usual, micro_batch=rows, **measured) <= least
        plan = lm.plan(arch, budget=least, **usual, micro_batch=rows, **measured)
        assert plan.peak_bytes <= least
        assert plan.disk == str(tmp_path)
        with pytest.raises(lm.BudgetError) as refused:
            lm.plan(arch, budget=plan.peak_bytes // 3, **usual, micro_batch=rows, **measured)
        assert refused.value.minimum <= least


def test_the_deepest_network_with_a_disk_is_what_minimum_budget_says_and_each_depth_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual: dict[str, Any] = {"batch_size": 16, "costs": model(), "micro_batch": 16, "disk": tier(tmp_path)}
    budget, asked = 600_000, []

    def noted(architecture: lm.Architecture, *arguments: Any, **options: Any) -> Any:
        asked.append(architecture.layers)
        return request_of(architecture, *arguments, **options)

    monkeypatch.setattr("lowmem.planning.extremes.request_of", noted)
    one = lm.Architecture((30, 64, 10))
    layers = lm.deepest(one, budget=budget, **usual)
    assert len(asked) == len(set(asked))
    least = [lm.minimum_budget(lm.Architecture((30, *[64] * n, 10)), **usual) for n in (layers, layers + 1)]
    assert least[0] <= budget < least[1]


def test_a_share_of_activations_is_the_same_with_a_disk(tmp_path: Path) -> None:
    arch = lm.Architecture((30, *[20] * 8, 10))
    plans = [
        lm.plan(arch, 16, "60% of activations", disk=disk, costs=model(), micro_batch=16)
        for disk in (None, tier(tmp_path))
    ]
    assert plans[0].budget == plans[1].budget
    assert plans[0].store_all_bytes == plans[1].store_all_bytes


def test_an_own_schedule_with_transfers_needs_a_disk(tmp_path: Path) -> None:
    schedule = planned(tmp_path).schedule
    options: dict[str, Any] = {"batch_size": ROWS, "costs": model(), "strategy": schedule, "threads": 1}
    with pytest.raises(InputError, match="disk="):
        lm.plan(ARCH, **options)
    assert lm.plan(ARCH, disk=tier(tmp_path), **options).disk_bytes == planned(tmp_path).disk_bytes


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layers", [20, 120])
def test_the_promise_is_kept_with_a_disk(tmp_path: Path, engine: str, threads: int, layers: int) -> None:
    arch = lm.Architecture((64, *[64] * layers, 10))
    options: dict[str, Any] = {"batch_size": 300, "micro_batch": 300, "engine": engine, "threads": threads}
    plan = planned(tmp_path, arch, "50% of activations", optimizer="adam", **options)
    assert plan.disk_bytes > 0
    x, y = batch(arch, 300)
    traced = TracedPeak()
    gc.collect()
    traced.restart()
    backprop = lm.Backprop(lm.MLP(arch), plan, lm.Adam(1e-4))
    backprop(x, y)
    backprop(x, y)
    assert traced.stop() <= plan.peak_bytes + 65_536
    assert backprop.disk_traffic == plan.disk_traffic


# Limits and errors -------------------------------------------------------------------------------------------------


def test_the_disk_limit_is_kept(tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 1200, "costs": model(), "micro_batch": 1200, "threads": 1}
    free = lm.plan(ARCH, budget="20% of activations", disk=tier(tmp_path), **options)
    limit = free.disk_bytes // 3
    less = lm.plan(ARCH, budget="20% of activations", disk=tier(tmp_path), disk_limit=limit, **options)
    assert 0 < less.disk_bytes <= limit
    assert less.seconds > free.seconds  # type: ignore[operator]


def test_a_disk_limit_without_a_disk_is_refused() -> None:
    with pytest.raises(InputError, match="goes with disk="):
        lm.plan(ARCH, ROWS, disk_limit="1GiB")


@pytest.mark.parametrize("disk", [3, "", b"/tmp", True])
def test_what_is_no_folder_is_refused(disk: Any) -> None:
    with pytest.raises(InputError, match="disk must be a folder"):
        lm.plan(ARCH, ROWS, disk=disk)


def test_a_full_disk_is_refused_before_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lowmem.common.disk import spill_file

    plan = planned(tmp_path)
    monkeypatch.setattr(spill_file, "free_bytes", lambda folder: plan.disk_bytes - 1)
    with pytest.raises(InputError, match="too full"):
        lm.Backprop(randomised(ARCH), plan)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("profiled", [False, True])
@pytest.mark.parametrize("optimizer", [None, "adam"])
def test_a_disk_that_fails_leaves_parameters_alone_or_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, optimizer: str | None, profiled: bool
) -> None:
    step = profile_step if profiled else lm.Backprop.__call__
    plan = planned(tmp_path, budget="40% of activations", engine=engine, optimizer=optimizer)
    transfers = 2 * sum(isinstance(op, Store) for op in plan.schedule)
    torn = set()
    for number in range(1, transfers + 1):
        monkeypatch.setenv("LOWMEM_DISK_TEST", f"fail={number}")
        mlp = randomised(ARCH)
        rule = None if optimizer is None else lm.Adam(0.01)
        backprop = lm.Backprop(mlp, plan, rule)
        before = mlp.parameters.copy()
        with pytest.raises(DiskError, match=r"the disk failed at (writing|reading) state \d+") as caught:
            step(backprop, *batch(ARCH, ROWS))
        torn.add(caught.value.torn)
        changed = bool((mlp.parameters != before).any())
        assert changed == caught.value.torn
        assert ("go back to a saved run" in str(caught.value)) == changed
        if rule is not None and not changed:
            assert rule.step_count == 0
        backprop(*batch(ARCH, ROWS))  # the next step finds nothing of the one that failed
    assert torn == ({False} if optimizer is None else {False, True})


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optimizer", [None, "adam"])
def test_a_byte_that_changes_on_the_disk_ends_the_step_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str | None, engine: str
) -> None:
    """Where updates follow the backward of their layer, those of the layers above may be done; the error says so."""
    monkeypatch.delenv("LOWMEM_DISK_CHECKSUM", raising=False)
    mlp = randomised(ARCH)
    plan = planned(tmp_path, budget="40% of activations", engine=engine, optimizer=optimizer)
    plan = replace(plan, seconds=1.0)  # checksums are little beside such a step
    backprop = lm.Backprop(mlp, plan, None if optimizer is None else lm.Adam(0.01))
    backprop(*batch(ARCH, ROWS))
    assert backprop.engine.disk is not None
    store, before = backprop.engine.disk.store, mlp.parameters.copy()
    assert store is not None
    put = store.file.write

    def put_otherwise(pieces: Sequence[memoryview], offset: int) -> None:
        put(pieces, offset)
        pieces[0][100] ^= 1
        put(pieces, offset)
        pieces[0][100] ^= 1

    monkeypatch.setattr(store.file, "write", put_otherwise)
    with pytest.raises(DiskError, match=r"the disk failed at reading state \d+ .*their checksums differ") as caught:
        backprop(*batch(ARCH, ROWS))
    assert str(caught.value).count("\n") == 0
    assert caught.value.torn == bool((mlp.parameters != before).any())
    assert not caught.value.torn or optimizer is not None
    monkeypatch.undo()
    backprop(*batch(ARCH, ROWS))


@pytest.mark.parametrize("engine", ENGINES)
def test_checksums_are_made_where_they_cost_little_or_the_environment_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    plan = planned(tmp_path, budget="40% of activations", engine=engine)
    seconds = plan.disk_traffic / checksums.RATES[engine] / 0.02
    for wish, quick, slow in ((None, False, True), ("0", False, False), ("1", True, True)):
        monkeypatch.delenv("LOWMEM_DISK_CHECKSUM", raising=False)
        if wish is not None:
            monkeypatch.setenv("LOWMEM_DISK_CHECKSUM", wish)
        assert (checksums.checksum_of(replace(plan, seconds=0.9 * seconds)) is not None) == quick
        assert (checksums.checksum_of(replace(plan, seconds=1.1 * seconds)) is not None) == slow
    monkeypatch.setenv("LOWMEM_DISK_CHECKSUM", "yes")
    with pytest.raises(InputError, match='"1" for checksums or "0" for none'):
        checksums.checksum_of(plan)
