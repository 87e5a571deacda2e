from __future__ import annotations

import math

import numpy as np
import pytest

from hwautoml.core.layer_regression import LayerRegression
from hwautoml.spaces.mobile import MobileSpace

SPACE = MobileSpace(32, 3, 10)
COSTS = {layer.key: SPACE.cost(layer) for layer in SPACE.all_layers() if layer.kind == "mbconv"}
KEYS = list(COSTS)


def machine_ms(key: str) -> float:
    """A made-up machine: arithmetic and memory add up, narrow layers waste half of a vector unit."""
    cost, wasted = COSTS[key], 1.5 if "out24" in key else 1.0
    return wasted * cost.macs / 1e7 + cost.bytes_moved / 1e7 + 0.002 * cost.num_kernels


def measured(num: int, noise: float = 0.0) -> dict[str, float]:
    rng = np.random.default_rng(0)
    return {KEYS[i]: machine_ms(KEYS[i]) * math.exp(rng.normal(0, noise)) for i in rng.permutation(len(KEYS))[:num]}


@pytest.mark.parametrize(("num", "limit"), [(30, 0.12), (120, 0.03)])
def test_more_layers_infer_the_others_better_and_intervals_hold(num: int, limit: float) -> None:
    known = measured(num)
    unknown = [key for key in KEYS if key not in known]
    means, deviations = LayerRegression(known, COSTS).predict(unknown)
    residuals = np.log(means / np.array([machine_ms(key) for key in unknown]))
    assert np.abs(residuals).mean() < limit
    assert (np.abs(residuals) < 2 * deviations).mean() > 0.85


def test_left_out_residuals_are_those_of_leaving_out() -> None:
    """The closed form against fitting without the layer, where both choose the same point of the grid."""
    known = measured(40, noise=0.05)
    regression = LayerRegression(known, COSTS)
    left_out = next(iter(known))
    others = LayerRegression({key: ms for key, ms in known.items() if key != left_out}, COSTS)
    expected = math.log(known[left_out] / others.predict([left_out])[0][0])
    assert regression.left_out[0] == pytest.approx(expected, abs=0.04)


def test_a_single_layer_is_enough_and_says_how_little_it_knows() -> None:
    regression = LayerRegression({KEYS[0]: 1.0}, COSTS)
    means, deviations = regression.predict(KEYS[:3])
    assert np.all(np.isfinite(means))
    assert np.all(deviations >= math.log(1.5))
