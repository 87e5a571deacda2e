from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hwautoml.errors import RunFolderError
from hwautoml.store.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from hwautoml.store.files import write_tensors


def test_weights_momentum_and_counters_come_back(tmp_path: Path) -> None:
    weights, momentum = {"a.weight": torch.ones(2, 3)}, {"a.weight": torch.full((2, 3), 0.5)}
    write_checkpoint(tmp_path / "c", Checkpoint(weights, momentum, {"seconds": 1.5, "steps": 7}))
    found = read_checkpoint(tmp_path / "c")
    assert found.weights.keys() == found.momentum.keys() == {"a.weight"}
    assert torch.equal(found.weights["a.weight"], weights["a.weight"])
    assert torch.equal(found.momentum["a.weight"], momentum["a.weight"])
    assert found.counters == {"seconds": 1.5, "steps": 7}


@pytest.mark.parametrize("metadata", [{}, {"state": "{"}])
def test_a_file_without_the_trainings_state_is_no_checkpoint(tmp_path: Path, metadata: dict[str, str]) -> None:
    write_tensors(tmp_path / "c", {"net.a": torch.ones(1)}, metadata)
    with pytest.raises(RunFolderError, match="is no checkpoint") as caught:
        read_checkpoint(tmp_path / "c")
    assert caught.value.fix is not None and str(tmp_path / "c") in caught.value.fix
