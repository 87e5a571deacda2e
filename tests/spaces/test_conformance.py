"""Our own spaces against the suites that ship for authors of others."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hwautoml.core.elastic_space import ElasticSpace
from hwautoml.core.space import SearchSpace
from hwautoml.spaces.fbnet import FBNetSpace
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.spaces.nasbench201 import NasBench201Space
from hwautoml.spaces.ofa import OFASpace
from hwautoml.testing.spaces import ElasticSpaceSuite, SearchSpaceSuite


class TestMobile(ElasticSpaceSuite):
    @pytest.fixture(params=[(8, 1, 2), (32, 3, 10), (96, 3, 1)], ids=str)
    def space(self, request: pytest.FixtureRequest) -> ElasticSpace:
        return MobileSpace(*request.param)


class TestPublished(SearchSpaceSuite):
    @pytest.fixture(params=[NasBench201Space(), NasBench201Space(16, 3, 120), FBNetSpace()], ids=lambda s: s.name)
    def space(self, request: pytest.FixtureRequest) -> SearchSpace:
        return request.param


class TestLargePublished(SearchSpaceSuite):
    @pytest.fixture(params=[OFASpace(), OFASpace(width_multiplier=1.0)], ids=lambda s: s.name)
    def space(self, request: pytest.FixtureRequest) -> SearchSpace:
        return request.param


def test_the_suites_say_that_they_need_pytest() -> None:
    code = "import sys; sys.modules['pytest'] = None\nimport hwautoml.testing.spaces"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingDependencyError" in done.stderr and "fix: pip install pytest" in done.stderr
