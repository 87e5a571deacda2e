"""The C++ runner: its image preparation against run.py's, and all of it built and run on a real library."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import hwautoml.bundles
from hwautoml.bundles import write_bundle
from hwautoml.tasks.classification import Classification
from tests.sealing import write_manifest

RUNNER = Path(hwautoml.bundles.__file__).parent / "runner"
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")
SHIM = """
#include <cstring>
#include "image.h"
#include "sha256.h"
extern "C" void prepare(const unsigned char* pixels, int width, int height, int channels, int image_size,
                        int resolution, int wanted, int background, const char* fit, unsigned char* out) {
  hwautoml::Image image(width, height, channels);
  std::memcpy(image.pixels.data(), pixels, image.pixels.size());
  hwautoml::PixelRule rule;
  rule.background = background;
  rule.fit = fit;
  hwautoml::Image result = hwautoml::prepare(image, rule, image_size, resolution, wanted);
  std::memcpy(out, result.pixels.data(), result.pixels.size());
}
extern "C" void prepare_file(const char* path, double low, double high, int size, unsigned char* out) {
  hwautoml::PixelRule rule{true, low, high, 255, "crop"};
  hwautoml::Image result = hwautoml::prepare(hwautoml::read_image(path), rule, size, size, 1);
  std::memcpy(out, result.pixels.data(), result.pixels.size());
}
extern "C" void sha256(const char* data, size_t size, size_t first, char* out) {
  hwautoml::Sha256 sum;
  sum.update(data, first);
  sum.update(data + first, size - first);
  std::strcpy(out, sum.hex().c_str());
}
"""


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bundle_runner", RUNNER / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """image.cpp alone, which needs no TVM."""
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.cpp").write_text(SHIM)
    command = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{RUNNER / 'cpp'}"]
    command += [str(folder / "shim.cpp"), str(RUNNER / "cpp" / "image.cpp"), "-o", str(folder / "shim.so")]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(folder / "shim.so"))


@needs_compiler
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 260),
    st.integers(1, 260),
    st.sampled_from([1, 2, 3, 4]),
    st.sampled_from([1, 3]),
    st.integers(1, 48),
    st.integers(1, 48),
    st.booleans(),
    st.sampled_from(["crop", "pad", "stretch"]),
)
def test_images_are_prepared_as_by_run_py(
    runner: ModuleType,
    library: ctypes.CDLL,
    tmp_path: Path,
    width: int,
    height: int,
    channels: int,
    wanted: int,
    image_size: int,
    resolution: int,
    is_same: bool,
    fit: str,
) -> None:
    resolution = image_size if is_same else resolution
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, channels), dtype=np.uint8)
    Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(tmp_path / "x.png")
    background = width % 256
    shape = {"resolution": resolution, "image_size": image_size, "channels": wanted, "background": background}
    shape["fit"] = fit
    expected = runner.read_image(tmp_path / "x.png", {"input": shape})[0]
    found = np.zeros_like(expected)
    library.prepare(
        pixels.ctypes.data_as(ctypes.c_void_p),
        width,
        height,
        channels,
        image_size,
        resolution,
        wanted,
        background,
        fit.encode(),
        found.ctypes.data_as(ctypes.c_void_p),
    )
    # Pillow before 13 resized tall images in another order, which differs by one level.
    worst = 0 if height <= width and fit == "crop" else 1
    assert np.abs(found.astype(int) - expected).max() <= worst


@needs_compiler
@given(st.binary(max_size=300), st.integers(0, 300))
def test_hashes_are_sha256(library: ctypes.CDLL, data: bytes, first: int) -> None:
    """In two pieces, as a file is read."""
    found = ctypes.create_string_buffer(65)
    library.sha256(data, ctypes.c_size_t(len(data)), ctypes.c_size_t(min(first, len(data))), found)
    assert found.value.decode() == hashlib.sha256(data).hexdigest()


@needs_compiler
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([255, 100, 4095, 65535, "float"]), st.integers(1, 40))
def test_deep_files_are_scaled_as_by_run_py(
    runner: ModuleType, library: ctypes.CDLL, tmp_path: Path, width: int, height: int, largest: int | str, size: int
) -> None:
    rng = np.random.default_rng(width * height)
    path = tmp_path / "x.pnm"
    if largest == "float":
        low, high = -1.5, 2.25
        values = rng.normal(0, 3, (height, width)).astype(np.float32)
        values[0, 0] = np.nan
        Image.fromarray(values).save(path, format="PPM")
    else:
        low, high = 0.25 * 65535, 0.6 * 65535
        values = rng.integers(0, int(largest) + 1, (height, width))
        data = values.astype(">u2" if int(largest) > 255 else "u1").tobytes()
        path.write_bytes(b"P5 %d %d %d\n" % (width, height, largest) + data)
    shape = {"resolution": size, "image_size": size, "channels": 1, "levels": [low, high]}
    expected = runner.read_image(path, {"input": shape})[0]
    found = np.zeros_like(expected)
    library.prepare_file.argtypes = [ctypes.c_char_p, ctypes.c_double, ctypes.c_double, ctypes.c_int, ctypes.c_void_p]
    library.prepare_file(str(path).encode(), low, high, size, found.ctypes.data)
    assert np.abs(found.astype(int) - expected).max() <= (0 if height <= width else 1)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the built runner, made as its CMakeLists.txt says."""
    if shutil.which("cmake") is None or shutil.which("g++") is None:
        pytest.skip("no cmake or g++ on this machine")
    pytest.importorskip("tvm_ffi")
    folder = tmp_path_factory.mktemp("build")
    configure = ["cmake", "-S", str(RUNNER / "cpp"), "-B", str(folder), f"-DPython3_EXECUTABLE={sys.executable}"]
    for command in (configure, ["cmake", "--build", str(folder)]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import onnx

    from tests.bundles.conftest import CLASSES, RESOLUTION, _model
    from tests.compilers.shared import HOST, compiler

    base = tmp_path_factory.mktemp("compiled")
    onnx.save(_model(3), base / "tiny.onnx")
    compiled = compiler().compile(base / "tiny.onnx", base / "tvm", HOST)
    return write_bundle(
        base / "a bundle",
        onnx_path=base / "tiny.onnx",
        tvm_library=compiled.path,
        default_runtime="tvm",
        task=Classification(tuple(CLASSES)),
        resolution=RESOLUTION,
        image_size=12,
        channels=3,
        accuracy={},
        latency={},
        conditions={},
        architecture={"id": "abc"},
        parity={},
    )


def run(build: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [str(build / "hwautoml_runner"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd="/")


def python_answers(bundle: Path, *images: Path) -> list[dict[str, Any]]:
    command = [sys.executable, str(bundle / "run.py"), *map(str, images), "--json", "--top", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_it_answers_as_run_py(build: Path, bundle: Path, tmp_path: Path) -> None:
    rng, images = np.random.default_rng(0), []
    for number, (height, width) in enumerate([(12, 12), (100, 70), (9, 31), (300, 300)]):
        images.append(tmp_path / f"{number}.ppm")
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(images[-1])
    images.append(tmp_path / "grey.pgm")
    Image.fromarray(rng.integers(0, 256, (20, 20), dtype=np.uint8)).save(images[-1])
    done = run(build, bundle, *images, "--json", "--top", "3")
    assert (done.returncode, done.stderr) == (0, "")
    for ours, theirs in zip(json.loads(done.stdout), python_answers(bundle, *images), strict=True):
        assert ours["runtime"] == theirs["runtime"] == "tvm" and ours["image"] == theirs["image"]
        assert [p["class"] for p in ours["predictions"]] == [p["class"] for p in theirs["predictions"]]
        for mine, other in zip(ours["predictions"], theirs["predictions"], strict=True):
            assert mine["probability"] == pytest.approx(other["probability"], abs=1e-6)
    line = run(build, bundle, images[0], "--top", "1").stdout
    assert line.startswith(f"{images[0]}: ") and line.count("%") == 1


ANSWERS: list[dict[str, Any] | None] = [
    {"kind": "values", "thresholds": [], "unit": "\u00b0C"},
    {"kind": "above", "thresholds": [0.5, 0.0, 0.25], "unit": ""},
    {"kind": "above", "thresholds": [2.0, 2.0, 2.0], "unit": ""},
    None,
]


@pytest.mark.slow
@pytest.mark.parametrize("answer", ANSWERS, ids=["values", "above", "none above", "no task"])
def test_it_says_what_the_task_says(build: Path, bundle: Path, tmp_path: Path, answer: dict[str, Any] | None) -> None:
    other = Path(shutil.copytree(bundle, tmp_path / "other"))
    manifest = json.loads((other / "manifest.json").read_text(encoding="utf-8"))
    if answer is None:
        del manifest["task"]
    else:
        manifest["task"]["answer"] = answer
    write_manifest(other, json.dumps(manifest))
    image = tmp_path / "x.ppm"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(image)
    (ours,), (theirs,) = json.loads(run(build, other, image, "--json").stdout), python_answers(other, image)
    assert [{**p, **rounded(p)} for p in ours["predictions"]] == [{**p, **rounded(p)} for p in theirs["predictions"]]
    command = [sys.executable, str(other / "run.py"), str(image)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    assert run(build, other, image).stdout == text


def rounded(prediction: dict[str, Any]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in prediction.items() if isinstance(value, float)}


@pytest.mark.slow
def test_a_kind_of_answer_that_it_does_not_know_is_refused(build: Path, bundle: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(bundle, tmp_path / "other"))
    manifest = json.loads((other / "manifest.json").read_text(encoding="utf-8"))
    manifest["task"]["answer"]["kind"] = "boxes"
    write_manifest(other, json.dumps(manifest))
    done = run(build, other, tmp_path / "x.ppm")
    assert done.returncode == 8 and "a kind that is not known here: boxes" in done.stderr


@pytest.mark.slow
def test_raw_bytes(build: Path, bundle: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    (tmp_path / "x.raw").write_bytes(pixels.tobytes())
    Image.fromarray(pixels).save(tmp_path / "x.ppm")
    (raw,) = json.loads(run(build, bundle, tmp_path / "x.raw", "--json", "--raw", "12x12x3").stdout)
    (ppm,) = json.loads(run(build, bundle, tmp_path / "x.ppm", "--json").stdout)
    assert raw["predictions"] == ppm["predictions"]


@pytest.mark.slow
def test_its_errors_have_the_codes_of_run_py(build: Path, bundle: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(tmp_path / "good.ppm")
    (tmp_path / "cut.ppm").write_bytes((tmp_path / "good.ppm").read_bytes()[:-9])
    (tmp_path / "huge.ppm").write_bytes(b"P6\n999999 999999\n255\n")
    (tmp_path / "text.ppm").write_bytes(b"hello")
    names = [tmp_path / name for name in ("cut.ppm", "huge.ppm", "text.ppm", "none.ppm", "good.ppm")]
    done = run(build, bundle, *names)
    assert done.returncode == 3 and len(done.stdout.splitlines()) == 1
    for name, line in zip(names, done.stderr.splitlines(), strict=False):
        assert str(name) in line
    for words in ([], [bundle], [bundle, names[-1], "--top", "0"], [bundle, names[-1], "--nonsense"]):
        assert run(build, *words).returncode == 2
    broken = Path(shutil.copytree(bundle, tmp_path / "broken"))
    (broken / "model_tvm.so").write_bytes(b"short")
    done = run(build, broken, names[-1])
    assert done.returncode == 8 and "has 5 bytes, expected" in done.stderr
    (broken / "manifest.json").write_text("{")
    done = run(build, broken, names[-1])
    assert done.returncode == 8 and "its sha256 is not in manifest.sha256" in done.stderr
    write_manifest(broken, "{")
    done = run(build, broken, names[-1])
    assert done.returncode == 8 and "is damaged" in done.stderr
    assert run(build, tmp_path / "nowhere", names[-1]).returncode == 8


@pytest.mark.slow
def test_flipped_bits_are_refused(build: Path, bundle: Path, tmp_path: Path) -> None:
    """Of 40 libraries with four of them, 14 gave other probabilities and exit code 0 while only sizes were checked."""
    Image.fromarray(np.zeros((12, 12, 3), np.uint8)).save(tmp_path / "x.ppm")
    broken, rng = Path(shutil.copytree(bundle, tmp_path / "broken")), np.random.default_rng(0)
    for name in 36 * ["model_tvm.so"] + 2 * ["manifest.json", "manifest.sha256"]:
        data = bytearray((bundle / name).read_bytes())
        for place in rng.integers(8 * len(data), size=4):
            data[place // 8] ^= 1 << place % 8
        (broken / name).write_bytes(data)
        done = run(build, broken, tmp_path / "x.ppm")
        assert (done.returncode, done.stdout) == (8, "") and "this bundle was made with" in done.stderr
        shutil.copy(bundle / name, broken / name)
    assert run(build, broken, tmp_path / "x.ppm").returncode == 0


EMBEDDED = """
#include <stdio.h>
#include "hwautoml.h"
int main(int argc, char** argv) {
  char error[256];
  unsigned char pixels[12 * 12 * 3] = {0};
  float probabilities[3];
  hwautoml_model* model = hwautoml_load(argv[argc - 1], 1, error, sizeof(error));
  if (model == NULL) { printf("%s\\n", error); return 1; }
  if (hwautoml_classify(model, pixels, 12, 12, 3, probabilities, error, sizeof(error))) return 2;
  if (hwautoml_classify(model, pixels, 12, 12, 5, probabilities, error, sizeof(error)) == 0) return 3;
  printf("%d %s %.6f\\n", hwautoml_num_classes(model), hwautoml_class_name(model, 1),
         probabilities[0] + probabilities[1] + probabilities[2]);
  hwautoml_free(model);
  hwautoml_free(NULL);
  return 0;
}
"""


@pytest.mark.slow
def test_the_header_serves_a_c_program(build: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(EMBEDDED)
    compile_c = ["gcc", "-std=c99", "-Wall", "-Werror", f"-I{RUNNER / 'cpp'}", "-c", str(tmp_path / "main.c")]
    subprocess.run([*compile_c, "-o", str(tmp_path / "main.o")], check=True)
    libraries = [str(path) for path in sorted((build / "lib").glob("*.so"))]
    link = ["g++", str(tmp_path / "main.o"), str(build / "libhwautoml.a"), "-Wl,--no-as-needed", *libraries]
    subprocess.run([*link, f"-Wl,-rpath,{build / 'lib'}", "-o", str(tmp_path / "main")], check=True)
    done = subprocess.run([str(tmp_path / "main"), str(bundle)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "3 cat 1.000000\n")
    refused = subprocess.run([str(tmp_path / "main"), "/nowhere"], capture_output=True, text=True)
    assert refused.returncode == 1 and "cannot read /nowhere/manifest.json" in refused.stdout
