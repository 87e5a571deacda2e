"""Our own searchers pass the suite that ships for those of others."""

from hwautoml.testing.searchers import SearcherSuite


class TestSurrogate(SearcherSuite):
    searcher = "surrogate"


class TestNsga2(SearcherSuite):
    searcher = "nsga2"


class TestRandom(SearcherSuite):
    searcher = "random"
