"""Verbs on what is not there or not right; on a finished run they are tested in test_whole_runs.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import hwautoml
from hwautoml import pipeline
from hwautoml.errors import (
    CompileError,
    InfeasibleLimitError,
    InvalidValueError,
    RunFolderError,
    UnknownNameError,
    UnknownTargetError,
)
from hwautoml.pipeline import bench, compile, export, report, search, targets
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.outcomes import Trained
from hwautoml.pipeline.runs.settings import RunSettings
from hwautoml.pipeline.stages.training import CHECKPOINT, checkpoint
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.store.run_store import RunStore
from hwautoml.supernets.supernet import Supernet
from hwautoml.supernets.training import TrainState


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A 3x3 convolution with a batch of any size, as a user might bring it."""
    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["c"], ["y"])],
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8, 8])],
        [numpy_helper.from_array(weights, "w")],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """Started, and not trained yet."""
    with RunStore(tmp_path / "run", create=True) as store:
        store.set_setting("settings", RunSettings("digits", "cpu", 1.0).to_json())
    return tmp_path / "run"


@pytest.mark.parametrize("runtime", ["tvm", "onnxruntime"])
def test_a_file_that_is_no_onnx_cannot_be_compiled(tmp_path: Path, runtime: str) -> None:
    garbage = tmp_path / "model.onnx"
    garbage.write_bytes(b"no protobuf at all")
    with pytest.raises(CompileError, match=r"model.onnx"):
        compile(garbage, runtime=runtime, profiles_dir=tmp_path)


def test_a_missing_file_cannot_be_compiled(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="none.onnx does not exist") as caught:
        compile(tmp_path / "none.onnx")
    assert "name an .onnx file" in (caught.value.fix or "")


def test_compiling_for_an_unknown_target_or_runtime_is_refused(model: Path) -> None:
    with pytest.raises(UnknownTargetError, match="unknown target 'rpi44'"):
        compile(model, target="rpi44")
    with pytest.raises(UnknownNameError, match="'tvmm'"):
        compile(model, runtime="tvmm")


def test_compiling_for_onnxruntime_is_the_file_itself(model: Path, tmp_path: Path) -> None:
    result = compile(model, runtime="onnxruntime", profiles_dir=tmp_path / "profiles")
    assert Path(result["path"]).is_file() and result["runtime"] == "onnxruntime"
    assert Path(result["path"]).parent == tmp_path / "model-cpu-onnxruntime"


@pytest.mark.slow
def test_compiling_for_tvm_is_checked_against_onnxruntime(model: Path, tmp_path: Path) -> None:
    result = compile(model, out=tmp_path / "built", profiles_dir=tmp_path / "profiles")
    assert Path(result["path"]).is_file() and Path(result["path"]).parent == tmp_path / "built"
    assert result["parity"]["max_relative"] <= result["parity"]["tolerance"]
    assert result["parity"]["num_inputs"] == 4


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("none.onnx", None, InvalidValueError, "none.onnx does not exist"),
        ("notes.txt", b"hello", InvalidValueError, "notes.txt is no .onnx, .pt2 or .so file"),
        ("folder", "", RunFolderError, "folder is no bundle: it has no manifest.json"),
    ],
)
def test_bench_refuses_what_it_cannot_run(
    tmp_path: Path, name: str, content: bytes | str | None, error: type[Exception], message: str
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.mkdir()
    with pytest.raises(error, match=message):
        bench([path])


def test_searching_and_exporting_need_a_trained_run(tmp_path: Path, unfinished: Path) -> None:
    for verb in (search, export):
        with pytest.raises(RunFolderError, match="its supernet is not trained yet") as caught:
            verb(unfinished)
        assert caught.value.fix == f"hwautoml run --resume --out {unfinished}"
        with pytest.raises(RunFolderError, match="holds no run"):
            verb(tmp_path / "nowhere")


def test_an_empty_journal_is_no_started_run(tmp_path: Path) -> None:
    RunStore(tmp_path / "run", create=True).close()
    with pytest.raises(RunFolderError, match="holds no started run"):
        search(tmp_path / "run")


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_searching_needs_a_sensible_limit(unfinished: Path, limit: float) -> None:
    with RunStore(unfinished) as store:
        store.finish_stage("train", 1.0, {})
    with pytest.raises(InvalidValueError, match="latency limit must be a positive number of ms"):
        search(unfinished, latency_ms=limit)


@pytest.fixture
def trained(make_run: Callable[..., RunContext]) -> Path:
    """Its weights are random, which a search does not mind."""
    run = make_run()
    run.journal.start(run.settings)
    checkpoint(run, run.folder / CHECKPOINT, Supernet(run.space), TrainState(1.0, 8, 1))
    run.journal.finish(Trained(epochs=1.0), 1.0)
    run.journal.close()
    return run.folder


def test_a_run_is_searched_within_limits_of_any_objective(trained: Path, space: MobileSpace, tmp_path: Path) -> None:
    found = search(
        trained, target="rpi4", latency_ms=5.0, objective=["macs"], limit=["parameters<=6000"], profiles_dir=tmp_path
    )
    assert [(o.name, o.limit) for o in found.objectives] == [
        ("accuracy", None),
        ("latency_ms", 5.0),
        ("macs", None),
        ("parameters", 6000.0),
    ]
    assert found.num_new > 0 and found.limit_ms == 5.0
    for row in found.front:
        cost = space.total_cost(space.architecture(row.values))
        assert row.objectives == {
            "accuracy": row.accuracy_val,
            "latency_ms": pytest.approx(row.latency_ms),
            "macs": cost.macs,
            "parameters": cost.parameters,
        }
        assert row.meets_limit == (cost.parameters <= 6000 and row.latency_ms <= 5.0)
    assert found.best is not None
    assert found.best.accuracy_val == max(row.accuracy_val for row in found.front if row.meets_limit)
    assert (trained / "searches" / "rpi4-5ms-macs-parameters-6000.json").is_file()


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"limit": ["parametres<=5"]}, UnknownNameError, "unknown objective 'parametres'; known: parameters"),
        ({"objective": ["flops"]}, UnknownNameError, "unknown objective 'flops'"),
        ({"limit": ["parameters>=5"]}, InvalidValueError, "parameters is minimized, so it is limited by <="),
        ({"limit": ["parameters=5"]}, InvalidValueError, "a limit is NAME<=VALUE"),
        ({"limit": ["macs<=1e6", "macs<=2e6"]}, InvalidValueError, "macs has two limits"),
        ({"limit": ["latency_ms<=2"], "latency_ms": 3.0}, InvalidValueError, "one limit of latency_ms is possible"),
        ({"limit": ["parameters<=5"]}, InfeasibleLimitError, "no network of mobile/.* meets parameters<=5; the lowest"),
    ],
)
def test_limits_that_make_no_sense_are_refused(
    trained: Path, tmp_path: Path, asked: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        search(trained, target="rpi4", profiles_dir=tmp_path, **{"latency_ms": 5.0, **asked})


def test_an_unknown_format_is_refused(unfinished: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown format 'tflite'; known: onnx"):
        export(unfinished, format="tflite")


def test_the_best_of_an_unfinished_run_is_not_known(unfinished: Path) -> None:
    with RunStore(unfinished) as store:
        store.finish_stage("train", 1.0, {})
    with pytest.raises(RunFolderError, match="has no winner yet"):
        export(unfinished)
    with pytest.raises(UnknownNameError, match="unknown architecture 'abc'; known: best"):
        export(unfinished, arch="abc")


def test_an_unfinished_run_has_no_report(tmp_path: Path, unfinished: Path) -> None:
    with pytest.raises(RunFolderError, match="is not finished, so there is nothing to report"):
        report(unfinished)
    with pytest.raises(RunFolderError, match="holds no run"):
        report(tmp_path / "nowhere")


def test_targets_say_what_works_here() -> None:
    known = {found.target.name: found for found in targets()}
    assert known["cpu"].works_here and "onnxruntime" in known["cpu"].usable_runtimes
    assert not known["rpi5"].works_here and known["rpi5"].reason
    assert targets("cpu") == (known["cpu"],)
    with pytest.raises(UnknownTargetError, match="known: rpi"):
        targets("rpi")


def test_every_verb_is_at_hand_in_both_packages() -> None:
    for name in set(pipeline.__all__) - {"devices"}:  # in the package itself that is the room
        assert getattr(hwautoml, name) is getattr(pipeline, name)
    for package in (hwautoml, pipeline):
        with pytest.raises(AttributeError, match="has no attribute 'runn'"):
            package.runn  # noqa: B018
