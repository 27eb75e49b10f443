"""Methods that try to have more of an oracle than is counted, to see or change the judged points, or to break a file."""

import math
import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.drive.execute import Setting, execute
from gwfbench.drive.job import Job
from gwfbench.info import Initial, LogDensity, TargetSamples
from gwfbench.protocol import Drawn, Instance, Problem, Pushed, Truth
from gwfbench.store import folders

N = 40


@dataclass(frozen=True)
class Small:
    """N(0, 16 I) to N(0, I) in the plane, judged at t = 0.1 and 0.2."""

    offers = frozenset({Initial, LogDensity, TargetSamples})
    metrics = ("symkl",)
    points, version = 500, 1

    def build(self, rng):
        def moments(index):
            return torch.zeros(len(rng.seeds), 2).double(), torch.eye(2).double().expand(len(rng.seeds), 2, 2)

        infos = (
            Initial(lambda n, noise: 4 * noise.normal(n, 2)),
            LogDensity(lambda x: -0.5 * x.square().sum(-1), lambda x: -x),
            TargetSamples(lambda n, noise: noise.normal(n, 2)),
        )
        truth = Truth(lambda index, n, noise: noise.normal(n, 2), exact=True, moments=moments)
        return Instance(Problem((2,), (0.1, 0.2), infos), truth)


def method(body):
    @dataclass(frozen=True)
    class Attack:
        needs = frozenset({Initial, LogDensity})
        clock, seeds, version, reference = "flow", "batched", 1, ""
        smoke = {}  # noqa: RUF012

        def fit(self, problem, budget, rng):
            yield from body(problem, budget, rng)

    return Attack()


def still(x, noise):
    return x


def run(body, out=None, seeds=(0,), budget=None):
    job = Job(Small(), method(body), seeds, budget=budget or Budget())
    return execute(job, Setting("env", out), lambda *_: None)


def after(ask, n=N):
    """A method that asks first, then does its duty."""

    def body(problem, budget, rng):
        ask(problem, rng, torch.randn(len(rng.seeds), n, 2))
        yield Pushed(0.1, still)
        yield Pushed(0.2, still)

    return body


def in_threads(problem, rng, x):
    threads = [threading.Thread(target=problem[LogDensity].score, args=(part,)) for part in x.split(4, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def one_by_one(function, problem, x):
    return torch.func.vmap(lambda p: function(problem)(p[None, None]))(x[0])


SCORES = {
    "plain": lambda problem, rng, x: problem[LogDensity].score(x),
    "vmap": lambda problem, rng, x: one_by_one(lambda p: p[LogDensity].score, problem, x),
    "vmap of vmap": lambda problem, rng, x: torch.func.vmap(
        torch.func.vmap(lambda p: problem[LogDensity].score(p[None, None]))
    )(x),
    "threads": in_threads,
    "expanded": lambda problem, rng, x: problem[LogDensity].score(x[:, :1].expand(-1, N, -1)),
    "jacfwd": lambda problem, rng, x: torch.func.jacfwd(lambda y: problem[LogDensity].log_prob(y).sum())(x),
    "jacrev": lambda problem, rng, x: torch.func.jacrev(lambda y: problem[LogDensity].log_prob(y).sum())(x),
    "grads": lambda problem, rng, x: torch.func.vmap(
        torch.func.grad(lambda p: problem[LogDensity].log_prob(p[None, None]).sum())
    )(x[0]),
    "jvp": lambda problem, rng, x: torch.func.jvp(problem[LogDensity].log_prob, (x,), (x,)),
    "autograd": lambda problem, rng, x: problem[LogDensity].log_prob(x.requires_grad_()).sum().backward(),
}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("how", SCORES)
def test_however_scores_are_asked_for_they_count_and_a_budget_holds(how):
    (ended,) = run(after(SCORES[how]))
    assert ended.status == "ok", ended.reason
    assert ended.rows[-1].score_calls == N
    assert ended.rows[-1].sample_calls == 0
    before, threading.excepthook = threading.excepthook, lambda _: None  # a thread that a budget ends says so
    try:
        (ended,) = run(after(SCORES[how]), budget=Budget(score_calls=N - 1))
    finally:
        threading.excepthook = before
    assert (ended.status, ended.steps) == ("timeout", 0)


SHAPES = {
    "transposed": lambda problem, rng, x: problem[LogDensity].score(x.transpose(0, 1)),
    "points as seeds": lambda problem, rng, x: problem[LogDensity].log_prob(x.view(-1, 1, 2)),
    "no seeds": lambda problem, rng, x: problem[LogDensity].score(x[0]),
    "a further dimension": lambda problem, rng, x: problem[LogDensity].score(x.view(len(x), 4, -1, 2)),
    "one for all seeds": lambda problem, rng, x: problem[LogDensity].score(x[:1]),
    "other streams": lambda problem, rng, x: problem[TargetSamples].draw(1, type(rng)(tuple(range(N)))),
    "negative": lambda problem, rng, x: problem[TargetSamples].draw(-5, rng),
    "half": lambda problem, rng, x: problem[TargetSamples].draw(0.5, rng),
    "a word": lambda problem, rng, x: problem[LogDensity].score("x"),
}


@pytest.mark.parametrize("how", SHAPES)
def test_what_can_t_be_counted_is_an_error_with_the_line(how, tmp_path):
    ended, _ = run(after(SHAPES[how]), tmp_path, seeds=(0, 1))
    assert ended.status == "error"
    assert ended.reason.startswith("UserError: ")
    assert "expected: " in ended.reason
    assert "fix: " in ended.reason
    assert "(test_oracles.py:" in ended.reason
    assert len(folders.attempts(tmp_path)[0]) == 2


def test_a_thread_that_works_while_the_runner_judges_trains():
    stop = threading.Event()

    def body(problem, budget, rng):
        def work():
            while not stop.wait(0.001):
                problem[LogDensity].score(torch.zeros(1, 1, 2))

        thread = threading.Thread(target=work)
        thread.start()
        yield Pushed(0.1, still)
        stop.wait(0.05)
        yield Pushed(0.2, still)
        stop.set()
        thread.join()

    try:
        (ended,) = run(body)
    finally:
        stop.set()
    assert ended.rows[-1].score_calls > 5
    assert ended.rows[-1].sample_calls == 0


def test_work_before_the_generator_begins_is_on_the_clock_and_counts():
    def body(problem, budget, rng):
        yield Pushed(0.1, still)
        yield Pushed(0.2, still)

    class Early(type(method(body))):
        def fit(self, problem, budget, rng):
            problem[LogDensity].score(torch.zeros(1, N, 2))
            return body(problem, budget, rng)

    (ended,) = execute(Job(Small(), Early(), (0,)), Setting("env"), lambda *_: None)
    assert ended.rows[0].score_calls == N


def test_what_a_method_does_to_the_points_that_it_is_given_changes_nothing():
    kept = []

    def spoils(x, noise):
        kept.append(x)
        moved = x / 2
        x.fill_(math.nan)
        return moved

    def density(x):
        x.zero_()
        return torch.zeros(x.shape[:2])

    def pushes(problem, budget, rng):
        yield Pushed(0.1, spoils)
        for x in kept:
            x.zero_()
        yield Pushed(0.2, spoils)

    def honest(problem, budget, rng):
        yield Pushed(0.1, lambda x, noise: x / 2)
        yield Pushed(0.2, lambda x, noise: x / 2)

    def draws(problem, budget, rng):
        x = rng.normal(500, 2)
        yield Drawn(0.1, lambda n, noise: x, density, limit=500)
        x.zero_()
        yield Drawn(0.2, lambda n, noise: noise.normal(n, 2), density)

    assert [row.value for row in run(pushes)[0].rows] == [row.value for row in run(honest)[0].rows]
    (ended,) = run(draws)
    assert ended.status == "ok"
    assert all(0 < row.value < 0.1 for row in ended.rows)


NUMBERS = {
    "numpy time": (np.float32(0.1), "ok"),
    "tensor time": (torch.tensor(0.1), "ok"),
    "text": ("0.1", "error"),
    "nan": (math.nan, "error"),
    "inf": (math.inf, "error"),
    "numpy inf": (np.float64("inf"), "error"),
    "negative": (-0.1, "error"),
    "nothing": (None, "error"),
    "true": (True, "error"),
    "complex": (0.1j, "error"),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_time_is_a_number_or_an_error_and_the_folder_can_be_read(name, tmp_path):
    t, status = NUMBERS[name]

    def body(problem, budget, rng):
        problem[TargetSamples].draw(np.int64(5), rng)
        yield Drawn(t, lambda n, noise: noise.normal(n, 2), limit=np.int32(500))
        yield Drawn(0.2, lambda n, noise: noise.normal(n, 2))

    (ended,) = run(body, tmp_path)
    assert ended.status == status
    assert status == "ok" or ("expected" in ended.reason and "(test_oracles.py:" in ended.reason)
    (kept,), strange = folders.attempts(tmp_path)
    assert (kept.status, kept.rows, strange) == (ended.status, ended.rows, [])


@pytest.mark.parametrize("text", ["\ud800", "\x1b[2J\x00\r", "x" * 10**6, "\u202e"])
def test_whatever_an_error_says_its_folder_can_be_read(text, tmp_path):
    def body(problem, budget, rng):
        yield Pushed(0.1, still)
        raise RuntimeError(text)

    (ended,) = run(body, tmp_path)
    (kept,), strange = folders.attempts(tmp_path)
    assert (kept.status, kept.reason, strange) == ("error", ended.reason, [])
    assert len(kept.reason) <= 2000


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, BaseException, StopAsyncIteration])
def test_no_exception_of_a_method_goes_further_than_its_run(error, tmp_path):
    def body(problem, budget, rng):
        yield Pushed(0.1, still)
        raise error

    (ended,) = run(body, tmp_path)
    assert (ended.status, len(ended.rows)) == ("error", 1)


def test_a_clock_that_a_method_turns_back_is_not_ours(monkeypatch):
    import time

    def body(problem, budget, rng):
        monkeypatch.setattr(time, "perf_counter", lambda: -1e9)
        yield Pushed(0.1, still)
        yield Pushed(0.2, still)

    (ended,) = run(body)
    assert ended.status == "ok"
    assert ended.seconds >= 0


def test_global_generators_give_each_run_numbers_of_its_own_and_the_same_again():
    import random

    def body(problem, budget, rng):
        shift = torch.rand(1).item() + np.random.rand() + random.random()  # noqa: NPY002
        yield Pushed(0.1, lambda x, noise: x + shift)
        yield Pushed(0.2, still)

    before = torch.get_rng_state(), random.getstate()
    values = [run(body, seeds=(seed,))[0].rows[-1].value for seed in (0, 1, 2, 0)]
    assert values[0] == values[3]
    assert len(set(values)) == 3
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
