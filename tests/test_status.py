"""`status` over attempts that are written here, so that nothing has to run."""

import json

import numpy as np
import pytest

from gwfbench.audit import status
from gwfbench.drive.job import Job
from gwfbench.runs.order import Order
from gwfbench.store import locks
from gwfbench.store.folders import Attempt
from gwfbench.store.record import Row, Run

pytestmark = pytest.mark.usefixtures("one_process")  # what they patch must be seen

POINT = Row(1, 0.05, "symkl", 1, "lower", "flow", "method", 0.1, 0.01, 10, 1.0, 5, 0, 0, 0.1, 2.0)


def keep(out, task="ou", method="ula", seed=0, code=None, budget=None, **end):
    words = {
        "task": task,
        "method": method,
        "seeds": [seed],
        "device": "cpu",
        "dtype": "float32",
        "budget": budget or {},
    }
    job = Job.read(words)
    run = Run(
        job.identity(seed), ("Initial",), code or job.code(), "env", f"2026-01-{seed + 1:02}", job.budget.limits()
    )
    attempt = Attempt(out, run)
    run.rows.append(POINT)
    attempt.judged(1, run.rows, np.ones((4, 2), dtype=np.float32))
    for name, value in ({"seconds": 3.0, "judge_seconds": 1.0} | end).items():
        setattr(run, name, value)
    attempt.finish(run, "")
    return run


def states(out, seeds="6", methods=("ula",), budget=""):
    jobs = Order.read(["ou"], methods, seeds, budget=budget, controls=False).jobs()
    return {(one.method, one.seed): one for one in status.survey(jobs, out)}


def test_every_state_is_told(tmp_path):
    keep(tmp_path, seed=0)
    keep(tmp_path, seed=1, status="diverged", reason="points are not finite")
    keep(tmp_path, seed=2, status="killed", reason="interrupted")
    keep(tmp_path, seed=3, code="0123")
    key = Order.read(["ou"], ["ula"], "4,", controls=False)
    (job,) = key.jobs()
    ours = locks.claim(tmp_path, job.identity(4).key)
    found = states(tmp_path)
    ours.release()
    assert [one.state for one in found.values()] == ["done", "failed", "killed", "stale", "running", "missing"]
    assert (found["ula", 1].status, found["ula", 1].reason) == ("diverged", "points are not finite")
    assert found["ula", 0].seconds == 4.0
    assert found["ula", 0].expected is None


def test_what_a_smaller_budget_cut_is_missing_and_a_larger_one_covers(tmp_path):
    keep(tmp_path, status="budget", reason="spent", budget={"steps": 5})
    assert states(tmp_path, "1", budget="steps=5")["ula", 0].state == "done"
    assert states(tmp_path, "1", budget="steps=4")["ula", 0].state == "done"
    cut = states(tmp_path, "1", budget="steps=6")["ula", 0]
    assert (cut.state, cut.reason) == ("missing", "its budget was smaller: spent")


def test_the_newest_attempt_by_today_s_code_counts(tmp_path):
    keep(tmp_path, code="0123")
    keep(tmp_path)
    assert states(tmp_path, "1")["ula", 0].state == "done"


def test_the_rest_is_estimated_from_the_same_pair_then_the_method_then_not_at_all(tmp_path):
    for seed, seconds in enumerate((9.0, 1.0, 5.0)):
        keep(tmp_path, seed=seed, seconds=seconds)
    keep(tmp_path, task="ou:dim=3", method="vjko", seconds=99.0)
    keep(tmp_path, task="ou:dim=3", method="ula", seconds=77.0)
    keep(tmp_path, method="vjko:lr=0.1", seed=1, seconds=500.0, status="error")
    found = states(tmp_path, "4", ("ula", "vjko", "vjko:lr=0.1"))
    assert found["ula", 3].expected == 6.0
    assert found["ula", 3].basis == "3 runs of ula on ou"
    assert (found["vjko", 0].expected, found["vjko", 0].basis) == (100.0, "1 run of vjko on other tasks")
    assert (found["vjko:lr=0.1", 0].expected, found["vjko:lr=0.1", 0].basis) == (None, "")


def test_the_command_takes_what_run_takes_a_plan_or_nothing(cli, tmp_path):
    out = tmp_path / "results/runs"
    keep(out)
    words = ["--task", "ou", "--method", "ula", "--no-controls"]
    code, text, err = cli("status", *words, "--seeds", "1")
    assert (code, err) == (0, "")
    assert "1 run: 1 done" in text
    code, text, _ = cli("status", *words, "--seeds", "3")
    assert code == 1
    assert "3 runs: 1 done, 2 missing; the rest will take about 8 s, one after another" in text
    assert cli("run", *words, "--seeds", "3", "--plan", "plan.jsonl")[0] == 0
    assert cli("status", "--plan", "plan.jsonl")[:2] == (1, text)
    code, text, _ = cli("status")
    assert code == 0
    code, text, err = cli("status", *words, "--seeds", "2", "--format", "json")
    assert [json.loads(line)["state"] for line in text.splitlines()] == ["done", "missing"]
    assert "2 runs" in err


def test_what_can_t_be_built_any_more_is_stale(cli, tmp_path, monkeypatch):
    keep(tmp_path, method="ula:step=0.01")
    from gwfbench.plugins import registry

    cls = registry.find("method", "ula").load()
    monkeypatch.setattr(cls, "version", cls.version + 1)
    (one,) = status.survey_all(tmp_path)
    assert (one.state, one.reason) == ("stale", "its fields or versions have changed since")
    known = {name: plugin for name, plugin in registry.plugins("method").items() if name != "ula"}
    monkeypatch.setattr(
        registry, "plugins", lambda kind, real=registry.plugins: known if kind == "method" else real(kind)
    )
    (one,) = status.survey_all(tmp_path)
    assert one.reason == "it can't be built any more: no method 'ula'"


def test_mistakes(cli):
    assert "no runs" in cli("status")[2]
    code, _, err = cli("status", "--task", "oo", "--method", "ula")
    assert code == 2
    assert "did you mean 'ou'" in err
    assert cli("status", "--plan", "x", "--task", "ou")[0] == 2
