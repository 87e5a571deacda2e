"""Write a bundle: all of it, or nothing."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwautoml import __version__
from hwautoml.bundles.bundle import MANIFEST, ONNX_FILE, RUNTIME_FILES, SCHEMA, SEAL, TVM_FILE
from hwautoml.bundles.model_card import model_card
from hwautoml.bundles.readme import readme_text
from hwautoml.bundles.runner.run import OPENERS_FOLDER, seal_text
from hwautoml.core.artifact import sha256_file
from hwautoml.core.pixel_rule import PixelRule
from hwautoml.core.space import Architecture
from hwautoml.core.storage import folder_beside, sync_tree
from hwautoml.core.task import Card, Outcome, Task
from hwautoml.errors import InvalidValueError, RunFolderError, UnknownNameError

Json = object
CPP_FILES = ("CMakeLists.txt", "hwautoml.cpp", "hwautoml.h", "image.cpp", "image.h", "runner.cpp", "sha256.h")
# Differences between CPUs and versions of a runtime stay well below; a wrong preparation does not.
# CPUs without exact int8 sums round more.
SAMPLE_TOLERANCE = {"fp32": 0.01, "int8": 0.05}


@dataclass(frozen=True, eq=False)
class BundleSample:
    """``image`` (image_size, image_size, C) uint8 as the data set holds it, before any resizing to the model's
    resolution; ``outputs`` (num_outputs,) are the deployed model's; ``label`` is the true one as text, if known."""

    image: NDArray[np.uint8]
    outputs: NDArray[np.floating]
    label: str | None = None


@dataclass(frozen=True)
class PackedRuntime:
    """A runtime besides those that the runner opens itself: ``file`` is called ``file_name`` in the bundle.

    ``opener`` is a stand-alone Python program that goes with it, whose ``open_model(path, num_threads)`` returns a
    function from uint8 (1, H, W, C) to probabilities (1, num_classes); ``packages`` are what it needs, for pip.
    """

    name: str
    file: Path
    file_name: str
    opener: Path
    packages: tuple[str, ...] = ()

    @property
    def packed_opener(self) -> str:
        return f"{OPENERS_FOLDER}/{self.name}.py"

    def to_json(self) -> dict[str, Json]:
        """Of the manifest."""
        return {"file": self.file_name, "opener": self.packed_opener, "packages": list(self.packages)}


def write_bundle(
    out_dir: Path,
    *,
    onnx_path: Path,
    tvm_library: Path | None = None,
    further: Sequence[PackedRuntime] = (),
    default_runtime: str = "onnxruntime",
    num_threads: int = 1,
    task: Task,
    resolution: int,
    channels: int,
    image_size: int | None = None,
    pixel_rule: PixelRule | None = None,
    accuracy: Mapping[str, Json],
    latency: Mapping[str, Json],
    conditions: Mapping[str, Json],
    architecture: Architecture | Mapping[str, Json],
    parity: Mapping[str, Json],
    samples: Sequence[BundleSample] = (),
    data: Mapping[str, Json] | None = None,
    outcome: Outcome | None = None,
    precision: str = "fp32",
    quantization: Mapping[str, Json] | None = None,
) -> Path:
    """Write ``out_dir`` in one step, replacing a bundle that is there; returns ``out_dir``.

    The same arguments and versions give the same bytes.

    ``resolution`` is the side of the model's input; ``image_size`` that of the training images (default: the same),
    which ``run.py`` resizes to first, as training did; ``pixel_rule`` is how training made them 8-bit squares.
    ``accuracy``, ``latency``, ``conditions``, ``parity``, ``data`` (name, counts, fingerprint) and ``quantization``
    (``reason``, figures) are to be kept, as JSON; names carry units. ``num_threads`` is what ``run.py`` uses by
    default. ``outcome`` is what the ``task`` kept of the test images. ``classes`` in the manifest are the names of the
    task's outputs.

    Raises:
        InvalidValueError: the arguments contradict each other, or hold what JSON cannot (NaN, objects).
        RunFolderError: ``out_dir`` holds something that is no bundle, or a model does not exist.
        StorageError: there is no room for the bundle, or it cannot be written there.
    """
    known = (*RUNTIME_FILES, *(packed.name for packed in further))
    if default_runtime not in known:
        raise UnknownNameError("runtime", default_runtime, known)
    if precision not in SAMPLE_TOLERANCE:
        raise UnknownNameError("precision", precision, SAMPLE_TOLERANCE)
    if default_runtime == "tvm" and tvm_library is None:
        raise InvalidValueError("default_runtime is tvm, but there is no tvm_library")
    for path in filter(None, (onnx_path, tvm_library, *(path for p in further for path in (p.file, p.opener)))):
        if not path.is_file():
            raise RunFolderError(f"{path} does not exist, so it cannot be bundled")
    for name in task.outputs:
        if name != name.encode(errors="replace").decode():
            raise InvalidValueError(f"class name {name!r} is no text that UTF-8 can hold")
    image_size = image_size or resolution
    _check_samples(samples, (image_size, image_size, channels), task.num_outputs)
    manifest: dict[str, Json] = {
        "schema": SCHEMA,
        "default_runtime": default_runtime,
        "num_threads": num_threads,
        "task": {"name": task.name, "answer": task.answer.to_json()},
        "classes": list(task.outputs),
        "input": {
            "resolution": resolution,
            "channels": channels,
            "image_size": image_size,
            "layout": "NHWC uint8",
            **(pixel_rule or PixelRule()).to_json(),
        },
        "accuracy": dict(accuracy),
        "latency": dict(latency),
        "conditions": dict(conditions),
        "parity": dict(parity),
        "architecture": _architecture_facts(architecture),
        "precision": precision,
        "quantization": None if quantization is None else dict(quantization),
        "data": None if data is None else dict(data),
        "metrics": None if outcome is None else task.manifest_metrics(outcome),
        "sample_tolerance": SAMPLE_TOLERANCE[precision] * task.output_scale,
        "versions": _versions(with_tvm=tvm_library is not None),
    }
    if further:
        manifest["runtimes"] = {packed.name: packed.to_json() for packed in further}
    _write(out_dir, manifest, task.card(outcome), onnx_path, tvm_library, further, samples)
    return out_dir


def _write(
    out_dir: Path,
    manifest: dict[str, Json],
    card: Card,
    onnx_path: Path,
    tvm_library: Path | None,
    further: Sequence[PackedRuntime],
    samples: Sequence[BundleSample],
) -> None:
    _check_replaceable(out_dir)
    with folder_beside(out_dir) as temporary:
        building = temporary / "bundle"
        building.mkdir()
        _fill(building, manifest, card, onnx_path, tvm_library, further, samples)
        _put_in_place(building, out_dir)


def _fill(
    folder: Path,
    manifest: dict[str, Json],
    card: Card,
    onnx_path: Path,
    tvm_library: Path | None,
    further: Sequence[PackedRuntime],
    samples: Sequence[BundleSample],
) -> None:
    shutil.copyfile(onnx_path, folder / ONNX_FILE)
    if tvm_library is not None:
        shutil.copyfile(tvm_library, folder / TVM_FILE)
    for packed in further:
        (folder / OPENERS_FOLDER).mkdir(exist_ok=True)
        shutil.copyfile(packed.opener, folder / packed.packed_opener)
        if packed.file_name not in (ONNX_FILE, TVM_FILE):  # which are there
            shutil.copyfile(packed.file, folder / packed.file_name)
    _copy_runner(folder, with_cpp=tvm_library is not None)
    manifest["samples"] = _write_samples(folder, samples)
    (folder / "requirements.txt").write_text(_requirements(manifest), encoding="utf-8")
    (folder / "README.md").write_text(readme_text(manifest, card), encoding="utf-8")
    (folder / "MODEL_CARD.md").write_text(model_card(manifest, card), encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest["files"] = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_file(path), "size_bytes": path.stat().st_size}
        for path in files
    }
    try:
        text = json.dumps(manifest, indent=2, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"the bundle's figures must be plain, finite JSON values: {error}") from error
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    (folder / SEAL).write_text(seal_text((folder / MANIFEST).read_bytes()), encoding="utf-8")


def _copy_runner(folder: Path, *, with_cpp: bool) -> None:
    """The C++ runner has TVM's runtime only, so it goes with a library."""
    source = resources.files("hwautoml.bundles").joinpath("runner")
    for name in ("run.py", "serve.py", "Containerfile"):
        (folder / name).write_bytes(source.joinpath(name).read_bytes())
    if with_cpp:
        (folder / "cpp").mkdir()
        for name in CPP_FILES:
            (folder / "cpp" / name).write_bytes(source.joinpath("cpp", name).read_bytes())


def _write_samples(folder: Path, samples: Sequence[BundleSample]) -> list[Json]:
    from PIL import Image

    entries: list[Json] = []
    for number, sample in enumerate(samples):
        name = f"samples/{number}.png"
        (folder / "samples").mkdir(exist_ok=True)
        pixels = sample.image[:, :, 0] if sample.image.shape[2] == 1 else sample.image
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / name)
        outputs = [float(p) for p in sample.outputs]
        entries.append({"file": name, "label": sample.label, "probabilities": outputs})
    return entries


def _put_in_place(building: Path, out_dir: Path) -> None:
    """Two renames: at no time is a half-written bundle at ``out_dir``, and the former one is not lost."""
    sync_tree(building)
    former = out_dir.with_name(f".{out_dir.name}.former.{building.parent.name}")
    try:
        if out_dir.exists():
            out_dir.replace(former)
        building.replace(out_dir)
    except BaseException:
        if former.exists() and not out_dir.exists():
            former.replace(out_dir)
        raise
    sync_tree(out_dir.parent, deep=False)
    shutil.rmtree(former, ignore_errors=True)


def _check_replaceable(out_dir: Path) -> None:
    """Nothing but a bundle (or an empty folder) is ever overwritten."""
    if out_dir.is_dir():
        if any(out_dir.iterdir()) and not (out_dir / MANIFEST).is_file():
            raise RunFolderError(
                f"{out_dir} holds files and is no bundle, so it is not replaced",
                fix="choose another folder, or empty it",
            )
    elif out_dir.exists():
        raise RunFolderError(f"{out_dir} is a file", fix="choose another folder")


def _check_samples(samples: Sequence[BundleSample], image_shape: tuple[int, int, int], num_outputs: int) -> None:
    for number, sample in enumerate(samples):
        if sample.image.shape != image_shape or sample.image.dtype != np.uint8:
            raise InvalidValueError(
                f"sample {number} must be uint8 {image_shape}, got {sample.image.dtype} {sample.image.shape}"
            )
        if np.shape(sample.outputs) != (num_outputs,):
            raise InvalidValueError(
                f"sample {number} needs {num_outputs} outputs, got shape {np.shape(sample.outputs)}"
            )


def _architecture_facts(architecture: Architecture | Mapping[str, Json]) -> dict[str, Json]:
    if isinstance(architecture, Architecture):
        return {"id": architecture.id, "space": architecture.space, "values": dict(architecture.values)}
    return dict(architecture)


def _versions(*, with_tvm: bool) -> dict[str, Json]:
    """Of what run.py needs, and of what made the bundle."""
    packages = ["numpy", "pillow", "onnxruntime"] + (["apache-tvm", "apache-tvm-ffi"] if with_tvm else [])
    found: dict[str, Json] = {"hwautoml": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None  # not needed to write a bundle; requirements.txt then leaves it unpinned
    return found


def _requirements(manifest: Mapping[str, Any]) -> str:
    versions = manifest["versions"]
    assert isinstance(versions, dict)
    lines = [f"# What run.py needs; the versions this bundle was made with, on Python {versions['python']}."]
    for package, version in versions.items():
        if package not in ("hwautoml", "python"):
            lines.append(f"{package}=={version}" if version else package)
    if "apache-tvm" in versions:
        lines.append("# onnxruntime serves --runtime onnxruntime, apache-tvm and apache-tvm-ffi serve --runtime tvm:")
        lines.append("# one of the two is enough.")
    for name, packed in manifest.get("runtimes", {}).items():
        lines += [f"# For --runtime {name}:", *packed["packages"]]
    return "\n".join(lines) + "\n"
