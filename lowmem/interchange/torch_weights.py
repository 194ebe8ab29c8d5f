"""Networks to and from PyTorch, without PyTorch: safetensors files with the names of an `nn.Sequential`.

Layer l is a module `nn.Linear` with tensors "<i>.weight", (n_l, n_{l-1}), and "<i>.bias", (n_l,), where i is its place
among all modules, those without parameters included; a norm before its activation is a module of its own. A layer with
a skip is one module, `Residual`, whose code `torch_code` writes. `modules` says which module stands where, and is the
only place that does. Tensors are streamed: arrays go to the file, and come from it, without a copy on the way.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem import __version__
from lowmem.common.checks import finite
from lowmem.common.damage import damage_is_input_error
from lowmem.data.standardisation import Standardisation
from lowmem.errors import InputError, SaveError
from lowmem.interchange import safetensors as tensor_file
from lowmem.interchange.safetensors import Entry
from lowmem.network.architecture import Architecture
from lowmem.nn.mlp import MLP

Array = NDArray[Any]

ACTIVATION_CODE: Mapping[str, str] = {
    "identity": "nn.Identity()",
    "relu": "nn.ReLU()",
    "leaky_relu": "nn.LeakyReLU(0.01)",
    "elu": "nn.ELU()",
    "selu": "nn.SELU()",
    "tanh": "nn.Tanh()",
    "sigmoid": "nn.Sigmoid()",
    "softplus": "nn.Softplus(threshold=50)",  # the exact formula further than float64 can tell
    "gelu": "nn.GELU()",
    "gelu_tanh": 'nn.GELU(approximate="tanh")',
    "silu": "nn.SiLU()",
    "mish": "nn.Mish()",
}

SHOWN = 5
"""How many names of one kind an error lists."""

NO_NETWORK = (
    "is no safetensors file that can be imported",
    "Write it with safetensors.torch.save_file(net.state_dict(), path) or lowmem.export_torch.",
)
"""Verdict and advice for a file that is none."""

NORM_CODE: Mapping[str, str] = {
    "layer": "nn.LayerNorm({})",
    "rms": "nn.RMSNorm({}, eps=1e-5)",
    "batch": "nn.BatchNorm1d({})",
}

NORM_TENSORS: Mapping[str, str] = {
    "weight": "gain",
    "bias": "shift",
    "running_mean": "running_mean",
    "running_var": "running_variance",
}
"""Names of a norm's arrays in PyTorch, and ours."""

RESIDUAL_CODE = """
class Residual(nn.Module):
    def __init__(self, *modules, scale=1.0):
        super().__init__()
        *enter, self.linear = modules
        self.enter = nn.Sequential(*enter)
        self.scale = nn.Parameter(torch.zeros(1)) if scale is None else scale

    def forward(self, x):
        return x + self.scale * (self.enter(x) @ self.linear.weight.T) + self.linear.bias

"""


@dataclass(frozen=True, slots=True)
class Module:
    """A module of an `nn.Sequential`: the code that makes it, and its tensors: (layer, our name) by name there."""

    code: str
    tensors: Mapping[str, tuple[int, str]] = field(default_factory=dict)


def modules(architecture: Architecture) -> list[Module]:
    """Return the modules that a network is in PyTorch, in their order."""
    made: list[Module] = []
    scale = max(architecture.skips, 1) ** -0.5
    for number, layer in enumerate(architecture.each_layer, start=1):
        linear = Module(
            f"nn.Linear({layer.entering}, {layer.leaving})", {name: (number, name) for name in ("weight", "bias")}
        )
        parts = [*_entering(architecture, number), linear]
        made += [_residual(architecture, number, parts, scale)] if architecture.has_skip(number) else parts
    return made


def _entering(architecture: Architecture, number: int) -> list[Module]:
    """Return what stands before the product of a layer."""
    if number == 1:
        return []
    layer, norm, dropout = architecture.layer(number), *(architecture.option(number, o) for o in ("norm", "dropout"))
    made = [Module(ACTIVATION_CODE[architecture.activation])]
    if norm is not None:
        own = {**layer.parameters, **layer.running}
        tensors = {theirs: (number, ours) for theirs, ours in NORM_TENSORS.items() if ours in own}
        made.insert(0, Module(NORM_CODE[norm].format(layer.entering), tensors))
    return [*made, Module(f"nn.Dropout({dropout!r})")] if dropout else made


def _residual(architecture: Architecture, number: int, parts: list[Module], factor: float) -> Module:
    """Return the module of a layer with a skip; factor: of a scaled branch."""
    kind = architecture.option(number, "residual")
    scale = {"scaled": f", scale={factor!r}", "learned": ", scale=None"}.get(kind, "")
    places = [*(f"enter.{place}" for place in range(len(parts) - 1)), "linear"]
    tensors = {
        f"{place}.{name}": own for place, part in zip(places, parts, strict=True) for name, own in part.tensors.items()
    }
    if kind == "learned":
        tensors["scale"] = (number, "scale")
    return Module(f"Residual({', '.join(part.code for part in parts)}{scale})", tensors)


def shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor by its name in PyTorch."""
    made: dict[str, tuple[int, ...]] = {}
    for place, module in enumerate(modules(architecture)):
        for name, (number, ours) in module.tensors.items():
            layer = architecture.layer(number)
            made[f"{place}.{name}"] = {**layer.parameters, **layer.running}[ours]
    return made


def tensors(mlp: MLP) -> dict[str, Array]:
    """Return the arrays of a network, not copies, by their names in PyTorch."""
    return {
        f"{place}.{name}": mlp.arrays[number - 1][ours]
        for place, module in enumerate(modules(mlp.architecture))
        for name, (number, ours) in module.tensors.items()
    }


def torch_code(architecture: Architecture, path: str | Path) -> str:
    """Return the lines of Python that make a network in PyTorch and load its tensors from `path`.

    >>> import lowmem as lm
    >>> print(torch_code(lm.Architecture((4, 8, 8, 8, 3)), "net.safetensors"))
    import torch.nn as nn
    from safetensors.torch import load_file
    <BLANKLINE>
    net = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(),
        *(module for _ in range(2) for module in (nn.Linear(8, 8), nn.ReLU(),)),
        nn.Linear(8, 3),
    )
    net.load_state_dict(load_file('net.safetensors'))
    """
    codes = [module.code for module in modules(architecture)]
    written: list[list[str]] = []  # a line begins with a product, and a layer with a skip has one of its own
    for code, before in zip(codes, ["Residual", *codes], strict=False):
        if code.startswith(("nn.Linear", "Residual")) or before.startswith("Residual"):
            written.append([])
        written[-1].append(code)
    skips = any(code.startswith("Residual") for code in codes)
    lines = ["import torch"] * skips + ["import torch.nn as nn", "from safetensors.torch import load_file", ""]
    lines += [RESIDUAL_CODE] * skips + ["net = nn.Sequential("]
    for text, run in groupby(map(", ".join, written)):
        count = len(list(run))
        repeated = f"*(module for _ in range({count}) for module in ({text},))"
        lines.append(f"    {text if count == 1 else repeated},")
    double = ".double()" if architecture.dtype == "float64" else ""
    in_training = any(word in code for code in codes for word in ("Dropout", "BatchNorm"))
    lines += [f"){double}", f"net.load_state_dict(load_file({str(path)!r}))"]
    return "\n".join([*lines, *["net.eval()  # nothing is dropped, and running statistics are used"] * in_training])


def export_torch(mlp: MLP, path: str | Path, *, standardisation: Standardisation | None = None) -> None:
    """Write a network to a safetensors file that PyTorch loads: `torch_code` says how.

    The metadata tell the architecture, so that `import_torch` needs no more than the file, and how inputs are to be
    standardised where they are: x ← (x - mean) / deviation, before the network.

    Raises `SaveError` if the file cannot be written (an earlier one stands) or a parameter is not finite.

    >>> import lowmem as lm
    >>> mlp = lm.MLP(lm.Architecture((4, 8, 3)))
    >>> lm.export_torch(mlp, "net.safetensors")
    >>> lm.import_torch("net.safetensors").architecture.widths
    (4, 8, 3)
    """
    named = tensors(mlp)
    for name, array in named.items():
        if not finite(array):
            raise SaveError(f"{path} is not written: {name} holds NaN or infinity. An earlier file stands.")
    metadata = {"format": "pt", "lowmem": __version__, "architecture": json.dumps(mlp.architecture.to_dict())}
    if standardisation is not None:
        moments = {"mean": standardisation.mean.tolist(), "deviation": standardisation.deviation.tolist()}
        metadata["standardisation"] = json.dumps(moments, allow_nan=False)
    try:
        tensor_file.write(Path(path), named.items, metadata)
    except OSError as problem:
        raise SaveError(f"{path} cannot be written: {problem.strerror or problem}. An earlier file stands.") from None


def import_torch(
    path: str | Path,
    architecture: Architecture | None = None,
    *,
    activation: str | None = None,
    loss: str | None = None,
) -> MLP:
    """Return the network of a safetensors file that holds the tensors of an `nn.Sequential`.

    architecture: what the file must hold. Left out, a file written by `export_torch` says it; of another file the
    widths are read off the tensors, and activation and loss must be given.

    Raises `InputError` for a file that is missing, damaged or holds something else: every name that is missing or
    unexpected, and every shape and dtype that is wrong, is listed.

    >>> import lowmem as lm
    >>> lm.export_torch(lm.MLP(lm.Architecture((4, 8, 3), "gelu")), "net.safetensors")
    >>> print(lm.import_torch("net.safetensors").architecture)
    2 layers (4, 8, 3), gelu, cross_entropy, float32, 67 parameters
    """
    return open_torch(path, architecture, activation=activation, loss=loss).network()


@dataclass(frozen=True, slots=True)
class TorchFile:
    """A file whose tensors are those of `architecture`; none of them has been read yet."""

    path: Path
    architecture: Architecture
    standardisation: Standardisation | None
    entries: Mapping[str, Entry] = field(repr=False)
    begin: int = field(repr=False)

    def network(self) -> MLP:
        """Return the network with its weights, read straight to their places."""
        mlp = MLP.empty(self.architecture)
        with damage_is_input_error(self.path, *NO_NETWORK), self.path.open("rb", buffering=0) as stream:
            for name, array in tensors(mlp).items():
                tensor_file.read_into(stream, self.begin + self.entries[name].start, array)
                if not finite(array):
                    raise InputError(f"{self.path}: {name} holds NaN or infinity. Use a file from before that.")
        return mlp


def open_torch(
    path: str | Path,
    architecture: Architecture | None = None,
    *,
    activation: str | None = None,
    loss: str | None = None,
) -> TorchFile:
    """Read what a file says and compare it with what is asked for; see `import_torch`."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}. Check the path.")
    with damage_is_input_error(path, *NO_NETWORK), path.open("rb", buffering=0) as stream:
        metadata, entries, begin = tensor_file.read_header(stream, path.stat().st_size)
        told = _architecture_told(metadata)
        standardisation = _standardisation_told(metadata)
    if architecture is None:
        architecture = told or _architecture_seen(path, entries, activation, loss)
    for name, given in (("activation", activation), ("loss", loss)):
        if given is not None and given != getattr(architecture, name):
            raise InputError(
                f"{path} is for {name} {getattr(architecture, name)!r}; {given!r} was given. Leave {name} out."
            )
    _compare(path, architecture, entries)
    if standardisation is not None and len(standardisation.mean) != architecture.widths[0]:
        raise InputError(f"{path} standardises {len(standardisation.mean)} inputs; its network has others.")
    return TorchFile(path, architecture, standardisation, entries, begin)


def _architecture_told(metadata: Mapping[str, str]) -> Architecture | None:
    """Return the architecture that a file written here tells."""
    if "lowmem" not in metadata or "architecture" not in metadata:
        return None
    told = json.loads(metadata["architecture"])
    try:
        return Architecture.from_dict(told)
    except (InputError, TypeError, AttributeError) as problem:
        raise ValueError(f"its metadata tell no architecture: {problem}") from None


def _standardisation_told(metadata: Mapping[str, str]) -> Standardisation | None:
    """Return how a file written here standardises inputs."""
    if "lowmem" not in metadata or "standardisation" not in metadata:
        return None
    told = json.loads(metadata["standardisation"])
    mean, deviation = (np.array(told[name], np.float64) for name in ("mean", "deviation"))
    sound = mean.ndim == 1 and mean.shape == deviation.shape and finite(mean) and finite(deviation)
    if not sound or deviation.min() <= 0:
        raise ValueError("its metadata tell no standardisation")
    return Standardisation(mean, deviation)


def _architecture_seen(
    path: Path, entries: Mapping[str, Entry], activation: str | None, loss: str | None
) -> Architecture:
    """Return the architecture that the names and shapes of a foreign file show."""
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
    dtype = matrices[f"{places[0]}.weight"].dtype.name
    return Architecture((shapes_seen[0][1], *(shape[0] for shape in shapes_seen)), activation, loss, dtype)


def _compare(path: Path, architecture: Architecture, entries: Mapping[str, Entry]) -> None:
    """Refuse tensors that are not exactly those of a network, and say all that differs."""
    needed = shapes(architecture)
    wrong = []
    if missing := [name for name in needed if name not in entries]:
        wrong.append(f"missing: {_listed(missing)}")
    counters = tuple(
        f"{name.removesuffix('running_mean')}num_batches_tracked" for name in needed if name.endswith(".running_mean")
    )
    if unexpected := [name for name in entries if name not in needed and name not in counters]:
        wrong.append(f"unexpected: {_listed(unexpected)}")
    found = {name: entries[name] for name in needed if name in entries}
    shaped = [f"{name} {one.shape}, not {needed[name]}" for name, one in found.items() if one.shape != needed[name]]
    typed = [f"{name} {one.dtype.name}" for name, one in found.items() if one.dtype.name != architecture.dtype]
    if shaped:
        wrong.append(f"of another shape: {_listed(shaped)}")
    if typed:
        wrong.append(f"not {architecture.dtype}: {_listed(typed)}")
    if wrong:
        raise InputError(
            f"{path} does not hold the tensors of this network ({architecture}). {'; '.join(wrong)}. Needed is the "
            "nn.Sequential that lowmem.interchange.torch_weights.torch_code writes for it."
        )


def _listed(names: list[str]) -> str:
    """Write the first names, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(name[:60] for name in names[:SHOWN]) + more
