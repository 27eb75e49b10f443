"""`check metric:NAME` finds each broken promise of a metric, and passes the ones that keep them."""

import math
from dataclasses import replace

import pytest
import torch

from gwfbench.check import metric as kit
from gwfbench.check.kit import OfMetric
from gwfbench.check.outcome import apply
from gwfbench.check.trial import Subject
from gwfbench.errors import UserError
from gwfbench.metrics import known
from gwfbench.protocol import Estimate, Metric, Need


def made(evaluate, **more):
    return Metric("mine", evaluate, points=200, source="none", needs=frozenset({Need.DRAW}), **more)


def gap(judged, shift=0.0, error=None):
    """Distance of the means, as one would write it."""
    x, y = judged.points, judged.reference(200)
    value = (x.mean(1) - y.mean(1)).norm(dim=-1) + shift
    spread = ((x.var(1) + y.var(1)).sum(-1) / x.shape[1]).sqrt()
    return Estimate(value, spread if error is None else torch.full_like(value, error), n=x.shape[1])


def in_place(judged):
    found = gap(judged)
    judged.points.mul_(2)
    return found


def luck(judged):
    found = gap(judged)
    return Estimate(found.value + 1e-3 * torch.rand(len(found.value)), found.se, found.n)


def batch(judged):
    found = gap(judged)
    return Estimate(found.value / found.value.max(), found.se, found.n)


def greedy(judged):
    """Takes the mean of the law from what any metric has kept, under a key of its own."""
    found = gap(judged)
    return Estimate(found.value + len(judged.kept.of_law), found.se, found.n)


def many(judged):
    found = gap(judged)
    return Estimate(found.value, found.se, n=1000)


BROKEN = {
    "gives a number for each seed": (many, lambda j: gap(j, math.nan), lambda j: 0.5),
    "tells the start from the truth": (lambda j: gap(j, 0.0), lambda _: Estimate(torch.ones(3), torch.ones(3), 9)),
    "twice is the same": (luck,),
    "leaves what it judges": (in_place,),
    "is the same after other metrics": (greedy,),
    "seeds do not see each other": (batch,),
    "standard error is large enough": (lambda j: gap(j, error=1e-4),),
}


SAYS = {  # in what is told of each
    "gives a number for each seed": "",
    "tells the start from the truth": "exact ",
    "twice is the same": "global random state",
    "leaves what it judges": "changed the points",
    "is the same after other metrics": "alone",
    "seeds do not see each other": "among others",
    "standard error is large enough": "values spread by",
}


@pytest.fixture(scope="module")
def task():
    return Subject.read("task", "gaussian")


def outcomes(metric, task):
    trial = kit.Trial(metric, task)
    return {check.name: apply(check, trial, "mine", "gaussian") for check in kit.CHECKS}


def test_a_good_one_passes(task):
    assert {one.status for one in outcomes(made(gap), task).values()} == {"passed"}


@pytest.mark.parametrize(("check", "number"), [(name, i) for name, them in BROKEN.items() for i in range(len(them))])
def test_each_broken_promise_is_found(task, check, number):
    evaluate = BROKEN[check][number]
    higher = check == "tells the start from the truth" and number == 0
    found = outcomes(made(evaluate, better="higher" if higher else "lower"), task)[check]
    assert found.status == "failed", found
    assert SAYS[check] in found.got
    assert found.expected
    assert found.fix


def test_every_check_has_a_broken_metric():
    assert set(BROKEN) == {check.name for check in kit.CHECKS}


def test_draws_alone_can_not_have_an_estimate(task):
    found = outcomes(Metric("mine", gap, 200, "none", frozenset({Need.ESTIMATE})), task)
    assert {one.status for one in found.values()} <= {"skipped", "passed"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(name for name, one in known().items() if one.law == "flow"))
def test_our_metrics_keep_their_promises(name):
    if known()[name].unavailable:
        pytest.skip(known()[name].unavailable)
    plan = OfMetric.read(name)
    assert plan.tasks
    done = list(replace(plan, tasks=plan.tasks[:1]).outcomes())
    failed = [one for one in done if one.status == "failed"]
    assert not failed, failed
    assert all(one.got for one in done if one.status == "skipped")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("metric:none",), "no metric 'none'"),
        (("metric:mmd", "--method", "ula"), "--task with a method or a metric"),
        (("metric:mmd", "--task", "nowhere"), "no task 'nowhere'"),
        (("metric:fid_digits", "--task", "gaussian"), "fid_digits"),
        (("metric:symkl_jko",), "exact JKO sequence"),
        (("metric",), "metric:NAME"),
    ],
)
def test_mistakes_are_told(cli, words, said):
    code, _, err = cli("check", *words)
    assert code == 2
    assert said in err


@pytest.mark.slow
def test_the_file_that_new_writes_passes(elsewhere):
    assert elsewhere("new", "metric", "my_metric")[0] == 0
    code, out, err = elsewhere("check", "metric:my_metric", "--plugin", "my_metric.py")
    assert code == 0, out + err
    assert ", 0 failed" in out


def test_a_task_that_it_can_not_judge_is_told():
    with pytest.raises(UserError, match="truth has no score"):
        OfMetric.read("ksd", ["images"])
