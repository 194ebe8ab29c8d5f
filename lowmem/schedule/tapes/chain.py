"""A chain in which the backward of a stage needs a tape: what a forward that records it kept.

A PyTorch stage cannot be reversed from its input alone. Its backward reads tensors that its own forward has saved: the
tape. So there are two forwards: one that keeps nothing but its output, and one that *records*. Stage l is recorded
once, right before the stages behind it are reversed, and perhaps run without a tape before that.

Every number of bytes is a peak or a lasting amount that can be measured from outside, so nothing needs to be known of
what happens inside a stage.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import isfinite

from lowmem.errors import InputError


@dataclass(frozen=True, slots=True)
class TapeStage:
    """Stage l: what it costs, what it leaves, and the most that lives while it runs.

    forward, backward: cost of one forward (recording or not) and of one backward.
    state_bytes: bytes of the output, state l.
    tape_bytes: bytes that stay between recording and backward, state l left out. State l-1 is part of them where it
        stays as long as the tape: because this stage or the one before has saved it. (A tape may hold state l too,
        but until the stages behind are reversed that is counted there, and afterwards in `backward_peak`.)
    delta_bytes: bytes of the gradient with respect to state l.
    gradient_bytes: bytes of the gradients of parameters that its backward leaves.
    forward_peak: the most that a forward without a tape allocates, the output included.
    record_peak: the most that a recording forward allocates, output and tape included.
    backward_peak: the most that lives while the stage is reversed: tape, both gradients, those of the parameters.
    """

    forward: float
    backward: float
    state_bytes: int
    tape_bytes: int
    delta_bytes: int = 0
    gradient_bytes: int = 0
    forward_peak: int = 0
    record_peak: int = 0
    backward_peak: int = 0


@dataclass(frozen=True)
class TapeChain:
    """Stages 1..L. State 0 is the caller's and costs nothing.

    source_bytes: bytes that live during the whole step, whatever the schedule.
    loss_peak: the most that lives, beside state L and tapes, while the loss is computed and reversed; the
        gradient with respect to state L included.
    kept_bytes: bytes that live from the loss until the end of the step: output and loss, where the caller holds them.
    in_hand_free: the abstract model: operands of the running op cost nothing, only what waits counts.
    """

    stages: tuple[TapeStage, ...]
    source_bytes: int = 0
    loss_peak: int = 0
    kept_bytes: int = 0
    in_hand_free: bool = False

    @property
    def length(self) -> int:
        """L, the number of stages."""
        return len(self.stages)

    @cached_property
    def state_bytes(self) -> tuple[int, ...]:
        """Bytes of states 0..L."""
        return (0, *(stage.state_bytes for stage in self.stages))

    @cached_property
    def forward_sums(self) -> tuple[float, ...]:
        """Cost of the forwards of stages 1..l, for l from 0."""
        return tuple(accumulate((stage.forward for stage in self.stages), initial=0.0))

    @cached_property
    def behind(self) -> tuple[int, ...]:
        """Bytes that live while stage l is reversed and belong to the stages behind it, for l from 0 (unused) to L.

        Gradients of parameters as they have come, and what the caller holds.
        """
        gradients = accumulate((stage.gradient_bytes for stage in reversed(self.stages)), initial=self.kept_bytes)
        return tuple(gradients)[::-1]

    @cached_property
    def ahead(self) -> tuple[int, ...]:
        """Bytes that live while stages up to j run again and belong to what was reversed, for j from 0 (unused) to L.

        For j = L nothing was reversed yet. Otherwise the gradient with respect to state j waits.
        """
        deltas = [0, *(stage.delta_bytes for stage in self.stages)]
        return (*(bytes_ + delta for bytes_, delta in zip(self.behind[:-1], deltas, strict=False)), 0)

    @property
    def all_costs(self) -> float:
        """Cost of storing everything: one forward and one backward of each stage."""
        return sum(stage.forward + stage.backward for stage in self.stages)

    @classmethod
    def abstract(
        cls,
        *,
        forward: Sequence[float],
        backward: Sequence[float],
        state_bytes: Sequence[int],
        tape_bytes: Sequence[int],
    ) -> "TapeChain":
        """Describe any chain of L stages: L costs of forward and backward, L+1 sizes of states, L of tapes.

        Here tape l includes state l, as in the model of rotor, and state l-1 stays beside it.
        Raises `InputError` if the lengths do not match or a number is negative.
        """
        length = len(forward)
        if length == 0 or (len(backward), len(state_bytes), len(tape_bytes)) != (length, length + 1, length):
            raise InputError(
                "a chain of L >= 1 stages needs L forward costs, L backward costs, L+1 state sizes and L tape sizes; "
                f"got {length}, {len(backward)}, {len(state_bytes)} and {len(tape_bytes)}."
            )
        for number in (*forward, *backward, *state_bytes, *tape_bytes):
            if not (isfinite(number) and number >= 0):
                raise InputError(f"costs and sizes must be finite and not negative; got {number!r}.")
        states = [0, *state_bytes[1:]]
        tapes = [tape - after + before for tape, before, after in zip(tape_bytes, states, states[1:], strict=False)]
        return cls(tuple(map(TapeStage, forward, backward, states[1:], tapes)), in_hand_free=True)
