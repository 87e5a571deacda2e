"""Libraries for other architectures and for GPUs, made on this machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto

from hwautoml.compilers import _toolchains as toolchains
from hwautoml.compilers import tvm
from hwautoml.compilers._toolchains import ARCHITECTURES, architecture_of
from hwautoml.compilers.base import Tuning
from hwautoml.core.resources import target_folders
from hwautoml.core.target import Target, load_target, target_names
from hwautoml.errors import CompileError, MissingDependencyError
from tests.compilers.graphs import GraphBuilder
from tests.compilers.shared import target_for

MACHINE_OF_ELF = {62: "x86_64", 183: "aarch64", 40: "armv7", 243: "riscv64"}
NO_ZIG = importlib.util.find_spec("ziglang") is None
NEEDS_ZIG = pytest.mark.skipif(NO_ZIG, reason="needs: pip install 'hwautoml[edge]'")
NEEDS_NVCC = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs NVIDIA's CUDA toolkit (nvcc)")


def shipped(name: str) -> Target:
    return load_target(name, target_folders())


def elf_architecture(path: Path) -> str:
    header = path.read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    return MACHINE_OF_ELF[struct.unpack("<H", header[18:20])[0]]


@pytest.fixture(scope="module")
def onnx_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    graph = GraphBuilder((1, 16, 16, 3), TensorProto.UINT8)
    x = graph.activation(graph.conv(graph.normalised(3), 3, 16, 3), "relu")
    return graph.save(tmp_path_factory.mktemp("onnx") / "net.onnx", graph.head(x, 16, 5))


@pytest.fixture
def no_toolchain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without compilers: nothing is on PATH, and ziglang is not installed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchains.importlib.util, "find_spec", lambda name: None)


def test_every_shipped_target_has_a_toolchain() -> None:
    for name in target_names(target_folders()):
        described = shipped(name).tvm
        triple = described.get("host", described).get("mtriple")  # type: ignore[attr-defined]
        assert architecture_of(triple) in ARCHITECTURES, name


@pytest.mark.parametrize(
    ("triple", "name"),
    [
        ("aarch64-linux-gnu", "aarch64"),
        ("armv7a-linux-gnueabihf", "armv7"),
        ("arm-linux-gnueabihf", "armv7"),
        ("riscv64-unknown-linux-gnu", "riscv64"),
        ("x86_64-pc-linux-gnu", "x86_64"),
    ],
)
def test_triples_are_understood(triple: str, name: str) -> None:
    assert architecture_of(triple).name == name


def test_an_unknown_triple_is_named_with_the_known_ones() -> None:
    with pytest.raises(CompileError, match="sparc64-linux-gnu; known architectures: x86_64, aarch64"):
        architecture_of("sparc64-linux-gnu")


@pytest.mark.usefixtures("no_toolchain")
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
def test_a_missing_linker_names_both_ways_out(architecture: toolchains.Architecture) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        toolchains.require_compiler(architecture)
    assert architecture.debian_package in str(caught.value) and "hwautoml[edge]" in str(caught.value)
    assert toolchains.compiler_name(architecture) is None


def test_a_system_cross_compiler_is_preferred(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "riscv64-linux-gnu-g++"
    program.write_text("#!/bin/sh\necho no such option >&2; exit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    architecture = architecture_of("riscv64-linux-gnu")
    assert toolchains.find_compiler(architecture) == ("riscv64-linux-gnu-g++",)
    with pytest.raises(CompileError, match="linking for riscv64 failed: no such option"):
        toolchains.link_library(architecture, tmp_path / "a.so", [])


def test_a_missing_linker_is_said_before_anything_is_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, onnx_path: Path
) -> None:
    """In the real compiler process, whose Python has no ziglang and whose PATH has no compiler."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(_without_zig(tmp_path)), os.environ.get("PYTHONPATH", "")]))
    with pytest.raises(MissingDependencyError, match=r"no compiler .* aarch64.*\n.*g\+\+-aarch64-linux-gnu"):
        tvm.compile(onnx_path, tmp_path / "out", shipped("rpi4"))
    assert not (tmp_path / "out").exists()


def _without_zig(folder: Path) -> Path:
    """A folder whose ``sitecustomize`` hides ziglang from every Python that is started."""
    hiding = folder / "hiding"
    hiding.mkdir()
    (hiding / "sitecustomize.py").write_text(
        "import importlib.util\nfound = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name == 'ziglang' else found(name, package)\n"
    )
    return hiding


@pytest.mark.slow
@NEEDS_ZIG
@pytest.mark.parametrize("name", ["rpi4", "rpi-zero2"])
def test_libraries_for_aarch64(name: str, tmp_path: Path, onnx_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is timed here, which is said: neither candidates nor whether a function is far too slow."""
    compiled = tvm.compile(onnx_path, tmp_path, shipped(name), Tuning(budget_sec=5.0))
    assert elf_architecture(compiled.path) == "aarch64"
    assert (compiled.tuned, compiled.fallbacks, compiled.device_code, compiled.slow) == (0, (), None, None)
    assert "cannot be timed on this machine: fixed rule, no tuning" in caplog.text


@pytest.mark.edge
@NEEDS_ZIG
@pytest.mark.parametrize(("name", "architecture"), [("rpi2", "armv7"), ("visionfive2", "riscv64")])
def test_libraries_for_armv7_and_riscv64(name: str, architecture: str, tmp_path: Path, onnx_path: Path) -> None:
    """In the edge tier: zig builds its own start files for each architecture first, about a minute."""
    compiled = tvm.compile(onnx_path, tmp_path, shipped(name))
    assert elf_architecture(compiled.path) == architecture
    assert compiled.fallbacks == ()


@pytest.mark.slow
@NEEDS_ZIG
@NEEDS_NVCC
def test_a_gpu_library_holds_machine_code(tmp_path: Path, onnx_path: Path) -> None:
    """Checked as far as it goes without a GPU: for the board's processor, cubin inside, no source."""
    compiled = tvm.compile(onnx_path, tmp_path, shipped("jetson-orin-nano"))
    content = compiled.path.read_bytes()
    assert elf_architecture(compiled.path) == "aarch64"
    assert compiled.device_code == "CUDA machine code for sm_87; launched as a CUDA graph" and compiled.functions > 0
    assert content.count(b"\x7fELF") > 1 and b"sm_87" in content
    assert b"__global__" not in content


@pytest.mark.slow
def test_without_nvcc_a_gpu_library_holds_source_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, onnx_path: Path
) -> None:
    monkeypatch.setenv("PATH", os.pathsep.join(_folders_without("nvcc")))
    compiled = tvm.compile(onnx_path, tmp_path, shipped("gpu"))
    assert compiled.device_code is not None and compiled.device_code.startswith("CUDA source, compiled for sm_90")
    assert b"__global__" in compiled.path.read_bytes()


def _folders_without(program: str) -> list[str]:
    return [folder for folder in os.environ["PATH"].split(os.pathsep) if not (Path(folder) / program).exists()]


@pytest.mark.slow
@NEEDS_NVCC
def test_a_gpu_that_nvcc_does_not_know_is_named(tmp_path: Path, onnx_path: Path) -> None:
    with pytest.raises(CompileError, match="not for sm_30"):
        tvm.compile(onnx_path, tmp_path, target_for({**shipped("gpu").tvm, "arch": "sm_30"}))


def test_asking_for_compilers_imports_no_tvm() -> None:
    code = (
        "import sys; from hwautoml.compilers._toolchains import ARCHITECTURES, compiler_name; "
        "[compiler_name(a) for a in ARCHITECTURES]; assert not {'tvm', 'torch', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
