"""Importing TVM the quick way."""

from __future__ import annotations

import gc
import importlib
import os
import sys


def import_tvm(num_threads: int) -> None:
    """Imports tvm, its thread pool set to ``num_threads``, without pulling torch in.

    tvm_ffi imports torch where it can, for tensors that are never passed to it here; that
    takes 2 of 4 seconds. A torch that was imported before stays, and can be imported later.
    Collecting garbage meanwhile, of which hundreds of new modules have none, takes 0.3 of the rest.
    """
    os.environ["TVM_NUM_THREADS"] = str(num_threads)  # read when the first thread is needed
    if "torch" in sys.modules or "tvm" in sys.modules:
        importlib.import_module("tvm.relax")
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` fail
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module("tvm.relax")
    finally:
        del sys.modules["torch"]
        if was_collecting:
            gc.enable()
