"""Libraries for NVIDIA GPUs: TVM's own GPU schedules, the kernels embedded as machine code where nvcc is at hand.

No GPU is needed to compile. Without nvcc the library holds CUDA source, which is compiled when it is loaded.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
from pathlib import Path

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from hwautoml.compilers._toolchains import NVCC_FIX, architecture_of, require_compiler, run_compiler
from hwautoml.core.temporary import temporary_folder
from hwautoml.errors import CompileError

_DRIVER = "libcuda.so.1"

_LOGGER = logging.getLogger(__name__)


#: Launched one by one, the kernels of a small network take as long as their launches; as a graph they are one launch.
_CUDA_GRAPH = {"relax.backend.use_cuda_graph": True}
_PRODUCTS = ("relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d", "relax.matmul")
_CONVOLUTION_ATTRIBUTES = (
    "strides",
    "padding",
    "dilation",
    "groups",
    "data_layout",
    "kernel_layout",
    "out_layout",
)
_SUMS = ("relax.sum", "relax.mean", "relax.nn.avg_pool2d", "relax.nn.adaptive_avg_pool2d")


def lower_for_cuda(module: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Imported relax to scheduled functions by TVM's own pipeline for CUDA (its schedules are dlight's).

    What has fixed shapes is captured as a CUDA graph when it first runs. Sums of fp16 are taken in float32.
    """
    module = with_float32_sums(module)
    with target, tvm.transform.PassContext(config=_CUDA_GRAPH):
        return relax.get_default_pipeline(target)(module)


def launches(lowered: tvm.IRModule) -> str:
    """How the kernels of a lowered module are started, in words."""
    if any("cuda_graph_capture" in variable.name_hint for variable in lowered.get_global_vars()):
        return "launched as a CUDA graph"
    return "kernels launched one by one (no CUDA graph: its shapes are open)"


def with_float32_sums(module: tvm.IRModule) -> tvm.IRModule:
    """Products of fp16 summed in float32 and then rounded: hundreds of roundings of a growing sum would be left of it.

    It is what tensor cores and the other runtimes do; TVM sums in the type of the result.
    """
    sums = _Float32Sums(module)
    for variable, function in module.functions_items():
        if isinstance(function, relax.Function):
            sums.builder_.update_func(variable, sums.visit_expr(function))
    return sums.builder_.get()


@mutator
class _Float32Sums(PyExprMutator):  # type: ignore[misc]  # TVM is untyped
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        name = getattr(call.op, "name", "")
        if name not in (*_PRODUCTS, *_SUMS) or getattr(call.ty, "dtype", None) != "float16":
            return call
        if name in _SUMS:
            wide = relax.Call(call.op, [relax.op.astype(call.args[0], "float32"), *call.args[1:]], call.attrs)
        else:
            wide = _with_float32_result(call)
        return relax.op.astype(self.builder_.normalize(wide), "float16")


def _with_float32_result(call: relax.Call) -> relax.Call:
    if call.op.name == "relax.matmul":
        return relax.op.matmul(*call.args, out_dtype="float32")
    attributes = {name: getattr(call.attrs, name) for name in _CONVOLUTION_ATTRIBUTES}
    convolution = getattr(relax.op.nn, call.op.name.rpartition(".")[2])
    return convolution(*call.args, **attributes, out_dtype="float32")


def embed_binaries(target: tvm.target.Target) -> str:
    """Makes TVM compile this process's kernels with nvcc if there is one; says what the library will hold.

    Raises CompileError where nvcc has no code generator for the GPU, or TVM's CUDA runtime does not load.
    """
    gpu = str(target.attrs["arch"])
    if shutil.which("nvcc") is None:
        _LOGGER.warning("nvcc is not on PATH, so the library holds CUDA source; for machine code: %s", NVCC_FIX)
        return f"CUDA source, compiled for {gpu} whenever it is loaded ({NVCC_FIX}, and it is machine code)"
    listed = subprocess.run(["nvcc", "--list-gpu-code"], capture_output=True, text=True, check=False)
    known = listed.stdout.split()
    if known and gpu not in known:
        raise CompileError(f"nvcc on this machine compiles for {', '.join(known)}, and not for {gpu}")
    os.environ["TVM_CUDA_COMPILE_MODE"] = "nvcc"
    if tvm.get_global_func("ffi.Module.create.cuda", allow_missing=True) is None:
        _load_cuda_runtime()
    return f"CUDA machine code for {gpu}"


def _load_cuda_runtime() -> None:
    """TVM compiles kernels inside its CUDA runtime, which wants NVIDIA's driver; to compile, an empty one will do.

    The stand-in is seen by this process alone, which runs nothing on a GPU.
    """
    library = Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"
    try:
        ctypes.CDLL(_DRIVER, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        _load_empty_driver()
    try:
        ctypes.CDLL(str(library), mode=os.RTLD_LAZY | os.RTLD_GLOBAL)
    except OSError as error:
        raise CompileError(
            f"TVM's CUDA runtime does not load: {error}", fix="put the CUDA toolkit's lib64 folder on LD_LIBRARY_PATH"
        ) from error


def _load_empty_driver() -> None:
    here = architecture_of(None)
    with temporary_folder() as folder:
        source, driver = folder / "empty.cc", folder / _DRIVER
        source.write_text("", encoding="utf-8")
        command = [*require_compiler(here), "-shared", f"-Wl,-soname,{_DRIVER}", "-o", str(driver), str(source)]
        run_compiler(command, here)
        ctypes.CDLL(str(driver), mode=ctypes.RTLD_GLOBAL)
