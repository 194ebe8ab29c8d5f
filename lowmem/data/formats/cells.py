"""Cells of a line of a table in text: how a line falls into cells, and which cells are numbers."""

import csv
import re

from lowmem.common.checks import is_digits

BLANKS = " "
"""Stands for any run of blanks and tabs between cells."""

DELIMITERS = (",", ";", "\t", "|", BLANKS)
NAMES_OF_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", BLANKS: "blanks"}

MISSING = {"", "na", "n/a", "#n/a", "nan", "null", "none", "?", "-", ".", "nil", "missing"}
"""Cells, in small letters, that stand for a value that is not there."""

TRUTH = {"true": "1", "false": "0"}
"""Truth values, in small letters, as the numbers that other formats store them as."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf(inity)?|nan)", re.ASCII | re.IGNORECASE)
_COMMA = re.compile(r"[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+", re.ASCII)


def cells(line: str, delimiter: str) -> list[str]:
    """Return the cells of a line, without blanks around them and without quotes."""
    text = line.rstrip("\n")
    if delimiter == BLANKS:
        if '"' not in text:
            return text.split()
        text = text.strip().replace("\t", " ")
    try:
        read = next(csv.reader([text], delimiter=delimiter, skipinitialspace=True), [""])
    except csv.Error:
        read = text.split(delimiter)
    return [cell.strip() for cell in read]


def is_number(cell: str) -> bool:
    """Say whether a cell is a number with a decimal point, or none."""
    return _NUMBER.fullmatch(cell) is not None


def is_comma_number(cell: str) -> bool:
    """Say whether a cell is a number with a decimal comma."""
    return _COMMA.fullmatch(cell) is not None


def may_be_thousands(cell: str) -> bool:
    """Say whether the commas of a cell may stand between thousands: "1,234"."""
    return _THOUSANDS.fullmatch(cell) is not None


def is_whole(cell: str) -> bool:
    """Say whether a cell is written as a whole number."""
    return is_digits(cell.lstrip("+-"))


def is_missing(cell: str) -> bool:
    """Say whether a cell stands for a value that is not there."""
    return cell.lower() in MISSING


def is_value(cell: str, delimiter: str) -> bool:
    """Say whether a cell is a number in a table with this delimiter, a truth value, or missing."""
    commas = delimiter != "," and is_comma_number(cell)
    return commas or is_number(cell) or is_missing(cell) or cell.lower() in TRUTH
