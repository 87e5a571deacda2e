"""Tuning a space: what is recorded is kept whatever ends the tuner, merged, shown, and found by look-up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import hwautoml
from hwautoml.compilers._files import read_onnx
from hwautoml.compilers.base import Tuning
from hwautoml.errors import InvalidValueError, StorageError, TargetUnavailableError
from hwautoml.pipeline import compile, tune
from hwautoml.pipeline.tables.probes import deployable_probe, functions_probe
from hwautoml.pipeline.verbs import tuning
from hwautoml.pipeline.verbs.tuning import LAYERS_PER_PROBE, telling_networks
from hwautoml.schedules.dispatch import Machine, is_tunable
from hwautoml.schedules.host import resolve_target
from hwautoml.schedules.library import function_key, functions_of
from hwautoml.schedules.lowering import import_onnx, lower
from hwautoml.schedules.records import Records
from hwautoml.schedules.vector_unit import vector_unit
from hwautoml.spaces import load_space
from hwautoml.store.table_library import RECORDS_FILE
from tests.compilers.shared import HOST, compiler
from tests.pipeline.shared_tables import layer_as_onnx


def test_records_of_another_processor_are_not_used(tmp_path: Path) -> None:
    """The same target string on another processor: the function has a record, and takes the fixed rule."""
    source, own = small_layers(tmp_path)[0], tmp_path / "own.json"
    compiler().tune([source], HOST, Tuning(own, budget_sec=1.0))
    found = compiler().compile(source, tmp_path / "a", HOST, Tuning(own))
    ((device, entries),) = Records.load(own).by_target.items()
    other = Records(tmp_path / "other.json", {device.replace(" on ", " on another "): entries})
    other.save()
    missed = compiler().compile(source, tmp_path / "b", HOST, Tuning(other.path))
    assert (found.tuned, found.untuned) == (1, ())
    assert (missed.tuned, len(missed.untuned)) == (0, 1)


def test_what_cannot_be_tuned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="budget_sec: must be longer than 0 s"):
        tune(budget_sec=0.0, profiles_dir=tmp_path)
    with pytest.raises(TargetUnavailableError):
        tune("rpi4", profiles_dir=tmp_path)
    with pytest.raises(StorageError, match="cannot write"):
        tune(records=tmp_path, profiles_dir=tmp_path)


TUNE_LAYERS = """
import sys
from pathlib import Path
from hwautoml.compilers.base import Tuning
from hwautoml.compilers.tvm import CompilerPool
from hwautoml.testing.runtimes import this_machine
records, *sources = map(Path, sys.argv[1:])
def told(done, total, text):
    if text.startswith("tuning"):
        print(done, flush=True)
with CompilerPool() as pool:
    pool.tune(sources, this_machine(), Tuning(records, budget_sec=600), on_progress=told)
"""


def small_layers(folder: Path) -> list[Path]:
    """The head and the smallest pooling of a space, which have few candidates."""
    space = load_space("nasbench201")
    pooling = [layer for layer in space.all_layers() if layer.kind == "avgpool"][-1]
    head = next(layer for layer in space.all_layers() if layer.kind == "head")
    return [layer_as_onnx(space, layer, folder / f"{layer.kind}.onnx") for layer in (pooling, head)]


def num_tried(path: Path) -> int:
    return sum(record.num_tried for entries in Records.load(path).by_target.values() for record in entries.values())


def test_a_killed_tuner_repeats_no_trial(tmp_path: Path) -> None:
    """What it was told of as done before it was killed is recorded, and the next one does the rest only."""
    sources, path = small_layers(tmp_path), tmp_path / "records.json"
    environment = dict(os.environ, PYTHONPATH=str(Path(hwautoml.__file__).parent.parent))
    command = [sys.executable, "-c", TUNE_LAYERS, str(path), *map(str, sources)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    num_done = next(int(line) for line in process.stdout if int(line) == 3)  # it is timing the fourth
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = num_tried(path)
    assert num_done <= before <= num_done + 1, "nothing that was finished is lost"
    tuned = compiler().tune(sources, HOST, Tuning(path, budget_sec=2.0))
    assert tuned.num_trials > 0 and before + tuned.num_trials == num_tried(path)


@pytest.mark.slow
def test_networks_of_a_tuned_space_compile_by_look_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every function of networks that the tuner never saw has a record: of three, one may miss its rarest sums."""
    monkeypatch.setattr(tuning, "NETWORKS_SHARE", 0.4)  # all that should be read are, on a slow machine too
    result = tune(space="nasbench201", budget_sec=200, profiles_dir=tmp_path)
    assert result.num_recorded == result.num_functions
    space, hits, misses = load_space("nasbench201"), 0, []
    seen = {architecture.id for architecture in telling_networks(space, seed=0)}
    others = (space.sample(np.random.default_rng(seed)) for seed in range(1000, 1100))
    for index, architecture in enumerate([other for other in others if other.id not in seen][:4]):
        network = deployable_probe(space, architecture, tmp_path / f"{index}.onnx")
        compiled = compile(network, out=tmp_path / str(index), profiles_dir=tmp_path)
        assert compiled["seconds"]["tune"] == 0.0
        hits, misses = hits + compiled["tuned"], misses + compiled["untuned"]
    assert len(misses) <= 0.05 * hits, misses


@pytest.mark.slow
def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    path = tmp_path / RECORDS_FILE  # named, because the records that ship would be taken over into the usual file
    words = ["tune", "--image-size", "8", "--channels", "grey", "--budget", "10m", "--records", str(path)]
    environment = dict(os.environ, PYTHONPATH=str(Path(hwautoml.__file__).parent.parent))
    process = subprocess.Popen([sys.executable, "-m", "hwautoml.cli", *words], env=environment)
    deadline = time.monotonic() + 300
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (before,) = Records.load(path).by_target.values()
    result = tune(image_size=8, channels=1, budget_sec=30, records=path)
    (after,) = Records.load(path).by_target.values()
    assert all(after[key].num_tried >= record.num_tried for key, record in before.items())
    assert result.num_recorded > len(before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mcpu", "precision", "share"),
    [
        ("haswell", "fp32", 1.0),
        ("haswell", "int8", 0.85),
        ("cascadelake", "int8", 0.85),
    ],
)
def test_layers_of_the_mobile_space_have_the_functions_of_the_networks_made_of_them(
    tmp_path: Path, mcpu: str, precision: str, share: float
) -> None:
    """What is tuned comes from layers: their sums and activations must be fused, and maps stored, as in a network.

    In int8, sums behind an activation and maps that two kinds of layers read are whole networks' alone.
    """
    space = load_space("mobile", image_size=8, channels=1, num_outputs=10)
    target = resolve_target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": mcpu}, 1)
    machine, generator = Machine(vector_unit(target), 1), np.random.default_rng(0)
    networks = [space.sample(generator) for _ in range(8)]
    layers = list(dict.fromkeys(layer for network in networks for layer in space.layers(network)))

    def keys(path: Path) -> set[str]:
        functions = functions_of(lower(import_onnx(read_onnx(path), path.name), target, path.name)).values()
        return {function_key(function) for function in functions if is_tunable(function, machine)}

    known: set[str] = set()
    for start in range(0, len(layers), LAYERS_PER_PROBE):
        some, path = layers[start : start + LAYERS_PER_PROBE], tmp_path / "layers.onnx"
        known |= keys(functions_probe(space, some, path, precision=precision))
    path = tmp_path / "network.onnx"
    own = [keys(deployable_probe(space, network, path, precision=precision)) for network in networks]
    assert min(map(len, own)) > 5
    assert sum(len(each & known) for each in own) >= share * sum(map(len, own))
