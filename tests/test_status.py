"""`status` over attempts that are written here, so that nothing has to run."""

import json
from dataclasses import replace

import numpy as np
import pytest

from gwfbench.audit import status
from gwfbench.drive.job import Job
from gwfbench.runs.order import Order
from gwfbench.runs.scheduler import answer, finished
from gwfbench.store import folders, locks
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
    return {(one.method, one.seed): one for one in status.survey(jobs, out)[0]}


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


SPENT = "the budget of 5 steps was spent"


@pytest.mark.parametrize(
    ("ended", "budget", "done"),
    [
        ({"status": "budget", "reason": SPENT, "budget": {"steps": 5}}, "steps=5", True),
        ({"status": "budget", "reason": SPENT, "budget": {"steps": 5}}, "steps=4", False),
        ({"status": "budget", "reason": SPENT, "budget": {"steps": 5}}, "steps=6", False),
        ({"status": "budget", "reason": SPENT, "budget": {"steps": 5}}, "", False),
        ({"status": "budget", "reason": SPENT, "budget": {"steps": 5}}, "steps=5,seconds=9", False),
        ({"status": "budget", "reason": SPENT, "budget": {"steps": 5, "seconds": 8}}, "steps=5,seconds=9", True),
        ({"status": "budget", "reason": SPENT, "budget": {"steps": 5, "seconds": 9}}, "steps=5,seconds=8", False),
        ({"steps": 1}, "", True),
        ({"steps": 1}, "steps=1", True),  # a flow at its end
        ({"steps": 2}, "steps=2", False),  # what came after its last judged law is not known
        ({"steps": 1}, "seconds=3", False),  # it took 3
        ({"steps": 1}, "seconds=3.1,score_calls=5", True),
        ({"steps": 1}, "score_calls=4", False),
        ({"steps": 1, "budget": {"score_calls": 5}}, "", True),
        ({"status": "diverged", "reason": "x", "budget": {"steps": 9}}, "", True),
        ({"status": "diverged", "reason": "x", "budget": {"steps": 9}}, "steps=9", True),
        ({"status": "diverged", "reason": "x"}, "steps=9", False),
        ({"status": "error", "reason": "set-up: FileNotFoundError: no data"}, "", False),
    ],
)
def test_a_run_counts_where_it_would_have_ended_the_same(tmp_path, ended, budget, done):
    keep(tmp_path, **ended)
    one = states(tmp_path, "1", budget=budget)["ula", 0]
    assert (one.state in ("done", "failed")) == done
    assert one.state in ("done", "failed", "missing")
    assert done or one.reason


def test_an_older_attempt_answers_if_a_newer_one_had_another_budget(tmp_path):
    whole = keep(tmp_path, steps=1)
    keep(tmp_path, status="budget", reason=SPENT, budget={"steps": 5}, number=2)
    assert states(tmp_path, "1")["ula", 0].state == "done"
    keep(tmp_path, status="killed", reason="interrupted", budget={"steps": 7}, number=3)
    runs = [run for run in folders.attempts(tmp_path)[0]]
    job = Job.of(whole.identity)
    assert answer(runs, job).attempt == whole.attempt
    keep(tmp_path, status="killed", reason="interrupted", number=4)  # it was wanted anew
    assert answer(folders.attempts(tmp_path)[0], job) is None


def test_a_run_without_its_curve_is_run_for_one_and_said(tmp_path):
    run = keep(tmp_path, status="ok", steps=4, rows=[replace(POINT, step=4, t=None)])
    job = Job.of(run.identity)
    assert finished(run, job)
    assert not finished(run, job, curve=True)
    assert states(tmp_path, "1")["ula", 0].reason == "run with --no-curve: only its last law is judged"
    run.rows = [replace(POINT, step=step, t=None) for step in (1, 2, 3, 4)]
    assert finished(run, job, curve=True)


def test_damaged_folders_are_said_and_no_success(cli, tmp_path):
    out = tmp_path / "results/runs"
    keep(out)
    torn = keep(out, seed=1)
    (folder,) = out.glob(f"*-{torn.attempt}")
    (folder / "rows.jsonl").write_text("{")
    code, _, err = cli("status")
    assert code == 1
    assert "rows.jsonl has changed" in err


def test_the_newest_attempt_by_today_s_code_counts(tmp_path):
    keep(tmp_path, code="0123")
    keep(tmp_path)
    assert states(tmp_path, "1")["ula", 0].state == "done"


def test_the_rest_is_estimated_from_the_same_pair_then_the_method_then_not_at_all(tmp_path):
    for seed, seconds in enumerate((9.0, 1.0, 5.0)):
        keep(tmp_path, seed=seed, seconds=seconds)
    keep(tmp_path, task="ou:dim=3", method="vjko", seconds=99.0)
    keep(tmp_path, task="ou:dim=3", method="ula", seconds=77.0)
    keep(tmp_path, method="vjko:lr=0.1", seed=1, seconds=500.0, status="error", reason="x")
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
    ((one,), _) = status.survey_all(tmp_path)
    assert (one.state, one.reason) == ("stale", "its fields or versions have changed since")
    known = {name: plugin for name, plugin in registry.plugins("method").items() if name != "ula"}
    monkeypatch.setattr(
        registry, "plugins", lambda kind, real=registry.plugins: known if kind == "method" else real(kind)
    )
    ((one,), _) = status.survey_all(tmp_path)
    assert one.reason == "it can't be built any more: no method 'ula'"


def test_mistakes(cli):
    assert "no runs" in cli("status")[2]
    code, _, err = cli("status", "--task", "oo", "--method", "ula")
    assert code == 2
    assert "did you mean 'ou'" in err
    assert cli("status", "--plan", "x", "--task", "ou")[0] == 2
