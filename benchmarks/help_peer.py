"""HELP (Lee et al., "HELP: Hardware-adaptive Efficient Latency Prediction for NAS via Meta-Learning", NeurIPS 2021)
as a peer: its own code and checkpoints, from a checkout of github.com/HayeonLee/HELP, in a child process.

Nothing of HELP is part of this project, and of its data folder only the checkpoint and the list of reference
architectures are read: architectures and latencies come from our own tables, so that the peer sees what we see.

HELP's protocol, kept as it is and worth knowing when figures are compared:

- ``num_samples`` counts the measurements it fine-tunes on; ten fixed reference architectures, measured on the device
  as well, describe the device to it. Ten samples are twenty measurements.
- It draws the former from a pool (the first 900 architectures of NAS-Bench-201, the first 4,000 of FBNet) without its
  fastest and slowest tenth, and scales latencies by the minimum and maximum of that trimmed pool: it is told a little
  more about the device than its measurements say.
- It is scored on the next 1,000 architectures without their fastest and slowest tenth.
- Its checkpoints are those of the episode that scored best on the devices in ``VALIDATION_DEVICES``.

One thing differs: a prediction is the mean over ``mc_sampling`` adapted networks, as in HELP's search, whereas its
evaluation prints the score of the last of them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Space = Literal["nasbench201", "fbnet"]
POOL_SIZE: dict[Space, int] = {"nasbench201": 900, "fbnet": 4000}
# The devices behind HELP's checkpoints: trained on, and chosen by. The first are refused as targets.
TRAINING_DEVICES: dict[Space, tuple[str, ...]] = {
    "nasbench201": (
        "1080ti_1",
        "1080ti_32",
        "1080ti_256",
        "silver_4114",
        "silver_4210r",
        "samsung_a50",
        "pixel3",
        "essential_ph_1",
        "samsung_s7",
    ),
    "fbnet": (
        "1080ti_1",
        "1080ti_32",
        "1080ti_64",
        "silver_4114",
        "silver_4210r",
        "samsung_a50",
        "pixel3",
        "essential_ph_1",
        "samsung_s7",
    ),
}
VALIDATION_DEVICES: dict[Space, tuple[str, ...]] = {
    "nasbench201": ("titanx_1", "titanx_32", "titanx_256", "gold_6240"),
    "fbnet": ("titanx_1", "titanx_32", "titanx_64", "gold_6240"),
}

# One row per node: input, the edges 0→1, 0→2, 0→3, 1→2, 1→3, 2→3 of the cell, output; a 1 where data flows on to.
# HELP's operations are in another order (1→2 before 0→3), but this is the graph its checkpoint knows: see cell_graphs.
_CELL_GRAPH = (
    "01110000",
    "00001100",
    "00000010",
    "00000001",
    "00000010",
    "00000001",
    "00000001",
    "00000000",
)
# Column of HELP's one-hot encoding for our operations none, skip, 1x1, 3x3, avgpool; input and output have the others.
_OPERATION_COLUMN = np.array([4, 5, 2, 3, 1])
_INPUT_COLUMN, _OUTPUT_COLUMN = 0, 6


@dataclass(frozen=True)
class HelpPrediction:
    """What HELP was given and what it predicts; indices are rows of our table.

    ``fine_tuned`` (num_samples,) and ``references`` (10,) are the architectures it measured (they may overlap),
    ``evaluated`` (800,) those its paper scores, ``latency_ms`` (num_architectures,) its prediction for all.
    """

    fine_tuned: NDArray[np.int64]
    references: NDArray[np.int64]
    evaluated: NDArray[np.int64]
    latency_ms: NDArray[np.float64]

    @property
    def measured(self) -> NDArray[np.int64]:
        """(at most num_samples + 10,), sorted: every architecture whose latency HELP was given."""
        return np.union1d(self.fine_tuned, self.references)


def run_help(
    help_repo: Path, data: Path, space: Space, device: str, num_samples: int = 10, seeds: Sequence[int] = (3,)
) -> list[HelpPrediction]:
    """Fine-tune HELP's checkpoint on a device of ``data/<space>.npz`` and predict every architecture of the space.

    One prediction per seed, which decides the samples and HELP's own noise; 3 is the seed of HELP's scripts.
    Raises ``FileNotFoundError`` without checkout or table, ``ValueError`` for a device that is no column of the table
    or that HELP was trained on, ``RuntimeError`` with the child's output when HELP fails.
    """
    source = help_repo.resolve() / "data" / space
    checkpoint, references = source / "checkpoint" / "help_max_corr.pt", source / "hardware_embedding_index.pt"
    for needed in (help_repo / "help.py", checkpoint, references):
        if not needed.is_file():
            raise FileNotFoundError(f"{needed} is missing; clone github.com/HayeonLee/HELP and name it as help_repo")
    architectures, latencies_ms = _read_table(data / f"{space}.npz", space, device)
    with tempfile.TemporaryDirectory(prefix="help-peer-") as folder:
        _write_inputs(Path(folder) / "data" / space, space, device, architectures, latencies_ms)
        shutil.copy(references, Path(folder) / "data" / space)
        options = {
            "mode": "meta-test",
            "search_space": space,
            "main_path": folder,
            "save_path": folder,
            "load_path": str(checkpoint),
            "meta_test_devices": device,
            "num_samples": str(num_samples),
            "num_meta_train_sample": str(POOL_SIZE[space]),
        }
        # -P keeps this folder off the search path, where HELP's modules (help, loader, net, utils, ...) must be found.
        command = [sys.executable, "-P", __file__, folder, ",".join(map(str, seeds))]
        command += [word for name, value in options.items() for word in (f"--{name}", value)]
        environment = os.environ | {"PYTHONPATH": str(help_repo.resolve()), "CUDA_VISIBLE_DEVICES": ""}
        child = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
        if child.returncode != 0:
            raise RuntimeError(f"HELP failed on {space} {device}:\n{child.stdout[-2000:]}{child.stderr[-4000:]}")
        return [_read_answer(_answer_path(folder, seed)) for seed in seeds]


def _answer_path(folder: str, seed: int) -> Path:
    return Path(folder) / f"seed{seed}.npz"


def _read_answer(path: Path) -> HelpPrediction:
    with np.load(path) as arrays:
        return HelpPrediction(**{name: arrays[name] for name in arrays.files})


def _read_table(path: Path, space: Space, device: str) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Architectures (num_architectures, num_choices) and their latencies on the device (num_architectures,)."""
    if device in TRAINING_DEVICES[space]:
        raise ValueError(f"HELP was trained on {device!r}; name another device of {path.name}")
    with np.load(path) as table:
        known = sorted(name.removeprefix("latency_ms/") for name in table.files if name.startswith("latency_ms/"))
        if device not in known:
            raise ValueError(f"no latencies of {device!r} in {path.name}; it has {', '.join(known)}")
        return table["arch"], table[f"latency_ms/{device}"]


def _write_inputs(
    folder: Path, space: Space, device: str, architectures: NDArray[np.int8], latencies_ms: NDArray[np.float32]
) -> None:
    """The files of HELP's data folder that its loader reads, made from our arrays."""
    import torch

    (folder / "latency").mkdir(parents=True)
    torch.save(torch.from_numpy(latencies_ms), folder / "latency" / f"{device}.pt")
    if space == "nasbench201":
        operations, adjacency = (torch.from_numpy(array) for array in cell_graphs(architectures))
        cells = [{"operation": one_hot, "adjacency_matrix": adjacency} for one_hot in operations]
        torch.save(cells, folder / "architecture.pt")
    else:
        torch.save({"arch": [{"op_idx_list": row.tolist()} for row in architectures]}, folder / "metainfo.pt")


def cell_graphs(architectures: NDArray[np.int8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """NAS-Bench-201 cells (num, 6) as HELP encodes them: one-hot nodes (num, 8, 7) and the adjacency (8, 8) of all.

    HELP's own file of them, ``architecture.pt``, is too large for some mirrors of its repository, so this encoding is
    a reconstruction. The operations' columns and order are those of the example in HELP's issue 2 (3x3 and none,
    absent there, in the alphabetical order of the others; exchanged, Spearman on HELP's training devices is .05).
    The graph is NASLib's: on the training devices its error is 4 % (± 0.8 %) below that of the graph in the order
    of the operations, which moves Spearman by about .001, and exchanging any two more of its nodes does not help.
    """
    adjacency = np.array([[int(digit) for digit in row] for row in _CELL_GRAPH], dtype=np.float32)
    columns = np.pad(_OPERATION_COLUMN[architectures], ((0, 0), (1, 1)))
    columns[:, 0], columns[:, -1] = _INPUT_COLUMN, _OUTPUT_COLUMN
    return np.eye(7, dtype=np.float32)[columns], adjacency


def _drive(folder: str, seeds: list[int]) -> None:
    """In the child: what HELP's ``main.py`` does for ``meta-test``, but on every architecture, and kept."""
    torch = _patched_torch()
    import help as help_module  # type: ignore[import-not-found]  # HELP's own, in its folder
    from main import set_path, set_seed  # type: ignore[import-not-found]  # likewise
    from parser import get_parser  # type: ignore[import-not-found]  # likewise  # isort: skip

    arguments = set_path(get_parser())
    arguments.meta_train_devices = arguments.meta_valid_devices = []  # their latencies are not needed any more
    (device,) = arguments.meta_test_devices
    for seed in seeds:
        arguments.seed = seed
        set_seed(arguments)
        model = help_module.HELP(arguments)
        model.load_model()
        data = model.data
        help_module.Data = lambda *_, data=data: data  # loading it takes longer than a prediction
        np.savez(_answer_path(folder, seed), **_predict(torch, model, data, device, arguments))


def _predict(torch: Any, model: Any, data: Any, device: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of ``HelpPrediction``."""
    pool, evaluated = data.train_idx[device], data.valid_idx[device]
    before = torch.get_rng_state()
    fine_tuned = pool[torch.randperm(len(pool))][: arguments.num_samples]
    torch.set_rng_state(before)  # get_task makes the same draw
    embedding, samples, targets, _, _, _ = data.get_task(device)
    chunks = _every_architecture(torch, data.archs)
    predictions = []
    for _ in range(arguments.mc_sampling):
        adapted, _ = model.train_single_task(embedding, samples, targets, model.num_eval_updates)
        with torch.no_grad():
            predictions.append(torch.cat([model.model(chunk, embedding, adapted) for chunk in chunks]).flatten())
    scaled = torch.stack(predictions).mean(0).double()
    fastest_ms, slowest_ms = data.latency[device][pool].double().aminmax()
    latency_ms = fastest_ms + (scaled - 0.05) / 0.9 * (slowest_ms - fastest_ms)  # undoes HELP's utils.normalization
    return {"fine_tuned": fine_tuned, "references": data.hw_emb_idx, "evaluated": evaluated, "latency_ms": latency_ms}


def _every_architecture(torch: Any, archs: list[Any], size: int = 256) -> list[Any]:
    """HELP's encoded architectures in batches that stay in the cache: vectors (FBNet) or pairs of nodes and edges."""
    if isinstance(archs[0], torch.Tensor):
        return list(torch.stack(archs).split(size))
    nodes, edges = (torch.stack(parts).split(size) for parts in zip(*archs, strict=True))
    return list(zip(nodes, edges, strict=True))


def _patched_torch() -> Any:
    """Torch without GPU calls, unpickling only tensors, and with stand-ins for what HELP imports but needs not here."""
    import functools
    import types

    import torch

    for kind in (torch.Tensor, torch.nn.Module):
        kind.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]  # the patch
    torch.load = functools.partial(torch.load, map_location="cpu", weights_only=True)
    np.row_stack = np.vstack  # deprecated since numpy 2.0
    tensorboard = types.ModuleType("torch.utils.tensorboard")
    tensorboard.SummaryWriter = None  # type: ignore[attr-defined]  # only training writes logs with it
    sys.modules["torch.utils.tensorboard"] = tensorboard
    return torch


if __name__ == "__main__":  # the child that run_help starts
    _drive(sys.argv.pop(1), [int(seed) for seed in sys.argv.pop(1).split(",")])
