"""Numbers and words as sentences have them."""

from collections.abc import Iterable


def ends(numbers: Iterable[float], form: str) -> str:
    """Write the least and the largest of some numbers, once where they are written alike."""
    ordered = sorted(numbers)
    least, most = format(ordered[0], form), format(ordered[-1], form)
    return least if least == most else f"{least} to {most}"


def listed(words: Iterable[str]) -> str:
    """Join words as people do."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
