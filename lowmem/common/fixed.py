"""`Fixed`: attributes that stay what they were made as, since memory is bound to them."""

from collections.abc import Mapping
from typing import Any, ClassVar

from lowmem.errors import InputError


class Fixed:
    """Base of what would go on with the old value if one of its attributes were assigned another.

    fixed: what to do instead, as a sentence, by the attribute's name. Raises `InputError` with it. A change in place,
    such as `mlp.parameters *= 0.5`, is none of the attribute.
    """

    fixed: ClassVar[Mapping[str, str]] = {}

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 - as object's
        """Set an attribute for the first time, or one that is not fixed."""
        held = self.__dict__
        if name in self.fixed and name in held and held[name] is not value:
            raise InputError(f"{type(self).__name__}.{name} cannot be assigned to. {self.fixed[name]}")
        super().__setattr__(name, value)
