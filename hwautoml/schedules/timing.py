"""Running single functions: what they take, on random arguments, in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import tvm
from tvm import relax


def time_us(function: tvm.tirx.PrimFunc, target: tvm.target.Target) -> float:
    """The shortest mean run time of a scheduled function, in microseconds, over a few repeats of 2 ms."""
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    library = tvm.compile(module, target=target).jit()
    arguments = random_arguments(function, np.random.default_rng(0))
    once = library.time_evaluator("main", tvm.cpu(), number=1, repeat=3)(*arguments)
    number = max(1, round(2e-3 / min(once.results)))
    timed = library.time_evaluator("main", tvm.cpu(), number=number, repeat=5)(*arguments)
    return float(min(timed.results) * 1e6)


def count_calls(module: tvm.IRModule) -> Counter[str]:
    """How often each low-level function is called by the module's graph functions."""
    calls: Counter[str] = Counter()

    def visit(expression: relax.Expr) -> None:
        if isinstance(expression, relax.Call):
            arguments: Iterable[relax.Expr] = expression.args
            calls.update(
                argument.name_hint
                for argument in arguments
                if isinstance(argument, tvm.ir.GlobalVar)
            )

    for function in module.functions.values():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, visit)
    return calls


def random_arguments(
    function: tvm.tirx.PrimFunc, generator: np.random.Generator
) -> list[tvm.runtime.Tensor]:
    """Tensors of the shapes and types of a function's parameters."""
    arguments = []
    for parameter in function.params:
        shape = [int(extent) for extent in parameter.shape]
        values = generator.random(shape, dtype="float32") - 0.5
        arguments.append(tvm.runtime.tensor((values * 4).astype(str(parameter.dtype))))
    return arguments
