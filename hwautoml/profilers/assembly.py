"""From journal lines to a latency table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.latency_prior import doubt_wild_entries, infer_entries
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.layer import LayerCost
from hwautoml.core.observation import Entry, Observation
from hwautoml.core.sibling_prior import at_level_of
from hwautoml.core.table_identity import TableIdentity
from hwautoml.errors import MeasurementError
from hwautoml.profilers.disturbance import Line, at_usual_speed, least_disturbed, usual_reference_ms
from hwautoml.profilers.journal import Journal

_PER_MODEL_CONDITIONS = ("load_ms", "peak_memory_bytes", "num_inner", "preempted_share", "reference_median_ms")
_MIN_LEAVE_ONE_OUT = 3
_MIN_SHARE = 0.05  # of a layer's own measured time that stays after the overhead is subtracted


@dataclass(frozen=True)
class ProfileSetting:
    """What a journal belongs to: a table's identity, the runtime's version and the machine.

    ``machine`` (``devices.machine.fingerprint``) keeps a journal from being continued elsewhere.
    """

    identity: TableIdentity
    runtime_version: str
    machine: str = ""

    def to_json(self) -> dict[str, object]:
        return {**self.identity.to_json(), "runtime_version": self.runtime_version, "machine": self.machine}


def is_usable(line: Line, max_relative_deviation: float) -> bool:
    """Measured, and not too noisy to be written into a table."""
    return "median_ms" in line and bool(line["deviation_ms"] <= max_relative_deviation * line["median_ms"])


def assemble_table(
    setting: ProfileSetting,
    journal: Journal,
    costs: Mapping[str, LayerCost],
    max_relative_deviation: float,
    *,
    reads_weights: bool = False,
) -> LatencyTable:
    """The table of everything measured so far; layers of ``costs`` without a usable measurement are inferred.

    ``reads_weights``: the runtime reads, and converts, a layer's weights at every run instead of packing them once.

    Figures of different measuring calls are brought to one speed of the machine, the median one,
    by the reference network that every call timed.

    Raises:
        MeasurementError: no layer has a usable measurement.
    """
    records = [line for line in journal.records if "median_ms" in line]
    speed = usual_reference_ms(records)
    quiet = least_disturbed([line for line in records if is_usable(line, max_relative_deviation)], speed)
    overhead = _overhead(quiet, speed)
    measured = {line["key"]: _layer_entry(line, speed, overhead) for line in quiet if line["record"] == "layer"}
    if not measured:
        raise MeasurementError(
            f"no layer of {setting.identity.space} was measured to within {max_relative_deviation:.0%}",
            fix="run on a quieter machine, or with a larger budget",
        )
    measured = doubt_wild_entries(measured, costs)
    inferred = infer_entries(measured, [key for key in costs if key not in measured], costs)
    entries = dict(sorted((measured | inferred).items()))
    if reads_weights:
        entries = {key: replace(entry, num_weights=costs[key].parameters) for key, entry in entries.items()}
    table = LatencyTable(
        setting.identity,
        entries=entries,
        overhead=overhead,
        conditions=_conditions(setting, journal, records, quiet, len(measured), len(inferred)),
    )
    networks = [line for line in quiet if line["record"] == "network"]
    return table.with_observations([_observation(line, speed) for line in networks])


def assemble_from_prior(
    setting: ProfileSetting, journal: Journal, prior: LatencyTable, max_relative_deviation: float
) -> LatencyTable:
    """``prior`` at the level of the networks measured so far, and corrected by them; no layer was measured."""
    records = [line for line in journal.records if "median_ms" in line]
    speed = usual_reference_ms(records)
    quiet = least_disturbed([line for line in records if is_usable(line, max_relative_deviation)], speed)
    observations = [_observation(line, speed) for line in quiet if line["record"] == "network"]
    if not observations:
        return prior
    table = table_from_prior(prior, observations)
    conditions = _conditions(setting, journal, records, quiet, 0, len(table.entries))
    return replace(table, conditions={**table.conditions, **conditions})


def table_from_prior(prior: LatencyTable, observations: Sequence[Observation]) -> LatencyTable:
    """Brought to the observed level, then conditioned on the observations."""
    return at_level_of(prior, observations).with_observations(observations)


def checked_by_leaving_out(table: LatencyTable, prior: LatencyTable) -> LatencyTable:
    """``conditions["holdout"]`` says how well each network is predicted from the prior and all the others.

    None for fewer than three networks.
    """
    observations = table.observations
    if len(observations) < _MIN_LEAVE_ONE_OUT:
        return replace(table, conditions={**table.conditions, "holdout": None})
    predicted = []
    for left_out, observation in enumerate(observations):
        others = table_from_prior(prior, [o for number, o in enumerate(observations) if number != left_out])
        predicted.append(others.predict(observation.layers))
    measured = np.array([observation.measured_ms for observation in observations])
    means, deviations = np.array([(p.mean_ms, p.std_ms) for p in predicted]).T
    ids = [observation.architecture_id for observation in observations]
    check = {"method": "leave one out", **_errors(ids, means, deviations, measured)}
    return replace(table, conditions={**table.conditions, "holdout": check})


def _overhead(records: Sequence[Line], speed: float | None) -> Entry:
    measured = [at_usual_speed(line, speed) for line in records if line["record"] == "overhead"]
    if measured:
        return Entry(*measured[-1], "measured")
    fastest = min((at_usual_speed(line, speed)[0] for line in records if line["record"] == "layer"), default=0.01)
    return Entry(fastest / 2, fastest / 2, "inferred")


def _layer_entry(line: Line, speed: float | None, overhead: Entry) -> Entry:
    median_ms, deviation_ms = at_usual_speed(line, speed)
    mean_ms = max(median_ms - overhead.mean_ms, _MIN_SHARE * median_ms)
    return Entry(mean_ms, float(np.hypot(deviation_ms, overhead.deviation_ms)), "measured")


def _observation(line: Line, speed: float | None) -> Observation:
    median_ms, deviation_ms = at_usual_speed(line, speed)
    counts = tuple(sorted(line["counts"].items()))
    session = str(line["conditions"].get("date", ""))  # when its measuring call began
    return Observation(line["architecture_id"], counts, median_ms, deviation_ms, session)


def _conditions(
    setting: ProfileSetting,
    journal: Journal,
    records: Sequence[Line],
    quiet: Sequence[Line],
    num_measured: int,
    num_inferred: int,
) -> dict[str, object]:
    """The latest call's, with counts of what was measured and the check on held-out networks."""
    latest = {k: v for k, v in records[-1]["conditions"].items() if k not in _PER_MODEL_CONDITIONS}
    floors = [line["conditions"].get("noise_floor_relative") for line in records]
    speed = usual_reference_ms(records)
    known = [floor for floor in floors if floor is not None]
    return latest | {
        "runtime_version": setting.runtime_version,
        "noise_floor_relative": float(np.median(known)) if known else None,
        "reference_median_ms": speed,
        "num_layers_measured": num_measured,
        "num_layers_inferred": num_inferred,
        "num_failed": sum("failure" in line for line in journal.records),
        "num_too_noisy": len(least_disturbed(records, speed)) - len(quiet),
        "seconds": float(sum(line.get("seconds", 0.0) for line in journal.records)),
        "holdout": _holdout(quiet, speed),
    }


def _holdout(records: Sequence[Line], speed: float | None) -> dict[str, object] | None:
    """Predicted before measured: mean and largest relative error, share within the 95 % interval."""
    held_out = [line for line in records if line["record"] == "network" and line["is_holdout"]]
    if not held_out:
        return None
    measured = np.array([at_usual_speed(line, speed)[0] for line in held_out])
    predicted = np.array([line["predicted_ms"] for line in held_out])
    deviation = np.array([line["predicted_std_ms"] for line in held_out])
    return _errors([line["architecture_id"] for line in held_out], predicted, deviation, measured)


def _errors(
    ids: Sequence[str],
    predicted: NDArray[np.float64],
    deviation: NDArray[np.float64],
    measured: NDArray[np.float64],
) -> dict[str, object]:
    """All (n,), times in ms."""
    errors = np.abs(predicted / measured - 1)
    return {
        "num_networks": len(measured),
        "mean_relative_error": float(errors.mean()),
        "max_relative_error": float(errors.max()),
        "share_within_interval": float((np.abs(predicted - measured) <= 1.96 * deviation).mean()),
        "networks": [
            {"id": name, "measured_ms": float(m), "predicted_ms": float(p), "deviation_ms": float(d)}
            for name, m, p, d in zip(ids, measured, predicted, deviation, strict=True)
        ],
    }
