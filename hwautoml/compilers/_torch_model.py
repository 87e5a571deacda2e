"""Networks that torch runs in this process, on the CPU or a CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hwautoml.compilers.base import CudaRun, checked_input, first_line
from hwautoml.errors import InvalidValueError, MissingDependencyError

if TYPE_CHECKING:
    import torch


_NUM_WARM_UPS = 3


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

    @property
    def device(self) -> str:
        return self.description.device.partition(":")[0]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The output for ``x``."""
        import torch

        with torch.inference_mode():
            result = self.function(self._tensor(x)).cpu()
        return (result.float() if result.dtype == torch.bfloat16 else result).numpy()  # numpy has no bfloat16

    def bind(self, x: np.ndarray) -> Callable[[], None]:
        """Runs on ``x``, which is converted (and copied to the device) once.

        On a CUDA device it is a `CudaRun`: captured as a CUDA graph where it can be, and over when its result is
        there, as it is for whoever waits for one answer.
        """
        import torch

        tensor, function = self._tensor(x), self.function

        def run() -> None:
            with torch.inference_mode():
                function(tensor)

        return run if self.device == "cpu" else captured(run)

    def _tensor(self, x: np.ndarray) -> torch.Tensor:
        import torch

        array = checked_input(self, x)
        if self.input_dtype == "bfloat16":  # ml_dtypes', which numpy knows and torch does not
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(self.description.device)
        return torch.from_numpy(array).to(self.description.device)


def captured(run: Callable[[], object]) -> CudaRun:
    """What ``run`` launches as one CUDA graph, where it can be captured. Not run on a GPU so far.

    Warmed up on a stream of its own first, as torch's documentation of CUDA graphs has it.
    """
    import torch

    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    try:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_NUM_WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            run()
    except RuntimeError as error:
        return CudaRun(run, torch.cuda.synchronize, first_line(error))
    return CudaRun(graph.replay, torch.cuda.synchronize, None)


def require_device(device: str) -> None:
    """Raises MissingDependencyError where torch cannot reach the device."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise MissingDependencyError(
            "torch finds no CUDA device here", fix="install a driver and a CUDA build of torch, see https://pytorch.org"
        )


def start_torch(num_threads: int) -> None:
    """Imports torch; the number of threads is the whole process's, as torch has it."""
    import ml_dtypes  # noqa: F401  # from here on numpy knows bfloat16 by its name
    import torch

    if num_threads < 1:
        raise InvalidValueError(f"num_threads must be at least 1, but got {num_threads}")
    torch.set_num_threads(num_threads)
