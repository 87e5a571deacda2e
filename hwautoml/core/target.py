"""A device that networks are built for, described as data in ``targets/NAME.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from hwautoml.errors import InvalidValueError, UnknownTargetError

KINDS = ("cpu", "gpu", "edge")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
CONNECTIONS = ("local", "rpc")


@dataclass(frozen=True)
class Target:
    """Figures come from the device's datasheet (source in the TOML's comments).

    ``tvm`` is what TVM's ``Target`` takes; the values ``native`` in it are resolved on the
    machine that compiles. ``runtimes`` are tried in this order.
    """

    name: str
    description: str
    kind: str
    runtimes: tuple[str, ...]
    tvm: Mapping[str, object]
    num_threads: int
    precisions: tuple[str, ...]
    memory_bytes: int
    peak_gflops: float
    bandwidth_gb_s: float
    connection: str

    def __post_init__(self) -> None:
        problems = []
        for field_name, allowed in (("kind", KINDS), ("connection", CONNECTIONS)):
            if getattr(self, field_name) not in allowed:
                problems.append(f"{field_name} must be one of {allowed}, got {getattr(self, field_name)!r}")
        problems += [
            f"precision must be one of {PRECISIONS}, got {p!r}" for p in self.precisions if p not in PRECISIONS
        ]
        for name in ("num_threads", "memory_bytes", "peak_gflops", "bandwidth_gb_s"):
            if not getattr(self, name) > 0:
                problems.append(f"{name} must be positive, got {getattr(self, name)!r}")
        if not self.runtimes:
            problems.append("runtimes must name at least one runtime")
        if "tvm" in self.runtimes and "kind" not in self.tvm:
            problems.append("runtime 'tvm' needs a [tvm] table with at least 'kind'")
        if problems:
            raise InvalidValueError(f"target {self.name!r}: " + "; ".join(problems))

    @property
    def is_cuda(self) -> bool:
        """Whether its networks run on an NVIDIA GPU."""
        return self.tvm.get("kind") == "cuda"

    @property
    def host_triple(self) -> str | None:
        """LLVM's name of the processor that its libraries are linked for, a GPU's host; None: this machine's."""
        host = self.tvm.get("host", self.tvm)
        return str(host["mtriple"]) if isinstance(host, Mapping) and "mtriple" in host else None

    def require_precision(self, precision: str) -> None:
        """Raises InvalidValueError, with the list, for a precision that the target does not compute in."""
        if precision not in self.precisions:
            known = ", ".join(self.precisions)
            raise InvalidValueError(f"target {self.name!r} computes in {known}, not in {precision!r}")


_TYPES: dict[str, type | tuple[type, ...]] = {
    "description": str,
    "kind": str,
    "runtimes": list,
    "tvm": dict,
    "num_threads": int,
    "precisions": list,
    "memory_bytes": int,
    "peak_gflops": (int, float),
    "bandwidth_gb_s": (int, float),
    "connection": str,
}


def parse_target(name: str, text: str, source: str) -> Target:
    """All problems of one TOML file are reported together.

    Raises:
        InvalidValueError: no TOML, a missing or unknown field, or a value out of range.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidValueError(f"{source} is not valid TOML: {error}") from error
    required = {field.name for field in fields(Target)} - {"name"}
    problems = [f"missing field {field!r}" for field in sorted(required - data.keys())]
    problems += [f"unknown field {field!r}" for field in sorted(data.keys() - required)]
    problems += [
        f"{field} must be {_type_name(kind)}, got {data[field]!r}"
        for field, kind in _TYPES.items()
        if field in data and (not isinstance(data[field], kind) or isinstance(data[field], bool))
    ]
    if problems:
        raise InvalidValueError(f"{source}: " + "; ".join(problems))
    lists = {field: tuple(data[field]) for field in ("runtimes", "precisions")}
    return Target(name=name, **{**data, **lists})


def load_target(name: str, folders: Sequence[Path]) -> Target:
    """The first ``NAME.toml`` in ``folders``.

    Raises:
        UnknownTargetError: no folder has it; the message lists the known ones, nearest first.
        InvalidValueError: the file is not readable, or wrong.
    """
    for folder in folders:
        path = folder / f"{name}.toml"
        if Path(name).name == name and path.is_file():
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidValueError(f"{path} cannot be read: {error}") from error
            return parse_target(name, text, str(path))
    raise UnknownTargetError(
        "target",
        name,
        target_names(folders),
        fix=f"write {(folders[0] if folders else Path()) / (name + '.toml')}, or name one shown by: hwautoml targets",
    )


def target_names(folders: Sequence[Path]) -> tuple[str, ...]:
    """Sorted names of every target that ``folders`` describe."""
    return tuple(sorted({path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.toml")}))


def _type_name(kind: type | tuple[type, ...]) -> str:
    return " or ".join(k.__name__ for k in kind) if isinstance(kind, tuple) else kind.__name__
