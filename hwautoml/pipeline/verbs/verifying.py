"""Verb ``verify``: does a bundle still hold what it promises, on the machine at hand?"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwautoml.bundles import Bundle, read_bundle
from hwautoml.bundles.bundle import FIX, MANIFEST, unknown_files
from hwautoml.bundles.tvm_runtime import library_architecture
from hwautoml.compilers import load_backend, reference_runtime
from hwautoml.core.artifact import sha256_file
from hwautoml.core.json_result import JsonResult
from hwautoml.core.measurement import Measurement
from hwautoml.core.progress import OnProgress, Progress, silent
from hwautoml.core.temporary import temporary_folder
from hwautoml.devices.local import LocalDevice
from hwautoml.devices.machine import allowed_cores, fingerprint
from hwautoml.devices.side_by_side import measure_side_by_side
from hwautoml.errors import (
    HwAutoMLError,
    InvalidValueError,
    MissingDependencyError,
    ParityError,
    RegressionError,
    RunFolderError,
)
from hwautoml.pipeline.verbs.baseline import parse_share
from hwautoml.pipeline.verbs.benching import PROTOCOL

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
_NUM_NAMED = 5
MEASURING_SEC = 10.0


@dataclass(frozen=True)
class BundleCheck:
    """``status`` is passed, failed or skipped; ``figures`` by name, with their units."""

    name: str
    status: str
    detail: str
    figures: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "status": self.status, "detail": self.detail, **self.figures}


@dataclass(frozen=True)
class VerifyResult(JsonResult):
    """``manifest_sha256`` is what a maker tells by another way, for ``trusted``."""

    bundle: str
    architecture: str | None
    manifest_sha256: str
    checks: tuple[BundleCheck, ...]

    @property
    def passed(self) -> bool:
        return all(check.status != FAILED for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {
            "bundle": self.bundle,
            "architecture": self.architecture,
            "manifest_sha256": self.manifest_sha256,
            "passed": self.passed,
            "checks": [check.to_json() for check in self.checks],
        }


def verify(
    bundle: str | Path,
    *,
    no_latency: bool = False,
    tolerance: str | float = "25%",
    trusted: str | None = None,
    on_progress: OnProgress = silent,
) -> VerifyResult:
    """Check the files' hashes, the packed samples on every runtime, and the latency against its promise.

    The hashes are the bundle's own, and its libraries are native code: what comes from strangers is only run
    after ``trusted``, the SHA-256 of its ``manifest.json``, was compared, which its maker tells by another way.

    The latency may lie above the promise by ``tolerance``: machines are not always equally fast. It is
    skipped, with the reason, with ``no_latency`` and on another machine than the promise was made on. What fails
    is in the result; see ``require_verified``.

    Raises:
        RunFolderError: a file is missing, changed or unknown, or the manifest is not the trusted one, so nothing
            of it is run.
    """
    allowed = parse_share(tolerance)
    on_progress(Progress("verify", 0.0, "hashes"))
    folder = Path(bundle)
    inner = folder / "bundle"
    found = read_bundle(inner if (inner / "manifest.json").is_file() else folder)
    checks = [_files(found, trusted), _classes(found)]
    for index, (runtime, path) in enumerate(found.files.items()):
        on_progress(Progress("verify", 0.1 + 0.6 * index / len(found.files), f"samples on {runtime}"))
        checks.append(_parity(found, runtime, path))
    on_progress(Progress("verify", 0.7, "latency"))
    checks.append(_latency(found, allowed, skip=no_latency))
    on_progress(Progress("verify", 1.0))
    architecture, digest = found.manifest["architecture"].get("id"), sha256_file(found.path / MANIFEST)
    return VerifyResult(str(found.path), architecture, digest, tuple(checks))


def require_verified(result: VerifyResult) -> None:
    """Raises ParityError when samples failed, else RegressionError when the latency did."""
    failed = [check for check in result.checks if check.status == FAILED]
    for check in sorted(failed, key=lambda check: check.name == "latency"):
        kind = RegressionError if check.name == "latency" else ParityError
        raise kind(f"{result.bundle}: {check.name}: {check.detail}")


def _files(bundle: Bundle, trusted: str | None) -> BundleCheck:
    """All that is in the folder, and nothing else; ``read_bundle`` has compared the hashes."""
    digest = sha256_file(bundle.path / MANIFEST)
    if trusted is not None and trusted.strip().lower() != digest:
        raise RunFolderError(
            f"{bundle.path / MANIFEST} is not the trusted one: its sha256 is {digest}, expected {trusted}", fix=FIX
        )
    unknown = unknown_files(bundle)
    if unknown:
        more = f" and {len(unknown) - _NUM_NAMED} more" if len(unknown) > _NUM_NAMED else ""
        raise RunFolderError(
            f"{bundle.path} holds what its manifest does not name: {', '.join(unknown[:_NUM_NAMED])}{more}",
            fix="remove it, or copy the whole folder again",
        )
    by = "by hashes of its own" if trusted is None else "and its manifest is the trusted one"
    return _check("files", PASSED, f"{len(bundle.manifest['files'])} files are as they were written, {by}")


def _classes(bundle: Bundle) -> BundleCheck:
    """The names of the manifest, which the runners print, against those that the model was exported with."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(bundle.onnx_path, load_external_data=False)
    except (DecodeError, OSError) as error:
        return _check("classes", FAILED, f"{bundle.onnx_path} is not a readable ONNX model: {error}")
    own = {item.key: item.value for item in model.metadata_props}.get("classes")
    if own is None:
        return _check("classes", SKIPPED, "the model does not say which classes it has")
    is_same = own == json.dumps(list(bundle.classes))
    what = f"{len(bundle.classes)} names are" if is_same else f"{own[:200]} are the model's, and they are not"
    return _check("classes", PASSED if is_same else FAILED, f"{what} those of the manifest")


def _check(name: str, status: str, detail: str, **figures: Any) -> BundleCheck:
    return BundleCheck(name, status, detail, figures)


def _parity(bundle: Bundle, runtime: str, path: Path) -> BundleCheck:
    """The packed samples through one runtime, prepared by this version's own runner."""
    from hwautoml.bundles.runner import run

    name, samples = f"samples on {runtime}", bundle.manifest["samples"]
    if not samples:
        return _check(name, SKIPPED, "the bundle holds no samples")
    reason = load_backend(runtime).unavailable_reason() or _foreign_library(path)
    if reason is not None:
        return _check(name, SKIPPED, reason)
    try:
        images = np.concatenate([run.read_image(bundle.path / s["file"], dict(bundle.manifest)) for s in samples])
        with LocalDevice(runtime) as device:
            outputs = device.run_model(path, images)
    except run.BundleError as error:
        return _check(name, FAILED, str(error))
    except MissingDependencyError as error:  # a library for a GPU, and there is none
        return _check(name, SKIPPED, error.message)
    except HwAutoMLError as error:
        return _check(name, FAILED, error.message)
    expected = np.array([sample["probabilities"] for sample in samples])
    worst = float(np.abs(outputs - expected).max()) if outputs.shape == expected.shape else float("inf")
    tolerance = bundle.manifest.get("sample_tolerance", 0.0)
    detail = f"outputs of {len(samples)} samples differ by at most {worst:.2g} (tolerance {tolerance:g})"
    return _check(name, PASSED if worst <= tolerance else FAILED, detail, max_abs=worst)


def _foreign_library(path: Path) -> str | None:
    """Why a library cannot be loaded here: it is for another processor. None for other files."""
    found = library_architecture(path)
    if found is None or platform.machine().startswith(found):
        return None
    return f"the library is for {found}, this machine is {platform.machine()}"


def _latency(bundle: Bundle, tolerance: float, *, skip: bool) -> BundleCheck:
    promise, runtime = bundle.manifest["latency"].get("measured_median"), bundle.default_runtime
    interval = bundle.manifest["latency"].get("measured_interval")
    if skip:
        return _check("latency", SKIPPED, "--no-latency")
    if not _is_promise(promise, interval):
        return _check("latency", SKIPPED, "the bundle promises none that was measured")
    reason = load_backend(runtime).unavailable_reason() or _elsewhere(bundle, runtime)
    if reason is not None:
        return _check("latency", SKIPPED, reason)
    measured = _measure(bundle, runtime)
    if not isinstance(measured, Measurement):
        return _check("latency", FAILED, measured.reason)
    slower = measured.median_ms / promise - 1
    # Only what neither interval explains counts.
    is_slower = measured.interval_ms[0] > interval[1] * (1 + tolerance)
    low, high = measured.interval_ms
    detail = (
        f"{measured.median_ms:.4g} ms on {runtime} (measured, 95 % {low:.4g} to {high:.4g}); "
        f"promised {promise:.4g} ms, {slower:+.1%}, up to {tolerance:+.0%} is allowed"
    )
    figures = {"median_ms": measured.median_ms, "interval_ms": [low, high], "promised_ms": promise, "slower": slower}
    return _check("latency", FAILED if is_slower else PASSED, detail, **figures)


def _is_promise(median: Any, interval: Any) -> bool:
    """Whether both are latencies; a manifest may say anything."""
    numbers = [median, *interval] if isinstance(interval, list) and len(interval) == 2 else []
    return bool(numbers) and all(isinstance(n, int | float) and 0 < n < math.inf for n in numbers)


def _elsewhere(bundle: Bundle, runtime: str) -> str | None:
    """Why this machine is not the one of the promise; None where it is."""
    promised = bundle.manifest["conditions"].get("fingerprint")
    here = fingerprint(runtime, load_backend(runtime).version())
    if str(promised).removesuffix("-rpc") != here:  # measured through its agent, a machine is the same
        return f"the promise was measured on another machine or runtime: {promised}, this is {here}"
    if bundle.manifest["num_threads"] > len(allowed_cores()):
        return f"the promise is for {bundle.manifest['num_threads']} threads, and this process has fewer cores"
    return None


def _measure(bundle: Bundle, runtime: str) -> Any:
    from hwautoml.exporters.reference import export_reference

    path = bundle.files.get(runtime)
    if path is None:
        raise InvalidValueError(f"{bundle.path} has no file for {runtime}")
    protocol = replace(PROTOCOL, max_total_sec=MEASURING_SEC, num_singles=0)
    with (
        temporary_folder() as folder,
        LocalDevice(runtime, num_threads=bundle.manifest["num_threads"]) as device,
        LocalDevice(reference_runtime()) as timer,
    ):
        reference = export_reference(folder / "reference.onnx")
        return measure_side_by_side([(device, path)], (timer, reference), protocol)[0]
