"""The structs of src/lowmem_native.h, field by field. `library` compares their sizes with the compiled ones."""

from ctypes import Structure, c_double, c_int32, c_int64, c_uint64, c_void_p
from typing import Any, ClassVar

import numpy as np

Fields = list[tuple[str, Any]]


def _fields(kind: Any, names: str) -> Fields:  # noqa: ANN401 - ctypes' simple types have no common one
    return [(name, kind) for name in names.split()]


class Op(Structure):
    """One op: kind, layers first..last, byte offsets in a lane's arena."""

    _fields_: ClassVar[Fields] = [
        *_fields(c_int32, "kind first last unused"),
        *_fields(c_int64, "source target scratch"),
    ]


class Layer(Structure):
    """One layer: widths, kinds, and where its parameters begin."""

    _fields_: ClassVar[Fields] = [
        *_fields(c_int32, "entering leaving preactivation is_first is_last activation norm branch"),
        *_fields(c_int64, "weight bias gain shift scale running_mean running_variance statistics whole"),
        *_fields(c_double, "factor dropout"),
    ]


class Blas(Structure):
    """Addresses of the products of NumPy's BLAS."""

    _fields_: ClassVar[Fields] = [
        *_fields(c_void_p, "sgemm dgemm"),
        *_fields(c_int32, "wide unused"),
    ]


class UpdateRule(Structure):
    """An optimizer's rule and numbers for one step."""

    _fields_: ClassVar[Fields] = [
        *_fields(c_int32, "rule unused"),
        *_fields(c_double, "lr weight_decay penalty momentum beta1 beta2 epsilon correction1 correction2 clip factor"),
    ]


class EngineStruct(Structure):
    """A bound network and the pass that it runs next."""

    _fields_: ClassVar[Fields] = [
        *_fields(c_void_p, "blas pool layers ops parameters running gradients lane_gradients"),
        ("states", c_void_p * 4),
        *_fields(c_void_p, "arena vectors statistics seen losses squares"),
        *_fields(c_int64, "layer_count op_count lane_arena lane_gradient vectors_each each tile"),
        *_fields(c_int32, "item lanes loss update"),
        ("loss_parameter", c_double),
        ("rule", UpdateRule),
        ("seed", c_uint64),
        *_fields(c_void_p, "x y w"),
        *_fields(c_int64, "rows first_row step"),
        *_fields(c_int32, "label_bytes accumulate last status"),
        *_fields(c_double, "scale loss_total"),
        ("products", c_void_p),
    ]


IN_ORDER = (EngineStruct, Layer, Op, UpdateRule, Blas)
"""As `lm_sizes` gives their sizes."""

LAYER, OP = np.dtype(Layer), np.dtype(Op)
"""Of records in arrays; made once, as a Ctrl-C while NumPy makes them would end in a dtype of objects."""
