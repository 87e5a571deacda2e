"""What a run has decided, done and measured. No other file knows the keys under which the store keeps it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hwautoml.core import json_form
from hwautoml.core.artifact import sha256_file
from hwautoml.core.closing import Closing
from hwautoml.core.form import Form
from hwautoml.core.measurement import Measurement
from hwautoml.core.plan import Plan
from hwautoml.core.run_result import Prediction, TrainingFigures
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.core.training_cost import TrainingCost
from hwautoml.pipeline.runs.outcomes import IN_ORDER, Outcome, Trained
from hwautoml.pipeline.runs.settings import RunSettings
from hwautoml.store.run_store import Evaluation, RunStore

O = TypeVar("O", bound=Outcome)  # noqa: E741

SHARED = "supernet"  # weights: the supernet's, recalibrated
FINE_TUNED = "fine-tuned"
RANDOM = "random"
PHASES = ("first", "second", "third", "fourth")  # rounds of the race, the last is the leader's alone
SAVE_EVERY_SEC = 5.0


class Journal(Closing):
    """Everything is written when it is known; ``elapsed_sec`` is the run's wall-clock time over all its sessions."""

    def __init__(self, store: RunStore) -> None:
        self.store, self.folder = store, store.folder
        self._since = time.monotonic()

    def close(self) -> None:
        self.store.close()

    # Time.

    @property
    def elapsed_sec(self) -> float:
        return float(self.store.setting("elapsed_sec", 0.0)) + time.monotonic() - self._since

    def save_elapsed(self, *, at_least_sec: float = 0.0) -> None:
        """What a killed session has taken counts up to here; sooner than ``at_least_sec`` after the last it is left."""
        if time.monotonic() - self._since >= at_least_sec:
            self.store.set_setting("elapsed_sec", self.elapsed_sec)
            self._since = time.monotonic()

    def stage_sec(self, stage: str) -> float:
        """That it has taken so far, interrupted tries included."""
        return float(self.store.setting(f"seconds.{stage}", 0.0))

    def left_sec(self, phase: str, now: float) -> float:
        """What was left when a phase began: ``now`` the first time, kept from then on."""
        return float(self._kept(f"left_sec.{phase}", now))

    def _kept(self, key: str, value: Any) -> Any:
        stored = self.store.setting(key)
        if stored is None:
            self.store.set_setting(key, value)
        return value if stored is None else stored

    # What was asked for.

    @property
    def settings(self) -> RunSettings | None:
        stored = self.store.setting("settings")
        return None if stored is None else RunSettings.from_json(stored)

    def start(self, settings: RunSettings) -> None:
        self.store.set_setting("settings", settings.to_json())

    def place(self, now: str) -> str:
        """Where the run measures: as it was when it began, ``now`` if it begins."""
        return str(self._kept("place", now))

    def dataset_fingerprint(self, now: str) -> str:
        return str(self._kept("dataset_fingerprint", now))

    # What was decided.

    @property
    def plan(self) -> Plan | None:
        stored = self.store.setting("plan")
        return None if stored is None else Plan.from_json(stored)

    def set_plan(self, plan: Plan) -> None:
        self.store.set_setting("plan", plan.to_json())

    @property
    def training_cost(self) -> TrainingCost | None:
        stored = self.store.setting("training_cost")
        return None if stored is None else json_form.from_json(TrainingCost, stored, "the journal's training_cost")

    def set_training_cost(self, cost: TrainingCost) -> None:
        self.store.set_setting("training_cost", json_form.to_json(cost))

    def entrants(self, space: SearchSpace) -> list[Architecture] | None:
        stored = self.store.setting("entrants")
        return None if stored is None else [space.architecture(values) for values in stored]

    def set_entrants(self, entrants: Sequence[Architecture]) -> None:
        self.store.set_setting("entrants", [a.as_dict for a in entrants])

    @property
    def needing_int8(self) -> frozenset[str]:
        """Ids of the entrants that meet the limit in int8 alone, as far as is known."""
        return frozenset(self.store.setting("needing_int8", []))

    def set_needing_int8(self, ids: Sequence[str]) -> None:
        self.store.set_setting("needing_int8", list(ids))

    @property
    def leader_keeps_accuracy(self) -> bool | None:
        """In int8; None while it was not tried."""
        stored = self.store.setting("leader_keeps_accuracy")
        return None if stored is None else bool(stored)

    def set_leader_keeps_accuracy(self, keeps: bool) -> None:
        self.store.set_setting("leader_keeps_accuracy", keeps)

    @property
    def nearest(self) -> str | None:
        """The id of what came nearest to a limit that nothing met."""
        stored = self.store.setting("nearest")
        return None if stored is None else str(stored["id"])

    def set_nearest(self, architecture: Architecture) -> None:
        self.store.set_setting("nearest", {"id": architecture.id})

    # Predictions: what tables said *before* measurements improved them, the only honest ones to compare with.

    def keep_predictions(self, predictions: Mapping[Architecture, Prediction]) -> None:
        """Under the architecture what was said first, in whatever form; and what was said of each form."""
        kept = self.store.setting("predictions", {})
        for architecture, prediction in predictions.items():
            row = json_form.to_json(prediction)
            kept.setdefault(architecture.id, row)
            kept.setdefault(f"{architecture.id} {prediction.form.name}", row)
        self.store.set_setting("predictions", kept)

    def prediction(self, architecture: Architecture, form: Form) -> Prediction:
        """Of that form where there was one, else of the one in which the architecture was chosen."""
        kept = self.store.setting("predictions", {})
        row = kept.get(f"{architecture.id} {form.name}", kept.get(architecture.id))
        return json_form.from_json(Prediction, row, f"the journal's prediction of {architecture.id}")

    # Stages.

    def outcome(self, kind: type[O]) -> O | None:
        """What a finished stage left; None while it is not finished."""
        stored = self.store.stage(kind.stage)
        return None if stored is None else kind.from_json(stored)

    def finish(self, outcome: Outcome, seconds: float) -> None:
        self.store.finish_stage(outcome.stage, seconds, outcome.to_json())

    def add_stage_sec(self, stage: str, seconds: float) -> float:
        """Of one try, whatever became of it; returns those of all tries."""
        total = self.stage_sec(stage) + seconds
        self.store.set_setting(f"seconds.{stage}", total)
        return total

    def forget(self, kind: type[Outcome]) -> None:
        """The stage is done again when the run is resumed."""
        self.store.forget_stages((kind.stage,))

    def forget_from(self, kind: type[Outcome]) -> None:
        """The stage and all that follow it are done again."""
        self.store.forget_stages(tuple(later.stage for later in IN_ORDER[IN_ORDER.index(kind) :]))

    # Files that stages wrote, so that a damaged one is found before it is used.

    def keep_files(self, owner: str, paths: Iterable[Path]) -> None:
        """``owner`` is a stage, or an architecture's id for its trained weights."""
        hashes = {str(path.relative_to(self.folder)): sha256_file(path) for path in paths}
        self.store.set_setting(f"files.{owner}", hashes)

    def damaged_files(self, owner: str) -> list[Path]:
        """Those that are missing or not as they were written; none of what earlier versions wrote."""
        kept = self.store.setting(f"files.{owner}", {})
        found = ((self.folder / name, digest) for name, digest in kept.items())
        return [path for path, digest in found if not path.is_file() or sha256_file(path) != digest]

    def seconds(self, stage: str) -> float:
        """Of a finished stage; 0 while it is not finished."""
        stored = self.store.stage(stage)
        return 0.0 if stored is None else float(stored["seconds"])

    # Trainings of one network alone.

    def is_fine_tuned(self, architecture: Architecture, phase: str) -> bool:
        return self.store.stage(_round(architecture, phase)) is not None

    def forget_fine_tuning(self, architecture: Architecture) -> None:
        """All its rounds, with their scores."""
        self.store.forget_stages(tuple(_round(architecture, phase) for phase in PHASES))
        self.store.forget_evaluations(architecture.id, tuple(f"{FINE_TUNED}.{phase}" for phase in PHASES))

    def finish_fine_tuning(self, architecture: Architecture, phase: str, seconds: float, num_images: float) -> None:
        self.store.finish_stage(_round(architecture, phase), seconds, {"images": num_images})

    def fine_tuning(self, architecture: Architecture, images_per_epoch: int) -> TrainingFigures:
        """Of all its rounds."""
        rounds = [self.store.stage(_round(architecture, phase)) or {} for phase in PHASES]
        seconds, images = (float(sum(done.get(key, 0) for done in rounds)) for key in ("seconds", "images"))
        return TrainingFigures(seconds, images, images / images_per_epoch)

    def supernet_training(self) -> TrainingFigures:
        done = self.outcome(Trained) or Trained()
        return TrainingFigures(self.seconds(Trained.stage), float(done.images), done.epochs)

    # Scores on the validation split.

    def shared_scores(self, space: SearchSpace) -> list[Evaluation]:
        """Of members of the supernet, in the order in which they were made."""
        return self.store.evaluations(space, weights=SHARED, split="val")

    def forget_shared_scores(self) -> None:
        """They belong to weights that are no longer there."""
        self.store.forget_evaluations(None, (SHARED,))

    def fine_tuned_scores(self, space: SearchSpace) -> dict[str, Evaluation]:
        """By architecture id; the last round counts."""
        return {
            found.architecture.id: found
            for phase in PHASES
            for found in self.store.evaluations(space, weights=f"{FINE_TUNED}.{phase}", split="val")
        }

    def add_evaluation(self, evaluation: Evaluation) -> None:
        self.store.add_evaluation(evaluation)

    # Measurements on the target.

    def add_measurement(
        self, architecture_id: str, target: str, form: Form, measured: Measurement, *, weights: str
    ) -> None:
        """``weights``: FINE_TUNED, or RANDOM for candidates that are measured before they are trained."""
        payload = {**measured.to_json(), "weights": weights, "precision": form.precision}
        self.store.add_measurement(architecture_id, target, form.runtime, payload)

    def measurements(self, target: str, form: Form, *, weights: str) -> dict[str, Measurement]:
        """By architecture id; the latest counts."""
        rows = self.store.measurements(target, form.runtime)
        return {
            key: Measurement.from_json(payload)
            for key, payload in rows
            if payload["weights"] == weights and payload.get("precision", "fp32") == form.precision
        }


def _round(architecture: Architecture, phase: str) -> str:
    return f"fine-tune.{phase}.{architecture.id}"
