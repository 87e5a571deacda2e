"""Stage: parity of every file with the trained network, and the one and only look at the test split."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hwautoml.compilers import reference_runtime, traits_of
from hwautoml.core.parity import check_parity, require_parity
from hwautoml.pipeline.runs.candidates import Finalist, candidate_folder, load_network, network_outputs, spread
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.outcomes import Checked, FileParity

PARITY_IMAGES = 1000
NUM_SAMPLES = 4  # test images that travel in the bundle
# Two runtimes round sums of int8 products at different places; a wrong scale shows up as other classes.
RUNTIMES_TOLERANCE, RUNTIMES_AGREEMENT = 0.1, 0.98


def check_stage(run: RunContext, winner: Finalist) -> Checked:
    """Through the very files that ship.

    Raises:
        ParityError: a file does not compute what the trained network computes.
    """
    return run.once(Checked, lambda: _check(run, winner))


def _check(run: RunContext, winner: Finalist) -> Checked:
    resolution, task = run.space.resolution(winner.architecture), run.dataset.task
    few = run.dataset.test.raw(spread(run.dataset.test.num_images, PARITY_IMAGES), resolution)
    reference = network_outputs(run, load_network(run, winner.architecture), few)
    int8 = check_int8(run, winner, few, reference) if winner.precision == "int8" else None
    parity = _file_parities(run, winner, few, reference)
    outputs = _test_outputs(run, winner, resolution)
    outcome = task.outcome(outputs, run.dataset.test.labels.numpy())
    samples = tuple((i, tuple(outputs[i].tolist())) for i in spread(len(outputs), NUM_SAMPLES))
    return Checked(task.score(outcome), task.outcome_to_json(outcome), samples, parity, int8)


def _file_parities(
    run: RunContext, winner: Finalist, images: NDArray[np.uint8], reference: NDArray[np.float32]
) -> dict[str, FileParity]:
    """Of the files in fp32, by runtime; the ONNX file always ships, and an int8 form was made from it."""
    reference_name = reference_runtime()
    files = {r: winner.files[r] for r in dict.fromkeys([reference_name, *winner.measured])}
    if winner.precision == "int8":
        files = {reference_name: candidate_folder(run, winner.architecture) / "model.onnx"}
    parities = {}
    for runtime, path in files.items():
        run.report("check", 0.0, f"parity of {runtime} with torch")
        found = run.devices(runtime).run_model(path, images)
        tolerance = traits_of(runtime).parity_tolerance
        report = check_parity(reference, found, task=run.dataset.task, tolerance=tolerance)
        require_parity(report, artifact=str(path))
        parities[runtime] = FileParity(report.max_abs, report.agreement, report.num_images)
    return parities


def check_int8(
    run: RunContext, winner: Finalist, images: NDArray[np.uint8], reference: NDArray[np.float32]
) -> Mapping[str, Mapping[str, float]]:
    """Differences of the int8 files from the trained network: reported, since the accuracy is what was gated.

    Raises:
        ParityError: two runtimes make different things of the same int8 file.
    """
    outputs = {r: run.devices(r).run_model(winner.files[r], images) for r in winner.measured}
    task = run.dataset.task
    facts = {r: check_parity(reference, found, task=task, tolerance=1.0).to_json() for r, found in outputs.items()}
    first, *others = outputs
    for other in others:
        between = check_parity(outputs[first], outputs[other], task=task, tolerance=RUNTIMES_TOLERANCE)
        require_parity(between, artifact=str(winner.files[other]), min_agreement=RUNTIMES_AGREEMENT)
        worst = facts.get("between_runtimes", {}).get("max_abs", 0.0)
        if between.max_abs >= worst:
            facts["between_runtimes"] = between.to_json()
    return facts


def _test_outputs(run: RunContext, winner: Finalist, resolution: int) -> NDArray[np.float32]:
    """(num_images, num_outputs) of the winner's file on the test split, a few thousand images at a time."""
    split, parts = run.dataset.test, []
    for start in range(0, split.num_images, PARITY_IMAGES):
        run.report("check", start / split.num_images, f"test split through the {winner.runtime} file")
        images = split.raw(list(range(start, min(start + PARITY_IMAGES, split.num_images))), resolution)
        parts.append(run.devices(winner.runtime).run_model(winner.files[winner.runtime], images))
    return np.concatenate(parts)
