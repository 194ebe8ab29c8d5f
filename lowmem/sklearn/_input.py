"""What is refused before scikit-learn reads it: masks, which it drops, and tensors that it cannot read."""

from lowmem.common.checks import check_unmasked
from lowmem.errors import InputError


def check_readable(**given: object) -> None:
    """Raise `InputError` for masked values, whose masks NumPy drops, and for tensors that NumPy cannot read.

    given: arrays, tables, lists or tensors by their names; None for what was left out.
    """
    for name, values in given.items():
        check_unmasked(values, name)
        if getattr(values, "requires_grad", False) is True:
            raise InputError(f"{name} is a tensor that requires grad, which NumPy cannot read. Pass {name}.detach().")
