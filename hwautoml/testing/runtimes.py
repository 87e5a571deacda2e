"""Does a runtime keep its contract (`hwautoml.compilers.base`)? Tests for pytest, on this machine's processor.

In the tests of the package that brings the runtime, which must be installed so that it is found by name::

    from hwautoml.testing.runtimes import RuntimeSuite

    class TestMine(RuntimeSuite):
        runtime = "mine"

Where it compiles something else than ONNX files or programs of torch, or lacks an operator of the sample network, the
subclass writes a source of its own (`RuntimeSuite.source`) and says what it computes (`RuntimeSuite.expected`).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hwautoml.bundles.bundle import RUNTIME_FILES
from hwautoml.compilers import all_traits, load_backend
from hwautoml.compilers.base import Backend, Traits, Tuning
from hwautoml.core.measurement import Measurement
from hwautoml.core.resources import package_folder
from hwautoml.core.target import Target, load_target
from hwautoml.devices.local import LocalDevice
from hwautoml.devices.protocol import MeasureProtocol
from hwautoml.errors import CompileError, InvalidValueError
from hwautoml.testing._pytest import pytest

if TYPE_CHECKING:
    import onnx

_INPUT = (1, 8, 8, 3)
_NUM_CLASSES = 5
_OPENED_ALONE = """
import runpy, sys
import numpy
opener, artifact, given, result = sys.argv[1:]
classify = runpy.run_path(opener)["open_model"](artifact, 1)
numpy.save(result, classify(numpy.load(given)))
assert "hwautoml" not in sys.modules, "an opener imports nothing of hwautoml"
"""
_QUICK = MeasureProtocol(warmup_ms=1, min_rounds=3, max_rounds=3, min_sample_ms=0.1)


def this_machine() -> Target:
    """Its processor, one thread."""
    return load_target("cpu", [package_folder("targets")])


class RuntimeSuite:
    """``runtime`` is the name; ``tolerance`` what outputs, which are probabilities, may differ by."""

    runtime: ClassVar[str]
    tolerance: ClassVar[float] = 1e-5

    def source(self, folder: Path, seed: int = 0) -> Path:
        """A small classifier in a file that the runtime compiles: one input, uint8 images (1, 8, 8, 3), one output."""
        path = folder / f"sample{seed}{load_backend(self.runtime).TRAITS.source_suffix}"
        if path.suffix == ".onnx":
            import onnx

            onnx.save(_classifier(seed), path)
            return path
        if path.suffix == ".pt2":
            return _torch_classifier(path, seed)
        raise NotImplementedError(f"override source() and expected(): {path.suffix} files are the runtime's own")

    def expected(self, source: Path, x: np.ndarray) -> np.ndarray:
        """What the source computes of ``x``, by somebody else than the runtime."""
        if source.suffix == ".onnx":
            from onnx.reference import ReferenceEvaluator

            (result,) = ReferenceEvaluator(str(source)).run(None, {"images": x})
            return np.asarray(result)
        import torch

        with torch.no_grad():
            result = torch.export.load(source).module()(torch.from_numpy(x))
        return np.asarray(result.numpy())

    @pytest.fixture
    def backend(self) -> Backend:
        """Skips where the runtime is not usable."""
        found = load_backend(self.runtime)
        reason = found.unavailable_reason()
        if reason is not None:
            pytest.skip(reason)
        return found

    @pytest.fixture
    def target(self, backend: Backend) -> Target:
        """Skips for runtimes of GPUs."""
        target = this_machine()
        if not backend.TRAITS.runs_on(target):
            pytest.skip(f"{self.runtime} runs on {', '.join(backend.TRAITS.places)}")
        return target

    @pytest.fixture
    def artifact(self, backend: Backend, target: Target, tmp_path: Path) -> Path:
        """A compiled sample."""
        return backend.compile(self.source(tmp_path), tmp_path / "artifact", target).path

    def test_it_says_what_it_is(self) -> None:
        traits = load_backend(self.runtime).TRAITS
        assert traits.name == self.runtime
        for module, requirement in traits.packages.items():
            assert module and requirement, "packages are modules and what pip installs for them"
        if traits.ships_as is not None:
            assert traits.source_suffix == ".onnx", "a run compiles what it exported as ONNX"
        for other in all_traits().values():
            if None not in (traits.ships_as, other.ships_as) and other.name != traits.name:
                require_files_apart(traits, other)

    def test_its_version_is_known(self, backend: Backend) -> None:
        assert backend.version().strip() and backend.version() == backend.version()

    def test_compiling_writes_one_file_and_says_so(self, backend: Backend, target: Target, tmp_path: Path) -> None:
        messages: list[str] = []
        source, out = self.source(tmp_path), tmp_path / "out"
        before = source.read_bytes()
        compiled = backend.compile(source, out, target, on_progress=lambda _done, _total, text: messages.append(text))
        assert compiled.path == out / backend.TRAITS.file_name and list(out.iterdir()) == [compiled.path]
        assert compiled.runtime == self.runtime and compiled.functions > 0 and compiled.compile_sec > 0
        assert messages and source.read_bytes() == before

    def test_the_compiled_file_computes_what_its_source_does(
        self, backend: Backend, target: Target, tmp_path: Path
    ) -> None:
        source = self.source(tmp_path)
        model = backend.open_model(backend.compile(source, tmp_path / "out", target).path)
        for seed in range(3):
            x = sample_input(model.input_shape, model.input_dtype, seed)
            kept = x.copy()
            got = model(x)
            np.testing.assert_allclose(got, self.expected(source, x), atol=self.tolerance)
            np.testing.assert_array_equal(x, kept, err_msg="the input was written to")
            np.testing.assert_array_equal(model(x), got, err_msg="a second run gives something else")

    def test_a_model_describes_itself(self, backend: Backend, artifact: Path) -> None:
        model = backend.open_model(artifact)
        assert model.input_name and model.device in backend.TRAITS.places
        result = model(sample_input(model.input_shape, model.input_dtype, 0))
        assert len(result.shape) == len(model.output_shape)
        assert all(want in (-1, have) for want, have in zip(model.output_shape, result.shape, strict=True))

    def test_a_bound_model_runs_and_returns_nothing(self, backend: Backend, artifact: Path) -> None:
        model = backend.open_model(artifact)
        x = sample_input(model.input_shape, model.input_dtype, 0)
        run, expected = model.bind(x), model(x)
        for _ in range(3):
            assert run() is None
        np.testing.assert_array_equal(model(x), expected)

    def test_inputs_that_do_not_fit_are_named(self, backend: Backend, artifact: Path) -> None:
        model = backend.open_model(artifact)
        x = sample_input(model.input_shape, model.input_dtype, 0)
        for wrong in (x[..., :-1], x[0], x.astype("float64")):
            for call in (model, model.bind):
                with pytest.raises(InvalidValueError, match=model.input_name):
                    call(wrong)

    def test_files_have_no_fixed_name(self, backend: Backend, artifact: Path, tmp_path: Path) -> None:
        """Bundles and tables call them otherwise; all that is needed is inside."""
        moved = artifact.rename(tmp_path / f"elsewhere{artifact.suffix}")
        model = backend.open_model(moved)
        assert np.isfinite(model(sample_input(model.input_shape, model.input_dtype, 0))).all()

    def test_a_file_that_was_replaced_is_opened_anew(self, backend: Backend, target: Target, tmp_path: Path) -> None:
        """As a profiler does with its probes."""
        models = [
            backend.open_model(backend.compile(self.source(tmp_path, seed), tmp_path / "out", target).path)
            for seed in (0, 1)
        ]
        x = sample_input(models[0].input_shape, models[0].input_dtype, 0)
        assert np.abs(models[0](x) - models[1](x)).max() > 10 * self.tolerance

    def test_a_file_that_is_none_is_named(self, backend: Backend, tmp_path: Path) -> None:
        path = tmp_path / f"damaged{backend.TRAITS.suffix}"
        path.write_bytes(b"\x7fELF and nothing more")
        with pytest.raises(CompileError, match="damaged"):
            backend.open_model(path)

    @pytest.mark.parametrize("content", [None, b"", b"not a model", b"truncated"])
    def test_a_source_that_is_none_is_named(
        self, backend: Backend, target: Target, tmp_path: Path, content: bytes | None
    ) -> None:
        source = tmp_path / f"damaged{backend.TRAITS.source_suffix}"
        if content is not None:
            whole = self.source(tmp_path).read_bytes()
            source.write_bytes(whole[: len(whole) // 2] if content == b"truncated" else content)
        with pytest.raises(CompileError, match="damaged"):
            backend.compile(source, tmp_path / "out", target)
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir()), "half a file was left"

    def test_tuning_is_refused_where_there_is_nothing_to_tune(
        self, backend: Backend, target: Target, tmp_path: Path
    ) -> None:
        if backend.TRAITS.is_tunable(target):
            pytest.skip(f"{self.runtime} can be tuned")
        with pytest.raises(InvalidValueError, match=f"{self.runtime} has nothing to tune"):
            backend.compile(self.source(tmp_path), tmp_path / "out", target, Tuning(budget_sec=1.0))

    def test_what_ships_runs_in_bundles(self, backend: Backend, artifact: Path, tmp_path: Path) -> None:
        """Where this package is not installed."""
        traits = backend.TRAITS
        if traits.ships_as is None:
            pytest.skip(f"{self.runtime} does not ship")
        if traits.opener is None:
            assert RUNTIME_FILES.get(traits.name) == traits.ships_as, "the bundle's runner needs an opener for it"
            return
        model = backend.open_model(artifact)
        x = sample_input(model.input_shape, model.input_dtype, 0)
        np.save(tmp_path / "x.npy", x)
        program = (traits.opener, artifact, tmp_path / "x.npy", tmp_path / "y.npy")
        subprocess.run([sys.executable, "-c", _OPENED_ALONE, *map(str, program)], check=True)
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model(x), atol=self.tolerance)

    def test_a_process_of_its_own_finds_it_and_measures(self, backend: Backend, artifact: Path) -> None:
        """As every measurement does: the worker knows the runtime by its name alone."""
        opened = backend.open_model(artifact)
        x = sample_input((3, *opened.input_shape[1:]), opened.input_dtype, 0)
        with LocalDevice(self.runtime) as device:
            assert device.runtime_version == backend.version()
            (measured,) = device.measure([artifact], protocol=_QUICK)
            assert isinstance(measured, Measurement), measured
            together = device.run_model(artifact, x)
        one_by_one = np.concatenate([opened(x[number : number + 1]) for number in range(len(x))])
        np.testing.assert_allclose(together, one_by_one, atol=self.tolerance)


def require_files_apart(one: Traits, other: Traits) -> None:
    """Two runtimes that ship write into one folder: different files, unless both open the very same one."""
    if one.artifact_name() == other.artifact_name():
        same = bool(one.opens_source_on) and bool(other.opens_source_on) and one.source_suffix == other.source_suffix
        assert same, f"{one.name} and {other.name} both write {one.artifact_name()}"


def sample_input(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    """Random; -1 in the shape is 1."""
    rng = np.random.default_rng(seed)
    shape = tuple(max(extent, 1) for extent in shape)
    if np.issubdtype(np.dtype(dtype), np.integer):
        return rng.integers(0, 100, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _classifier(seed: int) -> onnx.ModelProto:
    """uint8 images to probabilities, of the operators that a run's networks have at least."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    weights = {
        "kernel": rng.normal(0, 0.02, (8, _INPUT[-1], 3, 3)),
        "matrix": rng.normal(0, 1, (8, _NUM_CLASSES)),
        "bias": rng.normal(0, 1, _NUM_CLASSES),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "kernel"], ["sums"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["sums"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
        helper.make_node("Flatten", ["means"], ["features"]),
        helper.make_node("Gemm", ["features", "matrix", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "sample",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, list(_INPUT))],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, _NUM_CLASSES])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _torch_classifier(path: Path, seed: int) -> Path:
    import torch
    from torch import nn

    from hwautoml.exporters import Deployable, export_program

    torch.manual_seed(seed)
    convolution, linear = nn.Conv2d(_INPUT[-1], 8, 3, padding=1), nn.Linear(8, _NUM_CLASSES)
    network = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    return export_program(Deployable(network, [0.5] * 3, [0.25] * 3).eval(), path, _INPUT, dtype="uint8").path
