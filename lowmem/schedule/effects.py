"""What each op takes and leaves behind: the one table of ops, which simulator, packing and timeline fold.

| op                   | needs            | ends            | makes                                         |
|----------------------|------------------|-----------------|-----------------------------------------------|
| Forward(first, last) | state first-1    |                 | state last (states between only pass through) |
| Record(l)            | state l-1        | state l-1       | t^(l), and state l where its output stays     |
| Loss()               | state L          | state L         | δ^(L), in the place of state L                |
| Backward(l)          | δ^(l), state l-1 | both, if l > 1  | g^(l); δ^(l-1), in the place of state l-1     |
| AllReduce(l)         | g^(l)            | g^(l)           | r^(l)                                         |
| Update(l)            | g^(l), or r^(l)  | the same        |                                               |
| Free(value)          | value            | value           |                                               |
| Store(state l)       | state l          |                 | d^(l), the copy on the disk                   |
| Load(state l)        | d^(l)            | d^(l)           | state l                                       |

State 0 is the caller's batch: it is always there and nothing ends it. So Backward(1) ends δ^(1) alone and makes g^(1)
alone, and Record(1) ends nothing. Store and Load only begin a transfer, which runs beside the ops that follow: an op
that needs a state being read waits for it, and so does an op that ends a state being written. Every op makes or ends
named values, so memory is a fold over a schedule and no rule is implicit. A new op is a class in `ops`, a row here,
and a call in the runtime.

Where ranks share a batch, an update needs r^(l), what the gradients of all ranks add up to.

In chains with tapes Backward(l) needs and ends t^(l) in place of state l-1, nothing is made in the place of something
else, and the loss makes y^(L) too, which the caller holds. Networks have no tapes, and their runtime has no Record.
"""

from typing import Literal, NamedTuple

from lowmem.chain import Chain, Value
from lowmem.errors import InputError
from lowmem.schedule.ops import (
    AllReduce,
    Backward,
    Forward,
    Free,
    Load,
    Loss,
    Op,
    Record,
    Store,
    Update,
    not_an_op,
)

Phase = Literal["forward", "loss", "backward", "update", "disk", "none"]


class Effects(NamedTuple):
    """What one op takes and leaves behind on one chain.

    phase: the part of a step that the op belongs to. first, last: the layers that it runs, in order of the chain.
    needs: values that must be there, the op's operands. ends, makes: values that end and that begin with it.
    in_place: the last value made lies where the last value needed lay; otherwise it gets a place of its own.
    too_late: once this value has been made, the op has no use any more and is refused.
    place_bytes: bytes of the new place while the op runs, which may be more than the value keeps.
    scratch_bytes: bytes of working memory.
    in_hand_bytes: bytes of operands that cost nothing while the op runs (abstract chains only).
    weighed: whether memory is looked at while the op runs.
    cost: as the chain counts it. forward_runs: how many layer forwards it is.
    """

    phase: Phase
    first: int
    last: int
    needs: tuple[Value, ...] = ()
    ends: tuple[Value, ...] = ()
    makes: tuple[Value, ...] = ()
    in_place: bool = False
    too_late: Value | None = None
    place_bytes: int = 0
    scratch_bytes: int = 0
    in_hand_bytes: int = 0
    weighed: bool = False
    cost: float = 0
    forward_runs: int = 0


def effects(chain: Chain, op: Op) -> Effects:
    """Return what `op` takes and leaves behind on `chain`.

    Raises `InputError` if the chain has no such op. The message is the reason alone, to be put behind "cannot run:".
    """
    match op:
        case Forward():
            _check_layers(chain, op.first, op.last)
            return _forward(chain, op.first, op.last)
        case Record():
            _check_layers(chain, op.layer, op.layer)
            return _record(chain, op.layer, output=op.output)
        case Loss():
            return _loss(chain)
        case Backward():
            _check_layers(chain, op.layer, op.layer)
            return _taped_backward(chain, op.layer) if chain.taped else _backward(chain, op.layer)
        case Update():
            _check_layers(chain, op.layer, op.layer)
            if not chain.updates:
                raise InputError("this chain gathers its gradients, which are the caller's")
            gradient = (Value("r", op.layer) if chain.shared else chain.gradients[op.layer],)
            return Effects("update", op.layer, op.layer, needs=gradient, ends=gradient)
        case AllReduce():
            _check_layers(chain, op.layer, op.layer)
            if not chain.shared:
                raise InputError("no other rank has gradients of this chain")
            gradient = (chain.gradients[op.layer],)
            reduced = (Value("r", op.layer),)
            return Effects("none", op.layer, op.layer, needs=gradient, ends=gradient, makes=reduced)
        case Free():
            return _free(op.value)
        case Store():
            copy = _copy(chain, op.value)
            return Effects("disk", copy.layer, copy.layer, needs=(op.value,), makes=(copy,))
        case Load():
            return _load(chain, op.value)
        case _:
            raise not_an_op(op)


def state_of(op: Op) -> tuple[int, bool]:
    """Return the number of the state that an op needs, and whether the op ends it; (0, False) if it needs none.

    An op waits until the state is read, if it is being read, and until it is written if the op ends it. The output,
    which the loss ends, never is on its way.
    """
    match op:
        case Forward(first=first):
            return first - 1, False
        case Backward(layer=layer):
            return layer - 1, True
        case Free(value=value):
            return value.layer, True
        case Store(value=value):
            return value.layer, False
        case Record() | Loss() | AllReduce() | Update() | Load():
            return 0, False
        case _:
            raise not_an_op(op)


def _check_layers(chain: Chain, first: int, last: int) -> None:
    """Refuse layers that the chain does not have."""
    if not 1 <= first <= last <= chain.length:
        raise InputError(f"layers go from 1 to {chain.length}")


def _forward(chain: Chain, first: int, last: int) -> Effects:
    """Return what running layers first..last takes.

    A state is of use until the layer before it is reversed, and the last one until the loss is taken.
    """
    place = scratch = in_hand = 0
    if not chain.in_hand_free:
        place, scratch = chain.travelling_bytes(first, last), chain.forward_scratch(first, last)
        if chain.taped:
            place = chain.state_bytes(last)
            scratch = chain.sweep_bytes(first, last) - place
    elif first == last:
        # The source is an operand of the first layer only; while later layers run it is a checkpoint like any other.
        in_hand = chain.state_bytes(first - 1)
    return Effects(
        "forward",
        first,
        last,
        needs=(chain.states[first - 1],),
        makes=(chain.states[last],),
        too_late=(chain.deltas if last == chain.length else chain.gradients)[last],
        place_bytes=place,
        scratch_bytes=scratch,
        in_hand_bytes=in_hand,
        weighed=True,
        cost=chain.forward_cost(first, last),
        forward_runs=last - first + 1,
    )


def _loss(chain: Chain) -> Effects:
    """Return what the loss takes, which turns state L into δ^(L): in the abstract model no memory."""
    length = chain.length
    output = (chain.states[length],)
    return Effects(
        "loss",
        length,
        length,
        needs=output,
        ends=output,
        makes=(chain.deltas[length], Value("y", length)) if chain.taped else (chain.deltas[length],),
        in_place=not chain.taped,
        scratch_bytes=chain.loss_scratch,
        weighed=not chain.in_hand_free,
        cost=chain.loss,
    )


def _backward(chain: Chain, layer: int) -> Effects:
    """Return what reversing one layer takes. The first layer makes no δ^(0), and its input is the caller's."""
    stage = chain.stages[layer - 1]
    operands, gradient, inner = (chain.deltas[layer], chain.states[layer - 1]), chain.gradients[layer], layer > 1
    return Effects(
        "backward",
        layer,
        layer,
        needs=operands,
        ends=operands if inner else operands[:1],
        makes=(gradient, chain.deltas[layer - 1]) if inner else (gradient,),
        in_place=inner,
        scratch_bytes=0 if chain.in_hand_free else stage.backward_scratch,
        in_hand_bytes=chain.state_bytes(layer - 1) if chain.in_hand_free else 0,
        weighed=True,
        cost=stage.backward,
    )


def _record(chain: Chain, layer: int, *, output: bool) -> Effects:
    """Return what recording one stage takes."""
    stage = chain.stages[layer - 1]
    if stage.tape is None:
        raise InputError("the stages of this chain have no tapes")
    source, state = chain.states[layer - 1], chain.states[layer]
    place = stage.state_bytes if output and not chain.in_hand_free else 0
    alone = None if output else stage.tape.alone_cost
    return Effects(
        "forward",
        layer,
        layer,
        needs=(source,),
        ends=(source,) if layer > 1 else (),
        makes=(Value("t", layer), state) if output else (Value("t", layer),),
        too_late=chain.gradients[layer],
        place_bytes=place,
        scratch_bytes=0 if chain.in_hand_free else stage.tape.record_bytes - place,
        in_hand_bytes=chain.state_bytes(layer - 1) if chain.in_hand_free else 0,
        weighed=True,
        cost=stage.forward if alone is None else alone,
        forward_runs=int(alone is None),
    )


def _taped_backward(chain: Chain, layer: int) -> Effects:
    """Return what reversing one stage from its tape takes."""
    stage, tape, gradient = chain.stages[layer - 1], Value("t", layer), chain.gradients[layer]
    operands = (chain.deltas[layer], tape)
    return Effects(
        "backward",
        layer,
        layer,
        needs=operands,
        ends=operands,
        makes=(gradient, chain.deltas[layer - 1]) if layer > 1 else (gradient,),
        scratch_bytes=0 if chain.in_hand_free else stage.backward_scratch,
        in_hand_bytes=chain.bytes_of(tape) if chain.in_hand_free else 0,
        weighed=True,
        cost=stage.backward,
    )


def _free(value: Value) -> Effects:
    """Return what giving back a state takes. δ and gradients end by the ops that use them."""
    if value.layer == 0:
        raise InputError("the batch is the caller's")
    if value.kind not in ("x", "s"):
        raise InputError("only states are given back early")
    return Effects("none", value.layer, value.layer, needs=(value,), ends=(value,))


def _copy(chain: Chain, value: Value) -> Value:
    """Return the copy of a state on the disk, where only states of chains without tapes go."""
    if chain.taped:
        raise InputError("the states of chains with tapes stay in memory")
    if value.kind not in ("x", "s") or not 1 <= value.layer < chain.length:
        raise InputError("only states between the batch and the output go to the disk")
    return Value("d", value.layer)


def _load(chain: Chain, value: Value) -> Effects:
    """Return what reading a state back takes: its place, from the moment the transfer begins."""
    copy = (_copy(chain, value),)
    return Effects(
        "disk",
        value.layer,
        value.layer,
        needs=copy,
        ends=copy,
        makes=(value,),
        too_late=chain.gradients[value.layer],
        place_bytes=0 if chain.in_hand_free else chain.bytes_of(value),
        weighed=not chain.in_hand_free,
    )
