"""Networks to and from PyTorch, without PyTorch: safetensors files with the tensors of an `nn.Sequential`.

`lowmem.interchange.torch_modules` says which module stands where, and how its tensors are called. Arrays are streamed:
they go to the file, and come from it, without a copy.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from lowmem import __version__
from lowmem.common.checks import as_path, finite, instance, one_of
from lowmem.common.damage import damage_is_input_error
from lowmem.common.files import reason, unchanged
from lowmem.common.kinds import TORCH_NETWORK, kind_of, what_to_do
from lowmem.common.passing import PassingFile
from lowmem.common.places import advice_on, is_file
from lowmem.data.formats.columns import Schema
from lowmem.data.standardisation import Standardisation
from lowmem.errors import InputError, SaveError
from lowmem.interchange import safetensors as tensor_file
from lowmem.interchange.data_facts import DataFacts
from lowmem.interchange.safetensors import Entry
from lowmem.interchange.torch_modules import shapes, tensors
from lowmem.network.architecture import Architecture, architecture_of
from lowmem.network.specs import ACTIVATIONS, LOSSES
from lowmem.nn.mlp import MLP

SHOWN = 5
"""How many names an error lists of each kind that differs."""

NO_NETWORK = (
    "is no safetensors file that can be imported",
    "Write it with safetensors.torch.save_file(net.state_dict(), path) or lowmem.export_torch.",
)
"""Verdict and advice for a file that holds no network."""


def export_torch(
    mlp: MLP,
    path: str | Path,
    *,
    standardisation: Standardisation | None = None,
    scale: float = 1.0,
    class_names: Sequence[str] | None = None,
    columns: Schema | None = None,
) -> None:
    """Write a network to a safetensors file that PyTorch loads; `torch_code` returns the code that loads it.

    standardisation: how inputs are standardised before the network, x ← (x - mean) / deviation.
    scale: what inputs are multiplied by instead, such as 1/255 for pixels.
    class_names, columns: of the data that the network was trained on (`Trainer.class_names`, `Trainer.columns`).

    All of these are written into the file's metadata; the code of `torch_code` scales inputs if it is told to.

    The metadata also hold the architecture, so that `import_torch` needs nothing but the file.

    Raises `SaveError` if the file cannot be written, or if a parameter is not finite. An earlier file stays unchanged.

    >>> import lowmem as lm
    >>> mlp = lm.MLP(lm.Architecture((4, 8, 3)))
    >>> lm.export_torch(mlp, "net.safetensors")
    >>> lm.import_torch("net.safetensors").architecture.widths
    (4, 8, 3)
    """
    path = as_path("path", path)
    arrays = tensors(instance("mlp", mlp, MLP, "a network, such as lowmem.MLP(architecture)"))
    named = {name: mlp.streamed(array) for name, array in arrays.items()}
    facts = DataFacts.given(standardisation, scale, class_names, columns)
    for name, tensor in named.items():
        if not all(map(finite, tensor_file.pieces_of(tensor))):
            raise SaveError(f"{path} is not written: {name} holds NaN or infinity. {unchanged(path)}")
    metadata = {"format": "pt", "lowmem": __version__, "architecture": json.dumps(mlp.architecture.to_dict())}
    metadata |= facts.to_metadata()
    try:
        tensor_file.write(Path(path), named.items, metadata)
    except OSError as problem:
        raise SaveError(f"{path} cannot be written: {reason(problem)}. {unchanged(path)}") from None


def import_torch(
    path: str | Path,
    architecture: Architecture | None = None,
    *,
    activation: str | None = None,
    loss: str | None = None,
    disk: str | PathLike[str] | None = None,
) -> MLP:
    """Return the network of a safetensors file that holds the tensors of an `nn.Sequential`.

    architecture: the network that the file must hold. If None, the metadata of a file written by `export_torch` say
        which; for other files the widths are those of the tensors, and activation and loss must be given.
    activation, loss: of the network, where the file does not say them.
    disk: folder for a file in which the parameters live, as of `MLP`.

    Raises `InputError` for a file that is missing, damaged or holds another network. The message lists the names that
    are missing or unexpected, and the tensors of a wrong shape or dtype.

    >>> import lowmem as lm
    >>> lm.export_torch(lm.MLP(lm.Architecture((4, 8, 3), "gelu")), "net.safetensors")
    >>> print(lm.import_torch("net.safetensors").architecture)
    2 layers (4, 8, 3), gelu, cross_entropy, float32, 67 parameters
    """
    return open_torch(path, architecture, activation=activation, loss=loss).network(disk)


@dataclass(frozen=True, slots=True)
class TorchFile:
    """A file that has been opened and checked: its tensors have the names and shapes of `architecture`.

    facts: what is done to inputs before the network, and the names of columns and classes.
    entries: the tensors' places in the file, counted from `begin`. No tensor has been read yet.
    header_code: the checksum of all before `begin`, by which a file that has taken this one's name is found.
    """

    path: Path
    architecture: Architecture
    facts: DataFacts
    entries: Mapping[str, Entry] = field(repr=False)
    begin: int = field(repr=False)
    header_code: int = field(repr=False)

    def network(self, disk: str | PathLike[str] | None = None) -> MLP:
        """Return the network; its parameters are read from the file to their places, without a copy.

        disk: folder for a file in which they live, as of `MLP`.
        """
        mlp = MLP.empty(self.architecture, disk)
        with damage_is_input_error(self.path, *NO_NETWORK), PassingFile(self.path) as stream:
            if tensor_file.header_code(stream, self.begin) != self.header_code:
                raise ValueError("it has changed since it was looked at")
            for name, array in tensors(mlp).items():
                entry = self.entries[name]
                place = self.begin + entry.start
                for piece in tensor_file.pieces_to_fill(mlp.streamed(array)):
                    place = tensor_file.read_widened(stream, place, entry.dtype, piece)
                    if not finite(piece):
                        raise InputError(f"{self.path}: {name} holds NaN or infinity. Use a file from before that.")
        return mlp


def open_torch(
    path: str | Path,
    architecture: Architecture | None = None,
    *,
    activation: str | None = None,
    loss: str | None = None,
) -> TorchFile:
    """Return a file, checked against the network asked for, without reading its tensors.

    Arguments and errors are those of `import_torch`.
    """
    path = as_path("path", path)
    if architecture is not None:
        architecture = architecture_of(architecture)
    if not is_file(path):
        raise InputError(f"there is no file {str(path)!r}. {advice_on(path)}")
    if kind_of(path) not in (None, TORCH_NETWORK):
        raise InputError(f"{path} {NO_NETWORK[0]}. {what_to_do(path)}")
    with damage_is_input_error(path, *NO_NETWORK), PassingFile(path) as stream:
        metadata, named, begin = tensor_file.read_header(stream)
        code = tensor_file.header_code(stream, begin)
        entries = without_prefix(named)
        described = _architecture_in(metadata)
    if architecture is None:
        architecture = described or _architecture_of(path, entries, activation, loss)
    for name, given, known in (("activation", activation, ACTIVATIONS), ("loss", loss, LOSSES)):
        if given is not None and one_of(name, given, known) != getattr(architecture, name):
            raise InputError(
                f"{path} is for {name} {getattr(architecture, name)!r}; {given!r} was given. Leave {name} out."
            )
    _compare(path, architecture, entries)
    with damage_is_input_error(path, *NO_NETWORK):
        written_here = "lowmem" in metadata
        facts = DataFacts.from_metadata(metadata, architecture.widths[0]) if written_here else DataFacts()
    if facts.standardisation is not None and len(facts.standardisation.mean) != architecture.widths[0]:
        raise InputError(f"{path} standardises {len(facts.standardisation.mean)} inputs; its network has others.")
    return TorchFile(path, architecture, facts, entries, begin, code)


def _architecture_in(metadata: Mapping[str, str]) -> Architecture | None:
    """Return the architecture in the metadata of a file that lowmem wrote, None for other files."""
    if "lowmem" not in metadata or "architecture" not in metadata:
        return None
    description = json.loads(metadata["architecture"])
    try:
        return Architecture.from_dict(description)
    except (InputError, TypeError, AttributeError) as problem:
        raise ValueError(f"its metadata tell no architecture: {problem}") from None


def _architecture_of(
    path: Path, entries: Mapping[str, Entry], activation: str | None, loss: str | None
) -> Architecture:
    """Return the architecture of a file that lowmem did not write: its widths are those of the tensors."""
    if activation is None or loss is None:
        raise InputError(
            f"{path} does not say which activation and loss its network has; give both, such as relu and "
            "cross_entropy."
        )
    matrices = {name: entry for name, entry in entries.items() if name.endswith(".weight") and len(entry.shape) == 2}
    places = sorted(int(name[: -len(".weight")]) for name in matrices if name[: -len(".weight")].isdecimal())
    if not places:
        raise InputError(
            f"{path} holds no '0.weight', '2.weight', ... of an nn.Sequential; it holds {_listed(sorted(entries))}."
        )
    shapes_seen = [matrices[f"{place}.weight"].shape for place in places]
    dtype = matrices[f"{places[0]}.weight"].dtype
    name = "float32" if dtype in tensor_file.HALVES else dtype.name
    return Architecture((shapes_seen[0][1], *(shape[0] for shape in shapes_seen)), activation, loss, name)


def without_prefix(entries: Mapping[str, Entry]) -> Mapping[str, Entry]:
    """Return tensors without the prefixes that all their names have, up to the number of a module.

    A network inside another module, or compiled, has names such as `_orig_mod.module.net.0.weight`.
    """
    firsts = {name.partition(".")[0] for name in entries}
    if len(firsts) != 1 or next(iter(firsts)).isdecimal() or not all("." in name for name in entries):
        return entries
    return without_prefix({name.partition(".")[2]: entry for name, entry in entries.items()})


def _compare(path: Path, architecture: Architecture, entries: Mapping[str, Entry]) -> None:
    """Refuse tensors that are not exactly those of the network; the error lists everything that differs."""
    needed = shapes(architecture)
    wrong = []
    if missing := [name for name in needed if name not in entries]:
        wrong.append(f"missing: {_listed(missing)}")
    counters = tuple(
        f"{name.removesuffix('running_mean')}num_batches_tracked" for name in needed if name.endswith(".running_mean")
    )
    if unexpected := [name for name in entries if name not in needed and name not in counters]:
        wrong.append(f"unexpected: {_listed(unexpected)}")
    common = {name: entries[name] for name in needed if name in entries}
    shaped = [f"{name} {one.shape}, not {needed[name]}" for name, one in common.items() if one.shape != needed[name]]
    typed = [f"{name} {one.dtype.name}" for name, one in common.items() if not _fits(one, architecture)]
    if shaped:
        wrong.append(f"of another shape: {_listed(shaped)}")
    if typed:
        wrong.append(f"not {architecture.dtype}: {_listed(typed)}")
    if wrong:
        raise InputError(
            f"{path} does not hold the tensors of this network ({architecture}). {'; '.join(wrong)}. Needed is the "
            "nn.Sequential that lowmem.interchange.torch_modules.torch_code writes for it."
        )


def _fits(entry: Entry, architecture: Architecture) -> bool:
    """Say whether a tensor has the network's dtype, or half of its precision, which is widened without loss."""
    return entry.dtype.name == architecture.dtype or entry.dtype in tensor_file.HALVES


def _listed(names: list[str]) -> str:
    """Write the first names, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(name[:60] for name in names[:SHOWN]) + more
