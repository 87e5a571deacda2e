"""Libraries for NVIDIA GPUs: TVM's own GPU schedules, the kernels embedded as machine code where nvcc is at hand.

No GPU is needed to compile. Without nvcc the library holds CUDA source, which is compiled when it is loaded.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import tvm
from tvm import relax

from hwautoml.compilers._toolchains import NVCC_FIX, architecture_of, require_compiler, run_compiler
from hwautoml.errors import CompileError

_DRIVER = "libcuda.so.1"

_LOGGER = logging.getLogger(__name__)


def lower_for_cuda(module: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Imported relax to scheduled functions by TVM's own pipeline for CUDA (its schedules are dlight's)."""
    with target:
        return relax.get_default_pipeline(target)(module)


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
    with tempfile.TemporaryDirectory(prefix="hwautoml-cuda-") as folder:
        source, driver = Path(folder) / "empty.cc", Path(folder) / _DRIVER
        source.write_text("", encoding="utf-8")
        command = [*require_compiler(here), "-shared", f"-Wl,-soname,{_DRIVER}", "-o", str(driver), str(source)]
        run_compiler(command, here)
        ctypes.CDLL(str(driver), mode=ctypes.RTLD_GLOBAL)
