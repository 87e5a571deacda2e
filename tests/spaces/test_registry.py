from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hwautoml import spaces
from hwautoml.core.elastic_space import ElasticSpace
from hwautoml.errors import InvalidValueError, MissingDependencyError, UnknownNameError
from hwautoml.spaces import load_elastic_space, load_family, load_profiled_space, load_space, space_names


@pytest.mark.parametrize("name", space_names())
def test_every_space_loads_under_its_own_name(name: str) -> None:
    sizes = {"image_size": 32, "channels": 1, "num_outputs": 10} if name == "mobile" else {}
    space = load_space(name, **sizes)
    assert space.name.startswith(f"{name}/v")
    assert space.family == space.name.rpartition("/classes")[0]
    assert space.name == f"{space.family}/classes{space.num_outputs}"
    sizes = {"image_size": space.image_size, "channels": space.channels, "num_outputs": space.num_outputs}
    assert load_space(name, **sizes) == space


def test_an_unknown_name_lists_the_nearest_first() -> None:
    with pytest.raises(UnknownNameError, match="unknown space 'nasbench101'; known: nasbench201"):
        load_space("nasbench101")


def test_mobile_needs_all_sizes() -> None:
    with pytest.raises(InvalidValueError, match="'mobile' has no default for image_size, num_outputs"):
        load_space("mobile", channels=3)


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("nasbench201", {"image_size": 64}, "published for 32x32x3 with 10 classes or .*, not for 64x64x3 with 10"),
        ("nasbench201", {"num_outputs": 120}, "or 16x16x3 with 120 classes, not for 32x32x3 with 120"),
        ("fbnet", {"image_size": 224}, "or 224x224x3 with 1000 classes, not for 224x224x3 with 100"),
        ("ofa-mobilenetv3", {"channels": 1}, "published for 224x224x3 with 1000 classes, not for 224x224x1"),
    ],
)
def test_a_published_space_refuses_other_sizes(name: str, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        load_space(name, **sizes)


def test_spaces_are_imported_on_first_use() -> None:
    code = (
        "import sys, hwautoml.spaces as s\n"
        "assert not [m for m in sys.modules if m.startswith(('hwautoml.spaces.', 'numpy', 'torch'))]\n"
        "space = s.load_space('nasbench201'); space.layers(space.largest())\n"
        "print(sorted(m for m in sys.modules if m.startswith('torch') or m == 'hwautoml.spaces.mobile'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "sizes", "family", "num_outputs"),
    [
        ("mobile", {}, "mobile/v1/32x32x3", 10),
        ("mobile", {"image_size": 8, "channels": 1}, "mobile/v1/8x8x1", 10),
        ("nasbench201", {"image_size": 16}, "nasbench201/v1/16x16x3", 120),
        ("fbnet", {}, "fbnet/v1/32x32x3", 100),
        ("fbnet", {"image_size": 224}, "fbnet/v1/224x224x3", 1000),
        ("ofa-mobilenetv3", {}, "ofa-mobilenetv3/v1/w1.2/224x224x3", 1000),
    ],
)
def test_a_table_leaves_the_number_of_classes_open(
    name: str, sizes: dict[str, int], family: str, num_outputs: int
) -> None:
    space = load_profiled_space(name, **sizes)
    assert (space.family, space.num_outputs) == (family, num_outputs)
    assert load_family(family) == space


def test_a_family_of_another_version_or_of_nothing_is_refused() -> None:
    assert load_family("ofa-mobilenetv3/v1/w1.0/224x224x3").family == "ofa-mobilenetv3/v1/w1.0/224x224x3"
    with pytest.raises(UnknownNameError, match="unknown space 'nobile'; known: mobile"):
        load_family("nobile/v1/32x32x3")
    with pytest.raises(InvalidValueError, match="made by another version, which has mobile/v1/32x32x3"):
        load_family("mobile/v2/32x32x3")
    for text in ("mobile", "mobile/v1", "mobile/v1/32x16x3"):
        with pytest.raises(InvalidValueError, match="is no family of spaces"):
            load_family(text)


SOURCE = """
from hwautoml.spaces.fbnet import FBNetSpace
from hwautoml.spaces.mobile import MobileSpace

class Theirs(MobileSpace):
    identity = "theirs/v3"

class Fixed(FBNetSpace):
    identity = "fixed/v1"

class Unnamed(MobileSpace):
    pass

thing = 7
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a package that brings spaces, as pip leaves it."""

    def install(**entries: str) -> None:
        (tmp_path / "their_spaces.py").write_text(SOURCE)
        info = tmp_path / "their_spaces-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-spaces\nVersion: 1.0\n")
        lines = [f"{name} = their_spaces:{value}" for name, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[hwautoml.spaces]", *lines]))
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(spaces, "SPACES", replace(spaces.SPACES))  # forgets what it found before

    return install


def test_a_space_of_another_package_is_one_like_any_other(installed: Callable[..., None]) -> None:
    installed(theirs="Theirs", fixed="Fixed")
    assert space_names()[-2:] == ("fixed", "theirs")
    made = load_elastic_space("theirs", image_size=16, channels=1, num_outputs=4)
    assert (made.name, type(made).__module__) == ("theirs/v3/16x16x1/classes4", "their_spaces")
    assert load_family(made.family) == load_profiled_space("theirs", image_size=16, channels=1)
    assert load_space("fixed").num_outputs == 100


def test_a_package_whose_part_is_no_space_of_that_name_is_named(installed: Callable[..., None]) -> None:
    installed(other="Unnamed", number="thing")
    with pytest.raises(MissingDependencyError, match="'other' of package 'their-spaces' has the identity 'mobile/v1'"):
        load_profiled_space("other")
    with pytest.raises(MissingDependencyError, match="'number' of package 'their-spaces' is 7, no subclass"):
        load_profiled_space("number")


def test_only_elastic_spaces_can_be_trained() -> None:
    made = load_elastic_space("mobile", image_size=8, channels=1, num_outputs=1)
    assert isinstance(made, ElasticSpace) and made.num_outputs == 1
    with pytest.raises(InvalidValueError, match="'fbnet' has latency tables, but its members share no weights"):
        load_elastic_space("fbnet", image_size=32, channels=3, num_outputs=100)
