import time

import pytest
import torch

from gwfbench.budget import Budget, BudgetSpent
from gwfbench.drive.meter import Counts, Meter, counted
from gwfbench.errors import UserError
from gwfbench.info import Initial, LogDensity, TargetSamples
from gwfbench.protocol import Problem
from gwfbench.rng import Streams


def test_the_oracle_counts():
    meter = Meter()
    inner = LogDensity(lambda x: -x.square().sum(-1), lambda x: -2 * x)
    density = LogDensity(inner.log_prob, inner.score, batch=lambda rows, rng: inner)
    draw = TargetSamples(lambda n, rng: rng.normal(n, 2))
    start = Initial(lambda n, rng: rng.normal(n, 2), lambda x: x.sum(-1))
    problem = counted(Problem((2,), (1.0,), (start, density, draw)), meter, 3)
    x, rng = torch.zeros(3, 10, 2), Streams((0, 1, 2))
    problem[LogDensity].score(x)
    problem[LogDensity].log_prob(x)
    assert meter.sampling == Counts(score=10, log_prob=10)
    problem[LogDensity].log_prob(x.requires_grad_())  # autograd through it is a score
    assert meter.sampling == Counts(score=20, log_prob=20)
    with torch.no_grad():
        problem[LogDensity].log_prob(x)
    assert meter.sampling == Counts(score=20, log_prob=30)
    batch = problem[LogDensity].batch
    assert batch is not None
    batch(5, rng).score(x)
    problem[TargetSamples].draw(7, rng)
    problem[Initial].draw(100, rng)
    assert meter.sampling == Counts(score=30, log_prob=30, draw=7)
    assert meter.training == Counts()
    with meter.running():
        problem[TargetSamples].draw(7, rng)
    assert meter.training == Counts(draw=7)


@pytest.mark.parametrize("oracle", ["score", "log_prob", "draw"])
def test_an_oracle_ends_training_at_its_budget_and_never_judging(oracle):
    meter = Meter(budget=Budget(**{f"{oracle}_calls": 25}))
    density = LogDensity(lambda x: -x.square().sum(-1), lambda x: -2 * x)
    problem = counted(Problem((2,), (1.0,), (density, TargetSamples(lambda n, rng: rng.normal(n, 2)))), meter, 1)
    calls = {
        "score": lambda: problem[LogDensity].score(torch.zeros(1, 10, 2)),
        "log_prob": lambda: problem[LogDensity].log_prob(torch.zeros(1, 10, 2)),
        "draw": lambda: problem[TargetSamples].draw(10, Streams((0,))),
    }
    for _ in range(5):
        calls[oracle]()
    with meter.running():
        calls[oracle]()
        calls[oracle]()
    with (
        pytest.raises(BudgetSpent, match=f"the budget of 25 {oracle.replace('_', ' ')} calls was spent"),
        meter.running(),
    ):
        calls[oracle]()
    assert getattr(meter.training, oracle) == 20


def test_budgets_are_read_and_compared():
    budget = Budget.read("seconds=60, score_calls=1e6")
    assert budget == Budget(seconds=60, score_calls=1e6)
    assert Budget.of(budget.limits()) == budget
    assert Budget.read("") == Budget()


@pytest.mark.parametrize(
    "text", ["60", "second=60", "seconds=", "seconds=nan", "steps=inf", "steps=0", "steps=1,steps=2"]
)
def test_bad_budgets(text):
    with pytest.raises(UserError, match="a positive number: seconds, steps"):
        Budget.read(text)


def test_the_meter_runs_only_inside(monkeypatch):
    clock = iter((1.0, 1.5, 7.0, 7.25))
    monkeypatch.setattr("gwfbench.drive.meter.perf_counter", lambda: next(clock))
    meter = Meter()
    with meter.running():
        pass
    with meter.running():
        pass
    assert meter.seconds == 0.75


def test_the_budget_ends_even_a_loop_that_swallows_exceptions():
    meter = Meter(budget=Budget(seconds=0.2))

    def stubborn():
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                continue

    with pytest.raises(BudgetSpent), meter.running():
        stubborn()


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
