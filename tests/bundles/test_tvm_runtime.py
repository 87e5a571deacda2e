"""Wheels of TVM, made here as real ones are laid out, unpacked for a runner."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from hwautoml.bundles.tvm_runtime import download_command, unpack_tvm_runtime
from hwautoml.errors import InvalidValueError, MissingDependencyError

AARCH64, X86_64 = 183, 62


def elf(machine: int) -> bytes:
    return b"\x7fELF" + bytes(14) + struct.pack("<H", machine) + bytes(40)


def wheels(folder: Path, machine: int = AARCH64, extra: dict[str, bytes] | None = None) -> Path:
    parts = (("apache_tvm", "tvm", "libtvm_runtime.so"), ("apache_tvm_ffi", "tvm_ffi", "libtvm_ffi.so"))
    for package, root, library in parts:
        with zipfile.ZipFile(folder / f"{package}-1.0-cp311-cp311-manylinux_2_28_aarch64.whl", "w") as archive:
            archive.writestr(f"{root}/lib/{library}", elf(machine))
            archive.writestr(f"{root}/lib/libtvm_compiler.so", b"large")
            archive.writestr(f"{root}/include/{root}/base.h", b"// header")
            for name, content in (extra or {}).items():
                archive.writestr(name, content)
    return folder


def test_headers_and_runtime_come_out_and_nothing_else(tmp_path: Path) -> None:
    runtime = unpack_tvm_runtime(wheels(tmp_path), tmp_path / "out", "aarch64")
    assert all(path.is_dir() for path in runtime.include_folders) and len(runtime.libraries) == 2
    names = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names == {"libtvm_runtime.so", "libtvm_ffi.so", "base.h"}


@pytest.mark.parametrize(
    "name", ["../evil.h", "tvm/include/../../../evil.h", "/tmp/evil.h", "tvm/include/../../evil.h", "evil.h"]
)
def test_nothing_is_written_elsewhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    unpack_tvm_runtime(wheels(tmp_path / "a", extra={name: b"bad"}), tmp_path / "a" / "b" / "out", "aarch64")
    assert not list(tmp_path.rglob("evil.h")) and not Path("/tmp/evil.h").exists()


def test_missing_wheels_are_named_with_the_command_that_brings_them(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match="no wheel of apache-tvm for aarch64") as caught:
        unpack_tvm_runtime(tmp_path, tmp_path / "out", "aarch64")
    assert caught.value.fix == download_command("aarch64")
    assert "apache-tvm==" in caught.value.fix and "manylinux_2_28_aarch64" in caught.value.fix


def test_libraries_of_another_architecture_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="holds no libtvm_runtime.so for aarch64"):
        unpack_tvm_runtime(wheels(tmp_path, machine=X86_64), tmp_path / "out", "aarch64")


def test_a_damaged_wheel_is_named(tmp_path: Path) -> None:
    for wheel in wheels(tmp_path).glob("*.whl"):
        wheel.write_bytes(wheel.read_bytes()[:50])
    with pytest.raises(InvalidValueError, match="cannot be unpacked"):
        unpack_tvm_runtime(tmp_path, tmp_path / "out", "aarch64")
