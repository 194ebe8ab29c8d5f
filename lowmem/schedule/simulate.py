"""The simulator: the one place that says whether a schedule is valid and what it takes.

It walks the ops with the set of live values, refuses the first op that needs a value that is not there, and adds up
bytes and costs. Planners are checked against it, and the executor runs nothing that it has not passed.
"""

from dataclasses import dataclass, field
from typing import Literal, NoReturn

from lowmem.chain import Chain, Value
from lowmem.errors import ScheduleError
from lowmem.schedule.ops import Backward, Forward, Free, Loss, Op, Schedule, Update


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A value and when it lives: made by op number `start`, ended by op number `end`."""

    value: Value
    start: int
    end: int
    bytes: int


Life = tuple[Literal["x", "s", "δ", "g"], int, int, int, int]
"""A lifetime while it is only noted: planners simulate long schedules often, and few ask for lifetimes."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What a schedule takes.

    peak_bytes: the most bytes alive at once, counted as the chain says; peak_at: the op (index) where that is.
    forward_runs: layer forwards executed, the first sweep included. cost: every forward and backward executed.
    lives: what `lifetimes` is made of, as plain tuples: kind, layer, start, end, bytes.
    """

    peak_bytes: int
    peak_at: int
    forward_runs: int
    cost: float
    lives: tuple[Life, ...] = field(repr=False)

    @property
    def lifetimes(self) -> tuple[Lifetime, ...]:
        """Each value's life, in order of its end."""
        return tuple(Lifetime(Value(kind, layer), *life) for kind, layer, *life in self.lives)

    @property
    def flops(self) -> float:
        """The cost, which is FLOPs where the chain describes a network."""
        return self.cost


def simulate(chain: Chain, schedule: Schedule) -> Trace:
    """Check that `schedule` reverses `chain` and say what it takes.

    Raises `ScheduleError` with the index of the first op that cannot run and the value it misses, or, at the end,
    with what was left undone.
    """
    run = _Run(chain)
    for index, op in enumerate(schedule.ops):
        run.step(index, op)
    return run.finish(len(schedule.ops))


class _Run:
    """The state of a simulation: live values with their birth, bytes held, costs so far."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.length = chain.length
        self.states: dict[int, int] = {0: 0}  # state -> op that made it
        self.gradients: dict[int, int] = {}
        self.delta: int | None = None  # the layer of the one live δ
        self.delta_born = 0
        self.next_layer = self.length  # the layer to be reversed next
        self.held = 0
        self.peak = self.peak_at = self.forward_runs = 0
        self.cost: float = 0
        self.lives: list[Life] = []

    def step(self, index: int, op: Op) -> None:
        """Carry out one op."""
        match op:
            case Forward(first, last):
                self.forward(index, op, first, last)
            case Loss():
                self.loss(index, op)
            case Backward(layer):
                self.backward(index, op, layer)
            case Update(layer):
                self.update(index, op, layer)
            case Free(value):
                self.free(index, op, value)
            case _:
                self.refuse(index, op, "it is not an op")

    def forward(self, index: int, op: Op, first: int, last: int) -> None:
        if not 1 <= first <= last <= self.length:
            self.refuse(index, op, f"layers go from 1 to {self.length}")
        if first - 1 not in self.states:
            self.refuse(index, op, f"{self.chain.state(first - 1)} is missing")
        if last in self.states:
            self.refuse(index, op, f"{self.chain.state(last)} is there already")
        if last > self.next_layer or (last == self.length and self.delta is not None):
            self.refuse(index, op, f"layer {last} is reversed already or needs no output any more")
        if self.chain.in_hand_free:
            # The source is an operand of the first layer only; behind it, it is a checkpoint like any other.
            self.see(index, self.held - (self.chain.state_bytes(first - 1) if first == last else 0))
        else:
            working = self.chain.travelling_bytes(first, last) + self.chain.forward_scratch(first, last)
            self.see(index, self.held + working)
        self.states[last] = index
        self.held += self.chain.state_bytes(last)
        self.forward_runs += last - first + 1
        self.cost += self.chain.forward_cost(first, last)

    def loss(self, index: int, op: Op) -> None:
        if self.length not in self.states:
            self.refuse(index, op, f"{self.chain.state(self.length)} is missing")
        if not self.chain.in_hand_free:
            self.see(index, self.held + self.chain.loss_scratch)
        self.hand_over(index, self.length)
        self.cost += self.chain.loss

    def backward(self, index: int, op: Op, layer: int) -> None:
        if self.delta is None or self.delta != layer:
            self.refuse(index, op, f"{Value('δ', layer)} is missing")
        if layer - 1 not in self.states:
            self.refuse(index, op, f"{self.chain.state(layer - 1)} is missing")
        stage = self.chain.stages[layer - 1]
        if self.chain.in_hand_free:
            self.see(index, self.held - self.chain.state_bytes(layer - 1))
        else:
            self.see(index, self.held + stage.backward_scratch)
        self.lives.append(("δ", layer, self.delta_born, index, stage.delta_bytes))
        self.held -= stage.delta_bytes
        self.delta = None
        self.gradients[layer] = index
        self.next_layer = layer - 1
        if layer > 1:
            self.hand_over(index, layer - 1)
        self.cost += stage.backward

    def update(self, index: int, op: Op, layer: int) -> None:
        if not self.chain.updates:
            self.refuse(index, op, "this chain gathers its gradients")
        if layer not in self.gradients:
            self.refuse(index, op, f"{Value('g', layer)} is missing")
        self.lives.append(("g", layer, self.gradients.pop(layer), index, 0))

    def free(self, index: int, op: Op, value: Value) -> None:
        layer = value.layer
        if layer == 0 or layer not in self.states or value != self.chain.state(layer):
            self.refuse(index, op, f"{value} is missing" if layer else "the batch is the caller's")
        self.end_state(index, layer)

    def hand_over(self, index: int, layer: int) -> None:
        """End state `layer` and make δ of the same layer in its place."""
        self.end_state(index, layer)
        self.delta, self.delta_born = layer, index
        self.held += self.chain.stages[layer - 1].delta_bytes

    def end_state(self, index: int, layer: int) -> None:
        stage = self.chain.stages[layer - 1]
        self.lives.append((stage.kind, layer, self.states.pop(layer), index, stage.state_bytes))
        self.held -= stage.state_bytes

    def see(self, index: int, now: int) -> None:
        if now > self.peak:
            self.peak, self.peak_at = now, index

    def refuse(self, index: int, op: Op, why: str) -> NoReturn:
        raise ScheduleError(f"op {index}, {op}, cannot run: {why}.", index=index)

    def finish(self, index: int) -> Trace:
        """Check that the chain is reversed and nothing is left behind."""
        if self.next_layer:
            raise ScheduleError(
                f"the schedule ends after op {index - 1} with layers 1..{self.next_layer} not reversed.", index=index
            )
        left = [str(self.chain.state(layer)) for layer in self.states if layer]
        if self.chain.updates:
            left += [str(Value("g", layer)) for layer in self.gradients]
        if left:
            raise ScheduleError(f"the schedule ends with values left behind: {', '.join(left)}.", index=index)
        return Trace(self.peak, self.peak_at, self.forward_runs, self.cost, tuple(self.lives))
