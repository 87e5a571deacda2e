import subprocess
import sys

import pytest

from hwautoml.errors import InvalidValueError, UnknownNameError
from hwautoml.spaces import load_family, load_profiled_space, load_space, space_names


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
    assert (space.family, space.num_outputs) == (family, num_outputs)  # type: ignore[attr-defined]
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
