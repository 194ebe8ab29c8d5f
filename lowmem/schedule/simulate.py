"""The simulator: the one place that says whether a schedule is valid and what it takes.

It folds the table of `lowmem.schedule.effects` over the ops: it walks them with the set of live values, refuses the
first op that needs a value that is not there, and adds up bytes and costs. Planners are checked against it, and
nothing runs that it has not passed. Where states go to a disk, it judges two resources: transfers run beside the ops,
and ops wait for them.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lowmem.chain import Chain, Kind, Value
from lowmem.common.checks import as_list, instance, items
from lowmem.errors import InputError, ScheduleError, shown
from lowmem.schedule.disk.transfers import AT_ONCE, DiskRates, Transfers
from lowmem.schedule.effects import Effects, effects
from lowmem.schedule.ops import Op, Schedule
from lowmem.schedule.streaming import Move, Moves, PartBytes, runs_of


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A value, which op number `start` makes and op number `end` ends."""

    value: Value
    start: int
    end: int
    bytes: int


Life = tuple[Kind, int, int, int, int]
"""Kind, layer, start, end and bytes of a lifetime, as a plain tuple: planners simulate long schedules often, and few
callers ask for lifetimes."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What a schedule takes.

    peak_bytes: the most bytes alive at once, counted as the chain says; peak_at: the op (index) where that is.
    forward_runs: layer forwards executed, the first sweep included. cost: every forward and backward executed.
    disk_bytes: the most bytes on the disk at once. written, read: bytes of all transfers.
    seconds: from the first op to the last, with what ops wait for the disk, where costs are in seconds; else the cost.
    lives: the lifetimes as plain tuples (kind, layer, start, end, bytes); `lifetimes` gives them names.
    """

    peak_bytes: int
    peak_at: int
    forward_runs: int
    cost: float
    lives: tuple[Life, ...] = field(repr=False)
    disk_bytes: int = 0
    written: int = 0
    read: int = 0
    seconds: float = 0.0

    @property
    def lifetimes(self) -> tuple[Lifetime, ...]:
        """The lives of all values, in order of their ends."""
        return tuple(Lifetime(Value(kind, layer), *life) for kind, layer, *life in self.lives)

    @property
    def flops(self) -> float:
        """The cost, which is FLOPs where the chain describes a network."""
        return self.cost


def simulate(
    chain: Chain,
    schedule: Schedule,
    rates: DiskRates = AT_ONCE,
    streamed: tuple[Sequence[Moves], PartBytes] | None = None,
) -> Trace:
    """Check that `schedule` reverses `chain` and say what it takes.

    rates: of the disk, if any states go there; without them transfers take no time.
    streamed: the moves of parameters and moments, and their bytes: `seconds` then has those transfers too. The bytes
        of the trace are those of states alone.

    Raises `ScheduleError` with the index of the first op that cannot run and the value it misses, or, at the end,
    with what was left undone; `InputError` for arguments of other kinds.
    """
    instance("chain", chain, Chain, "a lowmem.chain.Chain, such as Chain.abstract(...) makes")
    instance("schedule", schedule, Schedule, "a lowmem.schedule.Schedule, such as a planner returns")
    instance("rates", rates, DiskRates, "a lowmem.schedule.disk.transfers.DiskRates")
    live: dict[Value, tuple[int, int]] = {chain.state(0): (-1, chain.source_bytes)}  # value -> op that made it, bytes
    lowest = {"δ": chain.length + 1, "g": chain.length + 1}  # of each kind, the last layer with one; both descend
    lives: list[Life] = []
    held, peak, peak_at, forward_runs = chain.source_bytes, 0, 0, 0
    cost: float = 0
    # There from the first transfer on.
    disk: _Disk | None = None if streamed is None else _StreamedDisk(chain, rates, streamed)
    for index, op in enumerate(schedule.ops):
        try:
            effect = effects(chain, op)
            _check(effect, live, lowest)
        except InputError as error:
            raise ScheduleError(f"op {index}, {op}, cannot run: {error}.", index=index) from None
        if effect.weighed:
            now = held + effect.place_bytes + effect.scratch_bytes - effect.in_hand_bytes
            if now > peak:
                peak, peak_at = now, index
        if effect.phase == "disk" and disk is None:
            disk = _Disk(chain, rates, cost)
        if disk is not None:
            disk.follow(op, effect)
        for value in effect.ends:
            start, size = live.pop(value)
            lives.append((value.kind, value.layer, start, index, size))
            held -= size
        for value in effect.makes:
            size = chain.bytes_of(value)
            live[value] = index, size
            held += size
            if value.kind in lowest:
                lowest[value.kind] = value.layer
        forward_runs += effect.forward_runs
        cost += effect.cost
    _check_end(chain, live, lowest["g"] - 1, len(schedule))
    # What counts and stays to the end: in chains with tapes gradients, and what the caller holds.
    lives += [(kind, layer, start, len(schedule), size) for (kind, layer), (start, size) in live.items() if size]
    if disk is None:
        return Trace(peak, peak_at, forward_runs, cost, tuple(lives), seconds=cost)
    disk.transfers.finish()
    seconds = disk.transfers.now
    return Trace(peak, peak_at, forward_runs, cost, tuple(lives), disk.most, disk.written, disk.read, seconds)


class _Disk:
    """The disk of a simulation: what lies there, what was moved, and the time."""

    def __init__(self, chain: Chain, rates: DiskRates, now: float) -> None:
        self._chain, self.transfers = chain, Transfers(rates)
        self.transfers.now = now
        self.held = self.most = self.written = self.read = 0

    def follow(self, op: Op, effect: Effects) -> None:
        """Take note of an op: it waits for transfers, runs, or begins one."""
        for value in effect.needs:
            if value.kind in ("x", "s"):
                self.transfers.wait(value.layer, written=value in effect.ends, read=True)
        self._run(op, effect)
        for kind, layer in effect.makes:
            if kind == "d":
                size = self._chain.state_bytes(layer)
                self.transfers.write(layer, size)
                self.written, self.held = self.written + size, self.held + size
                self.most = max(self.most, self.held)
        for kind, layer in effect.ends:
            if kind == "d":
                size = self._chain.state_bytes(layer)
                self.transfers.read(layer, size)
                self.read, self.held = self.read + size, self.held - size

    def _run(self, op: Op, effect: Effects) -> None:
        """Let the time of an op pass."""
        self.transfers.run(effect.cost)


class _StreamedDisk(_Disk):
    """The disk of a simulation in which parts of layers are streamed too."""

    def __init__(self, chain: Chain, rates: DiskRates, streamed: tuple[Sequence[Moves], PartBytes]) -> None:
        super().__init__(chain, rates, 0.0)
        pair = as_list(streamed)
        if pair is None or len(pair) != 2:
            raise InputError(f"streamed must be a pair, moves and their bytes; got {shown(streamed)}.")
        self._moves = iter(items("the moves of streamed", pair[0], Moves, "Moves for each run of a layer"))
        self._sizes = instance("the bytes of streamed", pair[1], PartBytes, "PartBytes")
        self._coming: dict[tuple[str, int], int] = {}

    def _run(self, op: Op, effect: Effects) -> None:
        """Let the time of an op pass, layer by layer, and what its layers wait for."""
        runs = [*runs_of(op)]
        if not runs:
            self.transfers.run(effect.cost)
        for layer, _ in runs:
            around = next(self._moves, None)
            if around is None:
                raise InputError(f"streamed ends before {op}; Moves for each run of a layer are needed.")
            for move in around.before:
                self._follow_move(move)
            alone = self._chain.forward_cost(layer, layer) if len(runs) > 1 else effect.cost
            self.transfers.run(alone)
            for move in around.behind:
                self._follow_move(move)

    def _follow_move(self, move: Move) -> None:
        """Begin a transfer, or wait for one."""
        part = move.part, move.layer
        if move.kind == "arrive":
            self.transfers.arrive(self._coming.pop(part))
        elif move.kind == "fetch":
            self._coming[part] = self.transfers.stream(self._sizes.moved(move), written=False)
        elif move.changed:
            self.transfers.stream(self._sizes.moved(move), written=True)


def _check(effect: Effects, live: Container[Value], lowest: Mapping[str, int]) -> None:
    """Refuse an op whose operands are missing, or whose result is there or of no use."""
    for value in effect.needs:
        if value not in live:
            raise InputError(f"{value} is missing")
    for value in effect.makes:
        if value in live:
            raise InputError(f"{value} is there already")
    late = effect.too_late
    if late is not None and late.layer >= lowest[late.kind]:
        raise InputError(f"layer {late.layer} is reversed already or needs no output any more")


def _check_end(chain: Chain, live: Iterable[Value], remaining: int, count: int) -> None:
    """Refuse a schedule of `count` ops that leaves layers 1..remaining not reversed, or values behind."""
    if remaining:
        raise ScheduleError(
            f"the schedule ends, after {count} ops, with layers 1..{remaining} not reversed.", index=count
        )
    left = [str(value) for value in live if value.layer and (value.in_arena or value.kind == "d" or chain.updates)]
    if left:
        raise ScheduleError(f"the schedule ends with values left behind: {', '.join(left)}.", index=count)
