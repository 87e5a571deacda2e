"""Many models in few supervised processes: what crashes or hangs is recorded, the others are compiled."""

from __future__ import annotations

import gc
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwautoml.compilers import load_backend
from hwautoml.compilers.tvm import CompilerPool
from hwautoml.errors import CompileError, InvalidValueError
from tests.compilers.graphs import GraphBuilder
from tests.compilers.shared import HOST

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


def workers() -> set[int]:
    """Of the pool under test: those with ``WORKER`` as their program."""
    tasks = Path("/proc/self/task").iterdir()
    children = {int(child) for task in tasks for child in (task / "children").read_text().split()}
    return {child for child in children if _is_worker(child)}


def test_models_share_a_process_until_one_crashes_it(folder: Path, tmp_path: Path) -> None:
    """Only the model that does so fails, and the next gets another worker; all compute what they should."""
    seen = []
    x = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype("float32")
    with CompilerPool(command=COMMAND, silence_sec=20.0) as pool:
        for name in ("a", "b", "crash", "c"):
            if name == "crash":
                with pytest.raises(CompileError, match=r"SIGABRT.*crash\.onnx.*about to fall"):
                    pool.compile(folder / "crash.onnx", tmp_path / "crash", HOST)
                assert not list((tmp_path / "crash").glob("*"))
                continue
            compiled = pool.compile(folder / f"{name}.onnx", tmp_path / name, HOST)
            seen.append(workers())
            expected = load_backend("onnxruntime").open_model(folder / f"{name}.onnx")(x)
            np.testing.assert_allclose(load_backend("tvm").open_model(compiled.path)(x), expected, atol=1e-5)
    assert [len(alive) for alive in seen] == [1, 1, 1] and seen[0] == seen[1] != seen[2]


def test_a_hang_is_ended(folder: Path, tmp_path: Path) -> None:
    with CompilerPool(command=COMMAND, silence_sec=3.0) as pool:
        with pytest.raises(CompileError, match=r"said nothing for 3 s.*hang\.onnx"):
            pool.compile(folder / "hang.onnx", tmp_path / "hang", HOST)
        time.sleep(0.1)
        assert not workers()


def test_threads_share_the_workers(folder: Path, tmp_path: Path) -> None:
    """And a model that crashes one is nothing to the others; it comes last, so that no third need be started."""
    with CompilerPool(num_workers=2, command=COMMAND) as pool, ThreadPoolExecutor(3) as threads:
        jobs = [
            threads.submit(pool.compile, folder / f"{name}.onnx", tmp_path / name, HOST) for name in ("a", "b", "crash")
        ]
        errors = [job.exception() for job in jobs]
        assert len(workers()) <= 2
    assert [type(error) for error in errors] == [type(None), type(None), CompileError]


def test_workers_end_with_the_pool(folder: Path, tmp_path: Path) -> None:
    pool = CompilerPool(command=COMMAND)
    with pytest.raises(CompileError, match="none.onnx"):
        pool.compile(folder / "none.onnx", tmp_path, HOST)
    (worker,) = workers()
    del pool
    gc.collect()
    assert not Path(f"/proc/{worker}").exists()


def test_numbers_are_checked() -> None:
    with pytest.raises(InvalidValueError, match="num_workers"):
        CompilerPool(num_workers=0)


def test_another_number_of_threads_is_another_process(folder: Path, tmp_path: Path) -> None:
    """TVM reads it once."""
    with CompilerPool(command=COMMAND) as pool:
        for threads in (1, 1, 2):
            before = workers()
            pool.compile(folder / "a.onnx", tmp_path / str(threads), replace(HOST, num_threads=threads))
            assert len(workers()) == 1 and (not before or (workers() == before) is (threads == 1))


def _is_worker(child: int) -> bool:
    try:
        return WORKER.encode() in Path(f"/proc/{child}/cmdline").read_bytes()
    except FileNotFoundError:
        return False
