"""What only the torch runtimes promise: programs instead of ONNX, and nothing executed by reading one."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hwautoml.compilers import load_backend
from hwautoml.errors import CompileError, InvalidValueError, MissingDependencyError, UnsupportedOperatorError
from hwautoml.exporters import Deployable, export_program
from hwautoml.spaces.mobile import MobileSpace
from tests.compilers.graphs import GraphBuilder
from tests.compilers.shared import CUDA, HOST

NAMES = ("torch", "torch-inductor")
needs_compiler = pytest.mark.skipif(
    load_backend("torch-inductor").unavailable_reason() is not None, reason="needs a C++ compiler"
)


@pytest.fixture(scope="module")
def network() -> Deployable:
    space = MobileSpace(8, 3, 5)
    torch.manual_seed(0)
    return Deployable(space.module(space.sample(np.random.default_rng(0))), (0.5,) * 3, (0.25,) * 3).eval()


@pytest.fixture(scope="module")
def program(network: Deployable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_program(network, tmp_path_factory.mktemp("program") / "net.pt2", (1, 8, 8, 3), dtype="uint8").path


def check_compile_open_run(name: str, network: Deployable, program: Path, folder: Path) -> None:
    backend = load_backend(name)
    threads = torch.get_num_threads()
    messages: list[str] = []
    compiled = backend.compile(program, folder, HOST, on_progress=lambda _done, _total, text: messages.append(text))
    assert (compiled.runtime, compiled.tuned, compiled.tune_sec) == (name, 0, 0.0)
    assert compiled.functions > 0 and messages
    assert list(folder.iterdir()) == [compiled.path]
    model = backend.open_model(compiled.path, num_threads=1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)
    assert (model.input_dtype, model.input_shape, model.output_shape) == ("uint8", (1, 8, 8, 3), (1, 5))
    x = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(model(x), expected, atol=1e-5)
    assert model.bind(x)() is None
    for call in (model, model.bind):
        with pytest.raises(InvalidValueError, match=model.input_name):
            call(np.zeros((1, 3, 8, 8), "float32"))


def test_compile_open_run(network: Deployable, program: Path, tmp_path: Path) -> None:
    check_compile_open_run("torch", network, program, tmp_path)


@pytest.mark.slow
@needs_compiler
def test_compile_open_run_inductor(network: Deployable, program: Path, tmp_path: Path) -> None:
    check_compile_open_run("torch-inductor", network, program, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_onnx_is_refused_and_the_alternatives_named(name: str, tmp_path: Path) -> None:
    graph = GraphBuilder((1, 4))
    path = graph.save(tmp_path / "net.onnx", graph.activation("images", "relu"))
    with pytest.raises(UnsupportedOperatorError, match=r"(?s)net\.onnx.*onnxruntime or tvm"):
        load_backend(name).compile(path, tmp_path / "out", HOST)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [None, b"", b"not an archive"])
def test_unreadable_files_are_named(name: str, content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CompileError, match=r"model\.pt2"):
        load_backend(name).compile(path, tmp_path, HOST)
    with pytest.raises(CompileError, match=r"model\.pt2"):
        load_backend(name).open_model(path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_without_the_device_it_says_so(name: str, program: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match="CUDA"):
        load_backend(name).compile(program, tmp_path, CUDA)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_cuda(name: str, network: Deployable, program: Path, tmp_path: Path) -> None:
    compiled = load_backend(name).compile(program, tmp_path, CUDA)
    model = load_backend(name).open_model(compiled.path)
    x = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    with torch.no_grad():
        np.testing.assert_allclose(model(x), network(torch.from_numpy(x)).numpy(), atol=1e-4)
    model.bind(x)()


def test_without_a_compiler_inductor_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler is not on PATH; run: apt install g++" in (
        load_backend("torch-inductor").unavailable_reason() or ""
    )


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return Path.touch, (self.path,)


def rewritten(program: Path, path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy of the archive with other entries (by name, without the first folder)."""
    with zipfile.ZipFile(program) as archive:
        root = archive.namelist()[0].partition("/")[0]
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"{root}/{name}", content)
    return path


def edit_json(name: str, edit: Callable[[Any], None]) -> Callable[[dict[str, bytes]], None]:
    def change(entries: dict[str, bytes]) -> None:
        data = json.loads(entries[name])
        edit(data)
        entries[name] = json.dumps(data).encode()

    return change


MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"


def first_node(model: dict[str, Any]) -> dict[str, Any]:
    return model["graph_module"]["graph"]["nodes"][0]


def pickled_weight(config: dict[str, Any]) -> None:
    next(iter(config["config"].values()))["use_pickle"] = True


def signature(model: dict[str, Any]) -> dict[str, Any]:
    return model["graph_module"]["module_call_graph"][0]["signature"]


def changed_weight(model: dict[str, Any]) -> None:
    specs = model["graph_module"]["signature"]["output_specs"]
    specs.append({"buffer_mutation": {"arg": {"name": "b_mean"}, "buffer_name": "mean"}})


def second_input(model: dict[str, Any]) -> None:
    specs = model["graph_module"]["signature"]["input_specs"]
    specs.append(specs[-1])


REFUSED = {
    "pickled": edit_json(WEIGHTS, pickled_weight),
    "no ATen operator": edit_json(MODEL, lambda model: first_node(model).update(target="torch.os.system")),
    "from_file": edit_json(MODEL, lambda model: first_node(model).update(target="torch.ops.aten.from_file.default")),
    "changes its weights": edit_json(MODEL, lambda model: changed_weight(model)),
    "2 inputs and 1 outputs": edit_json(MODEL, lambda model: second_input(model)),
    "guards_code": edit_json(MODEL, lambda model: model.update(guards_code=["__import__('os').abort()"])),
    "as_expr|expr_str": edit_json(
        MODEL, lambda m: m["graph_module"]["graph"]["sym_int_values"].update(s={"as_expr": {"expr_str": "exit()"}})
    ),
    "metadata": edit_json(MODEL, lambda model: first_node(model)["metadata"].update(torch_fn="x;y")),
    "is no name": edit_json(MODEL, lambda m: m["graph_module"]["graph"]["inputs"][0]["as_tensor"].update(name="a\nb")),
    "structure of its own|takes or gives": edit_json(
        MODEL,
        lambda model: signature(model).update(
            in_spec=signature(model)["in_spec"].replace("builtins.dict", "collections.defaultdict")
        ),
    ),
    "constants/opaque_obj_0": lambda entries: entries.update({"data/constants/opaque_obj_0": pickle.dumps(1)}),
    "weights/model.pt": lambda entries: entries.update({"data/weights/model.pt": pickle.dumps(1)}),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_could_execute_is_refused(reason: str, program: Path, tmp_path: Path) -> None:
    path = rewritten(program, tmp_path / "bad.pt2", REFUSED[reason])
    for use in (
        lambda: load_backend("torch").open_model(path),
        lambda: load_backend("torch-inductor").compile(path, tmp_path, HOST),
    ):
        with pytest.raises(CompileError, match=rf"bad\.pt2 is not loaded: .*({reason})"):
            use()


def unknown_operator(model: dict[str, Any]) -> None:
    first_node(model)["target"] = "torch.ops.aten.relu.nowhere"


def unknown_argument(model: dict[str, Any]) -> None:
    first_node(model)["inputs"][0]["arg"] = {"as_complex": {"real": 1.0, "imag": 0.0}}


def unknown_tensor(model: dict[str, Any]) -> None:
    first_node(model)["inputs"][0]["arg"] = {"as_tensor": {"name": "nobody"}}


DAMAGED = {
    "nowhere": edit_json(MODEL, unknown_operator),
    "as_complex": edit_json(MODEL, unknown_argument),
    "nobody": edit_json(MODEL, unknown_tensor),
    "storage": lambda entries: entries.update({"data/weights/weight_0": entries["data/weights/weight_0"][:8]}),
    "weight_0": lambda entries: entries.pop("data/weights/weight_0"),
    "graph_module": edit_json(MODEL, lambda model: model.pop("graph_module")),
}


@pytest.mark.parametrize("reason", DAMAGED)
def test_what_is_damaged_is_named(reason: str, program: Path, tmp_path: Path) -> None:
    path = rewritten(program, tmp_path / "bad.pt2", DAMAGED[reason])
    with pytest.raises(CompileError, match=rf"(?s)bad\.pt2 is not a readable exported program: .*{reason}"):
        load_backend("torch").open_model(path)


def test_it_computes_what_torchs_own_reader_computes(program: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    with torch.no_grad():
        expected = torch.export.load(program).module()(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(load_backend("torch").open_model(program)(x), expected)


MEANINGFUL = ("torch", "self", "forward", "x", "device", "inf", "fx_pytree", "weight_0", "None_", "class", "exec")


def rename_in(value: Any, known: dict[str, str]) -> None:
    """Tensors and nodes, at any depth."""
    if isinstance(value, dict):
        if isinstance(value.get("name"), str):
            value["name"] = known.get(value["name"], value["name"])
        for child in value.values():
            rename_in(child, known)
    elif isinstance(value, list):
        for child in value:
            rename_in(child, known)


def test_no_text_of_the_file_becomes_code(program: Path, tmp_path: Path) -> None:
    """Names are free, even those that mean something in the code that runs."""

    def rename(model: dict[str, Any]) -> None:
        graph = model["graph_module"]["graph"]
        known = dict(zip(graph["tensor_values"], MEANINGFUL, strict=False))
        graph["tensor_values"] = {known.get(name, name): meta for name, meta in graph["tensor_values"].items()}
        rename_in(model["graph_module"], known)

    model = load_backend("torch").open_model(rewritten(program, tmp_path / "renamed.pt2", edit_json(MODEL, rename)))
    assert model(np.zeros((1, 8, 8, 3), np.uint8)).shape == (1, 5)


def test_values_are_freed_after_their_last_use(tmp_path: Path) -> None:
    """Else networks would take far more memory than in torch, and miss the caches."""
    layers = torch.nn.Sequential(*[torch.nn.ReLU() for _ in range(50)])
    path = export_program(layers, tmp_path / "net.pt2", (1, 1, 1024, 1024)).path
    model = load_backend("torch").open_model(path)
    run = model.bind(np.ones(model.input_shape, np.float32))
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    changes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert len(changes) >= 50
    assert np.cumsum(changes).max() <= 3 * 4 * 1024**2


def test_a_pickle_is_never_opened(program: Path, tmp_path: Path) -> None:
    """torch's own reader would run it: it falls back to unpickling anything."""
    made = tmp_path / "made"
    buffer = io.BytesIO()
    torch.save(Payload(made), buffer)
    pickled = {"data/sample_inputs/model.pt": buffer.getvalue()}
    path = rewritten(program, tmp_path / "bad.pt2", lambda entries: entries.update(pickled))
    with pytest.raises(CompileError, match="pickled sample inputs"):
        load_backend("torch").open_model(path)
    assert not made.exists()


def test_an_unchanged_copy_is_accepted(program: Path, tmp_path: Path) -> None:
    """So that the refusals above are for what was changed; and the path is of no consequence."""
    shutil.copy(program, tmp_path / "renamed.bin")
    assert load_backend("torch").open_model(tmp_path / "renamed.bin").input_shape == (1, 8, 8, 3)


@needs_compiler
def test_a_program_is_no_package(program: Path) -> None:
    with pytest.raises(CompileError, match=r"net\.pt2 is not a package compiled by hwautoml"):
        load_backend("torch-inductor").open_model(program)
