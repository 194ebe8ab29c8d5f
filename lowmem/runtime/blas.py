"""NumPy's BLAS, found by its symbols: its products, and the number of its threads.

NumPy's wheels carry OpenBLAS under names of their own, other builds have other names, and none of them is promised. So
names are probed, with the width of the integers that each takes.
"""

import ctypes
from collections.abc import Callable
from ctypes import CDLL, CFUNCTYPE, c_int, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

SYMBOLS = (
    # products, threads, whether integers have 64 bits
    ("scipy_cblas_{}gemm64_", "scipy_openblas_{}_num_threads64_", True),
    ("cblas_{}gemm64_", "openblas_{}_num_threads64_", True),
    ("scipy_cblas_{}gemm", "scipy_openblas_{}_num_threads", False),
    ("cblas_{}gemm", "openblas_{}_num_threads", False),
)
"""Names in NumPy's wheels, in builds with 64-bit integers, and in Linux distributions and conda."""


@dataclass(frozen=True, slots=True)
class Blas:
    """Addresses of a BLAS library's functions.

    sgemm, dgemm: products of both types, by the interface of CBLAS. get_threads, set_threads: int () and void (int),
    for the whole process. wide: whether integers have 64 bits.
    """

    sgemm: int
    dgemm: int
    get_threads: int
    set_threads: int
    wide: bool

    def threads(self) -> int:
        """Return how many threads a product may use."""
        return int(_thread_functions(self)[0]())

    def use_threads(self, count: int) -> None:
        """Let products use `count` threads from now on, whichever thread calls them."""
        _thread_functions(self)[1](count)


@cache
def _thread_functions(blas: Blas) -> tuple[Callable[[], int], Callable[[int], None]]:
    """Return what reads and what sets the number of threads."""
    return CFUNCTYPE(c_int)(blas.get_threads), CFUNCTYPE(None, c_int)(blas.set_threads)


@cache
def numpy_blas() -> Blas | None:
    """Return NumPy's BLAS, or None where its functions have none of the known names."""
    for path in _files():
        library = CDLL(path)  # it is loaded already: this only counts one user more
        for products, threads, wide in SYMBOLS:
            names = [products.format("s"), products.format("d"), threads.format("get"), threads.format("set")]
            if all(hasattr(library, name) for name in names):
                addresses = [ctypes.cast(getattr(library, name), c_void_p).value or 0 for name in names]
                sgemm, dgemm, get_threads, set_threads = addresses
                return Blas(sgemm, dgemm, get_threads, set_threads, wide)
    return None


def _files() -> list[str]:
    """Return the files of the BLAS libraries in this process, NumPy's own first."""
    from threadpoolctl import threadpool_info

    np.matmul(np.ones((2, 2)), np.ones((2, 2)))  # loads it, where it is loaded late
    files = [str(pool["filepath"]) for pool in threadpool_info() if pool["user_api"] == "blas"]
    home = str(Path(np.__file__).resolve().parent)
    return sorted(files, key=lambda file: not file.startswith(home))
