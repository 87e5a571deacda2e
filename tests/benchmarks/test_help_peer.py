import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.help_peer import POOL_SIZE, TRAINING_DEVICES, cell_graphs, run_help


def test_cells_are_encoded_as_in_the_example_of_helps_issue_2():
    """|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"""
    nodes, adjacency = cell_graphs(np.array([[4, 2, 1, 2, 1, 1]], dtype=np.int8))
    assert nodes.shape == (1, 8, 7)
    assert nodes[0].argmax(axis=1).tolist() == [0, 1, 2, 5, 2, 5, 5, 6]
    assert (nodes.sum(axis=2) == 1).all()
    assert adjacency.shape == (8, 8)
    assert not np.tril(adjacency).any()  # data flows forwards only


@pytest.fixture
def table_folder(tmp_path: Path) -> Path:
    latencies = {f"latency_ms/{device}": np.ones(3, dtype=np.float32) for device in ("mine", "pixel3")}
    np.savez(tmp_path / "fbnet.npz", arch=np.zeros((3, 22), dtype=np.int8), **latencies)
    return tmp_path


@pytest.fixture
def empty_checkout(tmp_path: Path) -> Path:
    """A folder with the names that are looked for, so that the device is what is judged."""
    source = tmp_path / "HELP" / "data" / "fbnet"
    (source / "checkpoint").mkdir(parents=True)
    for path in (tmp_path / "HELP" / "help.py", source / "checkpoint" / "help_max_corr.pt"):
        path.touch()
    (source / "hardware_embedding_index.pt").touch()
    return tmp_path / "HELP"


def test_without_a_checkout_the_message_says_what_to_clone(table_folder: Path):
    with pytest.raises(FileNotFoundError, match="clone github.com/HayeonLee/HELP"):
        run_help(table_folder / "absent", table_folder, "fbnet", "mine")


def test_devices_help_was_trained_on_and_unknown_ones_are_refused(table_folder: Path, empty_checkout: Path):
    assert "pixel3" in TRAINING_DEVICES["fbnet"]
    with pytest.raises(ValueError, match="HELP was trained on 'pixel3'"):
        run_help(empty_checkout, table_folder, "fbnet", "pixel3")
    with pytest.raises(ValueError, match="no latencies of 'yours' in fbnet.npz; it has mine, pixel3"):
        run_help(empty_checkout, table_folder, "fbnet", "yours")


@pytest.mark.slow
def test_a_failing_child_is_reported_with_its_output(table_folder: Path, empty_checkout: Path):
    with pytest.raises(RuntimeError, match="HELP failed on fbnet mine(?s:.*)No module named"):
        run_help(empty_checkout, table_folder, "fbnet", "mine")


@pytest.mark.slow
@pytest.mark.parametrize(("space", "device"), [("fbnet", "titanxp_64"), ("nasbench201", "titanxp_1")])
def test_help_predicts_a_device_it_has_not_seen(space, device):
    data = Path(os.environ.get("HWAUTOML_DATA", Path(__file__).parents[3] / "shared" / "data"))
    checkout = Path(os.environ.get("HWAUTOML_HELP_REPO", "HELP"))
    if not (checkout / "help.py").is_file() or not (data / f"{space}.npz").is_file():
        pytest.skip("set HWAUTOML_HELP_REPO to a checkout of HELP and HWAUTOML_DATA to the latency tables' folder")
    first, again, other = run_help(checkout, data, space, device, num_samples=10, seeds=[3, 3, 4])
    with np.load(data / f"{space}.npz") as table:
        latency_ms = table[f"latency_ms/{device}"]
    assert len(first.fine_tuned) == 10
    assert len(first.measured) <= 20
    assert first.fine_tuned.max() < POOL_SIZE[space]
    assert len(first.evaluated) == 800
    assert POOL_SIZE[space] <= first.evaluated.min()
    assert first.evaluated.max() < POOL_SIZE[space] + 1000
    assert np.array_equal(first.latency_ms, again.latency_ms)
    assert not np.array_equal(first.fine_tuned, other.fine_tuned)
    ranks = [np.argsort(np.argsort(values[first.evaluated])) for values in (first.latency_ms, latency_ms)]
    assert np.corrcoef(*ranks)[0, 1] > 0.88
    assert np.median(np.abs(first.latency_ms / latency_ms - 1)) < 0.1
