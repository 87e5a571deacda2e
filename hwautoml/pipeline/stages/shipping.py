"""Stage: the bundle, the report and ``result.json``."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from hwautoml.bundles import BundleSample, PackedRuntime, write_bundle
from hwautoml.bundles.bundle import TVM_FILE
from hwautoml.compilers import reference_runtime, traits_of
from hwautoml.core import json_form
from hwautoml.core.run_result import RunResult
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.outcomes import Shipped
from hwautoml.pipeline.stages.results import Finished, seconds_of, summarise, write_run_report
from hwautoml.store.files import read_json, write_json

RESULT = "result.json"


def ship_stage(run: RunContext, finished: Finished) -> RunResult:
    run.once(Shipped, lambda: _ship(run, finished))
    return read_result(run.folder)


def read_result(folder: Path) -> RunResult:
    """Of a finished run.

    Raises:
        RunFolderError: there is none, or it is damaged.
        InvalidValueError: a field has a type that no result has.
    """
    return RunResult.from_json(read_json(folder / RESULT), str(folder / RESULT))


def _ship(run: RunContext, finished: Finished) -> Shipped:
    began = time.monotonic()
    result = summarise(run, finished)
    bundle_stage(run, finished, result)

    def timed() -> RunResult:
        return replace(result, seconds={**seconds_of(run), Shipped.stage: time.monotonic() - began})

    # The report is the last second of a run; its own time is the one thing it cannot show.
    write_run_report(run, finished, timed())
    write_json(run.folder / RESULT, timed().to_json())
    return Shipped()


def bundle_stage(run: RunContext, finished: Finished, result: RunResult) -> Path:
    winner, shown = finished.winner, result.to_json()
    measured = {runtime: traits_of(runtime) for runtime in winner.measured}
    library = next((winner.files[r] for r, traits in measured.items() if traits.ships_as == TVM_FILE), None)
    further = [
        PackedRuntime(r, winner.files[r], traits.ships_as, traits.opener, tuple(traits.packages.values()))
        for r, traits in measured.items()
        if traits.ships_as is not None and traits.opener is not None
    ]
    test, task = run.dataset.test, run.dataset.task
    images = test.raw([index for index, _ in finished.checked.samples])
    samples = [
        BundleSample(image, np.array(outputs), task.label_text(test.labels[index].numpy()))
        for image, (index, outputs) in zip(images, finished.checked.samples, strict=True)
    ]
    return write_bundle(
        run.folder / "bundle",
        onnx_path=winner.files[reference_runtime()],
        tvm_library=library,
        further=further,
        default_runtime=winner.runtime,
        num_threads=run.target.num_threads,
        task=task,
        resolution=run.space.resolution(winner.architecture),
        channels=run.dataset.channels,
        image_size=run.dataset.image_size,
        pixel_rule=run.dataset.pixel_rule,
        accuracy=shown["accuracy"],
        latency=shown["latency_ms"],
        conditions=shown["conditions"],
        architecture=winner.architecture,
        parity=shown["parity"],
        samples=samples,
        data={**json_form.to_json(result.dataset), "fingerprint": run.dataset.fingerprint},
        precision=winner.precision,
        quantization=shown["quantization"],
        outcome=task.outcome_from_json(finished.checked.outcome),
    )
