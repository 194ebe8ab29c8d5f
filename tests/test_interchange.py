"""Networks in PyTorch's names, without PyTorch: the same bits back, and clear words about files that are others'."""

import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import lowmem as lm
from lowmem.data.standardisation import Standardisation
from lowmem.interchange import safetensors as tensor_file
from lowmem.interchange.torch_modules import ACTIVATION_CODE, NORM_CODE, modules, shapes, tensors, torch_code
from lowmem.network.layers import NORMS
from lowmem.network.specs import ACTIVATIONS
from lowmem.training.saved_run import open_run
from tests.helpers import architectures, batch, randomised
from tests.test_cli import Ran

ARCH = lm.Architecture((4, 8, 8, 3), "tanh", "mse")
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Write a file as PyTorch would: no metadata of ours, tensors in another order."""
    path, named = tmp_path / "net.safetensors", tensors(randomised(ARCH))
    tensor_file.write(path, dict(sorted(named.items())).items, {"format": "pt"})
    return path


def test_names_count_the_modules_between() -> None:
    assert list(shapes(ARCH)) == ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"]
    assert shapes(ARCH)["0.weight"] == (8, 4)
    assert shapes(ARCH)["4.bias"] == (3,)
    assert [bool(module.tensors) for module in modules(ARCH)] == [True, False, True, False, True]


def test_every_activation_has_its_module() -> None:
    assert ACTIVATION_CODE.keys() == ACTIVATIONS.keys()
    assert NORM_CODE.keys() == NORMS.keys()


def test_an_activation_that_an_export_lacks_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mlp = lm.MLP(lm.Architecture((4, 8, 3), "mish"))
    monkeypatch.setattr("lowmem.interchange.torch_modules.ACTIVATION_CODE", {"relu": "nn.ReLU()"})
    with pytest.raises(lm.InputError, match="unknown activation of PyTorch exports 'mish'"):
        modules(mlp.architecture)
    pytest.importorskip("onnx")
    monkeypatch.setattr("lowmem.interchange.onnx.ACTIVATIONS", {})
    with pytest.raises(lm.InputError, match="unknown activation of ONNX exports 'mish'"):
        lm.export_onnx(mlp, tmp_path / "net.onnx")


def test_tensors_are_the_network_itself() -> None:
    mlp = lm.MLP(ARCH)
    for name, array in tensors(mlp).items():
        assert array.shape == shapes(ARCH)[name]
        assert np.shares_memory(array, mlp.parameters)


def test_code_folds_equal_layers() -> None:
    code = torch_code(lm.Architecture((64, *[256] * 100, 10), "gelu"), "net.safetensors")
    assert "    *(module for _ in range(99) for module in (nn.Linear(256, 256), nn.GELU(),)),\n" in code
    assert len(code.splitlines()) == 9
    assert "    nn.Linear(256, 10),\n)\n" in code
    assert ").double()\n" in torch_code(lm.Architecture((2, 3), dtype="float64"), "x")


@settings(max_examples=40)
@given(architectures())
def test_what_was_exported_comes_back_to_the_same_bits(tmp_path_factory: Any, architecture: lm.Architecture) -> None:
    path, mlp = tmp_path_factory.mktemp("net") / "net.safetensors", randomised(architecture)
    lm.export_torch(mlp, path)
    back = lm.import_torch(path)
    assert back.architecture == architecture
    assert back.parameters.tobytes() == mlp.parameters.tobytes()


def test_the_public_library_reads_what_was_exported(tmp_path: Path) -> None:
    numpy_files = pytest.importorskip("safetensors.numpy")
    mlp = randomised(ARCH)
    lm.export_torch(mlp, tmp_path / "net")
    read = numpy_files.load_file(tmp_path / "net")
    assert read.keys() == tensors(mlp).keys()
    assert all(np.array_equal(read[name], array) for name, array in tensors(mlp).items())


def test_a_foreign_file_needs_activation_and_loss_alone(foreign: Path) -> None:
    mlp = lm.import_torch(foreign, activation="tanh", loss="mse")
    assert mlp.architecture == ARCH
    x, _ = batch(ARCH, 5)
    assert np.array_equal(mlp.predict(x), randomised(ARCH).predict(x))
    assert lm.import_torch(foreign, ARCH).architecture == ARCH
    with pytest.raises(lm.InputError, match="does not say which activation and loss"):
        lm.import_torch(foreign, activation="tanh")
    with pytest.raises(lm.InputError, match="Did you mean 'tanh'"):
        lm.import_torch(foreign, activation="tahn", loss="mse")


def test_a_file_that_says_otherwise_is_not_overruled(tmp_path: Path) -> None:
    lm.export_torch(lm.MLP(ARCH), tmp_path / "net")
    with pytest.raises(lm.InputError, match=r"is for activation 'tanh'; 'relu' was given"):
        lm.import_torch(tmp_path / "net", activation="relu")


def changed(path: Path, change: dict[str, Any]) -> Path:
    """Write a foreign file with some tensors replaced, or left out where None."""
    named = tensors(randomised(ARCH)) | change
    tensor_file.write(path, {name: array for name, array in named.items() if array is not None}.items, {})
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"2.bias": None, "4.weight": None}, "missing: 2.bias, 4.weight."),
        ({"2.gain": np.ones(8), "tail": np.ones(1)}, "unexpected: 2.gain, tail."),
        ({f"9{n}.weight": np.ones(1) for n in range(8)}, "unexpected: 90.weight, .* and 3 more."),
        ({"0.weight": np.ones((4, 8), np.float32)}, r"of another shape: 0.weight \(4, 8\), not \(8, 4\)."),
        ({"0.weight": np.ones((8, 4))}, "not float32: 0.weight float64."),
        ({"3.count": np.ones(1, np.int64)}, "unexpected: 3.count."),
    ],
)
def test_all_that_differs_is_listed(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = changed(tmp_path / "net", change)
    with pytest.raises(lm.InputError, match=f"does not hold the tensors of this network .* {words}") as error:
        lm.import_torch(path, ARCH)
    assert "\n" not in str(error.value)


def test_modules_that_are_none_of_ours_are_seen_without_an_architecture(tmp_path: Path) -> None:
    named = tensors(randomised(ARCH))
    moved = {re.sub("^4", "5", name): array for name, array in named.items()}  # a dropout between, say
    tensor_file.write(tmp_path / "net", moved.items, {})
    with pytest.raises(lm.InputError, match=r"missing: 4\.weight, 4\.bias; unexpected: 5\.weight, 5\.bias"):
        lm.import_torch(tmp_path / "net", activation="tanh", loss="mse")
    tensor_file.write(tmp_path / "net", {f"net.{name}": array for name, array in named.items()}.items, {})
    read = lm.import_torch(tmp_path / "net", activation="tanh", loss="mse")  # a prefix of all names is no matter
    assert np.array_equal(read.parameters, randomised(ARCH).parameters)
    tensor_file.write(tmp_path / "net", {f"net{name}": array for name, array in named.items()}.items, {})
    with pytest.raises(lm.InputError, match=r"holds no '0\.weight'.*it holds net0\.bias, .* and 1 more"):
        lm.import_torch(tmp_path / "net", activation="tanh", loss="mse")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 a pickle in a zip archive, as torch.save writes it",
        b"\x10\0\0\0\0\0\0\0{" + b"[" * 15,
        (b'\x5b\0\0\0\0\0\0\0{"0.weight":{"dtype":"F8_X","shape":[1,1],"data_offsets":[0,2]}}').ljust(99) + b"\0\0",
    ],
    ids=["empty", "pickle", "no JSON", "unknown dtype"],
)
def test_what_is_no_such_file_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.pt").write_bytes(content)
    with pytest.raises(lm.InputError, match=r"is no safetensors file that can be imported: .*save_file") as error:
        lm.import_torch(tmp_path / "net.pt", ARCH)
    assert "\n" not in str(error.value)
    assert b"BF16" not in content or "'0.weight' is BF16; known are F32, F64" in str(error.value)


@pytest.mark.parametrize("told", ["[1]", '{"widths": [0, 2]}', '{"widths": [2, 2], "depth": 3}', "{", "null"])
def test_metadata_are_not_believed(tmp_path: Path, told: str) -> None:
    tensor_file.write(tmp_path / "net", tensors(lm.MLP(ARCH)).items, {"lowmem": "9", "architecture": told})
    with pytest.raises(lm.InputError, match=r"net is no safetensors file that can be imported: "):
        lm.import_torch(tmp_path / "net")


@pytest.mark.parametrize("mean", ["[0, 0, 0]", "[]", '"0000"', "[0, 0, 0, 1e999]", "[[0, 0, 0, 0]]", "null"])
def test_a_standardisation_is_not_believed_either(tmp_path: Path, mean: str) -> None:
    told = {"lowmem": "9", "standardisation": f'{{"mean": {mean}, "deviation": [1, 1, 1, 1]}}'}
    tensor_file.write(tmp_path / "net", tensors(lm.MLP(ARCH)).items, told)
    with pytest.raises(lm.InputError, match="net is no safetensors file that can be imported: "):
        lm.import_torch(tmp_path / "net", ARCH)


def test_no_copy_of_the_parameters_is_made_on_the_way(tmp_path: Path) -> None:
    mlp = lm.MLP(lm.Architecture((1000, 1000, 1000, 1000)))
    tracemalloc.start()
    try:
        lm.export_torch(mlp, tmp_path / "net")
        exported = tracemalloc.get_traced_memory()[1]
        lm.import_torch(tmp_path / "net")
        imported = tracemalloc.get_traced_memory()[1] - mlp.parameters.nbytes
    finally:
        tracemalloc.stop()
    assert max(exported, imported) < 1 << 18


def test_missing_files_and_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(lm.InputError, match="there is no file"):
        lm.import_torch(tmp_path / "nothing")
    path = changed(tmp_path / "net", {"2.bias": np.full(8, np.nan, np.float32)})
    with pytest.raises(lm.InputError, match=r"2\.bias holds NaN"):
        lm.import_torch(path, ARCH)
    mlp = lm.MLP(ARCH)
    before = path.read_bytes()
    mlp.biases[1][3] = np.inf
    with pytest.raises(lm.SaveError, match=r"2\.bias holds NaN or infinity. The file that was there is unchanged"):
        lm.export_torch(mlp, path)
    mlp.biases[1][3] = 0
    with pytest.raises(lm.SaveError, match="cannot be written"):
        lm.export_torch(mlp, tmp_path / "no" / "net")
    assert path.read_bytes() == before


# The commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(capsys: Capture, tmp_path: Path) -> Path:
    """Train a little, standardised, and save."""
    path = tmp_path / "run.safetensors"
    flags = ["--layers", "2", "--width", "16", "--epochs", "1", "--no-calibrate", "--standardise"]
    assert Ran(capsys, "train", *flags, "--save", str(path)).code == 0
    return path


def test_export_and_import_keep_network_and_standardisation(capsys: Capture, saved: Path, tmp_path: Path) -> None:
    out, back = tmp_path / "net.safetensors", tmp_path / "back.safetensors"
    ran = Ran(capsys, "export", str(saved), str(out))
    assert (ran.code, ran.err) == (0, "")
    assert "nn.Linear(64, 16), nn.ReLU(),\n" in ran.out
    assert "net.register_forward_pre_hook(lambda net, inputs: ((inputs[0] - mean) / deviation,))" in ran.out
    told = json.loads(Ran(capsys, "export", str(saved), str(out), "--format", "torch", "--json").out)
    assert told["bytes"] == out.stat().st_size
    assert told["code"] in ran.out
    ran = Ran(capsys, "import", str(out), str(back))
    assert (ran.code, ran.err) == (0, "")
    one, other = open_run(saved), open_run(back)
    assert other.network().parameters.tobytes() == one.network().parameters.tobytes()
    first, second = one.standardisation(), other.standardisation()
    assert isinstance(first, Standardisation)
    assert isinstance(second, Standardisation)
    assert np.array_equal(first.mean, second.mean)
    assert np.array_equal(first.deviation, second.deviation)
    evaluate = ("evaluate", "--data", "digits", "--json")
    assert Ran(capsys, *evaluate, str(saved)).out == Ran(capsys, *evaluate, str(back)).out
    again = lm.Trainer.resume(back)
    losses = [epoch.loss for epoch in again.epochs(lm.open_data("digits", standardise=second), 2)]
    assert losses[1] < losses[0]


def test_a_foreign_file_becomes_a_run(capsys: Capture, foreign: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run.safetensors")
    ran = Ran(capsys, "import", str(foreign), run)
    assert ran.code == 2
    assert re.fullmatch(r"lowmem: [^\n]* does not say which activation and loss [^\n]*\n", ran.err)
    flags = ("--activation", "tanh", "--loss", "mse", "--json")
    assert "4, 8 x 2, 3" in json.loads(Ran(capsys, "import", str(foreign), run, *flags).out)["architecture"]
    assert open_run(run).architecture == ARCH


def test_what_export_and_import_cannot_do_is_one_clear_line(capsys: Capture, saved: Path, tmp_path: Path) -> None:
    before = saved.read_bytes()
    out = tmp_path / "net.safetensors"
    for flags, words in [
        (("export", str(saved), "net.pt"), "tells no format"),
        (("export", str(saved), str(out), "--format", "troch"), "Did you mean 'torch'"),
        (("export", str(saved), str(out), "--probabilities"), "go with ONNX"),
        (("export", str(saved), str(saved)), "would overwrite the saved run"),
        (("export", str(saved), str(tmp_path / "no" / "net.safetensors")), "there is no folder"),
        (("export", str(tmp_path / "none"), str(out)), "there is no saved run"),
        (("import", str(saved), str(saved), "--activation", "relu", "--loss", "mse"), "It is a saved run"),
    ]:
        ran = Ran(capsys, *flags)
        assert (ran.code, ran.out) == (2, "")
        assert re.fullmatch(r"lowmem: [^\n]+\n", ran.err)
        assert words in ran.err
    assert not out.exists()
    assert Ran(capsys, "export", str(saved), str(out)).code == 0
    assert Ran(capsys, "import", str(out), str(out)).code == 2
    assert saved.read_bytes() == before
