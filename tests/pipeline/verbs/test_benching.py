"""Real files on ONNX Runtime; TVM and torch in the slow tests."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from hwautoml.bundles import write_bundle
from hwautoml.core.compiled_file import read_compiled
from hwautoml.core.resources import target_folders
from hwautoml.core.target import Target, load_target
from hwautoml.errors import (
    CompileError,
    InvalidValueError,
    MeasurementError,
    MissingDependencyError,
    RunFolderError,
    UnknownNameError,
)
from hwautoml.exporters import export_program
from hwautoml.pipeline import bench, compile
from hwautoml.pipeline.verbs.baseline import compare, read_baseline
from hwautoml.pipeline.verbs.benchables import benchables, own_runtimes, prepare, require_of_target
from hwautoml.pipeline.verbs.benching import require_all_measured
from hwautoml.tasks.classification import Classification
from tests.invoking import invoke

KEYS = {
    "artifact",
    "runtime",
    "threads",
    "batch",
    "median_ms",
    "interval_ms",
    "p95_ms",
    "throughput",
    "load_ms",
    "peak_memory_mb",
    "size_mb",
}


def classifier(path: Path, size: int = 8) -> Path:
    """uint8 (1, size, size, 3) to three probabilities."""
    weights = np.random.default_rng(0).normal(0, 0.02, (size * size * 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, size, size, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.array([1, size * size * 3]), "shape"), numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return classifier(tmp_path / "small.onnx")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return classifier(tmp_path / "large.onnx", 200)


@pytest.fixture
def bundle(tmp_path: Path, small: Path) -> Path:
    return write_bundle(
        tmp_path / "bundle",
        onnx_path=small,
        task=Classification(("a", "b", "c")),
        resolution=8,
        channels=3,
        accuracy={},
        latency={},
        conditions={},
        architecture={"id": "x"},
        parity={},
    )


def test_files_and_bundles_side_by_side(small: Path, large: Path, bundle: Path, tmp_path: Path) -> None:
    result = bench([large, small, bundle], budget_sec=2.0, csv=tmp_path / "t.csv", picture=tmp_path / "out" / "p.png")
    rows = {Path(row["artifact"]).name: row for row in result["rows"]}
    assert set(rows) == {"large.onnx", "small.onnx", "bundle"} and not result["failed"]
    for row in rows.values():
        assert set(row) >= KEYS and row["origin"] == "measured" and row["runtime"] == "onnxruntime"
        low, high = row["interval_ms"]
        assert low <= row["median_ms"] <= high and row["throughput"] == pytest.approx(1000 / row["median_ms"])
        assert row["p95_ms"] > 0 and row["load_ms"] > 0 and row["peak_memory_mb"] > row["model_memory_mb"] > 0
        assert row["conditions"]["reference"] == "reference/v1" and row["conditions"]["reference_median_ms"] > 0
    assert rows["large.onnx"]["median_ms"] > rows["small.onnx"]["median_ms"]
    assert rows["large.onnx"]["size_mb"] == pytest.approx(large.stat().st_size / 2**20)
    assert [r["artifact"] for r in result["rows"]][-1] == str(large), "the fastest comes first"
    json.dumps(result.to_json(), allow_nan=False)
    with (tmp_path / "t.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [float(line["median_ms"]) for line in table] == [row["median_ms"] for row in result["rows"]]
    with Image.open(tmp_path / "out" / "p.png") as picture:
        assert picture.width > 500


def test_a_batch_is_measured_as_one(large: Path) -> None:
    (one,), (four,) = (bench([large], batch=batch, budget_sec=1.0)["rows"] for batch in (1, 4))
    assert four["batch"] == 4 and four["median_ms"] > one["median_ms"]
    assert four["throughput"] == pytest.approx(4000 / four["median_ms"])


def test_a_compiled_file_keeps_its_own_batch(large: Path, tmp_path: Path) -> None:
    program = export_program(torch.nn.Conv2d(3, 4, 3), tmp_path / "two.pt2", (2, 3, 16, 16)).path
    rows = bench([large, program], batch=4, budget_sec=1.0)["rows"]
    assert {Path(row["artifact"]).suffix: row["batch"] for row in rows} == {".onnx": 4, ".pt2": 2}
    for row in rows:
        assert row["throughput"] == pytest.approx(1000 * row["batch"] / row["median_ms"])
    picture = tmp_path / "both.png"
    told = invoke("bench", large, program, "--batch", "4", "--budget", "1s", "--picture", picture)
    assert told.stdout.count("(batch ") == 2 and picture.is_file()


def test_bad_files_are_named_and_the_others_go_on(small: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(small.read_bytes()[:-200])
    result = bench([cut, tmp_path / "none.onnx", small], budget_sec=1.0)
    assert [row["artifact"] for row in result["rows"]] == [str(small)]
    assert [Path(row["artifact"]).name for row in result["failed"]] == ["none.onnx", "cut.onnx"]
    with pytest.raises(MeasurementError, match=r"2 could not be measured: .*none\.onnx does not exist.*cut\.onnx"):
        require_all_measured(result)


def test_bad_files_alone_are_their_own_error(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no protobuf")
    with pytest.raises(CompileError, match=r"bad\.onnx is not a readable ONNX model"):
        bench([tmp_path / "bad.onnx"])


def test_a_runtime_that_does_not_take_the_file_is_said(small: Path) -> None:
    result = bench([small], runtime="onnxruntime,torch", budget_sec=1.0)
    assert result["skipped"] == [f"{small} on torch: it takes .pt2 files, not .onnx"] and len(result["rows"]) == 1
    with pytest.raises(InvalidValueError, match=r"small\.onnx runs on none of the runtimes asked for"):
        bench([small], runtime="torch")


def test_a_baseline_of_this_very_machine(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    former = bench([small], budget_sec=1.0)
    path.write_text(json.dumps(former.to_json()))
    same = compare(former.rows, read_baseline(path), 0.05).rows[0]
    assert same.slower == pytest.approx(1.0) and not same.failed
    doctored: dict[str, Any] = json.loads(path.read_text())
    doctored["rows"][0]["median_ms"] /= 10
    path.write_text(json.dumps(doctored))
    assert bench([small], budget_sec=1.0, against=path)["against"]["rows"][0]["failed"]


@pytest.mark.slow
def test_every_runtime_in_one_comparison(small: Path, bundle: Path, tmp_path: Path) -> None:
    import torch

    from hwautoml.exporters import export_program

    program = export_program(torch.nn.Conv2d(3, 4, 3), tmp_path / "c.pt2", (1, 3, 16, 16)).path
    result = bench([small, bundle], runtime="onnxruntime,tvm", budget_sec=5.0, profiles_dir=tmp_path / "profiles")
    assert {row["runtime"] for row in result["rows"]} == {"onnxruntime", "tvm"} and len(result["rows"]) == 4
    mixed = bench([program, small], budget_sec=3.0)
    assert {row["runtime"] for row in mixed["rows"]} == {"torch", "onnxruntime"}


@pytest.mark.slow
def test_a_board_runs_what_was_compiled_here(small: Path, large: Path, tmp_path: Path) -> None:
    from tests.devices.rpc_boards import KEY, agent, running

    with running(agent()) as service:
        result = bench(
            [small, large, tmp_path / "none.onnx"],
            device=service.address,
            key=KEY,
            budget_sec=5.0,
            profiles_dir=tmp_path / "profiles",
        )
    assert [Path(row["artifact"]).name for row in result["rows"]] == ["small.onnx", "large.onnx"]
    assert {row["runtime"] for row in result["rows"]} == {"tvm"}
    assert result["rows"][0]["conditions"]["connection"] == "rpc" and len(result["failed"]) == 1
    assert KEY not in json.dumps(result.to_json())


@pytest.mark.parametrize("runtime", ["onnxruntime", "tvm"])
def test_what_compile_wrote_is_benched_by_its_folder(runtime: str, small: Path, tmp_path: Path) -> None:
    """Which says what runs the file, whatever its name, and what it was made for."""
    out, profiles_dir = tmp_path / "built", tmp_path / "profiles"
    compiled = compile(small, runtime=runtime, out=out, profiles_dir=profiles_dir)
    assert json.loads(json.dumps(compiled.to_json()))["path"] == str(compiled.path) == compiled["path"]
    for artifact in (out, compiled.path):
        (row,) = bench([artifact], budget_sec=1.0).rows
        assert (row.artifact, row.runtime, row.origin) == (str(artifact), runtime, "measured")
    (file,) = read_compiled(out)
    assert (file.source, file.target, file.precision, file.num_threads) == (str(small), "cpu", "fp32", 1)
    result = bench([out, small], runtime="onnxruntime,torch" if runtime == "tvm" else "tvm,torch", budget_sec=1.0)
    assert f"it was compiled for {runtime}" in result["skipped"][0]
    (item,), _ = benchables(out, None, 1, load_target("cpu", target_folders()))
    with pytest.raises(InvalidValueError, match="was compiled for target cpu, not for rpi4\n  fix: --target cpu"):
        benchables(out, None, 1, load_target("rpi4", target_folders()))
    item.path.write_bytes(b"another")
    with pytest.raises(RunFolderError, match=r"is not the file that was compiled there\n  fix: compile"):
        bench([out])


def test_two_runtimes_in_one_folder_are_two_rows(small: Path, tmp_path: Path) -> None:
    for runtime in ("tvm", "onnxruntime"):
        compile(small, runtime=runtime, out=tmp_path / "built", profiles_dir=tmp_path / "profiles")
    rows = bench([tmp_path / "built"], budget_sec=1.0)["rows"]
    assert {row["runtime"]: Path(row["artifact"]).name for row in rows} == {
        "tvm": "model.so",
        "onnxruntime": "model.onnx",
    }
    (tmp_path / "built" / "compiled.json").write_text('{"schema": "hwautoml-compiled/1", "files": [{"name": "x"}]}')
    with pytest.raises(RunFolderError, match=r"compiled\.json is damaged"):
        bench([tmp_path / "built"])


def test_a_gpus_files_run_on_its_own_runtimes(gpu: Target, cpu: Target, tmp_path: Path) -> None:
    """Never on the processor: not by default, not by name, and not by a program whose weights still lie there."""
    assert own_runtimes(gpu) == {".onnx": "tvm", ".so": "tvm", ".pt2": "torch-inductor"}
    assert own_runtimes(cpu) == {".onnx": "onnxruntime", ".so": "tvm", ".pt2": "torch"}
    require_of_target(("onnxruntime", "torch"), cpu)
    with pytest.raises(UnknownNameError, match="runtime of target gpu 'onnxruntime'; known: onnxruntime-cuda"):
        require_of_target(("tvm", "onnxruntime"), gpu)
    path = export_program(torch.nn.ReLU(), tmp_path / "net.pt2", (1, 4)).path
    (item,), _ = benchables(path, ("torch",), 1, gpu)
    assert prepare(item, cpu, 1, tmp_path / "cpu", tmp_path) == path
    if not torch.cuda.is_available():
        with pytest.raises(MissingDependencyError, match="torch finds no CUDA device"):
            prepare(item, gpu, 1, tmp_path / "gpu", tmp_path)
