"""Images and classes for which a published space was made."""

from __future__ import annotations

from collections.abc import Iterable

from hwautoml.errors import InvalidValueError


def require_published(
    space: str, image_size: int, channels: int, num_classes: int, published: Iterable[tuple[int, int, int]]
) -> None:
    """Raises InvalidValueError unless (image_size, channels, num_classes) is one of ``published``."""
    published = tuple(published)
    if (image_size, channels, num_classes) not in published:
        known = " or ".join(f"{side}x{side}x{depth} with {classes} classes" for side, depth, classes in published)
        raise InvalidValueError(
            f"{space} is published for {known}, not for {image_size}x{image_size}x{channels} with {num_classes}",
            fix="one of these, or the space 'mobile', which takes any size",
        )
