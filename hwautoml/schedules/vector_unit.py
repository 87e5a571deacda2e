"""What the schedules need to know of a CPU: how wide its vectors are and how many it has."""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm.target import codegen


@dataclass(frozen=True)
class VectorUnit:
    """``lanes``: float32 numbers in a vector register; ``num_registers``: of them, in the CPU.

    ``pair_products``: LLVM's intrinsics, by lanes, that multiply twice as many int16 and sum them by twos.
    """

    lanes: int
    num_registers: int
    pair_products: tuple[tuple[int, str], ...] = ()

    @property
    def num_accumulators(self) -> int:
        """Registers a tile may fill with partial sums; the rest hold weights and inputs."""
        return self.num_registers - 4


_X86_PAIR_PRODUCTS = (
    (4, "llvm.x86.sse2.pmadd.wd"), (8, "llvm.x86.avx2.pmadd.wd"), (16, "llvm.x86.avx512.pmaddw.d.512"),
)  # fmt: skip


def vector_unit(target: tvm.target.Target) -> VectorUnit:
    """The vector unit of an LLVM target, read from its features, never from a list of names."""
    architecture = _architecture(target)
    if architecture in ("x86_64", "i386", "i686"):
        if codegen.target_has_features("avx512f", target):
            num_products = 3 if codegen.target_has_features("avx512bw", target) else 2
            return VectorUnit(lanes=16, num_registers=32, pair_products=_X86_PAIR_PRODUCTS[:num_products])
        if codegen.target_has_features("avx2", target):
            return VectorUnit(lanes=8, num_registers=16, pair_products=_X86_PAIR_PRODUCTS[:2])
        return VectorUnit(lanes=4, num_registers=16, pair_products=_X86_PAIR_PRODUCTS[:1])
    if architecture.startswith("riscv"):
        return _riscv_unit(target)
    if architecture.startswith("arm"):  # 32 bit: sixteen quad registers
        has_vectors = codegen.target_has_features("neon", target)
        return VectorUnit(lanes=4, num_registers=16 if has_vectors else _SCALAR_REGISTERS)
    return VectorUnit(lanes=4, num_registers=32)


#: Four scalar registers stand for one vector where there are none.
_SCALAR_REGISTERS = 8


def _riscv_unit(target: tvm.target.Target) -> VectorUnit:
    """The V extension promises 128 bits a register, or as many as a ``zvl...b`` extension says."""
    if not codegen.target_has_features("v", target):
        return VectorUnit(lanes=4, num_registers=_SCALAR_REGISTERS)
    bits = (512, 256)
    width = next((size for size in bits if codegen.target_has_features(f"zvl{size}b", target)), 128)
    return VectorUnit(lanes=width // 32, num_registers=32)


def _architecture(target: tvm.target.Target) -> str:
    triple = str(target.attrs.get("mtriple") or codegen.llvm_get_system_triple())
    return triple.split("-")[0]
