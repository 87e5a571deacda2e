"""Latency prediction on this machine: unseen networks, predicted before they are measured, measured twice.

    python -m benchmarks.latency_model --runtimes onnxruntime,onnxruntime-int8,tvm,torch --networks 200

Per runtime: the ``mobile`` space at 32 x 32 is profiled within the budget; random networks that the table
has not seen are exported as they ship, predicted, and then measured in two sessions, each in a process of its own.
Errors are those of the prediction, or of the second session, relative to the first session: "at the speed of the
reference" with the machine's speed divided out by a reference network that is timed throughout, and "by the clock".
Peers predict from the same table's measurements. One table is printed, and JSON written to ``--out``.

Everything lies in ``--folder``: interrupted, the same command goes on where it was; with other options, take
another folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.arguments import duration
from benchmarks.latency_networks import draw, shipped_files
from benchmarks.latency_peers import PEERS
from hwautoml.core.latency_predictor import Predictor
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.layer import Layer
from hwautoml.core.measurement import Measurement
from hwautoml.core.resources import target_folders
from hwautoml.core.space import Architecture
from hwautoml.core.target import load_target
from hwautoml.devices.local import LocalDevice
from hwautoml.devices.machine import fingerprint, machine_conditions
from hwautoml.devices.protocol import MeasureProtocol
from hwautoml.spaces.mobile import MobileSpace

Array = NDArray[np.float64]
RESULTS = Path(__file__).parent / "results"
SPACE = MobileSpace(32, 3, 10)
RUNTIMES = {
    "onnxruntime": ("onnxruntime", "fp32"),
    "onnxruntime-int8": ("onnxruntime", "int8"),
    "tvm": ("tvm", "fp32"),
    "torch": ("torch", "fp32"),
    "torch-inductor": ("torch-inductor", "fp32"),
}
CHUNK = 20  # networks per measuring call: what an interruption can cost
NUM_SPEED = 100_000
REPEAT = "measuring twice"


@dataclass(frozen=True)
class Case:
    """One runtime at one precision, and where its files lie."""

    name: str
    folder: Path
    num_networks: int
    seed: int
    budget_sec: float
    quick_export: bool = False

    @property
    def runtime(self) -> str:
        return RUNTIMES[self.name][0]

    @property
    def precision(self) -> str:
        return RUNTIMES[self.name][1]

    @property
    def own_folder(self) -> Path:
        return self.folder / self.name


@dataclass(frozen=True)
class Session:
    """Medians in ms (n,), NaN where a network failed, and the reference's in the same call (n,)."""

    median_ms: Array
    reference_ms: Array
    conditions: list[dict[str, Any]]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtimes", default="onnxruntime,onnxruntime-int8,tvm,torch", help=", ".join(RUNTIMES))
    parser.add_argument("--networks", type=int, default=200, help="unseen networks per runtime")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile-budget", type=duration, default="300s", help="per runtime, e.g. 300s or 5m")
    parser.add_argument("--folder", type=Path, default=RESULTS / "latency_model", help="models and measurements")
    parser.add_argument("--out", type=Path, default=RESULTS / "latency_model.json")
    parser.add_argument("--quick-export", action="store_true", help="as the profiler exports: 0.2 s for ONNX, not 3 s")
    arguments = parser.parse_args(words)
    names = arguments.runtimes.split(",")
    unknown = [name for name in names if name not in RUNTIMES]
    if unknown or arguments.networks < 2:
        parser.error(f"--runtimes are of {', '.join(RUNTIMES)}, got {unknown}; --networks must be at least 2")
    rows: list[dict[str, Any]] = []
    for name in names:
        case = Case(
            name, arguments.folder, arguments.networks, arguments.seed, arguments.profile_budget, arguments.quick_export
        )
        rows += run(case)
        _write(arguments.out, rows)
    _print(rows)
    print(f"written to {arguments.out}")


def run(case: Case) -> list[dict[str, Any]]:
    """Rows of one runtime: the table, its peers and measuring twice, by both clocks; last, the speed of predicting."""
    architectures = draw(SPACE, case.num_networks, case.seed)
    table, seconds = profiled(case)
    seen = {observation.architecture_id for observation in table.observations}
    architectures = [a for a in architectures if a.id not in seen]
    target = load_target("cpu", target_folders(None))
    listen = _listener(case.name)
    networks = case.folder / "networks"
    files = shipped_files(
        SPACE, target, case.runtime, case.precision, architectures, networks, listen, quick=case.quick_export
    )
    predictions = predict_first(case, table, architectures)
    sessions = [measured(case, number, files, listen) for number in (1, 2)]
    shared = {
        "runtime": case.name,
        "profile_sec": seconds,
        "observations": len(table.observations),
        "layers_measured": table.conditions["num_layers_measured"],
        "noise": _noise(table, sessions),
    }
    reference_ms = cast(float, table.conditions["reference_median_ms"])
    rows = [shared | row for row in compared(predictions, sessions, reference_ms)]
    return [*rows, {"runtime": case.name, "method": "speed", **prediction_speed(table)}]


def profiled(case: Case) -> tuple[LatencyTable, float]:
    """The table, measured within the budget or found complete in the folder, and the seconds that it took."""
    from hwautoml.compilers import load_backend
    from hwautoml.core.latency_file import load
    from hwautoml.core.table_identity import TableIdentity
    from hwautoml.pipeline.tables.measuring import with_code_version
    from hwautoml.pipeline.tables.probes import probe_builders
    from hwautoml.profilers.assembly import ProfileSetting
    from hwautoml.profilers.layer_profiler import profile_layers
    from hwautoml.profilers.profile_options import ProfileOptions

    path, done = case.own_folder / "table.json", case.own_folder / "profiled.json"
    if done.is_file():
        return load(path), float(json.loads(done.read_text())["seconds"])
    target, version = load_target("cpu", target_folders(None)), str(load_backend(case.runtime).version())
    machine = fingerprint(case.runtime, version)
    known_as = with_code_version(case.runtime, version)
    identity = TableIdentity("cpu", case.runtime, 1, 1, case.precision, SPACE.family)
    setting = ProfileSetting(identity, known_as, machine)
    builders = probe_builders(SPACE, target, case.runtime, case.own_folder / "records.json", precision=case.precision)
    quick, full = MeasureProtocol.for_layers(case.seed), MeasureProtocol(seed=case.seed)
    began = time.monotonic()
    with LocalDevice(case.runtime) as device:
        table = profile_layers(
            SPACE,
            setting,
            path,
            builders=builders,
            options=ProfileOptions.within(case.budget_sec, seed=case.seed),
            measure=lambda paths, reference=None: device.measure(paths, reference, quick),
            measure_networks=lambda paths, reference=None: device.measure(paths, reference, full),
            on_progress=_listener(case.name),
        )
    seconds = time.monotonic() - began
    done.write_text(json.dumps({"seconds": seconds}))
    return table, seconds


def predict_first(case: Case, table: LatencyTable, architectures: Sequence[Architecture]) -> dict[str, Array]:
    """Milliseconds by method, and the table's deviations; written down before the first session begins."""
    path = case.own_folder / "predictions.json"
    ids = [a.id for a in architectures]
    if path.is_file():
        stored = json.loads(path.read_text())
        if stored["ids"] == ids:
            return {name: np.array(values) for name, values in stored["predictions"].items()}
    if _session_path(case, 1).is_file():
        raise SystemExit(f"{_session_path(case, 1)} is there and no prediction that precedes it: take another --folder")
    networks = [SPACE.layers(a) for a in architectures]
    networks = [tuple(Layer.from_key(table.key(layer)) for layer in network) for network in networks]
    means, deviations = table.predict_many(networks)
    predictions = {"table": means, "deviation": deviations}
    predictions |= {name: peer(table, SPACE, networks) for name, peer in PEERS.items()}
    content = {"ids": ids, "predictions": {name: values.tolist() for name, values in predictions.items()}}
    path.write_text(json.dumps(content | {"conditions": machine_conditions()}))
    return predictions


def measured(case: Case, number: int, files: Sequence[Path], listen: Callable[[int, int, str], None]) -> Session:
    """One session, in a worker process of its own; its results so far are on disk after every chunk."""
    path = _session_path(case, number)
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    by_id = {line["id"]: line for line in lines}
    todo = [file for file in files if file.stem not in by_id]
    protocol = MeasureProtocol(seed=case.seed + number, max_rounds=60, target_relative_interval=0.005)
    with LocalDevice(case.runtime) as device:
        for start in range(0, len(todo), CHUNK):
            chunk = todo[start : start + CHUNK]
            results = device.measure(chunk, _reference(case), protocol)
            for file, result in zip(chunk, results, strict=True):
                by_id[file.stem] = {"id": file.stem, **_line(result)}
            path.write_text("".join(json.dumps(line) + "\n" for line in by_id.values()))
            listen(len(by_id), len(files), f"session {number}")
    ordered = [by_id[file.stem] for file in files]
    medians, references = (
        np.array([line.get(key, np.nan) for line in ordered]) for key in ("median_ms", "reference_ms")
    )
    return Session(medians, references, [line["conditions"] for line in ordered if "conditions" in line])


def _line(result: object) -> dict[str, object]:
    if not isinstance(result, Measurement):
        return {"failure": str(result)}
    return {
        "median_ms": result.median_ms,
        "deviation_ms": result.deviation_ms,
        "reference_ms": result.conditions["reference_median_ms"],
        "conditions": dict(result.conditions),
    }


def _reference(case: Case) -> Path:
    """The network that profiling uses as well, built the same way."""
    from hwautoml.pipeline.tables.probes import probe_builders
    from hwautoml.profilers.reference import reference_architecture

    found = [path for path in case.own_folder.glob("reference*") if path.is_file()]
    if found:
        return found[0]
    target = load_target("cpu", target_folders(None))
    builders = probe_builders(SPACE, target, case.runtime, case.own_folder / "records.json", precision=case.precision)
    return builders.network(reference_architecture(SPACE), case.own_folder / "reference")


def _session_path(case: Case, number: int) -> Path:
    return case.own_folder / f"session{number}.jsonl"


def compared(
    predictions: dict[str, Array], sessions: Sequence[Session], table_reference_ms: float
) -> list[dict[str, Any]]:
    """One row per method and clock; the first session is the truth."""
    first, second = sessions
    kept = np.isfinite(first.median_ms) & np.isfinite(second.median_ms)
    deviations = predictions["deviation"][kept]
    rows = []
    for clock in ("reference", "wall"):
        truth, again = first.median_ms[kept], second.median_ms[kept]
        if clock == "reference":
            truth = truth * table_reference_ms / first.reference_ms[kept]
            again = again * table_reference_ms / second.reference_ms[kept]
        repeat = agreement(again, truth)
        rows.append({"method": REPEAT, "clock": clock, **repeat})
        for method in (name for name in predictions if name != "deviation"):
            row = {"method": method, "clock": clock, **agreement(predictions[method][kept], truth)}
            row["ratio_to_repeat"] = row["mean_error"] / repeat["mean_error"]
            if method == "table":
                row["coverage_95"] = float((np.abs(predictions["table"][kept] - truth) <= 1.96 * deviations).mean())
                row["mean_interval"] = float((1.96 * deviations / predictions["table"][kept]).mean())
            rows.append(row)
    return rows


def agreement(predicted: Array, truth: Array) -> dict[str, Any]:
    """Errors relative to the truth; ``mean_error_without_level`` after the median ratio is divided out."""
    from scipy.stats import kendalltau, spearmanr

    errors = np.abs(predicted / truth - 1)
    ratio = predicted / truth
    return {
        "networks": len(truth),
        "within_5": float((errors <= 0.05).mean()),
        "within_10": float((errors <= 0.10).mean()),
        "mean_error": float(errors.mean()),
        "median_error": float(np.median(errors)),
        "max_error": float(errors.max()),
        "mean_error_without_level": float(np.abs(ratio / np.median(ratio) - 1).mean()),
        "kendall_tau": float(kendalltau(predicted, truth).statistic),
        "spearman": float(spearmanr(predicted, truth).statistic),
        "min_ms": float(truth.min()),
        "max_ms": float(truth.max()),
    }


def prediction_speed(table: LatencyTable) -> dict[str, Any]:
    """Seconds to predict mean and deviation of 100,000 encoded architectures, the best and median of nine."""
    encodings = np.random.default_rng(0).integers(0, SPACE.num_options, (NUM_SPEED, len(SPACE.num_options)))
    began = time.perf_counter()
    predictor = Predictor(table, SPACE)
    prepared, seconds = time.perf_counter() - began, []
    for _ in range(9):
        began = time.perf_counter()
        predictor.predict(encodings)
        seconds.append(time.perf_counter() - began)
    return {
        "architectures": NUM_SPEED,
        "best_sec": min(seconds),
        "median_sec": float(np.median(seconds)),
        "prepare_sec": prepared,
    }


def _noise(table: LatencyTable, sessions: Sequence[Session]) -> dict[str, Any]:
    """How steady the machine was: the reference's noise floor and its medians, over all calls."""
    references = [line["reference_median_ms"] for session in sessions for line in session.conditions]
    floors = [line["noise_floor_relative"] for session in sessions for line in session.conditions]
    return {
        "noise_floor_profile": table.conditions["noise_floor_relative"],
        "noise_floor_sessions": float(np.median(floors)),
        "reference_profile_ms": table.conditions["reference_median_ms"],
        "reference_sessions_ms": [min(references), max(references)],
    }


def _listener(name: str) -> Callable[[int, int, str], None]:
    """A line on standard error with what is done and, from its speed so far, the time left; at most every 5 s."""
    state: dict[str, Any] = {"what": None, "last": 0.0}

    def listen(done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if what != state["what"]:
            state.update(what=what, began=now, first=done, last=0.0)
        if now - state["last"] < 5 and done < total:
            return
        state["last"] = now
        speed = (done - state["first"]) / max(now - state["began"], 1e-9)
        left = f", {(total - done) / speed:.0f} s left" if speed > 0 else ""
        print(f"{name}: {what} {done}/{total}{left}", file=sys.stderr, flush=True)

    return listen


def _print(rows: Sequence[dict[str, Any]]) -> None:
    print("| runtime | method | clock | ±5 % | ±10 % | mean | median | tau | Spearman | ratio | coverage |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for row in (row for row in rows if row["method"] != "speed"):
        shares = [f"{100 * row[name]:.1f} %" for name in ("within_5", "within_10")]
        errors = [f"{100 * row[name]:.2f} %" for name in ("mean_error", "median_error")]
        orders = [f"{row[name]:.3f}" for name in ("kendall_tau", "spearman")]
        ratio = f"{row['ratio_to_repeat']:.2f}" if "ratio_to_repeat" in row else "-"
        coverage = f"{100 * row['coverage_95']:.1f} %" if "coverage_95" in row else "-"
        cells = [row["runtime"], row["method"], row["clock"], *shares, *errors, *orders, ratio, coverage]
        print("| " + " | ".join(cells) + " |")
    for row in (row for row in rows if row["method"] == "speed"):
        print(f"{row['runtime']}: {row['architectures']} architectures, mean and deviation, in {row['best_sec']:.3f} s")


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": rows, "conditions": machine_conditions()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
