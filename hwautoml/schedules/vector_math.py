"""Transcendental functions that a compiler can vectorise (libm calls stay scalar)."""

from __future__ import annotations

from collections.abc import Callable

from tvm import te, tirx, topi

#: Coefficients of Cephes' single-precision expf, highest power first.
_EXP_POLYNOMIAL = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
_LOG2_E = 1.44269504088896341
#: ln 2 in two parts: the first is exact in float32, so the range reduction loses no digits.
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_EXP_LOWEST, _EXP_HIGHEST = -87.3, 88.3762626647950


def exp(x: tirx.PrimExpr) -> tirx.PrimExpr:
    """e**x for float32, within about 2 units in the last place, clamped to finite results."""
    clamped = tirx.max(tirx.min(x, _float(_EXP_HIGHEST)), _float(_EXP_LOWEST))
    return _bound(clamped, "x", _exp_of_clamped)


def _exp_of_clamped(x: tirx.PrimExpr) -> tirx.PrimExpr:
    """2**n * e**rest, with n = round(x / ln 2)."""
    exponent = tirx.floor(x * _float(_LOG2_E) + _float(0.5))
    return _bound(exponent, "exponent", lambda n: _exp_of_rest(x, n))


def _exp_of_rest(x: tirx.PrimExpr, exponent: tirx.PrimExpr) -> tirx.PrimExpr:
    bits = (tirx.Cast("int32", exponent) + tirx.const(127, "int32")) << tirx.const(23, "int32")
    power_of_two = tirx.reinterpret("float32", bits)
    rest = x - exponent * _float(_LN2_HIGH) - exponent * _float(_LN2_LOW)

    def series(rest: tirx.PrimExpr) -> tirx.PrimExpr:
        total = _float(_EXP_POLYNOMIAL[0])
        for coefficient in _EXP_POLYNOMIAL[1:]:
            total = total * rest + _float(coefficient)
        return (total * rest * rest + rest + _float(1.0)) * power_of_two

    return _bound(rest, "rest", series)


def _bound(value: tirx.PrimExpr, name: str, body: Callable[[tirx.PrimExpr], tirx.PrimExpr]) -> tirx.PrimExpr:
    """``body`` of a variable bound to ``value``: written out, the expression would explode."""
    variable = tirx.Var(name, "float32")
    return tirx.Let(variable, value, body(variable))


def sigmoid(x: tirx.PrimExpr) -> tirx.PrimExpr:
    """1 / (1 + e**-x) for float32."""
    return _float(1.0) / (_float(1.0) + exp(-x))


def elementwise_exp(data: te.Tensor) -> te.Tensor:
    """`exp` of every element."""
    return te.compute(data.shape, lambda *index: exp(data(*index)), name="vector_exp")


def elementwise_sigmoid(data: te.Tensor) -> te.Tensor:
    """`sigmoid` of every element."""
    return te.compute(data.shape, lambda *index: sigmoid(data(*index)), name="vector_sigmoid")


def elementwise_silu(data: te.Tensor) -> te.Tensor:
    """x * sigmoid(x) of every element."""
    return te.compute(data.shape, lambda *index: data(*index) * sigmoid(data(*index)), name="vector_silu")


def elementwise_gelu(data: te.Tensor) -> te.Tensor:
    """x times the normal distribution's cumulative probability of x (Hendrycks & Gimpel 2016)."""
    scaled = te.compute(data.shape, lambda *index: data(*index) * _float(0.5**0.5), name="scaled")
    error = topi.fast_erf(scaled)
    return te.compute(
        data.shape,
        lambda *index: data(*index) * _float(0.5) * (_float(1.0) + error(*index)),
        name="vector_gelu",
    )


def _float(value: float) -> tirx.PrimExpr:
    return tirx.const(value, "float32")
