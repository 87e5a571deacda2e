"""Images and classes for which a published space was made."""

from __future__ import annotations

from hwautoml.core.space import SearchSpace
from hwautoml.errors import InvalidValueError


def require_published(space: SearchSpace) -> None:
    """Raises InvalidValueError unless the space's sizes are among its ``published`` ones."""
    if (space.image_size, space.channels, space.num_outputs) not in space.published:
        known = " or ".join(f"{side}x{side}x{depth} with {classes} classes" for side, depth, classes in space.published)
        size = f"{space.image_size}x{space.image_size}x{space.channels}"
        raise InvalidValueError(
            f"{space.identity.partition('/')[0]} is published for {known}, not for {size} with {space.num_outputs}",
            fix="one of these, or the space 'mobile', which takes any size",
        )
