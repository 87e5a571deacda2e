"""The main job: demo, CIFAR-10 against human-designed networks, a second limit, latency prediction, start-up.

    python -m benchmarks.main_job demo
    python -m benchmarks.main_job cifar --data ../shared/data/cifar10.zip --budget 20m --latency-ms 0.3
    python -m benchmarks.main_job predict --networks 50
    python -m benchmarks.main_job help

Each part prints one table and writes ``benchmarks/results/main_job_<part>.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from benchmarks.arguments import duration

if TYPE_CHECKING:
    from torch import nn

    from hwautoml.core.measurement import Measurement
    from hwautoml.core.space import Architecture
    from hwautoml.datasets import ImageDataset
    from hwautoml.devices.protocol import MeasureFailure
    from hwautoml.spaces.mobile import MobileSpace
    from hwautoml.supernets.scoring import Normalised
    from hwautoml.supernets.training import TrainProgress, TrainState

RESULTS = Path(__file__).parent / "results"


def demo(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The demo's command, then another limit on the finished run; wall-clock, imports included."""
    folder = Path(arguments.out or tempfile.mkdtemp(prefix="hwautoml-demo-")) / "run"
    began = time.monotonic()
    result = _cli(
        "run",
        "digits",
        "--target",
        "cpu",
        "--latency-ms",
        "0.3",
        "--out",
        str(folder),
        "--overwrite",
        *_profiles(arguments),
    )
    seconds = time.monotonic() - began
    began = time.monotonic()
    second = _cli("search", "--run", str(folder), "--latency-ms", "0.03", *_profiles(arguments))
    searched = time.monotonic() - began
    latency = result["latency_ms"]
    return [
        {"what": "demo, start to report", "value": seconds, "unit": "s", "goal": "<= 120"},
        {"what": "test accuracy on digits", "value": 100 * result["accuracy"]["test"], "unit": "%", "goal": ">= 98"},
        {
            "what": "measured latency",
            "value": latency["measured_median"],
            "unit": "ms",
            "goal": f"<= {latency['limit']}",
        },
        {"what": f"second limit, {len(second['front'])} on the front", "value": searched, "unit": "s", "goal": "<= 10"},
    ]


def cifar(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Ours within its budget; then each baseline trained as long as ours was; all measured together.

    ``run_sec`` is our whole run, ``train_sec`` what it spent on training, the supernet's included, and on measuring,
    training and scoring the finalists: the wall-clock time that each baseline gets for its training alone, one after
    the other on all the cores that ours had, by the same training loop, growing images included. With ``--out`` it
    goes on where it stopped.
    """
    folder = Path(arguments.out or tempfile.mkdtemp(prefix="hwautoml-cifar-")) / "run"
    settings = [arguments.data, "--target", "cpu", "--latency-ms", str(arguments.latency_ms)]
    settings += ["--budget", f"{arguments.budget}s"]
    mode = ["--resume"] if (folder / "journal.sqlite").is_file() else []
    result = _cli("run", *settings, "--out", str(folder), *mode, *_profiles(arguments))
    began = time.monotonic()
    second = _cli("search", "--run", str(folder), "--latency-ms", str(arguments.latency_ms / 2), *_profiles(arguments))
    searched = time.monotonic() - began
    training, winner = result["seconds"]["train"] + result["seconds"]["specialise"], result["training"]["winner"]
    ours = {"network": "hwautoml", "run_sec": result["seconds"]["total"], "train_sec": training}
    ours |= {f"winner_{key}": winner[key] for key in ("seconds", "epochs")}
    ours |= {"images_per_sec": winner["images"] / winner["seconds"], "accuracy_test": result["accuracy"]["test"]}
    ours |= {"stages": result["seconds"], "predicted_ms": result["latency_ms"]["predicted"]}
    rows = [ours | {"folder": folder / "bundle"}]
    for name in arguments.baselines.split(","):
        rows.append(_train_baseline(name, arguments.data, training, folder))
        _write("cifar", rows)  # an hour's work is not lost to an interruption
    _measure_together(rows)
    table = [
        {key: value for key, value in row.items() if key not in ("folder",)}
        | {"budget_sec": arguments.budget, "limit_ms": arguments.latency_ms}
        for row in rows
    ]
    table.append({"network": "second limit on the finished run", "search_sec": searched, "front": len(second["front"])})
    return table


def _train_baseline(name: str, data: str, seconds: float, run: Path) -> dict[str, Any]:
    """Trained from its checkpoint when it has one, in a folder beside ``run``, whose decoded images are used."""
    import torch

    from benchmarks.baselines import BASELINES
    from hwautoml.datasets import load_dataset
    from hwautoml.exporters import export_onnx
    from hwautoml.supernets.scoring import Normalised, score
    from hwautoml.supernets.supernet import initialise

    folder, dataset = run.parent / name, load_dataset(data, cache_dir=run / "cache")
    torch.manual_seed(0)
    network = BASELINES[name](dataset.task.num_outputs)
    initialise(network, [name for name, _ in network.named_modules() if name.endswith(("project.norm", "second.norm"))])
    model = Normalised(network, dataset.mean, dataset.std).train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own gap
    state = _train_for(seconds, model, dataset, folder / "checkpoint.safetensors", name)
    accuracy = dataset.task.score(score(model, dataset.test.batches(250), dataset.task))
    export_onnx(
        network,
        folder / "model.onnx",
        resolution=dataset.image_size,
        channels=dataset.channels,
        mean=dataset.mean,
        std=dataset.std,
        task=dataset.task,
        architecture={"baseline": name},
    )
    row = {"network": name, "train_sec": state.seconds, "accuracy_test": accuracy, "folder": folder}
    return row | {"epochs": state.images / dataset.train.num_images, "images_per_sec": state.images / state.seconds}


def _train_for(seconds: float, model: Normalised, dataset: ImageDataset, checkpoint: Path, name: str) -> TrainState:
    """Until so many seconds were spent on it, those of the checkpoint included."""
    import torch

    from hwautoml.pipeline.stages.training import restore, training_batches
    from hwautoml.supernets.training import TrainSettings, fastest_setup, network_step, train, with_growing_images

    network, settings = model.network, TrainSettings()
    state = restore(checkpoint, network)
    batches = training_batches(dataset, settings.batch_size, "cpu")

    def make_step(dtype: torch.dtype | None) -> Any:
        return network_step(model, task=dataset.task, dtype=dtype, device="cpu")

    images, labels = next(iter(batches(torch.Generator().manual_seed(0))))
    setup = fastest_setup(network, make_step, images, labels)
    state = train(
        network,
        with_growing_images(make_step(setup.dtype), lambda: state.seconds / seconds),
        batches,
        budget_sec=seconds,
        settings=settings,
        state=state,
        images_per_epoch=dataset.train.num_images,
        on_progress=_told_twice_a_minute(name, seconds),
        on_checkpoint=lambda current: _keep(checkpoint, network, current),
    )
    return state


def _keep(path: Path, network: nn.Module, state: TrainState) -> None:
    from hwautoml.store.files import write_tensors

    tensors = {f"net.{key}": tensor for key, tensor in network.state_dict().items()}
    tensors |= {f"momentum.{key}": tensor for key, tensor in (state.momentum or {}).items()}
    counters = {"seconds": state.seconds, "images": state.images, "steps": state.steps}
    write_tensors(path, tensors, {"state": json.dumps(counters)})


def _told_twice_a_minute(name: str, seconds: float) -> Callable[[TrainProgress], None]:
    told: set[int] = set()

    def tell(progress: TrainProgress) -> None:
        if int(progress.seconds) // 30 not in told:
            told.add(int(progress.seconds) // 30)
            text = f"{name} epoch {progress.epochs:.1f}, {progress.images_per_sec:.0f} images/s"
            print(f"{text}, {seconds - progress.seconds:.0f} s left", file=sys.stderr)

    return tell


def _measure_together(rows: list[dict[str, Any]]) -> None:
    """ONNX Runtime and tuned TVM for every network, interleaved per runtime."""
    artifacts: list[str] = []
    for row in rows[1:]:
        onnx = row["folder"] / "model.onnx"
        _cli("compile", str(onnx), "--target", "cpu", "--tune", "45s", "--out", str(row["folder"]))
        artifacts += [str(onnx), str(row["folder"] / "model.so")]
    result = _cli("bench", str(rows[0]["folder"]), *artifacts, "--target", "cpu")
    for row in rows:
        for found in result["rows"]:
            if str(found["artifact"]).startswith(str(row["folder"])):
                row[f"{found['runtime']}_ms"] = found["median_ms"]
                row[f"{found['runtime']}_interval_ms"] = found["interval_ms"]


def predict(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Unseen networks, exported as they ship: predicted before measured, next to measuring twice."""
    from hwautoml.core.latency_file import load as load_table
    from hwautoml.core.measurement import Measurement
    from hwautoml.pipeline.verbs.profiling import profile
    from hwautoml.spaces.mobile import MobileSpace

    began = time.monotonic()
    profiles = Path(arguments.profiles_dir) if arguments.profiles_dir else None
    made = profile("cpu", image_size=32, runtime="onnxruntime", budget_sec=120.0, profiles_dir=profiles)
    table = load_table(made.path)
    profiled = time.monotonic() - began
    space, generator = MobileSpace(32, 3, 10), np.random.default_rng(12345)
    seen = {observation.architecture_id for observation in table.observations}
    drawn = [a for a in (space.sample(generator) for _ in range(4 * arguments.networks)) if a.id not in seen]
    architectures = list(dict.fromkeys(drawn))[: arguments.networks]
    means, deviations = table.predict_many([space.layers(a) for a in architectures])
    passes = _measured_twice(space, architectures)
    both = [
        (i, one, two)
        for i, (one, two) in enumerate(zip(*passes, strict=True))
        if isinstance(one, Measurement) and isinstance(two, Measurement)
    ]
    kept = [i for i, _, _ in both]
    first, second = (np.array([pair[n].median_ms for _, *pair in both]) for n in (0, 1))
    speeds = [cast(float, measured.conditions["reference_median_ms"]) for measured in both[0][1:]]
    then = cast(float, table.conditions["reference_median_ms"])
    at_table_speed = first * then / speeds[0]
    rows = [
        _agreement("table, at the speed of its reference", means[kept], at_table_speed),
        _agreement("measuring twice, likewise", second * speeds[0] / speeds[1], first),
        _agreement("table, by the clock", means[kept], first),
        _agreement("measuring twice, by the clock", second, first),
    ]
    within = np.abs(means[kept] - at_table_speed) <= 1.96 * deviations[kept]
    rows[0] |= {"coverage_95": float(within.mean()), "reference_then_ms": then, "reference_now_ms": speeds[0]}
    for row in rows:
        row |= {"networks": len(kept), "profile_sec": profiled, "observations": len(table.observations)}
    return rows


def _measured_twice(
    space: MobileSpace, architectures: Sequence[Architecture]
) -> list[list[Measurement | MeasureFailure]]:
    """Exported as they ship; with a reference in either session."""
    from hwautoml.devices.local import LocalDevice
    from hwautoml.devices.protocol import MeasureProtocol
    from hwautoml.exporters import export_onnx
    from hwautoml.pipeline.tables.probes import deployable_probe
    from hwautoml.profilers.reference import reference_architecture
    from hwautoml.tasks.classification import Classification

    with tempfile.TemporaryDirectory() as folder, LocalDevice("onnxruntime") as device:
        paths = [Path(folder) / f"{a.id}.onnx" for a in architectures]
        for a, path in zip(architectures, paths, strict=True):
            export_onnx(
                space.module(a),
                path,
                resolution=space.resolution(a),
                channels=3,
                mean=[0.5] * 3,
                std=[0.25] * 3,
                task=Classification(tuple(str(i) for i in range(10))),
                architecture=a,
            )
        protocol = MeasureProtocol(max_rounds=60, target_relative_interval=0.005, max_total_sec=200.0)
        reference = deployable_probe(space, reference_architecture(space), Path(folder) / "reference.onnx")
        return [device.measure(paths, reference, protocol) for _ in range(2)]


def _agreement(name: str, predicted: np.ndarray, measured: np.ndarray) -> dict[str, Any]:
    errors = np.abs(predicted / measured - 1)
    pairs = np.triu_indices(len(measured), 1)
    signs = np.sign(np.subtract.outer(predicted, predicted)) * np.sign(np.subtract.outer(measured, measured))
    level = np.abs(predicted / measured / np.median(predicted / measured) - 1)
    return {
        "method": name,
        "within_5": float((errors <= 0.05).mean()),
        "within_10": float((errors <= 0.10).mean()),
        "mean_error": float(errors.mean()),
        "mean_error_without_level": float(level.mean()),
        "kendall_tau": float(signs[pairs].mean()),
        "min_ms": float(measured.min()),
        "max_ms": float(measured.max()),
    }


def help(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Start-up of ``hwautoml --help``, nine times."""
    seconds = []
    for _ in range(9):
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "hwautoml.cli", "--help"], check=True, capture_output=True)
        seconds.append(time.monotonic() - began)
    return [
        {"what": "hwautoml --help", "median_sec": float(np.median(seconds)), "max_sec": max(seconds), "goal": "<= 0.5"}
    ]


def _write(part: str, rows: list[dict[str, Any]]) -> Path:
    from hwautoml.devices.machine import machine_conditions

    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"main_job_{part}.json"
    path.write_text(json.dumps({"rows": rows, "conditions": machine_conditions()}, indent=1, default=str) + "\n")
    return path


def _cli(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "hwautoml.cli", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {done.returncode}")
    return dict(json.loads(done.stdout))


def _profiles(arguments: argparse.Namespace) -> list[str]:
    return ["--profiles-dir", arguments.profiles_dir] if arguments.profiles_dir else []


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("demo", "cifar", "predict", "help"))
    parser.add_argument("--data", default="../shared/data/cifar10.zip")
    parser.add_argument("--budget", type=duration, default="20m")
    parser.add_argument("--latency-ms", type=float, default=0.3)
    parser.add_argument("--networks", type=int, default=50)
    parser.add_argument("--baselines", default="resnet20,mobilenetv2")
    parser.add_argument("--profiles-dir")
    parser.add_argument("--out")
    arguments = parser.parse_args(words)
    rows = {"demo": demo, "cifar": cifar, "predict": predict, "help": help}[arguments.part](arguments)
    path = _write(arguments.part, rows)
    for row in rows:
        print(
            "  ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
        )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
