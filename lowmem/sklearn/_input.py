"""What is refused before scikit-learn reads it: masks, which it drops, and tensors that it cannot read."""

import numpy as np

from lowmem.errors import InputError


def check_readable(**given: object) -> None:
    """Raise `InputError` for masked values, whose masks NumPy drops, and for tensors that NumPy cannot read.

    given: arrays, tables, lists or tensors by their names; None for what was left out.
    """
    for name, values in given.items():
        if any(map(_is_masked, values if isinstance(values, list | tuple) else [values])):
            raise InputError(
                f"{name} has masked values, and nothing is known of them. Leave such samples out, or fill them in "
                "with numpy.ma.filled."
            )
        if getattr(values, "requires_grad", False) is True:
            raise InputError(f"{name} is a tensor that requires grad, which NumPy cannot read. Pass {name}.detach().")


def _is_masked(values: object) -> bool:
    return isinstance(values, np.ma.MaskedArray) and bool(np.ma.is_masked(values))
