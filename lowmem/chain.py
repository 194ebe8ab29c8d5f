"""The chain that planners see: named values with sizes, stages with costs. No NumPy, no network.

Reversing a chain of stages with bounded memory is the classical problem of Griewank and Walther (Algorithm 799,
ACM TOMS 26(1), 2000). What is particular to a multilayer perceptron: the backward of layer l needs δ^(l) and the
*state* that enters the layer, but not the output of the layer. So no layer is run again just to be reversed.

Stages of PyTorch are different. Their backward reads a *tape*: tensors that their own forward has saved. A chain of
such stages has two forwards, one that keeps nothing but its output, and one that *records*.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from lowmem.common.checks import as_list
from lowmem.errors import InputError, shown

Kind = Literal["x", "s", "δ", "g", "t", "y", "d", "r"]


class Value(NamedTuple):
    """One array of a step: x^(l), s^(l), δ^(l) or the gradient g^(l) of layer l's weights and biases.

    d^(l) is the copy of state l on a disk. Where ranks share a batch, r^(l) is what the gradients of all ranks add up
    to. Chains with tapes have two kinds more: the tape t^(l) of stage l, and y^(L), what the caller holds after the
    loss. A named tuple, as simulators look thousands of them up: hashing one takes no Python code.
    """

    kind: Kind
    layer: int

    @property
    def in_arena(self) -> bool:
        """Whether the value lies in the arena of activations; gradients have buffers of their own."""
        return self.kind not in ("g", "r", "y", "d")

    def __str__(self) -> str:
        """Write the value as in the formulas: "x^(3)"."""
        return f"{self.kind}^({self.layer})"


@dataclass(frozen=True, slots=True)
class Tape:
    """What it takes to record a stage. Sizes are what can be measured of it from outside, in bytes.

    kept_bytes: stays between recording and backward, state l left out. State l-1 is part of it where it stays as long
        as the tape: because this stage or the one before has saved it. (A tape may hold state l too, but until the
        stages behind are reversed that counts there, and afterwards in `backward_scratch`.)
    record_bytes: the most that recording allocates, output and tape included.
    gradient_bytes: gradients of parameters that the backward leaves.
    alone_cost: of recording the stage where nobody needs its output, None for that of its forward. A linear layer's
        backward needs what enters it, so its product need not be taken again.
    """

    kept_bytes: int
    record_bytes: int = 0
    gradient_bytes: int = 0
    alone_cost: float | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """Layer l as planners see it: what it costs and what it holds.

    forward, backward: cost of making state l from state l-1, and of reversing it (FLOPs for a network).
    state_bytes, delta_bytes: bytes of state l, and of δ^(l), which takes the place of state l.
    forward_scratch: bytes of working memory to make state l beside state l-1.
    advance_scratch: bytes of working memory to make state l in the place of state l-1.
    backward_scratch: bytes of working memory to reverse the layer; where there is a tape, all beside it and δ^(l).
    kind: "x" if state l is x^(l), "s" if it is s^(l).
    tape: what the backward needs, None if the state that enters is enough.
    """

    forward: float
    backward: float
    state_bytes: int
    delta_bytes: int = 0
    forward_scratch: int = 0
    advance_scratch: int = 0
    backward_scratch: int = 0
    kind: Literal["x", "s"] = "x"
    tape: Tape | None = None


class RangeMaximum:
    """Maximum of any range of a fixed sequence in constant time (a sparse table)."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._rows = [list(numbers)]
        # Where all are equal, as in a network of one width, one row answers everything.
        self._flat = not numbers or min(numbers) == max(numbers)
        width = 1
        while not self._flat and 2 * width <= len(numbers):
            row = self._rows[-1]
            self._rows.append([max(pair) for pair in zip(row, row[width:], strict=False)])
            width *= 2

    def __call__(self, first: int, stop: int) -> int:
        """Return max(numbers[first:stop]), 0 for an empty range."""
        if first >= stop:
            return 0
        if self._flat:
            return self._rows[0][first]
        level = (stop - first).bit_length() - 1
        row = self._rows[level]
        return max(row[first], row[stop - (1 << level)])


@dataclass(frozen=True)
class Chain:
    """Stages 1..L and the loss behind them.

    stages[l-1] is layer l. State 0 is the batch x^(0), which belongs to the caller and costs nothing here.
    loss, loss_scratch: cost and working bytes of turning state L into δ^(L).
    updates: every gradient g^(l) must end in an `Update`; otherwise the caller takes the gradients.
    shared: other ranks have gradients of the same layers, and an `AllReduce` adds them up before the update.
    in_hand_free: the abstract model, in which the operands of the op that runs cost nothing and only checkpoints
        count; otherwise every live byte counts.
    source_bytes, caller_bytes: bytes that live during the whole step, and from the loss to the end of the step (the
        output and the loss, where the caller holds them). Chains of networks have none.
    """

    stages: tuple[Stage, ...]
    loss: float = 0
    loss_scratch: int = 0
    updates: bool = False
    shared: bool = False
    in_hand_free: bool = False
    source_bytes: int = 0
    caller_bytes: int = 0

    @cached_property
    def length(self) -> int:
        """L, the number of stages."""
        return len(self.stages)

    @cached_property
    def states(self) -> tuple[Value, ...]:
        """The names of the states 0..L."""
        return Value("x", 0), *(Value(stage.kind, layer) for layer, stage in enumerate(self.stages, start=1))

    @cached_property
    def deltas(self) -> tuple[Value, ...]:
        """The names of δ^(0)..δ^(L); nothing ever makes the first."""
        return tuple(Value("δ", layer) for layer in range(self.length + 1))

    @cached_property
    def gradients(self) -> tuple[Value, ...]:
        """The names of g^(0)..g^(L); nothing ever makes the first."""
        return tuple(Value("g", layer) for layer in range(self.length + 1))

    @cached_property
    def taped(self) -> bool:
        """Whether stages are reversed from tapes. All stages of a chain are of one kind."""
        return self.stages[0].tape is not None

    def state(self, layer: int) -> Value:
        """Return the name of state `layer`, 0..L."""
        return self.states[layer]

    def state_bytes(self, layer: int) -> int:
        """Return the bytes of state `layer`; the batch itself (0) is the caller's."""
        return self.stages[layer - 1].state_bytes if layer else 0

    def bytes_of(self, value: Value) -> int:
        """Return the bytes of memory that a value counts with: none for the batch, which is the caller's.

        A gradient counts only in chains with tapes; elsewhere it has a buffer that is not the arena's. A copy on a
        disk takes no memory.
        """
        kind, layer = value
        if not layer:
            return 0
        stage = self.stages[layer - 1]
        if kind in ("x", "s"):
            return stage.state_bytes
        if kind == "δ":
            return stage.delta_bytes
        if kind == "y":
            return self.caller_bytes
        if stage.tape is None or kind == "d":
            return 0
        return stage.tape.kept_bytes if kind == "t" else stage.tape.gradient_bytes

    def forward_cost(self, first: int, last: int) -> float:
        """Return the cost of running layers first..last forward once."""
        return self._forward_sums[last] - self._forward_sums[first - 1]

    def travelling_bytes(self, first: int, last: int) -> int:
        """Return the bytes that one place needs to carry a state through layers first..last."""
        return self._state_maximum(first - 1, last)

    def forward_scratch(self, first: int, last: int) -> int:
        """Return the working bytes of running layers first..last; all but the first overwrite their input."""
        return max(self.stages[first - 1].forward_scratch, self._advance_maximum(first, last))

    def sweep_bytes(self, first: int, last: int) -> int:
        """Return the most that running layers first..last allocates where no layer can overwrite its input."""
        stage = self.stages[first - 1]
        return max(stage.state_bytes + stage.forward_scratch, self._sweep_maximum(first, last))

    @cached_property
    def reversal(self) -> "Chain":
        """The chain that planners see: to be reversed, and nothing else. Its gradients are the caller's."""
        return replace(self, updates=False, shared=False) if self.updates else self

    @cached_property
    def _forward_sums(self) -> list[float]:
        return list(accumulate((stage.forward for stage in self.stages), initial=0))

    @cached_property
    def _state_maximum(self) -> RangeMaximum:
        return RangeMaximum([stage.state_bytes for stage in self.stages])

    @cached_property
    def _advance_maximum(self) -> RangeMaximum:
        return RangeMaximum([stage.advance_scratch for stage in self.stages])

    @cached_property
    def _sweep_maximum(self) -> RangeMaximum:
        sizes = (self.state_bytes(layer) for layer in range(self.length))
        pairs = zip(sizes, self.stages, strict=True)
        return RangeMaximum([before + stage.state_bytes + stage.forward_scratch for before, stage in pairs])

    @classmethod
    def abstract(
        cls,
        *,
        forward: Sequence[float],
        backward: Sequence[float],
        state_bytes: Sequence[int],
        tape_bytes: Sequence[int] | None = None,
    ) -> "Chain":
        """Describe any chain of L steps, without a network.

        forward, backward: L costs each.
        state_bytes: L+1 sizes; the first is that of state 0, which is given and free.
        tape_bytes: L sizes, where the backward of a step needs its tape; tape l includes state l, as in rotor.

        In this model the operands of the running op cost nothing: only checkpoints other than state 0 count.
        Every layer's forward runs at least once, also that of the last layer, whose output the loss needs. So the
        cost of a trace is that of the recurrence C(0, L, m) of Griewank and Walther plus forward[L-1].

        With tapes every stage is recorded once, right before the stages behind it are reversed, and the cost of a
        trace is that of rotor's recurrence.

        Raises `InputError` if the lengths do not match or a number is negative.
        """
        forward, backward = _amounts("forward", forward), _amounts("backward", backward)
        state_bytes = _amounts("state_bytes", state_bytes)
        if len(forward) == 0 or len(backward) != len(forward) or len(state_bytes) != len(forward) + 1:
            raise InputError(
                "an abstract chain of L >= 1 steps needs L forward costs, L backward costs and L+1 state sizes; "
                f"got {len(forward)}, {len(backward)} and {len(state_bytes)}."
            )
        if tape_bytes is not None:
            tape_bytes = _amounts("tape_bytes", tape_bytes)
            if len(tape_bytes) != len(forward):
                raise InputError(
                    f"an abstract chain of {len(forward)} steps needs as many tape sizes; got {len(tape_bytes)}."
                )
        stages = tuple(map(Stage, forward, backward, state_bytes[1:]))
        if tape_bytes is not None:
            # Recording ends the state that enters, and the tape holds it; state l counts beside the tape, not in it.
            sizes = [0, *state_bytes[1:]]
            kept = (tape + before - after for tape, before, after in zip(tape_bytes, sizes, sizes[1:], strict=False))
            stages = tuple(replace(stage, tape=Tape(size)) for stage, size in zip(stages, kept, strict=True))
        return cls(stages=stages, in_hand_free=True)


def _amounts(name: str, numbers: object) -> tuple[Any, ...]:
    """Return numbers given as a sequence. Raises `InputError` for what is none, or holds no finite numbers from 0."""
    listed = as_list(numbers)
    if listed is None:
        raise InputError(f"{name} needs a list of numbers; got {shown(numbers)}.")
    for amount in listed:
        if not _is_amount(amount):
            raise InputError(f"{name} needs finite numbers that are not negative; got {shown(amount)}.")
    return tuple(listed)


def _is_amount(number: object) -> bool:
    """Whether `number` is a finite number from 0."""
    try:
        return 0 <= number < float("inf")  # type: ignore[operator]
    except (TypeError, ValueError):
        return False
