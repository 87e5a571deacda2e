"""Look at latency tables: what one holds, in what two differ, and two of the same kind joined into one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.latency_file import load as load_table
from hwautoml.core.latency_file import save as save_table
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.layer import Layer
from hwautoml.core.observation import Entry, Observation
from hwautoml.core.sibling_prior import posterior_means_ms
from hwautoml.core.table_identity import TableIdentity
from hwautoml.errors import RunFolderError
from hwautoml.profilers.journal import free_name
from hwautoml.reports.table_pictures import save_comparison, save_table_picture
from hwautoml.spaces import load_family

NUM_LISTED = 10
NUM_NETWORKS = 1000  # random members of the space that shares and predictions are taken over
_RANKS = {"estimated": 0, "inferred": 1, "measured": 2}
_MIN_RELATIVE_DEVIATION = 1e-3  # a measurement that states less states too little


def facts(table: LatencyTable, path: Path) -> dict[str, Any]:
    """What a table is of and made from, as JSON; ``origin`` is "estimated" if nothing was measured on the target."""
    origins = Counter(entry.origin for entry in table.entries.values())
    return {
        "path": str(path),
        **asdict(TableIdentity.of(table)),
        "runtime_version": table.runtime_version,
        "origin": table.origin,
        "num_measured": origins["measured"],
        "num_inferred": origins["inferred"],
        "num_estimated": origins["estimated"],
        "num_networks": len(table.observations),
        "overhead_ms": float(table.posterior.mean[-1]),
        "holdout": table.conditions.get("holdout"),
        "noise_floor": table.conditions.get("noise_floor_relative"),
        "conditions": dict(table.conditions),
    }


def inspect_table(path: Path, *, picture: Path | None = None) -> dict[str, Any]:
    """``facts``, the most expensive layers, and the measured networks as the table explains them.

    ``most_ms`` lists layers by their time, ``most_share`` by their part in the time of random networks of the space.
    """
    table = load_table(path)
    layers, observed = _layer_rows(table), _observation_rows(table)
    result = {
        **facts(table, path),
        "most_ms": sorted(layers, key=lambda row: -row["ms"])[:NUM_LISTED],
        "most_share": sorted(layers, key=lambda row: -row["share"])[:NUM_LISTED],
        "shares_over": f"{NUM_NETWORKS} random networks of {table.space}",
        "networks": observed,
    }
    if picture is not None:
        holdout = table.conditions.get("holdout")
        check = holdout if isinstance(holdout, Mapping) else {}
        save_table_picture(_title(table), table.origin, observed, check, result["most_share"], picture)
        result["picture"] = str(picture)
    return result


def compare_tables(first: Path, second: Path, *, picture: Path | None = None) -> dict[str, Any]:
    """Where two tables of one space differ: in what they are of, in their layers, in what they predict.

    Ratios are the second over the first; ``level_ratio`` is the median over random networks, and layers are
    listed by how far their own ratio is from it.

    Raises:
        RunFolderError: a table is damaged, or they are of different spaces.
    """
    tables = load_table(first), load_table(second)
    if tables[0].space != tables[1].space:
        raise RunFolderError(
            f"{first} is of {tables[0].space}, {second} of {tables[1].space}: they have no layer in common",
            fix="compare tables of one space",
        )
    means, deviations = _predictions(tables)
    ratios = means[1] / means[0]
    level = float(np.median(ratios))
    layers = _ratio_rows(tables, level)
    apart = np.abs(means[1] - level * means[0]) > 1.96 * np.hypot(level * deviations[0], deviations[1])
    result = {
        "first": facts(tables[0], first),
        "second": facts(tables[1], second),
        "differences": list(_differences(*tables)),
        "level_ratio": level,
        "spearman": _spearman(*means),
        "correlation": float(np.corrcoef(*means)[0, 1]),
        "median_difference_at_level": float(np.median(np.abs(ratios / level - 1))),
        "share_apart": float(apart.mean()),
        "num_networks": NUM_NETWORKS,
        "num_layers_in_both": len(layers),
        "only_first": _only(tables[0], tables[1]),
        "only_second": _only(tables[1], tables[0]),
        "layers": sorted(layers, key=lambda row: -abs(np.log(row["ratio_at_level"])))[:NUM_LISTED],
    }
    if picture is not None:
        titles = [f"{_title(table)} ({table.origin})" for table in tables]
        save_comparison(titles, means, layers, level, picture)
        result["picture"] = str(picture)
    return result


def merge_tables(first: Path, second: Path, *, out: Path) -> dict[str, Any]:
    """Two tables of the same kind as one in ``out``: networks joined, layers averaged by how sure each is.

    Both are brought to the speed of the machine half-way between theirs, as the reference network shows it.
    Of a layer that one has measured and the other has not, the measurement is taken. What both have in common
    (one was made from the other) counts once.

    Raises:
        RunFolderError: a table is damaged, they differ in what they are of, or ``out`` exists and is damaged.
    """
    tables = load_table(first), load_table(second)
    differences = _differences(*tables)
    if differences:
        raise RunFolderError(
            f"{first} and {second} are not of the same kind: {'; '.join(differences)}",
            fix="hwautoml profile --compare A B shows what they have in common",
        )
    merged = _merged(tables, (first, second))
    if out.is_file() and out.resolve() not in (first.resolve(), second.resolve()):
        load_table(out)  # a damaged file is reported, not overwritten
        out.replace(free_name(out))
    save_table(merged, out)
    return facts(merged, out)


def _layer_rows(table: LatencyTable) -> list[dict[str, Any]]:
    """Milliseconds inside a network, how sure that is, and the mean share of a random network's predicted time."""
    means = posterior_means_ms(table)
    _, variances = table.posterior.latent(np.eye(len(means), len(means) + 1))
    counts, _ = table.design(_random_networks(table))
    shares = (counts[:, :-1] * means).mean(axis=0) / (counts @ np.append(means, table.posterior.mean[-1])).mean()
    return [
        {
            "key": key,
            "ms": float(ms),
            "deviation_ms": float(np.sqrt(variance)),
            "origin": entry.origin,
            "share": float(share),
        }
        for (key, entry), ms, variance, share in zip(table.entries.items(), means, variances, shares, strict=True)
    ]


def _observation_rows(table: LatencyTable) -> list[dict[str, Any]]:
    """``fitted``: the table has seen these measurements, so they are no check of it."""
    networks = [[Layer.from_key(key) for key, count in o.counts for _ in range(count)] for o in table.observations]
    means, deviations = table.predict_many(networks)
    return [
        {"id": o.architecture_id, "measured_ms": o.measured_ms, "fitted_ms": float(mean), "deviation_ms": float(std)}
        for o, mean, std in zip(table.observations, means, deviations, strict=True)
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


def _by_shape(table: LatencyTable) -> dict[str, tuple[float, str]]:
    """(ms inside a network, origin) by the key at batch 1 in fp32, which tables of any precision share."""
    return {
        replace(Layer.from_key(key), batch=1, precision="fp32").key: (float(ms), entry.origin)
        for (key, entry), ms in zip(table.entries.items(), posterior_means_ms(table), strict=True)
    }


def _ratio_rows(tables: tuple[LatencyTable, LatencyTable], level: float) -> list[dict[str, Any]]:
    first, second = map(_by_shape, tables)
    return [
        {
            "key": key,
            "first_ms": first[key][0],
            "second_ms": second[key][0],
            "first_origin": first[key][1],
            "second_origin": second[key][1],
            "ratio_at_level": second[key][0] / first[key][0] / level,
        }
        for key in sorted(first.keys() & second.keys())
    ]


def _only(table: LatencyTable, other: LatencyTable) -> list[str]:
    return sorted(_by_shape(table).keys() - _by_shape(other).keys())


def _differences(first: LatencyTable, second: LatencyTable) -> tuple[str, ...]:
    """In what the tables are of, the runtime's version and the machine included."""
    kinds = TableIdentity.of(first), TableIdentity.of(second)
    changed = [
        f"{name} is {getattr(kinds[0], name)!r} and {getattr(kinds[1], name)!r}"
        for name in asdict(kinds[0])
        if getattr(kinds[0], name) != getattr(kinds[1], name)
    ]
    changed += [
        f"{name} is {first.conditions.get(name)!r} and {second.conditions.get(name)!r}"
        for name in ("runtime_version", "fingerprint")
        if first.conditions.get(name) != second.conditions.get(name)
    ]
    return tuple(changed)


def _merged(tables: tuple[LatencyTable, LatencyTable], paths: tuple[Path, Path]) -> LatencyTable:
    speeds = [table.conditions.get("reference_median_ms") for table in tables]
    known = [speed for speed in speeds if isinstance(speed, float)]
    common = float(np.sqrt(np.prod(known))) if len(known) == 2 else 1.0
    factors = [common / speed for speed in known] if len(known) == 2 else [1.0, 1.0]
    keys = sorted(tables[0].entries.keys() | tables[1].entries.keys())
    entries = {key: _joined([t.entries.get(key) for t in tables], factors) for key in keys}
    observations: dict[Observation, float] = {}
    for table, factor in zip(tables, factors, strict=True):
        observations |= {o: factor for o in table.observations if o not in observations}
    newest = max(tables, key=lambda table: str(table.conditions.get("date", "")))
    merged = replace(
        newest,
        entries=entries,
        overhead=_joined([table.overhead for table in tables], factors),
        observations=(),
        hyperparameters=None,
        conditions={
            **newest.conditions,
            "holdout": None,
            "reference_median_ms": common if len(known) == 2 else None,
            "merged": [{"file": path.name, **_summary(table)} for path, table in zip(paths, tables, strict=True)],
        },
    )
    return merged.with_observations([_scaled_observation(o, factor) for o, factor in observations.items()])


def _joined(entries: Sequence[Entry | None], factors: Sequence[float]) -> Entry:
    """Weighted by 1 / deviation^2 where both are of one origin; else the better origin's."""
    present = [(entry, factor) for entry, factor in zip(entries, factors, strict=True) if entry is not None]
    best = max(_RANKS[entry.origin] for entry, _ in present)
    chosen = list({entry: factor for entry, factor in present if _RANKS[entry.origin] == best}.items())
    means = np.array([factor * entry.mean_ms for entry, factor in chosen])
    stated = np.array([factor * entry.deviation_ms for entry, factor in chosen])
    weights = 1 / np.maximum(stated, _MIN_RELATIVE_DEVIATION * means) ** 2
    mean = float(weights @ means / weights.sum())
    deviation = float(weights.sum() ** -0.5) if len(chosen) > 1 else float(stated[0])
    return replace(chosen[0][0], mean_ms=mean, deviation_ms=deviation)


def _scaled_observation(observation: Observation, factor: float) -> Observation:
    return replace(
        observation, measured_ms=factor * observation.measured_ms, deviation_ms=factor * observation.deviation_ms
    )


def _summary(table: LatencyTable) -> Mapping[str, object]:
    names = ("date", "noise_floor_relative", "reference_median_ms", "holdout")
    return {"num_networks": len(table.observations), **{name: table.conditions.get(name) for name in names}}


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    ranks = np.array([np.argsort(np.argsort(values)) for values in (first, second)], dtype=np.float64)
    return float(np.corrcoef(*ranks)[0, 1])


def _title(table: LatencyTable) -> str:
    return (
        f"{table.target}, {table.runtime} {table.runtime_version or ''}".rstrip()
        + f", {table.num_threads} thread(s), batch {table.batch}, {table.precision}"
    )
