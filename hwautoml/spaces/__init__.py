"""Search spaces declared as data; one file per space, found by name and imported on first use."""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING, cast

from hwautoml.errors import InvalidValueError, UnknownNameError

if TYPE_CHECKING:
    from hwautoml.core.space import SearchSpace

_SPACES = {  # name: (module, class)
    "mobile": ("mobile", "MobileSpace"),
    "nasbench201": ("nasbench201", "NasBench201Space"),
    "fbnet": ("fbnet", "FBNetSpace"),
    "ofa-mobilenetv3": ("ofa", "OFASpace"),
}


def space_names() -> tuple[str, ...]:
    """None of them is imported."""
    return tuple(_SPACES)


def load_space(
    name: str, *, image_size: int | None = None, channels: int | None = None, num_classes: int | None = None
) -> SearchSpace:
    """The space called ``name``; ``image_size`` in pixels. Published spaces have sizes of their own as defaults.

    Raises:
        UnknownNameError: no space has that name; the known ones are listed, nearest first.
        InvalidValueError: a size is missing, out of range, or not one the space was published for.
    """
    if name not in _SPACES:
        raise UnknownNameError("space", name, space_names())
    module, class_name = _SPACES[name]
    space_class = getattr(importlib.import_module(f"hwautoml.spaces.{module}"), class_name)
    asked = {"image_size": image_size, "channels": channels, "num_classes": num_classes}
    given = {key: value for key, value in asked.items() if value is not None}
    without_default = [f.name for f in dataclasses.fields(space_class) if f.default is dataclasses.MISSING]
    missing = [key for key in without_default if key not in given]
    if missing:
        raise InvalidValueError(
            f"space {name!r} has no default for {', '.join(missing)}",
            fix=f"load_space({name!r}, image_size=32, channels=3, num_classes=10)",
        )
    return cast("SearchSpace", space_class(**given))
