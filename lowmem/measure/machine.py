"""What a machine gives to training, looked up and measured in about two seconds: what a bug report needs.

Nothing here tells who or where one is: no host's name, no user's, no path.
"""

import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO

import numpy as np

from lowmem import __version__
from lowmem.measure.calibration import age, processor, usable_cores
from lowmem.measure.ram import control_groups, found_limit, lines_of
from lowmem.network.specs import ITEM_BYTES

PACKAGES = (
    *("numpy", "psutil", "rich", "matplotlib", "platformdirs", "threadpoolctl", "shtab"),
    *("pyarrow", "scikit-learn", "onnx", "onnxruntime", "torch"),
)
"""What lowmem uses, what belongs to an extra last."""

THREAD_LIMITS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")

DISK_BYTES = 64 << 20
COPY_BYTES = 64 << 20
BLOCK = 1 << 20
SECONDS = 0.3
"""How long each speed is measured, after one call to warm up."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes a second written (brought to the disk) and read in a folder, or what is in the way."""

    write: float | None = None
    read: float | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found.

    cores: in the machine. usable: those this process may run on. quota: cores' worth of time a control group grants.
    blas: what each BLAS library says of itself. threads: limits set in the environment.
    memory, available, limit: bytes; limit_source: where the limit comes from.
    calibrated: for each dtype the age in seconds of the cost model kept, None without one for this machine.
    products: FLOPs a second of a square matrix product, by dtype. copying: bytes a second, read and written.
    packages: versions, None where one is not installed.
    """

    lowmem: str
    python: str
    system: str
    processor: str
    cores: int
    usable: int
    quota: float | None
    blas: list[dict[str, Any]]
    threads: dict[str, str]
    memory: int
    available: int
    limit: int
    limit_source: str
    calibrated: dict[str, float | None]
    products: dict[str, float]
    copying: float
    disk: Disk
    packages: dict[str, str | None]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return asdict(self)


def examine(folder: Path) -> Machine:
    """Look around, and measure. folder: where the disk is tried; nothing stays there."""
    import psutil

    memory, limit = psutil.virtual_memory(), found_limit()
    system = platform.system(), platform.release(), platform.machine()
    return Machine(
        lowmem=__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        system=" ".join(filter(None, (*system, *platform.libc_ver()))),
        processor=processor(),
        cores=os.cpu_count() or 1,
        usable=usable_cores(),
        quota=core_quota(),
        blas=_blas(),
        threads={name: os.environ[name] for name in THREAD_LIMITS if name in os.environ},
        memory=int(memory.total),
        available=int(memory.available),
        limit=limit.bytes,
        limit_source=limit.source,
        calibrated={dtype: age(dtype) for dtype in ITEM_BYTES},
        products={dtype: product_rate(dtype) for dtype in ITEM_BYTES},
        copying=copy_rate(min(COPY_BYTES, limit.bytes // 16)),
        disk=disk_rates(folder),
        packages={name: _version(name) for name in PACKAGES},
    )


def core_quota(root: Path = Path("/")) -> float | None:
    """Return how many cores' worth of time control groups grant, None for no limit. root: of the system, for tests."""
    quotas = []
    for group, folder in control_groups("cpu", root):
        if group == 2:
            words = " ".join(lines_of(folder / "cpu.max")).split()
        else:
            words = [*lines_of(folder / "cpu.cfs_quota_us"), *lines_of(folder / "cpu.cfs_period_us")]
        if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def _blas() -> list[dict[str, Any]]:
    """Return what the loaded BLAS libraries say, without where they lie."""
    from threadpoolctl import threadpool_info

    np.matmul(np.ones((2, 2)), np.ones((2, 2)))  # loads it, where it is loaded late
    found = [library for library in threadpool_info() if library["user_api"] == "blas"]
    names = ("internal_api", "version", "architecture", "threading_layer", "num_threads")
    return [{name: library[name] for name in names if library.get(name) is not None} for library in found]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def product_rate(dtype: str) -> float:
    """Return the most FLOPs a second of square products, up to 1024 wide where that is over in a moment."""
    rate = 0.0
    for width in (256, 512, 1024):
        if rate and 2 * width**3 > rate * SECONDS:
            break
        a, out = np.ones((width, width), dtype), np.empty((width, width), dtype)
        rate = max(rate, 2 * width**3 / _least_seconds(partial(np.matmul, a, a, out)))
    return rate


def copy_rate(size: int) -> float:
    """Return the bytes a second, those read and those written, at which an array of `size` bytes is copied."""
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    return 2 * size / _least_seconds(partial(np.copyto, target, source))


def _least_seconds(call: Callable[[], Any]) -> float:
    """Return the least time of a call: the others are the neighbours'."""
    call()
    times: list[float] = []
    while len(times) < 2 or sum(times) < SECONDS:
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return min(times)


def disk_rates(folder: Path, size: int = DISK_BYTES) -> Disk:
    """Write a file to the disk and read it back. It has no name where the system allows that, so nothing can stay."""
    block = np.random.default_rng(0).bytes(BLOCK)  # which no file system makes smaller
    try:
        with tempfile.TemporaryFile(dir=folder, prefix="lowmem-doctor-", buffering=0) as stream:
            written = _timed(_write, stream, block, size)
            if hasattr(os, "posix_fadvise"):  # else what is read would come from memory
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            read = _timed(_read, stream)
    except OSError as problem:
        return Disk(problem=f"{size >> 20} MiB cannot be written to the current folder: {problem.strerror or problem}")
    return Disk(write=size / written, read=size / read)


def _timed(call: Callable[..., None], *arguments: Any) -> float:  # noqa: ANN401 - whatever the call takes
    start = perf_counter()
    call(*arguments)
    return perf_counter() - start


def _write(stream: BinaryIO, block: bytes, size: int) -> None:
    """Write `size` bytes and bring them to the disk."""
    for _ in range(0, size, len(block)):
        rest = memoryview(block)
        while rest:
            rest = rest[stream.write(rest) :]
    os.fsync(stream.fileno())


def _read(stream: BinaryIO) -> None:
    """Read a file from its start."""
    stream.seek(0)
    while stream.read(BLOCK):
        pass
