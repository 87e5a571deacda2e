"""Baseline: NSGA-II (Deb et al. 2002) as pymoo implements it, on option indices."""

from __future__ import annotations

import numpy as np

from hwautoml.searchers.problem import SearchProblem

POPULATION = 16


def search(problem: SearchProblem) -> None:
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    space = problem.space
    algorithm = NSGA2(
        pop_size=POPULATION,
        sampling=IntegerRandomSampling(),
        crossover=UniformCrossover(repair=RoundingRepair()),
        mutation=PM(prob=1.0, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    algorithm.setup(
        Problem(n_var=len(space.choices), n_obj=2, n_ieq_constr=1, xl=0, xu=space.num_options - 1, vtype=int),
        seed=int(problem.rng.integers(2**31)),
        verbose=False,
    )
    stalled = 0
    while not problem.is_over and stalled < 20:
        before = problem.num_evaluated
        offspring = algorithm.ask()
        for individual in offspring:
            architecture = space.decode(np.asarray(individual.X, dtype=np.int64))
            milliseconds = float(problem.latencies([architecture])[0][0])
            score = problem.scores.get(architecture, 0.0) if problem.is_over else problem.evaluate_once(architecture)
            individual.set("F", np.array([milliseconds, -score]))
            individual.set("G", np.array([milliseconds - problem.limit_ms]))
        algorithm.tell(infills=offspring)
        stalled = stalled + 1 if problem.num_evaluated == before else 0
