"""Search spaces declared as data, found by name (here and in other packages) and imported on first use."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hwautoml.core.plugins import Plugins
from hwautoml.errors import InvalidValueError

if TYPE_CHECKING:
    from hwautoml.core.elastic_space import ElasticSpace
    from hwautoml.core.space import SearchSpace

SPACES = Plugins(
    "space",
    "hwautoml.spaces",
    {
        "mobile": "hwautoml.spaces.mobile:MobileSpace",
        "nasbench201": "hwautoml.spaces.nasbench201:NasBench201Space",
        "fbnet": "hwautoml.spaces.fbnet:FBNetSpace",
        "ofa-mobilenetv3": "hwautoml.spaces.ofa:OFASpace",
    },
)
PROFILED_SIZES = (32, 3, 10)  # of a space that takes any, where nothing is said: side, channels, outputs


def space_names() -> tuple[str, ...]:
    """None of them is imported."""
    return SPACES.names


def load_space(
    name: str, *, image_size: int | None = None, channels: int | None = None, num_outputs: int | None = None
) -> SearchSpace:
    """The space called ``name``; ``image_size`` in pixels. Published spaces have sizes of their own as defaults.

    Raises:
        UnknownNameError: no space has that name; the known ones are listed, nearest first.
        InvalidValueError: a size is missing, out of range, or not one the space was published for.
        MissingDependencyError: the package that brings the space cannot be imported.
    """
    space_class = _class_of(name)
    asked = {"image_size": image_size, "channels": channels, "num_outputs": num_outputs}
    given = {key: value for key, value in asked.items() if value is not None}
    missing = [key for key in asked if key not in given]
    if missing and not space_class.published:
        raise InvalidValueError(
            f"space {name!r} has no default for {', '.join(missing)}",
            fix=f"load_space({name!r}, image_size=32, channels=3, num_outputs=10)",
        )
    defaults = dict(zip(asked, space_class.published[0] if missing else (), strict=False))
    return space_class(**{**defaults, **given})


def load_elastic_space(name: str, *, image_size: int, channels: int, num_outputs: int) -> ElasticSpace:
    """The space called ``name`` for these images: one whose members share weights, so that ``run`` can train it.

    Raises as ``load_space`` does, and InvalidValueError where members of that space share no weights.
    """
    return require_elastic(name)(image_size, channels, num_outputs)  # type: ignore[call-arg]  # see SearchSpace


def require_elastic(name: str) -> type[ElasticSpace]:
    """The class of a space that ``run`` can train. Raises as ``load_elastic_space`` does, sizes apart."""
    from hwautoml.core.elastic_space import ElasticSpace

    space_class = _class_of(name)
    if not issubclass(space_class, ElasticSpace):
        raise InvalidValueError(
            f"space {name!r} has latency tables, but its members share no weights that a run could train",
            fix="--space mobile, or another ElasticSpace; see docs/extending/space.md",
        )
    return space_class


def load_profiled_space(name: str, *, image_size: int | None = None, channels: int | None = None) -> SearchSpace:
    """The space ``name`` for a latency table, which leaves the number of outputs open.

    It has the number it was published with at that size; one that takes any size has 10 outputs, and 32x32x3 where no
    size is given.

    Raises as ``load_space`` does.
    """
    published = _class_of(name).published
    if published:
        at_size = [outputs for side, _, outputs in published if side == image_size]
        num_outputs = at_size[0] if at_size else None
        return load_space(name, image_size=image_size, channels=channels, num_outputs=num_outputs)
    side, depth, num_outputs = PROFILED_SIZES
    return load_space(name, image_size=image_size or side, channels=channels or depth, num_outputs=num_outputs)


def load_family(family: str) -> SearchSpace:
    """The inverse of ``SearchSpace.family``, with the number of outputs of ``load_profiled_space``.

    Raises:
        InvalidValueError: the text is no family of a space known here (UnknownNameError: none of that name).
    """
    name, _, rest = family.partition("/")
    match = re.fullmatch(r"(?:.+/)?v\d+/(?:.+/)?(?P<side>\d+)x(?P=side)x(?P<channels>\d+)", rest)
    if name in space_names() and match is None:
        raise InvalidValueError(f"{family!r} is no family of spaces; expected e.g. 'mobile/v1/32x32x3'")
    sizes = {} if match is None else {"image_size": int(match["side"]), "channels": int(match["channels"])}
    space = load_profiled_space(name, **sizes)
    found = [variant for variant in space.variants() if variant.family == family]
    if not found:
        raise InvalidValueError(f"tables of {family} were made by another version, which has {space.family}")
    return found[0]


def _class_of(name: str) -> type[SearchSpace]:
    """Raises MissingDependencyError, too, for a package's part that is no space of that name."""
    from hwautoml.core.space import SearchSpace
    from hwautoml.errors import MissingDependencyError

    found = SPACES.load(name)
    if not (isinstance(found, type) and issubclass(found, SearchSpace)):
        problem = f"is {found!r}, no subclass of SearchSpace"
    elif found.identity.partition("/")[0] != name:
        problem = f"has the identity {found.identity!r}, expected {name}/v1: tables of it would not be found again"
    else:
        return found
    raise MissingDependencyError(
        f"space {name!r} of package {SPACES.origin(name)!r} {problem}", fix="mend the package; docs/extending/space.md"
    )
