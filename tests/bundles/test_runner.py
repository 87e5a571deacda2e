"""``run.py`` as its users run it: a program in a folder, in a process of its own."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import hwautoml.bundles
from hwautoml.bundles import BundleSample, PackedRuntime, read_bundle, write_bundle
from hwautoml.core.pixel_rule import FITS, Fit, PixelRule
from hwautoml.datasets.decoding import decode_image
from hwautoml.errors import RunFolderError
from tests.pictures import png_with_torn_exif
from tests.sealing import edit_manifest

Arguments = dict[str, Any]
Infer = Callable[[Path, np.ndarray], np.ndarray]
RUNNER = Path(hwautoml.bundles.__file__).parent / "runner" / "run.py"


def run(folder: Path, *arguments: object, python: str = sys.executable, **env: str) -> subprocess.CompletedProcess[str]:
    command = [python, str(folder / "run.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", **env}
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, cwd="/")


def picture(seed: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(seed)
    made = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode)
    if mode in ("LA", "RGBA"):
        made.putalpha(Image.fromarray(rng.integers(0, 256, size[::-1], dtype=np.uint8)))
    return made


@pytest.fixture
def folder(tmp_path: Path, bundle_arguments: Arguments, infer: Infer) -> Path:
    images = [np.asarray(picture(seed)) for seed in range(3)]
    samples = [BundleSample(image, infer(bundle_arguments["onnx_path"], image), "cat") for image in images]
    return write_bundle(tmp_path / "a bundle", samples=samples, **bundle_arguments)


def test_classifies(folder: Path, tmp_path: Path, onnx_path: Path, infer: Infer) -> None:
    picture(5).save(tmp_path / "a b.png")
    picture(6).save(tmp_path / "c.png")
    result = run(folder, tmp_path / "a b.png", tmp_path / "c.png", "--json", "--top", "2")
    assert (result.returncode, result.stderr) == (0, "")
    entries = json.loads(result.stdout)
    for entry, seed in zip(entries, (5, 6), strict=True):
        wanted = infer(onnx_path, np.asarray(picture(seed)))
        best = [("bird", "cat", "déjà vu")[i] for i in np.argsort(-wanted)[:2]]
        assert [p["class"] for p in entry["predictions"]] == best
        assert [p["probability"] for p in entry["predictions"]] == pytest.approx(sorted(wanted, reverse=True)[:2])
    assert entries[0]["image"].endswith("a b.png") and entries[0]["runtime"] == "onnxruntime"


def test_plain_output(folder: Path) -> None:
    result = run(folder, folder / "samples" / "0.png", "--top", "9")
    (line,) = result.stdout.splitlines()
    assert line.startswith(f"{folder / 'samples' / '0.png'}: ")
    assert line.count("%") == 3


def test_check(folder: Path) -> None:
    result = run(folder, "--check")
    assert result.returncode == 0, result.stderr
    assert "3 samples as expected with onnxruntime" in result.stdout


def test_check_finds_a_difference(folder: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["samples"][1]["probabilities"][0] += 0.5

    edit_manifest(folder, change)
    result = run(folder, "--check")
    assert result.returncode == 7
    assert "1.png: a probability differs by 0.5" in result.stdout


def test_check_without_samples(tmp_path: Path, bundle_arguments: Arguments) -> None:
    result = run(write_bundle(tmp_path / "b", **bundle_arguments), "--check")
    assert (result.returncode, result.stderr) == (10, "run.py: this bundle holds no samples to check with\n")


def test_unreadable_images_do_not_stop_the_others(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    picture(1, (64, 64)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:3000])
    Image.fromarray(np.zeros((8, 8), dtype=np.float32)).save(tmp_path / "float.tif")
    names = ["text.png", "nowhere.png", "cut.png", "float.tif"]
    result = run(folder, *(tmp_path / name for name in names), folder / "samples" / "0.png")
    assert result.returncode == 3
    assert len(result.stdout.splitlines()) == 1
    for name, line in zip(names, result.stderr.splitlines(), strict=True):
        assert name in line
    assert "Traceback" not in result.stderr


def test_wrong_usage(folder: Path) -> None:
    for arguments in ("", "--top 0 x.png", "--check x.png", "--runtime x x.png", "--threads 0 x.png"):
        result = run(folder, *arguments.split())
        assert result.returncode == 2
        assert "usage: run.py" in result.stderr


def test_help_needs_no_packages(folder: Path) -> None:
    assert run(folder, "--help", python=sys.executable).returncode == 0
    result = subprocess.run([sys.executable, "-S", str(folder / "run.py"), "--help"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "samples/1.png"])
def test_missing_and_changed_files_are_named(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:-5])
    result = run(folder, "--check")
    assert (result.returncode, result.stdout) == (10, "")
    assert name in result.stderr and "copy the" in result.stderr
    path.unlink()
    result = run(folder, "--check")
    assert result.returncode == 10
    assert name in result.stderr and "Traceback" not in result.stderr


def test_another_schema(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest.update(schema="hwautoml-bundle/2"))
    result = run(folder, "--check")
    assert result.returncode == 10 and "'hwautoml-bundle/2'" in result.stderr


def test_missing_tvm_library(folder: Path) -> None:
    result = run(folder, folder / "samples" / "0.png", "--runtime", "tvm")
    assert (result.returncode, result.stdout) == (10, "")
    assert "this bundle has no model_tvm.so; use --runtime onnxruntime" in result.stderr


@pytest.mark.parametrize(("module", "package"), [("onnxruntime", "onnxruntime"), ("PIL", "Pillow"), ("numpy", "numpy")])
def test_missing_packages_are_named(folder: Path, tmp_path: Path, module: str, package: str) -> None:
    (tmp_path / "broken" / module).mkdir(parents=True)
    source = "raise ModuleNotFoundError(f'No module named {__name__!r}')"
    (tmp_path / "broken" / module / "__init__.py").write_text(source)
    result = run(folder, folder / "samples" / "0.png", PYTHONPATH=str(tmp_path / "broken"))
    assert result.returncode == 11, result.stderr
    assert f"{package} is needed" in result.stderr
    assert "pip install" in result.stderr and "Traceback" not in result.stderr


def test_a_model_that_the_runtime_refuses(tmp_path: Path, bundle_arguments: Arguments) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    folder = write_bundle(tmp_path / "b", **{**bundle_arguments, "onnx_path": tmp_path / "bad.onnx"})
    picture(0).save(tmp_path / "x.png")
    result = run(folder, tmp_path / "x.png")
    assert result.returncode == 8
    assert "ONNX Runtime cannot load" in result.stderr and "Traceback" not in result.stderr


def test_a_library_that_tvm_refuses(tmp_path: Path, bundle_arguments: Arguments) -> None:
    pytest.importorskip("tvm")
    (tmp_path / "bad.so").write_bytes(b"not a library")
    folder = write_bundle(tmp_path / "b", tvm_library=tmp_path / "bad.so", default_runtime="tvm", **bundle_arguments)
    picture(0).save(tmp_path / "x.png")
    result = run(folder, tmp_path / "x.png")
    assert result.returncode == 8
    assert "TVM cannot load" in result.stderr and "Traceback" not in result.stderr


def test_grey_model(tmp_path: Path, bundle_arguments: Arguments, grey_onnx_path: Path, infer: Infer) -> None:
    folder = write_bundle(tmp_path / "b", **{**bundle_arguments, "channels": 1, "onnx_path": grey_onnx_path})
    picture(3).save(tmp_path / "x.png")
    result = run(folder, tmp_path / "x.png", "--json", "--top", "1")
    wanted = infer(grey_onnx_path, np.asarray(picture(3, mode="L"))[..., None]).max()
    assert json.loads(result.stdout)[0]["predictions"][0]["probability"] == pytest.approx(wanted)


# The same preparation as in training.


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bundle_runner", RUNNER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 150),
    st.integers(1, 150),
    st.sampled_from(["RGB", "L", "RGBA", "P", "CMYK", "1", "LA"]),
    st.sampled_from(["PNG", "JPEG", "TIFF"]),
    st.sampled_from([1, 3]),
    st.integers(1, 40),
    st.integers(0, 8),
    st.sampled_from(FITS),
)
def test_images_are_prepared_as_for_training(
    runner: ModuleType,
    tmp_path_factory: pytest.TempPathFactory,
    width: int,
    height: int,
    mode: str,
    file_format: str,
    channels: int,
    size: int,
    orientation: int,
    fit: Fit,
) -> None:
    if file_format == "JPEG" and mode not in ("RGB", "L", "CMYK"):
        mode = "RGB"
    if file_format == "PNG" and mode == "CMYK":
        mode = "RGB"
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture(width * height, (width, height), mode).save(buffer, file_format, exif=exif)
    path = tmp_path_factory.getbasetemp() / "image"
    path.write_bytes(buffer.getvalue())
    ground = orientation * 31
    manifest = {"input": {"resolution": size, "image_size": size, "channels": channels, "background": ground}}
    manifest["input"]["fit"] = fit
    found = runner.read_image(path, manifest)
    assert np.array_equal(
        found[0], decode_image(buffer.getvalue(), size, channels, PixelRule(background=ground, fit=fit)).pixels
    )


@pytest.mark.parametrize("kind", ["16 bit", "12 in 16 bit", "32 bit", "float", "big-endian"])
def test_deep_images_are_scaled_as_for_training(runner: ModuleType, tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    low, high = {"12 in 16 bit": (0.0, 4095.0), "float": (-0.5, 0.75)}.get(kind, (29_978.0, 30_183.0))
    values = rng.uniform(low - 3, high + 3, (20, 30)).clip(0 if low >= 0 else -np.inf)
    dtype = {"32 bit": "i4", "float": "f4", "big-endian": ">u2"}.get(kind, "u2")
    path = tmp_path / "x.tif"
    Image.fromarray(values.astype(dtype)).save(path)
    shape = {"resolution": 8, "image_size": 8, "channels": 1, "levels": [low, high]}
    found = runner.read_image(path, {"input": shape})
    assert np.array_equal(found[0], decode_image(path.read_bytes(), 8, 1, PixelRule((low, high))).pixels)
    assert np.ptp(found) > 60  # and not a few levels, as by a shift of eight bits


def test_deep_images_without_levels_are_refused(runner: ModuleType, tmp_path: Path) -> None:
    Image.fromarray(np.full((9, 9), 30_000, np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(runner.BundleError, match="the training images had not") as caught:
        runner.read_image(tmp_path / "x.png", {"input": {"resolution": 8, "image_size": 8, "channels": 1}})
    assert caught.value.exit_code == 3


def test_lower_resolution_goes_through_the_size_of_training(runner: ModuleType, tmp_path: Path) -> None:
    import torch

    from hwautoml.datasets.split import resize_uint8

    picture(4, (90, 70)).save(tmp_path / "x.png")
    found = runner.read_image(tmp_path / "x.png", {"input": {"resolution": 24, "image_size": 32, "channels": 3}})
    trained = decode_image((tmp_path / "x.png").read_bytes(), 32, 3, PixelRule()).pixels
    wanted = resize_uint8(torch.from_numpy(trained.copy())[None].permute(0, 3, 1, 2), 24).permute(0, 2, 3, 1).numpy()
    assert np.abs(found.astype(int) - wanted).max() <= 1


def test_decompression_bomb(runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(4, (90, 70)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    with pytest.raises(runner.BundleError, match="far too large") as caught:
        runner.read_image(tmp_path / "x.png", {"input": {"resolution": 8, "image_size": 8, "channels": 3}})
    assert caught.value.exit_code == 3


@pytest.mark.slow
def test_tvm_library(folder: Path, tmp_path: Path, bundle_arguments: Arguments, onnx_path: Path, infer: Infer) -> None:
    tvm = pytest.importorskip("tvm")
    import onnx
    from tvm.relax.frontend.onnx import from_onnx

    module = from_onnx(onnx.load(onnx_path), keep_params_in_input=False)
    tvm.compile(module, target=tvm.target.Target({"kind": "llvm"})).export_library(str(tmp_path / "lib.so"))
    image = np.asarray(picture(0))
    samples = [BundleSample(image, infer(onnx_path, image))]
    bundle = write_bundle(
        tmp_path / "t", tvm_library=tmp_path / "lib.so", default_runtime="tvm", samples=samples, **bundle_arguments
    )
    result = run(bundle, "--check")
    assert (result.returncode, result.stderr) == (0, "")
    assert "1 samples as expected with tvm" in result.stdout
    assert run(bundle, "--check", "--runtime", "onnxruntime").returncode == 0


# On a machine without torch.


@pytest.mark.slow
def test_runs_without_torch(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = str(home / "bin" / "python")
    requirements = str(folder / "requirements.txt")
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", requirements]
    installed = subprocess.run(install, capture_output=True, text=True, timeout=600)
    if installed.returncode != 0:
        pytest.skip(f"pip cannot install the bundle's requirements here: {installed.stderr.strip()[-300:]}")
    for module in ("torch", "hwautoml", "onnx"):
        missing = subprocess.run([python, "-c", f"import {module}"], capture_output=True, text=True, cwd="/")
        assert missing.returncode != 0 and "ModuleNotFoundError" in missing.stderr
    result = run(folder, "--check", python=python)
    assert result.returncode == 0, result.stderr
    assert "3 samples as expected" in result.stdout
    sample = folder / "samples" / "0.png"
    assert run(folder, sample, "--json", python=python).stdout == run(folder, sample, "--json").stdout


def test_a_torn_note_of_how_a_picture_is_turned(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(png_with_torn_exif())
    picture(0).save(tmp_path / "good.png")
    result = run(folder, tmp_path / "torn.png", tmp_path / "good.png")
    assert result.returncode == 3 and "Traceback" not in result.stderr and "torn.png" in result.stderr
    assert "good.png: " in result.stdout


def test_names_that_the_terminal_cannot_show(folder: Path, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    picture(0).save(tmp_path / "x.png")
    Path(os.fsdecode(name)).write_bytes((tmp_path / "x.png").read_bytes())
    result = run(folder, os.fsdecode(name), PYTHONIOENCODING="ascii")
    assert result.returncode == 0 and r"caf\udce9.png: " in result.stdout


OPENER = """
import numpy
def open_model(path, num_threads):
    with open(path, "rb") as file:
        weights = numpy.load(file)
    def classify(images):
        logits = images.reshape(len(images), -1).astype("float32") @ weights
        return numpy.exp(logits) / numpy.exp(logits).sum(1, keepdims=True)
    return classify
"""


def test_a_further_runtime_brings_its_own_opener(tmp_path: Path, bundle_arguments: dict[str, Any]) -> None:
    """And a kind of file of its own, which the runner knows nothing of."""
    weights = np.random.default_rng(0).normal(0, 0.02, (8 * 8 * 3, 3)).astype(np.float32)  # those of model.onnx
    with (tmp_path / "model.weights").open("wb") as file:
        np.save(file, weights)
    (tmp_path / "opener.py").write_text(OPENER)
    packed = PackedRuntime(
        "numpy-net", tmp_path / "model.weights", "model.weights", tmp_path / "opener.py", ("numpy>=2",)
    )
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    logits = image.reshape(-1).astype("float32") @ weights
    samples = [BundleSample(image, np.exp(logits) / np.exp(logits).sum())]
    folder = write_bundle(
        tmp_path / "b", further=[packed], default_runtime="numpy-net", samples=samples, **bundle_arguments
    )
    for runtime in ("numpy-net", "onnxruntime"):
        told = run(folder, "--check", "--runtime", runtime)
        assert told.returncode == 0 and f"as expected with {runtime}" in told.stdout, told.stderr
    assert "# For --runtime numpy-net:\nnumpy>=2" in (folder / "requirements.txt").read_text()
    bundle = read_bundle(folder)
    assert bundle.default_runtime == "numpy-net" and bundle.files["numpy-net"] == folder / "model.weights"
    (folder / "runtimes" / "numpy-net.py").write_text("import no_such_module")
    assert run(folder, "--check").returncode == 10, "a changed opener is not run"
    with pytest.raises(RunFolderError, match=r"numpy-net\.py"):
        read_bundle(folder)
