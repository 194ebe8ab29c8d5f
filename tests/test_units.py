"""Byte sizes: what people write is read, and what is written can be read back."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lowmem.errors import InputError
from lowmem.planning.budget import percent_of
from lowmem.training.callbacks.saves import read_interval
from lowmem.units import (
    ceil_bytes,
    format_bytes,
    format_count,
    format_loss,
    format_seconds,
    parse_bytes,
    parse_seconds,
    times,
    units_of,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24MiB", 24 * 1024**2),
        ("24MB", 24_000_000),
        ("1.5 GiB", 3 * 2**29),
        (" .5kib ", 512),
        ("2.KB", 2000),
        ("1TiB", 2**40),
        ("1 tb", 10**12),
        ("100", 100),
        ("100B", 100),
        ("1.9B", 1),
        ("32.3MB", 32_300_000),  # 32.3 * 10**6 is a byte less in floats
        ("1." + "0" * 5000 + "GB", 10**9),
        (12345, 12345),
    ],
)
def test_sizes_are_read(text: int | str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "12 parsecs", "12Mi", "-3MiB", "1e3", "1,000", "24MiB of activations"])
def test_text_that_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match=r'cannot read .* as a size in bytes\. Write one such as 25165824, "24MiB"'):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["٣MiB", "1.٣ MB", "３"])
def test_digits_of_other_scripts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="cannot read"):
        parse_bytes(text)
    with pytest.raises(InputError, match="neither a number of steps"):
        read_interval(text.replace("MiB", "s").replace("MB", "min"))


@pytest.mark.parametrize("size", [True, None, 1.5, b"24MiB"])
def test_other_types_are_refused(size: object) -> None:
    with pytest.raises(InputError, match=r"a size in bytes was expected, such as .*; got "):
        parse_bytes(size)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -1, "0", "0.0MiB", "0.4B"])
def test_sizes_below_one_byte_are_refused(size: int | str) -> None:
    with pytest.raises(InputError, match=r"must be positive, .*; got "):
        parse_bytes(size)


@given(st.integers(1, 2**50))
def test_a_rounded_up_size_reads_back_as_enough(size: int) -> None:
    read = parse_bytes(ceil_bytes(size))
    # One decimal: within 1 % from 10 KiB on, a tenth of a KiB below, and exact below 1 KiB.
    slack = size // 100 + 1 if size >= 10 * 1024 else 103 if size >= 1024 else 0
    assert size <= read <= size + slack


@given(st.integers(1, 2**50), st.sampled_from(["1MB", "1MiB"]))
def test_a_rounded_up_size_is_enough_in_units_of_a_thousand_too(size: int, unit: str) -> None:
    with units_of(unit):
        assert size <= parse_bytes(ceil_bytes(size))
    with units_of(unit):  # sizes that have one decimal
        assert parse_bytes(f"{size / 10:.1f}{unit[1:]}") == size * parse_bytes(unit) // 10


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("29", 2900),
        ("0.29", 29),
        (" 1e2 ", 10_000),
        ("+.5", 50),
        ("1_0.2_5", 1025),
        ("2.9E-1", 29),
        ("0", 0),
        ("1e-9", 0),
    ],
)
def test_a_number_in_text_times_a_whole_one_is_exact(number: str, expected: int) -> None:
    assert times(number, 100) == expected


@example((1856, 3200))  # 58 %, of which floats make 1855
@given(st.integers(1, 10**6).flatmap(lambda whole: st.tuples(st.integers(0, 2 * whole), st.just(whole))))
def test_percents_that_are_advised_are_enough_and_a_tenth_less_is_not(sizes: tuple[int, int]) -> None:
    size, whole = sizes
    percent = percent_of(size, whole)
    assert len(percent.partition(".")[2]) <= 1
    assert times(percent, whole) // 100 >= size
    assert size == 0 or times(f"{float(percent) - 0.1:.1f}", whole) < 100 * size


@given(st.integers(1, 2**50))
def test_whole_numbers_read_back_unchanged(size: int) -> None:
    assert parse_bytes(size) == parse_bytes(f"{size}") == parse_bytes(f"{size} B") == size


@given(st.integers(1024, 2**50))
def test_a_formatted_size_is_close(size: int) -> None:
    assert parse_bytes(format_bytes(size).replace(",", "")) == pytest.approx(size, rel=0.05)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1.0 KiB"),
        (18.4 * 2**20, "18.4 MiB"),
        (-(2**20), "-1.0 MiB"),
        (3 * 2**30, "3.0 GiB"),
        (5000 * 2**40, "5,000.0 TiB"),
    ],
)
def test_sizes_are_written_in_binary_units(size: float, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (1023, "1023B"),
        (1024, "1.0KiB"),
        (10 * 1024**2, "10.0MiB"),
        (2**30, "1024.0MiB"),
        (10 * 2**30 + 1, "10.1GiB"),
    ],
)
def test_budgets_to_type_are_rounded_up(size: int, text: str) -> None:
    assert ceil_bytes(size) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1500, "1.5 k"), (6_531_000, "6.53 M"), (1.2e9, "1.2 G"), (2e15, "2 P")],
)
def test_counts_are_written_with_a_prefix(number: float, text: str) -> None:
    assert format_count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 µs"),
        (8.2e-7, "0.820 µs"),
        (0.00082, "820 µs"),
        (0.00125, "1.25 ms"),
        (0.01, "10.0 ms"),
        (0.9996, "1.00 s"),
        (56.8, "56.8 s"),
        (119.0, "119 s"),
        (192, "3.20 min"),
        (90_360, "25.1 h"),
        (1_071_360, "12.4 days"),
        (1e9, "11,574 days"),
    ],
)
def test_times_are_written_in_the_unit_people_would_choose(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@given(st.floats(1e-6, 1e7))
def test_no_time_has_an_exponent_or_loses_more_than_its_third_digit(seconds: float) -> None:
    number, unit = format_seconds(seconds).split()
    factor = {"µs": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "days": 86400}[unit]
    assert "e" not in number
    assert float(number.replace(",", "")) * factor == pytest.approx(seconds, rel=0.006)
    assert parse_seconds(f"{number} {unit}".replace(",", "")) == pytest.approx(seconds, rel=0.006)


def test_times_are_read() -> None:
    assert [parse_seconds(text) for text in ("250ms", "1.5 s", "2min", "1h", "3 hours")] == [
        0.25,
        1.5,
        120,
        3600,
        10800,
    ]
    assert [parse_seconds(text) for text in ("5us", "5 µs", "5 μs")] == pytest.approx([5e-6] * 3)
    assert [parse_seconds(text) for text in ("", "5", "1.5x", "s", "-1s")] == [None] * 5


def test_losses_are_plain_where_that_shows_their_digits() -> None:
    shown = {0.5: "0.5000", 0: "0.0000", 1234.5: "1234.5000", 2.5e7: "2.5000e+07", 3e-6: "3.0000e-06"}
    assert {loss: format_loss(loss) for loss in shown} == shown
    assert format_loss(float("nan")) == "nan"


@given(st.integers(1, 2**50))
def test_sizes_are_in_the_units_that_were_typed(size: int) -> None:
    with units_of("24MB"):
        assert "i" not in format_bytes(size)
        assert size <= parse_bytes(ceil_bytes(size)) <= size + size // 100 + 101
    for typed in ("24MiB", "24000000", "50%", "", None):
        with units_of(typed):
            assert format_bytes(24 * 2**20) == "24.0 MiB"
