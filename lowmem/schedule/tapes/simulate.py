"""The simulator of schedules with tapes: refuses what cannot run, and counts bytes and costs op by op."""

from dataclasses import dataclass

from lowmem.errors import ScheduleError
from lowmem.schedule.ops import Backward, Forward, Loss
from lowmem.schedule.tapes.chain import TapeChain
from lowmem.schedule.tapes.ops import Record, TapeSchedule


@dataclass(frozen=True, slots=True)
class TapeTrace:
    """What a schedule takes: most bytes alive, the op where that is, forwards run, cost of all forwards and backwards.

    held: bytes alive before each op.
    """

    peak_bytes: int
    peak_at: int
    forward_runs: int
    cost: float
    held: tuple[int, ...]


def simulate(chain: TapeChain, schedule: TapeSchedule) -> TapeTrace:
    """Check that `schedule` reverses `chain` and say what it takes. Raises `ScheduleError` if it does not."""
    stages, length = chain.stages, chain.length
    states, tapes = {0}, set[int]()
    delta, held, runs, cost = 0, chain.source_bytes, 0, 0.0
    peak = peak_at = 0
    helds: list[int] = []
    for index, op in enumerate(schedule.ops):
        before, now = held, held
        match op:
            case Forward(first, last):
                ok = first - 1 in states and last not in states and first <= last <= (delta or length + 1) - 1
                source = chain.state_bytes[first - 1]
                inner = range(first, last + 1)
                reach = (stages[n - 1].forward_peak + (n > first) * chain.state_bytes[n - 1] for n in inner)
                now += (-source if first == last else 0) if chain.in_hand_free else max(reach, default=0)
                states.add(last)
                held += chain.state_bytes[last]
                runs, cost = runs + last - first + 1, cost + sum(stages[n - 1].forward for n in inner)
            case Record(layer):
                ok = layer - 1 in states and layer not in states | tapes and layer <= (delta or length)
                stage, source = stages[layer - 1], chain.state_bytes[layer - 1]
                now += -source if chain.in_hand_free else stage.record_peak
                states -= {layer - 1} - {0}
                tapes.add(layer)
                held += stage.tape_bytes - source
                if layer != delta:
                    states.add(layer)
                    held += stage.state_bytes
                runs, cost = runs + 1, cost + stage.forward
            case Loss():
                ok = length in states and not delta
                now = 0 if chain.in_hand_free else held + chain.loss_peak
                states -= {length}
                held += stages[-1].delta_bytes + chain.kept_bytes - stages[-1].state_bytes
                delta = length
            case Backward(layer):
                ok = delta == layer and layer in tapes
                stage = stages[layer - 1]
                own = stage.tape_bytes + stage.delta_bytes
                now += -own if chain.in_hand_free else stage.backward_peak - own
                tapes -= {layer}
                delta = layer - 1
                held += stage.gradient_bytes - own + (stages[layer - 2].delta_bytes if layer > 1 else 0)
                cost += stage.backward
        if not ok:
            raise ScheduleError(f"op {index}, {op}, cannot run.", index=index)
        helds.append(before)
        if now > peak:
            peak, peak_at = now, index
    if delta or tapes or states != {0} or not isinstance(schedule.ops[-1], Backward):
        raise ScheduleError("the schedule ends with work undone or values left behind.", index=len(schedule))
    return TapeTrace(peak, peak_at, runs, cost, tuple(helds))
