import dataclasses
import json
import math
import shutil

import numpy as np
import pytest

from gwfbench.store import environment, fingerprint, folders, record
from gwfbench.store.folders import Attempt
from gwfbench.store.record import Identity, Row, Run

IDENTITY = Identity("ou", 1, {"dim": 2}, "ula", 1, {"step": 0.1}, 0, "float32", "cpu")
POINT = Row(1, 0.05, "symkl", 1, "lower", "flow", "method", 0.1, None, 10, 1.0, 5, 0, 0, 0.1, 2.0)


def finished(out, **changes):
    run = Run(dataclasses.replace(IDENTITY, **changes), ("Initial",), "code", "env", "2026-01-01T00:00:00")
    attempt = Attempt(out, run)
    run.rows.append(POINT)
    attempt.judged(1, [POINT], np.ones((5000, 2), dtype=np.float32))
    attempt.finish(run, "log\n")
    return next(path for path in out.iterdir() if path.name.endswith(run.attempt))


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_key_depends_on_what_makes_the_run():
    keys = {IDENTITY.key}
    for change in (
        {"task_fields": {"dim": 3}}, {"seed": 1}, {"task_version": 2}, {"method_version": 2}, {"dtype": "float64"},
        {"device": "cuda"}, {"method_fields": {"step": 0.2}},
    ):  # fmt: skip
        keys.add(dataclasses.replace(IDENTITY, **change).key)
    assert len(keys) == 8
    reordered = dataclasses.replace(IDENTITY, task_fields=dict(reversed({"dim": 2}.items())))
    assert reordered.key == IDENTITY.key
    assert len(IDENTITY.key) == 16


def test_round_trip(tmp_path):
    folder = finished(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["draws.npz", "log.txt", "rows.jsonl", "run.json"]
    run = folders.read(folder)
    assert run.identity == IDENTITY
    assert run.rows == [POINT]
    (row,) = run.tidy()
    assert (row["task"], row["metric"], row["value"], row["status"]) == ("ou", "symkl", 0.1, "ok")
    with np.load(folder / "draws.npz", allow_pickle=False) as kept:
        assert kept["t1"].shape == (folders.KEPT, 2)


def test_a_run_without_points_is_a_row_too():
    run = Run(IDENTITY, (), "code", "env", "now", status="error", reason="boom")
    (row,) = run.tidy()
    assert (row["metric"], row["value"], row["status"], row["reason"]) == (None, None, "error", "boom")


def test_json_has_null_for_what_is_not_finite():
    assert json.loads(record.to_json({"a": math.nan, "b": [math.inf, 1.0], "c": 0.0})) == {
        "a": None,
        "b": [None, 1.0],
        "c": 0.0,
    }


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (lambda folder: (folder / "rows.jsonl").write_text(""), "rows.jsonl has changed"),
        (lambda folder: (folder / "run.json").write_text("{"), "JSONDecodeError"),
        (lambda folder: (folder / "run.json").write_text("[]"), "Error"),
        (lambda folder: (folder / "run.json").unlink(), "no run.json"),
        (lambda folder: (folder / "draws.npz").unlink(), "no draws.npz"),
        (lambda folder: edit(folder / "run.json", '"seed": 5', '"seed": 6'), "does not agree"),
        (lambda folder: edit(folder / "run.json", '"schema": 4', '"schema": 0'), "schema"),
    ],
)
def test_what_is_not_whole_is_said_and_left_alone(tmp_path, harm, word):
    good, bad = finished(tmp_path), finished(tmp_path, seed=5)
    harm(bad)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".partial-x").mkdir()
    before = sorted(path.name for path in tmp_path.rglob("*"))
    runs, strange = folders.attempts(tmp_path)
    assert [run.identity.seed for run in runs] == [0]
    text = "\n".join(strange)
    assert f"{bad.name}: " in text
    assert word in text
    assert "foreign: it has no run.json" in text
    assert "notes.txt: not an attempt's folder" in text
    assert ".partial-x: unfinished" in text
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert good.exists()


def test_rows_of_before_have_no_worst_and_none_has_it_next_to_a_value():
    content = dataclasses.asdict(POINT)
    worst = content.pop("worst")
    assert worst == ""
    assert Row.read([json.dumps(content)]) == [POINT]
    nothing = content | {"value": None, "worst": "infinite"}
    assert Row.read([json.dumps(nothing)])[0].worst == "infinite"
    with pytest.raises(ValueError, match="a value, and a reason"):
        Row.read([json.dumps(nothing | {"value": 0.5})])


@pytest.mark.parametrize(
    "change", [{"score_calls": -1}, {"draw_calls": 2.5}, {"seconds": -3.0}, {"n": np.int64(5)}, {"t": math.inf}]
)
def test_a_row_that_could_not_be_read_again_is_not_made(change):
    with pytest.raises(ValueError, match=f"Row: {next(iter(change))} can't be"):
        Row.of(**dataclasses.asdict(POINT) | change)


def test_a_newer_version_s_runs_are_left_where_they_are_and_said(tmp_path):
    folder = finished(tmp_path)
    edit(folder / "run.json", '"schema": 4', '"schema": 5')
    runs, said = folders.sweep(tmp_path)
    assert (runs, folder.exists()) == ([], True)
    assert said == [f"left alone: {folder.name}: its schema is 5, and this version reads 4: update gwfbench to read it"]


def test_a_changed_line_of_a_half_written_folder_is_set_aside(tmp_path):
    attempt = Attempt(tmp_path / "one", Run(IDENTITY, (), "code", "env", "2026-01-01T00:00:00+00:00"))
    attempt.judged(1, [POINT], np.ones((3, 2)))
    (folder,) = (tmp_path / "one").iterdir()
    (folder / "checkpoint.pt.123").write_text("a draft")
    copy = tmp_path / "other" / folder.name
    shutil.copytree(folder, copy)
    (run,), _ = folders.sweep(tmp_path / "other")
    assert run.rows == [POINT]
    assert not list((tmp_path / "other").glob("*/checkpoint.pt*"))
    edit(folder / "rows.jsonl", '"value": 0.1', '"value": 0.2')
    runs, (said,) = folders.sweep(tmp_path / "one")
    assert runs == []
    assert "line 1 of rows.jsonl has changed since it was written" in said


def test_a_crash_leaves_the_rows_so_far(tmp_path):
    attempt = Attempt(tmp_path, Run(IDENTITY, (), "code", "env", "2026-01-01T00:00:00+00:00"))
    attempt.judged(1, [POINT], np.ones((3, 2)))
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith(".partial-")
    assert json.loads((folder / "rows.jsonl").read_text())["metric"] == "symkl"


def test_names_stay_inside_the_folder(tmp_path):
    out = tmp_path / "runs"
    folder = finished(out, task="../../etc:x=/y", method="a b\n")
    assert folder.parent == out
    assert "/" not in folder.name


def test_code_hash_sees_helpers_two_imports_away_and_nothing_else(tmp_path, monkeypatch):
    package = tmp_path / "flows_for_hashing"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text("from flows_for_hashing import near\n")
    (package / "near.py").write_text("def f():\n    from .far import RATE\n    return RATE\n")
    (package / "far.py").write_text("RATE = 0.5\n")
    (package / "unrelated.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)

    def now():
        fingerprint.forget()
        return fingerprint.code_hash("flows_for_hashing.method")

    first = now()
    (package / "unrelated.py").write_text("x = 2\n")
    assert now() == first
    (package / "far.py").write_text("RATE = 0.9\n")
    assert now() != first
    fingerprint.forget()


def test_code_hash_of_a_method_covers_the_loop():
    loop = {"gwfbench.training.minmax", "gwfbench.nn.mlp", "gwfbench.objectives.variational"}
    assert loop <= fingerprint.closure("gwfbench.baselines.vjko")


def test_environment_is_hashed_by_content():
    facts = environment.environment("cpu", 1)
    assert {"torch", "python", "cpu", "threads", "commit"} <= set(facts)
    assert environment.env_hash(facts) == environment.env_hash(dict(reversed(facts.items())))
    assert environment.env_hash(facts) != environment.env_hash(facts | {"threads": 2})
