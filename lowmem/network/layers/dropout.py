"""How many random numbers dropout draws for a row; the generator itself is `lowmem.nn.layers.dropout.Philox`."""

BLOCK = 8
"""Columns are rounded up to this, so that a row begins with a counter: one gives eight numbers of 32 bits."""


def padded(width: int) -> int:
    """Return how many numbers are drawn for each row."""
    return -(-width // BLOCK) * BLOCK
