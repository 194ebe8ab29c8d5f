"""How many cores this process may use: by its affinity, its cgroup's quota and the environment. No NumPy."""

import os
from collections.abc import Iterator
from math import ceil
from pathlib import Path, PurePosixPath

VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What users set to limit the threads of BLAS; lanes obey it as well."""


def cores(root: Path = Path("/")) -> int:
    """Return the cores that this process may use, at least 1.

    That is the least of: those it may run on, those worth of time that its cgroups grant (rounded up), and the first
    of `VARIABLES` that is set. root: where the system's files are, for tests.
    """
    limits = [usable_cores()]
    quota = core_quota(root)
    if quota is not None:
        limits.append(ceil(quota))
    limits += [int(os.environ[name]) for name in VARIABLES if os.environ.get(name, "").isdecimal()][:1]
    return max(min(limits), 1)


def usable_cores() -> int:
    """Return the cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def cache_bytes(root: Path = Path("/")) -> int:
    """Return the bytes of a core's second cache, the largest that others hardly use; 1 MiB if the system is silent."""
    for folder in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*"):
        level, size = (" ".join(lines_of(folder / name)) for name in ("level", "size"))
        if level == "2" and size.endswith("K") and size[:-1].isdecimal():
            return int(size[:-1]) << 10
    return 1 << 20


def core_quota(root: Path = Path("/")) -> float | None:
    """Return how many cores' worth of time the cgroups of this process grant, None for no limit."""
    quotas = []
    for version, folder in cgroups("cpu", root):
        if version == 2:
            words = " ".join(lines_of(folder / "cpu.max")).split()
        else:
            words = [*lines_of(folder / "cpu.cfs_quota_us"), *lines_of(folder / "cpu.cfs_period_us")]
        if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def cgroups(controller: str, root: Path = Path("/")) -> Iterator[tuple[int, Path]]:
    """Yield version (1 or 2) and folder of the cgroups that this process is in, and of those above them."""
    for line in lines_of(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers == "":
            version, bases = 2, ["sys/fs/cgroup", "sys/fs/cgroup/unified"]
        elif controller in controllers.split(","):
            version, bases = 1, [f"sys/fs/cgroup/{controller}"]
        else:
            continue
        inside = PurePosixPath(group.lstrip("/"))
        # In a container the group's path may be the host's: then its own files lie at the top.
        for folder in (inside, *inside.parents):
            for base in bases:
                yield version, root / base / folder


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file of the system, none if it cannot be read."""
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []
