"""What the schedules need to know of a CPU: how wide its vectors are and how many it has."""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm.target import codegen


@dataclass(frozen=True)
class VectorUnit:
    """``lanes``: float32 numbers in a vector register; ``num_registers``: of them, in the CPU."""

    lanes: int
    num_registers: int

    @property
    def num_accumulators(self) -> int:
        """Registers a tile may fill with partial sums; the rest hold weights and inputs."""
        return self.num_registers - 4


def vector_unit(target: tvm.target.Target) -> VectorUnit:
    """The vector unit of an LLVM target, read from its features, never from a list of names."""
    if _is_x86(target):
        if codegen.target_has_features("avx512f", target):
            return VectorUnit(lanes=16, num_registers=32)
        if codegen.target_has_features("avx2", target):
            return VectorUnit(lanes=8, num_registers=16)
        return VectorUnit(lanes=4, num_registers=16)
    return VectorUnit(lanes=4, num_registers=32)


def _is_x86(target: tvm.target.Target) -> bool:
    triple = str(target.attrs.get("mtriple") or codegen.llvm_get_system_triple())
    return triple.startswith(("x86_64", "i386", "i686"))
