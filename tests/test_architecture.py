"""`Architecture`: what it accepts, what it counts."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowmem.common.checks import lookup
from lowmem.errors import InputError, UnknownNameError
from lowmem.network.architecture import Architecture
from lowmem.network.specs import ACTIVATIONS, ITEM_BYTES, LOSSES

networks = st.builds(
    Architecture,
    widths=st.lists(st.integers(1, 50), min_size=2, max_size=8).map(tuple),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    loss=st.sampled_from(sorted(LOSSES)),
    dtype=st.sampled_from(sorted(ITEM_BYTES)),
)


def test_defaults_and_sizes() -> None:
    arch = Architecture((64, 256, 256, 10))
    assert (arch.activation, arch.loss, arch.dtype, arch.item_bytes) == ("relu", "cross_entropy", "float32", 4)
    assert arch.layers == 3
    assert [arch.layer_parameters(layer) for layer in (1, 2, 3)] == [65 * 256, 257 * 256, 257 * 10]
    assert arch.parameters == 65 * 256 + 257 * 256 + 257 * 10
    assert arch.activation_facts is ACTIVATIONS["relu"]
    assert arch.loss_facts is LOSSES["cross_entropy"]


@pytest.mark.parametrize("widths", [[3, 4, 2], range(2, 5), np.array([3, 4, 2]), (np.int64(3), np.uint8(4))])
def test_any_sequence_of_whole_numbers_becomes_a_tuple_of_ints(widths: object) -> None:
    arch = Architecture(widths)  # type: ignore[arg-type]
    assert isinstance(arch.widths, tuple)
    assert {type(width) for width in arch.widths} == {int}


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype(np.float32)])
def test_dtypes_become_their_name(dtype: object) -> None:
    assert Architecture((1, 1), dtype=dtype).dtype == "float32"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("widths", "reason"),
    [
        (7, r"got 7\."),
        (None, r"got None\."),
        ((), r"got \(\)\."),
        ((5,), r"got \(5,\)\."),
        ((5, 0), r"widths\[1\] is 0\."),
        ((-1, 5), r"widths\[0\] is -1\."),
        ((5, 2.0), r"widths\[1\] is 2\.0\."),
        ((5, True), r"widths\[1\] is True\."),
        ((5, "6"), r"widths\[1\] is '6'\."),
        ("ab", r"got 'ab'\."),
        (b"ab", r"got b'ab'\."),
        ({64, 256, 10}, r"got \{"),
        ({64: 1, 10: 2}, r"got \{"),
    ],
)
def test_other_widths_are_refused(widths: object, reason: str) -> None:
    with pytest.raises(InputError, match=rf"widths needs at least two positive whole numbers, .*; {reason}"):
        Architecture(widths)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "name", "message"),
    [
        ("activation", "rellu", r"unknown activation 'rellu'\. Did you mean 'relu'\?"),
        ("activation", ["relu"], r"unknown activation \['relu'\]\."),
        ("loss", "cross-entropy", r"unknown loss .* Did you mean 'cross_entropy'\?"),
        (
            "dtype",
            "float16",
            r"unknown dtype 'float16'\. Did you mean 'float(32|64)'\?",
        ),
        ("dtype", int, r"unknown dtype 'int'\."),
    ],
)
def test_unknown_names_come_with_the_nearest(field: str, name: object, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        dataclasses.replace(Architecture((2, 2)), **{field: name})  # type: ignore[arg-type]


def test_lookup_finds_what_is_there() -> None:
    assert lookup("dtype", "float64", ITEM_BYTES) == 8


def test_flops_counted_by_hand() -> None:
    relu = Architecture((3, 4, 2), loss="mse")
    # Layer 1: product 2*3*4, bias 4, relu 4. Layer 2: product 2*4*2, bias 2, no σ.
    assert [relu.forward_flops(layer, 5) for layer in (1, 2)] == [5 * (24 + 4 + 4), 5 * (16 + 2)]
    # Layer 2: two products of 16, gradient of the bias 2*2, relu's slope 2*4. Layer 1: one product, 2*4.
    assert [relu.backward_flops(layer, 5) for layer in (1, 2)] == [5 * (24 + 8), 5 * (16 + 4 + 16 + 8)]
    assert relu.loss_flops(5) == 5 * 4 * 2


def test_layers_that_keep_s_make_x_again() -> None:
    gelu = Architecture((3, 4, 2), activation="gelu")
    value, slope = 4 * ACTIVATIONS["gelu"].value_flops, 4 * ACTIVATIONS["gelu"].slope_flops
    # σ(s^(1)) is made on the way into layer 2, and once more, with the slope, in its backward.
    assert [gelu.forward_flops(layer, 1) for layer in (1, 2)] == [24 + 4, 16 + 2 + value]
    assert gelu.backward_flops(2, 1) == 16 + 4 + 16 + slope


@given(networks, st.integers(1, 100))
def test_costs_are_proportional_to_rows_and_no_layer_is_free(arch: Architecture, rows: int) -> None:
    for layer in range(1, arch.layers + 1):
        assert arch.forward_flops(layer, rows) == rows * arch.forward_flops(layer, 1) > 0
        assert arch.backward_flops(layer, rows) == rows * arch.backward_flops(layer, 1) > 0
    assert arch.loss_flops(rows) == rows * arch.loss_flops(1)


@given(networks)
def test_architectures_compare_and_hash_by_value(arch: Architecture) -> None:
    twin = Architecture(list(arch.widths), arch.activation, arch.loss, arch.dtype)  # type: ignore[arg-type]
    assert twin == arch
    assert hash(twin) == hash(arch)


def test_backward_costs_about_twice_the_forward() -> None:
    arch = Architecture((256,) * 21, loss="mse")
    forward = sum(arch.forward_flops(layer, 1) for layer in range(1, 21))
    backward = sum(arch.backward_flops(layer, 1) for layer in range(1, 21))
    assert backward / forward == pytest.approx(2, rel=0.05)


def test_runs_of_equal_widths_are_folded_in_text() -> None:
    assert str(Architecture((64, *[256] * 100, 10))) == (
        "101 layers (64, 256 x 100, 10), relu, cross_entropy, float32, 6,532,618 parameters"
    )
    assert "(1, 2, 3, 4, ..., 17, 18, 19, 20)" in str(Architecture(tuple(range(1, 21))))
