"""The bytes of every stage, from a run in which everything else is let go of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lowmem.torch.again import Autocast
from lowmem.torch.chain import MeasuredStage
from lowmem.torch.measuring.loss import Loss, run_loss
from lowmem.torch.measuring.meter import Readings, granule, meter
from lowmem.torch.measuring.probe import Probe
from lowmem.torch.passes import alone, record
from lowmem.torch.stages import Watch, bytes_of
from lowmem.torch.values import Tensors

UNKNOWN_LOSS = 3
"""What a loss takes beside the output, in outputs: as much as cross_entropy and mse_loss do."""


def memory(
    probes: Sequence[Probe], first: Tensors, autocast: Autocast, loss: Loss | None
) -> tuple[list[MeasuredStage], int, int]:
    """Measure the bytes of every stage, the most that the loss takes beside the output, and what stays of both."""
    found: list[_Marks] = []
    with meter(first[0].device) as bytes_now, autocast.one_stage():
        entering, kept = [first], False
        for probe in probes:
            hold = kept or probe is probes[0]
            entering, marks = _run_once(probe, entering, bytes_now.mark, autocast, hold, probe is probes[-1])
            found.append(marks)
            kept = marks.kept_of_output > 0
        (outputs,) = entering
        before = bytes_now.mark()
        of_loss = None if loss is None else run_loss(loss, outputs, probes[-1].leaving)
        bytes_now.mark()
    readings = bytes_now.readings
    stages = _stages(found, readings)
    output = stages[-1].output_bytes
    if of_loss is None:
        return stages, UNKNOWN_LOSS * output, 2 * output
    return stages, readings.peaks[before] - readings.live[before], output + of_loss.bytes


@dataclass
class _Marks:
    """The number of the first mark that was set while a stage was measured, and what needs no mark."""

    probe: Probe
    first: int
    held: bool
    kept_of_input: int
    kept_of_output: int
    gradients: dict[int, int]
    delta_bytes: int


def _run_once(
    probe: Probe, given: list[Tensors], mark: Callable[[], int], autocast: Autocast, hold: bool, last: bool
) -> tuple[list[Tensors], _Marks]:
    """Run a stage without a tape, then with one, let go of output and input, and reverse it. Returns the output.

    given: the input, in a list so that it can be let go of. hold: something else keeps the input, so it stays. last:
    the output is the caller's, and stays too.
    """
    inputs = given.pop()
    device = inputs[0].device
    first = mark()
    following = [probe.sweep(inputs, autocast)]
    mark()  # 1: the output
    with autocast.one_stage():
        outputs, tape = record(alone(probe.group), [inputs], probe.wanted)
    assert tape is not None
    mark()  # 2: output and tape
    gradients = probe.gradients(following[0])
    mark()  # 3: gradient of the output
    of_input, of_output = Watch(inputs), Watch(outputs)
    stays = (inputs if hold else None, outputs if last else None)
    del inputs, outputs
    kept = (0 if hold else of_input.bytes(), 0 if last else of_output.bytes())
    mark()  # 4: of output and input only what the tape keeps
    inlet = probe.reverse(tape, gradients)
    mark()  # 5: gradients of input and parameters, and what the graph still holds
    del tape
    mark()  # 6: gradients of input and parameters
    piece = granule(device)
    delta = bytes_of(inlet.take(), piece)
    own = probe.group.parameters()
    sizes = {id(parameter): bytes_of([parameter.grad], piece) for parameter in own}
    for parameter in own:
        parameter.grad = None
    del stays, inlet
    mark()
    return following, _Marks(probe, first, hold, *kept, sizes, delta)


def _stages(found: Sequence[_Marks], readings: Readings) -> list[MeasuredStage]:
    """Turn readings into sizes."""
    live, peaks = readings.live, readings.peaks
    counted: set[int] = set()
    gradients = []
    for marks in reversed(found):  # the gradient of a shared parameter is there from its last stage on
        gradients.append(sum(size for key, size in marks.gradients.items() if key not in counted))
        counted |= marks.gradients.keys()
    stages: list[MeasuredStage] = []
    entering = 0  # bytes of the state that enters; those of the batch are the caller's
    for number, (marks, gradient) in enumerate(zip(found, reversed(gradients), strict=True)):
        at, group = marks.first, marks.probe.group
        output = live[at + 1] - live[at]
        tape = live[at + 2] - live[at + 1] - output
        delta = live[at + 3] - live[at + 2]
        stays = entering if marks.held else marks.kept_of_input
        base = live[at + 4] - tape - marks.kept_of_output - stays - delta
        following = found[number + 1].delta_bytes if number + 1 < len(found) else 0
        stages.append(
            MeasuredStage(
                name=group.name,
                kind=group.kind,
                differentiable=marks.probe.wanted,
                random=marks.probe.random,
                lingers=live[at + 5] > live[at + 6],
                forward=marks.probe.forward,
                backward=marks.probe.backward,
                output_bytes=output,
                tape_bytes=tape,
                input_bytes_kept=stays,
                delta_bytes=max(delta, following),
                gradient_bytes=gradient,
                parameter_bytes=bytes_of(group.parameters()),
                forward_peak=peaks[at] - live[at],
                record_peak=peaks[at + 1] - live[at + 1],
                backward_peak=peaks[at + 4] - base,
                taped_sweeps=marks.probe.taped_sweeps,
                alone=marks.probe.alone,
                buffer_bytes=group.buffer_bytes() if marks.probe.writes_buffers else 0,
            )
        )
        entering = output
    return stages
