"""Labelled images from a folder, a zip, an npz or a built-in set, split and ready for training.

Names load on first use, so that importing this room leaves torch and Pillow unloaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hwautoml.datasets.augment import Augment, default_augment
    from hwautoml.datasets.dataset import ImageDataset, SkippedImage
    from hwautoml.datasets.loading import load_dataset, require_source
    from hwautoml.datasets.split import Split
    from hwautoml.datasets.suspicious_labels import doubts

__all__ = [
    "Augment",
    "ImageDataset",
    "SkippedImage",
    "Split",
    "default_augment",
    "doubts",
    "load_dataset",
    "require_source",
]

_MODULE_OF = {
    "Augment": "augment",
    "default_augment": "augment",
    "ImageDataset": "dataset",
    "SkippedImage": "dataset",
    "load_dataset": "loading",
    "require_source": "loading",
    "Split": "split",
    "doubts": "suspicious_labels",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"hwautoml.datasets.{_MODULE_OF[name]}"), name)
