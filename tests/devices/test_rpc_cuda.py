"""Libraries for GPUs on boards: on the GPU or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hwautoml.core.resources import package_folder, target_folders
from hwautoml.core.target import load_target
from hwautoml.devices.machine import cuda_device
from hwautoml.devices.rpc import RpcDevice
from hwautoml.errors import MissingDependencyError
from tests.compilers.shared import compiler
from tests.devices.rpc_boards import KEY, PLAIN_SERVER, QUICK, Service, agent, measured, running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(cuda_device() is not None, reason="the board on loopback has a CUDA device"),
]


@pytest.fixture(scope="module")
def board() -> Iterator[Service]:
    with running(agent()) as service:
        yield service


@pytest.fixture(scope="module")
def cuda_library(libraries: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For a GPU in a machine with this one's processor."""
    target = load_target("gpu", target_folders())
    out = tmp_path_factory.mktemp("cuda")
    return compiler().compile(libraries["small.onnx"], out, target).path


@pytest.fixture(params=["agent", "plain"])
def address(request: pytest.FixtureRequest, board: Service) -> Iterator[str]:
    """Our agent, and TVM's own server."""
    if request.param == "agent":
        yield board.address
        return
    with running(PLAIN_SERVER) as plain:
        yield plain.address


def test_a_board_without_cuda_says_so(address: str, cuda_library: Path, libraries: dict[str, Path]) -> None:
    with RpcDevice(address, key=KEY) as device:
        with pytest.raises(MissingDependencyError, match="compiled for a CUDA device, and the board's TVM finds none"):
            device.run_model(cuda_library, np.zeros((2, 8, 16, 16), np.float32))
        with pytest.raises(MissingDependencyError, match="compiled for a CUDA device"):
            device.measure([cuda_library], None, QUICK)
        (small,) = measured(device.measure([libraries["small"]], None, QUICK))  # the session lives on
    assert small.conditions["device"] == "cpu"


def test_compiling_and_benching_for_a_boards_gpu(board: Service, libraries: dict[str, Path], tmp_path: Path) -> None:
    """The whole way, in the program itself: exit code 11, and nothing is left behind. A processor's file is named."""
    text = (package_folder("targets") / "gpu.toml").read_text(encoding="utf-8")
    (tmp_path / "board.toml").write_text(text.replace('connection = "local"', 'connection = "rpc"'), encoding="utf-8")
    there = [
        "--target",
        "board",
        "--targets-dir",
        str(tmp_path),
        "--profiles-dir",
        str(tmp_path / "profiles"),
        "--device",
        board.address,
        "--key",
        KEY,
        "--json",
    ]
    source, out = libraries["small.onnx"], tmp_path / "out"
    code, told = _hwautoml("compile", str(source), "--precision", "fp16", "--out", str(out), *there)
    assert (code, out.exists()) == (11, False) and "the board's TVM finds none" in told
    code, told = _hwautoml("bench", str(source), "--budget", "5s", *there)
    assert code == 11 and "the board's TVM finds none" in told
    code, told = _hwautoml("bench", str(source), "--runtime", "onnxruntime", *there)
    assert code == 2 and "unknown runtime of target board 'onnxruntime'" in told


def _hwautoml(*words: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-m", "hwautoml.cli", *words], capture_output=True, text=True, check=False)
    error = json.loads(done.stdout)["error"] if done.stdout.strip() else done.stderr
    return done.returncode, json.dumps(error) + done.stderr
