"""ONNX models give in ONNX Runtime what the network gives here, whatever batch, size and place of the parameters."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.data.standardisation import Standardisation
from lowmem.interchange import onnx as door
from lowmem.network.layers import NORMS
from lowmem.network.specs import ACTIVATIONS
from tests.helpers import KINDS, batch, names, randomised, stirred
from tests.test_cli import ROOT, Ran

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
NARROW = {("gelu", "float64"): 1e-6}
"""Where an operator has no more digits: see `lowmem.interchange.onnx._gelu`."""


def outputs(path: Path, x: Any) -> Any:
    onnx.checker.check_model(str(path), full_check=True)
    session = runtime.InferenceSession(str(path))
    (y,) = session.run(None, {"x": x})
    return y


def apart(one: Any, other: Any) -> float:
    """Return the largest difference, relative to the largest output."""
    assert one.shape == other.shape
    assert one.dtype == other.dtype
    return float(np.abs(one - other).max() / np.abs(other).max())


def test_every_activation_has_its_nodes() -> None:
    assert door.ACTIVATIONS.keys() == ACTIVATIONS.keys()
    assert door.NORMS.keys() == NORMS.keys()


@pytest.mark.parametrize("dtype", sorted(TOLERANCE))
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation_gives_the_same_outputs_for_any_batch(tmp_path: Path, activation: str, dtype: str) -> None:
    architecture = lm.Architecture((8, 30, 30, 17, 5), activation, "mse", dtype)
    mlp, path = randomised(architecture), tmp_path / "net.onnx"
    lm.export_onnx(mlp, path)
    x, y = batch(architecture, 300)
    for _ in lm.Trainer(mlp, lm.Adam(lr=1e-3), batch_size=50).epochs((x, y), 2):
        pass
    lm.export_onnx(mlp, path)
    x *= 3
    for rows in (1, 7, 300):
        tolerance = NARROW.get((activation, dtype), TOLERANCE[dtype])
        assert apart(outputs(path, x[:rows]), mlp.predict(x[:rows])) < tolerance


@pytest.mark.parametrize("dtype", sorted(TOLERANCE))
@pytest.mark.parametrize("kind", KINDS, ids=names)
def test_every_kind_of_layer_gives_the_same_outputs(tmp_path: Path, kind: dict[str, Any], dtype: str) -> None:
    architecture = lm.Architecture((8, 30, 30, 17, 17, 5), "silu", "mse", dtype, **kind)
    mlp, path = stirred(architecture), tmp_path / "net.onnx"
    x, _ = batch(architecture, 100)
    lm.export_onnx(mlp, path)
    assert apart(outputs(path, x), mlp.predict(x)) < TOLERANCE[dtype]


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_far_inputs_neither_overflow_nor_lose_a_tail(tmp_path: Path, activation: str) -> None:
    for dtype in TOLERANCE:
        mlp = lm.MLP(lm.Architecture((1, 1, 1), activation, "mse", dtype))
        mlp.parameters[:] = [1, 0, 1, 0]  # w, b, w, b: the output is σ(x)
        lm.export_onnx(mlp, tmp_path / "net.onnx")
        x = np.array([0, 1e-4, -1e-4, 0.5, -0.5, 3, -3, 30, -30, 200, -200], dtype)[:, None]
        got, expected = outputs(tmp_path / "net.onnx", x), mlp.predict(x)
        tolerance = 1e-6 if dtype == "float32" or (activation, dtype) in NARROW else 1e-13
        assert np.all(np.abs(got - expected) <= tolerance * np.maximum(np.abs(expected), 1))


def test_a_hundred_layers_give_the_same_outputs(tmp_path: Path) -> None:
    architecture = lm.Architecture((16, *[32] * 99, 4), "tanh")
    mlp = lm.MLP(architecture)
    lm.export_onnx(mlp, tmp_path / "net.onnx")
    x, _ = batch(architecture, 50)
    assert apart(outputs(tmp_path / "net.onnx", x), mlp.predict(x)) < 1e-5


@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_probabilities_are_what_the_loss_means_by_the_outputs(tmp_path: Path, loss: str) -> None:
    architecture = lm.Architecture((8, 16, 4), "gelu", loss)
    mlp = randomised(architecture)
    x, _ = batch(architecture, 20)
    s = mlp.predict(x).astype(float)
    expected = 1 / (1 + np.exp(-s)) if loss == "bce" else np.exp(s) / np.exp(s).sum(axis=1, keepdims=True)
    lm.export_onnx(mlp, tmp_path / "net.onnx", probabilities=True)
    assert np.abs(outputs(tmp_path / "net.onnx", x) - expected).max() < 1e-6
    model = onnx.load(tmp_path / "net.onnx")
    assert [value.name for value in model.graph.output] == ["probabilities"]
    with pytest.raises(lm.InputError, match="go with cross_entropy and bce; this network's loss is mse"):
        lm.export_onnx(lm.MLP(lm.Architecture((8, 4), loss="mse")), tmp_path / "other.onnx", probabilities=True)
    assert not (tmp_path / "other.onnx").exists()


def test_a_model_tells_what_it_is(tmp_path: Path) -> None:
    architecture = lm.Architecture((8, 16, 4), "gelu")
    lm.export_onnx(lm.MLP(architecture), tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    assert (model.producer_name, model.producer_version) == ("lowmem", lm.__version__)
    told = json.loads({entry.key: entry.value for entry in model.metadata_props}["architecture"])
    assert lm.Architecture(**told) == architecture
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert (shape[0].dim_param, shape[1].dim_value) == ("batch", 8)
    assert [value.name for value in model.graph.output] == ["outputs"]


def test_standardisation_becomes_a_part_of_the_model(tmp_path: Path) -> None:
    architecture = lm.Architecture((8, 16, 4), "relu", "mse")
    mlp = randomised(architecture)
    x = batch(architecture, 20)[0] * 50 + 7
    standard = Standardisation(x.mean(axis=0).astype(float), x.std(axis=0).astype(float))
    lm.export_onnx(mlp, tmp_path / "net.onnx", standardisation=standard)
    expected = mlp.predict((x - standard.mean) / standard.deviation)
    assert apart(outputs(tmp_path / "net.onnx", x), expected) < 1e-5


# Parameters in a file of their own ---------------------------------------------------------------------------------


def test_parameters_may_lie_beside_the_model(tmp_path: Path) -> None:
    architecture = lm.Architecture((40, 100, 100, 4), "gelu")
    mlp, path = randomised(architecture), tmp_path / "net.onnx"
    lm.export_onnx(mlp, path, external=True)
    assert (tmp_path / "net.onnx.data").stat().st_size == 16384 + 40000  # 40 x 100, a gap, 100 x 100
    assert path.stat().st_size < 5000
    x, _ = batch(architecture, 20)
    assert apart(outputs(path, x), mlp.predict(x)) < 1e-5
    offsets = [
        int(entry.value)
        for tensor in onnx.load(path, load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "offset"
    ]
    assert len(offsets) == 2  # the weights of the first two layers; what is small stays in the model
    assert all(offset % 4096 == 0 for offset in offsets)


def test_large_parameters_lie_beside_the_model_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlp = lm.MLP(lm.Architecture((40, 100, 100, 4)))
    lm.export_onnx(mlp, tmp_path / "small.onnx")
    monkeypatch.setattr(door, "EXTERNAL_ABOVE", mlp.parameters.nbytes - 1)
    lm.export_onnx(mlp, tmp_path / "large.onnx")
    monkeypatch.setattr(door, "EMBEDDED_MOST", mlp.parameters.nbytes - 1)
    with pytest.raises(lm.InputError, match="no more than 2 GiB; leave out external=False"):
        lm.export_onnx(mlp, tmp_path / "none.onnx", external=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data", "small.onnx"]


STREAMED = """
import sys, tracemalloc, onnx, onnx.helper
import lowmem as lm
mlp = lm.MLP(lm.Architecture((1000, *[1000] * 10, 10)))
lm.export_onnx(lm.MLP(lm.Architecture((2, 3))), sys.argv[1])
tracemalloc.start()
lm.export_onnx(mlp, sys.argv[1], external=True)
print(tracemalloc.get_traced_memory()[1])
"""


def test_streaming_takes_no_copy_of_the_parameters(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STREAMED, str(tmp_path / "net.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert (tmp_path / "net.onnx.data").stat().st_size > 40_000_000
    assert int(done.stdout) < 2_000_000


# Failure, and the command ------------------------------------------------------------------------------------------


def test_what_cannot_be_written_leaves_the_earlier_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlp, path = lm.MLP(lm.Architecture((8, 4))), tmp_path / "net.onnx"
    lm.export_onnx(mlp, path, external=True)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    mlp.biases[0][0] = np.nan
    with pytest.raises(lm.SaveError, match="layer 1 holds NaN"):
        lm.export_onnx(mlp, path)
    mlp.biases[0][0] = 1

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(door, "write_all", full)
    with pytest.raises(lm.SaveError, match="cannot be written: No space left"):
        lm.export_onnx(mlp, path, external=True)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_the_command_exports_a_run_that_predicts_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run, path, rows = tmp_path / "run.safetensors", tmp_path / "net.onnx", tmp_path / "x.npy"
    flags = ("--layers", "2", "--width", "16", "--epochs", "1", "--no-calibrate", "--standardise")
    assert Ran(capsys, "train", *flags, "--save", str(run)).code == 0
    x = np.random.default_rng(0).uniform(0, 16, (30, 64)).astype(np.float32)
    np.save(rows, x)
    ran = Ran(capsys, "export", str(run), str(path))
    assert (ran.code, ran.err) == (0, "")
    names: dict[str, Any] = {"x": x}
    exec(ran.out.partition("\n\n")[2], names)  # the code that it prints
    predicted = tmp_path / "y.npy"
    assert Ran(capsys, "predict", str(run), "--data", str(rows), "--outputs", "--output", str(predicted)).code == 0
    assert apart(names["y"], np.load(predicted)) < 1e-5
    assert Ran(capsys, "export", str(run), str(path), "--probabilities", "--external").code == 0
    assert np.abs(outputs(path, x).sum(axis=1) - 1).max() < 1e-5


def test_without_the_library_the_extra_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(lm.InputError, match=re.escape('pip install "lowmem[onnx]"')):
        lm.export_onnx(lm.MLP(lm.Architecture((2, 3))), tmp_path / "net.onnx")
