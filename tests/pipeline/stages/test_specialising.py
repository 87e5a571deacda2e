from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from hwautoml.core.plan import make_plan
from hwautoml.core.space import Architecture
from hwautoml.pipeline.runs import int8_accuracy
from hwautoml.pipeline.runs.candidates import load_network, trained_networks, weights_path
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.journal import PHASES
from hwautoml.pipeline.runs.outcomes import Specialised
from hwautoml.pipeline.stages import specialising
from hwautoml.pipeline.stages.specialising import _finalists, _FineTuner, _leader_first, _race
from hwautoml.pipeline.stages.training import CHECKPOINT, checkpoint
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.store.run_store import Evaluation
from hwautoml.supernets.supernet import Supernet
from hwautoml.supernets.training import TrainState


@pytest.fixture
def searched(make_run: Callable[..., RunContext]) -> RunContext:
    """As after the search stage, with a supernet of random weights."""
    run = make_run()
    torch.manual_seed(0)
    checkpoint(run, run.folder / CHECKPOINT, Supernet(run.space), TrainState(1.0, 8, 1))
    run.journal.store.set_setting("elapsed_sec", 0.0)
    return run


# A second to specialise in.
PLAN = replace(make_plan(60.0, 1.0, False, 1.0), total=2.0, ship=0.5)


def members(space: MobileSpace, number: int) -> list[Architecture]:
    return [space.sample(np.random.default_rng(seed)) for seed in range(number)]


def test_half_of_the_entrants_go_on_until_one_is_left(
    searched: RunContext, space: MobileSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real training on the digits; every round trains the better half of the one before, for as long each."""
    rounds: list[tuple[str, str, float]] = []
    original = _FineTuner.train

    def train(self: _FineTuner, architecture: Architecture, phase: str, seconds: float) -> None:
        rounds.append((phase, architecture.id, seconds))
        original(self, architecture, phase, seconds)

    monkeypatch.setattr(specialising._FineTuner, "train", train)
    entrants = members(space, 4)
    finalists = _race(searched, PLAN, _FineTuner(searched), entrants)
    assert [phase for phase, _, _ in rounds] == ["first"] * 4 + ["second"] * 2 + ["third"]
    assert len({seconds for _, _, seconds in rounds[:4]}) == len({seconds for _, _, seconds in rounds[4:6]}) == 1
    scored = [e for e in _fine_tuned(searched, space) if e.weights.endswith("first")]
    after_first = {e.architecture.id: searched.dataset.task.score(e.outcome) for e in scored}
    better = sorted(after_first, key=lambda id: -after_first[id])[:2]
    assert {after_first[id] for _, id, _ in rounds[4:6]} == {after_first[id] for id in better}
    assert finalists[0].id == rounds[-1][1] and [a.id for a in finalists[1:]] == [
        id for _, id, _ in rounds[4:6] if id != finalists[0].id
    ]
    assert load_network(searched, finalists[0])(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_a_resumed_race_repeats_nothing(
    searched: RunContext, space: MobileSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    entrants = members(space, 2)
    _FineTuner(searched).train(entrants[0], "first", 0.2)
    trained: list[str] = []
    original = _FineTuner._train

    def count(self: _FineTuner, architecture: Architecture, *arguments: object) -> object:
        trained.append(architecture.id)
        return original(self, architecture, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(specialising._FineTuner, "_train", count)
    finalists = _race(searched, PLAN, _FineTuner(searched), entrants)
    assert trained == [entrants[1].id, finalists[0].id]
    again = _race(searched, PLAN, _FineTuner(searched), entrants)
    assert again == finalists and len(trained) == 2


def test_one_entrant_gets_all_the_time(searched: RunContext, space: MobileSpace) -> None:
    assert _race(searched, PLAN, _FineTuner(searched), members(space, 1)) == members(space, 1)
    assert [e.weights for e in _fine_tuned(searched, space)] == ["fine-tuned.first"]


def test_only_finalists_are_exported_and_measured(searched: RunContext, space: MobileSpace) -> None:
    first, second = members(space, 2)
    for architecture in (first, second):
        _FineTuner(searched).train(architecture, "first", 0.1)
    assert trained_networks(searched).keys() == {first.id, second.id}
    searched.journal.finish(Specialised((second.id,)), 1.0)
    assert trained_networks(searched).keys() == {second.id}


def _fine_tuned(run: RunContext, space: MobileSpace) -> list[Evaluation]:
    """Of all rounds."""
    store = run.journal.store
    return [e for p in PHASES for e in store.evaluations(space, weights=f"fine-tuned.{p}", split="val")]


def test_the_leader_must_be_able_to_ship(searched: RunContext, space: MobileSpace) -> None:
    first, second, able = members(space, 3)
    risky = frozenset({first.id, second.id})
    searched.journal.set_needing_int8(list(risky))
    assert _finalists([first, second, able], 2, risky) == [first, able]
    assert _finalists([first, able, second], 2, risky) == [first, able]
    assert _finalists([first, second], 2, risky) == [first, second], "there is no other"
    assert _leader_first(searched, PLAN, [able, first]) == [able, first], "needs no int8"
    assert _leader_first(searched, PLAN, [first, second]) == [first, second], "there is no other"
    searched.journal.set_leader_keeps_accuracy(False)
    assert _leader_first(searched, PLAN, [first, second, able]) == [able, first, second]


def test_a_network_whose_weights_were_damaged_is_trained_again(searched: RunContext, space: MobileSpace) -> None:
    (architecture,) = members(space, 1)
    _FineTuner(searched).train(architecture, "first", 0.1)
    path = weights_path(searched, architecture)
    good = path.read_bytes()
    path.write_bytes(good[:-10])
    _FineTuner(searched).train(architecture, "first", 0.1)
    assert len(path.read_bytes()) == len(good)
    assert load_network(searched, architecture)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert path.with_name(f"{path.name}.damaged").read_bytes() == good[:-10]


@pytest.mark.slow
@pytest.mark.parametrize(("max_loss", "keeps"), [(-1.1, False), (1.1, True)])
def test_a_leader_in_int8_is_quantised_before_it_gets_the_time(
    searched: RunContext, space: MobileSpace, monkeypatch: pytest.MonkeyPatch, max_loss: float, keeps: bool
) -> None:
    """For real, as it is trained after the race; demands that nothing or everything meets stand for its accuracy."""
    first, able = members(space, 2)
    searched.journal.set_needing_int8([first.id])
    _FineTuner(searched).train(first, "first", 0.1)
    monkeypatch.setattr(int8_accuracy, "MAX_LOSS", max_loss)
    expected = [first, able] if keeps else [able, first]
    assert _leader_first(searched, PLAN, [first, able]) == expected
    monkeypatch.setattr(int8_accuracy, "MAX_LOSS", -max_loss)
    assert _leader_first(searched, PLAN, [first, able]) == expected, "what was found out is kept"
