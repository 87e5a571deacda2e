"""Our own runtimes keep the contract that other packages' are held to."""

from __future__ import annotations

import pytest

from hwautoml.testing.runtimes import RuntimeTests


class TestOnnxRuntime(RuntimeTests):
    runtime = "onnxruntime"


class TestOnnxRuntimeCuda(RuntimeTests):
    runtime = "onnxruntime-cuda"


class TestOnnxRuntimeTensorrt(RuntimeTests):
    runtime = "onnxruntime-tensorrt"


class TestTvm(RuntimeTests):
    runtime = "tvm"


class TestTorch(RuntimeTests):
    runtime = "torch"


@pytest.mark.slow
class TestTorchInductor(RuntimeTests):
    runtime = "torch-inductor"
