"""Tensor expressions of operators that reduce rows: softmax and layer normalisation over the last axis.

Rows are reduced in two steps, lane by lane and then over the lanes, so that the first is vectors
throughout; rows that vectors do not make up are reduced one number at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import te, tirx

from hwautoml.schedules.vector_math import exp

#: What the blocks of these expressions are called begins with this; see `row_reductions`.
PREFIX = "row_"

Element = Callable[..., tvm.ir.Expr]


def softmax(data: te.Tensor, lanes: int) -> te.Tensor:
    """Softmax along the last axis of a float32 tensor of any rank."""
    largest = _reduced(data.shape, lambda *index: data(*index), te.max, lanes, "largest")
    powers = te.compute(data.shape, lambda *index: exp(data(*index) - largest(*index[:-1])), name=f"{PREFIX}exp")
    total = _reduced(data.shape, lambda *index: powers(*index), te.sum, lanes, "total")
    return te.compute(data.shape, lambda *index: powers(*index) / total(*index[:-1]), name=f"{PREFIX}softmax")


def layer_norm(data: te.Tensor, scale: te.Tensor, shift: te.Tensor, epsilon: float, lanes: int) -> te.Tensor:
    """Layer normalisation (Ba et al. 2016) along the last axis of a float32 tensor of any rank."""
    columns = tirx.Cast("float32", data.shape[-1])
    total = _reduced(data.shape, lambda *index: data(*index), te.sum, lanes, "total")
    centred = te.compute(
        data.shape, lambda *index: data(*index) - total(*index[:-1]) / columns, name=f"{PREFIX}centred"
    )
    squares = _reduced(data.shape, lambda *index: centred(*index) * centred(*index), te.sum, lanes, "squares")
    one, smallest = tirx.const(1.0, "float32"), tirx.const(epsilon, "float32")
    factor = te.compute(
        data.shape[:-1],
        lambda *index: one / tirx.sqrt(squares(*index) / columns + smallest),
        name=f"{PREFIX}factor",
    )
    return te.compute(
        data.shape,
        lambda *index: centred(*index) * factor(*index[:-1]) * scale(index[-1]) + shift(index[-1]),
        name=f"{PREFIX}layer_norm",
    )


def _reduced(
    shape: tuple[tvm.ir.Expr, ...], element: Element, reducer: Callable[..., tvm.ir.Expr], lanes: int, name: str
) -> te.Tensor:
    """``element`` reduced over the last axis of ``shape``."""
    *outer, columns = shape
    size = getattr(columns, "value", 0)
    if not size or size % lanes or size == lanes:
        axis = te.reduce_axis((0, columns), "column")
        return te.compute(
            tuple(outer), lambda *index: reducer(element(*index, axis), axis=axis), name=f"{PREFIX}{name}"
        )
    part, lane = te.reduce_axis((0, size // lanes), "part"), te.reduce_axis((0, lanes), "lane")
    parts = te.compute(
        (*outer, lanes),
        lambda *index: reducer(element(*index[:-1], part * lanes + index[-1]), axis=part),
        name=f"{PREFIX}{name}_parts",
    )
    return te.compute(tuple(outer), lambda *index: reducer(parts(*index, lane), axis=lane), name=f"{PREFIX}{name}")
