from __future__ import annotations

import pytest

from hwautoml.testing.searchers import SyntheticRun


@pytest.fixture
def run() -> SyntheticRun:
    return SyntheticRun()
