"""Our own runtimes keep the contract that other packages' are held to."""

from __future__ import annotations

import pytest

from hwautoml.testing.runtimes import RuntimeSuite


class TestOnnxRuntime(RuntimeSuite):
    runtime = "onnxruntime"


class TestOnnxRuntimeCuda(RuntimeSuite):
    runtime = "onnxruntime-cuda"


class TestOnnxRuntimeTensorrt(RuntimeSuite):
    runtime = "onnxruntime-tensorrt"


class TestTvm(RuntimeSuite):
    runtime = "tvm"


class TestTorch(RuntimeSuite):
    runtime = "torch"


@pytest.mark.slow
class TestTorchInductor(RuntimeSuite):
    runtime = "torch-inductor"
