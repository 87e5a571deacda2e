"""TVM's runtime for another architecture, out of the wheels that PyPI has for it. Nothing is downloaded here."""

from __future__ import annotations

import importlib.metadata
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hwautoml.errors import InvalidValueError, MissingDependencyError

#: Folder in the wheel, of which package, and the library that programs link with.
_PARTS = (("tvm", "apache-tvm", "libtvm_runtime.so"), ("tvm_ffi", "apache-tvm-ffi", "libtvm_ffi.so"))
_ELF_MACHINES = {"x86_64": 62, "aarch64": 183, "armv7": 40, "riscv64": 243}
#: Architectures that PyPI has wheels of TVM for.
WITH_WHEELS = ("x86_64", "aarch64")


@dataclass(frozen=True)
class TvmRuntime:
    """Headers and libraries to build and ship programs with."""

    include_folders: tuple[Path, ...]
    libraries: tuple[Path, ...]


def download_command(architecture: str) -> str:
    """What brings the wheels, of the versions that are installed here, into the folder ``wheels``."""
    packages = " ".join(f"{package}=={importlib.metadata.version(package)}" for _, package, _ in _PARTS)
    return (
        f"pip download {packages} --no-deps --only-binary :all: --implementation cp --python-version 3.11 "
        f"--platform manylinux_2_28_{architecture} -d wheels"
    )


def unpack_tvm_runtime(wheels: Path, out: Path, architecture: str) -> TvmRuntime:
    """Headers and runtime libraries (a few megabytes of some hundred) of the wheels in the folder ``wheels``.

    Raises:
        MissingDependencyError: a wheel is not there; the fix is the command that brings it.
        InvalidValueError: a wheel is damaged, or for another architecture.
    """
    includes, libraries = [], []
    for folder, package, library in _PARTS:
        wheel = _find(wheels, package, architecture)
        try:
            with zipfile.ZipFile(wheel) as archive:
                names = [name for name in archive.namelist() if _is_wanted(name, folder, library)]
                archive.extractall(out, names)
        except zipfile.BadZipFile as error:
            raise InvalidValueError(f"{wheel} cannot be unpacked: {error}", fix="download it again") from error
        includes.append(out / folder / "include")
        libraries.append(out / folder / "lib" / library)
        _check_architecture(libraries[-1], wheel, architecture)
    return TvmRuntime(tuple(includes), tuple(libraries))


def _find(wheels: Path, package: str, architecture: str) -> Path:
    stem = package.replace("-", "_")
    found: Sequence[Path] = sorted(wheels.glob(f"{stem}-*_{architecture}.whl"))
    if not found:
        raise MissingDependencyError(
            f"{wheels} has no wheel of {package} for {architecture}", fix=download_command(architecture)
        )
    return found[-1]


def _is_wanted(name: str, folder: str, library: str) -> bool:
    """Headers and the one library; a name that leads elsewhere is never wanted."""
    path = PurePosixPath(name)
    is_header = path.parts[:2] == (folder, "include") and ".." not in path.parts and not name.endswith("/")
    return is_header or name == f"{folder}/lib/{library}"


def library_architecture(path: Path) -> str | None:
    """What an ELF file is for, as ``platform.machine()`` calls it; None for other files.

    32-bit ARM is ``armv7``; a machine number that is none of ours is given as it is.
    """
    with path.open("rb") as file:
        header = file.read(20)
    if len(header) < 20 or header[:4] != b"\x7fELF":
        return None
    (number,) = struct.unpack("<H", header[18:20])
    return next((name for name, known in _ELF_MACHINES.items() if known == number), f"machine {number}")


def _check_architecture(library: Path, wheel: Path, architecture: str) -> None:
    if not library.is_file() or library_architecture(library) != architecture:
        raise InvalidValueError(
            f"{wheel} holds no {library.name} for {architecture}", fix=download_command(architecture)
        )
