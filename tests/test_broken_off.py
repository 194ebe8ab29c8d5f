"""Steps that are broken off, and objects that two threads or two owners want: bits are never lost without a word."""

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.cli import main
from lowmem.runtime.backprop import Backprop
from lowmem.training.saved_run import open_run
from tests.helpers import batch, randomised

ARCH = lm.Architecture((4, 6, 6, 3))
X, Y = batch(ARCH, 50)


def trainer_of(**options: Any) -> lm.Trainer:
    return lm.Trainer(lm.MLP(ARCH), lm.Adam(0.01), batch_size=10, **options)


def interrupts(monkeypatch: pytest.MonkeyPatch, step: int, times: int = 1) -> None:
    """Raise SIGINT so many times in the middle of a step: after its update, before it is counted."""
    original, calls = Backprop.step, [0]

    def stepped(self: Backprop, *arguments: Any, **options: Any) -> Any:
        result = original(self, *arguments, **options)
        calls[0] += 1
        if calls[0] == step:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(Backprop, "step", stepped)


def reference(tmp_path: Path) -> Any:
    """Return the parameters after three epochs that nothing interrupts."""
    trainer = trainer_of()
    list(trainer.epochs((X, Y), 3))
    return trainer.mlp.parameters


# Steps that are broken off ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(1, 9))
def test_ctrl_c_waits_for_the_step_so_that_a_save_after_it_loses_no_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    whole = reference(tmp_path)
    trainer, path = trainer_of(), tmp_path / "run"
    interrupts(monkeypatch, step)
    with pytest.raises(KeyboardInterrupt):
        list(trainer.epochs((X, Y), 3))
    trainer.save(path)
    monkeypatch.undo()
    assert open_run(path).position.steps == step
    for again in (lm.Trainer.resume(path), trainer):
        list(again.epochs((X, Y)))
        assert np.array_equal(again.mlp.parameters, whole)


@pytest.mark.parametrize("saves", [False, True])
@pytest.mark.parametrize("step", [1, 4, 7, 12])
def test_a_step_that_a_second_ctrl_c_breaks_off_is_never_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, saves: bool
) -> None:
    whole = reference(tmp_path)
    trainer, path = trainer_of(), tmp_path / "run"
    interrupts(monkeypatch, step, 2)
    with pytest.raises(KeyboardInterrupt):
        list(trainer.epochs((X, Y), 3, save_to=path if saves else None, save_every=1 if saves else None))
    monkeypatch.undo()
    earlier = path.read_bytes() if path.exists() else None
    words = f"step {step} was broken off, and its parameters are half updated"
    with pytest.raises(lm.InputError, match=f"this run cannot be saved: {words}"):
        trainer.save(path)
    with pytest.raises(lm.InputError, match=f"this run cannot be continued: {words}"):
        trainer.epochs((X, Y))
    with pytest.raises(lm.InputError, match=f"this run cannot be evaluated: {words}"):
        trainer.evaluate((X, Y))
    assert (path.read_bytes() if path.exists() else None) == earlier
    if earlier is not None:
        again = lm.Trainer.resume(path)
        list(again.epochs((X, Y)))
        assert np.array_equal(again.mlp.parameters, whole)


def test_the_command_ends_with_its_last_good_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    interrupts(monkeypatch, 3, 2)
    flags = ["--layers", "1", "--width", "8", "--batch", "64", "--epochs", "2", "--save-every", "1", "--no-calibrate"]
    assert main(["train", *flags, "--save", str(path)]) == 130
    error = capsys.readouterr().err
    assert error.endswith(f"stopped by SIGINT. The run is in {path} (step 2); go on with: lowmem resume {path}\n")
    assert open_run(path).position.steps == 2


def test_other_errors_in_a_step_break_it_off_and_errors_beside_it_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(done: int, count: int) -> None:
        raise RuntimeError("of the caller")

    trainer = trainer_of()
    with pytest.raises(RuntimeError, match="of the caller"):
        list(trainer.epochs((X, Y), 1, on_step=told))
    trainer.save(tmp_path / "run")
    assert open_run(tmp_path / "run").position.steps == 1

    def out_of_memory(*arguments: Any, **options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Backprop, "step", out_of_memory)
    with pytest.raises(MemoryError):
        list(trainer.epochs((X, Y), 1))
    with pytest.raises(lm.InputError, match="Resume the last good save, .*run \\(step 1\\), or begin a new trainer"):
        trainer.save(tmp_path / "run")


def test_a_signal_that_the_process_ignores_is_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        trainer = trainer_of()
        epochs = trainer.epochs((X, Y), 2, on_step=lambda done, count: signal.raise_signal(signal.SIGINT))
        assert [epoch.number for epoch in epochs] == [1, 2]
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_those_of_before_after_an_epoch() -> None:
    before = signal.getsignal(signal.SIGINT)
    for _ in trainer_of().epochs((X, Y), 2):
        assert signal.getsignal(signal.SIGINT) is before


INTERRUPTED = """
import random, signal
import numpy as np, lowmem as lm
from lowmem.runtime import blas_threads
architecture = lm.Architecture((4, 8, 3))
x, y = np.ones((8, 4), np.float32), np.zeros(8, int)
mlp, plan = lm.MLP(architecture), lm.plan(architecture, 8)
trainer = lm.Trainer(mlp, "adam", batch_size=8)
list(trainer.epochs((x, y), 1))
random.seed(0)


def interrupt(number, frame):
    if frame.f_code.co_name != "<module>":  # outside of a call, a slow machine may be about to stop the timer
        raise KeyboardInterrupt


signal.signal(signal.SIGALRM, interrupt)
for _ in range(150):
    backprop = lm.Backprop(mlp, plan)
    for call in (lambda: backprop(x, y), lambda: trainer.evaluate((x, y)), lambda: mlp.predict(x)):
        try:
            # Again and again, as Python swallows what comes while it frees something.
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0002, 0.002), 0.05)
            while True:
                call()
        except KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
        call()
        assert not blas_threads._uses()
print("all worked again")
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers that send signals")
def test_what_an_interrupt_breaks_off_anywhere_works_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout == "all worked again\n", done.stderr


# Two threads ------------------------------------------------------------------------------------------------------


class Held:
    """Holds the first step in another thread until `release` is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original, self.entered, self.let_go = Backprop._train, threading.Event(), threading.Event()

        def train(backprop: Backprop, *arguments: Any) -> float:
            if threading.current_thread() is not threading.main_thread():
                self.entered.set()
                assert self.let_go.wait(20)
            return original(backprop, *arguments)

        monkeypatch.setattr(Backprop, "_train", train)

    def during(self, work: Any) -> threading.Thread:
        """Return the thread that does `work`, once it stands in a step."""
        thread = threading.Thread(target=work)
        thread.start()
        assert self.entered.wait(20)
        return thread


def test_one_backprop_refuses_a_second_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    backprop, held, losses = Backprop(randomised(ARCH), lm.plan(ARCH, 50)), Held(monkeypatch), []
    alone = Backprop(randomised(ARCH), lm.plan(ARCH, 50))(X, Y)[0]
    thread = held.during(lambda: losses.append(backprop(X, Y)[0]))
    words = "runs a step in another thread at the moment. Its memory is there only once: make one for each thread"
    out = np.empty((50, 3), np.float32)
    for call in (lambda: backprop(X, Y), lambda: backprop.forward(X, out), lambda: backprop.loss(out, Y)):
        with pytest.raises(lm.InputError, match=words):
            call()
    held.let_go.set()
    thread.join()
    assert losses == [alone]
    assert backprop(X, Y)[0] == alone


def test_one_network_is_trained_by_one_thread_and_read_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    mlp, held = randomised(ARCH), Held(monkeypatch)
    plan = lm.plan(ARCH, 50, optimizer="sgd")
    first, second, reads = (
        Backprop(mlp, plan, lm.SGD(0.1)),
        Backprop(mlp, plan, lm.SGD(0.1)),
        Backprop(mlp, lm.plan(ARCH, 50)),
    )
    thread = held.during(lambda: first(X, Y))
    with pytest.raises(lm.InputError, match=r"this network is trained in another thread at the moment. Train a copy"):
        second(X, Y)
    reads(X, Y)
    held.let_go.set()
    thread.join()
    second(X, Y)


def test_one_trainer_refuses_a_second_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, trainer, held = reference(tmp_path), trainer_of(), Held(monkeypatch)
    thread = held.during(lambda: list(trainer.epochs((X, Y), 3)))
    for call in (
        lambda: trainer.save(tmp_path / "run"),
        lambda: trainer.evaluate((X, Y)),
        lambda: trainer.epochs((X, Y), 1),
    ):
        with pytest.raises(lm.InputError, match="in another thread|was broken off"):
            call()
    held.let_go.set()
    thread.join()
    assert np.array_equal(trainer.mlp.parameters, whole)


def test_epochs_do_not_begin_within_a_step_of_their_trainer() -> None:
    trainer = trainer_of()
    told: list[str] = []

    def begin(done: int, count: int) -> None:
        for use in (lambda: trainer.epochs((X, Y), 1), lambda: next(waiting))[: 1 if told else 2]:
            with pytest.raises(
                lm.InputError, match="trains at the moment, and cannot begin anew|called anew"
            ) as error:
                use()
            told.append(str(error.value))

    waiting = trainer.epochs((X, Y), 2)
    assert [epoch.number for epoch in trainer.epochs((X, Y), 2, on_step=begin)] == [1, 2]
    assert told
    next(trainer.epochs((X, Y), 3))  # left after an epoch, and continued
    assert [epoch.number for epoch in trainer.epochs((X, Y), 2)] == [4, 5]


def test_earlier_epochs_end_where_later_ones_begin(tmp_path: Path) -> None:
    trainer = trainer_of()
    earlier = trainer.epochs((X, Y), 4, patience=3)
    next(earlier)
    later = trainer.epochs((X[:33], Y[:33]), 2)
    with pytest.raises(lm.InputError, match=r"trainer.epochs was called anew since these epochs began"):
        next(earlier)
    assert [epoch.number for epoch in later] == [2, 3]


def test_epochs_that_are_refused_leave_the_run_as_it_was(tmp_path: Path) -> None:
    whole = reference(tmp_path)
    trainer = trainer_of(budget="1MiB")
    epochs = trainer.epochs((X, Y), 3, patience=9)
    next(epochs)
    wide = np.zeros((200_000, 4), np.float32)
    with pytest.raises((lm.BudgetError, lm.InputError)):
        trainer.epochs((wide, np.zeros(200_000, int)), 1)
    assert trainer.best_epoch == 1
    trainer.save(tmp_path / "run")
    list(epochs)
    resumed = lm.Trainer.resume(tmp_path / "run")
    list(resumed.epochs((X, Y)))
    for run in (trainer, resumed):
        assert np.array_equal(run.mlp.parameters, whole)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_callback_may_fork_and_the_child_goes_on(tmp_path: Path) -> None:
    trainer, parent = trainer_of(), os.getpid()
    children: list[int] = []

    def fork(done: int, count: int) -> None:
        if not children:
            children.append(os.fork())
            if os.getpid() != parent:
                trainer.save(tmp_path / "early")

    done = False
    try:
        list(trainer.epochs((X, Y), 3, on_step=fork))
        trainer.save(tmp_path / ("late" if os.getpid() == parent else "late of the child"))
        done = True
    finally:
        if os.getpid() != parent:
            os._exit(0 if done else 1)
    assert os.waitpid(children[0], 0)[1] == 0
    assert (tmp_path / "late").read_bytes() == (tmp_path / "late of the child").read_bytes()
    resumed = lm.Trainer.resume(tmp_path / "early")
    list(resumed.epochs((X, Y)))
    assert np.array_equal(resumed.mlp.parameters, trainer.mlp.parameters)


def test_objects_of_their_own_in_two_threads_give_the_bits_of_one_alone(tmp_path: Path) -> None:
    whole, found = reference(tmp_path), []

    def train() -> None:
        trainer = trainer_of()
        list(trainer.epochs((X, Y), 3))
        found.append(trainer.mlp.parameters)

    threads = [threading.Thread(target=train) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(np.array_equal(parameters, whole) for parameters in found)


# Memory of others -------------------------------------------------------------------------------------------------


def test_a_network_that_is_unpickled_from_memory_to_read_has_its_own() -> None:
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(randomised(ARCH), protocol=5, buffer_callback=buffers.append)
    lent = [bytes(buffer.raw()) for buffer in buffers]
    before = [bytearray(one) for one in lent]
    trainer = lm.Trainer(pickle.loads(pickled, buffers=lent), batch_size=10)
    list(trainer.epochs((X, Y), 1))
    assert lent == before
    assert not np.array_equal(trainer.mlp.parameters, randomised(ARCH).parameters)


def test_a_network_that_must_not_be_written_is_not_trained() -> None:
    mlp = randomised(ARCH)
    mlp.learned.flags.writeable = False
    with pytest.raises(lm.InputError, match=r"memory that must not be written. Train copy.deepcopy\(mlp\)"):
        Backprop(mlp, lm.plan(ARCH, 50, optimizer="sgd"), lm.SGD(0.1))
    Backprop(mlp, lm.plan(ARCH, 50))(X, Y)
    Backprop(copy.deepcopy(mlp), lm.plan(ARCH, 50, optimizer="sgd"), lm.SGD(0.1))(X, Y)


def test_copies_of_weights_and_gradients_stay_what_they_were() -> None:
    mlp = randomised(ARCH)
    backprop = Backprop(mlp, lm.plan(ARCH, 50))
    _, gradients = backprop(X, Y)
    for kept in (
        copy.deepcopy((mlp.weights, mlp.arrays, gradients)),
        pickle.loads(pickle.dumps((mlp.weights, mlp.arrays, gradients))),
    ):
        weights, arrays, of_step = kept
        assert np.array_equal(weights[1], mlp.weights[1])
        assert not np.shares_memory(weights[1], mlp.parameters)
        assert not np.shares_memory(arrays[1]["bias"], mlp.parameters)
        assert np.array_equal(of_step.weights[1], gradients.weights[1])
        assert not np.shares_memory(of_step.weights[1], backprop.buffers.gradients.flat)


# One optimizer ----------------------------------------------------------------------------------------------------


def test_one_optimizer_refuses_a_second_owner() -> None:
    optimizer = lm.Adam(0.01)
    plan = lm.plan(ARCH, 50, optimizer="adam")
    first, second = Backprop(lm.MLP(ARCH), plan, optimizer), Backprop(lm.MLP(ARCH), plan, optimizer)
    first(X, Y)
    with pytest.raises(lm.InputError, match=r"this optimizer makes the steps of another Backprop .*make_optimizer"):
        second(X, Y)
    assert optimizer.step_count == 1
    first(X, Y)
    assert optimizer.step_count == 2
    del first
    with pytest.raises(lm.InputError, match=r"has counted 2 steps for another .*set its step_count to 0"):
        second(X, Y)
    optimizer.step_count = 0
    second(X, Y)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_an_optimizer_whose_moments_stayed_behind_is_refused(copied: Any) -> None:
    mlp, optimizer = lm.MLP(ARCH), lm.Adam(0.01)
    Backprop(mlp, lm.plan(ARCH, 50, optimizer="adam"), optimizer)(X, Y)
    mlp, optimizer = copied((mlp, optimizer))
    again = Backprop(mlp, lm.plan(ARCH, 50, optimizer="adam"), optimizer)
    before = mlp.parameters.copy()
    with pytest.raises(lm.InputError, match="has counted 1 steps for another .* moments .* are not here"):
        again(X, Y)
    with pytest.raises(lm.InputError, match="has counted 1 steps for another .* moments .* are not here"):
        lm.Trainer(copy.deepcopy(mlp), copy.deepcopy(optimizer), batch_size=10).epochs((X, Y), 1)
    assert np.array_equal(mlp.parameters, before)
    for mine in again.optimizer_state:
        mine[:] = 1e-3  # as who keeps moments puts them back
    again(X, Y)


def test_two_trainers_do_not_share_an_optimizer_nor_its_clipping() -> None:
    optimizer = lm.SGD(0.1)
    first = lm.Trainer(lm.MLP(ARCH), optimizer, batch_size=10, clip_value=0.5)
    list(first.epochs((X, Y), 1))
    second = lm.Trainer(lm.MLP(ARCH), optimizer, batch_size=10)
    with pytest.raises(lm.InputError, match="this optimizer makes the steps of another Backprop"):
        second.epochs((X, Y), 1)
    assert optimizer.clip_value == 0.5
    list(first.epochs((X, Y), 1))
    del first
    list(second.epochs((X, Y), 1))
    assert optimizer.clip_value is None


# Copies -----------------------------------------------------------------------------------------------------------


def test_a_shallow_copy_of_a_network_waits_for_the_same_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    mlp, held, plan = randomised(ARCH), Held(monkeypatch), lm.plan(ARCH, 50, optimizer="sgd")
    other = copy.copy(mlp)
    assert np.shares_memory(other.learned, mlp.learned)
    first, second = Backprop(mlp, plan, lm.SGD(0.1)), Backprop(other, plan, lm.SGD(0.1))
    thread = held.during(lambda: first(X, Y))
    with pytest.raises(lm.InputError, match="this network is trained in another thread"):
        second(X, Y)
    held.let_go.set()
    thread.join()


def test_a_copy_made_while_a_thread_trains_is_of_whole_steps() -> None:
    architecture = lm.Architecture((4, *[64] * 8, 3))
    states: set[bytes] = set()
    mlp = lm.MLP(architecture, 1)
    backprop = Backprop(mlp, lm.plan(architecture, 50, optimizer="sgd"), lm.SGD(0.1))
    states.add(mlp.learned.tobytes())

    def train() -> None:
        for _ in range(200):
            backprop(X, Y)
            states.add(mlp.learned.tobytes())

    thread, copies = threading.Thread(target=train), []
    thread.start()
    while thread.is_alive():
        copies.append(copy.deepcopy(mlp).learned.tobytes())
    thread.join()
    assert len(states) == 201  # no step was refused
    assert copies
    assert set(copies) <= states


COPIES = [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))]


@pytest.mark.parametrize("copied", COPIES)
def test_trainers_and_backprops_say_how_they_are_copied(copied: Any) -> None:
    trainer = trainer_of()
    backprop = Backprop(lm.MLP(ARCH), lm.plan(ARCH, 50))
    with pytest.raises(lm.InputError, match=r"a trainer cannot be copied or pickled.*Trainer\.resume\(path\)"):
        copied(trainer)
    with pytest.raises(lm.InputError, match=r"a Backprop cannot be copied or pickled.*copy\.deepcopy\(mlp\)"):
        copied(backprop)


@pytest.mark.parametrize("copied", COPIES)
def test_plans_architectures_optimizers_and_rates_are_copied(copied: Any) -> None:
    plan = lm.plan(ARCH, 50, optimizer="adam")
    again = copied(plan)
    assert again.to_dict() == plan.to_dict()
    mlp = randomised(ARCH)
    optimizer = lm.Adam(0.01)
    one, two = Backprop(randomised(ARCH), plan, optimizer), Backprop(mlp, again, copied(optimizer))
    assert [one(X, Y)[0] for _ in range(3)] == [two(X, Y)[0] for _ in range(3)]
    assert copied(ARCH) == ARCH
    rate = lm.LearningRate(0.1, "cosine", steps=10)
    assert copied(rate) == rate
