"""The way from a target to the device that measures it: this machine, a board by address, a board behind a tracker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hwautoml.compilers import board_runtimes, reference_runtime, traits_of
from hwautoml.compilers.base import BoardRoute
from hwautoml.core.board import HERE, Board
from hwautoml.core.target import Target
from hwautoml.devices.local import LocalDevice
from hwautoml.devices.machine import cuda_device
from hwautoml.errors import InvalidValueError, MeasurementError, TargetUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from hwautoml.devices.base import Device
    from hwautoml.devices.rpc import RpcDevice


def device_for(
    target: Target, runtime: str, board: Board = HERE, *, threads: int | None = None, all_boards: bool = False
) -> Device:
    """What measures ``target`` through ``runtime``: this machine, or the ``board`` that is named.

    ``threads`` is the target's number where it is not given. Nothing is connected before the first measurement.
    ``all_boards``: whatever boards of the tracker are free measure at the same time, for many networks that need not
    be compared closely.

    Raises:
        InvalidValueError: the board's fields contradict each other, an address is malformed, too many threads, or a
            runtime that would run on the processor of a board whose target is its GPU.
        TargetUnavailableError: the target is not this machine, and no board is named.
    """
    num_threads = target.num_threads if threads is None else threads
    require_reachable(target, board)
    if not board.is_remote:
        return LocalDevice(runtime, num_threads=num_threads)
    if all_boards and board.tracker is not None:
        from hwautoml.devices.board_pool import BoardPool

        _require_on_boards(target, runtime)
        return BoardPool(board.tracker, key=board.key or "", num_threads=num_threads, runtime=runtime)
    return _one_board(target, runtime, board, num_threads)


def _one_board(target: Target, runtime: str, board: Board, num_threads: int) -> RpcDevice:
    from hwautoml.devices.rpc import RpcDevice

    _require_on_boards(target, runtime)
    is_tracker = board.tracker is not None
    return RpcDevice(
        board.address, key=board.key or "", is_tracker=is_tracker, num_threads=num_threads, runtime=runtime
    )


def _require_on_boards(target: Target, runtime: str) -> None:
    if runtime in board_runtimes() and not traits_of(runtime).runs_on(target):
        raise InvalidValueError(
            f"target {target.name} is a GPU, and {runtime} on a board runs on its processor",
            fix=f"--runtime {board_runtimes()[0]}",
        )


def reference_outputs(path: Path, inputs: np.ndarray) -> np.ndarray:
    """(n, ...) for inputs (n, ...): of an ONNX file in a process of its own on this machine, by ONNX Runtime."""
    with LocalDevice(reference_runtime(".onnx")) as device:
        return device.run_model(path, inputs)


def require_reachable(target: Target, board: Board = HERE) -> None:
    """Raises as ``device_for`` does."""
    if board.device is not None and board.tracker is not None:
        raise InvalidValueError(
            f"--device {board.device} and --tracker {board.tracker} exclude each other", fix="name one of them"
        )
    if board.tracker is not None and not board.key:
        raise InvalidValueError(
            f"the tracker at {board.tracker} hands boards out by key, and none was given", fix=f"--key {target.name}"
        )
    if board.key and not board.is_remote:
        raise InvalidValueError("--key belongs to --device or --tracker", fix="--device host:port")
    reason = unavailable_reason(target, board)
    if reason is not None:
        raise TargetUnavailableError(
            reason,
            fix=f"--device host:port or --tracker host:port --key {target.name} (docs/devices.md); without a "
            f"connection hwautoml tables export DIR --target {target.name} lets you measure by hand, and "
            f"hwautoml search --run RUN --target {target.name} works with estimated latencies",
        )


def board_route(target: Target, board: Board, *, to_tune: bool = True) -> BoardRoute | None:
    """The way to a board that answers, for candidates to be timed there and to know whose records to look up.

    None where no board is named; an emulated one has no records, and is None unless it is ``to_tune`` on.

    Raises:
        TargetUnavailableError: it does not answer, or is busy.
        MeasurementError: it is emulated, and ``to_tune`` on.
    """
    if not board.is_remote:
        return None
    require_reachable(target, board)
    with _one_board(target, board_runtimes()[0], board, target.num_threads) as opened:
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


def unavailable_reason(target: Target, board: Board = HERE) -> str | None:
    """Why code cannot be run on the target from this machine; None where it can."""
    if board.is_remote:
        return None
    if target.connection != "local":
        return f"{target.name} is reached over the network, and no board is named"
    if target.is_cuda and cuda_device() is None:
        return f"{target.name} is an NVIDIA GPU, and this machine has none that NVIDIA's driver finds (see nvidia-smi)"
    return None
