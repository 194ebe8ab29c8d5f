"""Files are written whole or not at all, by one writer or several, and only where files can be."""

import contextlib
import ctypes
import errno
import json
import mmap
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.cli import main
from lowmem.common import passing
from lowmem.common.files import check_place, replacing, unchanged, write_all
from lowmem.common.passing import PIECE, PassingFile
from lowmem.interchange import torch_weights
from lowmem.measure.calibration import cache_path
from lowmem.training import saved_run
from lowmem.training.saved_run import open_run
from tests.test_streams import X, Y

ROOT = Path(__file__).resolve().parent.parent
SAVER = """
import sys
from lowmem.common.files import replacing, write_all
path, letter, count = sys.argv[1:]
for _ in range(int(count)):
    with replacing(path) as (stream,):
        for _ in range(20):
            write_all(stream, letter.encode() * 5000)
"""


def run(*arguments: str, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run a command of lowmem as a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | dict(options.pop("env", {}))  # type: ignore[call-overload]
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [sys.executable, "-m", "lowmem", *arguments],
        env=environment,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    return done


# Several writers -------------------------------------------------------------------------------------------------


def test_two_savers_to_one_path_never_damage_the_file_that_stands(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as (stream,):
        write_all(stream, b"a" * 100_000)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    savers = [
        subprocess.Popen([sys.executable, "-c", SAVER, str(path), letter, "60"], env=environment) for letter in "ab"
    ]
    reads = 0
    while any(saver.poll() is None for saver in savers):
        content = path.read_bytes()
        assert content in (b"a" * 100_000, b"b" * 100_000)
        reads += 1
    assert [saver.returncode for saver in savers] == [0, 0]
    assert reads > 10
    assert os.listdir(tmp_path) == ["file"]


def test_trainers_in_two_threads_save_to_one_path(tmp_path: Path) -> None:
    path, problems = tmp_path / "run", []

    def train(seed: int) -> None:
        trainer = lm.Trainer(lm.MLP(lm.Architecture((5, 8, 3)), seed), batch_size=50)
        try:
            for _ in trainer.epochs((X, Y), 8, save_to=path, save_every=1):
                open_run(path)
        except lm.LowmemError as problem:
            problems.append(problem)

    threads = [threading.Thread(target=train, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert open_run(path).position.epoch == 8


@pytest.mark.parametrize("reader", [open_run, lm.import_torch])
def test_a_file_that_is_replaced_while_it_is_opened_is_read_whole(
    reader: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    for name, width in ((path, 8), (tmp_path / "other", 9)):
        mlp = lm.MLP(lm.Architecture((5, width, 3)))
        if reader is open_run:
            list(lm.Trainer(mlp, batch_size=50).epochs((X, Y), 1, save_to=name))
        else:
            lm.export_torch(mlp, name)

    class Losing(PassingFile):
        def __init__(self, opened: Path) -> None:
            super().__init__(opened)
            if (tmp_path / "other").exists():
                (tmp_path / "other").replace(path)

    for module in (saved_run, torch_weights):
        monkeypatch.setattr(module, "PassingFile", Losing)
    if reader is open_run:
        assert open_run(path).architecture.widths == (5, 8, 3)
    else:  # is read in two visits, which must not see two networks
        with pytest.raises(lm.InputError, match="it has changed since it was looked at"):
            lm.import_torch(path)
    assert not (tmp_path / "other").exists()


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    path = tmp_path / "run"
    left = tmp_path / "run.0123abcd.part"
    left.write_bytes(b"left")
    others = [tmp_path / "run.notes.part", tmp_path / "other.0123abcd.part"]
    for other in others:
        other.write_bytes(b"somebody's")
    with replacing(path) as (first,):
        write_all(first, b"first")
        with replacing(path) as (second,):
            write_all(second, b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])


# Where a file can be written --------------------------------------------------------------------------------------


def test_a_new_file_keeps_the_mode_of_the_one_it_replaces(tmp_path: Path) -> None:
    path = tmp_path / "run"
    trainer = lm.Trainer(lm.MLP(lm.Architecture((5, 8, 3))), batch_size=50)
    list(trainer.epochs((X, Y), 1, save_to=path))
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    path.chmod(0o640)
    trainer.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link, file = tmp_path / "link", tmp_path / "folder" / "file"
    link.symlink_to(file)
    with replacing(link) as (stream,):
        write_all(stream, b"new")
    assert link.is_symlink()
    assert file.read_bytes() == b"new"


def test_another_hard_link_keeps_the_earlier_file(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"old")
    os.link(one, other)
    with replacing(one) as (stream,):
        write_all(stream, b"new")
    assert (one.read_bytes(), other.read_bytes()) == (b"new", b"old")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such pipes here")
def test_devices_and_pipes_are_no_places_for_a_run(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    trainer = lm.Trainer(lm.MLP(lm.Architecture((5, 8, 3))), batch_size=50)
    for place in (pipe, Path("/dev/null")):
        with pytest.raises(lm.InputError, match="it is a device, a pipe or a socket, and no file. Name another"):
            trainer.epochs((X, Y), 1, save_to=place)
    list(trainer.epochs((X, Y), 1))
    with pytest.raises(lm.SaveError, match="a device, a pipe or a socket"):
        trainer.save(pipe)
    with pytest.raises(lm.SaveError, match="a device, a pipe or a socket"):
        lm.export_torch(trainer.mlp, pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_place_that_cannot_be_written_is_found_before_the_first_epoch(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    places = [
        tmp_path,
        tmp_path / "none" / "run",
        tmp_path / "file" / "run",
        tmp_path / ("x" * 300),
        Path("/proc/run"),
    ]
    for place in [*places, tmp_path / "a\0b"]:
        with pytest.raises(lm.InputError, match="the run cannot be saved to"):
            check_place(place, "the run")
    check_place(tmp_path / "run", "the run")
    assert os.listdir(tmp_path) == ["file"]


def test_the_error_of_a_failed_save_says_what_is_true(tmp_path: Path) -> None:
    assert unchanged(tmp_path / "none") == "No file was written."
    mlp = lm.MLP(lm.Architecture((4, 3, 2)))
    mlp.weights[0][:] = np.nan
    with pytest.raises(lm.SaveError, match=r"holds NaN or infinity\. No file was written\.$"):
        lm.export_torch(mlp, tmp_path / "net.safetensors")


@pytest.mark.parametrize("allowed", [True, False])
def test_a_new_file_keeps_the_owner_of_the_one_it_replaces_where_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    path, given, real, status = tmp_path / "file", [], os.stat, os.stat(tmp_path)
    path.touch()

    def stat_of(which: Any, **options: Any) -> os.stat_result:
        if which != path:
            return real(which, **options)
        return os.stat_result((0o100640, *status[1:4], 1234, 5678, *status[6:]))

    def give(descriptor: int, owner: int, group: int) -> None:
        given.append((owner, group))
        if not allowed:
            raise PermissionError(1, "not permitted")

    monkeypatch.setattr(os, "stat", stat_of)
    monkeypatch.setattr(os, "fchown", give)
    with replacing(path) as (stream,):
        write_all(stream, b"new")
    assert path.read_bytes() == b"new"
    assert given == [(-1, 5678), (1234, -1)]
    monkeypatch.setattr(os, "fchown", lambda *_: (_ for _ in ()).throw(OSError(5, "input or output error")))
    with pytest.raises(OSError, match="input or output error"), replacing(path) as (stream,):
        write_all(stream, b"newer")
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_root_saves_into_the_file_of_another_user(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o4640)
    try:
        os.chown(path, 1234, 5678)
    except OSError:
        pytest.skip("no such user in this container")
    path.chmod(0o4640)
    with replacing(path) as (stream,):
        write_all(stream, b"new")
    kept = path.stat()
    assert (kept.st_uid, kept.st_gid, stat.S_IMODE(kept.st_mode)) == (1234, 5678, 0o4640)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="no such folder here")
def test_what_a_process_has_open_is_no_place_though_it_is_a_file(tmp_path: Path) -> None:
    with (tmp_path / "kept").open("w") as kept:
        places = [Path(f"/dev/fd/{kept.fileno()}"), Path(f"/proc/self/fd/{kept.fileno()}"), tmp_path / "link"]
        places[-1].symlink_to(places[0])
        for place in places:
            with pytest.raises(lm.InputError, match="it is a device, a pipe or a socket, and no file. Name another"):
                check_place(place, "a run")
            with pytest.raises(OSError, match="it is a device"), replacing(place):
                pass
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["kept", "link"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such pipes here")
def test_a_pipe_as_journal_is_refused_in_whole_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert main(["train", "--journal", str(tmp_path / "pipe"), "--epochs", "1", "--layers", "1"]) == 2
    assert re.fullmatch(
        r"lowmem: cannot write the journal '[^']+': [^.]+\. Name another file\.\n", capsys.readouterr().err
    )


@pytest.mark.parametrize("place", ["round", "there"])
def test_a_link_that_leads_back_to_itself_is_no_place(tmp_path: Path, place: str) -> None:
    (tmp_path / "round").symlink_to("back")
    (tmp_path / "back").symlink_to("round")
    (tmp_path / "there").symlink_to("round")
    with pytest.raises(lm.InputError, match="cannot be saved to .* symbolic link that leads back to itself"):
        check_place(tmp_path / place, "a run")


@pytest.mark.parametrize("text", ["out/", "out/.", "out//"])
def test_a_name_that_means_a_folder_is_no_file_to_write(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    network = lm.MLP(lm.Architecture((5, 4, 3)))
    trainer = lm.Trainer(network, batch_size=8)
    for options in ({"save_to": text}, {"journal": text}):
        with pytest.raises(lm.InputError, match=rf"{next(iter(options))} must be a file; '{text}' means a folder"):
            trainer.epochs((X, Y), 1, **options)  # type: ignore[arg-type]
    list(trainer.epochs((X, Y), 1, save_to="run"))
    with pytest.raises(lm.InputError, match="path must be a file"):
        trainer.save(text)
    with pytest.raises(lm.InputError, match="path must be a file"):
        lm.export_torch(network, text)
    train = ("train", "--epochs", "1", "--no-calibrate")
    commands: list[tuple[str, ...]] = [(*train, flag, text) for flag in ("--save", "--journal", "--html")]
    commands += [("profile", "--html", text), ("profile", "--plot", text), ("compare", "--plot", text)]
    commands += [("export", "run", text, "--format", "torch"), ("plot", "journal", "--output", text)]
    commands += [("predict", "run", "--data", "digits", "--output", text), ("import", "run", text)]
    for command in commands:
        assert main(command) == 2
        told = capsys.readouterr().err
        assert f"must be a file; '{text}' means a folder. Name a file in it" in told
        assert told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# Files that cannot be reached -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_of_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a saved run."""
    path = tmp_path_factory.mktemp("runs") / "run"
    network = ("--layers", "1", "--width", "4", "--batch", "64", "--no-calibrate")
    assert main(["train", "--epochs", "1", "--save", str(path), *network]) == 0
    return path


@pytest.fixture(params=["long", "closed"])
def unreachable(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Return a path that the system tells nothing of, and why: its name is too long, or its folder is another's."""
    if request.param == "long":
        return str(tmp_path / ("é" * 300)), "File name too long"
    looked = os.stat

    def refused(path: Any, *arguments: Any, **options: Any) -> os.stat_result:  # root may search any folder
        if "closed" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return looked(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", refused)
    return str(tmp_path / "closed" / "file.csv"), "Permission denied"


@pytest.mark.parametrize(
    "command",
    [
        *(f"train --data {at}" for at in ("{}", "digits --targets {}", "digits --validation {}", "digits --save {}")),
        *("resume {}", "evaluate {} --data digits", "evaluate {run} --data {}", "import {} {run} --force"),
        *("predict {run} --data {}", "predict {run} --data digits --output {}", "export {} net.onnx"),
    ],
)
def test_a_file_that_cannot_be_reached_is_one_line_with_its_name_and_the_cause(
    unreachable: tuple[str, str], command: str, run_of_digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, cause = unreachable
    assert main([word.format(path, run=run_of_digits) for word in command.split()]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert path[:40] in told
    assert cause in told
    assert "standard output" not in told


@pytest.mark.parametrize(
    "use",
    [
        lm.open_data,
        lambda path: lm.open_data("digits", targets=path),
        lambda path: lm.open_data("digits", weights=Path(path)),
        lm.Trainer.resume,
        lm.import_torch,
    ],
)
def test_a_file_that_cannot_be_reached_is_input_that_the_library_refuses(
    unreachable: tuple[str, str], use: Callable[[str], object]
) -> None:
    with pytest.raises(lm.InputError):
        use(unreachable[0])


@pytest.mark.parametrize(
    "use",
    [
        lambda: lm.open_data(""),
        lambda: lm.open_data("digits", targets=""),
        lambda: lm.open_data("digits", weights=""),
        lambda: lm.open_data("digits", target=""),
        lambda: lm.Trainer.resume(""),
        lambda: lm.import_torch(""),
    ],
)
def test_an_empty_name_is_no_file_and_no_column(use: Callable[[], object]) -> None:
    with pytest.raises(lm.InputError, match="must be"):
        use()


@pytest.mark.parametrize("flag", ["data", "targets", "validation", "weights", "target", "features", "save", "journal"])
def test_an_empty_flag_is_refused_by_its_name(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", f"--{flag}", "", "--epochs", "1", "--layers", "1", "--width", "4"]) == 2
    assert capsys.readouterr().err.startswith(f"lowmem: --{flag} must ")


@pytest.mark.parametrize(
    "command", ["resume", "evaluate", "predict", "export RUN", "import", "plot", "train --config"]
)
def test_an_empty_argument_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), ""]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "must be a path" in told or "cannot read ''" in told


@pytest.mark.parametrize("command", ["train --data", "train --save", "resume", "import"])
def test_a_tilde_that_no_shell_has_read_is_said_so(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "~/file", *(["run"] if command == "import" else [])]) == 2
    told = capsys.readouterr().err
    assert "~ was not made a folder, as shells do outside of quotes: write the path out, or with $HOME." in told
    assert "Make it first" not in told


def test_an_error_of_some_file_is_none_of_the_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failed(arguments: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "some file")

    monkeypatch.setattr("lowmem.cli.plan.run", failed)
    assert main(["plan"]) == 1
    assert capsys.readouterr().err == "lowmem: some file: Permission denied.\n"


# Standard output --------------------------------------------------------------------------------------------------


PLAN = ("plan", "--layers", "3", "--width", "8", "--no-calibrate")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device here")
@pytest.mark.parametrize("broken", ["full", "closed", "pipe"])
def test_a_command_goes_on_where_standard_error_cannot_be_written(broken: str, tmp_path: Path) -> None:
    network = ("--layers", "1", "--width", "4", "--batch", "64", "--no-calibrate", "--json")
    with contextlib.ExitStack() as open_files:
        if broken == "pipe":
            reader, writer = os.pipe()
            os.close(reader)
            options: dict[str, object] = {"stderr": open_files.enter_context(os.fdopen(writer, "w"))}
        elif broken == "full":
            options = {"stderr": open_files.enter_context(open("/dev/full", "w"))}
        else:
            options = {"preexec_fn": lambda: os.close(2)}
        flags = ("--data", "digits", "--epochs", "2", "--save", str(tmp_path / "run"))
        trained = run("train", *flags, *network, stdout=subprocess.PIPE, **options)
        profiled = run("profile", "--steps", "1", "--budget", "1KiB", *network, stdout=subprocess.PIPE, **options)
        refused = run("train", "--no-such-flag", stdout=subprocess.PIPE, **options)
    assert (trained.returncode, json.loads(trained.stdout)["epochs_done"]) == (0, 2)
    assert (profiled.returncode, len(json.loads(profiled.stdout)["rows"])) == (0, 2)
    assert (refused.returncode, refused.stdout) == (2, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device here")
@pytest.mark.parametrize("arguments", [PLAN, ("--help",), ("plan", "--help"), ("--version",)], ids=" ".join)
def test_a_full_standard_output_is_one_line(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = run(*arguments, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == "lowmem: the standard output cannot be written: No space left on device.\n"


def test_a_closed_standard_output_is_one_line() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = f"{sys.executable} -m lowmem {' '.join(PLAN)} >&-"
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("lowmem: the standard output is closed")
    done = subprocess.run(
        f"{command[:-3]}2>&-", shell=True, env=environment, capture_output=True, text=True, check=True
    )
    assert "peak, promised" in done.stdout


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
def test_letters_that_the_output_lacks_become_ascii(encoding: str) -> None:
    done = run(*PLAN, env={"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "-------" in done.stdout


# What commands write ----------------------------------------------------------------------------------------------


def test_a_figure_on_a_full_disk_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lowmem.cli.outputs.write_all", full)
    path = tmp_path / "figure.svg"
    flags = ["--layers", "4", "--width", "8", "--no-calibrate", "--budget", "90%"]
    assert main(["compare", *flags, "--plot", str(path)]) == 1
    assert (
        capsys.readouterr().err == f"lowmem: {path} cannot be written: No space left on device. No file was written.\n"
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["compare", "--no-calibrate", "--plot"], "figure.xlsx"),
        (["compare", "--no-calibrate", "--plot"], "figure"),
        (["profile", "--plot"], "figure.gif"),
        (["profile", "--html"], "page.docx"),
        (["predict", "run", "--data", "digits", "--output"], "classes.xlsx"),
        (["predict", "run", "--data", "digits", "--output"], "classes.parquet"),
    ],
)
def test_formats_that_are_none_are_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], name: str
) -> None:
    assert main([*arguments, str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert f"cannot be written as '{name}', whose ending is none of: ." in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_calibrate_measures_nothing_that_cannot_be_stored(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOWMEM_CACHE_DIR", str(tmp_path / "file" / "folder"))
    assert main(["calibrate"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "nothing was measured, as the measurement cannot be stored in" in err
    assert "Set LOWMEM_CACHE_DIR to a folder that can be written." in err
    assert err.count("\n") == 1


def test_calibrate_says_that_its_measurement_can_no_longer_be_stored(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWMEM_CACHE_DIR", str(tmp_path))
    cache_path("float32").mkdir()  # in place of the file that plans read
    assert main(["calibrate"]) == 1
    out, err = capsys.readouterr()
    assert "GFLOP/s" in out
    assert f"the measurement cannot be stored in {str(cache_path('float32'))!r}" in err


# Pages of large files ----------------------------------------------------------------------------------------------


def in_cache(path: Path) -> int:
    """Return the bytes of a file that are in the page cache."""
    with path.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as pages:
        libc = ctypes.CDLL(None)
        count = len(pages) // mmap.PAGESIZE
        found = (ctypes.c_ubyte * (count + 1))()
        start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        if libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(len(pages)), found):
            pytest.skip("this system does not tell which pages are in memory")
        return sum(one & 1 for one in found[:count]) * mmap.PAGESIZE


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="pages cannot be dropped here")
def test_a_large_file_leaves_no_pages_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, block = tmp_path / "large", memoryview(b"x" * (1 << 20))
    size, most = 6 * PIECE, 0
    with replacing(path) as (stream,):
        for _ in range(size // len(block)):
            write_all(stream, block)
            (part,) = (other for other in tmp_path.iterdir() if other.name != "large")
            most = max(most, in_cache(part))
    if most < PIECE:
        pytest.skip("files of this folder have no pages in memory")
    assert most <= 3 * PIECE
    assert in_cache(path) == 0
    buffer = bytearray(len(block))
    for many in (True, False):
        monkeypatch.setattr(passing, "are_many", lambda size, many=many: many)
        with PassingFile(path) as stream:
            while stream.readinto(memoryview(buffer)):
                assert bytes(buffer) == bytes(block)
                assert not many or in_cache(path) <= 3 * PIECE
        assert (in_cache(path) == 0) == many


def test_pages_are_many_for_a_group_of_little_memory_alone(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup/some"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/some\n")
    for limit, many in (("max\n", False), (f"{20 * PIECE}\n", False), (f"{10 * PIECE}\n", True)):
        (group / "memory.max").write_text(limit)
        assert passing.are_many(3 * PIECE, tmp_path) == many
