"""A whole network as one function whose buffers lie where it puts them.

TVM's virtual machine allocates every weight and every intermediate buffer on its own, and where they happen to lie
decides how fast the kernels are: a load that follows a store to an address equal modulo 4096 waits for it
("4K aliasing"), and the same library is up to 15 % slower in one process than in another. Here weights are one
constant, and intermediate buffers, with what kernels allocate inside, one workspace. Buffers in it start at different
positions modulo 1024, which rows of feature maps are often multiples of, and the workspace starts at a fixed distance
from the stack, where kernels spill registers. Inputs and results of more than a page are copied into it and out of it,
so that a layer that is measured alone has its buffers as far apart as in a network. Only the distance to the weights is
left to chance.

The virtual machine then has one call to make, which also saves what it takes per call (0.2 us).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.relax.backend.cpu_generic import pipeline

from hwautoml.schedules.fixed_vectors import with_fixed_vectors
from hwautoml.schedules.library import functions_of

TIMED = "timed"
_ALIGNMENT, _PAGE = 64, 4096
_STAGGER = 192  # from one buffer to the next; five of them differ modulo 1024, and modulo 4096 twenty do

#: What to lower scheduled functions with, one or an assembled module, by the name that TVM knows it by.
PIPELINE = "hwautoml"
_NOT_PACKED = -1
_OUT_OF_MEMORY = tvm.ir.StringImm("no memory left for a buffer inside a kernel")

Buffer: TypeAlias = tvm.ir.Var


@dataclass(frozen=True)
class _Place:
    """Where an argument of a kernel is: ``offset`` bytes into ``base``."""

    base: str  # "images", "weights", "workspace" or "result"
    offset: int = 0


@dataclass(frozen=True)
class _Network:
    """Kernels in order, each with the places of its arguments; ``weights`` (bytes,) uint8.

    A workspace has buffers between kernels and, behind them, room for what one kernel at a time needs inside.
    """

    calls: Sequence[tuple[tvm.ir.GlobalVar, tuple[_Place, ...]]]
    weights: np.ndarray
    workspace_bytes: int
    images: _Place
    result: _Place


def in_one_arena(module: tvm.IRModule, target: tvm.target.Target) -> tuple[tvm.IRModule, tuple[str, ...]]:
    """A scheduled module whose ``main`` is one kernel, and the names of what that calls, in order.

    ``timed`` is a second function, which takes the input and returns when each of them was reached and the last one
    left: (calls + 1,) int64, microseconds of processor time. A module whose graph is more than kernels called one
    after the other on static shapes stays as it is, and nothing is named.
    """
    planned = _planned(module, target)
    network = _read(planned["main"])
    if network is None:
        return module, ()
    names = tuple(kernel.name_hint for kernel, _ in network.calls)
    functions = {name: function for name, function in functions_of(module).items() if name in names}
    # A prefix, because nothing of this kind may be called ``exp`` or ``floor``.
    kernels = {name: tvm.ir.GlobalVar(f"kernel_{name}") for name in functions}
    whole = tvm.IRModule({kernels[name]: _internal(functions[name]) for name in functions}, attrs=module.attrs)
    inside = _Place("workspace", _rounded(network.workspace_bytes, _PAGE) + _PAGE // 2)
    network = _Network(
        calls=[(kernels[kernel.name_hint], (*places, inside)) for kernel, places in network.calls],
        weights=network.weights,
        workspace_bytes=inside.offset + max(map(_bytes_inside, functions.values())),
        images=network.images,
        result=network.result,
    )
    return _with_entries(whole, network, planned["main"]), names


def graph_passes(target: tvm.target.Target, *, is_whole: bool) -> tvm.transform.Pass:
    """What lowers the graph functions; ``is_whole`` after `in_one_arena` named something.

    Then there is no reshape left to look for, and TVM 0.27 would trip over a network that returns as much as it takes.
    """
    passes = [*pipeline.dataflow_lower_passes(target), *pipeline.finalize_passes(target)]
    return tvm.transform.Sequential(
        [step for step in passes if not (is_whole and step.info.name == "RewriteDataflowReshape")]
    )


def _planned(module: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """With its buffers assigned to storages that are used again once free."""
    passes = [*pipeline.dataflow_lower_passes(target), relax.transform.StaticPlanBlockMemory()]
    with target:
        return tvm.transform.Sequential(passes)(module)


class _Reader:
    """Follows a planned graph function; ``is_simple`` turns False at the first thing that is not understood."""

    def __init__(self, function: relax.Function) -> None:
        self.is_simple = True
        self.calls: list[tuple[tvm.ir.GlobalVar, tuple[_Place, ...]]] = []
        self._storages: dict[relax.Var, int] = {}
        self._blobs: list[np.ndarray] = []
        self._constants: dict[int, _Place] = {}
        self._num_weight_bytes = self._num_rooms = self.workspace_bytes = 0
        self.images = self._outside("images", function.params[0].ty)
        self.result = self._outside("result", function.ret_ty)
        self._num_results = 0
        self._places: dict[relax.Var, _Place] = {function.params[0]: self.images}
        for block in function.body.blocks:
            for binding in block.bindings:
                self._bind(binding.var, binding.value)
        self.is_simple &= self._places.get(function.body.body) == self.result

    def weights(self) -> np.ndarray:
        return np.concatenate([*self._blobs, np.zeros(_ALIGNMENT, np.uint8)])

    def _bind(self, variable: relax.Var, value: relax.Expr) -> None:
        name = str(getattr(getattr(value, "op", None), "name", ""))
        if isinstance(value, relax.Var):
            self._alias(variable, value)
        elif name == "relax.memory.alloc_storage":
            self._storages[variable] = self._room(int(value.args[0].values[0]))
        elif name == "relax.memory.alloc_tensor":
            self._places[variable] = _Place("workspace", self._storages[value.args[0]] + int(value.args[1]))
        elif name == "relax.builtin.alloc_tensor":
            self._num_results += 1
            self.is_simple &= self._num_results == 1
            self._places[variable] = self.result
        elif name in ("relax.reshape", "relax.vm.reshape"):
            self._alias(variable, value.args[0])
        elif isinstance(getattr(value, "op", None), tvm.ir.GlobalVar):
            places = [self._place(argument) for argument in value.args]
            self.is_simple &= None not in places
            self.calls.append((value.op, tuple(place for place in places if place is not None)))
        elif not name.startswith("relax.memory.kill_"):
            self.is_simple = False

    def _alias(self, variable: relax.Var, value: relax.Expr) -> None:
        place = self._places.get(value)
        self.is_simple &= place is not None
        if place is not None:
            self._places[variable] = place

    def _outside(self, base: str, tensor_type: tvm.ir.Type) -> _Place:
        num_bytes = math.prod(_shape(tensor_type)) * np.dtype(str(tensor_type.dtype)).itemsize
        return _Place(base) if num_bytes <= _PAGE else _Place("workspace", self._room(num_bytes))

    def _room(self, num_bytes: int) -> int:
        """The offset of the next buffer: on a page of its own, less what sets it apart from the others."""
        self._num_rooms += 1
        start = _rounded(self.workspace_bytes, _PAGE) + (_STAGGER * self._num_rooms) % _PAGE
        self.workspace_bytes = start + num_bytes
        return start

    def _place(self, argument: relax.Expr) -> _Place | None:
        if isinstance(argument, relax.Var):
            return self._places.get(argument)
        value = getattr(argument, "value", None)
        return self._constant(value) if isinstance(value, tvm.runtime.Tensor) else None

    def _constant(self, value: tvm.runtime.Tensor) -> _Place:
        key = int(value.data_ptr())  # equal for constants that share their memory; the module keeps it
        if key not in self._constants:
            blob = np.ascontiguousarray(value.numpy()).reshape(-1).view(np.uint8)
            self._constants[key] = _Place("weights", self._num_weight_bytes)
            padding = np.zeros(-len(blob) % _ALIGNMENT, np.uint8)
            self._blobs += [blob, padding]
            self._num_weight_bytes += len(blob) + len(padding)
        return self._constants[key]


def _read(function: relax.Function) -> _Network | None:
    """None where the graph is not simply one kernel after another."""
    outputs = function.ret_ty
    if len(function.params) != 1 or not all(map(_is_static, (function.params[0].ty, outputs))):
        return None
    reader = _Reader(function)
    if not reader.is_simple:
        return None
    room = max(reader.workspace_bytes, _ALIGNMENT)
    return _Network(reader.calls, reader.weights(), room, reader.images, reader.result)


def _is_static(tensor_type: tvm.ir.Type) -> bool:
    extents = getattr(getattr(tensor_type, "shape", None), "values", None)
    return extents is not None and all(isinstance(extent, tirx.IntImm) for extent in extents)


def _bytes_inside(function: tirx.PrimFunc) -> int:
    """Room for all buffers that a kernel allocates outside of its loops; lowering may make them smaller."""
    return sum(_room(buffer) for buffer in function.body.block.alloc_buffers if buffer.scope() == "global")


def _room(buffer: Buffer) -> int:
    """Bytes, in cache lines; 0 where the size is not known."""
    if not all(isinstance(extent, tirx.IntImm) for extent in buffer.shape):
        return 0
    scalar = np.dtype(str(buffer.dtype).partition("x")[0])
    lanes = int(str(buffer.dtype).partition("x")[2] or 1)
    return _rounded(math.prod(int(extent) for extent in buffer.shape) * lanes * scalar.itemsize, _ALIGNMENT)


def _internal(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The same function on bare pointers: called without packing and checking tensors. The last is the room inside."""
    root = function.body
    pointers = [tvm.ir.Var(f"{buffer.name}_data", buffer.data.ty) for buffer in function.params]
    declared = [tirx.DeclBuffer(buffer, data=data) for buffer, data in zip(function.params, pointers, strict=True)]
    pointers.append(tvm.ir.Var("inside", tvm.ir.PointerType(tvm.ir.PrimType("uint8"), "global")))
    block = root.block
    inner = tirx.SeqStmt([*declared, block.body])
    block = tvm.s_tir.SBlock(
        block.iter_vars,
        block.reads,
        block.writes,
        block.name_hint,
        inner,
        block.init,
        block.alloc_buffers,
        block.match_buffers,
        block.annotations,
    )
    body = tvm.s_tir.SBlockRealize(root.iter_values, root.predicate, block)
    attributes = {**(function.attrs or {}), "calling_conv": _NOT_PACKED}  # or it would be given a packed interface
    return tirx.PrimFunc(pointers, body, tvm.ir.PrimType("int32"), tvm.ir.make_node("ir.DictAttrs", **attributes))


def _lowering() -> tuple[Any, Any, Any]:
    """TVM's own, after which internal functions say where they allocate: packed ones learn that from their caller."""
    lower, *finalize = tirx.get_tir_pipeline("s_tir")
    lower = with_fixed_vectors(lower)

    def with_device(module: tvm.IRModule) -> tvm.IRModule:
        lowered = lower(module)
        for variable, function in lowered.functions.items():
            if function.attrs is not None and function.attrs.get("calling_conv") == _NOT_PACKED:
                body = _on_cpu(_Inside(function).body)
                lowered.update_func(variable, function.with_body(body))
        return lowered

    return with_device, *finalize


class _Inside:
    """A lowered kernel's ``body`` with what it allocates outside of its loops put into the room it was given."""

    def __init__(self, function: tirx.PrimFunc) -> None:
        self._room, self._used = _buffer("inside", [1], "uint8"), 0
        placed = self._placed(function.body)
        self.body = tirx.SeqStmt([tirx.DeclBuffer(self._room, data=function.params[-1]), placed])

    def _placed(self, statement: tirx.Stmt) -> tirx.Stmt:
        if isinstance(statement, tirx.SeqStmt):
            return tirx.SeqStmt([self._placed(part) for part in statement.seq])
        if not isinstance(statement, tirx.AllocBuffer) or statement.buffer.scope() != "global":
            return statement
        room = _room(statement.buffer)
        if not room:
            return statement
        data = tirx.address_of(self._room[self._used])
        self._used += room
        return tirx.DeclBuffer(statement.buffer, data=data)


def _on_cpu(body: tirx.Stmt) -> tirx.Stmt:
    for key, value in (("device_type", int(tvm.cpu().dlpack_device_type())), ("device_id", 0)):
        body = tirx.AttrStmt(tvm.ir.StringImm("default"), key, tirx.const(value, "int32"), body)
    return tirx.SeqStmt([body, tirx.stmt.Return(tirx.const(0, "int32"))])  # after what was allocated is freed


def _network_function(network: _Network, main: relax.Function, *, is_timed: bool) -> tirx.PrimFunc:
    images, result = (_buffer(name, _shape(t), str(t.dtype)) for name, t in _signature(main))
    weights = _buffer("weights", [len(network.weights)], "uint8")
    workspace = _buffer("workspace", [network.workspace_bytes + _PAGE], "uint8")
    times = _buffer("times", [len(network.calls) + 1], "int64")
    start = tirx.Var("start", "int64")
    buffers = {"images": images, "weights": weights, "workspace": workspace, "result": result}

    def pointer(place: _Place) -> tvm.ir.Expr:
        if place.base in ("images", "result"):
            return buffers[place.base].data
        first = start if place.base == "workspace" else tirx.const(0, "int64")
        return tirx.address_of(buffers[place.base][first + place.offset])

    stack = tirx.tvm_stack_alloca("shape", 1)
    statements: list[tirx.Stmt] = [tirx.Bind(start, _distance(workspace.data, stack))]
    if network.images.base == "workspace":
        statements += _copy(pointer(network.images), images.data, images)
    for number, (kernel, places) in enumerate(network.calls):
        if is_timed:
            statements.append(tirx.BufferStore(times, _processor_us(), [number]))
        status = tirx.Var(f"status{number}", "int32")
        statements.append(tirx.Bind(status, tvm.ir.Call(kernel, [pointer(place) for place in places], ret_ty="int32")))
        # TVM 0.27 takes condition and kind in the other order than its signature says.
        statements.append(tirx.AssertStmt(status == 0, tvm.ir.StringImm("RuntimeError"), [_OUT_OF_MEMORY]))
    if network.result.base == "workspace":
        statements += _copy(result.data, pointer(network.result), result)
    parameters = [images, weights, workspace, result]
    if is_timed:
        statements.append(tirx.BufferStore(times, _processor_us(), [len(network.calls)]))
        parameters = [*parameters, times]
    body = tirx.SeqStmt(statements)
    return tirx.PrimFunc(parameters, body).with_attr("tirx.is_scheduled", True)


def _copy(to: tvm.ir.Expr, source: tvm.ir.Expr, like: Buffer) -> list[tirx.Stmt]:
    """As many numbers as ``like`` has, of its type."""
    number, index = math.prod(int(extent) for extent in like.shape), tirx.Var("i", "int64")
    there, here = (_buffer(f"{like.name}_{end}", [number], str(like.dtype)) for end in ("to", "from"))
    # Bound, because TVM's elimination of common subexpressions does not look into what buffers are declared with.
    ends = [tirx.Var(f"{like.name}_{end}_data", pointer.ty) for end, pointer in (("to", to), ("from", source))]
    loop = tirx.For(
        index,
        tirx.const(0, "int64"),
        tirx.const(number, "int64"),
        tirx.ForKind.SERIAL,
        tirx.BufferStore(there, tirx.BufferLoad(here, [index]), [index]),
    )
    return [
        tirx.Bind(ends[0], to),
        tirx.Bind(ends[1], source),
        tirx.DeclBuffer(there, data=ends[0]),
        tirx.DeclBuffer(here, data=ends[1]),
        loop,
    ]


def _distance(workspace: tvm.ir.Expr, stack: tvm.ir.Expr) -> tvm.ir.Expr:
    """Bytes by which the workspace's buffers start later, so that modulo 4096 the stack is always as far away."""
    return tirx.bitwise_and(_address(stack) - _address(workspace), tirx.const(_PAGE - _ALIGNMENT, "int64"))


def _address(pointer: tvm.ir.Expr) -> tvm.ir.Expr:
    """TVM 0.27 cannot reinterpret a pointer in an expression; ``labs`` returns what it is given, as an integer.

    On 32 bits its upper half is undefined, and of no interest.
    """
    return tirx.call_extern("int64", "labs", pointer)


def _processor_us() -> tvm.ir.Expr:
    return tirx.call_extern("int64", "clock")


def _with_entries(module: tvm.IRModule, network: _Network, main: relax.Function) -> tvm.IRModule:
    """``main`` and ``timed``, which give the network its weights and its workspace."""
    (_, image_type), (_, result_type) = _signature(main)
    builder = relax.BlockBuilder(module)
    workspace = relax.TensorType([network.workspace_bytes + _PAGE], "uint8")
    times = relax.TensorType([len(network.calls) + 1], "int64")
    weights = relax.const(network.weights)
    for name, is_timed in (("main", False), (TIMED, True)):
        function = _network_function(network, main, is_timed=is_timed)
        kernel = builder.add_func(function, f"{name}_kernels")
        outputs = [workspace, result_type, *([times] if is_timed else [])]
        images = relax.Var(str(main.params[0].name), image_type)
        with builder.function(name, [images]):
            with builder.dataflow():
                every = builder.emit(relax.call_tir(kernel, (images, weights), outputs))
                wanted = builder.emit_output(relax.TupleGetItem(every, len(outputs) - 1))
            builder.emit_func_output(wanted)
    return builder.get()


def _signature(main: relax.Function) -> tuple[tuple[str, tvm.ir.Type], tuple[str, tvm.ir.Type]]:
    return ("images", main.params[0].ty), ("result", main.ret_ty)


def _shape(tensor_type: tvm.ir.Type) -> list[int]:
    return [int(extent) for extent in tensor_type.shape.values]


def _buffer(name: str, shape: Sequence[int], dtype: str) -> Buffer:
    return tirx.decl_buffer(shape, dtype, name)


def _rounded(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


tirx.compilation_pipeline.register_tir_pipeline(PIPELINE, _lowering)
