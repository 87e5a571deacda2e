"""Bundles that are damaged, forged or hold what they should not: every reader says so, and runs nothing of them."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from hwautoml.bundles import BundleSample, read_bundle, write_bundle
from hwautoml.bundles.runner import run
from hwautoml.errors import HwAutoMLError, InvalidValueError, RunFolderError
from hwautoml.pipeline import verify
from hwautoml.tasks.classification import Classification
from tests.bundles.conftest import _model
from tests.faults.damaging import WRONG, places, with_value
from tests.sealing import edit_manifest, write_manifest

CLASSES = ["bird", "cat", "dog"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("sound")
    model = _model(3)
    onnx.helper.set_model_props(model, {"classes": json.dumps(CLASSES)})
    onnx.save(model, base / "tiny.onnx")
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    probabilities = onnxruntime.InferenceSession(str(base / "tiny.onnx")).run(None, {"images": image[None]})[0][0]
    return write_bundle(
        base / "bundle",
        onnx_path=base / "tiny.onnx",
        task=Classification(tuple(CLASSES)),
        resolution=8,
        channels=3,
        accuracy={},
        latency={},
        conditions={},
        architecture={"id": "abc"},
        parity={},
        samples=[BundleSample(image, probabilities, "cat")],
    )


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "bundle"))


def python(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, cwd="/", timeout=60)


# What lies in the folder beside what belongs there.


@pytest.mark.parametrize("program", ["run.py", "serve.py"])
def test_modules_in_the_folder_are_not_imported(bundle: Path, program: str) -> None:
    for name in ("numpy", "json", "argparse", "onnxruntime", "PIL", "__future__", "email"):
        (bundle / f"{name}.py").write_text("raise SystemExit('executed')\n")
    done = python(bundle / program, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    done = python(bundle / "run.py", "--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_service_leaves_and_reads_no_bytecode(bundle: Path) -> None:
    python(bundle / "serve.py", "--port", "0", "--threads", "0")
    assert not list(bundle.rglob("__pycache__"))


def test_files_that_nobody_knows_are_named_and_nothing_is_run(bundle: Path) -> None:
    assert verify(bundle, no_latency=True)["passed"]
    (bundle / "numpy.py").write_text("")
    (bundle / "samples" / "link").symlink_to("/etc/passwd")
    with pytest.raises(
        RunFolderError, match=r"holds what its manifest does not name: numpy\.py, samples/link\n  fix: rem"
    ):
        verify(bundle, no_latency=True)


# What the manifest says of the model.


def test_class_names_are_the_models(bundle: Path) -> None:
    assert {"name": "classes", "status": "passed", "detail": "3 names are those of the manifest"} in (
        verify(bundle, no_latency=True)["checks"]
    )
    edit_manifest(bundle, lambda manifest: manifest.update(classes=["cat", "bird", "dog"]))
    result = verify(bundle, no_latency=True)
    assert not result["passed"]
    (check,) = (check for check in result["checks"] if check["name"] == "classes")
    assert '["bird", "cat", "dog"] are the model\'s' in check["detail"]


@pytest.mark.parametrize("classes", [["bird", "cat"], ["bird", "cat", "dog", "eel"]])
def test_another_number_of_classes_than_outputs(bundle: Path, classes: list[str]) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest.update(classes=classes, samples=[])

    sample = bundle / "samples" / "0.png"
    edit_manifest(bundle, change)
    done = python(bundle / "run.py", sample)
    assert done.returncode == 10 and f"gives 3 numbers, and manifest.json has {len(classes)} classes" in done.stderr
    assert not verify(bundle, no_latency=True)["passed"]


def test_class_names_that_no_file_can_hold_are_refused(tmp_path: Path, original: Path) -> None:
    manifest = json.loads((original / "manifest.json").read_text())
    given = {key: manifest[key] for key in ("accuracy", "latency", "conditions", "architecture", "parity")}
    with pytest.raises(InvalidValueError, match=r"class name 'caf\\udce9' is no text that UTF-8 can hold"):
        write_bundle(
            tmp_path / "new",
            onnx_path=original / "model.onnx",
            task=Classification(("bird", "cat", "caf\udce9")),
            resolution=8,
            channels=3,
            **given,
        )


# Whom to trust.


def test_a_trusted_manifest(bundle: Path) -> None:
    digest = verify(bundle, no_latency=True)["manifest_sha256"]
    result = verify(bundle, no_latency=True, trusted=digest.upper() + "\n")
    assert result["passed"] and "its manifest is the trusted one" in result["checks"][0]["detail"]
    edit_manifest(bundle, lambda manifest: manifest["accuracy"].update(test_top1=1.0))
    assert "by hashes of its own" in verify(bundle, no_latency=True)["checks"][0]["detail"]
    with pytest.raises(RunFolderError, match=f"is not the trusted one: its sha256 is .*, expected {digest}"):
        verify(bundle, no_latency=True, trusted=digest)


def test_sha256sum_checks_the_manifest(bundle: Path) -> None:
    """The file beside it is in that program's own format."""
    done = subprocess.run(["sha256sum", "-c", "manifest.sha256"], cwd=bundle, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "manifest.json: OK\n")


def test_a_bundle_of_before_has_no_seal(bundle: Path) -> None:
    def without_it(manifest: dict[str, Any]) -> None:
        manifest["files"].pop("MODEL_CARD.md")

    edit_manifest(bundle, without_it)
    (bundle / "MODEL_CARD.md").unlink()
    (bundle / "manifest.sha256").unlink()
    assert verify(bundle, no_latency=True)["passed"] and python(bundle / "run.py", "--check").returncode == 0


# Damage.


def damaged(data: bytes, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    place = int(rng.integers(len(data)))
    yield "flipped", data[:place] + bytes([data[place] ^ (1 << int(rng.integers(8)))]) + data[place + 1 :]
    yield "truncated", data[: int(rng.integers(len(data)))]
    yield "empty", b""
    yield "longer", data + b"\n"


def refusals(bundle: Path) -> dict[str, bool]:
    """By reader; each in this process, where a crash would be seen."""
    refused = {}
    try:
        read_bundle(bundle)
    except RunFolderError:
        refused["read_bundle"] = True
    try:
        manifest = run.read_manifest(bundle)
        for name in manifest["files"]:  # as --check does
            run.verified_file(bundle, manifest, name)
    except run.BundleError as error:
        refused["run.py --check"] = error.exit_code == run.EXIT_BAD_BUNDLE
    return refused


@pytest.mark.parametrize("num_rounds", [1, pytest.param(25, marks=pytest.mark.faults)])
def test_no_damage_of_any_file_is_accepted(bundle: Path, num_rounds: int) -> None:
    rng = np.random.default_rng(num_rounds)
    files = [path for path in bundle.rglob("*") if path.is_file()]
    for _ in range(num_rounds):
        for path in files:
            whole = path.read_bytes()
            for kind, data in damaged(whole, rng):
                path.write_bytes(data)
                assert refusals(bundle) == {"read_bundle": True, "run.py --check": True}, (path, kind)
            path.write_bytes(whole)
    assert refusals(bundle) == {}


@pytest.mark.parametrize("name", ["run.py", "model.onnx", "manifest.json", "manifest.sha256"])
def test_what_the_runner_uses_is_checked_in_every_run(bundle: Path, name: str) -> None:
    sample = (bundle / "samples" / "0.png").read_bytes()
    (bundle.parent / "image.png").write_bytes(sample)
    data = (bundle / name).read_bytes()
    (bundle / name).write_bytes(data + b"\n")
    done = python(bundle / "run.py", bundle.parent / "image.png")
    assert (done.returncode, done.stdout) == (10, "") and "Traceback" not in done.stderr


@pytest.mark.faults
def test_no_value_in_a_manifest_leads_to_a_traceback(bundle: Path) -> None:
    """Every place of the manifest with every wrong value, as if meant: sealed."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    image = (bundle / "samples" / "0.png").read_bytes()
    trials = 0
    for path in places(manifest):
        if path[0] == "files" and len(path) > 1 and path[1] not in ("model.onnx", "run.py"):
            continue
        for value in WRONG:
            trials += 1
            write_manifest(bundle, json.dumps(with_value(manifest, path, value)))
            try:
                checked = run.read_manifest(bundle)
                classify = run.open_model(bundle, checked, checked["default_runtime"], 1)
                run.check_samples(bundle, checked, "onnxruntime", classify)
                run.answers(classify(run.decode_image(image, "image", checked))[0], checked, 3)
            except run.BundleError as error:
                assert len(str(error)) < 2000
            try:
                read_bundle(bundle)
            except HwAutoMLError as error:
                assert len(str(error)) < 2000
    assert trials > 800


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("input", "image_size"), 10**6),
        (("input", "resolution"), 0),
        (("input", "channels"), 2),
        (("num_threads",), 10**9),
        (("classes",), []),
        (("classes",), [1, 2, 3]),
        (("samples", 0, "file"), "../../etc/passwd"),
        (("samples", 0, "probabilities"), [0.5]),
        (("samples", 0, "probabilities", 1), math.nan),
        (("sample_tolerance",), "much"),
        (("files", "model.onnx"), "x"),
        (("latency",), []),
    ],
)
def test_manifests_are_validated_where_they_are_read(bundle: Path, path: tuple[Any, ...], value: Any) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    write_manifest(bundle, json.dumps(with_value(manifest, path, value)))
    with pytest.raises(RunFolderError, match=r"manifest\.json"):
        read_bundle(bundle)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "9" * 5000, "\ufeff{}", "\x00"])
def test_manifests_that_are_hard_to_parse(bundle: Path, text: str) -> None:
    write_manifest(bundle, text)
    with pytest.raises(RunFolderError, match=r"manifest\.json"):
        read_bundle(bundle)
    assert python(bundle / "run.py", "--check").returncode == 10


def _sparse(path: Path) -> None:
    path.unlink()
    with path.open("wb") as file:
        file.truncate(100 << 30)


def _fifo(path: Path) -> None:
    import os

    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("make", [_sparse, _fifo])
@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256", "model.onnx", "samples/0.png"])
def test_files_that_are_none_neither_hang_nor_fill_the_memory(
    bundle: Path, make: Callable[[Path], None], name: str
) -> None:
    make(bundle / name)
    with pytest.raises(RunFolderError, match=Path(name).name.replace(".", r"\.")):
        read_bundle(bundle)
    done = python(bundle / "run.py", "--check")
    assert done.returncode == 10 and "Traceback" not in done.stderr


def test_names_are_neither_markup_nor_html_in_a_bundles_texts(tmp_path: Path, original: Path) -> None:
    hostile = ["<img src=x onerror=alert(1)>", "[click](javascript:alert) | **x**", "a_b\n# heading"]
    folder = write_bundle(
        tmp_path / "new",
        onnx_path=original / "model.onnx",
        task=Classification(tuple(hostile)),
        resolution=8,
        channels=3,
        accuracy={"test": 0.5},
        latency={},
        conditions={"cpu": "<b>fast</b>"},
        architecture={"id": "abc"},
        parity={},
        data={"name": "<i>photos</i>", "counts": {"train": 1}},
        outcome=np.eye(3, dtype=np.int64),
    )
    for name in ("MODEL_CARD.md", "README.md"):
        text = (folder / name).read_text(encoding="utf-8")
        assert "&lt;img src=x" in text and r"\[click\](javascript:alert) \| \*\*x\*\*" in text
        assert r"a_b\\n\# heading" in text and "<" not in text.replace("<=", "")
    assert json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["classes"] == hostile


def test_the_runner_shows_hostile_file_names_on_one_line(bundle: Path) -> None:
    image = bundle.parent / "a\x1b[31m\nb.png"
    image.write_bytes((bundle / "samples" / "0.png").read_bytes())
    done = python(bundle / "run.py", image, bundle.parent / "none\x1b.png")
    assert done.returncode == 3 and "\x1b" not in done.stdout + done.stderr
    assert done.stdout.startswith(f"{bundle.parent}/a\\x1b[31m\\nb.png: ") and len(done.stdout.splitlines()) == 1
