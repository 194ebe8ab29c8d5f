"""The package as others get it: built in isolation, installed where nothing else is, and used from there."""

import json
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import lowmem as lm

pytest.importorskip("build")

ROOT = Path(__file__).resolve().parent.parent.parent
JUNK = re.compile(r"__pycache__|\.py[co]$|(^|/)\.(?!gitignore$)|\.egg-info|\.orig$|~$")

COMPILED = {f"lowmem/runtime/engines/native/_native.{suffix}" for suffix in ("so", "dll")}
"""The compiled engine: in a wheel that was built where there is a C compiler."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the source distribution, and the wheel from it and not from the working tree."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {"sdist": next(folder.glob("*.tar.gz")), "wheel": next(folder.glob("*.whl"))}


def tracked(*folders: str) -> set[str]:
    """Return the files of the repository in these folders; without a repository, all that are no junk."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders]
    if (ROOT / ".git").exists():
        return set(subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.split())
    found = (path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    return {path.as_posix() for path in found if not JUNK.search(path.as_posix())}


def test_the_source_distribution_has_what_is_needed_and_no_junk(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    about = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "pyproject.toml", "PKG-INFO"}
    about |= {"hatch_build.py", ".gitignore"}
    assert names == about | tracked("lowmem", "tests", "scripts", "analysis", "docs")
    assert not [name for name in names if JUNK.search(name)]


def test_the_wheel_has_the_package_and_nothing_else(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside - COMPILED == tracked("lowmem")
    assert {"lowmem/py.typed", "lowmem/data/datasets/digits.npz"} <= inside
    assert f"\nVersion: {lm.__version__}\n" in metadata
    for line in ("License-Expression: MIT", "Requires-Python: >=3.11", "Classifier: Typing :: Typed", "# lowmem"):
        assert f"\n{line}\n" in metadata


USE = """
import lowmem as lm
assert "site-packages" in lm.__file__, lm.__file__
arch = lm.Architecture((64, *[64] * 20, 10))
print(lm.plan(arch, 512, "50%").peak_bytes)
"""


def test_the_wheel_works_where_nothing_else_is(built: dict[str, Path], tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True, symlinks=os.name != "nt")
    scripts = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    away = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*command: str) -> str:
        words = [str(scripts / command[0]), *command[1:]]
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=away, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(built["wheel"]))
    assert "No broken requirements" in run("python", "-m", "pip", "check")
    assert run("lowmem", "--version") == run("python", "-m", "lowmem", "--version") == f"lowmem {lm.__version__}\n"
    assert int(run("python", "-c", USE)) > 0
    small = ("--layers", "2", "--width", "16", "--epochs", "1", "--no-calibrate", "--save", "run.safetensors")
    assert json.loads(run("lowmem", "train", *small, "--json"))["steps"] > 0
    assert "accuracy" in run("lowmem", "evaluate", "run.safetensors", "--data", "digits")
    assert "lowmem" in run("lowmem", "completion", "bash")
