import numpy as np
from local_searcher import neighbours, search

from hwautoml.testing.searchers import SearcherSuite, SyntheticRun


class TestLocal(SearcherSuite):
    searcher = "local"


def test_neighbours_are_other_networks() -> None:
    """One choice differs, and those that it switches on or off."""
    problem = SyntheticRun().problem()
    smallest = problem.space.smallest()
    found = neighbours(problem, smallest)
    differing = (np.array([problem.space.encode(a) for a in found]) != problem.space.encode(smallest)).sum(axis=1)
    assert len(found) > 20 and smallest not in found
    assert differing.min() == 1 and np.median(differing) == 1


def test_it_climbs() -> None:
    run = SyntheticRun()
    problem = run.problem(["accuracy"], max_evaluations=60)
    search(problem)
    accuracy = list(problem.values_of("accuracy").values())
    assert max(accuracy[40:]) > max(accuracy[:13])
