import time

import pytest
import torch

from gwfbench.budget import Budget, BudgetSpent, Clock, Counts, counted
from gwfbench.info import Initial, LogDensity, TargetSamples
from gwfbench.protocol import Problem
from gwfbench.rng import Streams


def test_the_oracle_counts():
    counts = Counts()
    inner = LogDensity(lambda x: -x.square().sum(-1), lambda x: -2 * x)
    density = LogDensity(inner.log_prob, inner.score, batch=lambda rows, rng: inner)
    draw = TargetSamples(lambda n, rng: rng.normal(n, 2))
    start = Initial(lambda n, rng: rng.normal(n, 2), lambda x: x.sum(-1))
    problem = counted(Problem((2,), (1.0,), (start, density, draw)), counts)
    x, rng = torch.zeros(3, 10, 2), Streams((0, 1, 2))
    problem[LogDensity].score(x)
    problem[LogDensity].log_prob(x)
    assert counts == Counts(score=10, log_prob=10)
    problem[LogDensity].log_prob(x.requires_grad_())  # autograd through it is a score
    assert counts == Counts(score=20, log_prob=20)
    with torch.no_grad():
        problem[LogDensity].log_prob(x)
    assert counts == Counts(score=20, log_prob=30)
    batch = problem[LogDensity].batch
    assert batch is not None
    batch(5, rng).score(x)
    problem[TargetSamples].draw(7, rng)
    problem[Initial].draw(100, rng)
    assert counts == Counts(score=30, log_prob=30, draw=7)


def test_the_clock_runs_only_inside():
    clock = Clock(torch.device("cpu"), Budget())
    with clock.running():
        time.sleep(0.05)
    time.sleep(0.1)
    with clock.running():
        time.sleep(0.05)
    assert 0.1 <= clock.seconds < 0.15
    assert not clock.spent


def test_the_budget_ends_even_a_loop_that_swallows_exceptions():
    clock = Clock(torch.device("cpu"), Budget(seconds=0.2))

    def stubborn():
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                continue

    with pytest.raises(BudgetSpent), clock.running():
        stubborn()
    assert clock.spent
    assert clock.seconds < 1.0


def test_grid_hits_every_judged_time():
    problem = Problem((1,), tuple(0.05 * (k + 1) for k in range(18)), ())
    assert problem.grid(0.05, 7) == problem.times
    finer = problem.grid(0.02, 7)
    assert set(problem.times) <= set(finer)
    assert len(finer) == 54
    assert max(b - a for a, b in zip((0.0, *finer), finer, strict=False)) <= 0.02 + 1e-12
    assert Problem((1,), (float("inf"),), ()).grid(0.5, 3) == (0.5, 1.0, 1.5)


def test_a_missing_offer_says_so():
    with pytest.raises(KeyError, match="offers no LogDensity"):
        Problem((1,), (1.0,), ())[LogDensity]
