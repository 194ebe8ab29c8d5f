"""Networks on the disk are saved, loaded, exported and imported piece by piece, to the same bytes and bits."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.common.disk import parts
from lowmem.common.disk.paged_array import PagedArray
from lowmem.errors import DiskError, InputError, SaveError
from lowmem.nn.optimizers import SGD
from lowmem.training.position import Position
from lowmem.training.saved_run import open_run, save_run
from tests.test_disk_network import ARCHITECTURES, BIG, pages_of
from tests.test_paged_array import PAGE, cached


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> lm.Architecture:
    return ARCHITECTURES[request.param]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PIECE", 16 * PAGE)


def save(mlp: lm.MLP, path: Path, **options: Any) -> None:
    """Save a network as a run that has not begun."""
    places: dict[str, Any] = {"options": {}, "position": Position(), "data": {}, "notes": {}}
    save_run(path, mlp, SGD(), options.pop("states", ()), **{**places, **options})


EXPORTS: dict[str, Callable[[lm.MLP, Path], None]] = {"run": save, "torch": lm.export_torch}
IMPORTS: dict[str, Callable[..., lm.MLP]] = {
    "run": lambda path, disk: open_run(path).network(disk),
    "torch": lambda path, disk: lm.import_torch(path, disk=disk),
}


@pytest.mark.parametrize("kind", EXPORTS)
def test_files_have_the_bytes_of_a_network_in_memory_and_come_back(
    kind: str, architecture: lm.Architecture, tmp_path: Path
) -> None:
    memory, disk = lm.MLP(architecture, 5), lm.MLP(architecture, 5, disk=tmp_path)
    one, other = tmp_path / "memory.safetensors", tmp_path / "disk.safetensors"
    EXPORTS[kind](memory, one)
    EXPORTS[kind](disk, other)
    assert one.read_bytes() == other.read_bytes()
    back = IMPORTS[kind](one, tmp_path)
    assert back.paged is not None
    np.testing.assert_array_equal(back.learned, memory.learned)
    np.testing.assert_array_equal(IMPORTS[kind](other, None).learned, memory.learned)


@pytest.mark.parametrize("kind", EXPORTS)
def test_no_more_than_a_few_pieces_are_in_memory_meanwhile(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither as pages of the file nor as arrays beside it."""
    mlp, most, path = lm.MLP(BIG, disk=tmp_path), 0, tmp_path / "net.safetensors"
    borders, seen = 3 * BIG.layers, []
    sweep = PagedArray.sweep

    def watched(self: PagedArray, *arguments: Any, **options: Any) -> Any:
        for part in sweep(self, *arguments, **options):
            seen.append(cached(self))
            yield part

    monkeypatch.setattr(PagedArray, "sweep", watched)
    tracemalloc.start()
    EXPORTS[kind](mlp, path)
    tracemalloc.reset_peak()
    EXPORTS[kind](mlp, path)
    back = IMPORTS[kind](path, tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < (1 << 20) + (500 << 10)  # the buffer that verifies a file, and headers
    assert len(seen) > 3 * mlp.learned.nbytes // (16 * PAGE)
    assert max(seen) <= 3 * 17 + borders
    assert pages_of(mlp) <= borders
    assert pages_of(back) <= borders


def test_a_save_reads_the_network_twice(tmp_path: Path) -> None:
    """Once for its checksum and to see that all numbers are finite, once to write it."""
    mlp = lm.MLP(BIG, disk=tmp_path)
    assert mlp.paged is not None
    save(mlp, tmp_path / "run.safetensors")
    assert mlp.paged.traffic.read <= 2 * mlp.learned.nbytes


def test_moments_on_the_disk_are_saved_and_loaded_whole_or_in_parts(tmp_path: Path) -> None:
    size = BIG.parameters
    states = [PagedArray(tmp_path, size, np.float32) for _ in range(2)]
    for number, state in enumerate(states):
        state.array[:] = np.arange(size) + number
    path = tmp_path / "run.safetensors"
    places: dict[str, Any] = {"options": {}, "position": Position(), "data": {}, "notes": {}}
    save_run(path, lm.MLP(BIG), lm.Adam(), states, **places)
    run = open_run(path)
    one, other = PagedArray(tmp_path, size, np.float32), np.zeros(size, np.float32)
    run.load_states([one, other], [(0, 0, size)])
    for number, back in enumerate((one.array, other)):
        np.testing.assert_array_equal(back, np.arange(size, dtype=np.float32) + number)
    part = [PagedArray(tmp_path, 5000, np.float32) for _ in range(2)]
    run.load_states(part, [(100, 0, 2000), (7000, 2000, 3000)])
    np.testing.assert_array_equal(part[1].array, np.r_[101:2101, 7001:10001])
    assert cached(part[1]) <= 5


def test_weights_of_the_last_step_are_saved_and_loaded(tmp_path: Path) -> None:
    best, last = lm.MLP(BIG, 1, disk=tmp_path), lm.MLP(BIG, 2, disk=tmp_path)
    path = tmp_path / "run.safetensors"
    save(best, path, last=last.streamed(last.learned), position=Position(aside=True))
    run, other = open_run(path), lm.MLP(BIG, disk=tmp_path)
    run.load_last(other.streamed(other.learned))
    np.testing.assert_array_equal(other.learned, last.learned)
    np.testing.assert_array_equal(run.network(tmp_path).learned, best.learned)


@pytest.mark.parametrize("kind", EXPORTS)
def test_numbers_that_are_none_are_refused(kind: str, tmp_path: Path) -> None:
    mlp, path = lm.MLP(BIG, disk=tmp_path), tmp_path / "net.safetensors"
    mlp.weights[7][300, 300] = np.nan
    with pytest.raises(SaveError, match=r"weight holds NaN or infinity. No file was written"):
        EXPORTS[kind](mlp, path)


@pytest.mark.parametrize("kind", EXPORTS)
def test_an_error_of_the_disk_leaves_the_earlier_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.safetensors"
    EXPORTS[kind](lm.MLP(BIG), path)
    before = path.read_bytes()
    monkeypatch.setenv("LOWMEM_DISK_TEST", "fail=250")  # when the network is read for the second time, to be written
    mlp = lm.MLP(BIG, 1, disk=tmp_path)
    with pytest.raises(DiskError, match="the disk failed at reading from"):
        EXPORTS[kind](mlp, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    monkeypatch.setenv("LOWMEM_DISK_TEST", "fail=7")
    with pytest.raises(DiskError, match="the disk failed at writing to"):
        IMPORTS[kind](path, tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_of_a_file_are_widened_on_their_way_to_the_disk(dtype: str, tmp_path: Path) -> None:
    import json

    from lowmem.interchange.torch_modules import tensors

    truth = lm.MLP(BIG)
    parts = []
    header: dict[str, Any] = {}
    place = 0
    for name, array in tensors(truth).items():
        raw = array.astype(np.float16).tobytes() if dtype == "float16" else (array.view(np.uint32) >> 16).astype("<u2")
        raw = bytes(raw)
        header[name] = {
            "dtype": {"float16": "F16", "bfloat16": "BF16"}[dtype],
            "shape": list(array.shape),
            "data_offsets": [place, place + len(raw)],
        }
        place += len(raw)
        parts.append(raw)
    text = json.dumps(header).encode()
    path = tmp_path / "half.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))
    options = {"activation": "relu", "loss": "cross_entropy"}
    memory, disk = lm.import_torch(path, **options), lm.import_torch(path, **options, disk=tmp_path)  # type: ignore[arg-type]
    np.testing.assert_array_equal(memory.learned, disk.learned)
    np.testing.assert_allclose(memory.learned, truth.learned, rtol=0.01, atol=1e-6)


def test_an_onnx_model_in_one_file_is_refused_before_the_network_is_in_memory(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    with pytest.raises(InputError, match="leave out external=False"):
        lm.export_onnx(lm.MLP(BIG, disk=tmp_path), tmp_path / "net.onnx", external=False)


def test_an_onnx_model_has_the_bytes_of_a_network_in_memory(architecture: lm.Architecture, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    files = []
    for name, disk in (("memory", None), ("disk", tmp_path)):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "net.onnx"
        lm.export_onnx(lm.MLP(architecture, 5, disk=disk), path, external=True)
        files.append([path.read_bytes(), path.with_name("net.onnx.data").read_bytes()])
    assert files[0] == files[1]
