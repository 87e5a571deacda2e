"""A whole arm64 board without one: Debian's arm64 packages in a folder, its programs run by qemu's user mode.

Nothing is installed on this machine: packages are downloaded and unpacked (no root needed) into ``cache_folder()``,
which may be deleted at any time. Its times say nothing about any device.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE_VARIABLE = "HWAUTOML_EDGE_CACHE"
QEMU = "qemu-aarch64-static"
PROCESSOR = "cortex-a72"  # the Raspberry Pi 4's: an instruction that it lacks is an error here, too
KEY = "emulated-board"
DEBIAN_PACKAGES = (
    "libbz2-1.0",
    "libc6",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "liblzma5",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libssl3",
    "libstdc++6",
    "libuuid1",
    "python3.11-minimal",
    "zlib1g",
)
# What the agent and a bundle's runner import; versions are those of constraints.txt.
WHEELS = (
    "annotated-doc",
    "annotated-types",
    "apache-tvm",
    "apache-tvm-ffi",
    "cloudpickle",
    "markdown-it-py",
    "mdurl",
    "ml_dtypes",
    "numpy",
    "pillow",
    "psutil",
    "pydantic",
    "pydantic_core",
    "pygments",
    "rich",
    "shellingham",
    "tornado",
    "typer",
    "typing-inspection",
    "typing_extensions",
)
GLIBC_OF_WHEELS = ("2_28", "2_27", "2_24", "2_17")
START_SEC, DOWNLOAD_SEC = 240.0, 300.0  # for a machine that is busy with other things


class CannotBuildError(Exception):
    """This machine lacks a program, or the packages cannot be had."""


def cache_folder() -> Path:
    """``$HWAUTOML_EDGE_CACHE``, by default ``.cache/edge`` in the checkout."""
    return Path(os.environ.get(CACHE_VARIABLE) or CHECKOUT / ".cache" / "edge")


class EmulatedBoard:
    """The unpacked system; ``command`` runs its Python."""

    def __init__(self, folder: Path, processor: str = PROCESSOR) -> None:
        self.root, self.site, self.wheels = folder / "root", folder / "site", folder / "wheels"
        self._folder, self._processor = folder, processor

    def with_processor(self, name: str) -> EmulatedBoard:
        """The same board with another of the processors that qemu knows."""
        return EmulatedBoard(self._folder, name)

    def program(self, path: Path, *words: str | Path) -> list[str]:
        """The command that runs an arm64 program."""
        return [QEMU, "-cpu", self._processor, "-L", str(self.root), str(path), *map(str, words)]

    def python(self, *words: str | Path) -> list[str]:
        return self.program(self.root / "usr/bin/python3.11", *words)

    def environment(self, *folders: Path) -> dict[str, str]:
        """For Python on the board; ``folders`` come before its packages."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return kept | {"PYTHONPATH": os.pathsep.join(map(str, [*folders, self.site]))}

    @contextmanager
    def agent(self) -> Iterator[str]:
        """``hwautoml agent`` on the board; yields its address."""
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                self.python("-m", "hwautoml.cli", "agent", "--port", "0", "--key", KEY, "--json"),
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env=self.environment(CHECKOUT) | {"TMPDIR": folder},
            )
            assert process.stdout is not None
            try:
                told = b""
                while b"}" not in told and select.select([process.stdout], [], [], START_SEC)[0]:
                    part = os.read(process.stdout.fileno(), 4096)
                    if not part:
                        break
                    told += part
                if b"}" not in told:
                    log.seek(0)
                    raise AssertionError(f"the agent did not start: {log.read().decode()[-2000:]}")
                yield json.loads(told)["listening"]
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                process.stdout.close()


def build_board() -> EmulatedBoard:
    """The system, from the cache where it is there already.

    Raises CannotBuildError, which says what is missing.
    """
    for program, fix in ((QEMU, "apt-get install qemu-user-static"), ("apt-get", "use Debian"), ("dpkg", "use Debian")):
        if shutil.which(program) is None:
            raise CannotBuildError(f"the emulated board needs {program}: {fix}")
    wheels = [f"{name}=={version}" for name, version in _pins().items()]
    recipe = "\n".join([*DEBIAN_PACKAGES, *wheels])
    folder = cache_folder() / hashlib.sha256(recipe.encode()).hexdigest()[:16]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as text:
            building = Path(text) / "board"
            building.mkdir()
            _unpack_debian(building, Path(text))
            _unpack_wheels(building, wheels)
            building.rename(folder)  # in one step: an interrupted build leaves no half of a board
    return EmulatedBoard(folder)


def _pins() -> dict[str, str]:
    text = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {_normal(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)}
    return {name: pinned[_normal(name)] for name in WHEELS}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _unpack_debian(board: Path, folder: Path) -> None:
    """With apt's own state in ``folder``: this machine's package lists and architectures stay as they are."""
    state, packages = folder / "apt", folder / "debs"
    for path in (state / "lists" / "partial", state / "cache" / "archives" / "partial", packages):
        path.mkdir(parents=True)
    (state / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "Debug::NoLocking": "1",
    }
    apt = ["apt-get", "-qq", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    _run([*apt, "update"], folder)
    _run([*apt, "download", *DEBIAN_PACKAGES], packages)
    root = board / "root"
    for name in ("bin", "lib", "sbin"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in sorted(packages.glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(root)], folder)


def _unpack_wheels(board: Path, wheels: Sequence[str]) -> None:
    platforms = [word for glibc in GLIBC_OF_WHEELS for word in ("--platform", f"manylinux_{glibc}_aarch64")]
    platforms += ["--platform", "manylinux2014_aarch64"]
    _run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--implementation",
            "cp",
            "--python-version",
            "3.11",
            *platforms,
            "--dest",
            str(board / "wheels"),
            *wheels,
        ],
        board,
    )
    for wheel in sorted((board / "wheels").glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(board / "site")


def _run(command: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=DOWNLOAD_SEC)
    except subprocess.TimeoutExpired as error:
        raise CannotBuildError(f"{command[0]} did not finish within {DOWNLOAD_SEC:g} s") from error
    if done.returncode != 0:
        raise CannotBuildError(f"{' '.join(command[:2])} ... failed: {(done.stderr or done.stdout).strip()[-400:]}")


if __name__ == "__main__":
    build_board()
