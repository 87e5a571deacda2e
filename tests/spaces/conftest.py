from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def published_file() -> Callable[[str], Path]:
    """Path of a file of published latencies by its name; skips where the data is not at hand."""

    def find(name: str) -> Path:
        if not (DATA / name).is_file():
            pytest.skip(f"needs ../shared/data/{name}, which does not come with the repository")
        return DATA / name

    return find
