from __future__ import annotations

import numpy as np
import pytest

from hwautoml.core.variance_components import Task, fit, log_evidence


def tasks(amplitudes: tuple[float, ...], noise: float, num_tasks: int, seed: int = 0, size: int = 80) -> list[Task]:
    """Drawn from the model with these variances."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(num_tasks):
        factors = [rng.standard_normal((size, 6)) for _ in amplitudes]
        deviation = sum(np.sqrt(a) * f @ rng.standard_normal(6) for a, f in zip(amplitudes, factors, strict=True))
        deviation = deviation + np.sqrt(noise) * rng.standard_normal(size)
        found.append(Task(np.array([f @ f.T for f in factors]), deviation, np.ones(size)))
    return found


def test_variances_that_made_the_data_are_found() -> None:
    found, noises = fit(tasks((0.04, 0.25), 0.01, 12), np.ones(12), num_steps=80)
    assert found == pytest.approx([0.04, 0.25], rel=0.4)  # 72 draws of each
    # The squared scale of a Student-t: of normal noise about 0.7 times its variance.
    assert 0.0055 < float(np.median(noises)) < 0.0085


def test_a_component_that_explains_nothing_vanishes() -> None:
    found, _ = fit(tasks((0.25, 0.0), 0.01, 6), np.ones(6), num_steps=80)
    assert found[1] < 1e-3 * found[0]


def test_the_fixed_point_is_a_maximum_of_the_evidence_in_every_component() -> None:
    (task,) = tasks((0.09, 0.04), 0.02, 1)
    found, (noise,) = fit([task], np.ones(1), num_steps=200)

    def evidence(amplitudes: np.ndarray, noise_variance: float) -> float:
        latent = np.tensordot(amplitudes, task.kernels, 1)
        return log_evidence(latent, np.full(len(task.deviation), noise_variance), task.deviation)

    best = evidence(found, noise)
    for factor in (0.7, 1.4):
        for index in range(2):
            assert evidence(found * np.where(np.arange(2) == index, factor, 1.0), noise) < best


def test_outliers_leave_the_variances_as_they_are() -> None:
    clean = tasks((0.09,), 0.01, 6, seed=1)
    dirty = []
    for task in clean:
        deviation = task.deviation.copy()
        deviation[:3] += 30.0
        dirty.append(Task(task.kernels, deviation, task.noise))
    expected, _ = fit(clean, np.ones(6), num_steps=60)
    found, _ = fit(dirty, np.ones(6), num_steps=60)
    assert found == pytest.approx(expected, rel=0.5)


def test_weights_say_whose_variances_are_learnt() -> None:
    mixed = [*tasks((1.0,), 0.01, 4), *tasks((0.01,), 0.01, 4, seed=1)]
    first, _ = fit(mixed, np.array([1.0] * 4 + [0.0] * 4), num_steps=60)
    second, _ = fit(mixed, np.array([0.0] * 4 + [1.0] * 4), num_steps=60)
    assert first[0] > 10 * second[0]
