from __future__ import annotations

import pytest

from hwautoml.core.board import Board
from hwautoml.core.resources import target_folders
from hwautoml.core.target import Target, load_target
from hwautoml.devices.local import LocalDevice
from hwautoml.devices.machine import cuda_device
from hwautoml.devices.rpc import RpcDevice
from hwautoml.errors import InvalidValueError, TargetUnavailableError
from hwautoml.pipeline.connecting import device_for, unavailable_reason


@pytest.fixture
def rpi4() -> Target:
    return load_target("rpi4", target_folders())


def test_a_local_target_is_this_machine(cpu: Target) -> None:
    with device_for(cpu, "onnxruntime") as device:
        assert isinstance(device, LocalDevice)
        assert (device.runtime, device.num_threads) == ("onnxruntime", cpu.num_threads)


def test_a_board_is_reached_by_address_or_through_a_tracker(rpi4: Target) -> None:
    """Nothing is connected yet, so nothing needs to listen."""
    with device_for(rpi4, "tvm", Board("10.0.0.7:9090", key="secret"), threads=2) as board:
        assert isinstance(board, RpcDevice)
        assert (str(board.route.address), board.route.key, board.route.is_tracker) == ("10.0.0.7:9090", "secret", False)
        assert board.num_threads == 2
    with device_for(rpi4, "tvm", Board(tracker="10.0.0.1:9190", key="rpi4")) as board:
        assert isinstance(board, RpcDevice) and board.route.is_tracker
        assert board.num_threads == rpi4.num_threads


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "a:1", "tracker": "b:2", "key": "k"}, "exclude each other"),
        ({"tracker": "b:2"}, "fix: --key rpi4"),
        ({"key": "k"}, "--key belongs to --device or --tracker"),
        ({"device": "no-port"}, "an address is host:port"),
        ({"device": "a:1", "runtime": "torch"}, "fix: --runtime tvm"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(rpi4: Target, options: dict, message: str) -> None:
    runtime = options.pop("runtime", "tvm")
    with pytest.raises(InvalidValueError, match=message):
        device_for(rpi4, runtime, Board(**options))


def test_a_gpu_target_never_falls_back_to_the_processor() -> None:
    gpu, jetson = (load_target(name, target_folders()) for name in ("gpu", "jetson-orin-nano"))
    for target in (gpu, jetson):
        assert "onnxruntime" not in target.runtimes
        with pytest.raises(InvalidValueError, match="is a GPU, and onnxruntime on a board runs on its processor"):
            device_for(target, "onnxruntime", Board("10.0.0.7:9090", key="k"))
        with device_for(target, "tvm", Board("10.0.0.7:9090", key="k")) as board:
            assert isinstance(board, RpcDevice)
    if cuda_device() is None:
        assert unavailable_reason(gpu) == (
            "gpu is an NVIDIA GPU, and this machine has none that NVIDIA's driver finds (see nvidia-smi)"
        )
        with pytest.raises(TargetUnavailableError, match="NVIDIA's driver"):
            device_for(gpu, "tvm")


def test_a_board_without_an_address_is_out_of_reach(rpi4: Target) -> None:
    with pytest.raises(TargetUnavailableError, match="no board is named\n  fix: --device host:port"):
        device_for(rpi4, "tvm")
    assert unavailable_reason(rpi4, Board("10.0.0.7:9090")) is None
