from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import deploy, latency_model, main_job
from benchmarks.arguments import duration, tuning_time

COMMANDS = {
    "--tune": (deploy.main, ["schedules"]),
    "--budget": (main_job.main, ["cifar"]),
    "--profile-budget": (latency_model.main, []),
}


NO_TIMES = [(option, text) for option in COMMANDS for text in ("soon", "-3s", "", "0s")]
NO_TIMES.remove(("--tune", "0s"))  # no tuning


@pytest.mark.parametrize(("option", "text"), NO_TIMES)
def test_what_is_no_time_ends_with_code_2_and_no_traceback(
    capsys: pytest.CaptureFixture[str], option: str, text: str
) -> None:
    main, words = COMMANDS[option]
    with pytest.raises(SystemExit) as end:
        main([*words, f"{option}={text}"])
    assert end.value.code == 2
    assert f"error: argument {option}: duration: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("read", "text", "seconds"), [(duration, "1m30s", 90.0), (tuning_time, "20s", 20.0), (tuning_time, "0s", 0.0)]
)
def test_times_are_in_seconds(read: Callable[[str], float], text: str, seconds: float) -> None:
    assert read(text) == seconds


@pytest.mark.slow
def test_without_tuning_only_the_fixed_rule_is_compared(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    words = ["schedules", "--tune", "0s", "--only", "mobile32-0", "--rounds", "2", "--out", str(out)]
    deploy.main(words)
    result = json.loads(out.read_text(encoding="utf-8"))
    (row,) = result["rows"]
    assert row["untuned_ratio"] > 0 and row["tuned_functions"] == 0 and "tuned_ratio" not in row
    assert not any(name.startswith("tuned") for name in result["summary"])
