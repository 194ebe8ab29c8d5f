"""The compiled library, loaded once. NumPy's BLAS is tried for it before it is believed."""

import ctypes
from ctypes import CDLL, POINTER, c_char_p, c_double, c_float, c_int32, c_int64, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from lowmem.planning.engines.choice import LIBRARY, note_unusable
from lowmem.runtime.blas import Blas, numpy_blas
from lowmem.runtime.engines.native import structs

INTERFACE = 4
"""Of src/lowmem_native.h."""


@dataclass(frozen=True, slots=True)
class Library:
    """The loaded library.

    functions: its doors, see src/lowmem_native.h. blas: NumPy's products for it. simd: which instructions it uses.
    """

    functions: CDLL
    blas: structs.Blas
    simd: str


class UnusableError(Exception):
    """Why the compiled engine cannot be used here, as the end of a sentence."""


def load() -> Library:
    """Return the library. Raises `UnusableError`; plans made from then on name the NumPy engine."""
    found = _attempt()
    if isinstance(found, str):
        note_unusable(found)
        raise UnusableError(found)
    return found


@cache
def _attempt() -> Library | str:
    if not LIBRARY.exists():
        return "it was not compiled when lowmem was installed (no C compiler, or LOWMEM_BUILD=forbid)"
    try:
        functions = CDLL(str(LIBRARY))
        _declare(functions)
    except (OSError, AttributeError) as problem:
        return f"{LIBRARY.name} cannot be loaded: {problem}"
    sizes = (c_int64 * len(structs.IN_ORDER))()
    functions.lm_sizes(sizes)
    if functions.lm_interface() != INTERFACE or list(sizes) != [ctypes.sizeof(struct) for struct in structs.IN_ORDER]:
        return f"{LIBRARY.name} was compiled for another version of lowmem; install lowmem again"
    blas = numpy_blas()
    if blas is None:
        return "NumPy's BLAS has none of the product functions that are known"
    if not _products_agree(blas):
        return "products by NumPy's BLAS, called directly, differ from NumPy's own"
    return Library(functions, structs.Blas(blas.sgemm, blas.dgemm, int(blas.wide), 0), functions.lm_simd().decode())


def _declare(functions: CDLL) -> None:
    """Tell ctypes what the doors take and return."""
    engine = POINTER(structs.EngineStruct)
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "lm_pool_new": (c_void_p, (c_int32,)),
        "lm_pool_end": (None, (c_void_p,)),
        "lm_run": (c_int32, (engine, c_int64, c_int64)),
        "lm_forward": (None, (engine, c_void_p, c_void_p, c_int64, c_void_p, c_int64)),
        "lm_loss": (c_double, (engine, c_void_p, c_int64)),
        "lm_squares": (c_double, (engine, c_int64)),
        "lm_update_all": (None, (engine, c_int64)),
        "lm_update_part": (None, (engine, c_int64)),
        "lm_checksum": (c_uint64, (c_void_p, c_int64, c_uint64)),
        "lm_interface": (c_int32, ()),
        "lm_sizes": (None, (POINTER(c_int64),)),
        "lm_simd": (c_char_p, ()),
        "lm_activation_values": (None, (c_int32, c_int32, c_void_p, c_void_p, c_void_p, c_int64)),
        "lm_uniform": (None, (c_int32, c_uint64, c_int64, c_int64, c_int64, c_void_p, c_int64)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(functions, name)
        function.restype, function.argtypes = result, arguments


def _products_agree(blas: Blas) -> bool:
    """Compare products of some shapes, as they are and transposed, with NumPy's."""
    for dtype, address, number in ((np.float32, blas.sgemm, c_float), (np.float64, blas.dgemm, c_double)):
        integer = c_int64 if blas.wide else c_int32
        types = (
            [c_int32] * 3 + [integer] * 3 + [number, c_void_p, integer, c_void_p, integer, number, c_void_p, integer]
        )
        gemm = ctypes.CFUNCTYPE(None, *types)(address)
        for m, n, k in ((3, 5, 7), (33, 17, 64), (128, 96, 40)):
            a, b = (np.sin(np.arange(p * q, dtype=dtype)).reshape(p, q) for p, q in ((m, k), (k, n)))
            expected = np.matmul(a, b)
            for left, right, x, y in ((111, 111, a, b), (112, 112, a.T.copy(), b.T.copy())):
                out = np.full((m, n), np.nan, dtype)
                arguments = (x.ctypes.data, x.shape[1], y.ctypes.data, y.shape[1], 0.0, out.ctypes.data, n)
                gemm(101, left, right, m, n, k, 1.0, *arguments)
                if not np.allclose(out, expected, rtol=1e-4, atol=1e-4):
                    return False
    return True
