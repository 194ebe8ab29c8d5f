"""What a network must be told besides its parameters: what is done to inputs, and the names of columns and classes.

Files for other programs carry these facts, and give them back when they are imported.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lowmem.common.checks import finite, instance, items, positive_number
from lowmem.data.formats.columns import Schema
from lowmem.data.standardisation import Standardisation


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What is known of the data that a network was trained on.

    standardisation: x ← (x - mean) / deviation before the network; None if inputs are not standardised.
    scale: x ← scale x before the network, where there is no standardisation; None if that is not known.
    class_names: the names of the classes by class number; None if they are numbers.
    columns: of the table that the samples came from; None if it was none.
    """

    standardisation: Standardisation | None = None
    scale: float | None = None
    class_names: tuple[str, ...] | None = None
    columns: Schema | None = None

    @classmethod
    def given(
        cls,
        standardisation: Standardisation | None,
        scale: float | None,
        class_names: Sequence[str] | None,
        columns: Schema | None,
    ) -> "DataFacts":
        """Return facts that a caller gave. Raises `InputError` for what is none of theirs."""
        if standardisation is not None:
            instance("standardisation", standardisation, Standardisation, "a lowmem Standardisation, as data have it")
        if columns is not None:
            instance("columns", columns, Schema, "the columns of data, as Trainer.columns has them")
        scale = None if scale is None else positive_number("scale", scale)
        names = None if class_names is None else items("class_names", class_names, str, "names of classes")
        return cls(standardisation, scale, None if names is None else tuple(names), columns)

    def to_metadata(self) -> dict[str, str]:
        """Return the facts as text by name, in JSON; what is not known is left out."""
        held: dict[str, object] = {}
        if self.standardisation is not None:
            moments = self.standardisation
            held["standardisation"] = {"mean": moments.mean.tolist(), "deviation": moments.deviation.tolist()}
        elif self.scale is not None:
            held["scale"] = self.scale
        if self.class_names is not None:
            held["class_names"] = list(self.class_names)
        if self.columns is not None:
            held["columns"] = self.columns.to_dict()
            if self.columns.features is not None:
                held["feature_names"] = list(self.columns.features)
        return {name: json.dumps(value, allow_nan=False) for name, value in held.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], inputs: int) -> "DataFacts":
        """Return what `to_metadata` wrote, for a network of so many inputs. Raises `ValueError` for anything else."""
        held = {name: json.loads(metadata[name]) for name in ("scale", "class_names", "columns") if name in metadata}
        scale, names = held.get("scale"), held.get("class_names")
        if scale is not None and (type(scale) not in (int, float) or not math.isfinite(scale)):
            raise ValueError("its metadata hold no factor of inputs")
        if names is not None and not (isinstance(names, list) and all(type(name) is str for name in names)):
            raise ValueError("its metadata hold no names of classes")
        columns = None if "columns" not in held else Schema.from_dict(held["columns"])
        if columns is not None and len(columns.x) != inputs:
            raise ValueError(f"its metadata hold {len(columns.x)} features for {inputs} inputs")
        return cls(_standardisation(metadata), scale, None if names is None else tuple(names), columns)


def _standardisation(metadata: Mapping[str, str]) -> Standardisation | None:
    """Return the standardisation in metadata, None if there is none."""
    if "standardisation" not in metadata:
        return None
    held = json.loads(metadata["standardisation"])
    mean, deviation = (np.array(held[name], np.float64) for name in ("mean", "deviation"))
    sound = mean.ndim == 1 and mean.shape == deviation.shape and finite(mean) and finite(deviation)
    if not sound or deviation.min() <= 0:
        raise ValueError("its metadata hold no standardisation")
    return Standardisation(mean, deviation)
