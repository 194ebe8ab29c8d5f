"""ONNX export: writes a network as a graph that ONNX Runtime and others run (https://onnx.ai/onnx/operators/).

The nodes of a layer are its norm, its activation, its product and its skip, in this order; the tables `NORMS` and
`ACTIVATIONS` make the first two. Dropout has no node, as it drops nothing outside of training.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowmem import __version__
from lowmem.common.checks import as_path, instance, lookup, truth
from lowmem.common.files import reason, replacing, unchanged, write_all
from lowmem.data.formats.columns import Schema
from lowmem.data.standardisation import Standardisation
from lowmem.errors import InputError, SaveError
from lowmem.interchange.data_facts import DataFacts
from lowmem.interchange.safetensors import Tensor, pieces_of, write_array
from lowmem.network.layers.norms import EPSILON
from lowmem.nn.activations.exponential import SELU_ALPHA, SELU_LAMBDA
from lowmem.nn.activations.piecewise import LEAKY_SLOPE
from lowmem.nn.mlp import MLP

if TYPE_CHECKING:
    from onnx import ModelProto

Array = NDArray[Any]

OPSET, IR_VERSION = 18, 8
"""Versions of ONNX that have every operator needed here, and that runtimes of 2023 can read."""

EXTERNAL_ABOVE = 64 << 20
"""Networks with more bytes of parameters get a file of their own for them."""

EMBEDDED_MOST = (2 << 30) - (64 << 20)
"""The most bytes of parameters that fit into one model file, whose limit is 2 GiB."""

EXTERNAL_LEAST = 4096
"""Arrays of fewer bytes stay in the model file. In the other file, arrays begin at multiples of this, so that they can
be memory-mapped."""

PROBABILITIES: Mapping[str, str] = {"cross_entropy": "Softmax", "bce": "Sigmoid"}
"""The operator that turns outputs into probabilities, by the loss."""


class Graph:
    """The nodes and tensors of a graph. Methods that add a node return the name of its output."""

    def __init__(self, dtype: str) -> None:
        from onnx import TensorProto

        self.dtype, self.double = np.dtype(dtype), dtype == "float64"
        self.element = TensorProto.DOUBLE if self.double else TensorProto.FLOAT
        self.nodes: list[Any] = []
        self.tensors: list[tuple[TensorProto, Tensor]] = []
        self._constants: dict[float, str] = {}
        self._axis = ""

    def node(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:  # noqa: ANN401
        """Add a node with one output. output: its name; None makes one."""
        from onnx import helper

        name = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def parameter(self, name: str, array: Tensor) -> str:
        """Add an array of the network's dtype, and return its name. The array is not copied."""
        from onnx import TensorProto

        self.tensors.append((TensorProto(name=name, dims=array.shape, data_type=self.element), array))
        return name

    def constant(self, number: float) -> str:
        """Return the name of a number, which is added at its first use."""
        if number not in self._constants:
            array = np.array(number, self.dtype)
            self._constants[number] = self.parameter(f"constant_{len(self._constants)}", array)
        return self._constants[number]

    def last_axis(self) -> str:
        """Return the name of the tensor that holds the number of the last axis, for sums over rows."""
        from onnx import TensorProto

        if not self._axis:
            self._axis = "last_axis"
            self.tensors.append((TensorProto(name=self._axis, dims=[1], data_type=TensorProto.INT64), np.array([-1])))
        return self._axis

    def scaled(self, value: str, factor: float) -> str:
        """Add the product of a value and a number."""
        return self.node("Mul", value, self.constant(factor))


# Activations -----------------------------------------------------------------------------------------------------
#
# ONNX Runtime has LeakyRelu, Elu, Selu, Softplus and Erf only in float32; in float64 other operators replace them.


def _leaky_relu(graph: Graph, s: str) -> str:
    if graph.double:
        return graph.node("Max", s, graph.scaled(s, LEAKY_SLOPE))
    return graph.node("LeakyRelu", s, alpha=LEAKY_SLOPE)


def _elu(graph: Graph, s: str) -> str:
    return graph.node("Max", s, _expm1_below(graph, s)) if graph.double else graph.node("Elu", s, alpha=1.0)


def _selu(graph: Graph, s: str) -> str:
    if not graph.double:
        return graph.node("Selu", s, alpha=SELU_ALPHA, gamma=SELU_LAMBDA)
    below = graph.scaled(_expm1_below(graph, s), SELU_LAMBDA * SELU_ALPHA)
    return graph.node("Add", graph.scaled(graph.node("Relu", s), SELU_LAMBDA), below)


def _expm1_below(graph: Graph, s: str) -> str:
    """Add e^min(s, 0) - 1."""
    return graph.node("Sub", graph.node("Exp", graph.node("Min", s, graph.constant(0.0))), graph.constant(1.0))


def _softplus(graph: Graph, s: str) -> str:
    """Add max(s, 0) + ln(1 + e^-|s|)."""
    if not graph.double:
        return graph.node("Softplus", s)
    tail = graph.node("Exp", graph.node("Neg", graph.node("Abs", s)))
    return graph.node("Add", graph.node("Relu", s), graph.node("Log", graph.node("Add", tail, graph.constant(1.0))))


def _gelu(graph: Graph, s: str) -> str:
    """Add ½·s·(1 + erf(s/√2)). Runtimes have erf only in float32, so in float64 it is exact to 1e-7."""
    scaled = graph.scaled(s, math.sqrt(0.5))
    if graph.double:
        from onnx import TensorProto

        narrow = graph.node("Erf", graph.node("Cast", scaled, to=TensorProto.FLOAT))
        erf = graph.node("Cast", narrow, to=graph.element)
    else:
        erf = graph.node("Erf", scaled)
    return graph.scaled(graph.node("Mul", s, graph.node("Add", erf, graph.constant(1.0))), 0.5)


def _gelu_tanh(graph: Graph, s: str) -> str:
    """Add ½·s·(1 + tanh u), with u = √(2/π)·s·(1 + 0.044715·s²)."""
    square = graph.scaled(graph.node("Mul", s, s), 0.044715)
    inner = graph.node("Mul", s, graph.node("Add", square, graph.constant(1.0)))
    t = graph.node("Tanh", graph.scaled(inner, math.sqrt(2.0 / math.pi)))
    return graph.scaled(graph.node("Mul", s, graph.node("Add", t, graph.constant(1.0))), 0.5)


ACTIVATIONS: Mapping[str, Callable[[Graph, str], str]] = {
    "identity": lambda graph, s: s,
    "relu": lambda graph, s: graph.node("Relu", s),
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "selu": _selu,
    "tanh": lambda graph, s: graph.node("Tanh", s),
    "sigmoid": lambda graph, s: graph.node("Sigmoid", s),
    "softplus": _softplus,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda graph, s: graph.node("Mul", s, graph.node("Sigmoid", s)),
    "mish": lambda graph, s: graph.node("Mul", s, graph.node("Tanh", _softplus(graph, s))),
}
"""By the name of an activation, a function that adds σ(s) for the value named s."""


# Layers ----------------------------------------------------------------------------------------------------------


def _layer_norm(graph: Graph, mlp: MLP, layer: int, s: str) -> str:
    """Add γ ⊙ (s - mean) / deviation + β, with mean and deviation of each row."""
    centred = graph.node("Sub", s, graph.node("ReduceMean", s, graph.last_axis(), keepdims=1))
    return graph.node("Add", _over_rms(graph, mlp, layer, centred), _array(graph, mlp, layer, "shift"))


def _rms_norm(graph: Graph, mlp: MLP, layer: int, s: str) -> str:
    """Add γ ⊙ s / root mean square of each row."""
    return _over_rms(graph, mlp, layer, s)


def _over_rms(graph: Graph, mlp: MLP, layer: int, s: str) -> str:
    """Add γ ⊙ s / root mean square of each row."""
    mean = graph.node("ReduceMean", graph.node("Mul", s, s), graph.last_axis(), keepdims=1)
    deviation = graph.node("Sqrt", graph.node("Add", mean, graph.constant(EPSILON)))
    return graph.node("Mul", graph.node("Div", s, deviation), _array(graph, mlp, layer, "gain"))


def _batch_norm(graph: Graph, mlp: MLP, layer: int, s: str) -> str:
    """Add γ ⊙ (s - running mean) / running deviation + β, written as a factor and a term."""
    arrays = mlp.arrays[layer - 1]
    factor = arrays["gain"] / np.sqrt(arrays["running_variance"] + EPSILON)
    term = arrays["shift"] - arrays["running_mean"] * factor
    scaled = graph.node("Mul", s, graph.parameter(f"layers.{layer}.factor", factor))
    return graph.node("Add", scaled, graph.parameter(f"layers.{layer}.term", term))


NORMS: Mapping[str, Callable[[Graph, MLP, int, str], str]] = {
    "layer": _layer_norm,
    "rms": _rms_norm,
    "batch": _batch_norm,
}
"""By the name of a norm, a function that adds the norm of the value named s."""


def _array(graph: Graph, mlp: MLP, layer: int, name: str) -> str:
    return graph.parameter(f"layers.{layer}.{name}", mlp.streamed(mlp.arrays[layer - 1][name]))


def add_layer(graph: Graph, mlp: MLP, layer: int, s: str) -> str:
    """Add the nodes of a layer, and return the name of s^(l). s: the name of s^(l-1), or of the input for layer 1."""
    architecture, x = mlp.architecture, s
    if layer > 1:
        norm = architecture.option(layer, "norm")
        sigma = lookup("activation of ONNX exports", architecture.activation, ACTIVATIONS)
        x = sigma(graph, x if norm is None else NORMS[norm](graph, mlp, layer, x))
    w, b = (_array(graph, mlp, layer, name) for name in ("weight", "bias"))
    if not architecture.has_skip(layer):
        return graph.node("Gemm", x, w, b, transB=1)
    branch, kind = graph.node("Gemm", x, w, transB=1), architecture.option(layer, "residual")
    if kind == "learned":
        branch = graph.node("Mul", branch, _array(graph, mlp, layer, "scale"))
    elif kind == "scaled":
        branch = graph.scaled(branch, architecture.skips**-0.5)
    return graph.node("Add", graph.node("Add", branch, b), s)


# The model -------------------------------------------------------------------------------------------------------


def export_onnx(
    mlp: MLP,
    path: str | Path,
    *,
    probabilities: bool = False,
    standardisation: Standardisation | None = None,
    scale: float = 1.0,
    class_names: Sequence[str] | None = None,
    columns: Schema | None = None,
    external: bool | None = None,
) -> None:
    """Write a network as an ONNX model: input "x", (batch, n_0), output "outputs", (batch, n_L), any batch.

    probabilities: the output is "probabilities" instead: the softmax of the outputs if the loss is cross_entropy, the
        sigmoid if it is bce. Without it, the model returns what `mlp.predict` returns: the outputs of the last layer.
    standardisation: becomes a part of the model, which then takes inputs that are not standardised.
    scale: what inputs are multiplied by instead; becomes a part of the model too.
    class_names, columns: of the data that the network was trained on. The model's metadata hold them as JSON:
        class_names, feature_names and columns.
    external: parameters go to a file of their own, `path` with ".data" appended, which must stay beside the model.
        They are streamed then; otherwise the export needs memory for two copies of them. None does so above 64 MiB
        and for a network on the disk.

    Needs the onnx library (`pip install "lowmem[onnx]"`). Raises `InputError` without it, `SaveError` if a file cannot
    be written or a parameter is not finite.

    >>> import lowmem as lm
    >>> lm.export_onnx(lm.MLP(lm.Architecture((4, 8, 3))), "net.onnx")
    >>> import onnx
    >>> [node.op_type for node in onnx.load("net.onnx").graph.node]
    ['Gemm', 'Relu', 'Gemm', 'Identity']
    """
    try:
        import onnx  # noqa: F401 - 13 MiB, for those who export
    except ImportError:
        raise InputError('export_onnx needs the onnx library: pip install "lowmem[onnx]".') from None
    path = as_path("path", path)
    instance("mlp", mlp, MLP, "a network, such as lowmem.MLP(architecture)")
    facts = DataFacts.given(standardisation, scale, class_names, columns)
    large = mlp.paged is not None or mlp.parameters.nbytes > EXTERNAL_ABOVE
    external = large if external is None else truth("external", external)
    _check(mlp, path, truth("probabilities", probabilities), external)
    graph = Graph(mlp.architecture.dtype)
    model = _model(graph, mlp, probabilities, facts)
    data = path.with_name(path.name + ".data")
    try:
        with replacing(path, *[data] * external) as (stream, *others):
            for other in others:
                _write_data(other, graph, data.name)
            for tensor, array in graph.tensors:
                if not tensor.external_data:
                    tensor.raw_data = b"".join(piece.tobytes() for piece in pieces_of(array))
            model.graph.initializer.extend(tensor for tensor, _ in graph.tensors)
            write_all(stream, model.SerializeToString())
    except OSError as problem:
        raise SaveError(f"{path} cannot be written: {reason(problem)}. {unchanged(path)}") from None


def _check(mlp: MLP, path: Path, probabilities: bool, external: bool) -> None:
    """Refuse options that do not fit the network, before anything is written."""
    loss = mlp.architecture.loss
    if probabilities and loss not in PROBABILITIES:
        known = " and ".join(PROBABILITIES)
        raise InputError(f"probabilities go with {known}; this network's loss is {loss}. Leave out probabilities.")
    if not external and (mlp.paged is not None or mlp.parameters.nbytes > EMBEDDED_MOST):
        raise InputError("a model holds no network on the disk and no more than 2 GiB; leave out external=False.")
    if (layer := mlp.first_not_finite(running=True)) is not None:
        raise SaveError(f"{path} is not written: layer {layer} holds NaN or infinity.")


def _model(graph: Graph, mlp: MLP, probabilities: bool, facts: DataFacts) -> "ModelProto":
    """Return the model of a network, without its tensors."""
    from onnx import helper

    architecture, standardisation = mlp.architecture, facts.standardisation
    value = "x"
    if standardisation is not None:  # x ← (x - mean)·(1 / deviation), as batches are standardised
        mean = graph.parameter("mean", standardisation.mean.astype(graph.dtype))
        factor = graph.parameter("factor", (1 / standardisation.deviation).astype(graph.dtype))
        value = graph.node("Mul", graph.node("Sub", value, mean), factor)
    elif facts.scale is not None and facts.scale != 1:
        value = graph.scaled(value, facts.scale)
    for layer in range(1, architecture.layers + 1):
        value = add_layer(graph, mlp, layer, value)
    output = "probabilities" if probabilities else "outputs"
    graph.node(PROBABILITIES[architecture.loss] if probabilities else "Identity", value, output=output)
    shapes = {name: ["batch", architecture.widths[place]] for name, place in (("x", 0), (output, -1))}
    values = [helper.make_tensor_value_info(name, graph.element, shape) for name, shape in shapes.items()]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "mlp", values[:1], values[1:]),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="lowmem",
        producer_version=__version__,
    )
    helper.set_model_props(model, {"architecture": json.dumps(architecture.to_dict()), **facts.to_metadata()})
    return model


def _write_data(stream: Any, graph: Graph, name: str) -> None:  # noqa: ANN401 - an unbuffered file
    """Stream all but small arrays to a file, and note in the tensors where they lie. name: of the file."""
    from onnx import TensorProto

    place = 0
    for tensor, array in graph.tensors:
        if array.nbytes < EXTERNAL_LEAST:
            continue
        gap = -place % EXTERNAL_LEAST
        write_all(stream, memoryview(bytes(gap)))
        for piece in pieces_of(array):
            write_array(stream, piece)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", place + gap), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        place += gap + array.nbytes
