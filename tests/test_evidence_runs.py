"""Densities of laws anywhere, and their own log Z, from the method to the row; and the sandwich on a board."""

import math
import os
import signal
from dataclasses import dataclass, replace

import pandas as pd
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from gwfbench.drive import checkpoint
from gwfbench.drive.controls import CONTROLS
from gwfbench.drive.execute import Setting, execute
from gwfbench.drive.job import Job
from gwfbench.drive.log import Log
from gwfbench.drive.points import Cloud
from gwfbench.info import Initial, LogDensity
from gwfbench.nn.mlp import ResidualLinear
from gwfbench.plugins import registry
from gwfbench.protocol import Drawn, Problem, Pushed
from gwfbench.report.board.leaderboard import alarms, boards
from gwfbench.rng import Streams

DOUBLE = {"dtype": torch.float64}
NAMES = ("log_z", "elbo", "eubo", "ess_reverse", "ess_forward")
TURN = torch.tensor([[0.8, 0.3], [-0.2, 1.5]])
SHIFT = torch.tensor([0.4, -1.0])
LOG_DET = float(torch.linalg.slogdet(TURN).logabsdet)


def normal(x):
    return -0.5 * x.square().sum(-1) - math.log(2 * math.pi)


def affine(t, inverse=True, log_det=True):
    """x -> x A + b."""
    return Pushed(
        t,
        lambda x, noise: x @ TURN.to(x) + SHIFT.to(x),
        (lambda x: torch.full(x.shape[:2], LOG_DET, dtype=x.dtype)) if log_det else None,
        (lambda y: (y - SHIFT.to(y)) @ torch.linalg.inv(TURN.to(y))) if inverse else None,
    )


def method(laws=3, drawn=False, inverse=True, log_z=None, density=None):
    """Some affine pushes; or draws of N(0, I), with what is asked for."""

    @dataclass(frozen=True)
    class Method:
        needs, clock, seeds, version, reference = frozenset({Initial, LogDensity}), "flow", "batched", 1, ""
        smoke = {}  # noqa: RUF012

        def fit(self, problem, budget, rng):
            for k in range(1, laws + 1):
                if drawn:
                    field = density and (lambda x: density(problem, x))
                    yield Drawn(float(k), lambda n, noise: noise.normal(n, 2), field, log_z=log_z)
                else:
                    yield affine(float(k), inverse)

    return Method()


def judged(who, seeds=(0, 1), **settings):
    job = Job(registry.parse("task", "gaussian"), who, seeds, **settings)
    log = Log()
    runs = execute(job, Setting("env", judge=NAMES), lambda *_: None, log)
    return runs, log.getvalue()


def last(run):
    step = max(row.step for row in run.rows)
    return {row.metric: row for row in run.rows if row.step == step}


def targets(seeds=(0, 1)):
    """The target of each seed, and log Z."""
    task, streams = registry.parse("task", "gaussian"), Streams(seeds)
    truth = task.build(streams.fork("task/gaussian")).truth
    laws = [MultivariateNormal(m, c) for m, c in zip(*truth.moments(0), strict=True)]
    return laws, float(truth.log_z[0][0])


def law_of(steps):
    mean, root = torch.zeros(2, **DOUBLE), torch.eye(2, **DOUBLE)
    for _ in range(steps):
        mean, root = mean @ TURN.double() + SHIFT.double(), root @ TURN.double()
    return MultivariateNormal(mean, root.T @ root)


def test_a_pushed_law_has_its_density_anywhere():
    problem = Problem((2,), (math.inf,), (Initial(lambda n, rng: rng.normal(n, 2), normal),))
    cloud, streams, y = Cloud(), Streams((0,), **DOUBLE), 3 * Streams((5,), **DOUBLE).normal(50, 2)
    for step in (1, 2, 3):
        points, log_prob = cloud.push(affine(step), step, 200, 200, problem, streams)
        expected = law_of(step).log_prob
        torch.testing.assert_close(cloud.density(y), expected(y), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(cloud.density(points), log_prob)
    before = cloud.density
    cloud.push(affine(4, inverse=False), 4, 200, 200, problem, streams)
    assert cloud.density is None
    torch.testing.assert_close(before(y), law_of(3).log_prob(y), rtol=1e-6, atol=1e-6)
    cloud.push(affine(5), 5, 200, 200, problem, streams)
    assert cloud.density is None  # one that is missing stays missing


def test_a_law_pushed_from_a_checkpoint_or_an_unknown_density_has_none():
    problem = Problem((2,), (math.inf,), (Initial(lambda n, rng: rng.normal(n, 2)),))
    cloud = Cloud()
    cloud.push(affine(1), 1, 200, 200, problem, Streams((0,)))
    assert cloud.density is None
    restored = Cloud(torch.zeros(1, 200, 2), torch.zeros(1, 200))
    restored.push(affine(2), 2, 200, 200, problem, Streams((0,)))
    assert restored.density is None


def test_both_bounds_of_a_pushed_law_are_those_of_its_gaussian():
    runs, _ = judged(method())
    goals, log_z = targets()
    for run, goal in zip(runs, goals, strict=True):
        assert {row.step for row in run.rows} == {1, 2, 3}
        assert {row.metric for row in run.rows} == set(NAMES)
        for step in (1, 2, 3):
            by = {row.metric: row for row in run.rows if row.step == step}
            law = law_of(step)
            for name, value in (
                ("elbo", log_z - kl_divergence(law, goal)), ("eubo", log_z + kl_divergence(goal, law))
            ):  # fmt: skip
                assert abs(by[name].value - float(value)) < 5 * by[name].se
            assert by["eubo"].n == by["ess_forward"].n == 2000


def test_a_law_without_an_inverse_has_the_reverse_half_alone():
    runs, _ = judged(method(inverse=False))
    assert all(run.status == "ok" for run in runs)
    assert {row.metric for row in runs[0].rows} == {"log_z", "elbo", "ess_reverse"}


def test_the_controls():
    goals, log_z = targets()
    for run in judged(CONTROLS["exact"])[0]:
        by = last(run)
        assert {row.role for row in by.values()} == {"floor"}
        assert [by[name].value for name in NAMES] == pytest.approx([0, log_z, log_z, 1, 1], abs=1e-5)
    for run, goal in zip(judged(CONTROLS["still"])[0], goals, strict=True):
        by, law = last(run), law_of(0)
        assert {row.role for row in by.values()} == {"control"}
        assert abs(by["eubo"].value - log_z - float(kl_divergence(goal, law))) < 5 * by["eubo"].se
        assert by["elbo"].value < log_z - 10 * by["elbo"].se


def test_a_law_s_own_log_z_is_judged_without_a_density():
    _, log_z = targets()
    own = torch.tensor([log_z + 0.25, log_z - 0.5]), torch.tensor([0.1, math.nan])
    runs, _ = judged(method(drawn=True, log_z=own))
    assert [{row.metric for row in run.rows} for run in runs] == [{"log_z"}] * 2
    assert last(runs[0])["log_z"].value == pytest.approx(0.25, abs=1e-6)
    assert last(runs[0])["log_z"].se == pytest.approx(0.1, abs=1e-6)
    assert last(runs[1])["log_z"].value == pytest.approx(0.5, abs=1e-6)
    assert last(runs[1])["log_z"].se is None


@pytest.mark.parametrize(
    "wrong", [0.3, (torch.zeros(2),), (torch.zeros(2), torch.zeros(3)), (torch.zeros(2), -torch.ones(2)), "2.7"]
)
def test_a_log_z_that_is_none_is_refused(wrong):
    runs, _ = judged(method(drawn=True, log_z=wrong))
    assert {run.status for run in runs} == {"error"}
    assert "log_z" in runs[0].reason
    assert "fix: give two tensors" in runs[0].reason


def test_the_judge_s_calls_are_not_the_method_s():
    """A law whose density asks the oracle: 2000 draws more a law are not in `sample_calls`."""

    def density(problem, x):
        problem[LogDensity].score(x)
        return normal(x)

    runs, _ = judged(method(drawn=True, density=density))
    calls = [row.sample_calls for row in runs[0].rows if row.metric == "eubo"]
    assert calls == pytest.approx([1, 2, 3])  # no more points are drawn than these metrics take
    assert last(runs[0])["eubo"].score_calls == 0


def test_a_density_that_fails_at_draws_of_the_truth_costs_two_values_and_not_the_run():
    def density(problem, x):
        if x.shape[1] == 2000:
            raise ArithmeticError("inverse of grad psi: 0.3 off")
        return normal(x)

    runs, log = judged(method(1, drawn=True, density=density))
    assert {run.status for run in runs} == {"ok"}
    by = last(runs[0])
    assert by["eubo"].value is by["ess_forward"].value is None
    assert by["eubo"].worst == "not a number"
    assert by["elbo"].value is not None
    assert "no log-density at draws of the truth at step 1: ArithmeticError: inverse of grad psi: 0.3 off" in log


def test_a_density_of_another_shape_is_the_method_s_error():
    runs, _ = judged(
        method(1, drawn=True, density=lambda problem, x: normal(x)[:, :7] if x.shape[1] == 2000 else normal(x))
    )
    assert {run.status for run in runs} == {"error"}
    assert "its log_prob gave (2, 7)" in runs[0].reason


def test_a_linear_map_is_inverted():
    net = ResidualLinear(3, 8, 2, Streams((0, 1), **DOUBLE))
    x = Streams((0, 1), **DOUBLE).normal(50, 3)
    with torch.no_grad():
        torch.testing.assert_close(net.inverse(net(x)), x)
        assert (net(x) - x).abs().max() > 0.01


# ------------------------------------------------------------------------------------------------ the sandwich


def rows(method, elbo, eubo, se=0.01, role="method"):
    return [
        {
            "task": "gmm", "method": method, "seed": seed, "step": 1, "t": None, "metric": name, "better": better,
            "metric_version": 1, "role": role, "value": value, "se": se, "n": 2000, "seconds": 1.0, "status": "ok",
            "reason": "", "information": "LogDensity", "run_key": f"{method}{seed}", "attempt": "a", "law": "flow",
        }
        for seed in (0, 1, 2)
        for name, value, better in (("elbo", elbo + 1e-3 * seed, "higher"), ("eubo", eubo + 1e-3 * seed, "lower"))
    ]  # fmt: skip


def test_bounds_on_the_wrong_side_of_log_z_are_alarms():
    """log Z = 4.1, known to 0.01; the bounds to 0.01 under each of 3 seeds, so that their mean is to 0.008."""
    frame = pd.DataFrame([
        *rows("exact", 4.1, 4.1, role="floor"), *rows("still", 1.0, 9.0, role="control"), *rows("good", 3.9, 4.4),
        *rows("near", 4.12, 4.08), *rows("high", 4.2, 4.4), *rows("low", 3.9, 4.0),
    ])  # fmt: skip
    (board,) = boards(frame)
    verdicts = {line.method: [line.cells[name].verdict for name in ("elbo", "eubo")] for line in board.lines}
    assert verdicts["good"] == ["", ""]
    assert verdicts["near"] == ["floor", "floor"]
    assert verdicts["high"] == ["alarm", ""]
    assert verdicts["low"] == ["", "alarm"]
    assert sum("better than exact draws" in line for line in alarms([board])) == 2


def test_what_is_seen_goes_through_a_checkpoint(tmp_path):
    """The log-densities at the truth's draws and the law's own log Z, which a resumed run may still have to judge."""
    from gwfbench.drive.judge import Seen
    from gwfbench.drive.machine import Machine
    from gwfbench.drive.meter import Counts, Meter

    own = torch.tensor([1.0], **DOUBLE), torch.tensor([0.1], **DOUBLE)
    seen = Seen(1, None, 0, torch.zeros(1, 5, 2), None, 0.0, Counts(), 0.0, 0.0, torch.ones(1, 7), own)
    (run,), _ = judged(CONTROLS["exact"], (0,))
    content = checkpoint.of([run], [0.0, 1.0], {"k": 1}, Cloud(), seen, Meter(), Machine(torch.device("cpu")), Log())
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(checkpoint.packed(content, [{}]))
    back = checkpoint.load(file, torch.device("cpu")).seen
    assert torch.equal(back.forward, seen.forward)
    assert [torch.equal(*pair) for pair in zip(back.log_z, own, strict=True)] == [True, True]
    assert back.offers == seen.offers


STOP = [True]


@dataclass(frozen=True)
class Stopping:
    """Affine pushes, with the density anywhere; the process is interrupted after the second, once."""

    needs, clock, seeds, version, reference = frozenset({Initial, LogDensity}), "flow", "batched", 1, ""
    smoke = {}  # noqa: RUF012

    def fit(self, problem, budget, rng):
        return self.resume(problem, budget, rng, {"k": 0})

    def resume(self, problem, budget, rng, state):
        for k in range(state["k"] + 1, 5):
            yield replace(affine(float(k)), state=lambda k=k: {"k": k})
            if k == 2 and STOP.pop():
                os.kill(os.getpid(), signal.SIGTERM)


def test_what_a_resumed_run_of_pushes_can_not_judge_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    STOP[:] = [True]
    log, job = Log(), Job(registry.parse("task", "gaussian"), Stopping(), (0,))
    with pytest.raises(KeyboardInterrupt):
        execute(job, Setting("env", tmp_path, judge=NAMES), lambda *_: None, Log())
    STOP[:] = [False]
    (run,) = execute(job, Setting("env", tmp_path, judge=NAMES), lambda *_: None, log)
    assert (run.status, run.resumed) == ("ok", 1)
    assert {row.metric for row in run.rows if row.step == 2} == set(NAMES)
    assert {row.metric for row in run.rows if row.step == 4} == {"log_z", "elbo", "ess_reverse"}
    line = "eubo, ess_forward: not judged from here on: the maps before the restart are not kept\n"
    assert log.getvalue().count(line) == 1
