"""A TVM worker for all tests that are not about workers: importing TVM takes each a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

from hwautoml.compilers import load_backend
from hwautoml.compilers.base import CompiledModel
from hwautoml.compilers.tvm import CompilerPool
from hwautoml.core.target import Target
from hwautoml.testing.runtimes import this_machine

#: This machine's processor, one thread.
HOST = this_machine()


def target_for(tvm: Mapping[str, object], num_threads: int = 1) -> Target:
    """A device that TVM compiles for so."""
    return replace(HOST, tvm=tvm, num_threads=num_threads)


CUDA = target_for({"kind": "cuda"})


@cache
def compiler() -> CompilerPool:
    """It ends with this process."""
    return CompilerPool()


def compile_of(backend: str) -> Callable[..., CompiledModel]:
    """The backend's ``compile``, for TVM in the shared worker."""
    return compiler().compile if backend == "tvm" else load_backend(backend).compile
