"""A TVM worker for all tests that are not about workers: importing TVM takes each a second."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from hwautoml.compilers import load_backend
from hwautoml.compilers.base import CompiledModel
from hwautoml.compilers.tvm import CompilerPool


@cache
def compiler(num_threads: int = 1) -> CompilerPool:
    """It ends with this process."""
    return CompilerPool(num_threads=num_threads)


def compile_model_of(backend: str) -> Callable[..., CompiledModel]:
    """The backend's ``compile_model``, for TVM in the shared worker."""
    return compiler().compile_model if backend == "tvm" else load_backend(backend).compile_model
