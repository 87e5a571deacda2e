"""Stages: export, compile, measure the files themselves, choose by measurement, and write the bundle."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwautoml.bundles import BundleSample, write_bundle
from hwautoml.compilers import load_backend
from hwautoml.core.latency_table import form_name
from hwautoml.core.measurement import Measurement
from hwautoml.core.space import Architecture
from hwautoml.devices.protocol import MeasureFailure, MeasureProtocol
from hwautoml.errors import CompileError, LimitNotMetError, MeasurementError
from hwautoml.exporters import check_parity, export_onnx, require_parity
from hwautoml.pipeline.runs.job import Job
from hwautoml.pipeline.stages.specialising import candidate_rows, load_network
from hwautoml.pipeline.tables.finding import records_path
from hwautoml.store.files import write_json
from hwautoml.supernets.scoring import accuracy

PARITY_TOLERANCE = {"onnxruntime": 1e-4, "tvm": 1e-4}
PARITY_IMAGES = 1000
NUM_SAMPLES = 4  # test images that travel in the bundle

FINAL_PROTOCOL = MeasureProtocol(
    warmup_ms=30.0,
    min_rounds=40,
    max_rounds=150,
    target_relative_interval=0.005,
    max_model_sec=4.0,
    max_total_sec=25.0,
    num_singles=400,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finalist:
    """A fine-tuned candidate with its files and what was measured of them, by runtime."""

    architecture: Architecture
    accuracy_val: float
    files: dict[str, Path]
    measured: dict[str, Measurement]
    precision: str = "fp32"

    @property
    def runtime(self) -> str:
        return min(self.measured, key=lambda runtime: self.measured[runtime].median_ms)

    @property
    def form(self) -> str:
        """As of a latency table: its runtime, and its precision unless that is fp32."""
        return form_name(self.runtime, self.precision)

    @property
    def best(self) -> Measurement:
        return self.measured[self.runtime]

    def meets(self, limit_ms: float) -> bool:
        """With the whole 95 % interval of the median."""
        return self.best.interval_ms[1] <= limit_ms


def export_stage(job: Job) -> None:
    if job.store.stage("export") is not None:
        return
    with job.timed_stage("export"):
        rows = candidate_rows(job)
        for index, row in enumerate(rows.values()):
            architecture = row["architecture"]
            job.report("export", index / len(rows), f"ONNX of {architecture.id}")
            export_architecture(job, architecture, candidate_folder(job, architecture) / "model.onnx")


def export_architecture(job: Job, architecture: Architecture, path: Path, network: Any = None) -> Path:
    dataset = job.dataset
    metadata = {"dataset": dataset.name, "dataset_fingerprint": dataset.fingerprint, "target": job.target.name}
    export_onnx(
        load_network(job, architecture) if network is None else network,
        path,
        resolution=job.space.resolution(architecture),
        channels=dataset.channels,
        mean=dataset.mean,
        std=dataset.std,
        classes=dataset.classes,
        architecture=architecture,
        metadata=metadata,
    )
    return path


def compile_stage(job: Job) -> None:
    """TVM for every finalist; the leader first, with the tuning budget, so that the others find its records."""
    if job.store.stage("compile") is not None:
        return
    with job.timed_stage("compile") as payload:
        payload["errors"] = {}
        if "tvm" not in job.runtimes:
            return
        leader = job.store.stage("specialise")["leader"]  # type: ignore[index]
        rows = sorted(candidate_rows(job).values(), key=lambda row: row["architecture"].id != leader)
        for index, row in enumerate(rows):
            architecture = row["architecture"]
            folder = candidate_folder(job, architecture)
            tune = job.plan.tune if index == 0 else 0.0
            before, span = index / len(rows), 1 / len(rows)

            def listen(done: int, total: int, text: str, before: float = before, span: float = span) -> None:
                job.report("compile", before + span * done / max(total, 1) * 0.99, f"TVM: {text}")

            try:
                model = load_backend("tvm").compile_model(
                    folder / "model.onnx",
                    folder,
                    tvm_target=job.target.tvm,
                    num_threads=job.target.num_threads,
                    tune_budget_sec=tune,
                    records_path=records_path(job.target, job.profiles_dir),
                    on_progress=listen,
                    seed=job.settings.seed,
                )
            except CompileError as error:
                _log.warning("TVM could not compile %s: %s", architecture.id, error)
                payload["errors"][architecture.id] = error.message
                continue
            payload[architecture.id] = {
                "functions": model.functions,
                "tuned": model.tuned,
                "fallbacks": list(model.fallbacks),
                "compile_sec": model.compile_sec,
                "tune_sec": model.tune_sec,
            }


def measure_stage(job: Job) -> None:
    """Every file on its runtime, interleaved, in a process of its own."""
    if job.store.stage("measure") is not None:
        return
    with job.timed_stage("measure") as payload:
        payload["failures"] = {}
        rows = candidate_rows(job)
        by_runtime = {"onnxruntime": "model.onnx", "tvm": "model.so"}
        runtimes = [r for r in job.runtimes if r in by_runtime]
        for index, runtime in enumerate(runtimes):
            job.report("measure", index / len(runtimes), f"{runtime} on {job.target.name}")
            files = {key: candidate_folder(job, row["architecture"]) / by_runtime[runtime] for key, row in rows.items()}
            files = {key: path for key, path in files.items() if path.is_file()}
            if not files:
                continue
            paths = list(files.values())
            results = job.device(runtime).measure(paths, paths[0], FINAL_PROTOCOL)
            for key, result in zip(files, results, strict=True):
                if isinstance(result, MeasureFailure):
                    payload["failures"][f"{key} {runtime}"] = result.reason
                    continue
                job.store.add_measurement(key, job.target.name, runtime, measurement_to_json(result))


def measurement_to_json(measured: Measurement) -> dict[str, Any]:
    return {
        "samples_ms": list(measured.samples_ms),
        "single_ms": list(measured.single_ms),
        "conditions": dict(measured.conditions),
        "drift_corrected": measured.drift_corrected,
        "weights": "fine-tuned",
    }


def finalists(job: Job) -> list[Finalist]:
    """From the journal; the latest measurement of each file counts.

    Raises:
        MeasurementError: no finalist could be measured on any runtime.
    """
    measured: dict[str, dict[str, Measurement]] = {}
    for runtime in job.runtimes:
        for key, payload in job.store.measurements(job.target.name, runtime):
            if payload["weights"] == "fine-tuned":
                samples = tuple(payload["samples_ms"])
                measured.setdefault(key, {})[runtime] = Measurement(
                    samples, payload["conditions"], payload["drift_corrected"], tuple(payload["single_ms"])
                )
    found = []
    for key, row in candidate_rows(job).items():
        folder = candidate_folder(job, row["architecture"])
        if key in measured:
            files = {"onnxruntime": folder / "model.onnx", "tvm": folder / "model.so"}
            found.append(Finalist(row["architecture"], row["accuracy_val"], files, measured[key]))
    if not found:
        failures = (job.store.stage("measure") or {}).get("failures", {})
        raise MeasurementError(f"no finalist could be measured on {job.target.name}: {failures}")
    return found


def choose_winner(job: Job, candidates: list[Finalist]) -> Finalist:
    """The best validation accuracy among those that meet the limit by measurement.

    Raises:
        LimitNotMetError: none does; the nearest one and its files are kept.
    """
    limit = job.settings.latency_ms
    passed = [c for c in candidates if c.meets(limit)]
    if passed:
        return most_accurate(passed)
    nearest = min(candidates, key=lambda c: c.best.interval_ms[1])
    job.store.set_setting("nearest", {"id": nearest.architecture.id})
    job.store.forget_stages(("measure",))  # noise may have decided: resuming measures again
    low, high = nearest.best.interval_ms
    raise LimitNotMetError(
        f"no fine-tuned candidate meets {limit:g} ms on {job.target.name}; the nearest, {nearest.architecture.id}, "
        f"takes {nearest.best.median_ms:.3g} ms on {nearest.runtime} (measured, 95 % interval {low:.3g} to {high:.3g})",
        fix=f"--latency-ms {high * 1.1:.2g}; the nearest one is kept: {nearest.files[nearest.runtime]}",
    )


def most_accurate(candidates: Sequence[Finalist]) -> Finalist:
    """On validation images; of equals, the fastest."""
    return max(candidates, key=lambda c: (c.accuracy_val, -c.best.median_ms))


def check_stage(job: Job, winner: Finalist) -> dict[str, Any]:
    """Parity gates on real images, and the one and only look at the test split - through the shipped files.

    Raises:
        ParityError: a file does not compute what the trained network computes.
    """
    done = job.store.stage("check")
    if done is not None:
        return done
    with job.timed_stage("check") as payload:
        resolution = job.space.resolution(winner.architecture)
        few = job.dataset.test.raw(spread(job.dataset.test.num_images, PARITY_IMAGES), resolution)
        reference = torch_probabilities(job, winner.architecture, few)
        # The ONNX file always ships.
        files = {r: winner.files[r] for r in dict.fromkeys(["onnxruntime", *winner.measured])}
        if winner.precision == "int8":
            from hwautoml.pipeline.stages.quantizing import check_int8

            payload["int8"] = check_int8(job, winner, few, reference)
            files = {"onnxruntime": candidate_folder(job, winner.architecture) / "model.onnx"}  # what it was made from
        for runtime, path in files.items():
            job.report("check", 0.0, f"parity of {runtime} with torch")
            got = job.device(runtime).run_model(path, few)
            report = check_parity(reference, got, tolerance=PARITY_TOLERANCE[runtime])
            require_parity(report, artifact=str(path))
            payload[runtime] = {
                "max_abs": report.max_abs,
                "top1_agreement": report.top1_agreement,
                "images": report.num_images,
            }
        probabilities = _test_probabilities(job, winner, resolution)
        num_classes = job.dataset.num_classes
        flat = job.dataset.test.labels.numpy() * num_classes + probabilities.argmax(1)
        confusion = np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes)
        payload.update(confusion=confusion.tolist(), accuracy_test=accuracy(confusion))
        payload["samples"] = [[i, probabilities[i].tolist()] for i in spread(len(probabilities), NUM_SAMPLES)]
    return job.store.stage("check")  # type: ignore[return-value]


def spread(num_images: int, number: int) -> list[int]:
    """Up to ``number`` indices, evenly over a split that is ordered by class."""
    return [int(i) for i in np.linspace(0, num_images - 1, min(number, num_images))]


def _test_probabilities(job: Job, winner: Finalist, resolution: int) -> np.ndarray:
    """(num_images, num_classes) of the winner's file on the test split, a few thousand images at a time."""
    split, parts = job.dataset.test, []
    for start in range(0, split.num_images, PARITY_IMAGES):
        job.report("check", start / split.num_images, f"test split through the {winner.runtime} file")
        images = split.raw(list(range(start, min(start + PARITY_IMAGES, split.num_images))), resolution)
        parts.append(job.device(winner.runtime).run_model(winner.files[winner.runtime], images))
    return np.concatenate(parts)


def torch_probabilities(job: Job, architecture: Architecture, images: np.ndarray) -> np.ndarray:
    """(num_images, num_classes) of the trained network for uint8 images (num_images, H, W, C)."""
    import torch

    from hwautoml.exporters import Deployable

    module = Deployable(load_network(job, architecture), job.dataset.mean, job.dataset.std).eval()
    with torch.no_grad():
        return np.concatenate(
            [module(torch.from_numpy(part)).numpy() for part in np.array_split(images, max(len(images) // 250, 1))]
        )


def bundle_stage(job: Job, winner: Finalist, checked: dict[str, Any], result: dict[str, Any]) -> Path:
    tvm = winner.files["tvm"] if "tvm" in winner.measured else None
    test = job.dataset.test
    images = test.raw([index for index, _ in checked["samples"]])
    samples = [
        BundleSample(image, np.array(probabilities), job.dataset.classes[int(test.labels[index])])
        for image, (index, probabilities) in zip(images, checked["samples"], strict=True)
    ]
    return write_bundle(
        job.folder / "bundle",
        onnx_path=winner.files["onnxruntime"],
        tvm_library=tvm,
        default_runtime=winner.runtime,
        num_threads=job.target.num_threads,
        classes=job.dataset.classes,
        resolution=job.space.resolution(winner.architecture),
        channels=job.dataset.channels,
        image_size=job.dataset.image_size,
        pixel_rule=job.dataset.pixel_rule,
        accuracy=result["accuracy"],
        latency=result["latency_ms"],
        conditions=result["conditions"],
        architecture=winner.architecture,
        parity=result["parity"],
        samples=samples,
        data={**result["dataset"], "fingerprint": job.dataset.fingerprint},
        precision=winner.precision,
        quantization=result["quantization"],
        confusion=checked["confusion"],
    )


def candidate_folder(job: Job, architecture: Architecture) -> Path:
    return job.folder / "candidates" / architecture.id


def write_result(job: Job, result: dict[str, Any]) -> Path:
    return write_json(job.folder / "result.json", result)
