"""Baseline: NSGA-II (Deb et al. 2002) as pymoo implements it, on option indices."""

from __future__ import annotations

import numpy as np

from hwautoml.core.space import Architecture
from hwautoml.searchers.problem import SearchProblem, Values

POPULATION = 16
MAX_STALLED = 20  # generations without anything new
WORST = 1e12  # stands for NaN


def search(problem: SearchProblem) -> None:
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    space = problem.space
    limited = np.flatnonzero(np.isfinite(problem.limits))
    algorithm = NSGA2(
        pop_size=POPULATION,
        sampling=IntegerRandomSampling(),
        crossover=UniformCrossover(repair=RoundingRepair()),
        mutation=PM(prob=1.0, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    described = Problem(
        n_var=len(space.choices),
        n_obj=len(problem.objectives),
        n_ieq_constr=len(limited),
        xl=0,
        xu=space.num_options - 1,
        vtype=int,
    )
    algorithm.setup(described, seed=int(problem.rng.integers(2**31)), verbose=False)
    stalled = 0
    while not problem.is_over and stalled < MAX_STALLED:
        before = problem.num_evaluated
        offspring = algorithm.ask()
        for individual in offspring:
            values = _minimised(problem, space.decode(np.asarray(individual.X, dtype=np.int64)))
            individual.set("F", values)
            individual.set("G", (values - problem.limits)[limited])
        algorithm.tell(infills=offspring)
        stalled = stalled + 1 if problem.num_evaluated == before else 0


def _minimised(problem: SearchProblem, architecture: Architecture) -> Values:
    """(num_objectives,); what failed, or came after the end, is as bad as can be told: pymoo's sorting takes no NaN."""
    if problem.is_over and not problem.is_evaluated(architecture):
        values = problem.foreseen([architecture])[0]
    else:
        values = problem.signs * problem.evaluate_once(architecture)
    return np.where(np.isnan(values), WORST, values)
