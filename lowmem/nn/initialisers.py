"""First values of weights and biases, drawn in place.

With a layer's fan-in n_in and fan-out n_out, the variance of each weight is
- he: 2/n_in. He, Zhang, Ren and Sun 2015, "Delving deep into rectifiers".
- glorot: 2/(n_in + n_out). Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward
  neural networks".
- lecun: 1/n_in. LeCun, Bottou, Orr and Müller 1998, "Efficient BackProp"; Klambauer et al. 2017 ask it for selu.
- orthogonal: rows or columns orthonormal, times a gain. Saxe, McClelland and Ganguli 2014, "Exact solutions to the
  nonlinear dynamics of learning in deep linear neural networks".
- fixup: zero in every branch beside a skip and in the last layer, so that the network begins as its first layer; else
  as the activation asks. Zhang, Dauphin and Ma 2019, "Fixup Initialization", for branches of one layer. A branch whose
  learned factor begins at zero is not zeroed as well: neither of the two would ever have a gradient.

Where nothing is asked for, branches without a factor of their own begin 1/sqrt(number of branches) as large: what
passes all skips then stays of one size however deep the network is (Radford et al. 2019 do so for GPT-2).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import lookup, one_of, positive_number
from lowmem.errors import InputError
from lowmem.network.architecture import Architecture
from lowmem.network.specs import ACTIVATIONS

Array: TypeAlias = NDArray[np.floating[Any]]

ORTHOGONAL = "orthogonal"
FIXUP = "fixup"
"""The scheme that depends on a layer's place in the network."""

STARTS: Mapping[str, float] = MappingProxyType(
    {"gain": 1.0, "shift": 0.0, "scale": 0.0, "running_mean": 0.0, "running_variance": 1.0}
)
"""What is not drawn."""


def initialise(
    weights: Sequence[Array],
    biases: Sequence[Array],
    activation: str,
    rng: np.random.Generator,
    scheme: str | None = None,
) -> None:
    """Fill weights and biases in place, layer by layer; biases become zero.

    Only "orthogonal" allocates arrays of a layer's size, for its QR factorisation.

    Arguments:
        weights: C-contiguous arrays (n_l, n_{l-1}), float32 or float64.
        biases: arrays (n_l,).
        activation: a key of `specs.ACTIVATIONS`; it decides the default scheme and orthogonal's gain.
        rng: where the numbers come from; the same state gives the same weights.
        scheme: a key of `SCHEMES`, or None for the activation's own.

    Raises:
        UnknownNameError: for an unknown activation or scheme.
    """
    lookup("activation", activation, ACTIVATIONS)
    fill = lookup("initialisation scheme", ACTIVATIONS[activation].initialiser if scheme is None else scheme, SCHEMES)
    for w in weights:
        fill(w, activation, rng)
    for b in biases:
        b.fill(0.0)


def initialise_network(
    architecture: Architecture,
    arrays: Iterable[Mapping[str, Array]],
    rng: np.random.Generator,
    scheme: str | None,
    gain: float | None = None,
) -> None:
    """Fill the arrays of all layers in place, given by name for each; they are asked for one layer after the other.

    scheme: a key of `SCHEMES`, "fixup", or None for what suits the network. gain: of "orthogonal", in place of the
    activation's. A norm's gains begin at 1, shifts and learned factors at 0.

    Raises `UnknownNameError` for an unknown scheme, `InputError` for a gain without use or that is no positive number.
    """
    if scheme is not None:
        one_of("initialisation scheme", scheme, (*SCHEMES, FIXUP))
    if gain is not None:
        if scheme != ORTHOGONAL:
            raise InputError(f'gain goes with initialiser="{ORTHOGONAL}"; got {scheme!r}. Leave it out.')
        gain = positive_number("gain", gain)
    fixup = scheme == FIXUP
    factor = max(architecture.skips, 1) ** -0.5
    for number, its in enumerate(arrays, start=1):
        w = its["weight"]
        initialise([w], [its["bias"]], architecture.activation, rng, None if fixup else scheme)
        if gain is not None:
            np.multiply(w, gain / architecture.activation_facts.gain, out=w)
        branch = architecture.option(number, "residual") if architecture.has_skip(number) else False
        if fixup and (branch in (True, "scaled") or number == architecture.layers):
            w.fill(0.0)
        elif scheme is None and branch is True:
            np.multiply(w, factor, out=w)
        for name, value in STARTS.items():
            if name in its:
                its[name].fill(value)


def _normal(w: Array, variance: float, rng: np.random.Generator) -> None:
    rng.standard_normal(dtype=w.dtype, out=w)
    np.multiply(w, math.sqrt(variance), out=w)


def _uniform(w: Array, variance: float, rng: np.random.Generator) -> None:
    """Draw from [-a, a), whose variance is a²/3."""
    a = math.sqrt(3.0 * variance)
    rng.random(dtype=w.dtype, out=w)
    np.multiply(w, 2.0 * a, out=w)
    np.subtract(w, a, out=w)


def _orthogonal(w: Array, activation: str, rng: np.random.Generator) -> None:
    """Fill w with gain·Q, Q uniform (Haar) among matrices whose shorter side's vectors are orthonormal."""
    n_out, n_in = w.shape
    gauss = rng.standard_normal((max(n_out, n_in), min(n_out, n_in)))
    q, r = np.linalg.qr(gauss)
    q *= np.copysign(ACTIVATIONS[activation].gain, np.diagonal(r))  # QR's sign choice is not Haar's
    w[...] = q if n_out >= n_in else q.T


SCHEMES: Mapping[str, Callable[[Array, str, np.random.Generator], None]] = MappingProxyType(
    {
        "he_normal": lambda w, _, rng: _normal(w, 2.0 / w.shape[1], rng),
        "he_uniform": lambda w, _, rng: _uniform(w, 2.0 / w.shape[1], rng),
        "glorot_normal": lambda w, _, rng: _normal(w, 2.0 / sum(w.shape), rng),
        "glorot_uniform": lambda w, _, rng: _uniform(w, 2.0 / sum(w.shape), rng),
        "lecun_normal": lambda w, _, rng: _normal(w, 1.0 / w.shape[1], rng),
        "orthogonal": _orthogonal,
    }
)
"""Every scheme by name: a function that fills one weight matrix."""
