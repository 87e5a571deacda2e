"""Many models in few supervised processes: what crashes or hangs is recorded, the others are compiled."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hwautoml.compilers import load_backend
from hwautoml.compilers.tvm import CompilerPool
from hwautoml.errors import CompileError, InvalidValueError
from tests.compilers.graphs import GraphBuilder

HOST = {"kind": "llvm", "mcpu": "native"}
# What a file is called decides what happens to the worker that is asked to compile it.
WORKER = """
import os, re
from hwautoml.compilers import _tvm_worker as worker
original = worker._serve
def serve(request, events):
    if "crash" in request.onnx_path.stem:
        os.write(2, b"about to fall")
        os.abort()
    if "hang" in request.onnx_path.stem:
        re.match("(a+)+$", 99 * "a" + "b")  # years in native code that never lets Python in
    return original(request, events)
worker._serve = serve
worker.main()
"""
COMMAND = (sys.executable, "-c", WORKER)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One-convolution networks of different widths, under names that mean something to the worker."""
    folder = tmp_path_factory.mktemp("onnx")
    for width, name in enumerate(("a", "b", "c", "crash", "hang"), start=1):
        graph = GraphBuilder((1, 4, 8, 8))
        graph.save(folder / f"{name}.onnx", graph.activation(graph.conv("images", 4, 8 * width, 3), "relu"), rank=4)
    return folder


@pytest.fixture
def pool() -> Iterator[CompilerPool]:
    with CompilerPool(command=COMMAND, silence_sec=20.0) as opened:
        yield opened


def children() -> set[int]:
    tasks = Path("/proc/self/task").iterdir()
    return {int(child) for task in tasks for child in (task / "children").read_text().split()}


def test_models_share_a_process_and_compute_what_they_should(
    pool: CompilerPool, folder: Path, tmp_path: Path
) -> None:
    before, seen = children(), set()
    x = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype("float32")
    for name in "abc":
        compiled = pool.compile_model(folder / f"{name}.onnx", tmp_path / name, tvm_target=HOST)
        seen |= children() - before
        expected = load_backend("onnxruntime").open_model(folder / f"{name}.onnx")(x)
        np.testing.assert_allclose(load_backend("tvm").open_model(compiled.path)(x), expected, atol=1e-5)
    assert len(seen) == 1


def test_a_crash_fails_that_model_only(pool: CompilerPool, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"SIGABRT.*crash\.onnx.*about to fall"):
        pool.compile_model(folder / "crash.onnx", tmp_path / "crash", tvm_target=HOST)
    assert not list((tmp_path / "crash").glob("*"))
    assert pool.compile_model(folder / "a.onnx", tmp_path, tvm_target=HOST).path.is_file()


def test_a_hang_is_ended(folder: Path, tmp_path: Path) -> None:
    with CompilerPool(command=COMMAND, silence_sec=3.0) as pool:
        with pytest.raises(CompileError, match=r"said nothing for 3 s.*hang\.onnx"):
            pool.compile_model(folder / "hang.onnx", tmp_path / "hang", tvm_target=HOST)
        time.sleep(0.1)
        assert not [child for child in children() if _is_worker(child)]


def test_threads_share_the_workers(folder: Path, tmp_path: Path) -> None:
    with CompilerPool(num_workers=2, command=COMMAND) as pool, ThreadPoolExecutor(4) as threads:
        jobs = [
            threads.submit(pool.compile_model, folder / f"{name}.onnx", tmp_path / name, tvm_target=HOST)
            for name in ("a", "crash", "b", "c")
        ]
        errors = [job.exception() for job in jobs]
        assert sum(_is_worker(child) for child in children()) <= 2
    assert [type(error) for error in errors] == [type(None), CompileError, type(None), type(None)]


def test_workers_end_with_the_pool(folder: Path, tmp_path: Path) -> None:
    before = children()
    pool = CompilerPool(command=COMMAND)
    pool.compile_model(folder / "a.onnx", tmp_path, tvm_target=HOST)
    (worker,) = children() - before
    del pool
    gc.collect()
    assert not Path(f"/proc/{worker}").exists()


def test_numbers_are_checked() -> None:
    with pytest.raises(InvalidValueError, match="num_workers"):
        CompilerPool(num_workers=0)


def _is_worker(child: int) -> bool:
    try:
        return b"_tvm_worker" in Path(f"/proc/{child}/cmdline").read_bytes() and child != os.getpid()
    except FileNotFoundError:
        return False
