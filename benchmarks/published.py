"""Latencies that others measured: an ``.npz`` file of architectures of a published space and their latencies.

=================== ========================================================================================
space               arrays of n architectures, all integers
=================== ========================================================================================
``nasbench201``     ``arch`` (n, 6): none, skip, 1x1, 3x3, average pool as 0 to 4; edges as in ``EDGES``
``fbnet``           ``arch`` (n, 22): k3_e1, k3_e1_g2, k3_e3, k3_e6, k5_e1, ..., k5_e6, skip as 0 to 8
``ofa-mobilenetv3`` ``ks`` and ``e`` (n, 20): kernels and expansions; ``d`` (n, 5): depths; ``r`` (n,): pixels
=================== ========================================================================================

Besides, ``latency_ms/DEVICE`` (n,) for every device. Other arrays are not looked at.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.space import SearchSpace
from hwautoml.errors import InvalidValueError, RunFolderError
from hwautoml.spaces import fbnet, nasbench201, nasbench201_layers, ofa

LATENCY_PREFIX = "latency_ms/"
NASBENCH201_ORDER = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
FBNET_ORDER = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")


@dataclass(frozen=True)
class PublishedLatencies:
    """``encodings`` (n, num_choices): option indices of canonical architectures, in the space's order.

    ``latency_ms`` maps a device to its latencies (n,) in ms.
    """

    space: SearchSpace
    encodings: NDArray[np.int64]
    latency_ms: Mapping[str, NDArray[np.float64]]


def load_published(path: Path | str, space: SearchSpace) -> PublishedLatencies:
    """The latencies of a file as described above; nothing in it is unpickled.

    Raises:
        InvalidValueError: nothing is published for ``space``.
        RunFolderError: the file is missing or damaged, or an array of it is missing, damaged or of another space.
    """
    encoder = _ENCODERS.get(type(space))
    if encoder is None:
        known = ", ".join(sorted(space_class.__name__ for space_class in _ENCODERS))
        raise InvalidValueError(f"no format of published latencies is known for {space.name}; known: {known}")
    file = _File(Path(path), space.name, _read(Path(path)))
    encodings = encoder(file)
    devices = [name for name in file.arrays if name.startswith(LATENCY_PREFIX)]
    if not devices:
        raise file.error("has no array latency_ms/DEVICE")
    latency_ms = {name.removeprefix(LATENCY_PREFIX): file.latencies(name, len(encodings)) for name in devices}
    return PublishedLatencies(space, encodings, latency_ms)


@dataclass(frozen=True)
class _File:
    path: Path
    space: str
    arrays: Mapping[str, NDArray[np.generic]]

    def positions(self, name: str, shape: tuple[int, ...], values: Sequence[int]) -> NDArray[np.int64]:
        """Where in ``values`` (ascending) each element of the array (n, *shape) is found."""
        if name not in self.arrays:
            raise self.error(f"has no array {name!r}")
        array, allowed = self.arrays[name], np.array(values)
        if array.ndim != 1 + len(shape) or array.shape[1:] != shape or not len(array) or array.dtype.kind not in "iu":
            expected = ", ".join(map(str, ("n", *shape)))
            raise self.error(f"has {name!r} as {array.dtype} {array.shape}, expected integers ({expected})")
        found = np.minimum(np.searchsorted(allowed, array), len(allowed) - 1)
        wrong = allowed[found] != array
        if wrong.any():
            raise self.error(f"has {array[wrong][0]} in {name!r}, expected values of {', '.join(map(str, values))}")
        return found

    def latencies(self, name: str, num_architectures: int) -> NDArray[np.float64]:
        array = self.arrays[name]
        if array.dtype.kind != "f" or array.shape != (num_architectures,):
            raise self.error(
                f"has {name!r} as {array.dtype} {array.shape}, expected floating point ({num_architectures},)"
            )
        latencies = array.astype(np.float64)
        wrong = ~(np.isfinite(latencies) & (latencies > 0))
        if wrong.any():
            raise self.error(f"has the latency {latencies[wrong][0]} in {name!r}, expected positive milliseconds")
        return latencies

    def error(self, problem: str) -> RunFolderError:
        return RunFolderError(
            f"{self.path} {problem}",
            fix=f"a file of {self.space}, whose arrays docs/spaces.md lists, or the space that this file is of",
        )


def _read(path: Path) -> dict[str, NDArray[np.generic]]:
    fix = "a whole .npz file as docs/spaces.md describes it"
    if not path.is_file():
        raise RunFolderError(f"there is no file {path}", fix=fix)
    try:
        file = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RunFolderError(f"{path} is no .npz file, or damaged: {error}", fix=fix) from error
    if isinstance(file, np.ndarray):
        raise RunFolderError(f"{path} is no .npz file, but a single array", fix=fix)
    arrays = {}
    with file:
        for name in file.files:
            try:
                arrays[name] = file[name]
            except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
                raise RunFolderError(f"array {name!r} of {path} is damaged: {error}", fix=fix) from error
    return arrays


def _encode_nasbench201(file: _File) -> NDArray[np.int64]:
    order = np.array([nasbench201_layers.OPERATIONS.index(name) for name in NASBENCH201_ORDER])
    return order[file.positions("arch", (len(nasbench201_layers.EDGES),), range(len(order)))]


def _encode_fbnet(file: _File) -> NDArray[np.int64]:
    order = np.array([fbnet.OPERATIONS.index(name) for name in FBNET_ORDER])
    return order[file.positions("arch", (fbnet.NUM_POSITIONS,), range(len(order)))]


def _encode_ofa(file: _File) -> NDArray[np.int64]:
    """Blocks beyond a stage's depth get the first kernel and expansion, as ``canonical`` gives them."""
    num_stages, num_blocks = len(ofa.STAGES), ofa.DEPTHS[-1]
    resolution = file.positions("r", (), ofa.RESOLUTIONS)
    depth = file.positions("d", (num_stages,), ofa.DEPTHS)
    kernel = file.positions("ks", (num_stages * num_blocks,), ofa.KERNELS)
    expansion = file.positions("e", (num_stages * num_blocks,), ofa.EXPANSIONS)
    for name, array in (("d", depth), ("ks", kernel), ("e", expansion)):
        if len(array) != len(resolution):
            raise file.error(f"has {len(array)} rows in {name!r}, but {len(resolution)} in 'r'")
    blocks = np.stack([kernel, expansion], axis=-1).reshape(-1, num_stages, num_blocks, 2)
    is_active = np.arange(num_blocks) < np.array(ofa.DEPTHS)[depth][:, :, None]
    active_blocks = np.where(is_active[..., None], blocks, 0).reshape(-1, num_stages, 2 * num_blocks)
    stages = np.concatenate([depth[:, :, None], active_blocks], axis=2)
    return np.hstack([resolution[:, None], stages.reshape(len(resolution), -1)])


_ENCODERS: dict[type[SearchSpace], Callable[[_File], NDArray[np.int64]]] = {
    nasbench201.NasBench201Space: _encode_nasbench201,
    fbnet.FBNetSpace: _encode_fbnet,
    ofa.OFASpace: _encode_ofa,
}
