"""A saved run: one safetensors file with everything that training needs to go on to the same bits.

Its tensors are layers.<l>.weight (n_l, n_{l-1}) and layers.<l>.bias (n_l,) for l = 1..L; the other arrays of a layer,
by their names in `Layer.parameters` and `Layer.running`; optimizer.<k>, the optimizer's arrays, flat, in the order of
the layers; data.mean and data.deviation where inputs are standardised; and, where the layers have the best weights of
a run with patience, training.last, flat, with those of its last step. The metadata hold the configuration and the
position as JSON, and a checksum of everything. A file is verified in one pass through a small buffer before anything
is allocated for it.
"""

import json
from array import array as packed
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import as_path, finite, lookup
from lowmem.common.damage import damage_is_input_error
from lowmem.common.files import reason, unchanged
from lowmem.common.kinds import RUN, TORCH_NETWORK, kind_of, what_to_do
from lowmem.common.passing import PassingFile
from lowmem.common.places import advice_on, is_file
from lowmem.data.formats.columns import Schema
from lowmem.data.standardisation import Standardisation
from lowmem.errors import InputError, SaveError
from lowmem.interchange import safetensors as tensor_file
from lowmem.interchange.safetensors import BLOCK, Entry, Target, Tensor
from lowmem.network.architecture import Architecture
from lowmem.nn.mlp import MLP
from lowmem.nn.optimizers import OPTIMIZERS, Optimizer, restored
from lowmem.training.position import Position, position_of
from lowmem.training.saved_run_checks import (
    ARCHITECTURE,
    LATER_FIELDS,
    MOST,
    check_columns,
    check_names,
    check_notes,
    check_scale,
    compare,
    exact,
    expected_tensors,
    finite_number,
    plain,
)

if TYPE_CHECKING:
    from lowmem.common.disk.paged_array import PagedArray
    from lowmem.common.disk.parts import Part

Array = NDArray[Any]

FORMAT = "lowmem run 1"
NO_RUN = (
    "is not a saved run that can be resumed",
    "It is truncated, damaged or something else; use an earlier one.",
)
"""Verdict and advice for a file that holds no run."""

LAST = "training.last"
"""The tensor with the weights of the last step."""

SETTINGS = ("architecture", "optimizer", "options", "position", "data", "notes")


@dataclass(frozen=True, slots=True)
class SavedRun:
    """What a saved run says, once its file has been verified.

    path: the file.
    architecture: of the network.
    optimizer: with its settings and its number of steps, without its arrays.
    options: keywords of the trainer.
    position: where the run stood.
    data: marks that tell the training data from other data.
    notes: what the caller of `Trainer.save` wanted to find again, such as the flags of a command.
    places: offsets in the file of the layers' tensors, in their order.
    others: offsets in the file of the other tensors, by name.
    begin: offset in the file of the first tensor.
    header_code: checksum of the bytes before the first tensor, among them the checksum of the tensors.
    """

    path: Path
    architecture: Architecture
    optimizer: Optimizer
    options: dict[str, Any]
    position: Position
    data: dict[str, Any]
    notes: dict[str, Any]
    places: "packed[int]" = field(repr=False)
    others: Mapping[str, int] = field(repr=False)
    begin: int = field(repr=False)
    header_code: int = field(repr=False)

    def network(self, disk: str | PathLike[str] | None = None) -> MLP:
        """Return the network with its parameters. Raises `InputError` if the file has changed since.

        disk: folder for a file in which the parameters live, as of `MLP`.
        """
        mlp = MLP.empty(self.architecture, disk)
        with self._opened() as stream:
            for place, (_, target) in zip(self.places, _named(mlp), strict=True):
                tensor_file.read_into(stream, place, target)
        return mlp

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes where labels were text, by class number."""
        names = self.data.get("class_names")
        return None if names is None else tuple(names)

    @property
    def columns(self) -> Schema | None:
        """The columns of the table that the network was trained on, None if it was none or they are not known."""
        held = self.data.get("columns")
        return None if held is None else Schema.from_dict(held)

    @property
    def scale(self) -> float | None:
        """What inputs are multiplied by, None if that is not known, as of a run of an earlier version."""
        return self.data.get("scale")

    def standardisation(self) -> Standardisation | None:
        """Return how inputs were standardised, None if they were not."""
        if "data.mean" not in self.others:
            return None
        mean, deviation = (np.empty(self.architecture.widths[0]) for _ in range(2))
        self._load({"data.mean": mean, "data.deviation": deviation})
        return Standardisation(mean, deviation)

    def load_states(self, states: Sequence["Array | PagedArray"], layout: Iterable[tuple[int, int, int]]) -> None:
        """Read the optimizer's arrays, or parts of them. Raises `InputError` if the file has changed.

        layout: of the parts, where each lies among all parameters and in `states`, and its numbers.
        """
        parts = [*layout]
        with self._opened() as stream:
            for number, array in enumerate(states, start=1):
                for place, own, count in parts:
                    at = self.others[f"optimizer.{number}"] + place * array.dtype.itemsize
                    stop = own + count
                    target = array[own:stop] if isinstance(array, np.ndarray) else array.part(own, stop)
                    tensor_file.read_into(stream, at, target)

    def load_last(self, learned: Target) -> None:
        """Read the weights of the last step into a flat array, where the layers of the file have the best ones."""
        if self.position.aside:
            self._load({LAST: learned})

    def _load(self, tensors: Mapping[str, Target]) -> None:
        """Read tensors that belong to no layer into arrays of the same shapes."""
        with self._opened() as stream:
            for name, array in tensors.items():
                tensor_file.read_into(stream, self.others[name], array)

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """Open the file, and refuse it if it is no longer the one that was verified."""
        with damage_is_input_error(self.path, *NO_RUN, refusals_too=True), PassingFile(self.path) as stream:
            if tensor_file.header_code(stream, self.begin) != self.header_code:
                raise ValueError("it has changed since it was verified")
            yield stream


def save_run(
    path: str | Path,
    mlp: MLP,
    optimizer: Optimizer,
    optimizer_state: Sequence[Tensor],
    *,
    options: dict[str, Any],
    position: Position,
    data: dict[str, Any],
    notes: dict[str, Any],
    standardisation: Standardisation | None = None,
    last: Tensor | None = None,
) -> None:
    """Write a run to `path`, replacing an earlier file only when the new one is complete.

    optimizer_state: the optimizer's arrays, flat.
    options, position, data, notes: as in `SavedRun`.
    standardisation: of the inputs, None if they are not standardised.
    last: the weights of the last step, flat; None if they are those of the network.

    Raises `SaveError` if the file cannot be written or a parameter is not finite, `InputError` for notes that JSON
    cannot hold. An earlier file is unchanged then.
    """

    def tensors() -> Iterator[tuple[str, Tensor]]:
        yield from _named(mlp)
        yield from ((f"optimizer.{number}", array) for number, array in enumerate(optimizer_state, start=1))
        if standardisation is not None:
            yield from (("data.mean", standardisation.mean), ("data.deviation", standardisation.deviation))
        if last is not None:
            yield LAST, last

    def check(name: str, piece: Array) -> None:
        if not finite(piece):
            raise SaveError(f"{path} is not written: {name} holds NaN or infinity. {unchanged(path)}")

    architecture = mlp.architecture
    settings = {
        "architecture": architecture.to_dict(),
        "optimizer": {"name": optimizer.name, "step_count": optimizer.step_count, **optimizer.settings()},
        "options": options,
        "position": asdict(position) | {"aside": last is not None},
        "data": data,
        "notes": notes,
    }
    check_notes(notes)
    text = json.dumps(settings, allow_nan=False, default=plain)
    code = tensor_file.checksum(tensors, crc32(text.encode()), check)
    try:
        tensor_file.write(Path(path), tensors, {"format": FORMAT, "settings": text, "crc32": f"{code:08x}"})
    except OSError as problem:
        raise SaveError(f"{path} cannot be written: {reason(problem)}. {unchanged(path)}") from None


def open_run(path: str | Path) -> SavedRun:
    """Verify a saved run from the first byte to the last, and return what it says.

    Raises `InputError` for a file that is missing, truncated, damaged, of another kind or of another version, and for
    one whose tensors do not fit its network or are not finite.
    """
    path = as_path("path", path)
    if not is_file(path):
        raise InputError(f"there is no saved run {str(path)!r}. {advice_on(path)}")
    kind = kind_of(path)
    if kind == TORCH_NETWORK:  # a damaged header is said as such
        with damage_is_input_error(path, *NO_RUN, refusals_too=True), PassingFile(path) as stream:
            tensor_file.read_header(stream)
    if kind not in (None, RUN):
        raise InputError(f"{path} {NO_RUN[0]}. {what_to_do(path)}")
    with damage_is_input_error(path, *NO_RUN, refusals_too=True), PassingFile(path) as stream:
        metadata, entries, begin = tensor_file.read_header(stream)
        if metadata.get("format") != FORMAT or metadata.keys() != {"format", "settings", "crc32"}:
            kind = metadata.get("format", "safetensors without the marks of one")
            raise ValueError(f"it is no saved run that this version knows ({kind[:60]})")
        settings = json.loads(metadata["settings"], parse_float=finite_number, parse_constant=finite_number)
        run = _read_settings(path, settings, entries, begin, tensor_file.header_code(stream, begin))
        code = _checksum(stream, run, entries, crc32(metadata["settings"].encode()))
        if metadata["crc32"] != f"{code:08x}":
            raise ValueError("its content was altered, as its checksum says")
        return run


def _read_settings(path: Path, settings: Any, entries: Mapping[str, Entry], begin: int, code: int) -> SavedRun:  # noqa: ANN401
    """Return the run that the metadata describe. Raises `ValueError` unless it fits the tensors in the file."""
    exact("settings", settings, dict.fromkeys(SETTINGS, (dict,)))
    shape = settings["architecture"]
    if isinstance(shape, dict):
        shape = LATER_FIELDS | shape  # a run of an earlier version does without
    exact("architecture", shape, ARCHITECTURE)
    architecture = Architecture.from_dict(shape)
    rest = dict(settings["optimizer"])
    name, steps = rest.pop("name", None), rest.pop("step_count", None)
    states = lookup("optimizer", name, OPTIMIZERS).states
    if type(steps) is not int or not 0 <= steps < MOST:
        raise ValueError(f"its optimizer has made {steps!r} steps")
    optimizer = restored(name, rest)
    optimizer.step_count = steps
    position = Position(**position_of(settings["position"]))
    check_names(settings["data"].get("class_names"), architecture)
    check_columns(settings["data"].get("columns"), architecture)
    check_scale(settings["data"].get("scale"))
    expected = expected_tensors(architecture, states, settings["data"].get("standardised") is True)
    if position.aside:
        expected[LAST] = (architecture.dtype, (architecture.parameters + architecture.running,))
    compare(entries, expected)
    starts = [begin + entry.start for _, entry in _in_order(architecture, states, entries)]
    of_layers = sum(1 for _ in _names(architecture))
    others = filter(entries.__contains__, _other_names(states))
    return SavedRun(
        path,
        architecture,
        optimizer,
        settings["options"],
        position,
        settings["data"],
        settings["notes"],
        packed("q", starts[:of_layers]),
        dict(zip(others, starts[of_layers:], strict=True)),
        begin,
        code,
    )


def _checksum(stream: BinaryIO, run: SavedRun, entries: Mapping[str, Entry], code: int) -> int:
    """Return the checksum of all tensors, read once through a small buffer.

    code: the checksum of what comes before them.
    Raises `ValueError` for a number that is not finite.
    """
    buffer = np.empty(BLOCK, np.uint8)
    for name, entry in _in_order(run.architecture, run.optimizer.states, entries):
        for start in range(entry.start, entry.stop, BLOCK):
            block = buffer[: min(BLOCK, entry.stop - start)]
            tensor_file.read_into(stream, run.begin + start, block)
            code = crc32(block.data, code)
            if not finite(block.view(entry.dtype)):
                raise ValueError(f"tensor {name!r} holds NaN or infinity")
    return code


def _in_order(architecture: Architecture, states: int, entries: Mapping[str, Entry]) -> Iterator[tuple[str, Entry]]:
    """Yield tensors in the order of the checksum, whatever their order in the file.

    states: how many arrays the optimizer has.
    """
    for name in (*_names(architecture), *_other_names(states)):
        if name in entries:
            yield name, entries[name]


def _names(architecture: Architecture) -> Iterator[str]:
    """Yield the names of the layers' tensors, in their order."""
    for number, layer in enumerate(architecture.each_layer, start=1):
        yield from (f"layers.{number}.{name}" for name in (*layer.parameters, *layer.running))


def _other_names(states: int) -> list[str]:
    """Return the names of the tensors that belong to no layer, in their order; a run may lack those behind."""
    return [*(f"optimizer.{number}" for number in range(1, states + 1)), "data.mean", "data.deviation", LAST]


def _named(mlp: MLP) -> Iterator[tuple[str, "Array | Part"]]:
    """Yield name and array of each of the layers' tensors, in the same order as `_names`."""
    for number, of_layer in enumerate(mlp.arrays, start=1):
        yield from ((f"layers.{number}.{name}", mlp.streamed(array)) for name, array in of_layer.items())
