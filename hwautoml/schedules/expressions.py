"""Reading relax expressions: constants, shapes, which call something is."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax


def constant_array(expression: relax.Expr) -> np.ndarray | None:
    """The value of a constant tensor expression, or None."""
    value = getattr(expression, "value", None)
    return value.numpy() if isinstance(value, tvm.runtime.Tensor) else None


def static_shape(expression: relax.Expr) -> tuple[int, ...] | None:
    """The shape of a tensor expression, or None where it is not known at compile time."""
    shape = getattr(expression.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        return None
    if not all(hasattr(extent, "value") for extent in shape.values):
        return None
    return tuple(int(extent.value) for extent in shape.values)


def is_call(expression: relax.Expr, name: str) -> bool:
    """Whether the expression is a call of the operator ``name`` ("relax.add")."""
    operator = getattr(expression, "op", None)
    return isinstance(operator, tvm.ir.Op) and operator.name == name


def scalar(expression: relax.Expr) -> float:
    """The number in a constant, whichever of TVM's node kinds holds it."""
    array = constant_array(expression)
    if array is not None:
        return float(array.reshape(()))
    value = expression.value
    return float(getattr(value, "value", value))
