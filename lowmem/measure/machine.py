"""What a bug report needs to know of a machine: libraries, limits and speeds, looked up and measured in two seconds.

Nothing here identifies the user: no host name, no user name, no path.
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
from lowmem.common.cores import VARIABLES, core_quota, usable_cores
from lowmem.measure.calibration import age, processor
from lowmem.measure.ram import machine_limit
from lowmem.network.specs import ITEM_BYTES

PACKAGES = (
    *("numpy", "psutil", "rich", "matplotlib", "platformdirs", "threadpoolctl", "shtab"),
    *("pyarrow", "scikit-learn", "onnx", "onnxruntime", "torch", "mpi4py"),
)
"""Packages that lowmem uses; the second line are those of its extras."""

DISK_BYTES = 64 << 20
COPY_BYTES = 64 << 20
BLOCK = 1 << 20
SECONDS = 0.3
"""Seconds for which each speed is measured, after one call to warm up."""


@dataclass(frozen=True, slots=True)
class Disk:
    """The speed of the disk that a folder is on.

    write: bytes a second, until they are on the disk itself; None if that could not be measured.
    read: bytes a second; None if that could not be measured.
    problem: why nothing was measured.
    """

    write: float | None = None
    read: float | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What a bug report needs to know of a machine.

    lowmem, python, system, processor: names and versions.
    cores: cores of the machine.
    usable: cores that this process may run on.
    quota: how many cores' worth of time a cgroup grants; None without such a limit.
    engine, engine_note: which engine is chosen, and its instructions or why it is not the compiled one.
    blas: what each loaded BLAS library says of itself.
    threads: limits of threads that are set in the environment, by variable.
    memory: bytes of the machine.
    available: bytes that could be allocated now without swapping.
    limit: bytes that `ram="auto"` lets the process hold.
    limit_source: what sets that limit.
    calibrated: by dtype, the age in seconds of the stored cost model; None if there is none for this machine.
    products: by dtype, FLOPs a second of a square matrix product.
    copying: bytes a second that are read and written while an array is copied.
    disk: the speed of the disk that the current folder is on.
    packages: by name, the version; None where the package is not installed.
    mpi: the MPI library of several ranks; None without mpi4py.
    """

    lowmem: str
    python: str
    system: str
    processor: str
    cores: int
    usable: int
    quota: float | None
    engine: str
    engine_note: str
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
    mpi: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def examine(folder: Path) -> Machine:
    """Look the machine up, and measure its speeds.

    folder: where a file is written and read to measure the disk; the file is removed.
    """
    import psutil

    memory, limit = psutil.virtual_memory(), machine_limit()
    system = platform.system(), platform.release(), platform.machine()
    return Machine(
        lowmem=__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        system=" ".join(filter(None, (*system, *platform.libc_ver()))),
        processor=processor(),
        cores=os.cpu_count() or 1,
        usable=usable_cores(),
        quota=core_quota(),
        **_engine(),
        blas=_blas(),
        threads={name: os.environ[name] for name in VARIABLES if name in os.environ},
        memory=int(memory.total),
        available=int(memory.available),
        limit=limit.bytes,
        limit_source=limit.source,
        calibrated={dtype: age(dtype) for dtype in ITEM_BYTES},
        products={dtype: product_rate(dtype) for dtype in ITEM_BYTES},
        copying=copy_rate(min(COPY_BYTES, limit.bytes // 16)),
        disk=disk_rates(folder),
        packages={name: _version(name) for name in PACKAGES},
        mpi=mpi_library(),
    )


def mpi_library() -> str | None:
    """Return name and version of the MPI library that ranks use here, or why there is none; None without mpi4py."""
    if _version("mpi4py") is None:
        return None
    try:
        import mpi4py

        mpi4py.rc.initialize = False  # the library is only asked for its name
        from mpi4py import MPI
    except (ImportError, RuntimeError) as problem:
        return f"none can be loaded: {problem}"
    lines = MPI.Get_library_version().replace("\0", "").splitlines()
    return " ".join(lines[0].split()) if lines else "of no name"


def _engine() -> dict[str, str]:
    """Return which engine is chosen here, and its instructions or why it is not the compiled one."""
    if os.environ.get("LOWMEM_ENGINE") == "numpy":
        return {"engine": "numpy", "engine_note": "LOWMEM_ENGINE=numpy asks for it"}
    from lowmem.runtime.engines.native.library import UnusableError, load

    try:
        return {"engine": "native", "engine_note": f"compiled, {load().simd} kernels, products by NumPy's BLAS"}
    except UnusableError as reason:
        return {"engine": "numpy", "engine_note": f"the compiled engine is not used: {reason}"}


def _blas() -> list[dict[str, Any]]:
    """Return what the loaded BLAS libraries say of themselves, but not their paths."""
    from threadpoolctl import threadpool_info

    np.matmul(np.ones((2, 2)), np.ones((2, 2)))  # some systems load the library at the first product
    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    names = ("internal_api", "version", "architecture", "threading_layer", "num_threads")
    return [{name: library[name] for name in names if library.get(name) is not None} for library in libraries]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def product_rate(dtype: str) -> float:
    """Return the most FLOPs a second that square matrix products reach.

    The widths 256, 512 and 1024 are tried, unless a product would take longer than `SECONDS`.
    """
    rate = 0.0
    for width in (256, 512, 1024):
        if rate and 2 * width**3 > rate * SECONDS:
            break
        a, out = np.ones((width, width), dtype), np.empty((width, width), dtype)
        rate = max(rate, 2 * width**3 / _least_seconds(partial(np.matmul, a, a, out)))
    return rate


def copy_rate(size: int) -> float:
    """Return the bytes that are read and written in a second while an array of `size` bytes is copied."""
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    return 2 * size / _least_seconds(partial(np.copyto, target, source))


def _least_seconds(call: Callable[[], Any]) -> float:
    """Return the shortest time of a call in seconds; longer ones come from other processes on the machine."""
    call()
    times: list[float] = []
    while len(times) < 2 or sum(times) < SECONDS:
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return min(times)


def disk_rates(folder: Path, size: int = DISK_BYTES) -> Disk:
    """Write a file of `size` bytes to a folder, read it back, and return the speeds.

    Where the system allows it, the file has no name, so that nothing stays behind however the process ends.
    """
    block = np.random.default_rng(0).bytes(BLOCK)  # random bytes, which no file system can compress
    try:
        with tempfile.TemporaryFile(dir=folder, prefix="lowmem-doctor-", buffering=0) as stream:
            written = _timed(_write, stream, block, size)
            if hasattr(os, "posix_fadvise"):  # without it, the bytes would be read from memory
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
    """Write `size` bytes, and wait until they are on the disk."""
    for _ in range(0, size, len(block)):
        rest = memoryview(block)
        while rest:
            rest = rest[stream.write(rest) :]
    os.fsync(stream.fileno())


def _read(stream: BinaryIO) -> None:
    """Read a whole file from its start."""
    stream.seek(0)
    while stream.read(BLOCK):
        pass
