"""What every task and every method must pass, over the registry, with no exceptions by name: the kit of `check`."""

import math

import pytest

from gwfbench.check import method, plugin, task
from gwfbench.check.outcome import apply
from gwfbench.check.trial import Subject, Trial
from gwfbench.plugins import registry

PLUGINS = [each for kind in ("task", "method") for each in registry.plugins(kind).values()]
PAIRS = [(t, m) for t in PLUGINS for m in PLUGINS if (t.kind, m.kind) == ("task", "method") and registry.fits(t, m)]
SUBJECTS = {(each.kind, each.name): Subject(each, each.name) for each in PLUGINS}
TRIALS = {(t.name, m.name): Trial(SUBJECTS["task", t.name], SUBJECTS["method", m.name]) for t, m in PAIRS}


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A busy machine is no fault of a method."""
    monkeypatch.setattr(method, "GRACE", 100.0)


def beside():
    """Each method with one task where times are judged and one where the limit is, the first that fit."""
    for each in PLUGINS:
        partners = {}
        for t, m in PAIRS:
            if m is each:
                times = Trial(SUBJECTS["task", t.name], SUBJECTS["method", m.name]).problem((7,)).times
                partners.setdefault(math.isinf(times[-1]), (t, m))
        yield from partners.values()


def name(case):
    return case.name.replace(" ", "_")


def require(check, subject):
    outcome = apply(check, subject, "", "")
    assert outcome.status != "failed", f"{outcome.got}\n  expected: {outcome.expected}\n  fix: {outcome.fix}"
    if outcome.status == "skipped":
        pytest.skip(outcome.got)


def and_slow(check):
    return pytest.param(check, id=name(check), marks=[pytest.mark.slow] * (check.name == "stands alone"))


@pytest.mark.parametrize("check", [*map(and_slow, plugin.CHECKS)])
@pytest.mark.parametrize("each", PLUGINS, ids=name)
def test_plugin(each, check):
    require(check, SUBJECTS[each.kind, each.name])


@pytest.mark.parametrize("check", task.CHECKS, ids=name)
@pytest.mark.parametrize("each", [each for each in PLUGINS if each.kind == "task"], ids=name)
def test_task(each, check):
    require(check, SUBJECTS["task", each.name])


@pytest.mark.slow
@pytest.mark.parametrize("check", method.BOTH, ids=name)
@pytest.mark.parametrize(("t", "m"), PAIRS, ids=name)
def test_pair(t, m, check):
    require(check, TRIALS[t.name, m.name])


@pytest.mark.slow
@pytest.mark.parametrize("check", method.CHECKS, ids=name)
@pytest.mark.parametrize(("t", "m"), list(beside()), ids=name)
def test_method(t, m, check):
    require(check, TRIALS[t.name, m.name])
