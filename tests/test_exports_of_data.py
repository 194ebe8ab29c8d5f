"""Exports carry what is done to inputs and the names of classes and columns, and imports give them back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import lowmem as lm
from lowmem.training.saved_run import open_run
from tests.test_cli import Ran
from tests.test_data import idx_bytes
from tests.test_saved_run import rewritten
from tests.test_task import csv

Array = NDArray[Any]
Capture = pytest.CaptureFixture[str]
FLAGS = ["--layers", "1", "--width", "8", "--batch", "20", "--epochs", "3", "--no-calibrate"]
LABELS = np.array(["no", "yes", "perhaps"])[np.arange(100) % 3]


def pixels(folder: Path) -> tuple[Path, Array]:
    """Write images as MNIST's files, and return them."""
    images = np.random.default_rng(0).integers(0, 256, (60, 3, 3)).astype(np.uint8)
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes((np.arange(60) % 3).astype(np.uint8)))
    return folder, images.reshape(60, 9)


def saved(capsys: Capture, data: Path, run: Path, *flags: str) -> Path:
    """Train a run."""
    assert Ran(capsys, "train", "--data", str(data), *FLAGS, *flags, "--force", "--save", str(run)).code == 0
    return run


def test_names_and_scale_travel_to_pytorch_and_back(capsys: Capture, tmp_path: Path) -> None:
    data = csv(tmp_path, LABELS)
    run = saved(capsys, data, tmp_path / "run")
    out, back = str(tmp_path / "net.safetensors"), str(tmp_path / "back")
    assert Ran(capsys, "export", str(run), out).code == 0
    assert Ran(capsys, "import", out, back).code == 0
    assert (open_run(back).class_names, open_run(back).columns) == (("no", "perhaps", "yes"), open_run(run).columns)
    for command in ("evaluate", "predict"):
        ran = Ran(capsys, command, back, "--data", str(data))
        assert (ran.code, ran.out) == (0, Ran(capsys, command, str(run), "--data", str(data)).out)
    told = json.loads(Ran(capsys, "evaluate", back, "--data", str(data), "--json").out)
    assert told["accuracy"] is not None
    swapped = tmp_path / "swapped.csv"
    rows = [line.split(",") for line in data.read_text().splitlines()]
    swapped.write_text("\n".join(",".join([row[4], row[2], row[0], row[1], row[3]]) for row in rows))
    assert json.loads(Ran(capsys, "evaluate", back, "--data", str(swapped), "--json").out) == told
    again = str(tmp_path / "again.safetensors")
    assert Ran(capsys, "export", back, again).code == 0
    assert Path(again).read_bytes() == Path(out).read_bytes()


def test_scaled_pixels_are_scaled_in_every_export(capsys: Capture, tmp_path: Path) -> None:
    folder, images = pixels(tmp_path)
    run = saved(capsys, folder, tmp_path / "run")
    assert open_run(run).scale == 1 / 255
    out, back = str(tmp_path / "net.safetensors"), str(tmp_path / "back")
    ran = Ran(capsys, "export", str(run), out)
    assert "net.register_forward_pre_hook(lambda net, inputs: (inputs[0] * 0.00392156862745098,))" in ran.out
    assert Ran(capsys, "import", out, back).code == 0
    assert open_run(back).scale == 1 / 255
    np.save(tmp_path / "pixels.npy", images)  # of another format, which alone would not be scaled
    predicted = [
        Ran(capsys, "predict", str(run), "--data", str(data)).out for data in (folder, tmp_path / "pixels.npy")
    ]
    assert predicted[0] == predicted[1] == Ran(capsys, "predict", back, "--data", str(folder)).out


def test_data_of_another_format_are_scaled_as_in_training(capsys: Capture, tmp_path: Path) -> None:
    folder, images = pixels(tmp_path)
    np.savez(tmp_path / "raw.npz", x=images, y=np.arange(60) % 3)
    run = str(saved(capsys, tmp_path / "raw.npz", tmp_path / "run"))
    assert open_run(run).scale == 1
    one, other = (Ran(capsys, "predict", run, "--data", str(data)).out for data in (tmp_path / "raw.npz", folder))
    assert one == other
    run = str(saved(capsys, folder, tmp_path / "other"))
    np.savez(tmp_path / "small.npz", x=images / 255, y=np.arange(60) % 3)
    ran = Ran(capsys, "evaluate", run, "--data", str(tmp_path / "small.npz"))
    assert "x has no value above 1, and is multiplied by 1/255" in ran.err


@pytest.mark.parametrize("flags", [[], ["--standardise"]])
def test_pytorch_gives_the_outputs_of_raw_inputs(capsys: Capture, tmp_path: Path, flags: list[str]) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors.torch")
    folder, images = pixels(tmp_path)
    run = saved(capsys, folder, tmp_path / "run", *flags)
    code = json.loads(Ran(capsys, "export", str(run), str(tmp_path / "net.safetensors"), "--json").out)["code"]
    names: dict[str, Any] = {}
    exec(code, names)
    with torch.no_grad():
        theirs = names["net"](torch.tensor(images, dtype=torch.float32)).numpy()
    assert (
        Ran(capsys, "predict", str(run), "--data", str(folder), "--outputs", "--output", str(tmp_path / "p.npy")).code
        == 0
    )
    np.testing.assert_allclose(theirs, np.load(tmp_path / "p.npy"), rtol=1e-4, atol=1e-5)


def test_onnx_scales_inputs_and_names_classes_and_columns(capsys: Capture, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    folder, images = pixels(tmp_path)
    run = saved(capsys, folder, tmp_path / "run")
    path = tmp_path / "net.onnx"
    assert Ran(capsys, "export", str(run), str(path)).code == 0
    (theirs,) = ReferenceEvaluator(str(path)).run(None, {"x": images.astype(np.float32)})
    assert (
        Ran(capsys, "predict", str(run), "--data", str(folder), "--outputs", "--output", str(tmp_path / "p.npy")).code
        == 0
    )
    np.testing.assert_allclose(theirs, np.load(tmp_path / "p.npy"), rtol=1e-4, atol=1e-5)
    run = saved(capsys, csv(tmp_path, LABELS), tmp_path / "run")
    assert Ran(capsys, "export", str(run), str(path)).code == 0
    told = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    assert told["class_names"] == ["no", "perhaps", "yes"]
    assert told["feature_names"] == ["a", "b", "c", "d"]


def test_a_run_of_an_earlier_version_is_scaled_by_where_its_data_came_from(capsys: Capture, tmp_path: Path) -> None:
    for data, factor in (("digits", "0.0625"), (str(pixels(tmp_path)[0]), "0.00392156862745098")):
        run = saved(capsys, Path(data), tmp_path / "run")
        rewritten(run, lambda header, inside: inside["data"].pop("scale"))
        assert open_run(run).scale is None
        ran = Ran(capsys, "export", str(run), str(tmp_path / "net.safetensors"))
        assert f"inputs[0] * {factor}" in ran.out


@pytest.mark.parametrize("scale", ['"1"', "NaN", "[1]", "true"])
def test_a_scale_that_is_none_is_refused(capsys: Capture, tmp_path: Path, scale: str) -> None:
    run = saved(capsys, Path("digits"), tmp_path / "run")
    rewritten(run, lambda header, inside: inside["data"].update(scale=json.loads(scale)))
    with pytest.raises(lm.InputError, match="is not a saved run"):
        open_run(run)
