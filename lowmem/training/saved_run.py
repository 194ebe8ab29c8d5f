"""A saved run: one safetensors file with all that training needs to go on to the same bits.

Tensors: layers.<l>.weight (n_l, n_{l-1}) and layers.<l>.bias (n_l,) for l = 1..L, and the others of a layer by their
names in `Layer.parameters` and `Layer.running`; optimizer.<k>, the optimizer's arrays, flat, in the order of the
layers; data.mean and data.deviation where inputs are standardised. The metadata hold the configuration and the
position as JSON, and a checksum of everything. A file is verified in one pass through a small buffer before anything
is allocated for it.
"""

import json
from array import array as packed
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import finite, lookup
from lowmem.common.damage import damage_is_input_error
from lowmem.data.standardisation import Standardisation
from lowmem.errors import InputError, SaveError
from lowmem.interchange import safetensors as tensor_file
from lowmem.interchange.safetensors import BLOCK, Entry
from lowmem.network.architecture import Architecture
from lowmem.nn.mlp import MLP
from lowmem.nn.optimizers import OPTIMIZERS, Optimizer, restored
from lowmem.training.saved_run_checks import (
    ARCHITECTURE,
    LATER_FIELDS,
    POSITION,
    check_names,
    compare,
    exact,
    expected_tensors,
)

Array = NDArray[Any]

FORMAT = "lowmem run 1"
OTHERS = ("optimizer.1", "optimizer.2", "data.mean", "data.deviation")
"""Tensors that are no layer's, in their order."""

NO_RUN = (
    "is not a saved run that can be resumed",
    "It is truncated, damaged or something else; use an earlier one.",
)
"""Verdict and advice for a file that is none."""

SETTINGS = ("architecture", "optimizer", "options", "position", "data", "notes")


@dataclass(slots=True)
class Position:
    """Where a run stands; with the seed it says which sample comes next.

    epoch, batch: epochs done, and batches done of the next one. steps: in all. until: the epoch to stop after.
    loss, samples, skipped, seconds: of the epoch begun: the sum of the samples' losses, and how many they were, steps
    without an update, and time. best, waited: for early stopping: the best loss so far and the epochs since.
    """

    epoch: int = 0
    batch: int = 0
    steps: int = 0
    until: int = 0
    loss: float = 0.0
    samples: int = 0
    skipped: int = 0
    seconds: float = 0.0
    best: float | None = None
    waited: int = 0

    def next_epoch(self) -> None:
        """Begin another epoch."""
        self.epoch += 1
        self.batch = self.samples = self.skipped = 0
        self.loss = self.seconds = 0.0


@dataclass(frozen=True, slots=True)
class SavedRun:
    """What a file says, once it has been verified.

    architecture, optimizer: as they were. options: keywords of the trainer. position: where it stood. data: what
    tells the data from others. notes: what the caller wanted kept, such as the flags of a command.
    places: where the tensors of each layer begin, in turn; others: and the other tensors. begin: the first of all.
    header_code: checksum of what comes before it, the checksum of the tensors with it.
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

    def network(self) -> MLP:
        """Return the network with its weights."""
        mlp = MLP.empty(self.architecture)
        with self._opened() as stream:
            for place, (_, array) in zip(self.places, _named(mlp.arrays), strict=True):
                tensor_file.read_into(stream, place, array)
        return mlp

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes where labels were text, by class number."""
        names = self.data.get("class_names")
        return None if names is None else tuple(names)

    def standardisation(self) -> Standardisation | None:
        """Return how inputs were standardised, if they were."""
        if "data.mean" not in self.others:
            return None
        made = Standardisation(*(np.empty(self.architecture.widths[0]) for _ in range(2)))
        self.load({"data.mean": made.mean, "data.deviation": made.deviation})
        return made

    def load(self, tensors: Mapping[str, Array]) -> None:
        """Read tensors that are no layer's into arrays of the same names and shapes.

        Raises `InputError` if the file has changed.
        """
        with self._opened() as stream:
            for name, array in tensors.items():
                tensor_file.read_into(stream, self.others[name], array)

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """Open the file, which must still be the one that was verified."""
        with damage_is_input_error(self.path, *NO_RUN, refusals_too=True), self.path.open("rb", buffering=0) as stream:
            if tensor_file.header_code(stream, self.begin) != self.header_code:
                raise ValueError("it has changed since it was verified")
            yield stream


def save_run(
    path: str | Path,
    mlp: MLP,
    optimizer: Optimizer,
    optimizer_state: tuple[Array, ...],
    *,
    options: dict[str, Any],
    position: Position,
    data: dict[str, Any],
    notes: dict[str, Any],
    standardisation: Standardisation | None = None,
) -> None:
    """Write a run to `path`, replacing an earlier one only when the new one is complete.

    Raises `SaveError` if it cannot be written (the earlier file stands) or if a parameter is not finite.
    """

    def tensors() -> Iterator[tuple[str, Array]]:
        yield from _named(mlp.arrays)
        yield from ((f"optimizer.{number}", array) for number, array in enumerate(optimizer_state, start=1))
        if standardisation is not None:
            yield from (("data.mean", standardisation.mean), ("data.deviation", standardisation.deviation))

    for name, array in tensors():
        if not finite(array):
            raise SaveError(f"{path} is not written: {name} holds NaN or infinity. An earlier file stands.")
    architecture = mlp.architecture
    settings = {
        "architecture": architecture.to_dict(),
        "optimizer": {"name": optimizer.name, "step_count": optimizer.step_count, **optimizer.settings()},
        "options": options,
        "position": asdict(position),
        "data": data,
        "notes": notes,
    }
    text = json.dumps(settings, allow_nan=False, default=int)  # NumPy's whole numbers
    code = tensor_file.checksum(tensors, crc32(text.encode()))
    try:
        tensor_file.write(Path(path), tensors, {"format": FORMAT, "settings": text, "crc32": f"{code:08x}"})
    except OSError as problem:
        raise SaveError(f"{path} cannot be written: {problem.strerror or problem}. An earlier file stands.") from None


def open_run(path: str | Path) -> SavedRun:
    """Verify a saved run from the first byte to the last, and return what it says.

    Raises `InputError`, in one line, for a file that is missing, truncated, damaged, of another kind or of another
    version, and for one whose tensors are not those of its network or not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no saved run {str(path)!r}. Check the path.")
    with damage_is_input_error(path, *NO_RUN, refusals_too=True), path.open("rb", buffering=0) as stream:
        metadata, entries, begin = tensor_file.read_header(stream, path.stat().st_size)
        if metadata.get("format") != FORMAT or metadata.keys() != {"format", "settings", "crc32"}:
            kind = metadata.get("format", "safetensors without the marks of one")
            raise ValueError(f"it is no saved run that this version knows ({kind[:60]})")
        settings = json.loads(metadata["settings"])
        run = _read_settings(path, settings, entries, begin, tensor_file.header_code(stream, begin))
        code = _checksum(stream, run, entries, crc32(metadata["settings"].encode()))
        if metadata["crc32"] != f"{code:08x}":
            raise ValueError("its checksum is not that of its content, which was altered")
        return run


def _read_settings(path: Path, settings: Any, entries: Mapping[str, Entry], begin: int, code: int) -> SavedRun:  # noqa: ANN401
    """Make a run of what the metadata say, if that is consistent with the tensors."""
    exact("settings", settings, dict.fromkeys(SETTINGS, (dict,)))
    shape = settings["architecture"]
    if isinstance(shape, dict):
        shape = LATER_FIELDS | shape  # a run of an earlier version does without
    exact("architecture", shape, ARCHITECTURE)
    architecture = Architecture.from_dict(shape)
    kept = dict(settings["optimizer"])
    name, steps = kept.pop("name", None), kept.pop("step_count", None)
    facts = lookup("optimizer", name, OPTIMIZERS)
    if type(steps) is not int or steps < 0:
        raise ValueError(f"its optimizer has made {steps!r} steps")
    optimizer = restored(name, kept)
    optimizer.step_count = steps
    exact("position", settings["position"], POSITION)
    position = Position(**settings["position"])
    if min(value for value in asdict(position).values() if type(value) is int) < 0:
        raise ValueError("its position has a negative number")
    check_names(settings["data"].get("class_names"), architecture)
    compare(entries, expected_tensors(architecture, facts.states, settings["data"].get("standardised") is True))
    starts = [begin + entry.start for _, entry in _in_order(architecture, entries)]
    of_layers = sum(1 for _ in _names(architecture))
    return SavedRun(
        path,
        architecture,
        optimizer,
        settings["options"],
        position,
        settings["data"],
        settings["notes"],
        packed("q", starts[:of_layers]),
        dict(zip(filter(entries.__contains__, OTHERS), starts[of_layers:], strict=True)),
        begin,
        code,
    )


def _checksum(stream: BinaryIO, run: SavedRun, entries: Mapping[str, Entry], code: int) -> int:
    """Return the checksum of all tensors, read once through a small buffer: every number must be finite."""
    buffer = np.empty(BLOCK, np.uint8)
    for name, entry in _in_order(run.architecture, entries):
        for start in range(entry.start, entry.stop, BLOCK):
            block = buffer[: min(BLOCK, entry.stop - start)]
            tensor_file.read_into(stream, run.begin + start, block)
            code = crc32(block.data, code)
            if not finite(block.view(entry.dtype)):
                raise ValueError(f"tensor {name!r} holds NaN or infinity")
    return code


def _in_order(architecture: Architecture, entries: Mapping[str, Entry]) -> Iterator[tuple[str, Entry]]:
    """Yield tensors in the order of the checksum, whatever their order in the file."""
    for name in (*_names(architecture), *OTHERS):
        if name in entries:
            yield name, entries[name]


def _names(architecture: Architecture) -> Iterator[str]:
    """Yield the names of all layers' tensors, in their order."""
    for number, layer in enumerate(architecture.each_layer, start=1):
        yield from (f"layers.{number}.{name}" for name in (*layer.parameters, *layer.running))


def _named(arrays: Sequence[Mapping[str, Array]]) -> Iterator[tuple[str, Array]]:
    """Name the arrays of all layers, one by one."""
    for number, its in enumerate(arrays, start=1):
        yield from ((f"layers.{number}.{name}", array) for name, array in its.items())
