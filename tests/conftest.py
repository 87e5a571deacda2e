"""One thread for the algebra of all tests and of the processes they start.

Their matrices are small, and threads that share a busy core wait for each other: it is many times slower.
This must come before numpy and torch are imported; whoever wants threads sets the variables himself, and
a test about threads asks for them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# How long an example takes is the machine's business.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

#: Tests in these files measure, all of them on the last core: where tests share cores, never two at once.
MEASURING = (
    "test_baseline.py",
    "test_benching.py",
    "test_layer_profiler.py",
    "test_local.py",
    "test_profiling.py",
    "test_screening.py",
    "test_serving.py",
    "test_side_by_side.py",
)

PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def published_file() -> Callable[[str], Path]:
    """Path of a file of published latencies by its name; skips where the data is not at hand."""

    def find(name: str) -> Path:
        if not (PUBLISHED / name).is_file():
            pytest.skip(f"needs ../shared/data/{name}, which does not come with the repository")
        return PUBLISHED / name

    return find


@pytest.fixture(autouse=True)
def measuring_alone(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.path.name not in MEASURING:
        yield
        return
    with (request.config.cache.mkdir("measuring") / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
