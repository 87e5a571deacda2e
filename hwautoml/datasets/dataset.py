"""The noun: labelled images of one size, split three ways."""

from __future__ import annotations

from dataclasses import dataclass, field

from hwautoml.core.finding import Finding
from hwautoml.core.pixel_rule import PixelRule
from hwautoml.core.shown import shown
from hwautoml.core.task import Task
from hwautoml.datasets.split import Split


@dataclass(frozen=True)
class SkippedImage:
    """A file that could not be used, and why."""

    path: str
    reason: str

    def __post_init__(self) -> None:
        """A name that is no UTF-8 would end the run when it is written down, at its end."""
        object.__setattr__(self, "path", shown(self.path))
        object.__setattr__(self, "reason", shown(self.reason))


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Square uint8 images and the ``task`` that says what their labels are.

    ``mean`` and ``std`` are per channel in [0, 1] units, from the training images. ``fingerprint`` identifies
    the content (labels' names, file names, bytes): the same for a folder and a zip of it, on every machine.
    ``pixel_rule`` made the images 8-bit and opaque; what ships has to apply it, too. ``findings``: what a person
    should know of the images, the worst first. ``files``: names of the store's images, by index.
    """

    name: str
    task: Task
    image_size: int
    channels: int
    train: Split
    val: Split
    test: Split
    skipped: tuple[SkippedImage, ...]
    fingerprint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixel_rule: PixelRule = field(default_factory=PixelRule)
    findings: tuple[Finding, ...] = ()
    files: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", shown(self.name))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the task's outputs: in classification, the classes that labels index."""
        return self.task.outputs
