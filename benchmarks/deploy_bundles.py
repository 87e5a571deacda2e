"""What ships, checked: parity on the whole test split, int8, repeated benches, the runners' start, the bundle's size.

    hwautoml run ../shared/data/cifar10.zip --target cpu --latency-ms 0.6 --budget 20m --out runs/cifar
    python -m benchmarks.deploy_bundles --run runs/cifar
    python -m benchmarks.deploy_bundles --run runs/cifar --only repeat --sessions 10

Needs a finished run. Prints one table and writes ``benchmarks/results/deploy_bundles.json``. With cmake and g++ the
C++ runner is built too (15 s).
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from hwautoml.bundles import Bundle, read_bundle
from hwautoml.core.progress import silent
from hwautoml.devices.local import LocalDevice
from hwautoml.store.files import read_json, write_json

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]
PARTS = ("parity", "int8", "files", "repeat", "start", "size")


def row(what: str, value: float | None, unit: str, goal: str = "-") -> Row:
    return {"what": what, "value": value, "unit": unit, "goal": goal}


class Finished:
    """A finished run: its winner's files, test images and labels, and what the trained network says of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.result = folder, read_json(folder / "result.json")
        self.bundle: Bundle = read_bundle(folder / "bundle")
        self.candidate = folder / "candidates" / self.result["architecture"]["id"]
        self._data: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def data(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """uint8 test images (n, H, W, C), labels (n,), probabilities of the trained network (n, num_classes)."""
        from hwautoml.pipeline.runs.candidates import load_network, network_outputs
        from hwautoml.pipeline.runs.opening import reopened

        if self._data is None:
            with reopened(self.folder, silent) as run:
                architecture = run.space.architecture(self.result["architecture"]["values"])
                images = run.dataset.test.images_uint8(run.space.resolution(architecture))
                expected = network_outputs(run, load_network(run, architecture), images)
                self._data = images, run.dataset.test.labels.numpy(), expected
        return self._data


def parity(run: Finished, _: argparse.Namespace) -> list[Row]:
    images, labels, expected = run.data()
    rows = [row("test accuracy, torch", 100 * float((expected.argmax(1) == labels).mean()), "%")]
    for runtime, name, goal in (("onnxruntime", "model.onnx", 1e-5), ("tvm", "model.so", 1e-4)):
        if not (run.candidate / name).is_file():
            continue
        with LocalDevice(runtime) as device:
            found = device.run_model(run.candidate / name, images)
        largest = float(np.abs(found - expected).max() / expected.max())
        agreement = 100 * float((found.argmax(1) == expected.argmax(1)).mean())
        rows.append(row(f"{runtime}: largest difference relative to the outputs' scale", largest, "", f"<= {goal:g}"))
        rows.append(row(f"{runtime}: same class on {len(images):,} images", agreement, "%", "100"))
    return rows


def int8(run: Finished, _: argparse.Namespace) -> list[Row]:
    """Calibrated on training images, chosen on validation images, and here for once on the test split."""
    facts = run.result["quantization"]
    if not facts["tried"]:
        return [row(f"int8: {facts['reason']}", None, "")]
    images, labels, expected = run.data()
    with LocalDevice("onnxruntime") as device:
        found = device.run_model(run.candidate / "model_int8.onnx", images)
    same = 100 * float((found.argmax(1) == expected.argmax(1)).mean())
    loss = (expected.argmax(1) == labels).mean() - (found.argmax(1) == labels).mean()
    medians = facts["median_ms"]
    ratio = min(medians["int8"].values()) / min(medians["fp32"].values())
    on_onnxruntime = medians["int8"]["onnxruntime"] / medians["fp32"]["onnxruntime"]
    return [
        row("int8: accuracy lost on the validation split", facts["loss_points"], "points", "<= 0.5, or rejected"),
        row("int8: accuracy lost on the test split", 100 * float(loss), "points"),
        row("int8: same class as in fp32, test split", same, "%"),
        row("int8: layers kept in fp32", len(facts["fp32_layers"]), ""),
        row("int8 / fp32 latency, ONNX Runtime", on_onnxruntime, ""),
        row("int8 / fp32 latency, fastest runtime of each", ratio, ""),
        row(f"shipped: {facts['precision']}", None, ""),
    ]


def files(_: Finished, arguments: argparse.Namespace) -> list[Row]:
    """int8 of any network trained on the data: an ONNX file, uint8 images in, as ``hwautoml export`` writes it."""
    from hwautoml.datasets import load_dataset
    from hwautoml.pipeline.runs.candidates import spread
    from hwautoml.pipeline.runs.int8_accuracy import CALIBRATION_IMAGES, MAX_LOSS, quantize_until_accurate

    rows: list[Row] = []
    if not arguments.onnx:
        return rows
    data = load_dataset(arguments.data)
    images, labels = data.test.images_uint8(), data.test.labels.numpy()
    val_images, val_labels = data.val.images_uint8(), data.val.labels.numpy()
    calibration = data.train.raw(spread(data.train.num_images, CALIBRATION_IMAGES))
    with tempfile.TemporaryDirectory() as folder, LocalDevice("onnxruntime") as device:
        for source in arguments.onnx:

            def accuracy_of(path: Path) -> float:
                return float((device.run_model(path, val_images).argmax(1) == val_labels).mean())

            name, path = source.parent.name, Path(folder) / f"{source.parent.name}.onnx"
            before = accuracy_of(source)
            after, fp32_layers = quantize_until_accurate(
                source,
                path,
                calibration,
                accuracy_of,
                before - MAX_LOSS,
                task=data.task,
                conditions=device.conditions(),
            )
            expected, found = device.run_model(source, images).argmax(1), device.run_model(path, images).argmax(1)
            bench = [sys.executable, "-m", "hwautoml.cli", "bench", str(source), str(path), "--json"]
            measured = json.loads(subprocess.run(bench, capture_output=True, text=True, check=True).stdout)["rows"]
            medians = {r["artifact"]: r["median_ms"] for r in measured}
            loss = (expected == labels).mean() - (found == labels).mean()
            rows += [
                row(f"{name}: test accuracy in fp32", 100 * float((expected == labels).mean()), "%"),
                row(f"{name}: lost in int8, validation", 100 * (before - after), "points", "<= 0.5"),
                row(f"{name}: lost in int8, test", 100 * float(loss), "points", "<= 0.5"),
                row(f"{name}: same class, test", 100 * float((expected == found).mean()), "%"),
                row(f"{name}: layers kept in fp32", len(fp32_layers), ""),
                row(f"{name}: int8 / fp32 latency, ONNX Runtime", medians[str(path)] / medians[str(source)], ""),
            ]
    return rows


def repeat(run: Finished, arguments: argparse.Namespace) -> list[Row]:
    """Whole invocations of ``hwautoml bench``, one after the other, compared two by two."""
    sessions = []
    for number in range(arguments.sessions):
        print(f"bench, session {number + 1} of {arguments.sessions}", file=sys.stderr)
        command = [sys.executable, "-m", "hwautoml.cli", "bench", str(run.bundle.path), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        sessions.append({r["runtime"]: r for r in json.loads(done.stdout)["rows"]})
    rows = []
    for runtime in sessions[0]:
        clock = np.log([s[runtime]["median_ms"] for s in sessions])
        speed = np.log([s[runtime]["conditions"]["reference_median_ms"] for s in sessions])
        for name, values in (("by the clock", clock), ("at equal speed of the machine", clock - speed)):
            differences = [abs(a - b) for a, b in itertools.pairwise(values)]
            goal = "<= 2" if name == "by the clock" else "-"
            text = f"two runs of bench, {runtime}, {name}"
            rows.append(row(f"{text}: median difference", 100 * float(np.median(differences)), "%", goal))
            rows.append(row(f"{text}: largest difference", 100 * float(max(differences)), "%"))
    return rows


def start(run: Finished, arguments: argparse.Namespace) -> list[Row]:
    """From the start of a process to its answer for one image: the median of several starts."""
    image = run.bundle.path / run.bundle.manifest["samples"][0]["file"]
    rows = []
    for runtime in ("onnxruntime", "tvm"):
        if runtime == "tvm" and run.bundle.tvm_library is None:
            continue
        command = [sys.executable, str(run.bundle.path / "run.py"), str(image), "--runtime", runtime]
        rows += _start_rows(f"run.py with {runtime}", command, arguments)
    with tempfile.TemporaryDirectory() as folder:
        runner = _built_runner(run, Path(folder))
        if runner is not None:
            from PIL import Image

            with Image.open(image) as picture:
                picture.save(Path(folder) / "image.ppm")
            command = [str(runner), str(run.bundle.path), str(Path(folder) / "image.ppm")]
            rows += _start_rows("C++ runner", command, arguments)
    return rows


def size(run: Finished, _: argparse.Namespace) -> list[Row]:
    """What there is besides weights (4 bytes each in fp32, as they are in the ONNX file), with TVM's runtime."""
    import onnx

    model = onnx.load(run.bundle.onnx_path)
    weights = sum(len(t.raw_data) or t.ByteSize() for t in model.graph.initializer)
    library = run.bundle.tvm_library
    files = sum(path.stat().st_size for path in run.bundle.path.rglob("*") if path.is_file())
    rows = [
        row("bundle, all files", files / 2**20, "MB"),
        row("weights, once", weights / 2**20, "MB"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        runner = _built_runner(run, Path(folder))
        if runner is None or library is None:
            return rows
        runtime = sum(path.stat().st_size for path in (runner, *(runner.parent / "lib").iterdir()))
    code = library.stat().st_size - weights
    rows += [
        row("TVM library besides its weights", code / 2**20, "MB"),
        row("C++ runner with TVM's runtime", runtime / 2**20, "MB"),
        row("TVM deployment besides the weights", (code + runtime) / 2**20, "MB", "<= 8"),
    ]
    return rows


def _start_rows(name: str, command: list[str], arguments: argparse.Namespace) -> list[Row]:
    """Processor time too: on a busy machine, the clock measures the others."""
    seconds, processor = [], []
    for _ in range(arguments.starts):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return [
        row(f"{name}, start to first answer, by the clock", float(np.median(seconds)), "s", "<= 0.5"),
        row(f"{name}, start to first answer, processor time", float(np.median(processor)), "s"),
    ]


def _built_runner(run: Finished, folder: Path) -> Path | None:
    """As the bundle's README says; None where the tools are missing."""
    if run.bundle.tvm_library is None or not all(shutil.which(tool) for tool in ("cmake", "g++")):
        return None
    source, build = run.bundle.path / "cpp", folder / "build"
    for command in (
        ["cmake", "-S", str(source), "-B", str(build), f"-DPython3_EXECUTABLE={sys.executable}"],
        ["cmake", "--build", str(build)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return build / "hwautoml_runner"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--onnx", type=Path, action="append", default=[], help="part files: trained networks")
    parser.add_argument("--data", default="../shared/data/cifar10.zip", help="part files: what they were trained on")
    parser.add_argument("--only", choices=PARTS, action="append", help="one part (may be repeated); default: all")
    parser.add_argument("--sessions", type=int, default=6, help="of bench, at least 2")
    parser.add_argument("--starts", type=int, default=7, help="of every runner")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    arguments = parser.parse_args()
    if arguments.sessions < 2 or arguments.starts < 1:
        parser.error("--sessions must be at least 2, --starts at least 1")
    run, rows = Finished(arguments.run), []
    for part in arguments.only or PARTS:
        rows += [{"part": part, **r} for r in globals()[part](run, arguments)]
    conditions = run.bundle.manifest["conditions"]
    path = write_json(RESULTS / "deploy_bundles.json", {"rows": rows, "conditions": conditions})
    if arguments.json:
        print(json.dumps({"rows": rows, "conditions": conditions}, indent=1))
        return
    for r in rows:
        value = "" if r["value"] is None else f"{r['value']:.4g}"
        print(f"{r['part']:<7} {r['what']:<68} {value:>10} {r['unit']:<7} {r['goal']}")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
