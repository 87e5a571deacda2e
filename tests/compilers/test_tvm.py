"""What only the TVM backend promises: tuning records, crashes, targets, errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from hwautoml.compilers import tvm
from hwautoml.compilers.base import Tuning
from hwautoml.errors import CompileError, RunFolderError, StorageError, UnsupportedOperatorError
from hwautoml.schedules.records import Records
from tests.compilers.graphs import GraphBuilder
from tests.compilers.shared import HOST, compiler, target_for


@pytest.fixture(scope="module")
def onnx_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions and a head."""
    graph = GraphBuilder((1, 16, 16, 3), TensorProto.UINT8)
    x = graph.activation(graph.conv(graph.normalised(3), 3, 16, 3), "relu")
    x = graph.activation(graph.conv(x, 16, 32, 3, 2), "hardswish")
    return graph.save(tmp_path_factory.mktemp("onnx") / "net.onnx", graph.head(x, 32, 5))


def test_the_caller_never_imports_tvm_to_compile(onnx_path: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hwautoml.compilers import load_backend; "
        "from hwautoml.testing.runtimes import this_machine; "
        f"load_backend('tvm').compile(Path({str(onnx_path)!r}), Path({str(tmp_path)!r}), this_machine()); "
        f"assert not {{'tvm', 'torch'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_records_outlive_a_tuning_and_serve_the_next(onnx_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    first = compiler().compile(onnx_path, tmp_path / "a", HOST, Tuning(path, budget_sec=1.5))
    assert first.tuned >= 1
    assert 1.0 < first.tune_sec < 6.0
    (tilings,) = (Records.load(path).tilings(target) for target in Records.load(path).by_target)
    second = compiler().compile(onnx_path, tmp_path / "b", HOST, Tuning(path))
    assert second.tuned == first.tuned == len(tilings)
    assert second.tune_sec == 0.0


def test_damaged_records_are_an_error(onnx_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    path.write_text("{")
    with pytest.raises(RunFolderError, match=r"records\.json"):
        compiler().compile(onnx_path, tmp_path / "out", HOST, Tuning(path))
    assert path.read_text() == "{"


def test_records_that_cannot_be_written_are_an_error_of_storage(onnx_path: Path, tmp_path: Path) -> None:
    """It happens in the worker, and keeps its kind."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write .*r.json"):
        compiler().compile(onnx_path, tmp_path / "out", HOST, Tuning(tmp_path / "file" / "r.json", budget_sec=2.0))


def children_of(process_id: int) -> list[int]:
    """Ids of the child processes of a process."""
    tasks = Path(f"/proc/{process_id}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker through /proc")
def test_a_candidate_that_kills_the_worker_is_skipped(onnx_path: Path, tmp_path: Path) -> None:
    """The worker gets the signal a crashing candidate would cause; the model is still built."""
    path, killed, others = tmp_path / "records.json", [], children_of(os.getpid())

    def kill_once(_done: int, _total: int, message: str) -> None:
        if message.startswith("tuning") and not killed:
            killed.extend(
                child
                for child in children_of(os.getpid())
                if child not in others and b"_tvm_worker" in Path(f"/proc/{child}/cmdline").read_bytes()
            )
            for child in killed:
                os.kill(child, signal.SIGSEGV)
            time.sleep(0.2)

    compiled = tvm.compile(onnx_path, tmp_path / "out", HOST, Tuning(path, budget_sec=2.0), on_progress=kill_once)
    assert len(killed) == 1
    assert compiled.path.exists()
    (entries,) = Records.load(path).by_target.values()
    assert sum(len(record.crashed) for record in entries.values()) == 1


def test_operator_the_importer_lacks(tmp_path: Path) -> None:
    graph = GraphBuilder((1, 4))
    bits = graph.node("Cast", "images", to=TensorProto.INT32)
    random = graph.node("Bernoulli", graph.node("Cast", bits, to=TensorProto.FLOAT))
    path = graph.save(tmp_path / "random.onnx", random)
    with pytest.raises(UnsupportedOperatorError, match="Bernoulli"):
        compiler().compile(path, tmp_path / "out", HOST)


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ({"kind": "llvmm"}, "llvmm"),
        ({"kind": "llvm", "mcpu": "znver99"}, "znver99"),
        ({"kind": "llvm", "cpu": "native"}, "cpu"),
    ],
)
def test_unknown_target_is_named(onnx_path: Path, tmp_path: Path, target: dict[str, object], named: str) -> None:
    with pytest.raises(CompileError, match=named):
        compiler().compile(onnx_path, tmp_path, target_for(target))


def test_what_no_family_covers_is_named_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The worker's warnings are the caller's."""
    graph = GraphBuilder((1, 8, 6, 6))
    dropped = graph.node("Mul", graph.conv("images", 8, 8, 3), graph.constant(np.float32(0.0)))
    path = graph.save(tmp_path / "dropped.onnx", graph.node("Add", dropped, "images"), rank=4)
    compiled = compiler().compile(path, tmp_path, HOST)
    assert compiled.fallbacks
    assert all(f"no schedule family covers {name}" in caplog.text for name in compiled.fallbacks)
