"""What a measurement says of a model: seconds and bytes of its stages, as a table, as JSON, and to plan with."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from lowmem.chain import Chain, Stage, Tape
from lowmem.common.tables import Table
from lowmem.errors import InputError
from lowmem.torch.again import Autocast
from lowmem.torch.reading import tuples, typed
from lowmem.torch.values import Tensors
from lowmem.units import format_bytes


@dataclass(frozen=True, slots=True)
class MeasuredStage:
    """A stage that is reversed: times in seconds, sizes in bytes.

    name, kind: its place in the model, and what it is made of. differentiable: for each tensor that enters, whether it
    has a gradient. random: whether its forward draws random numbers.
    lingers: whether its graph holds memory after it was reversed, as custom autograd functions may.
    forward: of a run without a tape. backward: of a run with a tape and its reversal, without `forward`.
    output_bytes, tape_bytes: of what leaves, and of what the tape keeps beside input and output. input_bytes_kept: of
    the input, as far as it stays while the tape does.
    delta_bytes, gradient_bytes: of the gradients of the output and of the parameters; of shared parameters
    they count with the last stage. parameter_bytes: of the parameters themselves.
    forward_peak, record_peak: the most that the two kinds of forward allocate. backward_peak: the most that lives
    while the stage is reversed, its tape included.
    taped_sweeps: whether a forward without a tape saves one all the same and drops it at its end, as of stages that
    differentiate something themselves. buffer_bytes: of buffers that it writes to, those of BatchNorm left out.
    alone: seconds of recording the stage for its tape alone, None where that spares nothing.
    """

    name: str
    kind: str
    differentiable: tuple[bool, ...]
    random: bool
    lingers: bool
    forward: float
    backward: float
    output_bytes: int
    tape_bytes: int
    input_bytes_kept: int
    delta_bytes: int
    gradient_bytes: int
    parameter_bytes: int
    forward_peak: int
    record_peak: int
    backward_peak: int
    taped_sweeps: bool = False
    buffer_bytes: int = 0
    alone: float | None = None

    @property
    def kept_bytes(self) -> int:
        """What stays between recording and backward, the output left out."""
        return self.tape_bytes + self.input_bytes_kept

    @property
    def temporary_bytes(self) -> int:
        """The most working memory of a forward, beside its output and tape."""
        return max(self.forward_peak - self.output_bytes, self.record_peak - self.output_bytes - self.tape_bytes)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a plan holds for: a batch of this shape or smaller, in this type, on this kind of device.

    trained: which parameters have gradients. autocast: the types that operations are cast to, if they are.
    orders: how each tensor lies in memory. evaluating: names of modules in evaluation mode.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    differentiable: tuple[bool, ...]
    device: str
    autocast: tuple[str, ...]
    trained: tuple[bool, ...]
    orders: tuple[str, ...] = ()
    evaluating: tuple[str, ...] = ()

    @classmethod
    def of(cls, inputs: Tensors, autocast: Autocast, model: torch.nn.Module) -> "Sample":
        """Describe a batch, and how it is run."""
        return cls(
            shapes=tuple(tuple(tensor.shape) for tensor in inputs),
            dtypes=tuple(str(tensor.dtype) for tensor in inputs),
            differentiable=tuple(tensor.requires_grad for tensor in inputs),
            device=inputs[0].device.type,
            autocast=tuple(f"{kind} {dtype}" for kind, enabled, dtype in autocast.states if enabled),
            trained=tuple(parameter.requires_grad for parameter in model.parameters()),
            orders=tuple(map(_order, inputs)),
            evaluating=tuple(name for name, module in model.named_modules() if name and not module.training),
        )

    def check(self, other: "Sample") -> None:
        """Refuse a batch that the plan does not hold for. A smaller one needs no more memory."""
        smaller = len(self.shapes) == len(other.shapes) and all(
            len(mine) == len(theirs) and all(a >= b for a, b in zip(mine, theirs, strict=True))
            for mine, theirs in zip(self.shapes, other.shapes, strict=True)
        )
        if not smaller:
            raise _other("shapes up to", _shapes(self.shapes), _shapes(other.shapes))
        for name, text in _NAMES.items():
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise _other(text, mine, theirs)
        if self.trained != other.trained:
            raise _since("parameters have been frozen or unfrozen")
        if self.evaluating != other.evaluating:
            raise _since("modules have been put in evaluation mode, or back in training,")


_NAMES = {
    "dtypes": "inputs of type",
    "device": "the device",
    "differentiable": "requires_grad of the inputs",
    "autocast": "autocast to",
    "orders": "inputs that lie in memory",
}


def _order(tensor: torch.Tensor) -> str:
    """Say how a tensor lies in memory: what its layers copy, and so what they take, depends on it."""
    if tensor.is_contiguous():
        return "contiguous"
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return "channels last"
    return "with gaps or transposed"


def _other(what: str, planned: object, given: object) -> InputError:
    """Return the error for a batch that differs from the sample."""
    return InputError(
        f"the plan was made for {what} {planned or 'nothing'}; got {given or 'nothing'}. "
        "Plan with a sample like this batch: lowmem.torch.plan(model, sample, budget)."
    )


def _since(what: str) -> InputError:
    """Return the error for a model that is not as it was."""
    return InputError(f"{what} since the plan was made. Plan anew with lowmem.torch.plan.")


def _shapes(shapes: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join("x".join(map(str, shape)) or "one number" for shape in shapes)


@dataclass(frozen=True)
class MeasuredChain:
    """The stages of a model, measured.

    groups: how many of the model's children each stage is, those of nested Sequentials counted. frozen: how many of
    these stages, at the start, are not trained and have no backward; `stages` are the others.
    source_bytes: bytes of a step that no plan changes: the output of frozen stages, states of random generators,
    copies of buffers that stages write to. frozen_peak: the most that lives while the frozen stages run.
    loss_peak: the most that the loss takes beside the model's output, from its forward to the gradient of the output.
    kept_bytes: bytes of the output and the loss, which the caller holds until the end of the step.
    parameter_bytes: of all parameters, which no plan counts.
    """

    stages: tuple[MeasuredStage, ...]
    groups: tuple[int, ...]
    frozen: int
    source_bytes: int
    loss_peak: int
    kept_bytes: int
    parameter_bytes: int
    sample: Sample
    frozen_peak: int = 0

    def chain(self, *, accumulating: bool = False) -> Chain:
        """Return the chain that planners see.

        accumulating: the gradients of all parameters are there before the step, and it adds to them.
        """
        stages = tuple(
            Stage(
                forward=stage.forward,
                backward=stage.backward,
                state_bytes=stage.output_bytes,
                delta_bytes=stage.delta_bytes,
                forward_scratch=stage.forward_peak - stage.output_bytes,
                backward_scratch=stage.backward_peak - stage.kept_bytes - stage.delta_bytes,
                tape=Tape(
                    stage.kept_bytes,
                    stage.record_peak,
                    0 if accumulating else stage.gradient_bytes,
                    alone_cost=stage.alone,
                ),
            )
            for stage in self.stages
        )
        there = sum(stage.gradient_bytes for stage in self.stages) if accumulating else 0
        return Chain(
            stages,
            loss_scratch=self.loss_peak,
            source_bytes=self.source_bytes + there,
            caller_bytes=self.kept_bytes,
        )

    def table(self) -> Table:
        """Return the stages as a table."""
        columns = ["stage", "", "forward", "backward", "output", "tape", "temporaries", "gradients", "parameters"]
        rows = []
        for stage in self.stages:
            sizes = (stage.output_bytes, stage.tape_bytes, stage.temporary_bytes, stage.gradient_bytes)
            times = (f"{1e3 * seconds:.2f} ms" for seconds in (stage.forward, stage.backward))
            rows.append([stage.name, stage.kind, *times, *map(format_bytes, (*sizes, stage.parameter_bytes))])
        title = f"{len(self.stages)} stages, batch {_shapes(self.sample.shapes)} on {self.sample.device}"
        note = "tape: kept between forward and backward, beside input and output."
        if self.frozen:
            note += f" {self.frozen} stages before these are frozen, and run once."
        return Table(title, columns, rows, note)

    def __str__(self) -> str:
        """Write the table."""
        return str(self.table())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "MeasuredChain":
        """Read what `to_dict` returned, from JSON or not. Raises `TypeError` or `KeyError` for anything else."""
        read = {name: tuples(value) for name, value in data.items()}
        sample = {name: tuples(value) for name, value in read.pop("sample").items()}
        stages = [{name: tuples(value) for name, value in stage.items()} for stage in read.pop("stages")]
        measured: list[Any] = [typed(MeasuredStage(**stage)) for stage in stages]
        return typed(cls(stages=tuple(measured), sample=typed(Sample(**sample)), **read))
