"""Verbs ``tables inspect``, ``compare`` and ``merge``: look at finished latency tables, and join two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.latency_file import save as save_table
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.layer import Layer
from hwautoml.core.observation import EntryOrigin
from hwautoml.core.sibling_prior import posterior_means_ms
from hwautoml.core.table_facts import FittedNetwork, LayerRatio, LayerTime, TableComparison, TableFacts, TableInspection
from hwautoml.core.table_merging import differences_in_kind, merged_table
from hwautoml.errors import RunFolderError
from hwautoml.pipeline.tables.reading import load_table
from hwautoml.profilers.journal import free_name
from hwautoml.reports.table_pictures import save_comparison, save_table_picture
from hwautoml.spaces import load_family

NUM_LISTED = 10
NUM_NETWORKS = 1000  # random members of the space that shares and predictions are taken over


def inspect_table(table: str | Path, *, picture: Path | None = None) -> TableInspection:
    """What a table is of and made from, its most expensive layers, and the measured networks as it explains them.

    ``picture`` is a PNG file of that.

    Raises:
        RunFolderError: the table is missing or damaged.
    """
    path = Path(table)
    loaded = load_table(path)
    layers, networks = _layer_times(loaded), _fitted_networks(loaded)
    most_share = sorted(layers, key=lambda layer: -layer.share)[:NUM_LISTED]
    if picture is not None:
        holdout = loaded.conditions.get("holdout")
        check = holdout if isinstance(holdout, Mapping) else {}
        save_table_picture(_title(loaded), loaded.origin, networks, check, most_share, picture)
    return TableInspection(
        TableFacts.of(loaded, path),
        most_ms=tuple(sorted(layers, key=lambda layer: -layer.ms)[:NUM_LISTED]),
        most_share=tuple(most_share),
        shares_over=f"{NUM_NETWORKS} random networks of {loaded.space}",
        networks=tuple(networks),
        picture=picture,
    )


def compare_tables(first: str | Path, second: str | Path, *, picture: Path | None = None) -> TableComparison:
    """Where two tables of one space differ: in what they are of, in their layers, in what they predict.

    Ratios are the second over the first; ``level_ratio`` is the median over random networks, and layers are
    listed by how far their own ratio is from it. ``picture`` is a PNG file of that.

    Raises:
        RunFolderError: a table is missing or damaged, or they are of different spaces.
    """
    paths = Path(first), Path(second)
    tables = load_table(paths[0]), load_table(paths[1])
    if tables[0].space != tables[1].space:
        raise RunFolderError(
            f"{first} is of {tables[0].space}, {second} of {tables[1].space}: they have no layer in common",
            fix="compare tables of one space",
        )
    means, deviations = _predictions(tables)
    ratios = means[1] / means[0]
    level = float(np.median(ratios))
    layers = _layer_ratios(tables, level)
    apart = np.abs(means[1] - level * means[0]) > 1.96 * np.hypot(level * deviations[0], deviations[1])
    if picture is not None:
        titles = [f"{_title(table)} ({table.origin})" for table in tables]
        save_comparison(titles, means, layers, level, picture)
    return TableComparison(
        TableFacts.of(tables[0], paths[0]),
        TableFacts.of(tables[1], paths[1]),
        differences_in_kind(*tables),
        level_ratio=level,
        spearman=_spearman(*means),
        correlation=float(np.corrcoef(*means)[0, 1]),
        median_difference_at_level=float(np.median(np.abs(ratios / level - 1))),
        share_apart=float(apart.mean()),
        num_networks=NUM_NETWORKS,
        num_layers_in_both=len(layers),
        only_first=_only(tables[0], tables[1]),
        only_second=_only(tables[1], tables[0]),
        layers=tuple(sorted(layers, key=lambda layer: -abs(np.log(layer.ratio_at_level)))[:NUM_LISTED]),
        picture=picture,
    )


def merge_tables(first: str | Path, second: str | Path, *, out: str | Path) -> TableFacts:
    """Two tables of the same kind as one in ``out``: networks joined, layers averaged by how sure each is.

    Both are brought to one speed of the machine first (``core.table_merging``). Another table that ``out`` holds is
    set aside as ``.old``.

    Raises:
        RunFolderError: a table is damaged, they differ in what they are of, or ``out`` exists and is damaged.
    """
    paths, out = (Path(first), Path(second)), Path(out)
    tables = load_table(paths[0]), load_table(paths[1])
    differences = differences_in_kind(*tables)
    if differences:
        raise RunFolderError(
            f"{first} and {second} are not of the same kind: {'; '.join(differences)}",
            fix="hwautoml tables compare A B shows what they have in common",
        )
    merged = merged_table(tables, (paths[0].name, paths[1].name))
    if out.is_file() and out.resolve() not in [path.resolve() for path in paths]:
        load_table(out)  # a damaged file is reported, not overwritten
        out.replace(free_name(out))
    save_table(merged, out)
    return TableFacts.of(merged, out)


def _layer_times(table: LatencyTable) -> list[LayerTime]:
    """Inside a network, and how sure that is; shares are of random networks."""
    means = posterior_means_ms(table)
    _, variances = table.posterior.latent(np.eye(len(means), len(means) + 1))
    counts, _ = table.design(_random_networks(table))
    shares = (counts[:, :-1] * means).mean(axis=0) / (counts @ np.append(means, table.posterior.mean[-1])).mean()
    return [
        LayerTime(key, float(ms), float(np.sqrt(variance)), entry.origin, float(share))
        for (key, entry), ms, variance, share in zip(table.entries.items(), means, variances, shares, strict=True)
    ]


def _fitted_networks(table: LatencyTable) -> list[FittedNetwork]:
    means, deviations = table.predict_many([observation.layers for observation in table.observations])
    return [
        FittedNetwork(o.architecture_id, o.measured_ms, float(mean), float(deviation))
        for o, mean, deviation in zip(table.observations, means, deviations, strict=True)
    ]


def _random_networks(table: LatencyTable) -> list[Sequence[Layer]]:
    space, rng = load_family(table.space), np.random.default_rng(0)
    return [space.layers(space.sample(rng)) for _ in range(NUM_NETWORKS)]


def _predictions(
    tables: tuple[LatencyTable, LatencyTable],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means and deviations (2, NUM_NETWORKS) in ms of the same random networks."""
    networks = _random_networks(tables[0])
    (first, first_std), (second, second_std) = (table.predict_many(networks) for table in tables)
    return np.stack([first, second]), np.stack([first_std, second_std])


def _by_shape(table: LatencyTable) -> dict[str, tuple[float, EntryOrigin]]:
    """(ms inside a network, origin) by the key at batch 1 in fp32, which tables of any precision share."""
    return {
        replace(Layer.from_key(key), batch=1, precision="fp32").key: (float(ms), entry.origin)
        for (key, entry), ms in zip(table.entries.items(), posterior_means_ms(table), strict=True)
    }


def _layer_ratios(tables: tuple[LatencyTable, LatencyTable], level: float) -> list[LayerRatio]:
    first, second = map(_by_shape, tables)
    return [
        LayerRatio(
            key,
            first[key][0],
            second[key][0],
            first[key][1],
            second[key][1],
            ratio_at_level=second[key][0] / first[key][0] / level,
        )
        for key in sorted(first.keys() & second.keys())
    ]


def _only(table: LatencyTable, other: LatencyTable) -> tuple[str, ...]:
    return tuple(sorted(_by_shape(table).keys() - _by_shape(other).keys()))


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    ranks = np.array([np.argsort(np.argsort(values)) for values in (first, second)], dtype=np.float64)
    return float(np.corrcoef(*ranks)[0, 1])


def _title(table: LatencyTable) -> str:
    return (
        f"{table.target}, {table.runtime} {table.runtime_version or ''}".rstrip()
        + f", {table.num_threads} thread(s), batch {table.batch}, {table.precision}"
    )
