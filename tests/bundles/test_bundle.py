from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hwautoml.bundles
from hwautoml.bundles import BundleSample, read_bundle, write_bundle
from hwautoml.core.artifact import sha256_file
from hwautoml.core.space import Architecture
from hwautoml.errors import InvalidValueError, RunFolderError, StorageError, UnknownNameError
from hwautoml.tasks.classification import Classification
from tests.sealing import edit_manifest, write_manifest

Arguments = dict[str, Any]
IMAGE = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path, bundle_arguments: Arguments) -> Path:
    return write_bundle(tmp_path / "out" / "bundle", **bundle_arguments)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_round_trip(folder: Path, onnx_path: Path) -> None:
    bundle = read_bundle(folder)
    assert bundle.classes == ("bird", "cat", "déjà vu")
    assert (bundle.default_runtime, bundle.tvm_library) == ("onnxruntime", None)
    assert bundle.onnx_path.read_bytes() == onnx_path.read_bytes()
    assert bundle.manifest["latency"] == {"predicted_ms": 0.5, "median_ms": 0.52, "interval_ms": [0.51, 0.53]}
    assert bundle.manifest["input"]["image_size"] == 8
    assert set(snapshot(folder)) == {
        "Containerfile",
        "MODEL_CARD.md",
        "README.md",
        "manifest.json",
        "manifest.sha256",
        "model.onnx",
        "requirements.txt",
        "run.py",
        "serve.py",
    }
    assert set(bundle.manifest["files"]) == set(snapshot(folder)) - {"manifest.json", "manifest.sha256"}
    assert bundle.manifest["files"]["model.onnx"]["sha256"] == sha256_file(onnx_path)
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]
    assert folder.stat().st_mode & 0o777 == 0o755


def test_runner_is_the_file_of_the_package(folder: Path) -> None:
    source = Path(hwautoml.bundles.__file__).parent / "runner" / "run.py"
    assert (folder / "run.py").read_bytes() == source.read_bytes()


def test_texts(tmp_path: Path, bundle_arguments: Arguments) -> None:
    (tmp_path / "lib.so").write_bytes(b"library")
    folder = write_bundle(tmp_path / "b", tvm_library=tmp_path / "lib.so", default_runtime="tvm", **bundle_arguments)
    requirements = (folder / "requirements.txt").read_text()
    for package in ("numpy==", "pillow==", "onnxruntime==", "apache-tvm==", "apache-tvm-ffi=="):
        assert f"\n{package}" in requirements
    readme = (folder / "README.md").read_text()
    assert "bird, cat, déjà vu" in readme and "median_ms 0.52" in readme and "test_top1 0.912" in readme
    assert read_bundle(folder).tvm_library == folder / "model_tvm.so"
    sources = Path(hwautoml.bundles.__file__).parent / "runner" / "cpp"
    assert {p.name: p.read_bytes() for p in (folder / "cpp").iterdir()} == snapshot(sources)
    assert "`cpp/`" in readme


CONFUSION = np.array([[8, 2, 0], [1, 9, 0], [0, 5, 5]])


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path, bundle_arguments: Arguments) -> None:
    (tmp_path / "lib.so").write_bytes(b"library")
    more = {
        "tvm_library": tmp_path / "lib.so",
        "samples": [BundleSample(IMAGE, np.array([0.1, 0.2, 0.7]), "cat")],
        "outcome": CONFUSION,
        "data": {"name": "pets", "counts": {"train": 90, "test": 30}},
    }
    first, second = (write_bundle(tmp_path / name, **bundle_arguments, **more) for name in ("a", "b"))
    os.utime(first / "model.onnx", (0, 0))
    assert snapshot(first) == snapshot(second) and len(snapshot(first)) > 12


def test_model_card(tmp_path: Path, bundle_arguments: Arguments) -> None:
    arguments = {
        **bundle_arguments,
        "accuracy": {"val": 0.75, "test": 22 / 30},
        "latency": {"limit": 1.0, "measured_median": 0.52, "measured_interval": [0.51, 0.53]},
    }
    folder = write_bundle(
        tmp_path / "b",
        **arguments,
        outcome=CONFUSION,
        data={"name": "pets", "counts": {"train": 90, "test": 30}},
        quantization={"reason": "fp32: int8 was slower."},
    )
    text = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    for part in (
        "pets: 90 train, 30 test images",
        "73.33% of 30 test images (95 % interval 55.55% to 85.82%)",
        "| bird | 10 | 80.0% | 88.9% |",
        "| déjà vu | 10 | 50.0% | 100.0% |",
        "| cat | 10 | 90.0% | 56.2% |",
        "0.52 ms per image (measured, 95 % 0.51 to 0.53) with onnxruntime, 1 thread(s); the limit was 1 ms",
        "déjà vu is recognised least often (50.0%)",
        "fp32: int8 was slower.",
        "machine test bench",
    ):
        assert part in text, part
    cat = read_bundle(folder).manifest["metrics"][1]
    assert cat == {"class": "cat", "images": 10, "recall": 0.9, "precision": 9 / 16}


def test_a_card_without_figures_says_so(folder: Path) -> None:
    text = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "Per class: not recorded." in text and "test_top1 0.912" in text


def test_architecture_noun(tmp_path: Path, bundle_arguments: Arguments) -> None:
    architecture = Architecture("mobile/v1", (("depth", 2),))
    folder = write_bundle(tmp_path / "b", **{**bundle_arguments, "architecture": architecture})
    expected = {"id": architecture.id, "space": "mobile/v1", "values": {"depth": 2}}
    assert read_bundle(folder).manifest["architecture"] == expected


def test_samples(tmp_path: Path, bundle_arguments: Arguments) -> None:
    sample = BundleSample(IMAGE, np.array([0.1, 0.2, 0.7], dtype=np.float32), "cat")
    folder = write_bundle(tmp_path / "b", samples=[sample, sample], **bundle_arguments)
    (entry, _) = read_bundle(folder).manifest["samples"]
    assert (entry["file"], entry["label"]) == ("samples/0.png", "cat")
    assert entry["probabilities"] == pytest.approx([0.1, 0.2, 0.7])


def test_a_bundle_is_replaced(folder: Path, bundle_arguments: Arguments) -> None:
    (folder / "left_over").write_text("x")
    write_bundle(folder, **{**bundle_arguments, "task": Classification(("x", "y", "z"))})
    assert read_bundle(folder).classes == ("x", "y", "z")
    assert not (folder / "left_over").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_an_empty_folder_is_used(tmp_path: Path, bundle_arguments: Arguments) -> None:
    (tmp_path / "empty").mkdir()
    read_bundle(write_bundle(tmp_path / "empty", **bundle_arguments))


def test_other_folders_and_files_are_never_replaced(tmp_path: Path, bundle_arguments: Arguments) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.md").write_text("years of work")
    with pytest.raises(RunFolderError, match="thesis holds files and is no bundle"):
        write_bundle(tmp_path / "thesis", **bundle_arguments)
    with pytest.raises(RunFolderError, match=r"text\.md is a file"):
        write_bundle(tmp_path / "thesis" / "text.md", **bundle_arguments)
    assert snapshot(tmp_path / "thesis") == {"text.md": b"years of work"}


@pytest.mark.parametrize("moment", ["copyfile", "replace"])
def test_a_failure_leaves_the_former_bundle(
    folder: Path, bundle_arguments: Arguments, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    before = snapshot(folder)
    if moment == "copyfile":

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("hwautoml.bundles.writing.shutil.copyfile", full)
    else:
        rename = Path.replace

        def fail_once_aside(self: Path, target: Path) -> Path:
            if target == folder and "former" not in self.name:
                raise OSError(5, "Input/output error")
            return rename(self, target)

        monkeypatch.setattr(Path, "replace", fail_once_aside)
    with pytest.raises(StorageError, match="(no room to|cannot) write .*bundle"):
        write_bundle(folder, **{**bundle_arguments, "task": Classification(("x", "y", "z"))})
    assert snapshot(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_a_missing_model_is_named(tmp_path: Path, bundle_arguments: Arguments) -> None:
    with pytest.raises(RunFolderError, match=r"nowhere\.onnx"):
        write_bundle(tmp_path / "b", **{**bundle_arguments, "onnx_path": tmp_path / "nowhere.onnx"})
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"default_runtime": "tvm"}, "default_runtime is tvm, but there is no tvm_library"),
        ({"accuracy": {"test_top1": float("nan")}}, "finite JSON"),
        ({"latency": {"median_ms": Path("x")}}, "plain, finite JSON"),
        ({"samples": [BundleSample(IMAGE[:4], np.zeros(3))]}, r"sample 0 must be uint8 \(8, 8, 3\)"),
        ({"samples": [BundleSample(IMAGE, np.zeros(2))]}, "sample 0 needs 3 outputs"),
    ],
)
def test_contradicting_arguments(tmp_path: Path, bundle_arguments: Arguments, changes: Arguments, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        write_bundle(tmp_path / "b", **{**bundle_arguments, **changes})
    assert not (tmp_path / "b").exists()


def test_unknown_runtime(tmp_path: Path, bundle_arguments: Arguments) -> None:
    with pytest.raises(UnknownNameError, match="unknown runtime 'onnx'; known: onnxruntime, tvm"):
        write_bundle(tmp_path / "b", default_runtime="onnx", **bundle_arguments)


# Reading what is damaged.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema="hwautoml-bundle/9"), "has schema 'hwautoml-bundle/9', this version reads"),
        (lambda m: m.pop("classes"), "'classes' must be a list, got None"),
        (lambda m: m.update(files=[]), "'files' must be a dict"),
        (lambda m: m["input"].pop("channels"), "input needs 'channels'"),
        (lambda m: m.update(default_runtime="x"), "unknown default_runtime 'x'"),
        (lambda m: m.update(default_runtime="tvm"), r"lists no model_tvm\.so"),
        (lambda m: m["files"].pop("run.py"), r"lists no run\.py"),
        (lambda m: m["files"].update({"../x": {"sha256": "", "size_bytes": 0}}), "'../x', which lies outside"),
        (lambda m: m["files"].update({"/etc/passwd": {"sha256": "", "size_bytes": 0}}), "lies outside"),
        (lambda m: m["files"].update({"more": {"sha256": "", "size_bytes": 0}}), "more is missing"),
        (lambda m: m["files"].update({"run.py": 3}), r"'run\.py' needs sha256 and size_bytes, got 3"),
    ],
)
def test_bad_manifest(folder: Path, change: Callable[[dict], object], message: str) -> None:
    edit_manifest(folder, change)
    with pytest.raises(RunFolderError, match=message):
        read_bundle(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"'])
def test_manifest_that_is_none(folder: Path, text: str) -> None:
    write_manifest(folder, text)
    with pytest.raises(RunFolderError, match=r"manifest\.json"):
        read_bundle(folder)


def test_changed_files_are_named(folder: Path) -> None:
    data = bytearray((folder / "model.onnx").read_bytes())
    data[-1] ^= 1
    (folder / "model.onnx").write_bytes(data)
    with pytest.raises(RunFolderError, match=r"model\.onnx was changed"):
        read_bundle(folder)
    (folder / "model.onnx").write_bytes(data[:-1])
    with pytest.raises(RunFolderError, match=r"model\.onnx has \d+ bytes, expected \d+"):
        read_bundle(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(RunFolderError, match=r"model\.onnx is missing"):
        read_bundle(folder)


def test_not_a_bundle(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunFolderError, match=r"is no bundle: it has no manifest\.json"):
            read_bundle(path)
