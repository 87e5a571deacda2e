from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hwautoml.core.form import Form
from hwautoml.core.measurement import Measurement
from hwautoml.errors import LimitNotMetError, MeasurementError
from hwautoml.pipeline.runs.candidates import Finalist, choose_winner, measured_finalists
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.journal import FINE_TUNED, RANDOM
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.store.run_store import Evaluation

SPACE = MobileSpace(8, 1, 10)


def measured(median_ms: float, spread: float = 0.01) -> Measurement:
    samples = tuple(median_ms * (1 + spread * (i - 25) / 25) for i in range(51))
    return Measurement(samples, {"machine": "test"}, True, samples)


def finalist(seed: int, accuracy: float, *, spread: float = 0.01, **median_ms: float) -> Finalist:
    architecture = SPACE.sample(np.random.default_rng(seed))
    files = {runtime: Path(f"{seed}/{runtime}") for runtime in ("onnxruntime", "tvm")}
    return Finalist(architecture, accuracy, files, {name: measured(ms, spread) for name, ms in median_ms.items()})


def test_the_faster_runtime_counts() -> None:
    found = finalist(0, 0.9, onnxruntime=0.9, tvm=0.5)
    assert found.runtime == "tvm" and found.best.median_ms == 0.5
    assert found.meets(0.6) and not found.meets(0.4)


def test_the_whole_interval_must_be_within_the_limit() -> None:
    sharp, vague = finalist(0, 0.9, tvm=0.99, spread=0.001), finalist(0, 0.9, tvm=0.99, spread=0.5)
    assert vague.best.interval_ms[1] > 1.0
    assert sharp.meets(1.0) and not vague.meets(1.0)


def test_the_most_accurate_that_meets_the_limit_wins(make_run: Callable[..., RunContext]) -> None:
    candidates = [
        finalist(0, 0.95, onnxruntime=1.5, tvm=1.2),
        finalist(1, 0.90, onnxruntime=0.9, tvm=1.4),
        finalist(2, 0.85, tvm=0.2),
    ]
    assert choose_winner(make_run(latency_ms=1.0), candidates) is candidates[1]


def test_of_equally_accurate_ones_the_faster_wins(make_run: Callable[..., RunContext]) -> None:
    candidates = [finalist(0, 0.9, tvm=0.8), finalist(1, 0.9, tvm=0.6)]
    assert choose_winner(make_run(latency_ms=1.0), candidates) is candidates[1]


def test_if_none_meets_the_limit_the_nearest_is_named(make_run: Callable[..., RunContext]) -> None:
    candidates = [finalist(0, 0.95, tvm=1.5), finalist(1, 0.90, onnxruntime=1.2)]
    with pytest.raises(LimitNotMetError) as caught:
        choose_winner(make_run(latency_ms=1.0), candidates)
    text = str(caught.value)
    assert candidates[1].architecture.id in text and "takes 1.2 ms on onnxruntime (measured" in text
    suggested = float((caught.value.fix or "").split()[1].rstrip(";"))
    assert candidates[1].meets(suggested)
    assert str(candidates[1].files["onnxruntime"]) in (caught.value.fix or "")
    assert caught.value.exit_code == 6


def test_finalists_come_from_the_journal(make_run: Callable[..., RunContext]) -> None:
    run = make_run(runtime="onnxruntime")
    architecture = SPACE.smallest()
    confusion = np.eye(10, dtype=np.int64)
    run.journal.add_evaluation(Evaluation(architecture, "fine-tuned.first", "val", confusion[::-1], 1.0))
    run.journal.add_evaluation(Evaluation(architecture, "fine-tuned.second", "val", confusion, 1.0))
    with pytest.raises(MeasurementError, match="no finalist could be measured on cpu"):
        measured_finalists(run)
    for median in (0.9, 0.5):  # measured again by a resumed run
        run.journal.add_measurement(architecture.id, "cpu", Form("onnxruntime"), measured(median), weights=FINE_TUNED)
    run.journal.add_measurement(architecture.id, "cpu", Form("onnxruntime"), measured(0.1), weights=RANDOM)
    (found,) = measured_finalists(run)
    assert found.architecture == architecture and found.accuracy_val == 1.0, "the last phase counts"
    assert found.measured == {"onnxruntime": measured(0.5)}
