"""What ships: the wheel, built from this checkout and used from outside it."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(CHECKOUT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


def test_the_wheel_has_every_file_of_the_package_and_its_data(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    package = {p for p in (CHECKOUT / "hwautoml").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    expected = {p.relative_to(CHECKOUT).as_posix() for p in package}
    for folder in ("targets", "profiles"):
        data = (p for p in (CHECKOUT / folder).rglob("*") if p.is_file())
        expected |= {f"hwautoml/_data/{p.relative_to(CHECKOUT).as_posix()}" for p in data}
    assert expected <= packed, f"missing: {sorted(expected - packed)}"
    assert not [name for name in packed if name.startswith(("tests/", "benchmarks/", "targets/", "docs/"))]


def test_the_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Unpacked, as an installer does it, and used with this environment's other packages."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "work").mkdir()
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import hwautoml\n"
        "from hwautoml.core.resources import profile_folders, target_folders\n"
        "from hwautoml.core.target import load_target, target_names\n"
        "names = target_names(target_folders())\n"
        "[load_target(name, target_folders()) for name in names]\n"
        "print(hwautoml.__file__, *names, *profile_folders())"
    )
    # -I keeps the working folder and PYTHONPATH out.
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path / "work")
    file, *rest = done.stdout.split()
    assert file == str(tmp_path / "site" / "hwautoml" / "__init__.py")
    assert {"cpu", "gpu", "rpi4", "rpi5", "jetson-orin-nano"} <= set(rest)
    assert rest[-1] == str(tmp_path / "site" / "hwautoml" / "_data" / "profiles")


def test_the_wheel_says_that_it_is_typed(wheel: Path) -> None:
    assert "hwautoml/py.typed" in zipfile.ZipFile(wheel).namelist()


def _pins(name: str) -> dict[str, str]:
    lines = (CHECKOUT / name).read_text(encoding="utf-8").splitlines()
    split = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(parts) == 2 for parts in split), f"{name} pins exact versions"
    return {name.lower(): version for name, version in split}


def test_constraints_pin_every_declared_dependency() -> None:
    extras = PROJECT["project"]["optional-dependencies"].values()
    declared = [*PROJECT["project"]["dependencies"], *(requirement for extra in extras for requirement in extra)]
    names = {requirement.split("=")[0].split(">")[0].split("<")[0].lower() for requirement in declared}
    missing = names - set(_pins("constraints.txt"))
    assert not missing, f"not pinned: {sorted(missing)}"


@pytest.mark.parametrize("requirement", PROJECT["project"]["dependencies"])
def test_the_lowest_constraints_are_the_lower_bounds(requirement: str) -> None:
    """But torch's, of which one release is tested."""
    name, lowest = re.match(r"([\w-]+)(?:==|>=)([\w.]+)", requirement).groups()  # type: ignore[union-attr]  # or fail
    lowest = _pins("constraints.txt")["torch"] if name == "torch" else lowest
    pinned = _pins("constraints-lowest.txt")[name.lower()]
    assert pinned == lowest or re.fullmatch(re.escape(lowest) + r"(\.0)+", pinned), (pinned, requirement)
