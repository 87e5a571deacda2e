from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwautoml.datasets.splitting import SPLITS, Labelling, assign_splits, check_fractions
from hwautoml.errors import DatasetError, InvalidValueError

counts_per_class = st.lists(st.integers(3, 40), min_size=2, max_size=6)


def split(labels: np.ndarray, given_splits: list[str] | None = None, seed: int = 0, **fractions: float) -> dict:
    names = [f"class 'c{i}'" for i in range(int(labels.max()) + 1)]
    fractions = {"val_fraction": 0.15, "test_fraction": 0.2, **fractions}
    labelling = Labelling(labels, given_splits or [""] * len(labels), names, np.arange(len(labels)), "x")
    return assign_splits(labelling, seed=seed, **fractions)


@given(counts_per_class, st.integers(0, 5), st.floats(0.01, 0.45), st.floats(0.01, 0.45))
def test_splits_are_disjoint_exhaustive_stratified_and_seeded(
    counts: list[int], seed: int, val_fraction: float, test_fraction: float
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    parts = split(labels, seed=seed, val_fraction=val_fraction, test_fraction=test_fraction)
    assert sorted(np.concatenate([parts[s] for s in SPLITS])) == list(range(len(labels)))
    for label, count in enumerate(counts):
        numbers = {s: int((labels[parts[s]] == label).sum()) for s in SPLITS}
        assert min(numbers.values()) >= 1
        for name, fraction in (("val", val_fraction), ("test", test_fraction)):
            wanted = max(1, round(fraction * count))
            assert numbers[name] == wanted or numbers["train"] == 1
    again = split(labels, seed=seed, val_fraction=val_fraction, test_fraction=test_fraction)
    assert all(np.array_equal(parts[s], again[s]) for s in SPLITS)


def test_another_seed_gives_another_split() -> None:
    labels = np.repeat([0, 1], 50)
    assert not np.array_equal(split(labels, seed=0)["test"], split(labels, seed=1)["test"])


@given(counts_per_class)
def test_given_splits_are_kept(counts: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    given_splits = ["test" if i % 3 == 0 else "train" for i in range(len(labels))]
    try:
        parts = split(labels, given_splits)
    except DatasetError:
        trained = [
            sum(1 for y, s in zip(labels, given_splits, strict=True) if y == c and s == "train")
            for c in range(len(counts))
        ]
        assert min(trained) < 2
        return
    assert parts["test"].tolist() == [i for i in range(len(labels)) if i % 3 == 0]
    assert not set(parts["val"]) & set(parts["test"])


def test_too_small_a_class_is_named() -> None:
    with pytest.raises(DatasetError, match=r"class 'c1' of x has 2 usable image\(s\).*at least 3"):
        split(np.array([0, 0, 0, 1, 1]))


@pytest.mark.parametrize(("val", "test"), [(0.0, 0.2), (0.2, 0.0), (0.5, 0.5), (-0.1, 0.2), (float("nan"), 0.2)])
def test_bad_fractions(val: float, test: float) -> None:
    with pytest.raises(InvalidValueError, match="val_fraction"):
        check_fractions(val, test)
