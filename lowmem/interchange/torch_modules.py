"""What a network is in PyTorch: the modules of an `nn.Sequential`, the names of their tensors, and the code for them.

Layer l is an `nn.Linear` with the tensors "<i>.weight", (n_l, n_{l-1}), and "<i>.bias", (n_l,). The number i is the
module's place in the `nn.Sequential`, where activations, norms and dropout are modules too. A layer with a skip is one
module, `Residual`, and `torch_code` writes the class. `modules` alone says which module stands where.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lowmem.common.checks import lookup
from lowmem.network.architecture import Architecture
from lowmem.nn.mlp import MLP

ACTIVATION_CODE: Mapping[str, str] = {
    "identity": "nn.Identity()",
    "relu": "nn.ReLU()",
    "leaky_relu": "nn.LeakyReLU(0.01)",
    "elu": "nn.ELU()",
    "selu": "nn.SELU()",
    "tanh": "nn.Tanh()",
    "sigmoid": "nn.Sigmoid()",
    "softplus": "nn.Softplus(threshold=50)",  # above 50, s and softplus(s) are the same number in float64
    "gelu": "nn.GELU()",
    "gelu_tanh": 'nn.GELU(approximate="tanh")',
    "silu": "nn.SiLU()",
    "mish": "nn.Mish()",
}
"""The code of each activation's module."""

NORM_CODE: Mapping[str, str] = {
    "layer": "nn.LayerNorm({})",
    "rms": "nn.RMSNorm({}, eps=1e-5)",
    "batch": "nn.BatchNorm1d({})",
}
"""The code of each norm's module, with a place for the width."""

NORM_TENSORS: Mapping[str, str] = {
    "weight": "gain",
    "bias": "shift",
    "running_mean": "running_mean",
    "running_var": "running_variance",
}
"""Names of a norm's arrays: PyTorch's, and lowmem's."""

STANDARDISING = """\
with safe_open({path!r}, "pt") as file:
    moments = json.loads(file.metadata()["standardisation"])
mean, deviation = (torch.tensor(moments[name], dtype=torch.{dtype}) for name in ("mean", "deviation"))
net.register_forward_pre_hook(lambda net, inputs: ((inputs[0] - mean) / deviation,))"""
"""The code that makes a network standardise its inputs."""

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
    """A module of an `nn.Sequential`.

    code: makes the module in Python.
    tensors: by PyTorch's name within the module, the layer and lowmem's name of the same array.
    """

    code: str
    tensors: Mapping[str, tuple[int, str]] = field(default_factory=dict)


def modules(architecture: Architecture) -> list[Module]:
    """Return the modules that a network is in PyTorch, in their order."""
    sequence: list[Module] = []
    factor = max(architecture.skips, 1) ** -0.5
    for number, layer in enumerate(architecture.each_layer, start=1):
        linear = Module(
            f"nn.Linear({layer.entering}, {layer.leaving})", {name: (number, name) for name in ("weight", "bias")}
        )
        parts = [*_entering(architecture, number), linear]
        sequence += [_residual(architecture, number, parts, factor)] if architecture.has_skip(number) else parts
    return sequence


def _entering(architecture: Architecture, number: int) -> list[Module]:
    """Return the modules that stand before the product of a layer: norm, activation and dropout."""
    if number == 1:
        return []
    layer, norm, dropout = architecture.layer(number), *(architecture.option(number, o) for o in ("norm", "dropout"))
    parts = [Module(lookup("activation of PyTorch exports", architecture.activation, ACTIVATION_CODE))]
    if norm is not None:
        own = {**layer.parameters, **layer.running}
        named = {theirs: (number, ours) for theirs, ours in NORM_TENSORS.items() if ours in own}
        parts.insert(0, Module(NORM_CODE[norm].format(layer.entering), named))
    return [*parts, Module(f"nn.Dropout({dropout!r})")] if dropout else parts


def _residual(architecture: Architecture, number: int, parts: list[Module], factor: float) -> Module:
    """Return the module of a layer with a skip.

    parts: the modules of the layer without the skip.
    factor: of a scaled branch.
    """
    kind = architecture.option(number, "residual")
    scale = {"scaled": f", scale={factor!r}", "learned": ", scale=None"}.get(kind, "")
    places = [*(f"enter.{place}" for place in range(len(parts) - 1)), "linear"]
    named = {
        f"{place}.{name}": own for place, part in zip(places, parts, strict=True) for name, own in part.tensors.items()
    }
    if kind == "learned":
        named["scale"] = (number, "scale")
    return Module(f"Residual({', '.join(part.code for part in parts)}{scale})", named)


def shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor by its name in PyTorch."""
    named: dict[str, tuple[int, ...]] = {}
    for place, module in enumerate(modules(architecture)):
        for name, (number, ours) in module.tensors.items():
            layer = architecture.layer(number)
            named[f"{place}.{name}"] = {**layer.parameters, **layer.running}[ours]
    return named


def tensors(mlp: MLP) -> dict[str, NDArray[Any]]:
    """Return the arrays of a network, not copies, by their names in PyTorch."""
    return {
        f"{place}.{name}": mlp.arrays[number - 1][ours]
        for place, module in enumerate(modules(mlp.architecture))
        for name, (number, ours) in module.tensors.items()
    }


def torch_code(architecture: Architecture, path: str | Path, *, standardised: bool = False, scale: float = 1.0) -> str:
    """Return the Python code that makes a network in PyTorch and loads its tensors from the file `path`.

    standardised: whether the network standardises its inputs, by mean and deviation in the file's metadata.
    scale: what it multiplies them by otherwise.

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
    lines: list[list[str]] = []  # a line begins with a product; a layer with a skip has a line of its own
    for code, before in zip(codes, ["Residual", *codes], strict=False):
        if code.startswith(("nn.Linear", "Residual")) or before.startswith("Residual"):
            lines.append([])
        lines[-1].append(code)
    skips = any(code.startswith("Residual") for code in codes)
    text = ["import json"] * standardised + ["import torch"] * (skips or standardised) + ["import torch.nn as nn"]
    text += ["from safetensors import safe_open"] * standardised + ["from safetensors.torch import load_file", ""]
    text += [RESIDUAL_CODE] * skips + ["net = nn.Sequential("]
    for line, run in groupby(map(", ".join, lines)):
        count = len(list(run))
        repeated = f"*(module for _ in range({count}) for module in ({line},))"
        text.append(f"    {line if count == 1 else repeated},")
    double = ".double()" if architecture.dtype == "float64" else ""
    in_training = any(word in code for code in codes for word in ("Dropout", "BatchNorm"))
    text += [f"){double}", f"net.load_state_dict(load_file({str(path)!r}))"]
    if standardised:
        text += [STANDARDISING.format(path=str(path), dtype=architecture.dtype)]
    elif scale != 1:
        text += [f"net.register_forward_pre_hook(lambda net, inputs: (inputs[0] * {float(scale)!r},))"]
    return "\n".join([*text, *["net.eval()  # nothing is dropped, and running statistics are used"] * in_training])
