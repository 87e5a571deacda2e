"""Opens the model of a bundle with ONNX's reference evaluator; goes into bundles, where hwautoml is not installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def open_model(path: Path | str, num_threads: int) -> Callable[[Any], Any]:
    """uint8 (1, H, W, C) to probabilities (1, num_classes)."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))
    (name,) = evaluator.input_names
    return lambda images: evaluator.run(None, {name: images})[0]
