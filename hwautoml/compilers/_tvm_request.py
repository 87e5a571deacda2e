"""What the caller asks of the worker process, as it travels: one JSON object."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hwautoml.compilers.base import BoardRoute


@dataclass(frozen=True)
class CrashedTrial:
    """A candidate that ended a worker: the function's key and name, the tiling as JSON."""

    key: str
    name: str
    tiling: dict[str, object]


@dataclass(frozen=True)
class CompileRequest:
    """Paths are absolute. ``crashed`` candidates are recorded and not tried again.

    With no ``out_path`` nothing is built: the functions of ``onnx_path`` and ``further_paths`` are tuned together.

    Candidates are timed on ``board``, or here where there is none.

    A worker that says nothing for ``silence_sec`` is stuck, and ends itself.
    """

    onnx_path: Path
    out_path: Path | None
    target: dict[str, object]
    num_threads: int
    tune_budget_sec: float
    records_path: Path
    seed: int
    silence_sec: float
    crashed: tuple[CrashedTrial, ...] = ()
    further_paths: tuple[Path, ...] = ()
    board: BoardRoute | None = None

    def after_crash(self, trial: CrashedTrial, tune_budget_sec: float) -> CompileRequest:
        """The request for the next worker: without ``trial``, with the time that is left."""
        crashed = (*self.crashed, trial)
        return replace(self, crashed=crashed, tune_budget_sec=tune_budget_sec)

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @staticmethod
    def from_json(text: str) -> CompileRequest:
        data: dict[str, Any] = json.loads(text)
        for name in ("onnx_path", "records_path"):
            data[name] = Path(data[name])
        data["out_path"] = None if data["out_path"] is None else Path(data["out_path"])
        data["further_paths"] = tuple(map(Path, data["further_paths"]))
        data["board"] = None if data["board"] is None else BoardRoute(**data["board"])
        crashed = tuple(CrashedTrial(**trial) for trial in data.pop("crashed"))
        return CompileRequest(**data, crashed=crashed)
