import contextlib
import threading
import time

import numpy as np
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


N = 12
X = torch.linspace(-1, 1, 2 * N).view(1, N, 2)


def oracles(budget=None):
    """A meter, and a density of points (1, n, 2) that counts on it."""
    meter = Meter(budget=budget or Budget())
    density = LogDensity(lambda x: -x.pow(4).sum(-1), lambda x: -4 * x.pow(3))
    return meter, counted(Problem((2,), (1.0,), (density,)), meter, 1)[LogDensity]


def value(density):
    return lambda x: density.log_prob(x).sum()


def by_autograd(density):
    x = X.clone().requires_grad_()
    (score,) = torch.autograd.grad(value(density)(x), x, create_graph=True)
    torch.autograd.grad(score.sum(), x)


def of_the_score(density):
    x = X.clone().requires_grad_()
    density.score(x).sum().backward()


def in_forward_mode(density):
    with torch.autograd.forward_ad.dual_level():
        density.log_prob(torch.autograd.forward_ad.make_dual(X, X))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, in forward mode
@pytest.mark.parametrize(
    ("use", "log_prob", "score"),
    [
        (lambda p: p.score(X), 0, 1),
        (lambda p: torch.func.vmap(lambda y: p.score(y[None, None]))(X[0]), 0, 1),
        (lambda p: torch.func.vmap(lambda y: torch.func.vmap(lambda z: p.log_prob(z[None, None]))(y))(X), 1, 0),
        (lambda p: torch.func.vmap(torch.func.grad(lambda y: value(p)(y[None, None])))(X[0]), 1, 1),
        (lambda p: torch.func.grad(value(p))(X), 1, 1),
        (lambda p: torch.func.jacrev(value(p))(X), 1, 1),
        (lambda p: torch.func.jacfwd(value(p))(X), 1, 1),
        (lambda p: torch.func.jvp(p.log_prob, (X,), (X,)), 1, 1),
        (lambda p: torch.func.hessian(value(p))(X), 1, 2),
        (lambda p: torch.func.jacfwd(p.score)(X), 0, 2),
        (lambda p: torch.func.vmap(value(p))(X[:, :, None].transpose(0, 1).clone().requires_grad_()), 1, 1),
        (lambda p: torch.autograd.functional.jacobian(value(p), X, vectorize=True, strategy="forward-mode"), 1, 1),
        (lambda p: torch.autograd.functional.hessian(value(p), X), 1, 2),
        (in_forward_mode, 1, 1),
        (by_autograd, 1, 2),
        (of_the_score, 0, 2),
    ],
    ids=map(str, range(16)),
)
def test_each_order_of_derivative_of_each_point_counts_however_it_is_asked_for(use, log_prob, score):
    meter, density = oracles()
    use(density)
    assert meter.sampling == Counts(score=score * N, log_prob=log_prob * N)


def test_autograd_sees_the_same_numbers_through_a_counting_oracle():
    inner, results = lambda x: -x.pow(4).sum(-1), []
    for function in (inner, oracles()[1].log_prob):
        x = X.clone().requires_grad_()
        (score,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
        results.append((score, torch.autograd.grad(score.square().sum(), x)[0]))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "x", [X.transpose(0, 1), X[0], X.flatten(), X[..., :1], X.expand(3, N, 2), 1.0], ids=map(str, range(6))
)
def test_points_that_can_t_be_counted_are_refused(x):
    meter, density = oracles()
    for oracle in (density.score, density.log_prob):
        with pytest.raises(UserError, match=r"\(S, n, \.\.\.\) = \(1, n, 2\)"):
            oracle(x)
    assert meter.sampling == Counts()


@pytest.mark.parametrize("n", [-1, 2.5, True, "3", None, float("nan")])
def test_a_number_of_draws_that_is_none_is_refused(n):
    meter = Meter()
    draw = counted(Problem((2,), (1.0,), (TargetSamples(lambda n, rng: rng.normal(n, 2)),)), meter, 1)
    with pytest.raises(UserError, match="a whole number, 0 or more"):
        draw[TargetSamples].draw(n, Streams((0,)))
    with pytest.raises(UserError, match="1, those of the run"):
        draw[TargetSamples].draw(1, Streams((0, 1)))
    draw[TargetSamples].draw(np.int64(7), Streams((0,)))
    assert (meter.sampling.draw, type(meter.sampling.draw)) == (8, int)


def test_a_thread_of_the_method_trains_whenever_it_calls_and_its_budget_ends_the_run():
    meter, density = oracles(Budget(score_calls=2.5 * N))

    def call():
        thread = threading.Thread(target=density.score, args=(X,))
        thread.start()
        thread.join()

    with meter.running():
        call()
    call()  # while the runner judges
    density.score(X)  # this is sampling
    assert (meter.training.score, meter.sampling.score) == (2 * N, N)
    before, threading.excepthook = threading.excepthook, lambda _: None
    try:
        with pytest.raises(BudgetSpent, match="score calls"), meter.running():
            call()
    finally:
        threading.excepthook = before
    assert meter.training.score == 2 * N


def test_a_budget_that_a_method_swallows_ends_it_at_its_next_law():
    meter, density = oracles(Budget(score_calls=1))
    with pytest.raises(BudgetSpent), meter.running(), contextlib.suppress(BaseException):
        density.score(X)
    assert meter.training == Counts()
