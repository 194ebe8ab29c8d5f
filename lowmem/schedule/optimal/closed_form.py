"""Chains of one size and cost, for which Griewank and Walther's closed form is used in place of a table."""

from collections.abc import Callable

from lowmem.chain import Chain
from lowmem.schedule.ops import Schedule
from lowmem.schedule.revolve import revolve, revolve_forwards

MANY_LAYERS = 400
"""Above this many even layers the closed form is used for networks too."""


def most_slots(chain: Chain, budget: int, taken: Callable[[Schedule], int]) -> Schedule | None:
    """Return the revolve schedule with the most slots that takes at most `budget` bytes, None if none does.

    The search steps by what is left over or missing, counted in states of the largest size; where all states have one
    size, the first step is exact.
    """
    best = revolve(chain, slots=0)
    left = budget - (0 if chain.in_hand_free else taken(best))
    if left < 0:
        return None
    sizes = [stage.state_bytes for stage in chain.stages[:-1]] or [0]
    largest = max(*sizes, 1)
    low, high = 0, max(chain.length - 2, 0)
    middle = left // largest
    while low < high and (middle > low or min(sizes) < largest):
        middle = min(max(middle, low + 1), high)
        schedule = revolve(chain, slots=middle)
        left = budget - taken(schedule)
        if left >= 0:
            best, low = schedule, middle
        else:
            high = middle - 1
        middle += left // largest
    return Schedule("optimal", best.ops)


def is_uniform(chain: Chain) -> bool:
    """Say whether the closed form is used: states of one size, layers of one cost.

    For an abstract chain the formula is exact. In a network memory is not the same at every op, which a table sees
    and the formula does not; with many layers the difference is not worth a table, and the bound says how large it
    may be. The last layer may always differ; the first one too where there are many layers.
    """
    many = chain.length > MANY_LAYERS
    inner = chain.stages[:-1]
    alike = inner[1:] if many else inner
    sizes = {(s.state_bytes, s.delta_bytes) for s in inner}
    works = {(s.forward, s.forward_scratch, s.advance_scratch) for s in alike}
    return (many or chain.in_hand_free) and chain.length > 1 and len(sizes) == 1 and len(works) == 1


def uniform_bound(chain: Chain, slots: int) -> float:
    """Return a lower bound of the cost of forward runs with so many slots."""
    stages, length = chain.stages, chain.length
    slots = min(slots, max(length - 2, 0))
    first, inner = stages[0].forward, stages[min(1, length - 2)].forward
    if first == inner:
        return inner * (revolve_forwards(length, slots) - 1)
    # Layers 2..L from state 1 take what the formula says; layer 1 runs at least once.
    return first + inner * (revolve_forwards(length - 1, slots) - 1)
