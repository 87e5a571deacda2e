from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hwautoml.core.plugins import Plugins
from hwautoml.errors import MissingDependencyError, UnknownNameError
from tests.entry_points import install

GROUP = "hwautoml.test_parts"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def parts() -> Plugins:
    return Plugins("part", GROUP, {"own": "hwautoml.core.plugins:Plugins"})


def test_parts_of_this_package_and_of_others(site: Path) -> None:
    install(site, "theirs_one", GROUP, "seven = theirs_one:PART")
    found = parts()
    assert found.names == ("own", "seven")
    assert (found.load("own"), found.load("seven")) == (Plugins, 7)
    assert (found.origin("own"), found.origin("seven")) == ("hwautoml", "theirs_one")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="unknown part 'owm'; known: own"):
        parts().load("owm")


def test_nothing_replaces_a_part_of_this_package(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(site, "theirs_two", GROUP, "own = theirs_two:PART")
    with caplog.at_level(logging.WARNING):
        assert parts().load("own") is Plugins
    assert "part 'own' of theirs_two is passed over: hwautoml has one" in caplog.text


@pytest.mark.parametrize("source", ["import no_such_module\n", "OTHER = 1\n", "def :\n"])
def test_a_package_that_cannot_be_loaded_is_named(site: Path, source: str) -> None:
    name = f"broken_{abs(hash(source))}"
    install(site, name, GROUP, f"bad = {name}:PART", source)
    with pytest.raises(MissingDependencyError, match=f"part 'bad' of package '{name}'"):
        parts().load("bad")


def test_a_package_of_data_files_is_found_without_being_imported(site: Path) -> None:
    folder = site / "data_package" / "boards"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    install(site, "data_one", GROUP, "boards = data_package.boards")
    assert parts().folders("boards") == (folder,)


@pytest.mark.parametrize("value", ["no_such_package", "no_such_package.boards", "data_two"])
def test_a_part_that_is_no_folder_is_named(site: Path, value: str) -> None:
    install(site, "data_two", GROUP, f"boards = {value}")
    with pytest.raises(MissingDependencyError, match=f"'boards' of package 'data_two' is to be a folder, and {value}"):
        parts().folders("boards")
