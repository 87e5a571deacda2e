"""Results of verbs: frozen nouns with attributes, and the object that ``--json`` prints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class JsonResult(ABC):
    """``result["path"]`` is ``result.to_json()["path"]``, as it was when verbs returned plain dictionaries."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """What the command prints with ``--json``: plain values only."""

    def __getitem__(self, key: str) -> Any:
        return self.to_json()[key]
