"""Stage: finalists in int8, exported, scored and measured; which precision ships is chosen by what was measured.

In int8 a network may be faster or slower, and nearly as accurate or not; neither is known before. So the winner, and
the more accurate finalists that are too slow in float32, are quantised after training, scored on validation images
through the very file, and measured side by side with their float32 files.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwautoml.compilers import board_runtimes, load_backend, reference_runtime, shipping_runtimes, traits_of
from hwautoml.core.measurement import Measurement
from hwautoml.core.target import Target
from hwautoml.devices.local import LocalDevice
from hwautoml.devices.protocol import MeasureFailure, MeasureProtocol
from hwautoml.devices.side_by_side import measure_side_by_side
from hwautoml.errors import CompileError, InvalidValueError
from hwautoml.exporters import check_parity, require_parity
from hwautoml.exporters.quantization import weighted_layers
from hwautoml.pipeline.runs.int8_accuracy import (
    MAX_LOSS,
    Scorer,
    calibration_images,
    int8_is_exact,
    quantize_until_accurate,
)
from hwautoml.pipeline.runs.job import Job
from hwautoml.pipeline.stages.shipping import (
    FINAL_PROTOCOL,
    Finalist,
    candidate_folder,
    choose_winner,
    measurement_to_json,
    most_accurate,
)
from hwautoml.pipeline.tables.finding import tuning_for

MAX_FORMS = 3
MIN_BUDGET_SEC = 60.0  # below, the time is better spent on training
# Two runtimes round sums of int8 products at different places; a wrong scale shows up as other classes.
RUNTIMES_TOLERANCE, RUNTIMES_AGREEMENT = 0.1, 0.98

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Int8Form:
    """``finalist`` is ``base`` in int8; both measured side by side. Accuracies are of the same validation images.

    ``fp32_layers`` stayed in float32.
    """

    finalist: Finalist
    base: Finalist
    accuracy: float
    base_accuracy: float
    num_images: int
    fp32_layers: tuple[str, ...] = ()

    @property
    def loss(self) -> float:
        return self.base_accuracy - self.accuracy

    @property
    def is_faster(self) -> bool:
        """By more than both intervals."""
        return self.finalist.best.interval_ms[1] < self.base.best.interval_ms[0]

    def is_accepted(self, limit_ms: float) -> bool:
        """As accurate within half a point, and faster or the only form that meets the limit."""
        is_needed = not self.base.meets(limit_ms)
        return self.loss <= MAX_LOSS and self.finalist.meets(limit_ms) and (is_needed or self.is_faster)


def reserve_sec(budget_sec: float, precision: str, target: Target) -> float:
    """What of a run's budget is set aside for this stage."""
    return 0.0 if _reason_against(budget_sec, precision, target) else min(max(0.06 * budget_sec, 5.0), 120.0)


def _reason_against(budget_sec: float, precision: str, target: Target) -> str | None:
    """Why int8 is not even tried; None where it is."""
    if "int8" not in target.precisions:
        return f"target {target.name} computes in {', '.join(target.precisions)}"
    if precision == "auto" and budget_sec < MIN_BUDGET_SEC:
        return f"the budget is less than {MIN_BUDGET_SEC:g} s (--precision int8 tries it all the same)"
    return "--precision fp32" if precision == "fp32" else None


def quantize_stage(job: Job, candidates: Sequence[Finalist]) -> list[Int8Form]:
    """Makes, scores and measures the int8 forms; afterwards they are read from the journal."""
    precision = job.settings.precision
    if _reason_against(job.plan.total, precision, job.target):
        return []
    if job.store.stage("quantize") is None:
        with job.timed_stage("quantize") as payload:
            payload["forms"], payload["failures"] = {}, {}
            for base in _worth_trying(candidates, job.settings.latency_ms, precision):
                if precision == "auto" and job.elapsed_sec > job.plan.total:
                    payload["failures"][base.architecture.id] = "the budget was used up"
                    continue
                try:
                    payload["forms"][base.architecture.id] = _make(job, base)
                except (CompileError, InvalidValueError) as error:
                    _log.warning("%s cannot be quantised: %s", base.architecture.id, error.message)
                    payload["failures"][base.architecture.id] = error.message
    by_id = {c.architecture.id: c for c in candidates}
    stored = (job.store.stage("quantize") or {}).get("forms", {})
    return [_form(job, by_id[key], facts) for key, facts in stored.items() if key in by_id]


def choose_form(job: Job, candidates: Sequence[Finalist], forms: Sequence[Int8Form]) -> tuple[Finalist, dict[str, Any]]:
    """The form that ships, and what is to be said of int8.

    A form's latency is that of its own measurement; whether int8 is faster is decided by the two side by side.

    Raises:
        LimitNotMetError: no form meets the limit by measurement.
        CompileError: int8 was asked for, and no candidate could be quantised.
    """
    limit, precision = job.settings.latency_ms, job.settings.precision
    if precision == "int8":
        pool = [f.finalist for f in forms if f.finalist.meets(limit)]
    else:
        needed = [f.finalist for f in forms if f.is_accepted(limit) and not f.base.meets(limit)]
        pool = [c for c in candidates if c.meets(limit)] + needed
    if not pool:
        failures = (job.store.stage("quantize") or {}).get("failures", {})
        job.store.forget_stages(("quantize",))
        if precision == "int8" and not forms:
            reasons = "; ".join(f"{key}: {reason}" for key, reason in failures.items()) or "there was none to try"
            raise CompileError(f"no candidate could be quantised: {reasons}", fix="--precision auto")
        choose_winner(job, list(candidates) if precision != "int8" else [f.finalist for f in forms])  # raises
    winner = most_accurate(pool)
    better = next((f for f in forms if _is_base(f, winner) and f.is_accepted(limit)), None)
    winner = winner if better is None else better.finalist
    return winner, _facts(job, winner, forms)


def _is_base(form: Int8Form, winner: Finalist) -> bool:
    return winner.precision == "fp32" and form.base.architecture == winner.architecture


def check_int8(job: Job, winner: Finalist, images: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """Differences of the int8 files from the trained network: reported, since the accuracy is what was gated.

    Raises:
        ParityError: two runtimes make different things of the same int8 file.
    """
    outputs = {r: job.device(r).run_model(winner.files[r], images) for r in winner.measured}
    facts = {}
    for runtime, found in outputs.items():
        report = check_parity(reference, found, tolerance=1.0)
        facts[runtime] = {"max_abs": report.max_abs, "top1_agreement": report.top1_agreement}
    if len(outputs) == 2:
        first, second = outputs.values()
        between = check_parity(first, second, tolerance=RUNTIMES_TOLERANCE)
        require_parity(between, artifact=str(winner.files["tvm"]), min_top1_agreement=RUNTIMES_AGREEMENT)
        facts["between_runtimes"] = {"max_abs": between.max_abs, "top1_agreement": between.top1_agreement}
    return facts


def _worth_trying(candidates: Sequence[Finalist], limit_ms: float, precision: str) -> list[Finalist]:
    """The winner in float32 and those that would beat it were they fast enough; the most accurate first."""
    ranked = sorted(candidates, key=lambda c: -c.accuracy_val)
    passed = [c for c in ranked if c.meets(limit_ms)]
    if precision == "int8" or not passed:
        return ranked[:MAX_FORMS]
    better = [c for c in ranked if c.accuracy_val > passed[0].accuracy_val]
    return [*better, most_accurate(passed)][-MAX_FORMS:]


def _make(job: Job, base: Finalist) -> dict[str, Any]:
    """Facts of one int8 form, for the journal."""
    resolution, folder = job.space.resolution(base.architecture), candidate_folder(job, base.architecture)
    source, path = base.files["onnxruntime"], folder / "model_int8.onnx"
    images = calibration_images(job, resolution)
    job.report("quantize", 0.05, f"{base.architecture.id}: calibrating on {len(images)} training images")
    scorer = Scorer(job, source, resolution, base.measured.get("onnxruntime", base.best).median_ms)

    def listen(done: int, total: int) -> None:
        job.report("quantize", 0.2 + 0.3 * done / total, f"sensitivity of layer {done} of {total}")

    accuracy, fp32_layers = quantize_until_accurate(
        source,
        path,
        images,
        scorer.accuracy,
        scorer.base_accuracy - MAX_LOSS,
        is_exact=int8_is_exact(job),
        on_layer=listen,
    )
    facts: dict[str, Any] = {
        "accuracy": accuracy,
        "base_accuracy": scorer.base_accuracy,
        "num_images": scorer.num_images,
        "fp32_layers": list(fp32_layers),
        "num_layers": len(weighted_layers(source)),
        "tvm_error": None,
    }
    files = {"onnxruntime": path}
    if "tvm" in base.measured:
        files["tvm"], facts["tvm_error"] = _compiled(job, path, folder)
    return {**facts, **_measured(job, base, {r: f for r, f in files.items() if f is not None})}


def _compiled(job: Job, path: Path, folder: Path) -> tuple[Path | None, str | None]:
    """The TVM library, or why there is none."""
    if job.settings.precision == "auto" and job.elapsed_sec > job.plan.total:
        return None, "not compiled: the budget was used up"
    job.report("quantize", 0.6, "TVM: compiling")
    try:
        tuning = tuning_for(job.target, "tvm", job.profiles_dir)
        compiled = load_backend("tvm").compile(path, folder / "int8", job.target, tuning)
    except CompileError as error:
        _log.warning("TVM cannot compile the int8 form: %s", error.message)
        return None, error.message
    return compiled.path, None


def _measured(job: Job, base: Finalist, files: dict[str, Path]) -> dict[str, Any]:
    """Every file of both precisions in the same rounds."""
    job.report("quantize", 0.8, "measuring both precisions side by side")
    entries = [("fp32", runtime, base.files[runtime]) for runtime in base.measured]
    entries += [("int8", runtime, path) for runtime, path in files.items() if runtime in job.runtimes]
    protocol = replace(FINAL_PROTOCOL, max_total_sec=min(FINAL_PROTOCOL.max_total_sec, 0.04 * job.plan.total + 2.0))
    if job.is_remote:  # boards have one runtime
        paths = [path for _, _, path in entries]
        results = job.device(board_runtimes()[0]).measure(paths, paths[0], protocol)
    else:
        results = _side_by_side(job, base, entries, protocol)
    found: dict[str, Any] = {"fp32": {}, "int8": {}}
    for (precision, runtime, _), result in zip(entries, results, strict=True):
        if isinstance(result, Measurement):
            found[precision][runtime] = {**measurement_to_json(result), "weights": precision}
    if not found["int8"] or not found["fp32"]:
        raise CompileError("no runtime could run both precisions")
    return found


def _side_by_side(
    job: Job, base: Finalist, entries: Sequence[tuple[str, str, Path]], protocol: MeasureProtocol
) -> list[Measurement | MeasureFailure]:
    """On this machine, each file in a process of its own; ``entries`` are of (precision, runtime, path)."""
    threads = job.target.num_threads
    with ExitStack() as stack:
        own = [LocalDevice(runtime, num_threads=threads) for _, runtime, _ in entries]  # started when they are used
        devices = [
            job.device(runtime) if precision == "fp32" else stack.enter_context(device)
            for device, (precision, runtime, _) in zip(own, entries, strict=True)
        ]
        timer = stack.enter_context(LocalDevice(reference_runtime(), num_threads=threads))
        pairs = [(device, path) for device, (_, _, path) in zip(devices, entries, strict=True)]
        return measure_side_by_side(pairs, (timer, base.files["onnxruntime"]), protocol)  # type: ignore[arg-type]


def _form(job: Job, base: Finalist, facts: dict[str, Any]) -> Int8Form:
    folder = candidate_folder(job, base.architecture)
    files = {r: folder / traits_of(r).artifact_name("int8") for r in shipping_runtimes()}
    measured = {p: {r: _measurement(m) for r, m in facts[p].items()} for p in ("fp32", "int8")}
    accuracy = base.accuracy_val - (facts["base_accuracy"] - facts["accuracy"])
    finalist = Finalist(base.architecture, accuracy, files, measured["int8"], "int8")
    beside = replace(base, measured=measured["fp32"])
    return Int8Form(
        finalist, beside, facts["accuracy"], facts["base_accuracy"], facts["num_images"], tuple(facts["fp32_layers"])
    )


def _measurement(payload: dict[str, Any]) -> Measurement:
    samples, singles = tuple(payload["samples_ms"]), tuple(payload["single_ms"])
    return Measurement(samples, payload["conditions"], payload["drift_corrected"], singles)


def _facts(job: Job, winner: Finalist, forms: Sequence[Int8Form]) -> dict[str, Any]:
    """What result.json, the report and the bundle say of int8."""
    stage = job.store.stage("quantize") or {}
    form = next((f for f in forms if f.base.architecture == winner.architecture), None)
    if form is None:
        failure = stage.get("failures", {}).get(winner.architecture.id)
        against = _reason_against(job.plan.total, job.settings.precision, job.target)
        text = against or failure or "another network was the candidate for it"
        reason = f"{winner.precision} ships; int8 was not tried: {text}."
        return {"precision": winner.precision, "tried": False, "reason": reason}
    facts = {
        "precision": winner.precision,
        "tried": True,
        "reason": _reason(winner, form, job.settings.latency_ms),
        "accuracy_val": {"fp32": form.base_accuracy, "int8": form.accuracy, "num_images": form.num_images},
        "loss_points": 100 * form.loss,
        "max_loss_points": 100 * MAX_LOSS,
        "fp32_layers": list(form.fp32_layers),
        "median_ms": {
            "fp32": {r: m.median_ms for r, m in form.base.measured.items()},
            "int8": {r: m.median_ms for r, m in form.finalist.measured.items()},
        },
    }
    tvm_error = stage.get("forms", {}).get(winner.architecture.id, {}).get("tvm_error")
    return facts if tvm_error is None else {**facts, "tvm_error": tvm_error}


def _reason(winner: Finalist, form: Int8Form, limit_ms: float) -> str:
    base, int8 = form.base, form.finalist
    mixed = f", {len(form.fp32_layers)} most sensitive layers in fp32" if form.fp32_layers else ""
    loss = f"{100 * abs(form.loss):.2f} points {'less' if form.loss >= 0 else 'more'} accurate"
    figures = (
        f"{int8.best.median_ms:.4g} ms on {int8.runtime} against {base.best.median_ms:.4g} ms on {base.runtime} "
        f"(measured), {loss} on {form.num_images:,} validation images{mixed}"
    )
    if winner.precision == "int8":
        asked = "" if form.is_accepted(limit_ms) else ", as was asked for"
        return f"int8 ships{asked}: {figures}."
    too_inaccurate, too_slow = form.loss > MAX_LOSS, not form.is_faster
    why = [
        text
        for text, is_so in (
            ("it loses more than 0.5 points", too_inaccurate),
            ("it is not faster", too_slow),
            (f"it misses {limit_ms:g} ms", not int8.meets(limit_ms)),
        )
        if is_so
    ]
    return f"fp32 ships, int8 was measured and rejected because {' and '.join(why) or 'fp32 was preferred'}: {figures}."
