"""A real bundle with a small model on ONNX Runtime, checked and damaged."""

from __future__ import annotations

import platform
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from hwautoml.bundles import BundleSample, write_bundle
from hwautoml.compilers import load_backend
from hwautoml.devices.machine import fingerprint
from hwautoml.errors import ParityError, RegressionError, RunFolderError
from hwautoml.pipeline import verify
from hwautoml.pipeline.verbs.verifying import require_verified
from hwautoml.tasks.classification import Classification
from tests.pipeline.verbs.test_benching import classifier
from tests.sealing import edit_manifest


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("verified")
    path = classifier(base / "small.onnx")
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    probabilities = onnxruntime.InferenceSession(str(path)).run(None, {"images": image[None]})[0][0]
    here = fingerprint("onnxruntime", load_backend("onnxruntime").version())
    return write_bundle(
        base / "bundle",
        onnx_path=path,
        task=Classification(("a", "b", "c")),
        resolution=8,
        channels=3,
        accuracy={},
        latency={"measured_median": 1000.0, "measured_interval": [999.0, 1001.0]},
        conditions={"fingerprint": here},
        architecture={"id": "x"},
        parity={},
        samples=[BundleSample(image, probabilities, "a")],
    )


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "bundle"))


def statuses(result: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["status"] for check in result["checks"]}


def test_a_sound_bundle_passes(bundle: Path) -> None:
    result = verify(bundle)
    names = ["files", "samples on onnxruntime", "latency"]
    assert result["passed"]
    assert statuses(result) == {**dict.fromkeys(names, "passed"), "classes": "skipped"}  # the model names none
    latency = result["checks"][-1]
    assert 0 < latency["median_ms"] < latency["promised_ms"] == 1000.0
    require_verified(result)


def test_slower_than_promised_fails(bundle: Path) -> None:
    edit_manifest(bundle, lambda m: m["latency"].update(measured_median=1e-6, measured_interval=[1e-6, 1.1e-6]))
    result = verify(bundle)
    assert not result["passed"] and statuses(result)["latency"] == "failed"
    with pytest.raises(RegressionError, match=r"latency: .* ms on onnxruntime \(measured.*promised 1e-06 ms"):
        require_verified(result)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m["conditions"].update(fingerprint="elsewhere"), "another machine or runtime: elsewhere, this is"),
        (lambda m: m.update(latency={}), "promises none that was measured"),
        (lambda m: m.update(num_threads=4096), "the promise is for 4096 threads"),
    ],
)
def test_what_cannot_be_compared_is_skipped_and_said(bundle: Path, change: Callable[..., object], reason: str) -> None:
    edit_manifest(bundle, change)
    check = verify(bundle)["checks"][-1]
    assert check["status"] == "skipped" and reason in check["detail"]


def test_a_board_that_measured_through_its_agent_verifies_itself(bundle: Path) -> None:
    edit_manifest(bundle, lambda m: m["conditions"].update(fingerprint=m["conditions"]["fingerprint"] + "-rpc"))
    assert statuses(verify(bundle))["latency"] == "passed"


def test_latency_is_left_out_on_demand(bundle: Path) -> None:
    edit_manifest(bundle, lambda m: m["latency"].update(measured_median=1e-6, measured_interval=[1e-6, 1.1e-6]))
    result = verify(bundle, no_latency=True)
    assert result["passed"] and result["checks"][-1]["detail"] == "--no-latency"


def test_other_results_than_expected_fail(bundle: Path) -> None:
    def other(manifest: dict[str, Any]) -> None:
        manifest["samples"][0]["probabilities"] = [0.0, 0.0, 1.0]

    edit_manifest(bundle, other)
    result = verify(bundle, no_latency=True)
    assert statuses(result)["samples on onnxruntime"] == "failed"
    with pytest.raises(ParityError, match="samples on onnxruntime: outputs of 1 samples differ"):
        require_verified(result)


def test_nothing_of_a_changed_bundle_is_run(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes()[:-1])
    with pytest.raises(RunFolderError, match=r"model\.onnx has \d+ bytes, expected"):
        verify(bundle)


def test_a_bundle_without_samples_says_so(bundle: Path) -> None:
    edit_manifest(bundle, lambda m: m.update(samples=[]))
    assert statuses(verify(bundle, no_latency=True))["samples on onnxruntime"] == "skipped"


def test_a_run_folder_is_its_bundle(bundle: Path, tmp_path: Path) -> None:
    assert verify(tmp_path, no_latency=True)["bundle"] == str(bundle)


def test_a_library_for_another_processor_is_skipped_and_said(original: Path, tmp_path: Path) -> None:
    """Which is what a bundle made for a board holds."""
    library = tmp_path / "model.so"
    number = 183 if platform.machine() != "aarch64" else 62
    library.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, number) + bytes(44))
    bundle = write_bundle(
        tmp_path / "bundle",
        onnx_path=original / "model.onnx",
        tvm_library=library,
        task=Classification(("a", "b", "c")),
        resolution=8,
        channels=3,
        accuracy={},
        latency={},
        conditions={},
        architecture={"id": "x"},
        parity={},
        samples=[BundleSample(np.zeros((8, 8, 3), np.uint8), np.full(3, 1 / 3), "a")],
    )
    found = {check["name"]: check for check in verify(bundle, no_latency=True)["checks"]}["samples on tvm"]
    assert found["status"] == "skipped" and "the library is for" in found["detail"]
