"""What the schedules need to know of a CPU: how wide its vectors are and how many it has."""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm.target import codegen


@dataclass(frozen=True)
class VectorUnit:
    """``lanes``: float32 numbers in a vector register; ``num_registers``: of them, in the CPU.

    ``pair_products``: LLVM's intrinsics, by lanes, that multiply twice as many int16 and sum them by twos.
    ``byte_products``: those that multiply four times as many bytes, of ``byte_dtype`` with int8, and sum them by fours;
    data for ``num_fours`` of them, one after another, is read into one register.
    ``num_spare``: registers that LLVM wants besides a tile's sums once steps are unrolled, or it moves them around.
    """

    lanes: int
    num_registers: int
    pair_products: tuple[tuple[int, str], ...] = ()
    byte_products: tuple[tuple[int, str], ...] = ()
    byte_dtype: str = "int8"
    num_fours: int = 1
    num_spare: int = 0

    @property
    def num_accumulators(self) -> int:
        """Registers a tile may fill with partial sums; the rest hold weights and inputs."""
        return self.num_registers - 4


_X86_PAIR_PRODUCTS = (
    (4, "llvm.x86.sse2.pmadd.wd"),
    (8, "llvm.x86.avx2.pmadd.wd"),
    (16, "llvm.x86.avx512.pmaddw.d.512"),
)

_X86_BYTE_PRODUCTS = tuple((bits // 32, f"llvm.x86.avx512.vpdpbusd.{bits}") for bits in (128, 256, 512))
_ARM_BYTE_PRODUCTS = ((4, "llvm.aarch64.neon.sdot.v4i32.v16i8"),)


def vector_unit(target: tvm.target.Target) -> VectorUnit:
    """The vector unit of an LLVM target, read from its features, never from a list of names."""
    architecture = _architecture(target)
    if architecture in ("x86_64", "i386", "i686"):
        return _x86_unit(target)
    if architecture.startswith("riscv"):
        return _riscv_unit(target)
    if architecture.startswith("arm"):  # 32 bit: sixteen quad registers
        has_vectors = codegen.target_has_features("neon", target)
        return VectorUnit(lanes=4, num_registers=16 if has_vectors else _SCALAR_REGISTERS)
    # A factor can be taken from any place in a register; a load that repeats it would keep a multiplier busy. So each
    # pixel has a register of its own for its inputs: of some 50 tilings looked at, those with up to 22 sums were free
    # of moves and nearly of spills, and those with more were not.
    if architecture == "aarch64" and codegen.target_has_features("dotprod", target):
        return VectorUnit(lanes=4, num_registers=32, byte_products=_ARM_BYTE_PRODUCTS, num_fours=2, num_spare=10)
    return VectorUnit(lanes=4, num_registers=32, num_spare=10)


def _x86_unit(target: tvm.target.Target) -> VectorUnit:
    """AVX-512, AVX2 or SSE2; the products of bytes came with AVX-512 VNNI, and to AVX2 with AVX-VNNI."""

    def has(*features: str) -> bool:
        return all(codegen.target_has_features(feature, target) for feature in features)

    short = _X86_BYTE_PRODUCTS[:2] if has("avxvnni") or has("avx512vnni", "avx512vl") else ()
    if has("avx512f"):
        pairs = _X86_PAIR_PRODUCTS[: 3 if has("avx512bw") else 2]
        products = (*short, _X86_BYTE_PRODUCTS[2]) if has("avx512vnni") else short
        return VectorUnit(16, 32, pairs, products, byte_dtype="uint8")
    if has("avx2"):
        return VectorUnit(8, 16, _X86_PAIR_PRODUCTS[:2], short, byte_dtype="uint8")
    return VectorUnit(4, 16, _X86_PAIR_PRODUCTS[:1], byte_dtype="uint8")


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
