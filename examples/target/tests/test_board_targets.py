from __future__ import annotations

from pathlib import Path

import board_targets
import pytest

from hwautoml.core.resources import target_folders
from hwautoml.core.target import load_target, target_names

FOLDER = Path(board_targets.__file__).parent
NAMES = target_names([FOLDER])


def test_hwautoml_looks_into_this_package() -> None:
    assert FOLDER in [folder.resolve() for folder in target_folders()]


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_a_target(name: str) -> None:
    """Loading one checks it, and tells everything that is wrong at once."""
    target = load_target(name, [FOLDER])
    assert target.connection == "rpc" and "tvm" in target.runtimes
