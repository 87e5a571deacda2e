"""What tuning found, on disk: the best known tiling of each function, per target."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwautoml.core.storage import replaced_atomically
from hwautoml.errors import HwAutoMLError, InvalidValueError, RunFolderError
from hwautoml.schedules import SCHEDULES_VERSION
from hwautoml.schedules.tiling import Tiling

FORMAT = "hwautoml-schedule-records/1"


@dataclass(frozen=True)
class Record:
    """``tiling`` ran in ``time_us`` microseconds and was the best of ``num_tried`` candidates.

    ``crashed`` are candidates that took the tuner's process down; they are not tried again.
    A record without a tiling remembers only those.
    """

    name: str
    tiling: Tiling | None = None
    time_us: float = math.inf
    num_tried: int = 0
    crashed: tuple[Tiling, ...] = ()

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "tiling": None if self.tiling is None else self.tiling.to_json(),
            "time_us": self.time_us if math.isfinite(self.time_us) else None,
            "num_tried": self.num_tried,
            "schedules": SCHEDULES_VERSION,
            "crashed": [tiling.to_json() for tiling in self.crashed],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Record:
        """Raises InvalidValueError, KeyError or TypeError where `to_json` wrote no such thing."""
        tiling, time_us, num_tried = data["tiling"], data["time_us"], data["num_tried"]
        if not (time_us is None or (isinstance(time_us, float) and time_us > 0)):
            raise InvalidValueError(f"time_us must be a positive number or null, but got {time_us}")
        if not isinstance(num_tried, int) or num_tried < 0:
            raise InvalidValueError(f"num_tried must be a count, but got {num_tried}")
        # Other schedules, other candidates: the best one stays, and all are tried again.
        is_current = data.get("schedules") == SCHEDULES_VERSION
        return Record(
            name=str(data["name"]),
            tiling=None if tiling is None else Tiling.from_json(tiling),
            time_us=math.inf if time_us is None else time_us,
            num_tried=num_tried if is_current else 0,
            crashed=tuple(Tiling.from_json(item) for item in data["crashed"]),
        )


@dataclass
class Records:
    """Records by target string and function key; saved after every change by the tuner."""

    path: Path | None = None
    by_target: dict[str, dict[str, Record]] = field(default_factory=dict)
    _written: tuple[int, ...] = ()  # the file as this object left it: whatever differs is another tuner's

    @staticmethod
    def load(path: Path | None) -> Records:
        """The records in a file (none where there is no file, or no path).

        Raises RunFolderError when the file is damaged; it is left as it is.
        """
        if path is None or not path.exists():
            return Records(path)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise InvalidValueError(f"format is {data['format']!r}, expected {FORMAT!r}")
            by_target = {
                target: {key: Record.from_json(item) for key, item in entries.items()}
                for target, entries in data["records"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, HwAutoMLError) as error:
            raise RunFolderError(
                f"{path} holds no readable schedule records ({type(error).__name__}: {error})",
                fix=f"move {path} away; the next tuning starts afresh",
            ) from error
        return Records(path, by_target)

    def get(self, target: str, key: str) -> Record | None:
        return self.by_target.get(target, {}).get(key)

    def put(self, target: str, key: str, record: Record) -> None:
        self.by_target.setdefault(target, {})[key] = record

    def tilings(self, target: str) -> dict[str, Tiling]:
        """The best tiling of every function recorded for a target."""
        return {
            key: record.tiling for key, record in self.by_target.get(target, {}).items() if record.tiling is not None
        }

    def add(self, other: Records) -> None:
        """Takes over what is only in ``other``, or has more trials there, or as many and a faster result."""
        for target, entries in other.by_target.items():
            for key, record in entries.items():
                mine = self.get(target, key)
                if mine is None or (record.num_tried, -record.time_us) > (mine.num_tried, -mine.time_us):
                    self.put(target, key, record)

    def save(self) -> None:
        """Writes the file atomically, keeping what another tuner added to it meanwhile."""
        if self.path is None:
            return
        if not self._written or _stamp(self.path) != self._written:
            self.add(Records.load(self.path))
        with replaced_atomically(self.path, survives_power_loss=False) as temporary:  # after every trial
            temporary.write_text(self._to_json(), encoding="utf-8")
            self._written = _stamp(temporary)

    def _to_json(self) -> str:
        """One record a line: for whoever compares two files."""
        targets = []
        for target, entries in sorted(self.by_target.items()):
            lines = (f"{json.dumps(key)}: {_text_of(record)}" for key, record in sorted(entries.items()))
            targets.append(f"{json.dumps(target)}: {{\n" + ",\n".join(lines) + "\n}")
        return f'{{"format": {json.dumps(FORMAT)}, "records": {{\n' + ",\n".join(targets) + "\n}}\n"


@functools.lru_cache(maxsize=10_000)
def _text_of(record: Record) -> str:
    """Hundreds of records are written after every trial, and one of them is new."""
    return json.dumps(record.to_json(), allow_nan=False)


def _stamp(path: Path) -> tuple[int, ...]:
    """Differs for every file that was ever written here; empty where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size
