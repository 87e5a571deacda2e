"""A network in int8 as accurate as it has to be, and what it loses by that: measured on validation images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwautoml.compilers import reference_runtime
from hwautoml.core.space import Architecture
from hwautoml.core.task import Task
from hwautoml.core.temporary import temporary_folder
from hwautoml.devices.machine import is_int8_exact
from hwautoml.errors import CompileError, InvalidValueError
from hwautoml.exporters import quantize_onnx
from hwautoml.exporters.quantization import layer_sensitivity
from hwautoml.pipeline.runs.candidates import export_architecture, spread
from hwautoml.pipeline.runs.context import RunContext

MAX_LOSS = 0.005  # of accuracy, as a fraction: half a point
CALIBRATION_IMAGES, SENSITIVITY_IMAGES = 256, 64
MAX_SCORING_SEC = 20.0
MAX_FP32_SHARE = 0.34  # of the layers, in mixed precision

_log = logging.getLogger(__name__)


def keeps_accuracy(run: RunContext, architecture: Architecture, budget_sec: float) -> bool:
    """Whether a network, as it is trained so far, loses no more than allowed in int8: tried, not assumed.

    ``budget_sec`` is the whole run's.
    """
    resolution = run.space.resolution(architecture)
    run.report("specialise", 0.2, f"{architecture.id} in int8")
    images = calibration_images(run, resolution)
    with temporary_folder() as folder:
        source = export_architecture(run, architecture, Path(folder) / "model.onnx")
        scorer = Scorer(run, source, resolution, run.limit_ms, budget_sec)
        wanted, path = scorer.base_accuracy - MAX_LOSS, Path(folder) / "int8.onnx"
        try:
            path, conditions = Path(folder) / "int8.onnx", run.devices.conditions()
            accuracy, _ = quantize_until_accurate(
                source, path, images, scorer.accuracy, wanted, task=run.dataset.task, conditions=conditions
            )
        except (CompileError, InvalidValueError) as error:
            _log.warning("%s cannot be quantised: %s", architecture.id, error.message)
            return False
    if accuracy < wanted:
        _log.info("%s loses %.2f points in int8", architecture.id, 100 * (scorer.base_accuracy - accuracy))
    return accuracy >= wanted


def calibration_images(run: RunContext, resolution: int) -> NDArray[np.uint8]:
    """(n, H, W, C) of the training split."""
    split = run.dataset.train
    return split.raw(spread(split.num_images, CALIBRATION_IMAGES), resolution)


def quantize_until_accurate(
    source: Path,
    path: Path,
    images: NDArray[np.uint8],
    accuracy_of: Callable[[Path], float],
    wanted_accuracy: float,
    *,
    task: Task,
    conditions: Mapping[str, object],
    on_layer: Callable[[int, int], None] | None = None,
) -> tuple[float, tuple[str, ...]]:
    """Writes the int8 form of ``source`` to ``path``; returns its accuracy, and the layers that stay in float32.

    All layers are quantised, or else the most sensitive 1, 2, 4, ... up to ``MAX_FP32_SHARE`` stay in float32, until
    ``wanted_accuracy`` (0..1) is there. ``conditions`` are those of the device that the file is for: where its sums of
    products saturate, weights keep to 7 bits.
    """
    saturates = not is_int8_exact(conditions)
    quantize_onnx(source, path, images, reduce_range=saturates)
    kept: tuple[str, ...] = ()
    accuracy, number = accuracy_of(path), 1
    if accuracy >= wanted_accuracy:
        return accuracy, kept
    few = images[spread(len(images), SENSITIVITY_IMAGES)]
    order = list(layer_sensitivity(source, few, divergence=task.divergence, reduce_range=saturates, on_layer=on_layer))
    while number <= max(1, round(MAX_FP32_SHARE * len(order))) and accuracy < wanted_accuracy:
        kept = tuple(order[:number])
        quantize_onnx(source, path, images, reduce_range=saturates, keep_fp32=kept)
        accuracy, number = accuracy_of(path), 2 * number
    return accuracy, kept


class Scorer:
    """Validation accuracy (the task's score) through files: on as many images as the time allows, the same for all."""

    def __init__(self, run: RunContext, source: Path, resolution: int, median_ms: float, budget_sec: float) -> None:
        split = run.dataset.val
        affordable = int(min(MAX_SCORING_SEC, 0.03 * budget_sec) * 1e3 / median_ms)
        self._run, chosen = run, spread(split.num_images, max(affordable, 200))
        self._images, self._labels = split.raw(chosen, resolution), split.labels.numpy()[chosen]
        self.num_images = len(chosen)
        self.base_accuracy = self.accuracy(source)

    def accuracy(self, path: Path) -> float:
        self._run.report("quantize", 0.15, f"accuracy on {self.num_images} validation images")
        outputs = self._run.devices(reference_runtime()).run_model(path, self._images)
        task = self._run.dataset.task
        return task.score(task.outcome(outputs, self._labels))
