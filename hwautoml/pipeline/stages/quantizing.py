"""Stage: finalists in int8, exported, scored and measured; which precision ships is chosen by what was measured.

In int8 a network may be faster or slower, and nearly as accurate or not; neither is known before. So the winner, and
the more accurate finalists that are too slow in float32, are quantised after training, scored on validation images
through the very file, and measured side by side with their float32 files.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from hwautoml.compilers import board_runtimes, load_backend, reference_runtime, shipping_runtimes, traits_of, tuning_for
from hwautoml.core.form import Form
from hwautoml.core.measurement import Measurement
from hwautoml.core.plan import Plan
from hwautoml.core.run_result import PrecisionAccuracy, Quantization
from hwautoml.core.target import Target
from hwautoml.devices.local import LocalDevice
from hwautoml.devices.protocol import MeasureFailure, MeasureProtocol
from hwautoml.devices.side_by_side import measure_side_by_side
from hwautoml.errors import CompileError, InvalidValueError
from hwautoml.exporters.quantization import weighted_layers
from hwautoml.pipeline.runs.candidates import (
    FINAL_PROTOCOL,
    Finalist,
    candidate_folder,
    choose_winner,
    most_accurate,
)
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.int8_accuracy import MAX_LOSS, Scorer, calibration_images, quantize_until_accurate
from hwautoml.pipeline.runs.outcomes import Quantized, QuantizedNetwork

MAX_FORMS = 3
MIN_BUDGET_SEC = 60.0  # below, the time is better spent on training

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Int8Form:
    """``finalist`` is ``base`` in int8; both measured side by side. Accuracies are of the same validation images.

    ``fp32_layers`` stayed in float32; ``tvm_error`` says why there is no TVM library.
    """

    finalist: Finalist
    base: Finalist
    accuracy: float
    base_accuracy: float
    num_images: int
    fp32_layers: tuple[str, ...] = ()
    tvm_error: str | None = None

    @property
    def files(self) -> list[Path]:
        """Those that are there: not every runtime could be compiled for."""
        return [path for path in self.finalist.files.values() if path.is_file()]

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


def quantize_stage(run: RunContext, plan: Plan, candidates: Sequence[Finalist]) -> list[Int8Form]:
    """Makes, scores and measures the int8 forms; afterwards they are read from the journal."""
    if _reason_against(plan.total, run.settings.precision, run.target):
        return []
    done = run.once(
        Quantized,
        lambda: _quantize(run, plan, candidates),
        lambda done: [path for form in _forms(run, done, candidates) for path in form.files],
    )
    return _forms(run, done, candidates)


def _forms(run: RunContext, quantized: Quantized, candidates: Sequence[Finalist]) -> list[Int8Form]:
    by_id = {c.architecture.id: c for c in candidates}
    return [_form(run, by_id[key], network) for key, network in quantized.forms.items() if key in by_id]


def _quantize(run: RunContext, plan: Plan, candidates: Sequence[Finalist]) -> Quantized:
    forms: dict[str, QuantizedNetwork] = {}
    failures: dict[str, str] = {}
    for base in _worth_trying(candidates, run.limit_ms, run.settings.precision):
        if _is_out_of_time(run, plan):
            failures[base.architecture.id] = "the budget was used up"
            continue
        try:
            forms[base.architecture.id] = _make(run, plan, base)
        except (CompileError, InvalidValueError) as error:
            _log.warning("%s cannot be quantised: %s", base.architecture.id, error.message)
            failures[base.architecture.id] = error.message
    return Quantized(forms, failures)


def _is_out_of_time(run: RunContext, plan: Plan) -> bool:
    """What was asked for is made whatever it takes."""
    return run.settings.precision == "auto" and run.journal.elapsed_sec > plan.total


def choose_form(
    run: RunContext, plan: Plan, candidates: Sequence[Finalist], forms: Sequence[Int8Form]
) -> tuple[Finalist, Quantization]:
    """The form that ships, and what is to be said of int8.

    A form's latency is that of its own measurement; whether int8 is faster is decided by the two side by side.

    Raises:
        LimitNotMetError: no form meets the limit by measurement.
        CompileError: int8 was asked for, and no candidate could be quantised.
    """
    limit, precision = run.limit_ms, run.settings.precision
    quantized = run.journal.outcome(Quantized) or Quantized()
    if precision == "int8":
        pool = [f.finalist for f in forms if f.finalist.meets(limit)]
    else:
        needed = [f.finalist for f in forms if f.is_accepted(limit) and not f.base.meets(limit)]
        pool = [c for c in candidates if c.meets(limit)] + needed
    if not pool:
        run.journal.forget(Quantized)
        if precision == "int8" and not forms:
            reasons = "; ".join(f"{key}: {reason}" for key, reason in quantized.failures.items())
            raise CompileError(
                f"no candidate could be quantised: {reasons or 'there was none to try'}", fix="--precision auto"
            )
        choose_winner(run, candidates if precision != "int8" else [f.finalist for f in forms])  # raises
    winner = most_accurate(pool)
    better = next((f for f in forms if _is_base(f, winner) and f.is_accepted(limit)), None)
    winner = winner if better is None else better.finalist
    form = next((f for f in forms if f.base.architecture == winner.architecture), None)
    if form is not None:
        return winner, _facts(winner, form, limit)
    against = _reason_against(plan.total, precision, run.target) or quantized.failures.get(winner.architecture.id)
    return winner, _untried(winner, against or "another network was the candidate for it")


def _is_base(form: Int8Form, winner: Finalist) -> bool:
    return winner.precision == "fp32" and form.base.architecture == winner.architecture


def _worth_trying(candidates: Sequence[Finalist], limit_ms: float, precision: str) -> list[Finalist]:
    """The winner in float32 and those that would beat it were they fast enough; the most accurate first."""
    ranked = sorted(candidates, key=lambda c: -c.accuracy_val)
    passed = [c for c in ranked if c.meets(limit_ms)]
    if precision == "int8" or not passed:
        return ranked[:MAX_FORMS]
    better = [c for c in ranked if c.accuracy_val > passed[0].accuracy_val]
    return [*better, most_accurate(passed)][-MAX_FORMS:]


def _make(run: RunContext, plan: Plan, base: Finalist) -> QuantizedNetwork:
    resolution, folder = run.space.resolution(base.architecture), candidate_folder(run, base.architecture)
    source, path = base.files[reference_runtime()], folder / traits_of(reference_runtime()).artifact_name("int8")
    images = calibration_images(run, resolution)
    run.report("quantize", 0.05, f"{base.architecture.id}: calibrating on {len(images)} training images")
    median_ms = base.measured.get(reference_runtime(), base.best).median_ms
    scorer = Scorer(run, source, resolution, median_ms, plan.total)

    def listen(done: int, total: int) -> None:
        run.report("quantize", 0.2 + 0.3 * done / total, f"sensitivity of layer {done} of {total}")

    accuracy, fp32_layers = quantize_until_accurate(
        source,
        path,
        images,
        scorer.accuracy,
        scorer.base_accuracy - MAX_LOSS,
        task=run.dataset.task,
        conditions=run.devices.conditions(),
        on_layer=listen,
    )
    files, errors = {reference_runtime(): path}, []
    for runtime in (r for r in base.measured if traits_of(r).runs("int8", run.target)):
        opens_it = traits_of(runtime).opens_source(run.target)
        file, error = (path, None) if opens_it else _compiled(run, plan, runtime, path, folder)
        files |= {} if file is None else {runtime: file}
        errors += [] if error is None else [error]
    measured = _measured(run, plan, base, files)
    return QuantizedNetwork(
        accuracy,
        scorer.base_accuracy,
        scorer.num_images,
        fp32_layers,
        len(weighted_layers(source)),
        "; ".join(errors) or None,
        fp32={form.runtime: found for form, found in measured.items() if form.precision == "fp32"},
        int8={form.runtime: found for form, found in measured.items() if form.precision == "int8"},
    )


def _compiled(run: RunContext, plan: Plan, runtime: str, path: Path, folder: Path) -> tuple[Path | None, str | None]:
    """What the runtime makes of the int8 file, or why there is nothing."""
    if _is_out_of_time(run, plan):
        return None, "not compiled: the budget was used up"
    run.report("quantize", 0.6, f"{runtime}: compiling")
    out = (folder / traits_of(runtime).artifact_name("int8")).parent
    try:
        tuning = tuning_for(runtime, run.target, run.records_path)
        compiled = load_backend(runtime).compile(path, out, run.target, tuning)
    except CompileError as error:
        _log.warning("%s cannot compile the int8 form: %s", runtime, error.message)
        return None, error.message
    return compiled.path, None


def _measured(run: RunContext, plan: Plan, base: Finalist, int8: Mapping[str, Path]) -> dict[Form, Measurement]:
    """Every file of both precisions in the same rounds.

    Raises:
        CompileError: no runtime could run both precisions.
    """
    run.report("quantize", 0.8, "measuring both precisions side by side")
    files = {Form(runtime): base.files[runtime] for runtime in base.measured}
    files |= {Form(runtime, "int8"): path for runtime, path in int8.items() if runtime in run.runtimes}
    protocol = replace(FINAL_PROTOCOL, max_total_sec=min(FINAL_PROTOCOL.max_total_sec, 0.04 * plan.total + 2.0))
    if run.board.is_remote:  # boards have one runtime
        paths = list(files.values())
        results = run.devices(board_runtimes()[0]).measure(paths, paths[0], protocol)
    else:
        results = _side_by_side(run, base, files, protocol)
    measured = {form: found for form, found in zip(files, results, strict=True) if isinstance(found, Measurement)}
    if {form.precision for form in measured} != {"fp32", "int8"}:
        raise CompileError("no runtime could run both precisions")
    return measured


def _side_by_side(
    run: RunContext, base: Finalist, files: Mapping[Form, Path], protocol: MeasureProtocol
) -> list[Measurement | MeasureFailure]:
    """On this machine, each file in a process of its own."""
    with ExitStack() as stack:

        def own(runtime: str) -> LocalDevice:  # started when it is used
            return stack.enter_context(LocalDevice(runtime, num_threads=run.target.num_threads))

        def device(form: Form) -> LocalDevice:
            shared = run.devices(form.runtime) if form.precision == "fp32" else own(form.runtime)
            assert isinstance(shared, LocalDevice), "this machine measures"
            return shared

        pairs = [(device(form), path) for form, path in files.items()]
        return measure_side_by_side(pairs, (own(reference_runtime()), base.files[reference_runtime()]), protocol)


def _form(run: RunContext, base: Finalist, found: QuantizedNetwork) -> Int8Form:
    folder = candidate_folder(run, base.architecture)
    files = {r: folder / traits_of(r).artifact_name("int8") for r in shipping_runtimes()}
    accuracy = base.accuracy_val - (found.base_accuracy - found.accuracy)
    finalist = Finalist(base.architecture, accuracy, files, found.int8, "int8")
    beside = replace(base, measured=found.fp32)
    return Int8Form(
        finalist, beside, found.accuracy, found.base_accuracy, found.num_images, found.fp32_layers, found.tvm_error
    )


def _untried(winner: Finalist, why: str) -> Quantization:
    return Quantization(winner.precision, False, f"{winner.precision} ships; int8 was not tried: {why}.")


def _facts(winner: Finalist, form: Int8Form, limit_ms: float) -> Quantization:
    """What result.json, the report and the bundle say of int8."""
    return Quantization(
        winner.precision,
        tried=True,
        reason=_reason(winner, form, limit_ms),
        accuracy_val=PrecisionAccuracy(form.base_accuracy, form.accuracy, form.num_images),
        loss_points=100 * form.loss,
        max_loss_points=100 * MAX_LOSS,
        fp32_layers=form.fp32_layers,
        median_ms={
            "fp32": {r: m.median_ms for r, m in form.base.measured.items()},
            "int8": {r: m.median_ms for r, m in form.finalist.measured.items()},
        },
        tvm_error=form.tvm_error,
    )


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
    objections = {
        "it loses more than 0.5 points": form.loss > MAX_LOSS,
        "it is not faster": not form.is_faster,
        f"it misses {limit_ms:g} ms": not int8.meets(limit_ms),
    }
    why = " and ".join(text for text, is_so in objections.items() if is_so) or "fp32 was preferred"
    return f"fp32 ships, int8 was measured and rejected because {why}: {figures}."
