"""Control groups of memory, in which the page cache of a process counts too."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """Make a control group of so many bytes of memory; skip the test where that is not allowed."""
    import pytest  # takes memory, which processes in a group have little of

    first = Path("/sys/fs/cgroup/memory")
    path = (first if first.is_dir() else Path("/sys/fs/cgroup")) / f"lowmem-test-{os.getpid()}"
    name = "memory.limit_in_bytes" if first.is_dir() else "memory.max"
    try:
        path.mkdir()
        (path / name).write_text(str(limit))
    except OSError as problem:
        if path.is_dir():
            path.rmdir()
        pytest.skip(f"no control group can be made here: {problem}")
    try:
        yield path
    finally:
        path.rmdir()


def times_full(group: Path) -> int:
    """Return how many times a control group was full, so that pages of files had to go."""
    failed = group / "memory.failcnt"
    return int(
        failed.read_text() if failed.exists() else (group / "memory.events").read_text().split("max ")[1].split()[0]
    )


def run_in(group: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of a control group."""
    enter = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs")]
    command = [*enter, sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
