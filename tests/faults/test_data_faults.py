"""Images and archives that are no files, hostile, or damaged: skipped and named, or one clear error; never a crash."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hwautoml.core.shown import shown, shown_text
from hwautoml.datasets import load_dataset
from hwautoml.datasets.decoding import UnusableImageError
from hwautoml.datasets.safety import read_arrays, read_regular
from hwautoml.errors import DatasetError


def picture(seed: int, side: int = 12) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 12 images each."""
    folder = tmp_path / "photos"
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            picture(100 * label + number).save(folder / name / f"{number}.png")
    return folder


# Names.


def test_names_that_are_no_utf8_are_made_safe(photos: Path) -> None:
    """One image and the folder itself; a name that no file can hold would end the run when it is shipped."""
    named = photos.rename(Path(os.fsdecode(os.fsencode(photos) + b"\xff")))
    Path(os.fsdecode(os.fsencode(named / "cat") + b"/\xfe.png")).write_text("no image")
    (named / "dog" / "a\x1b[31m\nb.png").write_text("no image")
    dataset = load_dataset(named)
    assert dataset.name == "photos\\xff"
    assert [image.path for image in dataset.skipped] == ["cat/\\xfe.png", "dog/a\\x1b[31m\\nb.png"]
    for text in (dataset.name, *(image.path for image in dataset.skipped)):
        text.encode("utf-8")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("déjà vu 猫 👨\u200d👩\u200d👧 a\u00a0b", None),
        ("\x1b[2Jx", "\\x1b[2Jx"),
        ("a\nb\r", "a\\nb\\r"),
        ("\udcff\ud800", "\\xff\\ud800"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),
    ],
)
def test_names_are_shown_on_one_line(name: str, expected: str | None) -> None:
    assert shown(name) == (name if expected is None else expected)
    assert shown_text("x\n\t" + name).startswith("x\n\t")


@pytest.mark.parametrize("label", ["caf\udce9", "a\nb", "\x1b[31m"])
def test_labels_of_an_npz_that_are_no_printable_text(tmp_path: Path, label: str) -> None:
    y = np.array(["cat", label] * 12)
    np.savez(tmp_path / "set.npz", x=np.zeros((24, 8, 8, 3), np.uint8), y=y)
    with pytest.raises(DatasetError, match="which is not printable"):
        load_dataset(tmp_path / "set.npz")


def test_labels_of_an_npz_that_are_no_characters(tmp_path: Path) -> None:
    y = np.frombuffer(np.array([99, 0x7FFFFFFF] * 12, "<u4").tobytes(), dtype="<U1")
    np.savez(tmp_path / "set.npz", x=np.zeros((24, 8, 8, 3), np.uint8), y=y)
    with pytest.raises(DatasetError, match="holds a name that is no text"):
        load_dataset(tmp_path / "set.npz")


# What is no file.


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(100 << 30)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_fifo, "is no regular file but a pipe"),
        (_device, "is no regular file but a device"),
        (_sparse, "has 107,374,182,400 bytes, more than the 536,870,912 allowed for one image"),
    ],
)
def test_what_is_no_image_file_is_skipped_and_named(photos: Path, make: Callable[[Path], None], reason: str) -> None:
    make(photos / "cat" / "odd.png")
    (skipped,) = load_dataset(photos).skipped
    assert (skipped.path, skipped.reason) == ("cat/odd.png", reason)


@pytest.mark.parametrize("suffix", [".zip", ".npz"])
@pytest.mark.parametrize("make", [_fifo, _device])
def test_archives_that_are_no_files(tmp_path: Path, make: Callable[[Path], None], suffix: str) -> None:
    make(tmp_path / f"set{suffix}")
    with pytest.raises(DatasetError, match=r"set\.(zip|npz)"):
        load_dataset(tmp_path / f"set{suffix}")


# Archives that claim, and unpack to, more than there is.


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


X, Y = np.zeros((24, 8, 8, 3), np.uint8), np.array([0, 1] * 12)


def claiming(shape: str) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (118 - len(header) - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(100)


@pytest.mark.parametrize("shape", ["(100000, 320, 320, 3)", "(9" + "9" * 40 + ", 8, 8)", "(-1, 8, 8)", "(2, 3"])
def test_headers_that_claim_more_than_there_is(tmp_path: Path, shape: str) -> None:
    with pytest.raises(DatasetError, match=r"cannot read .*set\.npz as an \.npz"):
        load_dataset(npz(tmp_path / "set.npz", x=claiming(shape), y=npy(Y)))


def test_zeros_that_fill_the_memory_are_not_unpacked(tmp_path: Path) -> None:
    """Ten gigabytes and more in a few kilobytes: the archive's directory says so before anything is read."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    path = npz(tmp_path / "set.npz", x=npy(X), y=npy(Y))
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(b"PK\x01\x02"))  # of x
    data[entry + 24 : entry + 28] = min(memory, 2**32 - 2).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"set\.npz"):
        load_dataset(path)
    real = tmp_path / "bomb.npz"
    with zipfile.ZipFile(real, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as file:
        file.write(claiming("(4000000000,)")[:128])
        for _ in range(64):
            file.write(bytes(1 << 20))
    with pytest.raises(DatasetError, match="lacks y"):
        read_arrays(real, ("x", "y"), "fix")


def test_encrypted_damaged_and_too_new_archives(tmp_path: Path) -> None:
    whole = npz(tmp_path / "set.npz", x=npy(X), y=npy(Y)).read_bytes()
    entry = whole.index(b"PK\x01\x02")
    encrypted, too_new, damaged = bytearray(whole), bytearray(whole), bytearray(whole)
    encrypted[entry + 8] |= 1
    too_new[entry + 6] = 99
    start = 30 + len("x.npy") + int.from_bytes(whole[28:30], "little")
    damaged[start + 3 : start + 9] = b"\xff" * 6
    for data in (encrypted, too_new, damaged):
        (tmp_path / "set.npz").write_bytes(data)
        with pytest.raises(DatasetError, match=r"cannot read .*set\.npz as an \.npz"):
            load_dataset(tmp_path / "set.npz")


def test_reading_ends_at_the_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_regular(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="more than the 4 allowed"):
        read_regular(tmp_path / "file", 4)


# Fuzzing.


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes flipped, set to extremes, cut out, doubled or cut off."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 8))):
        place, kind = int(rng.integers(len(changed))), int(rng.integers(6))
        if kind <= 1:
            changed[place] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            changed[place] = int(rng.choice([0, 1, 127, 128, 255]))
        elif kind == 3:
            changed[place : place + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
        elif kind == 4:
            del changed[place : place + int(rng.integers(1, 9))]
        elif rng.random() < 0.2:
            del changed[place:]
        changed = changed or bytearray(b"\0")
    return bytes(changed)


@pytest.mark.parametrize("number", [60, pytest.param(5000, marks=pytest.mark.faults)])
def test_damaged_npz_files(tmp_path: Path, number: int) -> None:
    rng = np.random.default_rng(0)
    whole = npz(tmp_path / "set.npz", x=npy(X), y=npy(np.array(["cat", "dog"] * 12))).read_bytes()
    stored = tmp_path / "stored.npz"
    np.savez(stored, x=X, y=Y)
    for index in range(number):
        (tmp_path / "set.npz").write_bytes(mutated((whole, stored.read_bytes())[index % 2], rng))
        try:
            arrays = read_arrays(tmp_path / "set.npz", ("x", "y"), "fix")
        except DatasetError:
            continue
        assert arrays["x"].nbytes < 10**6
        try:
            load_dataset(tmp_path / "set.npz")
        except DatasetError:
            continue


@pytest.mark.parametrize("number", [40, pytest.param(5000, marks=pytest.mark.faults)])
def test_damaged_zip_files(tmp_path: Path, photos: Path, number: int) -> None:
    rng = np.random.default_rng(1)
    files = sorted(path for path in photos.rglob("*.png") if path.stem in ("0", "1", "2", "3"))
    for method, name in ((zipfile.ZIP_DEFLATED, "a.zip"), (zipfile.ZIP_LZMA, "b.zip"), (zipfile.ZIP_STORED, "c.zip")):
        with zipfile.ZipFile(tmp_path / name, "w", method) as archive:
            for path in files:
                archive.write(path, path.relative_to(photos).as_posix())
    wholes = [(tmp_path / name).read_bytes() for name in ("a.zip", "b.zip", "c.zip")]
    for index in range(number):
        (tmp_path / "set.zip").write_bytes(mutated(wholes[index % 3], rng))
        try:
            load_dataset(tmp_path / "set.zip")
        except DatasetError:
            continue


@pytest.mark.faults
def test_damaged_images(tmp_path: Path) -> None:
    """5,000 of seven formats, through the very function that decodes a data set's."""
    from hwautoml.core.pixel_rule import PixelRule
    from hwautoml.datasets.decoding import FORMATS, quiet_decoding, read_image

    rng = np.random.default_rng(2)
    wholes = []
    for name in FORMATS:
        buffer = io.BytesIO()
        picture(0, 24).save(buffer, name)
        wholes.append(buffer.getvalue())

    class Source:
        origin = "fuzz"

        def read(self, path: str) -> bytes:
            return mutated(wholes[int(path) % len(wholes)], rng)

        def name_of(self, path: str) -> str:
            return path

    source = Source()
    with quiet_decoding():
        for index in range(5000):
            try:
                found, _ = read_image(source, str(index), 8, 3, PixelRule())  # type: ignore[arg-type]
            except (DatasetError, UnusableImageError):
                continue
            assert isinstance(found, str) or found.pixels.shape == (8, 8, 3)


def test_memory_stays_bounded(tmp_path: Path, photos: Path) -> None:
    """All of it in a process that may not take more than its share."""
    _sparse(photos / "cat" / "odd.png")
    npz(photos.parent / "claim.npz", x=claiming("(100000, 320, 320, 3)"), y=npy(Y))
    program = (
        "import pathlib, resource, sys, torch\n"
        "from hwautoml.datasets import load_dataset\n"
        "from hwautoml.errors import DatasetError\n"
        "base = pathlib.Path(sys.argv[1]); load_dataset(base / 'photos')\n"
        "try: load_dataset(base / 'claim.npz')\n"
        "except DatasetError: print('refused', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    word, peak_kb = done.stdout.split()
    assert word == "refused" and int(peak_kb) < 2 << 20
