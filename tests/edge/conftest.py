"""One emulated board, its agent, and networks of the space to run on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hwautoml.compilers._toolchains import architecture_of, find_compiler
from hwautoml.spaces.mobile import MobileSpace
from tests.edge.emulated_board import CannotBuildError, EmulatedBoard, build_board

NETWORK_SEEDS = (0, 1)


@pytest.fixture(scope="session")
def board() -> EmulatedBoard:
    if find_compiler(architecture_of("aarch64-linux-gnu")) is None:
        pytest.skip("no cross-compiler for aarch64: pip install 'hwautoml[edge]'")
    try:
        return build_board()
    except CannotBuildError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def address(board: EmulatedBoard) -> Iterator[str]:
    """Of the agent, which serves all tests."""
    with board.agent() as listening:
        yield listening


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """ONNX files, uint8 images in and probabilities out, of members of the mobile space with random weights."""
    import torch

    from hwautoml.exporters import Deployable, export_probe

    folder, space, paths = tmp_path_factory.mktemp("networks"), MobileSpace(32, 3, 10), []
    for seed in NETWORK_SEEDS:
        torch.manual_seed(seed)
        architecture = space.sample(np.random.default_rng(seed))
        side = space.resolution(architecture)
        module = Deployable(space.module(architecture), [0.5] * 3, [0.25] * 3)
        path = folder / f"net{seed}.onnx"
        export_probe(module, path, (1, side, side, 3), dtype="uint8")
        paths.append(path)
    return paths
