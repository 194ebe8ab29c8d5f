"""Saved runs: the same bits after resuming anywhere, one file that other tools read, and no trust in any other."""

import errno
import gc
import json
import os
import re
import signal
import struct
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import lowmem as lm
from lowmem.nn import optimizers
from lowmem.nn.optimizers import Variant
from lowmem.training.saved_run import open_run

Array = NDArray[Any]
ARCH = lm.Architecture((5, 8, 8, 3), "gelu")
RNG = np.random.default_rng(0)
X = RNG.standard_normal((50, 5)).astype(np.float32)
Y = RNG.integers(0, 3, 50)

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: lm.SGD(0.1, weight_decay=0.01),
    "momentum": lambda: lm.SGD(0.05, momentum=0.8),
    "nesterov": lambda: lm.SGD(0.05, momentum=0.8, nesterov=True),
    "adam": lambda: lm.Adam(0.01, beta1=0.8),
    "adamw": lambda: lm.AdamW(0.01, weight_decay=0.1),
}


def trainer_of(optimizer: str = "adam", **options: Any) -> lm.Trainer:
    return lm.Trainer(lm.MLP(ARCH, 1), OPTIMIZERS[optimizer](), **{"batch_size": 8, "seed": 3, **options})


def stop_after(steps: int) -> Callable[[int, int], None]:
    """Return an `on_step` that ends the run with Ctrl-C after so many steps."""
    left = [steps]

    def on_step(done: int, count: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGINT)

    return on_step


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a saved run in the middle of its second epoch."""
    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        list(trainer_of().epochs((X, Y), 3, save_to=path, on_step=stop_after(10)))
    return path


# Same bits -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    steps=st.integers(1, 27),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    options=st.sampled_from(
        [
            {},
            {"micro_batch": 3},
            {"clip_norm": 0.1},
            {"clip_value": 0.01},
            {"schedule": lm.LearningRate(0.02, "cosine", steps=28, warm_up=5)},
            {"strategy": "sqrt"},
        ]
    ),
    changes=st.sampled_from([{}, {"strategy": "recompute_all"}, {"budget": "300%"}]),
)
def test_resumed_at_any_step_a_run_ends_with_the_bits_of_an_unbroken_one(
    tmp_path_factory: pytest.TempPathFactory, steps: int, optimizer: str, options: Any, changes: Any
) -> None:
    path = tmp_path_factory.mktemp("run") / "run.safetensors"
    whole = trainer_of(optimizer, **options)
    epochs = list(whole.epochs((X, Y), 4, (X, Y)))
    broken = trainer_of(optimizer, **options)
    with pytest.raises(KeyboardInterrupt):
        list(broken.epochs((X, Y), 4, (X, Y), save_to=path, on_step=stop_after(steps)))
    resumed = lm.Trainer.resume(path, **changes)
    rest = list(resumed.epochs((X, Y), None, (X, Y)))
    assert np.array_equal(resumed.mlp.parameters, whole.mlp.parameters)
    assert resumed.optimizer.step_count == whole.optimizer.step_count == 28
    told = [(epoch.number, epoch.loss, epoch.validation_loss, epoch.accuracy) for epoch in epochs]
    assert [(epoch.number, epoch.loss, epoch.validation_loss, epoch.accuracy) for epoch in rest] == told[-len(rest) :]


def amsgrad() -> type[lm.Adam]:
    """Define AMSGrad, Adam with the largest v so far in its denominator: an optimizer with three arrays."""

    class AMSGrad(lm.Adam):
        variants: ClassVar[dict[str, Variant]] = {"amsgrad": Variant(states=3, scratch=1)}

        @property
        def name(self) -> str:
            return "amsgrad"

        def rule(self, w: Array, g: Array, states: tuple[Array, ...], scratch: tuple[Array, ...]) -> None:
            m, v, largest = states
            (t,) = scratch
            np.multiply(g, 1.0 - self.beta1, out=t)
            np.add(np.multiply(m, self.beta1, out=m), t, out=m)
            np.multiply(np.multiply(g, g, out=g), 1.0 - self.beta2, out=g)
            np.add(np.multiply(v, self.beta2, out=v), g, out=v)
            np.maximum(largest, v, out=largest)
            np.add(np.sqrt(largest, out=t), self.eps, out=t)
            np.subtract(w, np.multiply(np.divide(m, t, out=t), self.lr, out=t), out=w)

    return AMSGrad


def test_an_optimizer_of_three_arrays_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(optimizers.OPTIMIZERS, "amsgrad", optimizers.OPTIMIZERS["adam"])  # is gone after this test
    kind = amsgrad()
    whole, broken = (lm.Trainer(lm.MLP(ARCH, 1), kind(0.01), batch_size=8) for _ in range(2))
    list(whole.epochs((X, Y), 3))
    with pytest.raises(KeyboardInterrupt):
        list(broken.epochs((X, Y), 3, save_to=tmp_path / "run", on_step=stop_after(10)))
    with safetensors.safe_open(tmp_path / "run", framework="np") as file:
        assert {name for name in file.keys() if "optimizer" in name} == {f"optimizer.{n}" for n in (1, 2, 3)}  # noqa: SIM118
    resumed = lm.Trainer.resume(tmp_path / "run")
    list(resumed.epochs((X, Y)))
    assert np.array_equal(resumed.mlp.parameters, whole.mlp.parameters)


def test_a_run_saved_at_the_end_goes_on_for_more_epochs(tmp_path: Path) -> None:
    whole, first = trainer_of(), trainer_of()
    list(whole.epochs((X, Y), 4))
    list(first.epochs((X, Y), 2))
    first.notes = {"flags": ["--width", "8"]}
    first.save(tmp_path / "run.safetensors")
    second = lm.Trainer.resume(tmp_path / "run.safetensors")
    assert second.epochs_done == 2
    assert second.notes == first.notes
    with pytest.raises(lm.InputError, match="epochs must be"):
        second.epochs((X, Y))
    list(second.epochs((X, Y), 2))
    assert np.array_equal(second.mlp.parameters, whole.mlp.parameters)
    assert second.report().steps == 28


def test_all_options_and_settings_come_back(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        **{"batch_size": 7, "seed": np.int64(4), "strategy": "segments", "segments": 2, "clip_value": 0.5},
        **{"clip_norm": 2.0, "non_finite": "skip", "schedule": lm.LearningRate(0.1, "step", every=3, factor=0.5)},
    }
    trainer = lm.Trainer(lm.MLP(ARCH), lm.SGD(1, momentum=0.5, nesterov=True), **options)
    list(trainer.epochs((X, Y), 1))
    trainer.save(tmp_path / "run")
    again = lm.Trainer.resume(tmp_path / "run")
    for name in ("batch_size", "seed", "clip_norm", "non_finite", "schedule", "budget", "ram"):
        assert getattr(again, name) == getattr(trainer, name)
    assert again.plan.strategy == "segments"
    assert again.optimizer.clip_value == 0.5
    assert again.optimizer.settings() == trainer.optimizer.settings()
    assert type(again.optimizer) is lm.SGD


def test_notes_hold_numpys_numbers_and_nothing_that_json_has_not(tmp_path: Path) -> None:
    trainer = trainer_of()
    list(trainer.epochs((X, Y), 1))
    trainer.notes = {"share": np.float32(0.5), "count": np.int64(3), "flag": np.True_}
    trainer.save(tmp_path / "run")
    assert open_run(tmp_path / "run").notes == {"share": 0.5, "count": 3, "flag": True}
    wrong: list[Any] = [
        *({"what": object()}, {"what": float("nan")}, {"what": [1.0, {"a": np.float32("inf")}]}, {(1, 2): 3}),
        *({"what": Path("run")}, {"what": {np.int64(1): 2}}, {"what": 10**5000}, {Path("run"): 1}, [1], None),
    ]
    for notes in wrong:
        trainer.notes = notes
        for use in (lambda: trainer.save(tmp_path / "run"), lambda: trainer.epochs((X, Y), 1, save_to=tmp_path / "b")):
            with pytest.raises(lm.InputError, match=r"trainer\.notes (hold|must be a dictionary)") as refused:
                use()
            assert "\n" not in str(refused.value)
    assert open_run(tmp_path / "run").notes["count"] == 3
    trainer.notes = {}
    assert len(list(trainer.epochs((X, Y), 1))) == 1  # nothing was lost


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_run_whose_notes_are_forged_to_what_is_no_finite_number_is_refused(run: Path, number: str) -> None:
    rewritten(run, lambda header, inside: inside["notes"].update(loss=float(number)), number)
    assert f"its settings hold {number}, which is no finite number" in refused(run)


def test_early_stopping_counts_on_after_resuming(tmp_path: Path) -> None:
    flat = lm.Trainer(lm.MLP(ARCH), lm.SGD(0.0), batch_size=50)
    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        list(flat.epochs((X, Y), 9, patience=2, save_to=path, on_step=stop_after(2)))
    # The first epoch is the best, the second was waited for; one more and the two are over.
    assert [epoch.number for epoch in lm.Trainer.resume(path).epochs((X, Y), None, patience=2)] == [3]


def test_other_data_in_the_middle_of_an_epoch_are_refused(run: Path) -> None:
    with pytest.raises(lm.InputError, match="in the middle of an epoch over other data"):
        lm.Trainer.resume(run).epochs((X + 1, Y))
    with pytest.raises(lm.InputError, match="in the middle of an epoch over other data"):
        lm.Trainer.resume(run).epochs((X[:-1], Y[:-1]))


# When it is saved ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "steps"), [(None, [7, 14]), (3, [3, 6, 9, 12, 14]), ("3", [3, 6, 9, 12, 14]), ("1h", [14])]
)
def test_a_run_is_saved_as_often_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: Any, steps: list[int]
) -> None:
    trainer, seen = trainer_of(), []
    monkeypatch.setattr(trainer, "save", lambda path: seen.append(trainer.optimizer.step_count))
    list(trainer.epochs((X, Y), 2, save_to=tmp_path / "run", save_every=every))
    assert seen == steps


def test_numpys_numbers_are_numbers(tmp_path: Path) -> None:
    rate = lm.LearningRate(np.float32(0.5), "step", warm_up=np.int64(2), every=np.int32(3), factor=np.float64(0.5))  # type: ignore[arg-type]
    trainer = trainer_of(schedule=rate, clip_norm=np.float32(0.5), clip_value=np.float64(2), batch_size=np.int64(8))
    numbers: dict[str, Any] = {"save_every": np.int64(3), "patience": np.int32(5)}
    assert len(list(trainer.epochs((X, Y), np.int64(2), save_to=tmp_path / "run", **numbers))) == 2  # type: ignore[arg-type]
    options = open_run(tmp_path / "run").options
    assert (options["clip_norm"], options["clip_value"], options["batch_size"]) == (0.5, 2, 8)
    assert lm.LearningRate(**options["schedule"]) == rate


def test_a_run_is_saved_when_the_time_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("lowmem.training.callbacks.saves.monotonic", lambda: float(next(clock)))
    trainer, seen = trainer_of(), []
    monkeypatch.setattr(trainer, "save", lambda path: seen.append(trainer.optimizer.step_count))
    list(trainer.epochs((X, Y), 1, save_to=tmp_path / "run", save_every="3s"))
    assert seen == [3, 6, 7]


@pytest.mark.parametrize("every", [0, -1, True, 1.5, "often", "0s", "1d", "s"])
def test_an_interval_that_is_none_is_refused(tmp_path: Path, every: Any) -> None:
    with pytest.raises(lm.InputError, match=r'such as 100, nor a time, such as "30s"'):
        trainer_of().epochs((X, Y), 1, save_to=tmp_path / "run", save_every=every)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_has_its_usual_effect(tmp_path: Path, number: signal.Signals) -> None:
    caught = []
    before = signal.signal(number, lambda number, frame: caught.append(number))
    try:
        ours = signal.getsignal(number)
        trainer, path = trainer_of(), tmp_path / "run"

        def on_step(done: int, count: int) -> None:
            if done == 4 and not path.exists():
                signal.raise_signal(number)
                assert caught == []  # held back until the run is saved
                assert signal.getsignal(number) is ours  # a second one would act at once

        epochs = trainer.epochs((X, Y), 2, save_to=path, on_step=on_step)
        assert signal.getsignal(number) is ours
        assert next(epochs).samples == 50  # this handler goes on, and so does the run
        assert caught == [number]
        assert signal.getsignal(number) is ours
        assert open_run(path).position.steps == 7
    finally:
        signal.signal(number, before)


def test_without_a_file_signals_are_left_alone() -> None:
    with pytest.raises(KeyboardInterrupt):
        list(trainer_of().epochs((X, Y), 1, on_step=stop_after(2)))


def test_a_place_where_nothing_can_be_saved_is_refused_before_training(tmp_path: Path) -> None:
    for place in (tmp_path / "no" / "run", tmp_path):
        with pytest.raises(lm.InputError, match="cannot be saved to"):
            trainer_of().epochs((X, Y), 1, save_to=place)
    with pytest.raises(lm.InputError, match=r"before trainer\.epochs"):
        trainer_of().save(tmp_path / "run")


# A file is replaced or stands ------------------------------------------------------------------------------------


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch, call: str) -> Iterator[None]:
    """Let a system call fail as on a full disk."""

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"lowmem.{call}", fail)
        yield


@pytest.mark.parametrize(
    "call", ["interchange.safetensors.write_all", "common.files.os.fsync", "common.files.os.replace"]
)
def test_on_a_full_disk_the_earlier_file_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    trainer, path = trainer_of(), tmp_path / "run"
    list(trainer.epochs((X, Y), 1))
    trainer.save(path)
    earlier = path.read_bytes()
    list(trainer.epochs((X, Y), 1))
    with (
        full_disk(monkeypatch, call),
        pytest.raises(lm.SaveError, match="No space left on device. The file that was there is unchanged"),
    ):
        trainer.save(path)
    assert path.read_bytes() == earlier
    assert os.listdir(tmp_path) == ["run"]


def test_a_real_limit_of_file_size_is_a_clear_error(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    trainer = trainer_of()
    list(trainer.epochs((X, Y), 1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(lm.SaveError, match="cannot be written: File too large"):
            trainer.save(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def test_training_goes_on_after_a_save_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, path = trainer_of(), tmp_path / "run"
    epochs = trainer.epochs((X, Y), 2, save_to=path)
    with (
        full_disk(monkeypatch, "common.files.os.fsync"),
        pytest.warns(RuntimeWarning, match="No space left.*Training goes on"),
    ):
        next(epochs)
    assert [epoch.number for epoch in epochs] == [2]  # and no error, as the last save went well
    assert np.array_equal(open_run(path).network().parameters, trainer.mlp.parameters)


def test_a_last_save_that_failed_is_an_error_after_the_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = trainer_of().epochs((X, Y), 2, save_to=tmp_path / "run")
    with full_disk(monkeypatch, "common.files.os.fsync"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [next(epochs).number, next(epochs).number] == [1, 2]
        with pytest.raises(lm.SaveError) as error:
            next(epochs)
    assert error.value.exit_code == 1


def test_parameters_that_are_not_finite_do_not_replace_good_ones(tmp_path: Path) -> None:
    trainer, path = trainer_of(), tmp_path / "run"
    list(trainer.epochs((X, Y), 1))
    trainer.save(path)
    trainer.mlp.weights[1][2, 3] = np.nan
    with pytest.raises(lm.SaveError, match=r"layers\.2\.weight holds NaN or infinity"):
        trainer.save(path)
    open_run(path)


@pytest.mark.parametrize("widths", [(10, *[700] * 6, 3), (64, *[128] * 100, 10), (10, *[256] * 40, 3)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_saving_and_loading_take_less_than_a_layer_above_the_trainers_own(
    tmp_path: Path, widths: tuple[int, ...], optimizer: str
) -> None:
    architecture = lm.Architecture(widths)
    layer = 4 * architecture.layer_parameters(2)
    x, y = np.zeros((4, widths[0]), np.float32), np.zeros(4, int)
    path = tmp_path / "run"

    def begun(trainer: lm.Trainer) -> lm.Trainer:
        trainer.epochs((x, y), 1)
        return trainer

    def fresh() -> lm.Trainer:
        return begun(lm.Trainer(lm.MLP(architecture), OPTIMIZERS[optimizer](), batch_size=4))

    tracemalloc.start()
    try:
        fresh().save(path)
        begun(lm.Trainer.resume(path))  # what is imported and kept once is neither's
        own, trainer = peak_of(fresh)
        assert peak_of(partial(trainer.save, path))[0] < min(layer, 2**15)
        del trainer
        loading, again = peak_of(lambda: begun(lm.Trainer.resume(path)))
        assert loading - own < min(layer, 2**15)
        assert loading < again.plan.peak_bytes + 2**16
    finally:
        tracemalloc.stop()


def peak_of(work: Callable[[], Any]) -> tuple[int, Any]:
    """Return the bytes that some work takes at its peak beyond what is held before it, and its result."""
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    result = work()
    return tracemalloc.get_traced_memory()[1] - before, result


# The format ------------------------------------------------------------------------------------------------------


def test_the_safetensors_library_reads_what_is_saved(run: Path) -> None:
    saved = open_run(run)
    mlp = saved.network()
    with safetensors.safe_open(run, framework="np") as file:
        names = set(file.keys())
        for layer in (1, 2, 3):
            assert np.array_equal(file.get_tensor(f"layers.{layer}.weight"), mlp.weights[layer - 1])
            assert np.array_equal(file.get_tensor(f"layers.{layer}.bias"), mlp.biases[layer - 1])
        assert names == {f"layers.{n}.{part}" for n in (1, 2, 3) for part in ("weight", "bias")} | {
            *("optimizer.1", "optimizer.2")
        }
        assert file.metadata()["format"] == "lowmem run 1"


def test_what_the_safetensors_library_writes_is_read(run: Path, tmp_path: Path) -> None:
    with safetensors.safe_open(run, framework="np") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    other = tmp_path / "other"
    safetensors.numpy.save_file(tensors, other, metadata)
    assert other.read_bytes() != run.read_bytes()
    ends = []
    for path in (run, other):
        trainer = lm.Trainer.resume(path)
        list(trainer.epochs((X, Y)))
        ends.append(trainer.mlp.parameters)
    assert np.array_equal(ends[0], ends[1])


# Hostile and damaged files ---------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    """Return the one line with which a file is refused, seeing that little is allocated for it."""
    tracemalloc.start()
    try:
        with pytest.raises(lm.InputError) as error:
            lm.Trainer.resume(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700
    return str(error.value)


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any], infinity: str = "") -> Path:
    """Change header and settings of a saved run, its checksum being made right again.

    infinity: how to write numbers that are not finite.
    """
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    inside = json.loads(header["__metadata__"]["settings"])
    change(header, inside)
    text = re.sub(r"-?\b(NaN|Infinity)\b", infinity, json.dumps(inside)) if infinity else json.dumps(inside)
    header["__metadata__"] |= {
        "settings": text,
        "crc32": f"{crc32(data, crc32(text.encode())):08x}",
    }
    new = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + data)
    return path


def test_rewriting_alone_changes_nothing(run: Path) -> None:
    lm.Trainer.resume(rewritten(run, lambda header, inside: None))


@pytest.mark.parametrize("keep", [0, 5, 8, 100, -1, -1000])
def test_a_truncated_file_is_refused(run: Path, keep: int) -> None:
    run.write_bytes(run.read_bytes()[:keep])
    assert "truncated, damaged or something else" in refused(run)


@pytest.mark.parametrize("length", [0, 1, 2**24 + 1, 2**40, 2**63, 2**64 - 1])
def test_a_header_of_a_lying_length_is_refused(run: Path, length: int) -> None:
    run.write_bytes(struct.pack("<Q", length) + run.read_bytes()[8:])
    assert "header of" in refused(run)


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (
        b"PK\x03\x04" + bytes(500),
        bytes(500),
        b"\x80\x04\x95" + bytes(99),
        np.random.default_rng(0).bytes(9999),
    ):
        path.write_bytes(content)
        refused(path)
    safetensors.numpy.save_file({"a": X}, path)
    assert "make a run of it with lowmem import" in refused(path)
    safetensors.numpy.save_file({"a": X}, path, {"format": "lowmem run 2", "settings": "{}", "crc32": ""})
    assert "(lowmem run 2)" in refused(path)
    assert "there is no saved run" in refused(tmp_path / "none")
    assert "there is no saved run" in refused(tmp_path)


def test_a_header_nested_without_end_is_refused(tmp_path: Path) -> None:
    text = b'{"a":' + b"[" * 100_000 + b"}"
    path = tmp_path / "deep"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    assert "nested without end" in refused(path)


def entry(name: str, **values: Any) -> Callable[[dict[str, Any], dict[str, Any]], Any]:
    return lambda header, inside: header[name].update(values)


def inside(part: str, **values: Any) -> Callable[[dict[str, Any], dict[str, Any]], Any]:
    return lambda header, inside: inside[part].update(values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (entry("layers.1.weight", dtype="F64"), "not understood"),
        (entry("layers.1.weight", dtype="I32"), "'layers.1.weight' is I32; known are F32"),
        (entry("layers.1.weight", dtype=["F32"]), "not understood"),
        (entry("layers.1.weight", shape=[40]), r"float32 of shape (40,); its network has float32 of shape (8, 5)"),
        (entry("layers.1.weight", shape=[5, 8]), "its network has"),
        (entry("layers.1.weight", shape=[-8, -5]), "not understood"),
        (entry("layers.1.weight", shape=[2**62, 2**62]), "not understood"),
        (entry("layers.1.weight", shape=[8.0, 5.0]), "not understood"),
        (entry("layers.1.weight", data_offsets=[0, 2**61]), "not understood"),
        (entry("layers.1.weight", data_offsets=[160, 320]), "begins at"),
        (entry("layers.1.weight", data_offsets=[0]), "not understood"),
        (entry("layers.1.bias", data_offsets=[0, 32]), "begins at"),
        (entry("layers.1.weight", more=1), "not understood"),
        (lambda header, inside: header.pop("optimizer.1"), "begins at"),
        (lambda header, inside: header.update(more=header.pop("optimizer.1")), "'more' is unknown"),
        (lambda header, inside: header["__metadata__"].update(more="1"), "no saved run that this version knows"),
        (lambda header, inside: header["__metadata__"].update(format=1), "no map of text"),
        (lambda header, inside: inside.update(more={}), "unknown name 'more'"),
        (lambda header, inside: inside.pop("position"), "position = 'None'"),
        (inside("architecture", widths=[5, 8, 8, 4]), "its network has"),
        (inside("architecture", widths=[5, 8, 3]), "is unknown"),
        (inside("architecture", widths=[5, 10**9, 10**9, 3]), "its network has"),
        (inside("architecture", widths=[5, -8, 8, 3]), "positive whole numbers"),
        (inside("architecture", widths="5883"), "widths = '5883'"),
        (inside("architecture", activation="magic"), "unknown activation 'magic'"),
        (inside("architecture", dtype="float64"), "its network has"),
        (inside("architecture", more=1), "unknown name 'more'"),
        (inside("optimizer", name="sgd"), "an optimizer sgd has the settings"),
        (inside("optimizer", name="magic"), "unknown optimizer"),
        (inside("optimizer", lr=-1.0), "lr must be a number"),
        (inside("optimizer", lr="1"), "has the settings"),
        (inside("optimizer", step_count=-1), "-1 steps"),
        (inside("optimizer", step_count=2.5), "2.5 steps"),
        (inside("optimizer", more=1.0), "has the settings"),
        (inside("position", epoch=-1), "negative"),
        (inside("position", epoch="1"), "epoch = '1'"),
        (inside("position", more=1), "unknown name 'more'"),
        (inside("options", more=1), "options that this version does not know"),
        (inside("options", batch_size=0), "batch_size must be"),
        (inside("options", batch_size=None), "batch_size must be"),
        (inside("options", strategy="magic"), "unknown strategy"),
        (inside("options", strategy=["a"]), "unknown strategy"),
        (inside("options", schedule={"lr": -1.0}), "lr of a constant learning rate must be a number of at least 0"),
        (inside("options", schedule={"rate": 1.0}), "options that this version does not know"),
        (inside("options", budget={}), "size in bytes"),
        (inside("options", clip_norm="x"), "clip_norm must be"),
        (inside("options", non_finite=[]), "unknown value of non_finite []"),
    ],
)
def test_a_file_that_lies_is_refused_in_a_line(run: Path, change: Any, words: str) -> None:
    assert words in refused(rewritten(run, change))


def test_a_name_twice_is_refused(run: Path) -> None:
    content = run.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    text = content[8 : 8 + length].rstrip()[:-1] + b',"optimizer.1":{}}'
    run.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    assert "a name twice" in refused(run)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(run: Path, value: float) -> None:
    content = bytearray(run.read_bytes())
    content[-4:] = np.float32(value).tobytes()
    run.write_bytes(content)
    rewritten(run, lambda header, inside: None)
    assert "'optimizer.2' holds NaN or infinity" in refused(run)


def test_a_changed_bit_is_seen_wherever_it_is(run: Path) -> None:
    content, rng = run.read_bytes(), np.random.default_rng(0)
    for place in [*rng.integers(0, len(content), 150), *range(0, 60)]:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        run.write_bytes(changed)
        try:
            lm.Trainer.resume(run)
        except lm.InputError as error:
            assert "\n" not in str(error)
        else:  # a bit of the blanks behind the header, or a blank for another
            assert json.loads(changed[8 : 8 + content[0] + 256 * content[1]]) == json.loads(
                content[8 : 8 + content[0] + 256 * content[1]]
            )


def test_a_file_that_changes_between_resuming_and_training_is_refused(run: Path, tmp_path: Path) -> None:
    trainer = lm.Trainer.resume(run)
    other = trainer_of("adam", seed=9)
    list(other.epochs((X, Y), 1))
    other.save(run)
    with pytest.raises(lm.InputError, match="changed since it was verified"):
        trainer.epochs((X, Y))


# What is changed between steps -------------------------------------------------------------------------------------


def changed_settings() -> list[tuple[str, Callable[[lm.Trainer], object]]]:
    def setting(name: str, value: Any) -> Callable[[lm.Trainer], object]:
        return lambda trainer: setattr(trainer.optimizer, name, value)

    return [
        ("the optimizer's clipping", setting("clip_value", 1e-3)),
        ("the trainer's clipping", lambda trainer: setattr(trainer, "clip_value", 1e-3)),
        ("no clipping any more", lambda trainer: setattr(trainer, "clip_value", None)),
        ("a schedule", lambda trainer: setattr(trainer, "schedule", lm.LearningRate(0.05, "cosine", steps=40))),
        ("a rate", lambda trainer: setattr(trainer, "schedule", 0.001)),
        ("rate and decay", lambda trainer: (setting("lr", 0.003)(trainer), setting("weight_decay", 0.1)(trainer))),
    ]


@pytest.mark.parametrize("within", [False, True], ids=["between epochs", "in a callback"])
@pytest.mark.parametrize(
    "change", [change for _, change in changed_settings()], ids=[n for n, _ in changed_settings()]
)
def test_a_setting_changed_between_steps_is_in_effect_and_saved(
    change: Callable[[lm.Trainer], object], within: bool, tmp_path: Path
) -> None:
    def on_step(done: int, count: int) -> None:
        if within and trainer.steps_done == 3:
            change(trainer)
            trainer.save(tmp_path / "run")

    trainer = trainer_of("sgd", clip_value=0.01)
    plain = trainer_of("sgd", clip_value=0.01)
    epochs = trainer.epochs((X, Y), 2, on_step=on_step)
    next(epochs)
    if not within:
        change(trainer)
        trainer.save(tmp_path / "run")
    list(epochs)
    resumed = lm.Trainer.resume(tmp_path / "run")
    list(resumed.epochs((X, Y)))
    list(plain.epochs((X, Y), 2))
    assert np.array_equal(resumed.mlp.parameters, trainer.mlp.parameters)
    assert not np.array_equal(plain.mlp.parameters, trainer.mlp.parameters)


def test_a_clipping_set_before_the_trainer_is_made_stays() -> None:
    optimizer = lm.SGD(0.1)
    optimizer.clip_value = 1e-3
    trainer = lm.Trainer(lm.MLP(ARCH), optimizer, batch_size=10)
    list(trainer.epochs((X, Y), 1))
    assert (trainer.clip_value, optimizer.clip_value) == (1e-3, 1e-3)


def test_settings_that_make_another_optimizer_are_not_saved(tmp_path: Path) -> None:
    trainer, path = trainer_of("momentum"), tmp_path / "run"
    next(trainer.epochs((X, Y), 2))
    trainer.save(path)
    before = path.read_bytes()
    trainer.optimizer.momentum = 0.0
    with pytest.raises(lm.InputError, match="the plan counts optimizer='momentum'; got 'sgd'"):
        trainer.save(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "name", ["mlp", "optimizer", "batch_size", "budget", "ram", "seed", "clip_norm", "clip_twice", "non_finite"]
)
def test_what_a_trainers_memory_is_planned_with_cannot_be_assigned(name: str) -> None:
    trainer = trainer_of()
    with pytest.raises(lm.InputError, match=rf"Trainer\.{name} cannot be assigned to.*make a new trainer"):
        setattr(trainer, name, object())


@pytest.mark.parametrize("every", [5, "10min"])
def test_saves_that_have_no_file_are_refused(every: int | str) -> None:
    with pytest.raises(lm.InputError, match="save_every= goes with save_to="):
        trainer_of().epochs((X, Y), 1, save_every=every)


def test_a_cosine_without_an_end_is_not_saved(tmp_path: Path) -> None:
    trainer = trainer_of()
    list(trainer.epochs((X, Y), 1))
    trainer.schedule = "cosine"
    with pytest.raises(
        lm.InputError, match='schedule="cosine" ends with the epochs that trainer.epochs will be asked'
    ):
        trainer.save(tmp_path / "run")
    list(trainer.epochs((X, Y), 1))
    trainer.save(tmp_path / "run")


@pytest.mark.parametrize("what", ["train", "held out", "a link"])
def test_a_run_is_not_saved_over_its_data(what: str, tmp_path: Path) -> None:
    path, other = tmp_path / "data.npz", tmp_path / "other.npz"
    for file in (path, other):
        np.savez(file, x=X, y=Y)
    data, held_out = lm.open_data(path), lm.open_data(other)
    trainer = trainer_of()
    list(trainer.epochs(data, 1, held_out))
    target = {"train": path, "held out": other, "a link": tmp_path / "link"}[what]
    if what == "a link":
        target.symlink_to(path)
    before = target.read_bytes()
    with pytest.raises(lm.InputError, match="would overwrite data of this run. Name another file"):
        trainer.save(target)
    assert target.read_bytes() == before


@pytest.mark.parametrize("count", ["x", 2.5, None, -5, True])
def test_steps_are_counted_in_whole_numbers(count: Any) -> None:
    with pytest.raises(lm.InputError, match="step_count must be a whole number from 0"):
        lm.Adam().step_count = count


def test_threads_are_checked_before_a_run_is_said_to_go_on_with_them(tmp_path: Path) -> None:
    trainer = trainer_of()
    list(trainer.epochs((X, Y), 1, save_to=tmp_path / "run"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(lm.InputError, match="threads must be a positive whole number"):
            lm.Trainer.resume(tmp_path / "run", threads=np.zeros(0))
        with pytest.raises(lm.InputError, match="unknown engine"):
            lm.Trainer.resume(tmp_path / "run", engine="numpi")
