"""Pareto local search: go on from a neighbour of what is best so far.

After Paquete, Chiarandini and Stützle, "Pareto local optimum sets in the biobjective traveling salesman problem", 2004.
"""

import numpy as np

from hwautoml.core.space import Architecture
from hwautoml.searchers.feasibility import nearest_to_limits
from hwautoml.searchers.problem import SearchProblem, front

NUM_STARTS = 12  # random networks, before neighbours are looked at
NUM_DRAWS = 50


def search(problem: SearchProblem) -> None:
    problem.evaluate_once(nearest_to_limits(problem))
    for _ in range(min(NUM_STARTS, problem.max_evaluations // 4)):
        evaluate_one_of(problem, [problem.space.sample(problem.rng) for _ in range(NUM_DRAWS)])
    while not problem.is_over:
        members = front(problem) or problem.evaluated
        order = problem.rng.permutation(len(members))
        if not any(evaluate_one_of(problem, neighbours(problem, members[i])) for i in order):
            return  # no neighbour within the limits is new


def evaluate_one_of(problem: SearchProblem, architectures: list[Architecture]) -> bool:
    """The first that is new and keeps the limits, as far as they can be told without evaluating it."""
    within = problem.is_within(problem.foreseen(architectures))
    for architecture, is_within in zip(architectures, within, strict=True):
        if is_within and not problem.is_over and not problem.is_evaluated(architecture):
            problem.evaluate_once(architecture)
            return True
    return False


def neighbours(problem: SearchProblem, architecture: Architecture) -> list[Architecture]:
    """All other networks that a change of one choice makes, in random order."""
    space = problem.space
    encoding = space.encode(architecture)
    moves = [(i, o) for i, number in enumerate(space.num_options) for o in range(number) if o != encoding[i]]
    found = []
    for move in problem.rng.permutation(len(moves)):
        index, option = moves[move]
        changed = np.array(encoding)
        changed[index] = option
        found.append(space.decode(changed))
    return [a for a in found if a != architecture]  # a choice may have no effect in this network
