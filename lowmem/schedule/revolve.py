"""Revolve: the optimal schedule for layers of equal cost and size, in closed form.

A. Griewank, A. Walther, "Algorithm 799: revolve", ACM TOMS 26(1):19-45 (2000). With s checkpoints, the one in hand
included, and at most r repetitions a chain of beta(s, r) = C(s+r, s) steps can be reversed, and l steps take
t(l, s) = r l - beta(s+1, r-1) forwards for the least r with l <= beta(s, r). A split is optimal when both its parts
stay within what their slots and repetitions can do; Pascal's rule then makes the sum come out as t(l, s).

Conventions. `slots` counts the states kept besides x^(0), which is the caller's: s = slots + 1. t leaves out the
forward of the step that is just being reversed, as our backward does not need it; the last layer runs once, for the
loss. So there are t(L, slots + 1) + 1 layer forwards. The package checkpoint_schedules runs each step once more to
record it, and counts x^(0) as a snapshot: Revolve(max_n=L, snaps_in_ram=s) of that package runs t(L, s) + L forwards.
"""

from functools import cache
from math import comb

from lowmem.chain import Chain
from lowmem.common.checks import whole
from lowmem.schedule.ops import Schedule
from lowmem.schedule.tree import reverse


def revolve(chain: Chain, *, slots: int) -> Schedule:
    """Reverse the chain with at most `slots` states kept besides x^(0).

    slots: 0 keeps nothing but the batch. Raises `InputError` unless it is a whole number from 0.
    """
    slots = min(whole("slots", slots), max(chain.length - 2, 0))  # more would never be filled

    def split(i: int, j: int, free: int) -> int:
        return i + left_part(j - i, max(free, 0) + 1)

    return reverse(chain, "revolve", split, slots=slots)


def revolve_forwards(length: int, slots: int) -> int:
    """Return the layer forwards that `revolve` executes, without making the schedule."""
    s = slots + 1
    r = repetitions(length, s)
    return r * length - _beta(s + 1, r - 1) + 1


@cache
def left_part(length: int, s: int) -> int:
    """Return how many steps to advance before keeping a state: an optimal split of `length` >= 2 steps."""
    r = repetitions(length, s)
    # Left of the split s slots serve at most r-1 repetitions, right of it s-1 slots at most r.
    return min(_beta(s, r - 1), length - _beta(s - 1, r - 1), length - 1)


def repetitions(length: int, s: int) -> int:
    """Return the least r with beta(s, r) >= length."""
    if s == 1:
        return length - 1
    r = 0
    while _beta(s, r) < length:
        r += 1
    return r


def _beta(s: int, r: int) -> int:
    """Return C(s+r, s), the steps that s checkpoints and r repetitions can reverse."""
    return comb(s + r, s) if r >= 0 else 0
