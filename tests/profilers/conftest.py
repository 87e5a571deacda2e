from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from hwautoml.devices.local import LocalDevice


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module ``tiny_profile.py``, which is a program of its own as well."""
    spec = importlib.util.spec_from_file_location("tiny_profile", Path(__file__).with_name("tiny_profile.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def device() -> Iterator[LocalDevice]:
    with LocalDevice("onnxruntime") as opened:
        yield opened
