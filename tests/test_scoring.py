"""`score`: the runner's own numbers from kept points, and which values count."""

import dataclasses
import json

import numpy as np
import pytest

import gwfbench
from gwfbench.audit import counted, rescore
from gwfbench.plugins import registry
from gwfbench.store import command_cache, fingerprint, folders

pytestmark = pytest.mark.usefixtures("one_process")  # what they patch must be seen

TASK = "ou:horizon=0.1,dim=3"
METHODS = ["ula:step=0.05", "vjko:iterations=2,pool=2048"]


@pytest.fixture
def small(monkeypatch):
    """ou judged at as many points as are kept, by the metrics that are given."""
    cls = registry.find("task", "ou").load()

    def with_metrics(*names, points=folders.KEPT):
        monkeypatch.setattr(cls, "metrics", names)
        monkeypatch.setattr(cls, "points", points)

    with_metrics("symkl", "symkl_jko")
    return with_metrics


def bytes_of(out):
    return {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def rows(runs):
    return {(r.identity.method, r.identity.seed, p.step, p.metric): p for r in runs for p in r.rows}


@pytest.mark.slow
def test_the_same_metric_at_the_same_n_gives_the_number_that_the_runner_gave(tmp_path, small):
    full, part = tmp_path / "full", tmp_path / "part"
    small("symkl", "symkl_jko", "sliced_w2")
    gwfbench.run(TASK, METHODS, seeds=2, out=full)
    small("symkl")
    gwfbench.run(TASK, METHODS, seeds=2, out=part)
    before = bytes_of(part)
    runs, _ = folders.attempts(part)
    skipped = {}
    for name in ("sliced_w2", "symkl_jko"):
        skipped[name] = {one.run.identity.method: one.skipped for one in rescore.score(name, part, runs) if one.skipped}
    assert skipped["sliced_w2"] == {}
    assert set(skipped["symkl_jko"]) == {"exact", METHODS[0]}
    after = bytes_of(part)
    assert {path: after[path] for path in before} == before
    mine, said = counted.current(runs, part)
    theirs = rows(counted.current(folders.attempts(full)[0], full)[0])
    assert said == []
    found = rows(mine)
    # no control for a metric that the task did not ask for
    assert set(found) == {key for key in theirs if key[0] != "exact_jko"}
    for key, point in found.items():
        for name in ("t", "value", "se", "n", "role", "better", "law", "metric_version", "metric_code", "score_calls"):
            assert getattr(point, name) == getattr(theirs[key], name), (key, name)


def test_log_densities_are_used_where_they_are_kept_and_asked_for_where_not(tmp_path, small):
    small("symkl", "kl")
    gwfbench.run(TASK, "ula:step=0.05", seeds=1, out=tmp_path)
    runs = [run for run in folders.attempts(tmp_path)[0] if run.identity.method == "still"]
    (run,) = (dataclasses.replace(run, rows=[p for p in run.rows if p.metric != "kl"]) for run in runs)
    folder = next(tmp_path.glob(f"*-{run.attempt}"))
    with np.load(folder / "draws.npz") as file:
        kept = {name: values for name, values in file.items() if name.startswith("t")}
    np.savez(folder / "draws.npz", **kept)
    (one,) = rescore.score("kl", tmp_path, [run])
    assert one.skipped == "it keeps no log-densities of its law"
    law = {
        f"l{name[1:]}": (-0.5 * (x**2).sum(1) - 1.5 * np.log(2 * np.pi)).astype(np.float32) for name, x in kept.items()
    }
    np.savez(folder / "draws.npz", **kept, **law)
    (one,) = rescore.score("kl", tmp_path, [run])
    theirs = [point for point in runs[0].rows if point.metric == "kl"]
    assert [point.value for point in one.rows] == pytest.approx([point.value for point in theirs], rel=1e-4)


def test_a_changed_metric_makes_only_its_values_stale_and_score_mends_them(cli, tmp_path, small, monkeypatch):
    small("symkl", "sliced_w2", points=6000)
    out = tmp_path / "results/runs"
    words = ["run", "--task", TASK, "--method", "ula:step=0.05", "--seeds", "2"]
    assert cli(*words)[0] == 0
    real = fingerprint.metric_code
    monkeypatch.setattr(fingerprint, "metric_code", lambda metric: "new" if metric.name == "symkl" else real(metric))
    monkeypatch.setattr(command_cache, "code", lambda *_: "")  # an edit would change it too
    _, text, err = cli("report", "--format", "csv")
    assert "symkl" not in text.splitlines()[0]
    assert "sliced_w2" in text.splitlines()[0]
    assert "12 values of symkl" in err
    before = set(out.glob("*/run.json"))
    code, text, err = cli(*words)
    assert (code, set(out.glob("*/run.json"))) == (0, before)
    assert "symkl" not in text
    code, text, err = cli("score", "--metric", "symkl")
    assert code == 0
    assert "symkl: 6 runs scored, 12 values; 0 skipped" in text
    assert "at n = 4096" in err
    _, text, err = cli("report", "--format", "json")
    board = {row["method"]: row for row in map(json.loads, text.splitlines())}
    assert err == ""
    assert {row["symkl_n"] for row in board.values()} == {4096}
    code, text, err = cli("score", "--metric", "symkl")
    assert (code, "6 skipped" in text) == (0, True)
    torn = next(out.glob("*/scores-symkl@2.jsonl"))
    torn.write_text(torn.read_text().replace("4096", "4097"))
    _, _, err = cli("report")
    assert "scores-symkl@2.jsonl" in err
    assert "2 values of symkl" in err


def test_stale_runs_and_mistakes(cli, small, monkeypatch):
    words = ["--task", TASK, "--method", "ula:step=0.05"]
    cli("run", *words, "--seeds", "1", "--no-controls")
    real = fingerprint.code_hash
    monkeypatch.setattr(fingerprint, "code_hash", lambda *modules: "edited" + real(*modules)[6:])
    code, text, _ = cli("score", "--metric", "sliced_w2")
    assert code == 1
    assert "0 runs scored" in text
    code, _, err = cli("score", "--metric", "sliced_w3")
    assert (code, "'sliced_w2'" in err) == (2, True)
    assert cli("score", "--metric", "symkl", "--task", "gmm")[0] == 2
    assert cli("score", "--metric", "symkl", "--out", "nothing")[0] == 2


def test_the_points_that_are_kept_are_those_of_their_time(tmp_path, small):
    """The runner moves its cloud in place: what is kept must not move with it."""
    gwfbench.run(TASK, "ula:step=0.05", seeds=1, out=tmp_path, controls=False)
    (folder,) = tmp_path.glob("ou*")
    with np.load(folder / "draws.npz") as file:
        assert not np.array_equal(file["t1"], file["t2"])
