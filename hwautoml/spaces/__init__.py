"""Search spaces declared as data; one file per space, found by name and imported on first use."""

from __future__ import annotations

import dataclasses
import importlib
import re
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


def load_profiled_space(name: str, *, image_size: int | None = None, channels: int | None = None) -> SearchSpace:
    """The space ``name`` for a latency table, which leaves the number of classes open.

    It has the number it was published with at that size; ``mobile`` has 10, and 32x32x3 where no size is given.

    Raises as ``load_space`` does.
    """
    if name == "mobile":
        return load_space(name, image_size=image_size or 32, channels=channels or 3, num_classes=10)
    module = importlib.import_module(f"hwautoml.spaces.{_SPACES[name][0]}") if name in _SPACES else None
    published = [classes for side, _, classes in getattr(module, "PUBLISHED", ()) if side == image_size]
    num_classes = published[0] if published else None
    return load_space(name, image_size=image_size, channels=channels, num_classes=num_classes)


def load_family(family: str) -> SearchSpace:
    """The inverse of ``SearchSpace.family``, with the number of classes of ``load_profiled_space``.

    Raises:
        InvalidValueError: the text is no family of a space known here (UnknownNameError: none of that name).
    """
    name, _, rest = family.partition("/")
    match = re.fullmatch(r"v\d+/(?:w(?P<width>[\d.]+)/)?(?P<side>\d+)x(?P=side)x(?P<channels>\d+)", rest)
    if name in _SPACES and match is None:
        raise InvalidValueError(f"{family!r} is no family of spaces; expected e.g. 'mobile/v1/32x32x3'")
    sizes = {} if match is None else {"image_size": int(match["side"]), "channels": int(match["channels"])}
    space = load_profiled_space(name, **sizes)
    if match is not None and match["width"] is not None:
        space = dataclasses.replace(space, width_multiplier=float(match["width"]))  # type: ignore[type-var]
    if space.family != family:
        raise InvalidValueError(f"tables of {family} were made by another version, which has {space.family}")
    return space
