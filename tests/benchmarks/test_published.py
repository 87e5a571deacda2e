"""Files of published latencies; the real ones are read where they are at hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.published import load_published
from hwautoml.core.space import SearchSpace
from hwautoml.errors import InvalidValueError, RunFolderError
from hwautoml.spaces.fbnet import FBNetSpace
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.spaces.nasbench201 import NasBench201Space, to_string
from hwautoml.spaces.ofa import RESOLUTIONS, OFASpace

NUM = 7
RNG = np.random.default_rng(0)
LATENCIES = {"latency_ms/one": RNG.uniform(1, 9, NUM).astype(np.float32), "latency_ms/two": RNG.uniform(1, 9, NUM)}
NASBENCH201 = {"arch": RNG.integers(0, 5, (NUM, 6), dtype=np.int8), **LATENCIES}
FBNET = {"arch": RNG.integers(0, 9, (NUM, 22), dtype=np.int8), **LATENCIES}
OFA = {
    "ks": RNG.choice(np.array([3, 5, 7], np.int8), (NUM, 20)),
    "e": RNG.choice(np.array([3, 4, 6], np.int8), (NUM, 20)),
    "d": RNG.choice(np.array([2, 3, 4], np.int8), (NUM, 5)),
    "r": RNG.choice(np.array(RESOLUTIONS, np.int16), NUM),
    **LATENCIES,
}
FILES = [(NasBench201Space(), NASBENCH201), (FBNetSpace(), FBNET), (OFASpace(), OFA)]


def write(folder: Path, arrays: dict) -> Path:
    path = folder / "latencies.npz"
    np.savez_compressed(path, **arrays)
    return path


@pytest.mark.parametrize(("space", "arrays"), FILES, ids=["nasbench201", "fbnet", "ofa"])
def test_encodings_are_canonical_and_latencies_are_the_files(space: SearchSpace, arrays: dict, tmp_path: Path) -> None:
    published = load_published(write(tmp_path, arrays), space)
    assert published.space == space
    assert published.encodings.shape == (NUM, len(space.choices)) and published.encodings.dtype == np.int64
    for row in published.encodings:
        assert (space.encode(space.decode(row)) == row).all()
    assert list(published.latency_ms) == ["one", "two"]
    for device, latencies in published.latency_ms.items():
        assert latencies.dtype == np.float64
        assert (latencies == arrays[f"latency_ms/{device}"]).all()


def test_nasbench201_operations_are_translated(tmp_path: Path) -> None:
    arrays = {**NASBENCH201, "arch": np.tile(np.arange(6) % 5, (NUM, 1))}
    space = NasBench201Space()
    found = space.decode(load_published(write(tmp_path, arrays), space).encodings[0])
    assert to_string(found) == "|none~0|+|skip_connect~0|nor_conv_1x1~1|+|nor_conv_3x3~0|avg_pool_3x3~1|none~2|"


def test_fbnet_operations_are_translated(tmp_path: Path) -> None:
    arrays = {**FBNET, "arch": np.tile(np.arange(22) % 9, (NUM, 1))}
    space = FBNetSpace()
    values = [value for _, value in space.decode(load_published(write(tmp_path, arrays), space).encodings[0]).values]
    assert values[:9] == ["k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip"]


def test_ofa_columns_go_to_their_choices(tmp_path: Path) -> None:
    space = OFASpace()
    found = space.decode(load_published(write(tmp_path, OFA), space).encodings[2])
    assert found["resolution"] == OFA["r"][2]
    for stage in range(5):
        depth = OFA["d"][2, stage]
        assert found[f"stage{stage}.depth"] == depth
        for block in range(4):
            expected = (OFA["ks"][2, 4 * stage + block], OFA["e"][2, 4 * stage + block]) if block < depth else (3, 3)
            prefix = f"stage{stage}.block{block}"
            assert (found[f"{prefix}.kernel"], found[f"{prefix}.expansion"]) == expected


def changed(arrays: dict, **changes: object) -> dict:
    return {k: v for k, v in {**arrays, **changes}.items() if v is not None}


TOO_HIGH = NASBENCH201["arch"].copy()
TOO_HIGH[3, 2] = 5
NOT_A_NUMBER = np.where(np.arange(NUM) == 2, np.nan, 1.0)


@pytest.mark.parametrize(
    ("space", "arrays", "message"),
    [
        (NasBench201Space(), changed(NASBENCH201, arch=None), "has no array 'arch'"),
        (NasBench201Space(), FBNET, r"has 'arch' as int8 \(7, 22\), expected integers \(n, 6\)"),
        (FBNetSpace(), NASBENCH201, r"has 'arch' as int8 \(7, 6\), expected integers \(n, 22\)"),
        (FBNetSpace(), OFA, "has no array 'arch'"),
        (OFASpace(), NASBENCH201, "has no array 'r'"),
        (NasBench201Space(), changed(NASBENCH201, arch=TOO_HIGH), "has 5 in 'arch', expected values of 0, 1, 2, 3, 4"),
        (NasBench201Space(), changed(NASBENCH201, arch=-TOO_HIGH), "has -. in 'arch'"),
        (NasBench201Space(), changed(NASBENCH201, arch=TOO_HIGH * 1.0), r"'arch' as float64 \(7, 6\)"),
        (NasBench201Space(), changed(NASBENCH201, arch=TOO_HIGH[:0]), r"'arch' as int8 \(0, 6\)"),
        (OFASpace(), changed(OFA, ks=OFA["ks"] + 1), "has . in 'ks', expected values of 3, 5, 7"),
        (OFASpace(), changed(OFA, r=OFA["r"] + 1), "in 'r', expected values of 128, 132"),
        (OFASpace(), changed(OFA, d=OFA["d"][:-1]), "has 6 rows in 'd', but 7 in 'r'"),
        (FBNetSpace(), {"arch": FBNET["arch"]}, "has no array latency_ms/DEVICE"),
        (FBNetSpace(), {**FBNET, "latency_ms/two": np.ones(6)}, r"'latency_ms/two' as float64 \(6,\), .*\(7,\)"),
        (FBNetSpace(), {**FBNET, "latency_ms/two": np.ones(7, bool)}, "'latency_ms/two' as bool"),
        (FBNetSpace(), {**FBNET, "latency_ms/two": NOT_A_NUMBER}, "latency nan in 'latency_ms/two', expected positive"),
        (FBNetSpace(), {**FBNET, "latency_ms/two": np.zeros(7)}, "latency 0.0 in 'latency_ms/two'"),
    ],
)
def test_the_array_that_is_wrong_is_named(space: SearchSpace, arrays: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=message) as caught:
        load_published(write(tmp_path, arrays), space)
    assert "latencies.npz" in caught.value.message and caught.value.fix


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"there is no file .*nothing.npz"):
        load_published(tmp_path / "nothing.npz", FBNetSpace())


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 broken"])
def test_a_file_that_is_no_npz(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"x.npz is no .npz file, or damaged"):
        load_published(tmp_path / "x.npz", FBNetSpace())


def test_a_single_array_is_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FBNET["arch"])
    with pytest.raises(RunFolderError, match=r"x.npy is no .npz file, but a single array"):
        load_published(tmp_path / "x.npy", FBNetSpace())


def test_a_truncated_file(tmp_path: Path) -> None:
    path = write(tmp_path, FBNET)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(RunFolderError, match="damaged"):
        load_published(path, FBNetSpace())


def test_a_damaged_array_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, FBNET)
    content = bytearray(path.read_bytes())
    start = content.find(b"latency_ms/one.npy") + 60  # inside its compressed bytes
    content[start : start + 8] = bytes(255 - byte for byte in content[start : start + 8])
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match="array 'latency_ms/one' of .* is damaged"):
        load_published(path, FBNetSpace())


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = write(tmp_path, {**FBNET, "latency_ms/two": np.array([object()] * NUM)})
    with pytest.raises(RunFolderError, match="array 'latency_ms/two' of .* is damaged"):
        load_published(path, FBNetSpace())


def test_a_space_without_publications(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="known for mobile.*; known: FBNetSpace, NasBench201Space, OFASpace"):
        load_published(write(tmp_path, FBNET), MobileSpace(32, 3, 10))


@pytest.mark.parametrize(
    ("name", "space", "num_architectures", "num_devices"),
    [
        ("nasbench201.npz", NasBench201Space(), 15625, 19),
        ("fbnet.npz", FBNetSpace(), 5000, 19),
        ("ofa.npz", OFASpace(), 5000, 8),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_real_files_load(
    name: str, space: SearchSpace, num_architectures: int, num_devices: int, published_file: Callable[[str], Path]
) -> None:
    published = load_published(published_file(name), space)
    assert len(published.encodings) == num_architectures
    assert len(published.latency_ms) == num_devices
