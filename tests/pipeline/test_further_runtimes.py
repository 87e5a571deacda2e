"""What the verbs make of runtimes that other packages bring, good ones and broken ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hwautoml.compilers import tuning_for
from hwautoml.compilers.base import Tuning
from hwautoml.core.target import Target
from hwautoml.errors import MissingDependencyError, UnknownNameError
from hwautoml.pipeline import doctor
from hwautoml.pipeline.tables.finding import choose_runtime, runtimes_of, usable_runtimes
from hwautoml.pipeline.verbs.benchables import parse_runtimes
from tests.compilers.plugins import BROKEN, THEIRS, install_runtimes


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_runtimes(tmp_path, monkeypatch, {"theirs": THEIRS, "broken": BROKEN})


def test_a_local_target_takes_them_by_name_and_auto_does_not(cpu: Target, gpu: Target) -> None:
    assert "theirs" in runtimes_of(cpu) and choose_runtime(cpu, "theirs") == "theirs"
    assert choose_runtime(cpu, "auto") == "onnxruntime"
    assert "theirs" not in runtimes_of(gpu), "it runs on processors"
    board = replace(cpu, connection="rpc")
    with pytest.raises(UnknownNameError, match="runtime of target cpu 'theirs'"):
        choose_runtime(board, "theirs")
    assert parse_runtimes("theirs,tvm") == ("theirs", "tvm")
    assert tuning_for("theirs", cpu, Path("records.json")) is None
    assert tuning_for("tvm", cpu, Path("records.json"), seed=3) == Tuning(Path("records.json"), seed=3)


def test_a_target_may_name_them(cpu: Target) -> None:
    named = replace(cpu, runtimes=("broken", "unheard-of", "theirs"))
    assert usable_runtimes(named) == ("theirs",) and choose_runtime(named, "auto") == "theirs"


def test_a_broken_one_is_named_where_it_is_asked_for_and_nowhere_else(cpu: Target) -> None:
    with pytest.raises(MissingDependencyError, match="pip uninstall broken"):
        parse_runtimes("broken")
    told = {check.name: check for check in doctor().checks}
    assert told["runtime theirs"].ok and not told["runtime broken"].ok
    assert "no_such_module" in told["runtime broken"].text
