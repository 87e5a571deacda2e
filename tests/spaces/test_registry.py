import subprocess
import sys

import pytest

from hwautoml.errors import InvalidValueError, UnknownNameError
from hwautoml.spaces import load_space, space_names


@pytest.mark.parametrize("name", space_names())
def test_every_space_loads_under_its_own_name(name: str) -> None:
    sizes = {"image_size": 32, "channels": 1, "num_classes": 10} if name == "mobile" else {}
    space = load_space(name, **sizes)
    assert space.name.startswith(f"{name}/v")
    assert space.family == space.name.rpartition("/classes")[0]
    assert space.name == f"{space.family}/classes{space.num_classes}"
    sizes = {"image_size": space.image_size, "channels": space.channels, "num_classes": space.num_classes}
    assert load_space(name, **sizes) == space


def test_an_unknown_name_lists_the_nearest_first() -> None:
    with pytest.raises(UnknownNameError, match="unknown space 'nasbench101'; known: nasbench201"):
        load_space("nasbench101")


def test_mobile_needs_all_sizes() -> None:
    with pytest.raises(InvalidValueError, match="'mobile' has no default for image_size, num_classes"):
        load_space("mobile", channels=3)


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("nasbench201", {"image_size": 64}, "published for 32x32x3 with 10 classes or .*, not for 64x64x3 with 10"),
        ("nasbench201", {"num_classes": 120}, "or 16x16x3 with 120 classes, not for 32x32x3 with 120"),
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
