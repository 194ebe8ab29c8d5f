"""A network whose parameters live on the disk: the same bits as in memory, and a few layers in memory at a time."""

import copy
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.errors import DiskError, InputError
from lowmem.training.callbacks.best_weights import BestWeights
from tests.test_paged_array import PAGE, cached, in_child

ARCHITECTURES = {
    "plain": lm.Architecture((20, *[100] * 5, 3)),
    "uneven": lm.Architecture((7, 300, 5, 128, 128, 2), "gelu", dtype="float64"),
    "norms": lm.Architecture((20, *[100] * 6, 3), residual=True, norm="batch", dropout=0.1),
    "learned": lm.Architecture((20, *[64] * 6, 3), "tanh", residual="learned", norm="layer"),
}
"""Kinds of layers, with running statistics too."""

BIG = lm.Architecture((64, *[512] * 12, 10))
"""A network of 11 MB, of which a layer has 1 MB."""


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> lm.Architecture:
    return ARCHITECTURES[request.param]


def pages_of(mlp: lm.MLP) -> int:
    """Return how many pages of a network's file are in memory."""
    assert mlp.paged is not None
    return cached(mlp.paged)


# Making one ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"initialiser": "orthogonal", "gain": 1.1}, {"initialiser": "fixup"}], ids=str
)
def test_it_begins_with_the_bits_of_a_network_in_memory(
    architecture: lm.Architecture, tmp_path: Path, options: dict[str, Any]
) -> None:
    one, other = lm.MLP(architecture, 3, **options), lm.MLP(architecture, 3, disk=tmp_path, **options)
    np.testing.assert_array_equal(one.learned, other.learned)
    np.testing.assert_array_equal(one.weights[1], other.weights[1])
    assert one.paged is None
    assert other.paged is not None
    assert os.listdir(tmp_path) == []


def test_nothing_of_it_is_in_memory_once_it_is_made_but_for_pages_that_layers_share(
    tmp_path: Path, architecture: lm.Architecture
) -> None:
    mlp = lm.MLP(BIG, disk=tmp_path)
    assert pages_of(mlp) <= BIG.layers + 1
    assert mlp.paged is not None
    assert mlp.paged.traffic.written > mlp.learned.nbytes - (BIG.layers + 1) * PAGE
    assert mlp.paged.traffic.read == 0  # what is overwritten is not read before


def test_layers_are_in_memory_in_their_turn(tmp_path: Path, architecture: lm.Architecture) -> None:
    mlp = lm.MLP(BIG, disk=tmp_path)
    layer = -(-BIG.layer(2).size * BIG.item_bytes // PAGE) + 1
    for number in mlp.in_turn():
        assert pages_of(mlp) <= 3 * layer + BIG.layers
        assert mlp.weights[number - 1].any()
    assert pages_of(mlp) <= BIG.layers + 1
    memory, disk = lm.MLP(architecture), lm.MLP(architecture, disk=tmp_path)
    for number, _ in zip(memory.in_turn(changed=True), disk.in_turn(changed=True), strict=True):
        for mine in (memory, disk):
            for array in mine.arrays[number - 1].values():
                array += number
    np.testing.assert_array_equal(memory.learned, disk.learned)


@pytest.mark.parametrize("folder", ["nowhere", "file"])
def test_a_folder_that_is_none_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="does not exist|is no folder"):
        lm.MLP((4, 8, 3), disk=tmp_path / folder)
    with pytest.raises(InputError, match="disk must be"):
        lm.MLP((4, 8, 3), disk=5)  # type: ignore[arg-type]


def test_a_network_that_the_disk_has_no_room_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"too full: .* are needed"):
        lm.MLP((1 << 20, 1 << 20, 1 << 20), disk=tmp_path)


@pytest.mark.parametrize("number", [1, 3])
def test_an_error_of_the_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setenv("LOWMEM_DISK_TEST", f"fail={number}")
    with pytest.raises(DiskError, match="the disk failed at writing to the file of") as caught:
        lm.MLP(BIG, disk=tmp_path)
    assert "\n" not in str(caught.value)


def test_nothing_is_left_of_it_after_a_kill(tmp_path: Path) -> None:
    code = (
        "import sys, lowmem as lm; mlp = lm.MLP((64, 512, 512, 10), disk=sys.argv[1]); print('ready', flush=True)\n"
        "while True: [None for _ in mlp.in_turn(changed=True)]"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
    assert os.listdir(tmp_path) == []


# Copies -------------------------------------------------------------------------------------------------------------


def test_a_deep_copy_has_a_file_of_its_own_and_a_pickle_is_refused(tmp_path: Path) -> None:
    mlp = lm.MLP(BIG, disk=tmp_path)
    other = copy.deepcopy(mlp)
    np.testing.assert_array_equal(other.learned, mlp.learned)
    other.weights[3][:] = 0
    assert mlp.weights[3].any()
    assert not other.arrays[3]["weight"].any()
    with pytest.raises(InputError, match="cannot be pickled"):
        pickle.dumps(mlp)
    assert copy.copy(mlp).paged is mlp.paged


def test_its_folder_stays_the_same_wherever_the_process_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    mlp = lm.MLP((4, 8, 2), disk="here")
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(copy.deepcopy(mlp).learned, mlp.learned)


def test_a_forked_process_cannot_change_it(tmp_path: Path) -> None:
    mlp, truth = lm.MLP(BIG, disk=tmp_path), lm.MLP(BIG)

    def work() -> None:
        mlp.learned[:] = 0
        with pytest.raises(InputError, match="was forked from it"):
            next(mlp.in_turn())

    assert in_child(work) == 0
    np.testing.assert_array_equal(mlp.learned, truth.learned)


# Prediction ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["native", "numpy"])
@pytest.mark.parametrize("rows", [1, 300, 1025, 5000])
def test_it_predicts_the_bits_of_a_network_in_memory(
    architecture: lm.Architecture, tmp_path: Path, rows: int, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWMEM_ENGINE", engine)
    x = np.random.default_rng(0).standard_normal((rows, architecture.widths[0]))
    memory, disk = lm.MLP(architecture, 2), lm.MLP(architecture, 2, disk=tmp_path)
    for dtype in ("float32", "float64"):  # one is cast, a chunk of rows at a time
        np.testing.assert_array_equal(disk.predict(x.astype(dtype)), memory.predict(x.astype(dtype)))


@pytest.mark.parametrize("engine", ["native", "numpy"])
def test_prediction_has_a_few_layers_in_memory_and_reads_each_once_for_many_rows(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWMEM_ENGINE", engine)
    architecture = lm.Architecture((64, *[1024] * 6, 10))
    mlp, seen = lm.MLP(architecture, disk=tmp_path), []
    assert mlp.paged is not None
    x = np.zeros((2 * 512, 64), np.float32)
    sweep = mlp.in_turn

    def watched(**options: Any) -> Any:
        for number in sweep(**options):
            seen.append(pages_of(mlp))
            yield number

    monkeypatch.setattr(mlp, "in_turn", watched)
    mlp.predict(x)
    layer = -(-architecture.layer(2).size * architecture.item_bytes // PAGE) + 1
    assert seen
    assert max(seen) <= 3 * layer + architecture.layers
    assert pages_of(mlp) <= architecture.layers + 1
    assert mlp.paged.traffic.read <= 2 * mlp.learned.nbytes


def test_an_error_of_the_disk_ends_prediction_with_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWMEM_DISK_TEST", "fail=20")
    mlp = lm.MLP(BIG, disk=tmp_path)  # 13 transfers
    with pytest.raises(DiskError, match="the disk failed at reading from") as caught:
        mlp.predict(np.zeros((5, 64)))
    assert "\n" not in str(caught.value)
    assert np.isfinite(mlp.predict(np.zeros((5, 64)))).all()


def test_the_first_layer_that_is_not_finite_is_found(tmp_path: Path) -> None:
    mlp = lm.MLP(BIG, disk=tmp_path)
    assert mlp.first_not_finite() is None
    mlp.biases[4][7] = np.inf
    assert mlp.first_not_finite() == 5
    norms = lm.MLP(ARCHITECTURES["norms"], disk=tmp_path)
    norms.arrays[3]["running_mean"][1] = np.nan
    assert (norms.first_not_finite(), norms.first_not_finite(running=True)) == (None, 4)


def test_the_best_weights_are_kept_in_a_file_of_their_own(tmp_path: Path) -> None:
    mlp, first, later = lm.MLP(BIG, 1, disk=tmp_path), lm.MLP(BIG, 1), lm.MLP(BIG, 2)
    best = BestWeights(mlp)
    assert pages_of(mlp) <= BIG.layers + 1
    assert pages_of(best.best) <= 1  # the last page is no whole one
    assert BestWeights.bytes_for(mlp) < mlp.learned.nbytes
    mlp.learned[:] = later.learned
    for shown in (True, False, True):
        best.show(best=shown)
        np.testing.assert_array_equal(mlp.learned, (first if shown else later).learned)
        np.testing.assert_array_equal(best.best.learned, first.learned)
        np.testing.assert_array_equal(best.last.learned, later.learned)
    best.keep()
    best.show(best=False)
    np.testing.assert_array_equal(mlp.learned, first.learned)


def test_whoever_reads_a_network_while_it_trains_changes_no_bit(tmp_path: Path) -> None:
    architecture = lm.Architecture((20, *[128] * 8, 3))
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((300, 20)).astype(np.float32), np.arange(300) % 3

    def trained(mlp: lm.MLP, **options: Any) -> list[float]:
        trainer = lm.Trainer(mlp, "adam", batch_size=100, **options)
        losses: list[float] = []
        thread = threading.Thread(target=lambda: losses.extend(epoch.loss for epoch in trainer.epochs((x, y), 8)))
        thread.start()
        while thread.is_alive():
            for read in (lambda: mlp.predict(x[:5]), lambda: copy.deepcopy(mlp), lambda: mlp.first_not_finite()):
                read()
        return losses

    alone = [epoch.loss for epoch in lm.Trainer(lm.MLP(architecture), "adam", batch_size=100).epochs((x, y), 8)]
    assert trained(lm.MLP(architecture, disk=tmp_path), budget="1400KiB", disk=tmp_path) == alone
