"""Checkpoints of a training: weights, momentum and counters in one file, so that they can never disagree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.errors import RunFolderError
from hwautoml.store.files import read_tensors, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

_WEIGHTS, _MOMENTUM = "net.", "momentum."


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """``weights`` and ``momentum`` by parameter; ``counters`` are the training's own (seconds, images, steps)."""

    weights: Mapping[str, Tensor]
    momentum: Mapping[str, Tensor] = field(default_factory=dict)
    counters: Mapping[str, float] = field(default_factory=dict)


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    tensors = {f"{_WEIGHTS}{name}": tensor for name, tensor in checkpoint.weights.items()}
    tensors |= {f"{_MOMENTUM}{name}": tensor for name, tensor in checkpoint.momentum.items()}
    write_tensors(path, tensors, {"state": json.dumps(dict(checkpoint.counters))})


def read_checkpoint(path: Path) -> Checkpoint:
    """Raises RunFolderError: the file is missing or damaged."""
    tensors, metadata = read_tensors(path)
    try:
        counters = json.loads(metadata["state"])
    except (KeyError, json.JSONDecodeError) as error:
        raise RunFolderError(
            f"{path} is no checkpoint: it lacks the training's state", fix=f"remove it, training begins anew: rm {path}"
        ) from error
    return Checkpoint(_under(_WEIGHTS, tensors), _under(_MOMENTUM, tensors), counters)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
