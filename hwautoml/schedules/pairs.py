"""The vector instruction that quantised products are made of: int16 times int16, summed by twos to int32."""

from __future__ import annotations

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

from hwautoml.schedules.vector_unit import VectorUnit


def product_of_pairs(unit: VectorUnit, lanes: int) -> str:
    """The name of a registered `TensorIntrin` that adds to ``lanes`` sums the products of a pair with as many pairs."""
    instruction = dict(unit.pair_products)[lanes]
    name = f"hwautoml.pairs.{instruction}"
    if TensorIntrin.get(name, allow_missing=True) is None:
        TensorIntrin.register(name, _described(lanes), _in_one_instruction(lanes, instruction))
    return name


def _described(lanes: int) -> object:
    @T.prim_func(s_tir=True)
    def description(
        pair: T.Buffer((2,), "int16", offset_factor=1),
        pairs: T.Buffer((lanes, 2), "int16", offset_factor=1),
        sums: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(sums[0:lanes], pair[0:2], pairs[0:lanes, 0:2])
            T.writes(sums[0:lanes])
            for i in T.serial(0, lanes):
                for k in T.serial(0, 2):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        sums[vi] = sums[vi] + T.cast(pair[vk], "int32") * T.cast(pairs[vi, vk], "int32")

    return description


def _in_one_instruction(lanes: int, instruction: str) -> object:
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
