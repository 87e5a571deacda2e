from pathlib import Path

import pytest

import hwautoml
from hwautoml.core import resources
from hwautoml.core.resources import package_folder, profile_folders, target_folders, user_config_folder
from hwautoml.core.target import load_target

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's configuration folder, and an empty working folder."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "config" / "hwautoml"


def test_order(config: Path, tmp_path: Path) -> None:
    for folder in (config / "targets", tmp_path / "option", tmp_path / "work" / "targets"):
        folder.mkdir(parents=True)
    assert target_folders(tmp_path / "option") == [
        tmp_path / "option",
        Path("targets"),
        config / "targets",
        package_folder("targets"),
    ]


def test_folders_that_do_not_exist_are_left_out(config: Path) -> None:
    assert target_folders() == [package_folder("targets")]
    assert profile_folders() == [package_folder("profiles")]


def test_a_mistyped_option_stays_visible(config: Path) -> None:
    assert target_folders(Path("tragets"))[0] == Path("tragets")


def test_no_folder_twice(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(package_folder("targets").parent)
    assert len(target_folders(Path("targets"))) == 1
    assert len(profile_folders()) == 1


@pytest.mark.parametrize("value", ["", "relative/path"])
def test_config_folder_falls_back_to_home(value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_config_folder() == tmp_path / ".config" / "hwautoml"


def test_a_wheel_uses_its_package_data(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "site" / "hwautoml" / "_data" / "targets"
    data.mkdir(parents=True)
    monkeypatch.setattr(resources.hwautoml, "__file__", str(tmp_path / "site" / "hwautoml" / "__init__.py"))
    assert target_folders() == [data]


def test_packages_bring_targets_and_a_broken_one_is_named(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    boards, info = tmp_path / "site" / "their_boards", tmp_path / "site" / "their_boards-1.0.dist-info"
    for folder in (boards, info):
        folder.mkdir(parents=True)
    text = (package_folder("targets") / "rpi4.toml").read_text(encoding="utf-8")
    (boards / "their-board.toml").write_text(text, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-boards\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hwautoml.targets]\nbroken = no_such_package\ntheirs = their_boards\n")
    assert target_folders() == [package_folder("targets"), boards]
    assert load_target("their-board", target_folders()).kind == load_target("rpi4", target_folders()).kind
    assert "'broken' of package 'their-boards' is to be a folder, and no_such_package is none" in caplog.text


@pytest.mark.skipif(Path(hwautoml.__file__).parents[1] != CHECKOUT, reason="not running from a checkout")
def test_a_checkout_uses_its_own_folders(config: Path) -> None:
    assert package_folder("targets") == CHECKOUT / "targets"
    assert load_target("cpu", target_folders()).connection == "local"
