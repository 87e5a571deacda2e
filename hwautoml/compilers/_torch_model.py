"""Networks that torch runs in this process, on the CPU or a CUDA device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hwautoml.compilers.base import checked_input
from hwautoml.errors import InvalidValueError, MissingDependencyError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Description:
    """Of a network with one input and one output; travels in the artifact as JSON."""

    device: str
    input_name: str
    input_shape: tuple[int, ...]
    input_dtype: str
    output_shape: tuple[int, ...]


@dataclass(frozen=True)
class TorchModel:
    """``function`` maps a tensor on the description's device to one there."""

    function: Callable[[torch.Tensor], torch.Tensor]
    description: Description

    @property
    def input_name(self) -> str:
        return self.description.input_name

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.description.input_shape

    @property
    def input_dtype(self) -> str:
        return self.description.input_dtype

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.description.output_shape

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The output for ``x``."""
        import torch

        with torch.inference_mode():
            return self.function(self._tensor(x)).cpu().numpy()

    def bind(self, x: np.ndarray) -> Callable[[], None]:
        """Runs on ``x``, which is converted (and copied to the device) once.

        On a CUDA device a run is over when its result is there: it ends with a synchronisation, as it
        does for whoever waits for one answer.
        """
        import torch

        tensor, function = self._tensor(x), self.function
        if self.description.device == "cpu":

            def run() -> None:
                with torch.inference_mode():
                    function(tensor)

        else:

            def run() -> None:
                with torch.inference_mode():
                    function(tensor)
                torch.cuda.synchronize()

        return run

    def _tensor(self, x: np.ndarray) -> torch.Tensor:
        import torch

        return torch.from_numpy(checked_input(self, x)).to(self.description.device)


def device_of(tvm_target: Mapping[str, object]) -> str:
    """``cuda`` for the [tvm] table of a CUDA target, else ``cpu``."""
    return "cuda" if tvm_target.get("kind") == "cuda" else "cpu"


def require_device(device: str) -> None:
    """Raises MissingDependencyError where torch cannot reach the device."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise MissingDependencyError(
            "torch finds no CUDA device here", fix="install a driver and a CUDA build of torch, see https://pytorch.org"
        )


def set_num_threads(num_threads: int) -> None:
    """For the whole process, as torch has it."""
    import torch

    if num_threads < 1:
        raise InvalidValueError(f"num_threads must be at least 1, but got {num_threads}")
    torch.set_num_threads(num_threads)
