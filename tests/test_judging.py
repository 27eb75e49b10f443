"""Which metrics judge which laws, what they share, and runs that only some metrics have judged."""

import json
import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch

import gwfbench
from gwfbench.budget import Budget
from gwfbench.drive.controls import CONTROLS
from gwfbench.drive.execute import Setting, begin, execute
from gwfbench.drive.job import Job
from gwfbench.drive.judge import Judge, Seen
from gwfbench.drive.log import Log
from gwfbench.drive.meter import Counts
from gwfbench.errors import UserError
from gwfbench.info import Initial
from gwfbench.plugins import registry
from gwfbench.protocol import Drawn, Estimate, Instance, Metric, Problem, Pushed, Truth
from gwfbench.rng import Streams
from gwfbench.store import folders

SEEDS = (0, 3)


# ------------------------------------------------------------------------------------------------- what is shared


def judge_of(text, names=()):
    task, streams = registry.parse("task", text), Streams(SEEDS)
    job = Job(task, CONTROLS["exact_jko" if text.startswith("ou") else "exact"], SEEDS)
    instance = task.build(streams.fork("task"))
    return job, instance, Judge(job, instance, streams.fork("eval"), Log(), names)


def laws_of(instance, judge):
    """Two laws to be judged: of a limit both at its time, of a flow at its last two times."""
    last, path = len(instance.problem.times) - 1, [0.0, *instance.problem.times]
    for k in (1, 0):
        index = last if math.isinf(path[-1]) else last - k
        x = instance.truth.draw(index, 1200, Streams(SEEDS, path=f"/law/{k}")) * (1 + 0.1 * k)
        density, t = instance.truth.log_prob(index, x), None if math.isinf(path[-1]) else path[index + 1]
        seen = Seen(index + 1, t, index, x, density, 0.0, Counts(), 0.0, 0.0)
        field = partial(instance.truth.log_prob, index)
        yield (judge.look_back(seen, field) if judge.backward else seen), path


def values(rows):
    return {row.metric: (row.value, row.se, row.n) for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["ou:dim=3,horizon=0.15", "toy2d", "gmm:dim=2"])
def test_metrics_together_give_what_each_gives_alone(task):
    """To the last bit, at a law that is the second with this truth to compare with."""
    job, instance, judge = judge_of(task)
    found = [values(judge.judge(seen, path, begin(job, "env", None), judge.due(seen, last=True))[1])
             for seen, path in laws_of(instance, judge)]  # fmt: skip
    assert len(found[1]) == len(judge.chosen) >= 7
    for name in found[1]:
        job, instance, alone = judge_of(task, (name,))
        (metric,) = alone.chosen
        seen, path = list(laws_of(instance, alone))[1]
        assert values(alone.judge(seen, path, begin(job, "env", None), [metric])[1]) == {name: found[1][name]}


def test_what_a_law_shares_ends_with_it():
    made = []

    def evaluate(judged):
        judged.of_law("x", lambda: made.append("law"))
        judged.of_truth("y", lambda: made.append("truth"))
        return Estimate(torch.ones(2).double(), torch.ones(2).double(), 5)

    job, instance, judge = judge_of("ou:dim=3,horizon=0.15")
    one, other = (Metric(name, evaluate, 100, "") for name in ("one", "other"))
    judge.chosen[:] = [one, other, replace(one, name="few", points=50), replace(one, name="jko", law="jko")]
    judge._codes = dict.fromkeys(("one", "other", "few", "jko"), "")
    laws = list(laws_of(instance, judge))
    for seen, path in (laws[0], laws[0], laws[1]):
        judge.judge(seen, path, begin(job, "env", None), judge.chosen)
    # points: 100 and 50 of each law; truth: one for each metric and number of points, and anew for another time
    assert made.count("law") == 3 * 2
    assert made.count("truth") == 3 + 3 + 1 + 1 + 1  # flow metrics at two times, the JKO one at each of three laws


# ------------------------------------------------------------------------------------------------- which laws


def spread(name, at="each"):
    """A metric that any law has: the mean of |x|, by the name of its choice."""
    return Metric(name, lambda judged: Estimate(*judged.points.norm(dim=-1).double().mean(1).repeat(2, 1), 100), 100,
                  "", at=at)  # fmt: skip


@dataclass(frozen=True)
class Own:
    """N(0, I) in the plane, and metrics of its own."""

    times: tuple[float, ...] = (math.inf,)
    names: tuple[str, ...] = ("quick", "slow")

    offers, metrics, points, version = frozenset({Initial}), (), 100, 1

    def build(self, rng):
        start = Initial(lambda n, rng: rng.normal(n, 2))
        made = tuple(spread(name, "last" if name == "slow" else "each") for name in self.names)
        return Instance(Problem((2,), self.times, (start,)), Truth(None, exact=True, metrics=made))


@dataclass(frozen=True)
class Halves:
    """Pushes or draws laws whose scale is 1 / k; may stop with an error at the end."""

    laws: int = 12
    pushed: bool = True
    breaks: bool = False

    needs, clock, seeds, version, reference = frozenset({Initial}), "flow", "batched", 1, ""
    smoke = {}  # noqa: RUF012

    def fit(self, problem, budget, rng):
        limit = math.isinf(problem.times[-1])
        for k, t in enumerate([0.1 * k for k in range(1, self.laws + 1)] if limit else problem.times, 1):
            if self.pushed:
                yield Pushed(t, lambda x, noise, k=k: x * (max(k - 1, 1) / k))
            else:
                yield Drawn(t, lambda n, noise, k=k: noise.normal(n, 2) / k)
        if self.breaks:
            raise RuntimeError("boom")


def judged(task, who, judge=(), **settings):
    """Steps at which each metric has judged; and the run."""
    curve = settings.pop("curve", True)
    (run,) = execute(Job(task, who, (0,), **settings), Setting("env", curve=curve, judge=judge), lambda *_: None)
    steps = {}
    for row in run.rows:
        steps.setdefault(row.metric, []).append(row.step)
    return steps, run


@pytest.mark.parametrize("pushed", [True, False])
@pytest.mark.parametrize(
    ("laws", "end", "status"),
    [(12, {}, "ok"), (13, {}, "ok"), (12, {"breaks": True}, "error"), (30, {"budget": Budget(steps=10)}, "budget"),
     (30, {"budget": Budget(steps=11)}, "budget")],
)  # fmt: skip
def test_a_limit_s_slow_metrics_judge_the_law_with_which_the_run_ends(pushed, laws, end, status):
    budget = end.get("budget", Budget())
    steps, run = judged(Own(), Halves(laws, pushed, "breaks" in end), budget=budget)
    last = budget.steps or laws
    assert run.status == status
    assert steps == {
        "quick": sorted({*range(1, min(last, 10) + 1), *([12] if last >= 12 else []), last}),
        "slow": [last],
    }
    by = {row.metric: row.value for row in run.rows if row.step == last}
    assert by["slow"] == by["quick"]  # the same points
    assert by["slow"] == pytest.approx(math.sqrt(math.pi / 2) / last, rel=0.3)
    seconds = [row.judge_seconds for row in run.rows]
    assert seconds == sorted(seconds)
    assert 0 < seconds[0] < seconds[-1] == run.judge_seconds


@dataclass(frozen=True)
class Many(Own):
    points = 10_000


@pytest.mark.parametrize("pushed", [True, False])
@pytest.mark.parametrize(
    ("judge", "count"), [((), 10_000), (("quick",), folders.KEPT), (("quick", "w2"), folders.KEPT)]
)
def test_who_is_judged_by_a_few_points_moves_no_more(pushed, judge, count, monkeypatch):
    seen, of = [], Judge.judge

    def watched(self, law, *rest):
        seen.append(law.points.shape[1])
        return of(self, law, *rest)

    monkeypatch.setattr(Judge, "judge", watched)
    steps, _ = judged(Many(), Halves(3, pushed), judge)
    assert steps["quick"] == [1, 2, 3]
    assert set(seen) == {count}


def test_a_metric_of_all_points_gets_all_of_them(monkeypatch):
    _, _, judge = judge_of("gaussian", ("kl", "w2"))
    assert judge.count(100_000) == 65_536
    assert judge_of("gaussian", ("moments_mean",))[2].count(100_000) == 100_000
    assert judge_of("gaussian")[2].count(100_000) == 100_000


def test_a_flow_s_slow_metrics_judge_its_last_time_alone():
    task = Own(times=(0.1, 0.2, 0.3))
    assert judged(task, Halves())[0] == {"quick": [1, 2, 3], "slow": [3]}
    steps, run = judged(task, Halves(), budget=Budget(steps=2))
    assert run.status == "budget"
    assert steps == {"quick": [1, 2]}


def test_the_first_metric_and_those_asked_for_judge_each_law():
    task = Own(times=(0.1, 0.2))
    assert judged(replace(task, names=("slow", "quick")), Halves())[0] == {"slow": [1, 2], "quick": [1, 2]}
    steps, run = judged(task, Halves(), judge=("slow",))
    assert steps == {"slow": [1, 2]}
    assert run.judge == ("slow",)
    assert judged(Own(), Halves(3), judge=("slow",))[0] == {"slow": [1, 2, 3]}
    assert judged(Own(), Halves(3), judge=("slow",), curve=False)[0] == {"slow": [3]}


@pytest.mark.parametrize("pushed", [True, False])
@pytest.mark.parametrize(("asked", "dense"), [(None, 70_000), (66_000, 66_000), (500, folders.KEPT)])
def test_densities_are_computed_where_a_metric_asks_for_them_or_they_are_kept(pushed, asked, dense):
    """Scale 1/2 and 1/3: the log-density at x is that of N(0, I) at 3 x, and 2 log 3."""
    seen, densities = [], []
    evaluate = lambda judged: seen.append(judged) or Estimate(*torch.zeros(2, 1).double(), 1)  # noqa: E731
    metric = Metric("dense", evaluate, asked, "", needs=frozenset({"log_prob"}))
    start = Initial(lambda n, rng: rng.normal(n, 2), lambda x: -0.5 * x.square().sum(-1))

    def density(x, scale):
        densities.append(x.shape[1])
        return torch.full(x.shape[:2], -2 * math.log(scale)) if pushed else -0.5 * (x / scale).square().sum(-1)

    @dataclass(frozen=True)
    class Many(Own):
        points = 70_000

        def build(self, rng):
            return Instance(Problem((2,), (0.1, 0.2), (start,)), Truth(None, exact=True, metrics=(metric,)))

    @dataclass(frozen=True)
    class Dense(Halves):
        def fit(self, problem, budget, rng):
            for k, t in enumerate(problem.times, 2):
                if pushed:
                    ratio = (k - 1) / k
                    yield Pushed(t, lambda x, noise: x * ratio, lambda x: density(x, 1 / ratio))  # noqa: B023
                else:
                    yield Drawn(t, lambda n, noise: noise.normal(n, 2) / k, lambda x: density(x, 1 / k))  # noqa: B023

    judged(Many(), Dense())
    assert sum(densities) == 2 * dense
    points, log_prob = seen[1].points, seen[1].log_prob
    assert points.shape[1] == log_prob.shape[1] == (asked or 70_000)
    volume = 2 * math.log(3) if pushed else 0.0
    torch.testing.assert_close(log_prob, -0.5 * (3 * points).square().sum(-1) + volume)


# ------------------------------------------------------------------------------------------------- --judge

OU = {"task": "ou:dim=2,horizon=0.15", "method": "ula:step=0.05", "seeds": 1, "isolate": False}
ALL = {"symkl", "symkl_debiased", "kl", "bures_w2", "sliced_w2", "w2"}


def attempts(out):
    return [(run.identity.method, run.judge) for run in folders.attempts(out)[0]]


@pytest.mark.slow
def test_a_run_judged_by_some_metrics_is_no_whole_one(tmp_path):
    def go(**how):
        return gwfbench.run(**OU, out=tmp_path, controls=False, **how)

    part = go(judge="w2")
    assert list(zip(part["metric"], part["t"], strict=True)) == [("w2", 0.05), ("w2", 0.1), ("w2", 0.15)]
    with pytest.warns(UserWarning, match="1 runs were judged by the metrics of --judge alone"):
        assert set(gwfbench.load(tmp_path)["metric"]) == {"w2"}
    go(judge=["w2"])
    assert attempts(tmp_path) == [("ula:step=0.05", ("w2",))]
    whole = go()
    assert attempts(tmp_path) == [("ula:step=0.05", ("w2",)), ("ula:step=0.05", ())]
    assert set(whole["metric"]) == ALL - {"kl"}
    last = whole[whole["metric"] == "w2"]
    assert last["t"].tolist() == [0.15]
    assert last["value"].tolist() == part["value"].tolist()[-1:]
    go(judge=["symkl", "bures_w2"])  # the whole one has them at each law
    assert len(attempts(tmp_path)) == 2
    again = go(judge="w2")
    assert again["value"].tolist() == part["value"].tolist()
    assert len(attempts(tmp_path)) == 2
    go(judge="w2", force=True)  # the newest attempt of all, and hides none
    assert len(attempts(tmp_path)) == 3
    assert set(gwfbench.load(tmp_path)["metric"]) == ALL - {"kl"}
    assert set(go()["metric"]) == ALL - {"kl"}
    assert len(attempts(tmp_path)) == 3


def test_controls_are_judged_once_under_one_folder(tmp_path):
    """Whatever the methods of later commands, their budgets, and the metrics that are asked for."""
    gwfbench.run(**OU, out=tmp_path)
    gwfbench.run(**OU | {"method": "ula:step=0.025"}, out=tmp_path, budget="steps=3")
    gwfbench.run(**OU, out=tmp_path, judge="symkl")
    count = Counter(method for method, _ in attempts(tmp_path))
    assert count == {"exact": 1, "exact_jko": 1, "still": 1, "ula:step=0.05": 1, "ula:step=0.025": 1}


def test_what_no_metric_can_judge_is_skipped_before_it_trains(tmp_path):
    rows = gwfbench.run(**OU, out=tmp_path, judge="symkl_jko")
    found = {method: (set(part["status"]), set(part["reason"])) for method, part in rows.groupby("method")}
    why = "none of symkl_jko can judge it; log.txt says why"
    assert found["exact"] == found["ula:step=0.05"] == ({"skipped"}, {why})
    assert found["exact_jko"] == ({"ok"}, {""})


@pytest.mark.parametrize("judge", ["nonsense", "c2st,mode_coverage"])
def test_metrics_that_a_task_does_not_know_are_refused(judge, tmp_path):
    with pytest.raises(UserError, match="metric of ou"):
        gwfbench.run(**OU, out=tmp_path, judge=judge)
    assert not attempts(tmp_path)


def test_a_plan_leaves_the_metrics_to_exec(tmp_path, cli):
    words = ["--task", OU["task"], "--method", OU["method"], "--seeds", "1", "--no-controls"]
    plan, out = str(tmp_path / "plan.jsonl"), str(tmp_path / "runs")
    code, _, err = cli("run", *words, "--plan", plan, "--judge", "symkl")
    assert code == 2
    assert "give --judge to `exec`" in err
    assert cli("run", *words, "--plan", plan)[0] == 0
    code, text, _ = cli("exec", plan, "--judge", "bures_w2", "--out", out, "--no-isolate", "--format", "json")
    assert code == 0
    assert {json.loads(line)["metric"] for line in text.splitlines()} == {"bures_w2"}
    code, text, _ = cli("exec", plan, "--out", out, "--no-isolate", "--format", "json")
    assert {json.loads(line)["metric"] for line in text.splitlines()} == ALL - {"kl"}
