"""Single kernels of a network, compiled for another processor and run on it under qemu: no TVM is needed there."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm

from hwautoml.schedules.arena import PIPELINE, _internal
from hwautoml.schedules.host import resolve_target
from hwautoml.schedules.timing import random_arguments

_PROGRAM = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
extern int32_t kernel(PARAMETERS);
/* What the runtime would do for kernels whose own buffers are too large for the stack. */
static void *allocate(int device, int id, uint64_t size, int code, int bits) {
  return aligned_alloc(64, (size + 63) / 64 * 64);
}
static int release(int device, int id, void *memory) { free(memory); return 0; }
extern __attribute__((weak)) void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int);
extern __attribute__((weak)) int (*__TVMBackendFreeWorkspace)(int, int, void *);
/* Files with the kernel's buffers, in order: read, and written back after one call. */
int main(int argc, char **argv) {
  if (&__TVMBackendAllocWorkspace) __TVMBackendAllocWorkspace = allocate;
  if (&__TVMBackendFreeWorkspace) __TVMBackendFreeWorkspace = release;
  void *buffers[8];
  long sizes[8];
  for (int i = 1; i < argc; i++) {
    FILE *file = fopen(argv[i], "rb");
    fseek(file, 0, SEEK_END);
    sizes[i - 1] = ftell(file);
    rewind(file);
    buffers[i - 1] = aligned_alloc(64, (sizes[i - 1] + 127) / 64 * 64);
    if (fread(buffers[i - 1], 1, sizes[i - 1], file) != sizes[i - 1]) return 2;
    fclose(file);
  }
  void *inside = aligned_alloc(64, 1 << 22);
  int32_t status = kernel(ARGUMENTS, inside);
  for (int i = 1; i < argc; i++) {
    FILE *file = fopen(argv[i], "wb");
    fwrite(buffers[i - 1], 1, sizes[i - 1], file);
    fclose(file);
  }
  return status;
}
"""


@dataclass(frozen=True)
class Processor:
    """``qemu``: program and options; ``zig``: what links for it, statically."""

    target: dict[str, object]
    qemu: tuple[str, ...]
    zig: str


def run_there(function: tvm.tirx.PrimFunc, processor: Processor, folder: Path) -> list[np.ndarray]:
    """All buffers of a scheduled function after it ran on random numbers, always the same ones."""
    target = resolve_target(processor.target, 1)
    module = tvm.IRModule({"kernel": _internal(function).with_attr("global_symbol", "kernel")})
    tvm.compile(module, target=target, tir_pipeline=PIPELINE).mod.write_to_file(str(folder / "kernel.o"), "o")
    buffers, files = _buffers(function), []
    for index, buffer in enumerate(buffers):
        files.append(folder / f"buffer{index}")
        buffer.tofile(files[-1])
    (folder / "main.c").write_text(_PROGRAM, encoding="utf-8")
    parameters = ",".join(["void*"] * (len(buffers) + 1))
    arguments = ",".join(f"buffers[{index}]" for index in range(len(buffers)))
    link = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        "-target",
        processor.zig,
        "-static",
        f"-DPARAMETERS={parameters}",
        f"-DARGUMENTS={arguments}",
        "main.c",
        "kernel.o",
        "-o",
        "program",
        "-lm",
    ]
    subprocess.run(link, cwd=folder, check=True, capture_output=True, text=True)
    command = [*processor.qemu, str(folder / "program"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return [np.fromfile(file, b.dtype).reshape(b.shape) for file, b in zip(files, buffers, strict=True)]


def run_here(function: tvm.tirx.PrimFunc) -> list[np.ndarray]:
    """The same of a function that is not scheduled, as plain loops on this machine."""
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    library = tvm.compile(module, target=tvm.target.Target({"kind": "llvm"})).jit()
    tensors = [tvm.runtime.tensor(buffer) for buffer in _buffers(function)]
    library["main"](*tensors)
    return [tensor.numpy() for tensor in tensors]


def _buffers(function: tvm.tirx.PrimFunc) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in random_arguments(function, np.random.default_rng(0))]
