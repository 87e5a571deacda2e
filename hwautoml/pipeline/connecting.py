"""The way from a target to the device that measures it: this machine, a board by address, a board behind a tracker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hwautoml.core.target import Target
from hwautoml.devices.local import LocalDevice
from hwautoml.devices.machine import cuda_device
from hwautoml.errors import InvalidValueError, MeasurementError, TargetUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from hwautoml.compilers._tvm_request import BoardRoute
    from hwautoml.devices.board_pool import BoardPool
    from hwautoml.devices.rpc import RpcDevice


def device_for(
    target: Target,
    runtime: str,
    *,
    device: str | None = None,
    tracker: str | None = None,
    key: str | None = None,
    threads: int | None = None,
    all_boards: bool = False,
) -> LocalDevice | RpcDevice | BoardPool:
    """What measures ``target`` through ``runtime``; both kinds have the same methods (docs/devices.md).

    ``device`` is a board's ``host:port`` with its agent's ``key``; ``tracker`` is a tracker's, and ``key`` the name
    that boards registered under. Neither: this machine. ``threads`` is the target's number where it is not given.
    Nothing is connected before the first measurement. ``all_boards``: whatever boards of the tracker are free measure
    at the same time, for many networks that need not be compared closely.

    Raises:
        InvalidValueError: the options contradict each other, an address is malformed, too many threads, or a runtime
            that would run on the processor of a board whose target is its GPU.
        TargetUnavailableError: the target is not this machine, and no board is named.
    """
    num_threads = target.num_threads if threads is None else threads
    require_reachable(target, device=device, tracker=tracker, key=key)
    if device is None and tracker is None:
        return LocalDevice(runtime, num_threads=num_threads)
    from hwautoml.devices.board_pool import BoardPool
    from hwautoml.devices.rpc import RpcDevice

    if target.is_cuda and runtime == "onnxruntime":
        raise InvalidValueError(
            f"target {target.name} is a GPU, and ONNX Runtime on a board runs on its processor", fix="--runtime tvm"
        )
    if all_boards and tracker is not None:
        return BoardPool(tracker, key=key or "", num_threads=num_threads, runtime=runtime)
    return RpcDevice(
        device or tracker or "", key=key or "", is_tracker=tracker is not None, num_threads=num_threads, runtime=runtime
    )


def onnxruntime_outputs(path: Path, inputs: np.ndarray) -> np.ndarray:
    """(n, ...) for inputs (n, ...): of an ONNX file in a process of its own on this machine."""
    with LocalDevice("onnxruntime") as device:
        return device.run_model(path, inputs)


def require_reachable(
    target: Target, *, device: str | None = None, tracker: str | None = None, key: str | None = None
) -> None:
    """Raises as ``device_for`` does."""
    if device is not None and tracker is not None:
        raise InvalidValueError(f"--device {device} and --tracker {tracker} exclude each other", fix="name one of them")
    if tracker is not None and not key:
        raise InvalidValueError(
            f"the tracker at {tracker} hands boards out by key, and none was given", fix=f"--key {target.name}"
        )
    if key and device is None and tracker is None:
        raise InvalidValueError(f"--key {key} belongs to --device or --tracker", fix="--device host:port")
    reason = unavailable_reason(target, device=device, tracker=tracker)
    if reason is not None:
        raise TargetUnavailableError(
            reason,
            fix=f"--device host:port or --tracker host:port --key {target.name} (docs/devices.md); without a "
            f"connection hwautoml tables export DIR --target {target.name} lets you measure by hand, and "
            f"hwautoml search --run RUN --target {target.name} works with estimated latencies",
        )


def board_route(
    target: Target, *, device: str | None, tracker: str | None, key: str | None, to_tune: bool = True
) -> BoardRoute | None:
    """The way to a board that answers, for TVM to time candidates on and to know whose records to look up.

    None where no board is named; an emulated one has no records, and is None unless it is ``to_tune`` on.

    Raises:
        TargetUnavailableError: it does not answer, or is busy.
        MeasurementError: it is emulated, and ``to_tune`` on.
    """
    from hwautoml.compilers._tvm_request import BoardRoute
    from hwautoml.devices.rpc import RpcDevice

    if device is None and tracker is None:
        return None
    with device_for(target, "tvm", device=device, tracker=tracker, key=key) as opened:
        assert isinstance(opened, RpcDevice)
        conditions, route = opened.conditions(), opened.route
    if conditions.get("emulator") is not None and not to_tune:
        return None
    require_real(conditions)
    return BoardRoute(route.address.host, route.address.port, route.key, route.is_tracker, str(conditions["cpu"]))


def require_real(conditions: Mapping[str, object]) -> None:
    """Raises MeasurementError for an emulated device: its times must never pass for a device's."""
    emulator = conditions.get("emulator")
    if emulator is not None:
        raise MeasurementError(
            f"the device is emulated ({emulator}): its times say nothing about the real one and enter no latency table",
            fix="measure (or tune) on the device itself, or estimate: hwautoml tables estimate",
        )


def unavailable_reason(target: Target, *, device: str | None = None, tracker: str | None = None) -> str | None:
    """Why code cannot be run on the target from this machine; None where it can."""
    if device is not None or tracker is not None:
        return None
    if target.connection != "local":
        return f"{target.name} is reached over the network, and no board is named"
    if target.is_cuda and cuda_device() is None:
        return f"{target.name} is an NVIDIA GPU, and this machine has none that NVIDIA's driver finds (see nvidia-smi)"
    return None
