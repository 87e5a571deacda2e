"""Every package in ``examples/``: it installs, its own tests pass, and the commands of its README run.

A package is a folder with a ``pyproject.toml``. It is installed as a user would, into a folder of its own, without
network and with this environment's packages; commands are the lines that begin with ``hwautoml`` in blocks that are
marked ``console``.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path.parent for path in (CHECKOUT / "examples").glob("*/pyproject.toml"))
TIMEOUT_SEC = 600

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=EXAMPLES, ids=lambda folder: folder.name)
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A copy of the example, and the environment in which it is installed."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp(request.param.name)
    shutil.copytree(request.param, folder / "source", ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, *offline, "--target", folder / "site", folder / "source"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (folder / "site", CHECKOUT))),
        "PYTHONSAFEPATH": "1",  # the installed package, not the folder that one stands in
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    return folder, environment


def test_there_are_examples() -> None:
    assert {"objective", "searcher", "space", "target"} <= {folder.name for folder in EXAMPLES}


def test_its_own_tests_pass(installed: tuple[Path, dict[str, str]]) -> None:
    folder, environment = installed
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests"],
        cwd=folder / "source",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SEC,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_commands_of_its_readme_run(installed: tuple[Path, dict[str, str]]) -> None:
    folder, environment = installed
    commands = readme_commands((folder / "source" / "README.md").read_text(encoding="utf-8"))
    assert commands, "the README shows no command"
    (folder / "work").mkdir()
    for words in commands:
        done = subprocess.run(
            [sys.executable, "-m", "hwautoml.cli", *words],
            cwd=folder / "work",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_SEC,
        )
        assert done.returncode == 0, f"hwautoml {shlex.join(words)}\n{done.stdout}{done.stderr}"


def readme_commands(text: str) -> list[list[str]]:
    """The arguments of each ``hwautoml`` command, in their order; lines that end with a backslash go on."""
    blocks = re.findall(r"^```console\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("hwautoml ")]
