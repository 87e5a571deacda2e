"""What several tests of data sets need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwautoml.core.finding import Finding
from hwautoml.datasets import ImageDataset


def case(name: str) -> Path:
    """An input that people reported, where the machine has them."""
    folder = Path(os.environ.get("HWAUTOML_CASES", Path(__file__).parents[3] / "shared" / "cases")) / name / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set HWAUTOML_CASES to the folder of the reported cases")
    return folder


def finding(dataset: ImageDataset, kind: str) -> Finding:
    """The only one of its kind."""
    (found,) = [f for f in dataset.findings if f.kind == kind]
    return found
