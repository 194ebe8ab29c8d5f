"""Completion scripts: real shells, asked what they would offer."""

import shutil
import subprocess
from pathlib import Path

import pytest

from lowmem.cli.completion import SHELLS
from tests.test_cli import Ran

BASH = """
source "$1"; shift
complete_with=$(complete -p lowmem | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
$complete_with lowmem "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = 'source $argv[1]; complete --do-complete "$argv[2..]"'


def script(capsys: pytest.CaptureFixture[str], folder: Path, shell: str) -> Path:
    """Write a shell's script to a file."""
    ran = Ran(capsys, "completion", shell)
    assert (ran.code, ran.err) == (0, "")
    (folder / shell).write_text(ran.out)
    return folder / shell


def offered(path: Path, *words: str) -> set[str]:
    """Return what a shell offers for the last word."""
    shell = path.name
    start = ["fish", "--no-config", "-c", FISH] if shell == "fish" else ["bash", "--norc", "-c", BASH, "bash"]
    command = [*start, str(path), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=path.parent, check=True)
    return {line.split("\t")[0].strip() for line in done.stdout.splitlines()}


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_commands_flags_names_and_files_are_offered(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shell: str
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    path = script(capsys, tmp_path, shell)
    (tmp_path / "run.safetensors").touch()
    assert offered(path, "lowmem", "pr") == {"predict", "profile"}
    assert {"--batch", "--budget"} <= offered(path, "lowmem", "plan", "--b")
    assert offered(path, "lowmem", "plan", "--activation", "ge") == {"gelu", "gelu_tanh"}
    assert "optimal" in offered(path, "lowmem", "train", "--strategy", "o")
    assert offered(path, "lowmem", "export", "--format", "") == {"onnx", "torch"}
    assert offered(path, "lowmem", "evaluate", "run") == {"run.safetensors"}
    assert offered(path, "lowmem", "completion", "") >= set(SHELLS)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_can_read_its_script(capsys: pytest.CaptureFixture[str], tmp_path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    subprocess.run([shell, "-n", str(script(capsys, tmp_path, shell))], check=True)


def test_zsh_takes_its_script_for_a_completion(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("no zsh here")
    text = script(capsys, tmp_path, "zsh").read_text()
    (tmp_path / "_lowmem").write_text(text)
    begin, end = "autoload -Uz compinit && compinit -D -u", "print $_comps[lowmem]"
    for code in (f"fpath=($1 $fpath); {begin}; {end}", f'{begin}; eval "$(<$1/_lowmem)"; {end}'):
        command = ["zsh", "-f", "-c", code, "zsh", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip() in ("_lowmem", "_shtab_lowmem")


def test_an_unknown_shell_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "completion", "zhs")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "lowmem: unknown shell 'zhs'. Did you mean 'zsh'? Known: bash, fish, zsh.\n"
