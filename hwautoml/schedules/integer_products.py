"""The vector instructions that quantised products are made of: integers times integers, summed by twos or fours.

Twos are of int16, fours of bytes; sums are int32. Data is read once for all lanes, weights lie side by side.
"""

# TVMScript: annotations are TVM's types, and its decorators read the source.
# mypy: disable-error-code="valid-type, untyped-decorator"

from __future__ import annotations

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

from hwautoml.schedules.vector_unit import VectorUnit

_NAMES = {2: "pairs", 4: "fours", 8: "eights"}


def product_of_integers(unit: VectorUnit, lanes: int, together: int) -> str:
    """The name of a registered `TensorIntrin` that adds to ``lanes`` sums ``together`` products (2, 4 or 8) each."""
    instruction = dict(unit.pair_products if together == 2 else unit.byte_products)[lanes]
    name = intrinsic_name(instruction, together)
    if TensorIntrin.get(name, allow_missing=True) is None:
        if together == 2:
            description, instructions = described(lanes, 2, "int16", "int16"), _of_pairs(lanes, instruction)
        elif together == 4:
            description = described(lanes, 4, unit.byte_dtype, "int8")
            instructions = _of_fours(lanes, unit.byte_dtype, instruction)
        else:
            description, instructions = described_eights(lanes), _of_eights(lanes, instruction)
        TensorIntrin.register(name, description, instructions)
    return name


def intrinsic_name(instruction: str, together: int) -> str:
    """What `product_of_integers` looks for."""
    return f"hwautoml.{_NAMES[together]}.{instruction}"


def described(lanes: int, together: int, dtype: str, weights_dtype: str) -> object:
    """What one instruction computes."""

    @T.prim_func(s_tir=True)
    def description(
        data: T.Buffer((together,), dtype, offset_factor=1),
        weights: T.Buffer((lanes, together), weights_dtype, offset_factor=1),
        sums: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(sums[0:lanes], data[0:together], weights[0:lanes, 0:together])
            T.writes(sums[0:lanes])
            for i in T.serial(0, lanes):
                for k in T.serial(0, together):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        sums[vi] = sums[vi] + T.cast(data[vk], "int32") * T.cast(weights[vi, vk], "int32")

    return description


def described_eights(lanes: int) -> object:
    """What two instructions compute, of which the second one takes the other four numbers."""

    @T.prim_func(s_tir=True)
    def description(
        data: T.Buffer((8,), "int8", offset_factor=1),
        weights: T.Buffer((2, lanes, 4), "int8", offset_factor=1),
        sums: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(sums[0:lanes], data[0:8], weights[0:2, 0:lanes, 0:4])
            T.writes(sums[0:lanes])
            for i in T.serial(0, lanes):
                for j in T.serial(0, 2):
                    for k in T.serial(0, 4):
                        with T.sblock("update"):
                            vi, vj, vk = T.axis.remap("SRR", [i, j, k])
                            sums[vi] = sums[vi] + T.cast(data[vj * 4 + vk], "int32") * T.cast(
                                weights[vj, vi, vk], "int32"
                            )

    return description


def _of_pairs(lanes: int, instruction: str) -> object:
    both, many = f"int16x{2 * lanes}", f"int32x{lanes}"

    @T.prim_func(s_tir=True)
    def one_instruction(
        pair: T.Buffer((2,), "int16", offset_factor=1),
        pairs: T.Buffer((lanes, 2), "int16", offset_factor=1),
        sums: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(sums[0:lanes], pair[0:2], pairs[0:lanes, 0:2])
            T.writes(sums[0:lanes])
            sums[T.ramp(T.int32(0), 1, lanes)] = sums.vload([0], dtype=many) + T.call_llvm_pure_intrin(
                T.llvm_lookup_intrinsic_id(instruction),
                T.reinterpret(T.broadcast(T.reinterpret(pair.vload([0], "int16x2"), dtype="int32"), lanes), dtype=both),
                pairs.vload([0, 0], dtype=both),
                dtype=many,
            )

    return one_instruction


def _of_fours(lanes: int, dtype: str, instruction: str) -> object:
    four, all_data, all_weights, many = f"{dtype}x4", f"{dtype}x{4 * lanes}", f"int8x{4 * lanes}", f"int32x{lanes}"

    @T.prim_func(s_tir=True)
    def one_instruction(
        data: T.Buffer((4,), dtype, offset_factor=1),
        weights: T.Buffer((lanes, 4), "int8", offset_factor=1),
        sums: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(sums[0:lanes], data[0:4], weights[0:lanes, 0:4])
            T.writes(sums[0:lanes])
            sums[T.ramp(T.int32(0), 1, lanes)] = T.call_llvm_pure_intrin(
                T.llvm_lookup_intrinsic_id(instruction),
                sums.vload([0], dtype=many),
                T.reinterpret(T.broadcast(T.reinterpret(data.vload([0], four), dtype="int32"), lanes), dtype=all_data),
                weights.vload([0, 0], dtype=all_weights),
                dtype=many,
            )

    return one_instruction


def _of_eights(lanes: int, instruction: str) -> object:
    """As `_of_fours`, with data in one register, of which LLVM makes the instructions' operand."""
    all_data, all_weights, many = f"int8x{4 * lanes}", f"int8x{4 * lanes}", f"int32x{lanes}"

    @T.prim_func(s_tir=True)
    def two_instructions(
        data: T.Buffer((8,), "int8", offset_factor=1),
        weights: T.Buffer((2, lanes, 4), "int8", offset_factor=1),
        sums: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(sums[0:lanes], data[0:8], weights[0:2, 0:lanes, 0:4])
            T.writes(sums[0:lanes])
            fours = T.reinterpret(data.vload([0], "int8x8"), dtype="int32x2")
            sums[T.ramp(T.int32(0), 1, lanes)] = T.call_llvm_pure_intrin(
                T.llvm_lookup_intrinsic_id(instruction),
                T.call_llvm_pure_intrin(
                    T.llvm_lookup_intrinsic_id(instruction),
                    sums.vload([0], dtype=many),
                    weights.vload([0, 0, 0], dtype=all_weights),
                    T.reinterpret(T.broadcast(T.Shuffle([fours], [0]), lanes), dtype=all_data),
                    dtype=many,
                ),
                weights.vload([1, 0, 0], dtype=all_weights),
                T.reinterpret(T.broadcast(T.Shuffle([fours], [1]), lanes), dtype=all_data),
                dtype=many,
            )

    return two_instructions
