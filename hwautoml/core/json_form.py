"""Nouns as JSON: a frozen dataclass to plain values and back, checked against its annotations.

msgspec is imported when it is needed: boards, which only measure, do without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from hwautoml.errors import InvalidValueError

T = TypeVar("T")


def to_json(noun: Any) -> dict[str, Any]:
    """Its fields by name; nested nouns, tuples, mappings and numpy's numbers as JSON has them, NaN as null."""
    import msgspec

    return dict(msgspec.json.decode(msgspec.json.encode(noun, enc_hook=_plain)))


def from_json(kind: type[T], data: object, where: str) -> T:
    """The inverse of ``to_json``; fields that ``kind`` does not have are left alone (another version's).

    ``where`` is what messages call the data, such as a file's name.

    Raises:
        InvalidValueError: a field is missing, has another type, or a value that the noun refuses.
    """
    if not isinstance(data, Mapping):
        raise InvalidValueError(f"{where}: expected an object with the fields of {kind.__name__}, got {data!r:.60}")
    import msgspec

    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise InvalidValueError(f"{where}: {error}") from error
    except InvalidValueError as error:
        raise InvalidValueError(f"{where}: {error.message}", fix=error.fix) from error


def _plain(value: object) -> object:
    """numpy's scalars and arrays, and paths."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "__fspath__"):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} has no JSON form")  # what msgspec expects of its hook
