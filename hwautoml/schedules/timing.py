"""Running single functions: what they take, on random arguments, in this process."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import tvm
from tvm import relax

from hwautoml.schedules.arena import PIPELINE, TIMED
from hwautoml.schedules.kernel import Kernel, is_static
from hwautoml.schedules.library import functions_of


class Timer(Protocol):
    """Where a tuner's candidates are timed."""

    def open(self, function: tvm.tirx.PrimFunc) -> Callable[[int], float]:
        """A scheduled function, built, on random arguments: the mean of so many runs, in seconds."""
        ...


class LocalTimer:
    """In this process."""

    def __init__(self, target: tvm.target.Target, seed: int = 0) -> None:
        self._target, self._generator = target, np.random.default_rng(seed)
        self._arguments: dict[tuple[object, ...], list[tvm.runtime.Tensor]] = {}

    def open(self, function: tvm.tirx.PrimFunc) -> Callable[[int], float]:
        module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
        library = tvm.compile(module, target=self._target, tir_pipeline=PIPELINE).jit()
        kind = tuple((tuple(map(int, p.shape)), str(p.dtype)) for p in function.params)
        if kind not in self._arguments:
            self._arguments[kind] = random_arguments(function, self._generator)
        arguments = self._arguments[kind]

        def seconds_per_run(number: int) -> float:
            timed = library.time_evaluator("main", tvm.cpu(), number=number, repeat=1)
            return float(timed(*arguments).results[0])

        return seconds_per_run


def time_us(function: tvm.tirx.PrimFunc, target: tvm.target.Target) -> float:
    """The shortest mean run time of a scheduled function, in microseconds, over a few repeats of 2 ms."""
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    library = tvm.compile(module, target=target, tir_pipeline=PIPELINE).jit()
    arguments = random_arguments(function, np.random.default_rng(0))
    once = library.time_evaluator("main", tvm.cpu(), number=1, repeat=3)(*arguments)
    number = max(1, round(2e-3 / min(once.results)))
    timed = library.time_evaluator("main", tvm.cpu(), number=number, repeat=5)(*arguments)
    return float(min(timed.results) * 1e6)


#: A scheduled function does several times as many steps per microsecond, a plain loop nest fewer:
#: with a reduction, and without one (copies that gather single numbers are slow whatever one does).
_FEWEST_STEPS_PER_US, _FEWEST_COPIES_PER_US = 2_000.0, 100.0
#: What timing from Python, and a busy machine, may add.
_SLACK_US = 200.0


def slow_functions(
    library: Path, module: tvm.IRModule, names: Sequence[str], input_shape: Sequence[int], input_dtype: str
) -> dict[str, float]:
    """Functions of a built model that take far longer than their work explains, with microseconds.

    ``module`` is what the model was scheduled from, ``names`` the functions that it calls one after the other, if
    it was assembled (`arena.in_one_arena`). Attributes say what a function was meant to be; this runs the model a few
    times and looks at what it is.
    """
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    x = tvm.runtime.tensor(np.zeros(input_shape, input_dtype))
    runs = [_timed_calls(machine, names, x) if names else _timed_instructions(machine, x) for _ in range(3)]
    fastest: dict[str, float] = {}
    for name, taken_us in (call for calls in runs for call in calls):
        fastest[name] = min(taken_us, fastest.get(name, math.inf))
    return {
        name: fastest[name]
        for name, function in functions_of(module).items()
        # Of a function that is not static, nobody knows how much work it is.
        if fastest.get(name, 0.0) > _SLACK_US
        and is_static(function)
        and fastest[name] > _SLACK_US + _allowed_us(function)
    }


def _timed_calls(machine: relax.VirtualMachine, names: Sequence[str], x: tvm.runtime.Tensor) -> list[tuple[str, float]]:
    return list(zip(names, np.diff(machine[TIMED](x).numpy()).tolist(), strict=True))


def _timed_instructions(machine: relax.VirtualMachine, x: tvm.runtime.Tensor) -> list[tuple[str, float]]:
    calls: list[tuple[str, float]] = []
    started: list[float] = []

    def instrument(_: object, name: str, before_run: bool, *__: object) -> int:
        if before_run:
            started[:] = [time.perf_counter()]
        elif started:
            calls.append((name, (time.perf_counter() - started[0]) * 1e6))
        return 0

    machine.set_instrument(instrument)
    machine["main"](x)
    return calls


def _allowed_us(function: tvm.tirx.PrimFunc) -> float:
    kernel = Kernel(function)
    return kernel.num_steps / (_FEWEST_STEPS_PER_US if kernel.reductions else _FEWEST_COPIES_PER_US)


def count_calls(module: tvm.IRModule) -> Counter[str]:
    """How often each low-level function is called by the module's graph functions."""
    calls: Counter[str] = Counter()

    def visit(expression: relax.Expr) -> None:
        if isinstance(expression, relax.Call):
            arguments: Iterable[relax.Expr] = expression.args
            calls.update(argument.name_hint for argument in arguments if isinstance(argument, tvm.ir.GlobalVar))

    for function in module.functions.values():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, visit)
    return calls


def random_arguments(function: tvm.tirx.PrimFunc, generator: np.random.Generator) -> list[tvm.runtime.Tensor]:
    """Tensors of the shapes and types of a function's parameters."""
    arguments = []
    for parameter in function.params:
        shape = [int(extent) for extent in parameter.shape]
        values = generator.random(shape, dtype="float32") - 0.5
        arguments.append(tvm.runtime.tensor((values * 4).astype(str(parameter.dtype))))
    return arguments
