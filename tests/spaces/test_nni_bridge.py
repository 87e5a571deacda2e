"""NNI's side and ours describe the same space."""

import json
import subprocess
import sys

import numpy as np
import pytest

from hwautoml.errors import InvalidValueError, UnknownNameError
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.spaces.nni_bridge import from_nni, sample_with_nni, to_nni

pytest.importorskip("nni")

SPACES = [MobileSpace(image_size=32, channels=3, num_outputs=10), MobileSpace(image_size=8, channels=1, num_outputs=2)]
SPACE = SPACES[0]


@pytest.fixture
def sample() -> dict:
    return dict(SPACE.largest().as_dict)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_nni_sees_every_choice_with_its_options(space: MobileSpace) -> None:
    leaves = to_nni(space).simplify()
    assert {label: tuple(leaf.values) for label, leaf in leaves.items()} == {c.name: c.options for c in space.choices}
    assert list(leaves) == [c.name for c in space.choices], "in our order"


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_what_nni_samples_is_a_valid_architecture_here(space: MobileSpace) -> None:
    mutable = to_nni(space)
    random_state = np.random.RandomState(7)
    for _ in range(200):
        drawn: dict = {}
        frozen = mutable.random(drawn, random_state)
        architecture = from_nni(space, drawn)
        assert architecture == from_nni(space, frozen), "a sample and what it freezes to are the same"
        assert architecture == space.decode(space.encode(architecture))
        assert space.layers(architecture)


def test_round_trip_through_nni(sample: dict) -> None:
    mutable = to_nni(SPACE)
    rng = np.random.default_rng(0)
    for _ in range(50):
        architecture = SPACE.sample(rng)
        assert mutable.contains(architecture.as_dict)
        assert from_nni(SPACE, mutable.freeze(architecture.as_dict)) == architecture


def test_samples_that_differ_without_effect_are_one_architecture(sample: dict) -> None:
    shallow = {**sample, "stage0.depth": 1}
    others = [{**shallow, "stage0.block1.expansion": e} for e in (1, 2, 4)]
    assert len({from_nni(SPACE, other).id for other in others}) == 1


def test_a_sampled_member_builds_and_runs() -> None:
    import torch

    architecture = sample_with_nni(SPACE, 1, seed=3)[0]
    size = SPACE.resolution(architecture)
    assert SPACE.module(architecture).eval()(torch.zeros(2, 3, size, size)).shape == (2, 10)


def test_sampling_is_seeded() -> None:
    assert sample_with_nni(SPACE, 5, seed=1) == sample_with_nni(SPACE, 5, seed=1)
    assert sample_with_nni(SPACE, 5, seed=1) != sample_with_nni(SPACE, 5, seed=2)
    assert len(set(sample_with_nni(SPACE, 50))) > 45


def test_numbers_of_other_types_make_the_same_id(sample: dict) -> None:
    numpy_values = {name: np.int64(v) if isinstance(v, int) else np.str_(v) for name, v in sample.items()}
    expected = SPACE.architecture(sample)
    assert from_nni(SPACE, numpy_values).id == expected.id
    assert from_nni(SPACE, json.loads(json.dumps(sample))).id == expected.id
    assert from_nni(SPACE, {**sample, "resolution": float(sample["resolution"])}).id == expected.id


def test_a_wrong_sample_is_refused(sample: dict) -> None:
    with pytest.raises(UnknownNameError, match="unknown choice 'stage9.depth'"):
        from_nni(SPACE, {**sample, "stage9.depth": 1})
    with pytest.raises(InvalidValueError, match=r"stage0\.depth = 9 must be one of"):
        from_nni(SPACE, {**sample, "stage0.depth": 9})
    with pytest.raises(InvalidValueError, match=r"stage0\.depth = 'True' must be one of"):
        from_nni(SPACE, {**sample, "stage0.depth": True})
    with pytest.raises(InvalidValueError, match="lacks 'stage0.kind'"):
        from_nni(SPACE, {name: value for name, value in sample.items() if name != "stage0.kind"})
    with pytest.raises(InvalidValueError, match="maps labels to values, got a list"):
        from_nni(SPACE, [1, 2, 3])  # type: ignore[arg-type]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_importing_the_bridge_does_not_import_nni() -> None:
    assert run("import sys, hwautoml.spaces.nni_bridge; print('nni' in sys.modules)").strip() == "False"


def test_nni_stays_off_standard_output() -> None:
    code = (
        "import logging\n"
        "from hwautoml.spaces.mobile import MobileSpace\n"
        "from hwautoml.spaces.nni_bridge import sample_with_nni\n"
        "sample_with_nni(MobileSpace(image_size=8, channels=1, num_outputs=2), 3)\n"
        "logging.getLogger('nni').warning('to nobody')"
    )
    assert run(code) == ""


def test_a_users_own_nni_log_is_left_alone() -> None:
    code = (
        "import os; os.environ['NNI_FRAMEWORK'] = 'none'\n"
        "import logging, nni\n"
        "from hwautoml.spaces.mobile import MobileSpace\n"
        "from hwautoml.spaces.nni_bridge import to_nni\n"
        "to_nni(MobileSpace(image_size=8, channels=1, num_outputs=2))\n"
        "logging.getLogger('nni').info('heard')"
    )
    assert "heard" in run(code)
