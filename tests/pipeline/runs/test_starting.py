from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from hwautoml.core.start_point import SCRATCH
from hwautoml.datasets import ImageDataset
from hwautoml.errors import InvalidValueError, UnknownNameError
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.settings import RunSettings
from hwautoml.pipeline.runs.starting import MAX_IMAGES, chosen_start, judge_start, require_start
from hwautoml.starts import load_start

LITE0 = load_start("efficientnet-lite0").point
MakeRun = Callable[..., RunContext]


def test_what_was_asked_for_is_taken(make_run: MakeRun) -> None:
    for name in ("scratch", "efficientnet-lite0"):
        run = make_run(name, start=name)
        assert chosen_start(run.journal, run.settings).name == name


def test_photographs_are_expected_until_the_images_were_seen(make_run: MakeRun) -> None:
    run = make_run()
    assert chosen_start(run.journal, run.settings) == LITE0
    run.journal.choose_start(judge_start(LITE0, run.dataset))
    assert chosen_start(run.journal, run.settings) == SCRATCH, "digits are no photographs"


@pytest.mark.parametrize("settings", [{"space": "micro"}, {"channels": 1}])
def test_another_space_or_grey_images_that_were_asked_for_begin_from_scratch(
    make_run: MakeRun, settings: dict[str, object]
) -> None:
    run = make_run(**settings)
    assert chosen_start(run.journal, run.settings) == SCRATCH


def sized(dataset: ImageDataset, image_size: int, num_images: int) -> ImageDataset:
    indices = torch.zeros(num_images, dtype=torch.int64)
    return replace(dataset, image_size=image_size, train=replace(dataset.train, indices=indices, labels=indices))


def test_few_photographs_get_pretrained_weights_and_many_do_without(digits: ImageDataset) -> None:
    few, small, many = sized(digits, 224, 600), sized(digits, 64, 600), sized(digits, 224, MAX_IMAGES + 1)
    choices = [judge_start(LITE0, dataset) for dataset in (few, small, many)]
    assert [choice.name for choice in choices] == ["efficientnet-lite0", "scratch", "scratch"]
    assert "600 training photographs are few, and ImageNet-1k" in choices[0].reason
    assert "64 x 64 pixels are no photographs" in choices[1].reason and "20,001 training images" in choices[2].reason


def test_what_cannot_be_started_from_is_refused_at_once() -> None:
    with pytest.raises(UnknownNameError, match="unknown starting point 'lite0'"):
        require_start(RunSettings("digits", "cpu", 1.0, start="lite0"))
    with pytest.raises(InvalidValueError, match="has weights for space efficientnet-lite0, not for micro"):
        require_start(RunSettings("digits", "cpu", 1.0, start="efficientnet-lite0", space="micro"))
    require_start(RunSettings("digits", "cpu", 1.0, start="efficientnet-lite0"))


def test_runs_of_before_there_were_starting_points_go_on_from_scratch() -> None:
    stored = {name: value for name, value in RunSettings("digits", "cpu", 1.0).to_json().items() if name != "start"}
    assert RunSettings.from_json(stored).start == "scratch" and RunSettings("digits", "cpu", 1.0).start == "auto"
