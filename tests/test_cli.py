"""The command line as its users meet it, through `main` in this process."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import gwfbench
from gwfbench.store import folders

ROOT = Path(__file__).parents[1]
QUICK = ["--task", "ou:horizon=0.1", "--method", "vjko:iterations=3,pool=4096"]


BAD = {
    "unknown task": (["run", "--task", "oo", "--method", "vjko"], "no task 'oo'", "one of", "did you mean 'ou'?"),
    "unknown method": (["run", "--task", "ou", "--method", "vjka"], "no method 'vjka'", "one of", "did you mean 'vjko'?"),
    "unknown metric": ([*["run", *QUICK], "--metric", "symkI"], "no metric 'symkI'", "one of", "did you mean 'symkl'?"),
    "unknown field": (["run", "--task", "ou:dimm=2", "--method", "vjko"], "no field of 'ou' 'dimm'", "one of", "did you mean 'dim'?"),
    "wrong type": (["run", "--task", "ou:dim=two", "--method", "vjko"], "ou:dim=two", "an int", "ou:dim=8"),
    "fraction for an integer": (["run", "--task", "ou:dim=2.5", "--method", "vjko"], "ou:dim=2.5", "an int", "ou:dim=8"),
    "wrong choice": (["run", "--task", "ou:cloud=x", "--method", "vjko"], "ou:cloud=x", "one of iid, matched", "ou:cloud=iid"),
    "dim=0": (["run", "--task", "ou:dim=0", "--method", "vjko"], "ou:dim=0", "from 1 to 1000", "ou:dim=1"),
    "negative step": (["run", "--task", "ou:step=-1", "--method", "vjko"], "ou:step=-1.0", "a positive number", "ou:step=0.1"),
    "nan": (["run", "--task", "ou:step=nan", "--method", "vjko"], "ou:step=nan", "a positive number", "ou:step=0.1"),
    "horizon off the grid": (["run", "--task", "ou:horizon=0.12", "--method", "vjko"], "horizon=0.12", "multiple of", "horizon=0.9"),
    "method's field": (["run", "--task", "ou", "--method", "vjko:pool=10"], "vjko:pool=10", "at least one batch", "change pool"),
    "field twice": (["run", "--task", "ou:dim=2,dim=3", "--method", "vjko"], "given twice", "each key once", "ou:dim=8"),
    "no value": (["run", "--task", "ou:dim", "--method", "vjko"], "'dim' in 'ou:dim'", "key=value", "ou:dim=8"),
    "--seeds 0": (["run", *QUICK, "--seeds", "0"], "--seeds 0", "at least 1", "--seeds 3"),
    "--seeds x": (["run", *QUICK, "--seeds", "x"], "--seeds x", "a number of seeds", "--seeds 3"),
    "--seeds 1,1": (["run", *QUICK, "--seeds", "1,1"], "--seeds 1,1", "different seeds", "--seeds 3,5,8"),
    "--seeds -1,2": (["run", *QUICK, "--seeds", "-1,2"], "--seeds -1,2", "0 or more", "--seeds 3,5,8"),
    "no task": (["run", "--method", "vjko"], "no task", "at least one", "--task ou"),
    "no method": (["run", "--task", "ou"], "no method", "at least one", "--method vjko"),
    "device": (["run", *QUICK, "--device", "abacus"], "--device abacus", "one of cpu", "leave it out"),
    "dtype": (["run", *QUICK, "--dtype", "float8"], "--dtype float8", "float32, float64", "leave it out"),
    "budget": (["run", *QUICK, "--budget", "seconds=-1"], "--budget seconds=-1", "positive", "--budget seconds=60"),
    "out is a file": (["run", *QUICK, "--out", "a-file"], "--out a-file", "folder", "another folder"),
    "list": (["list", "--task", "uo"], "no task 'uo'", "one of", "did you mean 'ou'?"),
    "report of nothing": (["report", "--out", "nothing"], "--out nothing: no finished runs", "at least one", "run --task"),
    "report of other rows": (["report", "--rows", "a-file"], "a-file", "CSV of results", "--write"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_told_in_three_parts_with_exit_code_2(cli, tmp_path, case):
    words, got, expected, fix = BAD[case]
    (tmp_path / "a-file").write_text("x")
    code, out, err = cli(*words)
    assert code == 2
    assert out == ""
    assert len(re.findall(r"^gwfbench: .+\n  expected: .+\n  fix: .+\n\Z", err)) == 1, err
    first, second, third = err.splitlines()
    assert got in first
    assert expected in second
    assert fix in third
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-file"]


def test_click_s_own_errors_end_with_2_too(cli):
    assert cli("run", "--nonsense")[0] == 2
    assert cli("run", *QUICK, "--format", "xml")[0] == 2


def test_a_method_that_does_not_fit_names_both_sides_and_those_that_fit(cli, tmp_path, monkeypatch):
    from gwfbench.plugins import registry
    from gwfbench.plugins.registry import Plugin

    stranger = Plugin("drifting", "method", "m", "C", "gwfbench", "", frozenset({"TargetSamples"}))
    known = registry.plugins("method") | {"drifting": stranger}
    monkeypatch.setattr(
        registry, "plugins", lambda kind, real=registry.plugins: known if kind == "method" else real(kind)
    )
    code, _, err = cli("run", "--task", "ou", "--method", "drifting")
    assert code == 2
    assert "method 'drifting' needs TargetSamples, but task 'ou' offers Initial, LogDensity" in err
    assert re.search(r"expected: a method that fits .ou.: .*\bula, vjko\b", err)
    assert "python -m gwfbench list --task ou" in err


@pytest.mark.slow
def test_json_is_one_object_a_line_and_nothing_else(cli):
    code, out, err = cli("run", *QUICK, "--method", "ula", "--seeds", "2", "--format", "json")
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert {"task", "method", "seed", "step", "t", "metric", "value", "se", "n", "seconds", "status"} <= set(rows[0])
    assert {row["method"] for row in rows} == {"exact", "exact_jko", "still", "ula", "vjko:iterations=3,pool=4096"}
    judged = [(row["method"], row["seed"], row["t"], row["metric"]) for row in rows]
    assert len(set(judged)) == len(judged)
    vjko = [row for row in rows if row["method"].startswith("vjko")]
    assert len(vjko) == 2 * (2 * 6 + 1)  # seeds; times, metrics, and w2 at the last time
    assert "\x1b" not in err
    assert "[100%" in err
    assert {row["status"] for row in rows} == {"ok"}


def attempts(folder):
    runs, _ = folders.attempts(folder / "results/runs")
    return runs


def strip(out):
    volatile = ("seconds", "sample_seconds", "judge_seconds", "unit", "memory", "energy", "attempt", "env")
    return [{k: v for k, v in json.loads(line).items() if k not in volatile} for line in out.splitlines()]


@pytest.mark.slow
def test_the_same_command_twice_gives_equal_rows_and_runs_nothing_again(cli):
    words = ["run", *QUICK, "--seeds", "2", "--format", "json"]
    first, second, forced = cli(*words), cli(*words), cli(*words, "--force")
    assert first[1] == second[1]
    assert strip(first[1]) == strip(forced[1])
    once, again = ({json.loads(line)["attempt"] for line in done[1].splitlines()} for done in (first, forced))
    assert len(once) == len(again) == 8
    assert once.isdisjoint(again)


@pytest.mark.slow
def test_a_seed_alone_equals_the_seed_among_others_and_seeds_differ(cli):
    among = [row for row in strip(cli("run", *QUICK, "--seeds", "3,7,9", "--format", "json")[1]) if row["seed"] == 7]
    alone = strip(cli("run", *QUICK, "--seeds", "7,", "--format", "json", "--out", "alone")[1])
    assert len(alone) == len(among) > 0
    for one, other in zip(alone, among, strict=True):
        assert one["value"] == pytest.approx(other["value"], rel=1e-5, abs=1e-12)
    other = [row for row in strip(cli("run", *QUICK, "--seeds", "3,7,9", "--format", "json")[1]) if row["seed"] == 9]
    assert all(a["value"] != b["value"] for a, b in zip(alone, other, strict=True) if a["value"] not in (0.0, None))


def test_a_foreign_folder_is_reported_and_kept(cli, tmp_path):
    foreign = tmp_path / "results/runs/mine"
    foreign.mkdir(parents=True)
    (foreign / "thesis.txt").write_text("years of work")
    code, _, err = cli("run", *QUICK, "--seeds", "1", "--no-controls")
    assert code == 0
    assert "mine" in err
    assert (foreign / "thesis.txt").read_text() == "years of work"


@pytest.mark.slow
def test_a_failed_run_is_a_row_the_others_go_on_and_the_exit_code_tells(cli, tmp_path, monkeypatch):
    from gwfbench.plugins import registry

    cls = registry.find("method", "ula").load()

    def broken(self, problem, budget, rng):
        if 1 in rng.seeds:
            raise RuntimeError("boom")
        return fit(self, problem, budget, rng)

    fit = cls.fit
    monkeypatch.setattr(cls, "fit", broken)
    words = ["run", "--task", "ou:horizon=0.05", "--method", "ula", "--seeds", "3", "--no-controls", "--no-isolate"]
    code, out, err = cli(*words, "--format", "json")
    assert code == 1
    rows = [json.loads(line) for line in out.splitlines()]
    failed = [row for row in rows if row["seed"] == 1]
    assert [(row["status"], row["reason"], row["value"]) for row in failed] == [("error", "RuntimeError: boom", None)]
    assert {row["seed"] for row in rows if row["value"] is not None} == {0, 2}
    assert "RuntimeError: boom" in err
    code, out, _ = cli(*words)
    assert code == 1
    assert "2/3, 1 error" in out
    assert len(attempts(tmp_path)) == 3  # a failure is a result: it is not tried again unasked


@pytest.mark.slow
def test_a_longer_budget_runs_again_what_a_shorter_one_cut(cli, tmp_path):
    words = ["run", "--task", "ou:horizon=0.1", "--method", "vjko:pool=4096", "--seeds", "1", "--no-controls"]
    for seconds in (0.2, 0.1):
        assert cli(*words, "--budget", f"seconds={seconds}")[0] == 1
        assert [(run.status, run.reason) for run in attempts(tmp_path)] == [
            ("timeout", "the budget of 0.2 s was spent")
        ]
    assert cli(*words, "--budget", "seconds=600")[0] == 0
    assert [run.status for run in attempts(tmp_path)] == ["timeout", "ok"]


@pytest.mark.slow
def test_metric_chooses_what_is_shown(cli):
    _, out, _ = cli("run", *QUICK, "--seeds", "1", "--metric", "bures_w2", "--format", "json")
    assert {json.loads(line)["metric"] for line in out.splitlines()} == {"bures_w2"}
    _, out, _ = cli("run", *QUICK, "--seeds", "1", "--metric", "bures_w2")
    assert "bures_w2" in out
    assert "symkl" not in out


@pytest.mark.slow
def test_a_metric_of_the_truth_can_be_chosen(cli):
    words = ["--task", "toy2d:shape=eight_gaussians", "--method", "ula:steps=2", "--seeds", "1", "--no-curve"]
    code, out, err = cli("run", *words, "--no-controls", "--metric", "mode_coverage", "--format", "csv")
    assert code == 0, err
    assert set(pd.read_csv(io.StringIO(out))["metric"]) == {"mode_coverage"}


@pytest.mark.slow
def test_report_is_what_run_showed(cli, tmp_path):
    code, shown, _ = cli("run", *QUICK, "--seeds", "2")
    assert code == 0
    code, again, err = cli("report")
    assert (code, err) == (0, "")
    assert again == shown
    assert cli("report", "--write", "kept", "--format", "markdown")[0] == 0
    page = (tmp_path / "kept/leaderboard.md").read_text()
    assert "## ou:horizon=0.1 at t = 0.1" in page
    assert re.search(r"- 8 runs \(ou:horizon=0.1: exact, .*\) with python 3\.\d+\.\d+, torch 2", page)
    from_rows = cli("report", "--rows", "kept/rows.csv", "--format", "csv")[1]
    direct = cli("report", "--format", "csv")[1]
    ours, theirs = (pd.read_csv(pd.io.common.StringIO(text)) for text in (from_rows, direct))
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-4)
    code, out, _ = cli("report", "--format", "json", "--task", "ou")
    assert {json.loads(line)["method"] for line in out.splitlines()} >= {"exact", "still"}
    assert cli("report", "--task", "gmm")[0] == 2


@pytest.mark.slow
def test_edited_code_makes_rows_stale_never_mixed(cli, tmp_path, monkeypatch):
    from gwfbench.store import command_cache, fingerprint

    words = ["run", "--task", "ou:horizon=0.05", "--method", "ula", "--seeds", "1", "--no-controls", "--no-isolate"]
    assert cli(*words)[0] == 0
    real = fingerprint.code_hash
    monkeypatch.setattr(fingerprint, "code_hash", lambda *modules: "edited" + real(*modules)[6:])
    monkeypatch.setattr(command_cache, "code", lambda *_: "")
    code, _, err = cli("report")
    assert code == 2
    assert "1 stale runs" in err
    assert cli(*words)[0] == 0
    assert [(run.status, run.code[:6] == "edited") for run in attempts(tmp_path)] == [("ok", False), ("ok", True)]


@pytest.mark.slow
def test_a_task_that_judges_the_limit_end_to_end(cli):
    words = ["run", "--task", "gaussian", "--method", "ula:steps=2", "--seeds", "1"]
    code, out, err = cli(*words, "--metric", "symkl", "--metric", "kl")
    assert code == 0, err
    assert re.search(
        r"ula:steps=2 seed 0: ended: ok after \d+\.\d s of training, \d+\.\d s of sampling, \d+\.\d s of judging, symkl ",
        err,
    )
    assert out.startswith("gaussian\n")
    _, out, _ = cli(*words, "--format", "json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert {row["t"] for row in rows} == {None}
    assert {row["step"] for row in rows if row["method"] == "ula:steps=2"} == {1, 2}
    assert cli("report", "--format", "markdown")[1].startswith("## gaussian\n")


@pytest.mark.slow
def test_the_truth_is_no_bound_where_higher_is_better(cli):
    _, out, _ = cli("run", "--task", "blr:data=diabetis", "--method", "ula:steps=1", "--seeds", "1", "--format", "json")
    roles = {(row["method"], row["metric"]): row["role"] for row in map(json.loads, out.splitlines())}
    assert roles["exact", "accuracy"] == roles["exact", "log_likelihood"] == "control"
    assert roles["exact", "sliced_w2"] == "floor"


def test_list_has_what_to_cite_each_entry_once(cli):
    code, text, _ = cli("list", "--format", "bibtex")
    keys = [line for line in text.splitlines() if line.startswith("@")]
    assert code == 0
    assert len(keys) == len(set(keys)) > 20
    assert text.count("{fan2022variational,") == 1
    _, text, _ = cli("list", "--method", "svgd", "--task", "gmm", "--format", "bibtex")
    assert sum(line.startswith("@") for line in text.splitlines()) <= 4
    assert "Stein" in text


def test_list_shows_fields_pairs_and_json(cli):
    code, out, _ = cli("list", "--fields")
    assert code == 0
    for word in ("ou", "vjko", "ula", "critic_steps", "critic updates J2 per iteration", "exact, exact_jko, still"):
        assert word in out
    _, out, _ = cli("list", "--task", "ou", "--format", "json")
    facts = {line["name"]: line for line in map(json.loads, out.splitlines())}
    assert {"ula", "vjko", "jko_icnn"} <= set(facts["ou"]["fits"])
    assert "mmd_flow" not in facts["ou"]["fits"]  # it needs samples of the target
    assert facts["jko_icnn"]["one_of"] == ["InteractionEnergy", "InternalEnergy", "LogDensity"]
    assert facts["vjko"]["fields"]["lr"]["default"] == "0.005"


def test_list_shows_the_metrics(cli):
    code, out, _ = cli("list", "--metrics", "--format", "json")
    facts = {line["name"]: line for line in map(json.loads, out.splitlines())}
    assert code == 0
    assert set(facts) == set(gwfbench.metrics())
    assert "ou" in facts["symkl"]["tasks"]
    assert all(name in cli("list", "--metrics")[1] for name in facts)
    assert cli("list", "--metrics", "--task", "ou")[0] == 2


@pytest.mark.parametrize(
    ("device", "code"), [("cpu:0", 0), ("cpu:1", 2), ("meta", 2), ("CPU", 2), ("", 2), ("cuda:1234", 2)]
)
def test_a_device_has_one_name(cli, tmp_path, device, code):
    words = ("run", "--task", "ou:horizon=0.05", "--method", "ula", "--seeds", "1", "--no-controls", "--no-isolate")
    assert cli(*words, "--device", device)[0] == code
    if code == 0:
        assert "finished before" in cli(*words)[2]
    assert cli(*words, "--device", device, "--plan", "p.jsonl")[0] == code


def test_a_debugger_that_has_no_terminal_is_told_of(cli, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr("gwfbench.commands.run.say", lambda text, err: lines.append(text))
    from gwfbench.commands.run import tell_failed
    from gwfbench.store.record import Identity, Run

    who = Identity("ou", 1, {}, "mine", 1, {}, 0, "float32", "cpu")
    assert tell_failed([Run(who, (), "", "", "", status="error", reason="BdbQuit: ")])
    assert "add --no-isolate" in lines[0]
    assert "BdbQuit" not in lines[0]


def test_python_m_gwfbench_and_a_closed_pipe(tmp_path):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "gwfbench"]
    done = subprocess.run([*words, "--version"], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(gwfbench.__version__)
    with subprocess.Popen(
        [*words, "list"], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as proc:
        proc.stdout.close()
        assert b"Traceback" not in proc.stderr.read()


@pytest.mark.slow
def test_the_python_interface(tmp_path):
    points = gwfbench.run("ou:horizon=0.05", ["ula"], seeds=[4, 6], out=tmp_path / "runs")
    assert set(points["seed"]) == {4, 6}
    board = gwfbench.leaderboard(points)
    assert list(board["method"]) == ["exact", "exact_jko", "ula", "still"]
    assert (board["seeds"] == "2/2").all()
    in_memory = gwfbench.run("ou:horizon=0.05", "ula", seeds=[4, 6])
    pd.testing.assert_series_equal(points["value"], in_memory["value"])
    with pytest.raises(gwfbench.UserError, match="no task 'oo'"):
        gwfbench.run("oo", "ula")
    with pytest.raises(AttributeError, match="public names: Streams, UserError, leaderboard"):
        gwfbench.nonsense  # noqa: B018


@pytest.mark.parametrize(
    "words",
    [
        ("status", "--plan", "/dev/zero"), ("exec", "/dev/zero"), ("submit", "/dev/zero", "--out", "o", "--shards", "1"),
        ("run", "--config", "/dev/zero"), ("report", "--rows", "/dev/zero"), ("report", "against", "/dev/zero", "--rows", "/dev/zero"),
        ("verify", "--rows", "/dev/zero"), ("accept", "/dev/zero"), ("reproduce", "fan2022", "--rows", "/dev/zero"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_device_that_never_ends_is_no_file_to_read(cli, words):
    code, out, err = cli(*words)
    assert (code, out) == (2, "")
    assert "a device, not a file" in err
    assert "memory" not in err


def test_a_plan_may_come_from_a_pipe(tmp_path):
    import os

    from gwfbench.runs import plan

    job = (
        b'{"task": "ou:horizon=0.05", "method": "ula", "seeds": [0], "device": "cpu", "dtype": "float32", "budget": {}}'
    )
    reader, writer = os.pipe()
    os.write(writer, job)
    os.close(writer)
    try:
        with pytest.raises(Exception, match="keys"):  # it is read: what it lacks is told
            plan.read(Path(f"/dev/fd/{reader}"))
    finally:
        os.close(reader)
