from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from hwautoml.errors import InvalidValueError, RunFolderError
from hwautoml.pipeline.runs.settings import RunSettings, require_same

FULL = RunSettings(
    "photos",
    "gpu",
    0.5,
    90.0,
    48,
    1,
    "tvm",
    "random",
    7,
    "fp32",
    objectives=("num_kernels",),
    limits=("parameters<=20000", "macs<=1e9"),
)


@pytest.mark.parametrize("settings", [FULL, RunSettings("digits", "cpu", 1.0)])
def test_settings_survive_json(settings: RunSettings) -> None:
    assert RunSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_runs_of_before_spaces_had_names_go_on_with_theirs() -> None:
    stored = {name: value for name, value in FULL.to_json().items() if name != "space"}
    assert RunSettings.from_json(stored) == FULL and FULL.space == "mobile"


def test_settings_of_another_version_are_refused_by_name() -> None:
    with pytest.raises(
        RunFolderError, match=r"made by another version: it has settings \['colour'\]\n  fix: .*--overwrite"
    ):
        RunSettings.from_json({**FULL.to_json(), "colour": "red"})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("latency_ms", 0.0, "positive number of ms, got 0.0"),
        ("latency_ms", -1.0, "positive number of ms, got -1.0"),
        ("latency_ms", float("nan"), "positive number of ms, got nan"),
        ("latency_ms", float("inf"), "positive number of ms, got inf"),
        ("budget_sec", 29.9, "take 30 s or more, got 29.9 s"),
        ("budget_sec", float("nan"), "got nan s"),
        ("budget_sec", float("inf"), "got inf s"),
        ("seed", -1, "seed must be between 0"),
        ("seed", 2**31, "seed must be between 0"),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: float, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        replace(FULL, **{field: value})


def test_the_shortest_budget_and_the_ends_of_the_seeds_are_allowed() -> None:
    for changed in ({"budget_sec": 30.0}, {"seed": 0}, {"seed": 2**31 - 1}):
        replace(FULL, **changed)  # type: ignore[arg-type]


def test_a_resumed_run_may_repeat_its_settings_or_leave_them_out() -> None:
    require_same(FULL, FULL.to_json())
    require_same(FULL, {field.name: None for field in fields(RunSettings)})
    require_same(FULL, {})


def test_a_resumed_run_may_not_change_them_and_all_changes_are_named() -> None:
    with pytest.raises(RunFolderError) as caught:
        require_same(FULL, {"latency_ms": 0.7, "target": "gpu", "seed": 0})
    assert "latency_ms was 0.5, now 0.7; seed was 7, now 0" in str(caught.value)
    assert "target was" not in str(caught.value)
    assert "hwautoml search" in (caught.value.fix or "")


def test_what_networks_are_judged_by() -> None:
    assert [(d.objective.name, d.objective.limit) for d in FULL.definitions] == [
        ("accuracy", None),
        ("latency_ms", 0.5),
        ("num_kernels", None),
        ("parameters", 20_000.0),
        ("macs", 1e9),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": ("flops",)}, "unknown objective 'flops'"),
        ({"limits": ("parameters>=5",)}, "limited by <="),
        ({"limits": ("parameters",)}, "a limit is NAME<=VALUE"),
        ({"limits": ("latency_ms<=0.4",)}, "latency_ms has two limits"),
        ({"limits": ("accuracy>=0.9",)}, "a run keeps limits of latency_ms and of what is known before training"),
    ],
)
def test_limits_that_a_run_cannot_keep_are_refused(changes, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        replace(FULL, **changes)
