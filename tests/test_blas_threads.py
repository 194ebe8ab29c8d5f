"""BLAS's threads: one where products are small or one was asked for, and never another number afterwards."""

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import lowmem as lm
from lowmem.common import cores
from lowmem.planning.engines.lane_count import lanes_for
from lowmem.runtime import blas_threads as blas_threads_module
from lowmem.runtime.blas_threads import at_most
from lowmem.runtime.engines.calls import Bound, run_calls
from tests.helpers import batch


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def seen_in_a_step(width: int, threads: int | None) -> set[int]:
    """Return how many threads BLAS may use while a step runs."""
    architecture = lm.Architecture((8, *[width] * 3, 3))
    x, y = batch(architecture, 64)
    seen = set[int]()

    def watched(bound: Sequence[Bound]) -> None:
        seen.update(blas_threads())
        run_calls(bound)

    lm.Backprop(lm.MLP(architecture), lm.plan(architecture, 64, threads=threads, engine="numpy")).step(
        x, y, carry_out=watched
    )
    return seen


@pytest.mark.parametrize(
    ("width", "threads", "expected"),
    [(32, None, 1), (32, 4, 1), (300, None, 3), (300, 1, 1), (300, 2, 2), (300, 9, 3)],
)
def test_blas_keeps_to_one_thread_where_products_are_small_and_to_what_was_asked_for(
    width: int, threads: int | None, expected: int
) -> None:
    with threadpool_limits(3, user_api="blas"):
        before = blas_threads()
        assert seen_in_a_step(width, threads) == {expected}
        assert blas_threads() == before


def test_blas_has_its_threads_back_only_when_nobody_holds_it() -> None:
    with threadpool_limits(3, user_api="blas"):
        before = blas_threads()
        with at_most(2):
            with at_most(1):
                assert set(blas_threads()) == {1}
                with at_most(3):
                    assert set(blas_threads()) == {1}
            assert set(blas_threads()) == {2}
        assert blas_threads() == before


def test_blas_gets_no_more_threads_than_the_quota_of_the_cgroup_is_enough_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas_threads_module, "_GRANTED", 2)
    with threadpool_limits(3, user_api="blas"):
        before = blas_threads()
        assert seen_in_a_step(300, None) == {2}
        assert blas_threads() == before


def test_an_error_in_a_step_leaves_blas_as_it_was() -> None:
    architecture = lm.Architecture((8, *[16] * 3, 3))
    backprop, data = (
        lm.Backprop(lm.MLP(architecture), lm.plan(architecture, 64, engine="numpy")),
        batch(architecture, 64),
    )

    def failing(_: Sequence[Bound]) -> None:
        raise RuntimeError("here")

    with threadpool_limits(3, user_api="blas"):
        before = blas_threads()
        with pytest.raises(RuntimeError, match="here"):
            backprop.step(*data, carry_out=failing)
        assert blas_threads() == before


def test_steps_in_several_threads_give_the_same_bits() -> None:
    before = blas_threads()
    architecture = lm.Architecture((8, *[16] * 6, 3), "tanh")
    x, y = batch(architecture, 64)

    def run(_: int) -> list[float]:
        backprop = lm.Backprop(
            lm.MLP(architecture), lm.plan(architecture, 64, None, "sgd", engine="numpy"), lm.SGD(0.1)
        )
        return [backprop(x, y)[0] for _ in range(4)]

    alone = run(0)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(8))) == [alone] * 8
    assert blas_threads() == before


def test_cores_are_those_that_blas_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in cores.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert cores.cores() == 6
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert cores.cores() == 2
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "many")
    assert cores.cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.cores() == 1


def test_the_numpy_engine_has_one_lane() -> None:
    assert lanes_for("numpy", lm.Architecture((64, *[256] * 20, 10)), 2048) == 1
    plan = lm.plan(lm.Architecture((4, 3)), 8, threads=4, engine="numpy")
    assert (plan.lanes, plan.threads) == (1, 4)


@pytest.mark.parametrize("threads", [0, -1, 2.5, "two", True])
def test_threads_that_make_no_sense_are_refused(threads: Any) -> None:
    with pytest.raises(lm.InputError, match=r"threads must be a positive whole number.*got"):
        lm.plan(lm.Architecture((4, 3)), 8, threads=threads)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process")  # is multi-threaded: that is what is tried
def test_a_fork_waits_until_no_other_thread_computes() -> None:
    order: list[str] = []
    computing = threading.Event()

    def compute() -> None:
        with at_most(2):
            computing.set()
            time.sleep(0.2)
            order.append("computed")

    thread = threading.Thread(target=compute)
    thread.start()
    computing.wait()
    child = os.fork()
    if not child:
        os._exit(len(blas_threads_module._held))
    order.append("forked")
    thread.join()
    assert order == ["computed", "forked"]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_in_a_step_of_its_own_thread_does_not_wait() -> None:
    with at_most(1):
        child = os.fork()
        if not child:
            with at_most(1):
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
