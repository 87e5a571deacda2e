import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwautoml.core.layer import Layer, LayerCost
from hwautoml.core.space import Architecture, Choice, SearchSpace
from hwautoml.errors import InvalidValueError, UnknownNameError


class TinySpace(SearchSpace):
    """One or two blocks; the second one's kernel has no effect while it is off."""

    name = "tiny/v1"
    choices = (
        Choice("num_blocks", (1, 2)),
        Choice("kernel0", (3, 5, 7)),
        Choice("kernel1", (3, 5, 7)),
        Choice("kind", ("fused", "basic")),
    )

    def canonical(self, values):
        return {**values, "kernel1": 3} if values["num_blocks"] == 1 else dict(values)

    def layers(self, architecture):
        kernels = [architecture["kernel0"], architecture["kernel1"]][: architecture["num_blocks"]]
        return tuple(Layer(architecture["kind"], 8, 4, 4, 8, kernel_size=k) for k in kernels)

    def cost(self, layer):
        return LayerCost(
            macs=layer.kernel_size, parameters=2, bytes_moved=3, peak_activation_bytes=layer.kernel_size, num_kernels=1
        )

    def module(self, architecture):
        raise NotImplementedError

    def layer_module(self, layer):
        raise NotImplementedError

    def resolution(self, architecture):
        return 8

    def all_layers(self):
        return ()


SPACE = TinySpace()
VALUES = {"num_blocks": 2, "kernel0": 5, "kernel1": 7, "kind": "basic"}
any_values = st.fixed_dictionaries({c.name: st.sampled_from(c.options) for c in SPACE.choices})


@given(any_values)
def test_encode_is_the_inverse_of_decode(values: dict) -> None:
    architecture = SPACE.architecture(values)
    assert SPACE.decode(SPACE.encode(architecture)) == architecture
    assert SPACE.architecture(architecture.as_dict) == architecture, "canonicalising twice changes nothing"


@given(any_values, any_values)
def test_ids_are_equal_only_for_equal_architectures(first: dict, second: dict) -> None:
    a, b = SPACE.architecture(first), SPACE.architecture(second)
    assert (a.id == b.id) == (a == b)


def test_values_without_effect_make_no_difference() -> None:
    shallow = [SPACE.architecture({**VALUES, "num_blocks": 1, "kernel1": kernel}) for kernel in (3, 5, 7)]
    assert len(set(shallow)) == 1
    assert len({a.id for a in shallow}) == 1


def test_ids_do_not_depend_on_the_process() -> None:
    code = "from hwautoml.core.space import Architecture as A; print(A('tiny/v1', (('k', 3), ('kind', 'basic'))).id)"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert there == Architecture("tiny/v1", (("k", 3), ("kind", "basic"))).id
    assert len(there) == 12 and int(there, 16) >= 0


def test_all_that_is_wrong_with_values_is_named() -> None:
    with pytest.raises(UnknownNameError, match="unknown choice 'kernel2'; known: kernel"):
        SPACE.architecture({**VALUES, "kernel2": 3})
    with pytest.raises(InvalidValueError, match="lacks 'kind'"):
        SPACE.architecture({k: v for k, v in VALUES.items() if k != "kind"})
    with pytest.raises(InvalidValueError, match=r"kernel0 = 4 must be one of \(3, 5, 7\) in tiny/v1"):
        SPACE.architecture({**VALUES, "kernel0": 4})


@pytest.mark.parametrize("options", [(), (1, 1)])
def test_a_choice_needs_distinct_options(options: tuple) -> None:
    with pytest.raises(InvalidValueError, match="needs distinct options"):
        Choice("kernel", options)


def test_size_and_ends() -> None:
    assert SPACE.size == 2 * 3 * 3 * 2
    assert SPACE.smallest().as_dict == {"num_blocks": 1, "kernel0": 3, "kernel1": 3, "kind": "fused"}
    assert SPACE.largest().as_dict == {"num_blocks": 2, "kernel0": 7, "kernel1": 7, "kind": "basic"}


def test_sampling_is_seeded_and_reaches_everything() -> None:
    drawn = [[SPACE.sample(rng) for _ in range(500)] for rng in (np.random.default_rng(3), np.random.default_rng(3))]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 6 + 18, "3 kernels x 2 kinds with one block, 9 x 2 with two"


def test_total_cost_adds_up_and_takes_the_largest_peak() -> None:
    cost = SPACE.total_cost(SPACE.architecture(VALUES))
    assert cost == LayerCost(macs=12, parameters=4, bytes_moved=6, peak_activation_bytes=7, num_kernels=2)
