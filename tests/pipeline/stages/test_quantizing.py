from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwautoml.core.measurement import Measurement
from hwautoml.core.plan import make_plan
from hwautoml.errors import CompileError, InvalidValueError, LimitNotMetError
from hwautoml.pipeline.runs.candidates import Finalist, candidate_folder, export_architecture
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.outcomes import Quantized
from hwautoml.pipeline.runs.settings import RunSettings
from hwautoml.pipeline.stages import quantizing
from hwautoml.pipeline.stages.checking import check_int8
from hwautoml.pipeline.stages.quantizing import Int8Form, choose_form, quantize_stage, reserve_sec
from hwautoml.spaces.mobile import MobileSpace

SPACE = MobileSpace(8, 1, 10)
MakeRun = Callable[..., RunContext]
PLAN = replace(make_plan(120.0, 1.0, False, 1.0), total=120.0)


def measured(median_ms: float) -> Measurement:
    samples = tuple(median_ms * (1 + 0.002 * (i - 25) / 25) for i in range(51))
    return Measurement(samples, {"machine": "test"}, True, samples)


def fp32(seed: int, accuracy: float, median_ms: float) -> Finalist:
    files = {"onnxruntime": Path(f"{seed}/model.onnx")}
    return Finalist(SPACE.sample(np.random.default_rng(seed)), accuracy, files, {"onnxruntime": measured(median_ms)})


def int8(base: Finalist, loss: float, median_ms: float, fp32_layers: tuple[str, ...] = ()) -> Int8Form:
    accuracy = base.accuracy_val - loss
    found = replace(base, accuracy_val=accuracy, measured={"onnxruntime": measured(median_ms)}, precision="int8")
    return Int8Form(found, base, accuracy, base.accuracy_val, 1000, fp32_layers)


def test_in_a_short_run_it_is_left_out_and_said(make_run: MakeRun) -> None:
    run, base, plan = make_run(latency_ms=1.0), fp32(0, 0.9, 0.5), replace(PLAN, total=45.0)
    assert quantize_stage(run, plan, [base]) == []
    winner, facts = choose_form(run, plan, [base], [])
    assert winner is base and "int8 was not tried: the budget is less than 60 s" in facts.reason


@pytest.mark.parametrize(
    ("loss", "median_ms", "ships", "because"),
    [
        (0.002, 0.5, "int8", "int8 ships: 0.5 ms on onnxruntime against 0.8 ms"),
        (-0.001, 0.5, "int8", "0.10 points more accurate on 1,000"),
        (0.006, 0.5, "fp32", "rejected because it loses more than 0.5 points"),
        (0.002, 0.9, "fp32", "rejected because it is not faster"),
        (0.002, 0.8, "fp32", "rejected because it is not faster"),
        (0.1, 1.5, "fp32", "loses more than 0.5 points and it is not faster and it misses 1 ms"),
    ],
)
def test_int8_ships_where_it_is_faster_and_as_accurate(
    make_run: MakeRun, loss: float, median_ms: float, ships: str, because: str
) -> None:
    base = fp32(0, 0.9, 0.8)
    winner, facts = choose_form(make_run(latency_ms=1.0), PLAN, [base], [int8(base, loss, median_ms)])
    assert winner.precision == facts.precision == ships
    assert because in facts.reason, facts.reason
    assert facts.median_ms == {"fp32": {"onnxruntime": pytest.approx(0.8)}, "int8": {"onnxruntime": median_ms}}


def test_int8_ships_where_nothing_else_meets_the_limit(make_run: MakeRun) -> None:
    base = fp32(0, 0.9, 1.2)
    winner, facts = choose_form(make_run(latency_ms=1.0), PLAN, [base], [int8(base, 0.004, 0.9)])
    assert winner.precision == "int8" and facts.tried
    with pytest.raises(LimitNotMetError):
        choose_form(make_run("b", latency_ms=1.0), PLAN, [base], [int8(base, 0.02, 0.9)])


def test_a_better_network_that_only_int8_makes_fast_enough_wins(make_run: MakeRun) -> None:
    better, good = fp32(0, 0.95, 1.2), fp32(1, 0.9, 0.8)
    winner, _ = choose_form(make_run(latency_ms=1.0), PLAN, [better, good], [int8(better, 0.001, 0.9)])
    assert winner.architecture == better.architecture and winner.precision == "int8"
    winner, facts = choose_form(make_run("b", latency_ms=1.0), PLAN, [better, good], [int8(better, 0.001, 1.1)])
    assert winner is good and facts.tried is False


def test_asked_for_int8_ships_whatever_it_costs(make_run: MakeRun) -> None:
    base = fp32(0, 0.9, 0.5)
    form = int8(base, 0.03, 0.8, ("Conv_1",))
    winner, facts = choose_form(make_run(latency_ms=1.0, precision="int8"), PLAN, [base], [form])
    assert winner.precision == "int8" and "as was asked for" in facts.reason
    assert "1 most sensitive layers in fp32" in facts.reason and facts.fp32_layers == ("Conv_1",)
    with pytest.raises(LimitNotMetError, match=r"takes 1\.8 ms"):
        run = make_run("b", latency_ms=1.0, precision="int8")
        choose_form(run, PLAN, [base], [int8(base, 0.0, 1.8)])


def test_asked_for_and_not_to_be_had_says_why(make_run: MakeRun) -> None:
    run, base = make_run(latency_ms=1.0, precision="int8"), fp32(0, 0.9, 0.5)
    run.journal.finish(Quantized(failures={base.architecture.id: "no runtime can"}), 1.0)
    with pytest.raises(CompileError, match="no candidate could be quantised: .*: no runtime can"):
        choose_form(run, PLAN, [base], [])
    assert run.journal.outcome(Quantized) is None, "resuming tries again"


def test_a_target_without_int8_gets_none(make_run: MakeRun) -> None:
    run, base = make_run(latency_ms=1.0), fp32(0, 0.9, 0.5)
    run = replace(run, target=replace(run.target, precisions=("fp32",)))
    assert quantize_stage(run, PLAN, [base]) == [] and reserve_sec(600.0, "auto", run.target) == 0
    assert "int8 was not tried: target cpu computes in fp32" in choose_form(run, PLAN, [base], [])[1].reason


def test_fp32_is_not_tried_otherwise(make_run: MakeRun) -> None:
    run, base = make_run(latency_ms=1.0, precision="fp32"), fp32(0, 0.9, 0.5)
    assert quantize_stage(run, PLAN, [base]) == [] and run.journal.outcome(Quantized) is None
    winner, facts = choose_form(run, PLAN, [base], [])
    assert winner is base and facts.reason == "fp32 ships; int8 was not tried: --precision fp32."


def test_what_is_tried(make_run: MakeRun) -> None:
    slow, winner, worse = fp32(0, 0.95, 1.2), fp32(1, 0.9, 0.8), fp32(2, 0.85, 0.3)
    tried = quantizing._worth_trying([worse, winner, slow], 1.0, "auto")
    assert tried == [slow, winner]
    assert quantizing._worth_trying([worse, winner, slow], 0.1, "auto") == [slow, winner, worse]
    assert quantizing._worth_trying([worse, winner, slow], 1.0, "int8") == [slow, winner, worse]


def test_time_is_set_aside(make_run: MakeRun) -> None:
    cpu = make_run().target
    assert reserve_sec(600.0, "fp32", cpu) == reserve_sec(45.0, "auto", cpu) == 0
    assert reserve_sec(45.0, "int8", cpu) == reserve_sec(60.0, "auto", cpu) == 5.0
    assert reserve_sec(600.0, "auto", cpu) == 36.0 and reserve_sec(1e5, "int8", cpu) == 120.0


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="unknown precision 'int4'; known: int8"):
        RunSettings("digits", "cpu", 1.0, precision="int4")


@pytest.fixture
def real(make_run: MakeRun) -> tuple[RunContext, Finalist]:
    """The digits, and a network that was exported and measured, with the weights it was born with."""
    import torch

    run, architecture = make_run(latency_ms=50.0), SPACE.smallest()
    torch.manual_seed(0)
    path = candidate_folder(run, architecture) / "model.onnx"
    export_architecture(run, architecture, path, run.space.module(architecture).eval())
    result = run.devices("onnxruntime").measure([path])[0]
    assert isinstance(result, Measurement)
    return run, Finalist(architecture, 0.1, {"onnxruntime": path}, {"onnxruntime": result})


@pytest.mark.slow
def test_a_form_is_made_scored_and_measured_and_kept(real: tuple[RunContext, Finalist]) -> None:
    run, base = real
    (form,) = quantize_stage(run, PLAN, [base])
    path = form.finalist.files["onnxruntime"]
    assert path.is_file() and path.stat().st_size < base.files["onnxruntime"].stat().st_size
    assert form.num_images == run.dataset.val.num_images and 0 <= form.accuracy <= 1
    assert form.base.best.median_ms > 0 and form.finalist.best.median_ms > 0
    changed = path.stat().st_mtime_ns
    assert quantize_stage(run, PLAN, [base]) == [form] and path.stat().st_mtime_ns == changed, "read from the journal"
    images = run.dataset.test.raw([0, 1, 2], run.space.resolution(base.architecture))
    checked = check_int8(run, form.finalist, images, np.full((3, 10), 0.1, dtype=np.float32))
    assert 0 <= checked["onnxruntime"]["max_abs"] <= 1


@pytest.mark.slow
def test_sensitive_layers_stay_in_fp32_until_the_accuracy_is_there(
    real: tuple[RunContext, Finalist], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A demand that no quantised network meets: every step up to a third of the layers is taken."""
    run, base = real
    monkeypatch.setattr(quantizing, "MAX_LOSS", -1.1)
    (form,) = quantize_stage(run, PLAN, [base])
    stored = run.journal.outcome(Quantized)
    assert stored is not None
    num_layers = stored.forms[base.architecture.id].num_layers
    assert 1 <= len(form.fp32_layers) <= max(1, round(0.34 * num_layers))
    import onnx

    facts = {p.key: p.value for p in onnx.load(form.finalist.files["onnxruntime"]).metadata_props}
    assert facts["precision"] == "int8 and fp32" and facts["fp32_layers"].split() == sorted(form.fp32_layers)
