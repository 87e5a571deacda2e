"""Cross-compile, upload, compare, measure and ship to an arm64 board, through the command line, under qemu."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from hwautoml.bundles.writing import BundleSample, write_bundle
from hwautoml.core.resources import package_folder
from hwautoml.devices.rpc import RpcDevice
from hwautoml.errors import MeasurementError, TargetUnavailableError
from hwautoml.exporters import quantize_onnx
from hwautoml.tasks.classification import Classification
from tests.edge.emulated_board import KEY, EmulatedBoard

pytestmark = pytest.mark.edge
TOLERANCE = 1e-4  # of the outputs' scale
Hwautoml = Callable[..., Any]


@pytest.fixture(scope="session")
def hwautoml() -> Hwautoml:
    """``hwautoml(*words)`` runs the program and returns what ``--json`` prints."""

    def run(*words: str | Path, exit_code: int = 0) -> Any:
        command = [sys.executable, "-m", "hwautoml.cli", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == exit_code, done.stdout + done.stderr
        return json.loads(done.stdout) if exit_code == 0 else done.stderr

    return run


@pytest.fixture(scope="session")
def pi(tmp_path_factory: pytest.TempPathFactory) -> tuple[str | Path, ...]:
    """Options that name the Raspberry Pi 4 with one thread."""
    return _with_one_thread("rpi4", tmp_path_factory.mktemp("targets"))


def _with_one_thread(name: str, folder: Path) -> tuple[str | Path, ...]:
    """This machine, and so the board, may have fewer cores than the target."""
    text = (package_folder("targets") / f"{name}.toml").read_text(encoding="utf-8")
    assert "num_threads = 4" in text
    (folder / "pi.toml").write_text(text.replace("num_threads = 4", "num_threads = 1"), encoding="utf-8")
    return "--target", "pi", "--targets-dir", folder


@pytest.fixture(scope="session")
def compiled(
    hwautoml: Hwautoml,
    address: str,
    pi: tuple[str | Path, ...],
    networks: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[str, Any]]:
    """Every network compiled for the Raspberry Pi 4 and checked on the board."""
    folder = tmp_path_factory.mktemp("compiled")
    return [
        hwautoml(
            "compile",
            path,
            *pi,
            "--runtime",
            "tvm",
            "--out",
            folder / path.stem,
            "--device",
            address,
            "--key",
            KEY,
            "--json",
        )
        for path in networks
    ]


def test_the_board_says_that_it_is_emulated(hwautoml: Hwautoml, address: str) -> None:
    (row,) = hwautoml("devices", "--device", address, "--key", KEY, "--json")["devices"]
    (report,) = row["reports"]
    assert (row["state"], report["machine"], report["agent"]) == ("free", "aarch64", True)
    assert report["emulator"].startswith("qemu-aarch64") and "-emulated-" in report["fingerprint"]


def test_a_board_in_use_is_busy(hwautoml: Hwautoml, address: str) -> None:
    with RpcDevice(address, key=KEY) as first:
        first.conditions()
        (row,) = hwautoml("devices", "--device", address, "--key", KEY, "--json")["devices"]
    assert (row["state"], row["reports"]) == ("busy", [])
    (row,) = hwautoml("devices", "--device", address, "--key", "wrong", "--json")["devices"]
    assert row["state"] == "unreachable" and "another key" in row["reason"]


def test_cross_compiled_networks_compute_what_onnx_runtime_does(compiled: list[dict[str, Any]]) -> None:
    for result in compiled:
        assert result["target"] == "pi" and result["fallbacks"] == []
        assert result["parity"]["max_relative"] <= TOLERANCE
        assert Path(result["path"]).read_bytes()[18] == 183  # ELF's number of aarch64


def test_a_quantised_network_computes_what_its_file_says(
    hwautoml: Hwautoml, address: str, pi: tuple[str | Path, ...], networks: list[Path], tmp_path: Path
) -> None:
    """Integers on a processor that multiplies no pairs of them."""
    result = _compiled_in_int8(hwautoml, address, pi, networks[0], tmp_path)
    assert result["fallbacks"] == [] and result["parity"]["max_relative"] < 0.02
    assert _count_byte_products(Path(result["path"])) == 0


def test_products_of_bytes_compute_what_the_file_says(
    hwautoml: Hwautoml, board: EmulatedBoard, networks: list[Path], tmp_path: Path
) -> None:
    """The Raspberry Pi 5's processor sums four products of bytes in one instruction."""
    with board.with_processor("cortex-a76").agent() as address:
        result = _compiled_in_int8(hwautoml, address, _with_one_thread("rpi5", tmp_path), networks[1], tmp_path)
    assert result["fallbacks"] == [] and result["parity"]["max_relative"] < 0.02
    assert _count_byte_products(Path(result["path"])) > 100


def _compiled_in_int8(
    hwautoml: Hwautoml, address: str, target: tuple[str | Path, ...], network: Path, folder: Path
) -> dict[str, Any]:
    source = folder / "int8.onnx"
    side = int(onnx.load(network).graph.input[0].type.tensor_type.shape.dim[1].dim_value)
    images = np.random.default_rng(0).integers(0, 256, (8, side, side, 3), dtype=np.uint8)
    quantize_onnx(network, source, images)
    return hwautoml(
        "compile",
        source,
        *target,
        "--runtime",
        "tvm",
        "--out",
        folder / "out",
        "--device",
        address,
        "--key",
        KEY,
        "--json",
    )


def _count_byte_products(library: Path) -> int:
    """Instructions ``sdot Vd.4S, Vn.16B, Vm``, by their bits, wherever a library may have its code."""
    code = library.read_bytes()
    words = np.frombuffer(code[: len(code) // 4 * 4], "<u4")
    whole, of_one_place = words & 0xFFE0FC00 == 0x4E809400, words & 0xFFC0F400 == 0x4F80E000
    return int(np.count_nonzero(whole | of_one_place))


def test_predictions_agree_on_many_images(address: str, networks: list[Path], compiled: list[dict[str, Any]]) -> None:
    import onnxruntime

    for path, result in zip(networks, compiled, strict=True):
        session = onnxruntime.InferenceSession(str(path))
        (given,) = session.get_inputs()
        images = np.random.default_rng(5).integers(0, 256, (30, *given.shape[1:]), dtype=np.uint8)
        expected = np.concatenate([session.run(None, {given.name: image[None]})[0] for image in images])
        with RpcDevice(address, key=KEY) as device:
            got = device.run_model(Path(result["path"]), images)
        assert np.abs(got - expected).max() <= TOLERANCE * expected.max()
        assert (got.argmax(axis=1) == expected.argmax(axis=1)).all()


def test_times_are_marked_emulated(
    hwautoml: Hwautoml, address: str, pi: tuple[str | Path, ...], compiled: list[dict[str, Any]], tmp_path: Path
) -> None:
    result = hwautoml(
        "bench",
        *(found["path"] for found in compiled),
        *pi,
        "--budget",
        "15s",
        "--device",
        address,
        "--key",
        KEY,
        "--csv",
        tmp_path / "rows.csv",
        "--json",
    )
    assert len(result["rows"]) == len(compiled) and not result["failed"]
    for row in result["rows"]:
        assert row["origin"] == "emulated" and row["median_ms"] > 0
        assert row["conditions"]["emulator"].startswith("qemu-aarch64")
        assert row["conditions"]["connection"] == "rpc" and row["conditions"]["machine"] == "aarch64"
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert "measured" not in "".join(lines) and all(line.endswith("emulated") for line in lines[1:])


def test_times_never_enter_a_table(
    hwautoml: Hwautoml, address: str, pi: tuple[str | Path, ...], tmp_path: Path
) -> None:
    profiles = tmp_path / "profiles"
    error = hwautoml(
        "profile",
        *pi,
        "--runtime",
        "tvm",
        "--device",
        address,
        "--key",
        KEY,
        "--profiles-dir",
        profiles,
        "--budget",
        "20s",
        "--json",
        exit_code=MeasurementError.exit_code,
    )
    assert "the device is emulated (qemu-aarch64" in error and "tables estimate" in error
    assert not list(profiles.rglob("*.json"))


def test_a_run_refuses_the_board_before_anything_is_trained(
    hwautoml: Hwautoml, address: str, pi: tuple[str | Path, ...], tmp_path: Path
) -> None:
    error = hwautoml(
        "run",
        "digits",
        *pi,
        "--latency-ms",
        "5",
        "--device",
        address,
        "--key",
        KEY,
        "--out",
        tmp_path / "run",
        exit_code=MeasurementError.exit_code,
    )
    assert "the device is emulated" in error and not (tmp_path / "run").exists()


def test_a_wrong_key_is_one_error(
    hwautoml: Hwautoml, address: str, pi: tuple[str | Path, ...], compiled: list[dict[str, Any]]
) -> None:
    error = hwautoml(
        "bench",
        compiled[0]["path"],
        *pi,
        "--device",
        address,
        "--key",
        "wrong",
        exit_code=TargetUnavailableError.exit_code,
    )
    assert "another key" in error and "Traceback" not in error


@pytest.fixture(scope="session")
def bundle(networks: list[Path], compiled: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the board, with samples whose probabilities are ONNX Runtime's on this machine."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(networks[0]))
    (given,) = session.get_inputs()
    side = int(given.shape[1])
    images = np.random.default_rng(7).integers(0, 256, (4, side, side, 3), dtype=np.uint8)
    samples = [BundleSample(image, session.run(None, {given.name: image[None]})[0][0]) for image in images]
    return write_bundle(
        tmp_path_factory.mktemp("bundle") / "bundle",
        onnx_path=networks[0],
        tvm_library=Path(compiled[0]["path"]),
        default_runtime="tvm",
        task=Classification(tuple(f"class{number}" for number in range(10))),
        resolution=side,
        channels=3,
        accuracy={},
        latency={"origin": "emulated"},
        conditions={},
        architecture={"id": "net0"},
        parity=compiled[0]["parity"],
        samples=samples,
    )


def test_the_bundle_runs_on_the_board(board: EmulatedBoard, bundle: Path) -> None:
    """Its run.py, with numpy, Pillow and TVM alone: the packed samples give the packed probabilities."""
    command = board.python(bundle / "run.py", "--check", "--runtime", "tvm")
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=200, cwd=bundle, env=board.environment()
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_cpp_runner_runs_the_bundle_on_the_board(
    hwautoml: Hwautoml, board: EmulatedBoard, bundle: Path, tmp_path: Path
) -> None:
    """Built for aarch64 from the bundle's own C++ sources; no Python on the board."""
    runner = hwautoml("build", "--target", "rpi4", "--wheels", board.wheels, "--out", tmp_path / "runner", "--json")
    assert runner["architecture"] == "aarch64" and Path(runner["path"]).read_bytes()[18] == 183
    manifest = json.loads((bundle / "manifest.json").read_text())
    sample, side = manifest["samples"][0], manifest["input"]["image_size"]
    pixels = np.asarray(Image.open(bundle / sample["file"]).convert("RGB"))
    (tmp_path / "x.ppm").write_bytes(f"P6 {side} {side} 255\n".encode() + pixels.tobytes())
    command = board.program(Path(runner["path"]), bundle, tmp_path / "x.ppm", "--json", "--top", "10")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (answer,) = json.loads(done.stdout)
    got = {found["class"]: found["probability"] for found in answer["predictions"]}
    expected = dict(zip(manifest["classes"], sample["probabilities"], strict=True))
    assert got == pytest.approx(expected, abs=TOLERANCE)
