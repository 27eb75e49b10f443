"""`verify`: identical, within tolerance, or different, and with which value."""

import json
import math
import shutil

import pandas as pd
import pytest

from gwfbench.audit import verdict, verify
from gwfbench.plugins import registry
from gwfbench.report import rows as kept_rows
from gwfbench.store import environment

pytestmark = pytest.mark.usefixtures("one_process")  # what they patch must be seen

WORDS = ["--task", "ou:horizon=0.1", "--method", "ula:step=0.05", "--seeds", "2"]


@pytest.fixture(autouse=True)
def small_ou(monkeypatch):
    cls = registry.find("task", "ou").load()
    monkeypatch.setattr(cls, "metrics", ("symkl", "sliced_w2"))
    monkeypatch.setattr(cls, "points", 4000)


@pytest.mark.slow
def test_runs_are_identical_from_the_folder_and_from_the_csv_alone(cli, tmp_path):
    assert cli("run", *WORDS)[0] == 0
    code, text, err = cli("verify", "--count", "3", "--seed", "1")
    assert (code, err) == (0, "3 identical\n")
    assert text.count("identical (4 values)") == 3
    lines = [json.loads(line) for line in (tmp_path / "results/runs/verified.jsonl").read_text().splitlines()]
    assert len({line["run_key"] for line in lines}) == 3
    assert {"date", "env_now", "code_now", "verdict"} <= set(lines[0])
    code, text, err = cli("report", "--write", "kept")
    assert (code, "verified.jsonl" in err) == (0, False)
    assert "Verified: 3 of 6 runs were run again from their rows alone; 3 identical" in text
    assert "Verified: 3 of 6" in (tmp_path / "kept/leaderboard.md").read_text()
    code, text, err = cli("verify", "--rows", "kept/rows.csv", "--out", "elsewhere", "--count", "9", "--method", "ula")
    assert (code, err) == (0, "2 identical\n")
    shutil.copytree("kept", "copy")  # several files, as the shell makes of */rows.csv; what is in both counts once
    more = cli("verify", "--rows", "kept/rows.csv", "copy/rows.csv", "--count", "9", "--method", "ula")
    assert more == (code, text, err)
    assert cli("verify", "kept/rows.csv")[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "change", "code", "word"),
    [
        ("value", lambda x: x * (1 + 1e-9), 0, "within tolerance (4 values)\n  "),
        ("value", lambda x: x + 100, 1, "different (4 values)\n  "),
        ("n", lambda x: x - 1, 1, "different (0 values)\n  n of symkl at t = 0.05: got 4000, expected 3999"),
        (
            "score_calls",
            lambda x: x + 1,
            1,
            "different (0 values)\n  score_calls of symkl at t = 0.05: got 1408, expected 1409",
        ),
        ("run_key", lambda x: "0" * 16, 1, "not run (0 values)\n  run key "),
        ("task", lambda x: "no_such", 1, "not run (0 values)\n  it can't be built any more: no task 'no_such'"),
        ("status", lambda x: "budget", 1, "different (0 values)\n  it ended ok () where it had ended budget"),
        ("code", lambda x: "0123", 0, "identical (4 values)"),
    ],
)
def test_an_edited_row_is_found_out(cli, tmp_path, column, change, code, word):
    assert cli("run", *WORDS[:-1], "1", "--no-controls")[0] == 0
    assert cli("report", "--write", "kept")[0] == 0
    rows = pd.read_csv(tmp_path / "kept/rows.csv")
    rows[column] = rows[column].map(change)
    rows.to_csv(tmp_path / "kept/rows.csv", index=False)
    got, text, _ = cli("verify", "--rows", "kept/rows.csv")
    assert (got, word in text) == (code, True), text


def test_a_forged_value_is_found_whatever_its_n_and_so_is_a_deleted_law(cli, tmp_path):
    assert cli("run", *WORDS[:-1], "1", "--no-controls")[0] == 0
    assert cli("report", "--write", "kept")[0] == 0
    whole = pd.read_csv(tmp_path / "kept/rows.csv")
    one = (whole["metric"] == "symkl") & (whole["t"] == 0.05)
    forged = whole.copy()
    forged.loc[one, ["value", "n"]] = 0.0, 3999
    for rows, word in (
        (forged, "got 4000, expected 3999"),
        (whole[~one], "symkl at t = 0.05, step 1: the rows lack it"),
    ):
        rows.to_csv(tmp_path / "kept/rows.csv", index=False)
        code, text, _ = cli("verify", "--rows", "kept/rows.csv")
        assert (code, word in text) == (1, True), text


@pytest.mark.slow
def test_scored_values_are_made_again_and_a_forged_one_is_found(cli, tmp_path):
    assert cli("run", *WORDS[:-1], "1", "--no-controls")[0] == 0
    assert cli("score", "--metric", "bures_w2")[0] == 0
    code, text, _ = cli("verify")
    assert (code, "identical (6 values)" in text) == (0, True), text
    assert cli("report", "--write", "kept")[0] == 0
    rows = pd.read_csv(tmp_path / "kept/rows.csv")
    rows.loc[rows["metric"] == "bures_w2", "value"] += 100
    rows.to_csv(tmp_path / "kept/rows.csv", index=False)
    code, text, _ = cli("verify", "--rows", "kept/rows.csv")
    assert (code, "different" in text) == (1, True), text


def test_a_run_without_its_curve_is_verified_without(cli, tmp_path):
    words = ["--task", "gmm", "--method", "ula:steps=12", "--seeds", "1", "--no-controls"]
    assert cli("run", *words, "--no-curve")[0] == 0
    code, text, _ = cli("verify")
    assert (code, "identical" in text) == (0, True), text
    assert cli("run", *words)[0] == 0
    code, text, _ = cli("verify")
    assert (code, "identical" in text) == (0, True), text


def test_a_run_by_some_metrics_alone_is_verified_by_these_and_by_as_many_points(cli, tmp_path):
    words = ("run", "--task", "toy2d", "--method", "mmd_flow:steps=2", "--method", "gan:iterations=4,every=2,batch=8",
             "--seeds", "1", "--judge", "sliced_w2", "--no-controls", "--no-isolate")  # fmt: skip
    assert cli(*words)[0] == 0
    assert cli("report", "--write", "page")[0] == 0
    assert set(pd.read_csv(tmp_path / "page" / "rows.csv")["judge"]) == {"sliced_w2"}
    for where in ((), ("--rows", "page/rows.csv")):
        code, text, _ = cli("verify", "--count", "2", *where)
        assert (code, text.count("identical ")) == (0, 2), text


def test_a_folder_that_can_t_be_written_is_told(cli, tmp_path):
    (tmp_path / "file").write_text("")
    assert cli("run", *WORDS[:-1], "1", "--no-controls")[0] == 0
    assert cli("report", "--write", "kept")[0] == 0
    code, _, err = cli("verify", "--rows", "kept/rows.csv", "--out", "file")
    assert (code, "a folder that can be written" in err) == (2, True), err


def test_the_reason_is_said_where_it_is_known(cli, tmp_path, monkeypatch):
    assert cli("run", *WORDS[:-1], "1", "--no-controls")[0] == 0
    assert cli("report", "--write", "kept")[0] == 0
    rows = pd.read_csv(tmp_path / "kept/rows.csv")
    rows["value"] += 1000
    rows["code"] = "0123"
    rows.loc[rows["metric"] == "symkl", "metric_code"] = "4567"
    rows.to_csv(tmp_path / "kept/rows.csv", index=False)
    kept = tmp_path / "kept/environments.json"
    facts = json.loads(kept.read_text())
    for one in facts.values():
        one["torch"] = "1.0"
        one["processor"] = "family 1"
    kept.write_text(json.dumps(facts))
    code, text, _ = cli("verify", "--rows", "kept/rows.csv")
    assert code == 1
    assert "got 0." in text or "got 1" in text
    assert "other code: " in text
    assert "other code of symkl" in text
    assert "other torch: " in text
    assert "then 1.0" in text
    assert "other processor: " in text
    for one in facts.values():
        del one["processor"]  # rows of before 0.2 do not have it
    kept.write_text(json.dumps(facts))
    assert "which processor it was is not known" in cli("verify", "--rows", "kept/rows.csv")[1]
    assert "DIFFERENT: ula:step=0.05 on ou:horizon=0.1, seed 0" in cli("report")[1]


def test_rows_of_the_last_law_alone_are_enough_and_of_another_law_are_not(cli, tmp_path):
    assert cli("run", *WORDS[:-1], "1", "--no-controls")[0] == 0
    assert cli("report", "--write", "kept", "--laws", "last")[0] == 0
    rows = pd.read_csv(tmp_path / "kept/rows.csv")
    assert rows["step"].nunique() == 1
    assert cli("verify", "--rows", "kept/rows.csv")[0] == 0
    assert cli("report", "--write", "kept")[0] == 0
    rows = pd.read_csv(tmp_path / "kept/rows.csv")
    rows[rows["step"] == rows["step"].min()].to_csv(tmp_path / "kept/rows.csv", index=False)
    code, text, _ = cli("verify", "--rows", "kept/rows.csv")
    assert (code, "the rows lack it" in text) == (1, True), text


@pytest.fixture
def five(cli, tmp_path, monkeypatch):
    """Rows of five seeds and their facts, whose seed 0 a test may change; and what `verify` says of that seed."""
    assert cli("run", *WORDS[:-1], "5", "--no-controls", "--no-curve")[0] == 0
    assert cli("report", "--write", "kept")[0] == 0
    rows, facts = kept_rows.read(tmp_path / "kept/rows.csv")
    monkeypatch.setattr(verify, "SIGMAS", 1e-3)  # so that a hundredth of a value is not tolerated

    def again(factor, processor, code=""):
        changed = rows.copy()
        changed.loc[changed["seed"] == 0, "value"] *= factor
        if code:
            changed["code"] = code
        told = {"processor": processor} if processor else {}
        here = {name: value for name, value in next(iter(facts.values())).items() if name != "processor"} | told
        return verify.verify(changed[changed["seed"] == 0], here, changed)

    return again


HERE = environment.environment("cpu", 1)["processor"]


def test_on_another_processor_a_value_may_be_like_another_seed_s(five):
    assert five(1, HERE).verdict == "identical"
    assert five(1.01, "family 1").verdict == "like another seed"
    assert five(1.01, "").verdict == "like another seed"  # rows of before 0.2 don't say which it was
    assert "other processor: " in five(1.01, "family 1").why


def test_here_or_by_other_code_or_far_away_it_may_not(five):
    assert five(1.01, HERE).verdict == "different"
    assert five(1.01, "family 1", code="0123").verdict == "different"
    assert five(1e3, "family 1").verdict == "different"


def test_it_takes_four_other_seeds(five, monkeypatch):
    monkeypatch.setattr(verify, "FEWEST", 5)
    assert five(1.01, "family 1").verdict == "different"


def test_where_one_more_seed_might_be():
    rows = pd.DataFrame({"seed": range(5), "value": [9.0, 1.0, 2.0, 3.0, 4.0], "task": "a", "method": "b", "metric": "c",
                         "step": 1, "n": 1, "code": "d"})  # fmt: skip
    row = rows.iloc[0].to_dict()
    row["value"] = 2.5
    width = 5.8409 * math.sqrt(5 / 3) * math.sqrt(1.25)  # t of 3 degrees of freedom, 99.5 %; sd of 1, 2, 3, 4
    assert verify._among([(row, {"value": 2.5 + 0.999 * width})], rows)
    assert not verify._among([(row, {"value": 2.5 + 1.001 * width})], rows)
    assert not verify._among([(row | {"value": 99.0}, {"value": 2.5})], rows)
    assert not verify._among([(row, {"value": None})], rows)


def test_old_rows_and_no_rows_are_mistakes(cli, tmp_path):
    (tmp_path / "rows.csv").write_text(
        "task,method,seed,metric,metric_version,value,se,n,run_key,attempt,role,information\n"
        "ou,ula,0,symkl,1,0.1,0.1,100,a,b,method,LogDensity\n"
    )
    code, _, err = cli("verify", "--rows", "rows.csv")
    assert (code, "budget" in err) == (2, True)
    assert cli("verify", "--out", "nothing")[0] == 2


@pytest.mark.parametrize(
    ("then", "now", "off"),
    [
        ((1.0, 0.1), (1.0, 0.1), 0.0),
        ((1.0, 0.1), (1.0, 0.2), 1e-300),
        ((1.0, 0.1), (1.5, 0.1), 1.0),
        ((1.0, 0.1), (2.0, 0.1), 2.0),
        ((1.0, 0.0), (1.001, 0.0), 1.0),
        ((1.0, None), (1.002, math.nan), 2.0),
        ((0.0, None), (1e-9, None), math.inf),
        ((None, None), (math.nan, None), 0.0),
        ((None, None), (1.0, 0.1), math.inf),
    ],
)
def test_tolerance(then, now, off):
    row, got = ({"value": value, "se": se} for value, se in (then, now))
    assert verify._off(row, got) == pytest.approx(off, rel=1e-9, abs=0.0 if off else 1e-300)


def test_the_choice_is_random_but_repeatable():
    columns = dict.fromkeys(verify.NEEDED, "x")
    points = pd.DataFrame([columns | {"run_key": str(i), "status": "ok"} for i in range(50)])

    def keys(seed):
        return [some["run_key"].iloc[0] for some in verify.pick(points, 5, seed)]

    assert keys(0) == keys(0)
    assert keys(0) != keys(1)
    assert len(set(keys(0))) == 5
    assert len(verify.pick(points, 99, 0)) == 50


def test_a_torn_line_of_verdicts_is_said(tmp_path):
    verdict.keep(tmp_path, verdict.Verdict("ou", "ula", 0, "k", "a", "identical"))
    with (tmp_path / verdict.FILE).open("a") as file:
        file.write('{"task": "ou"\n' + "[" * 100_000 + '\n{"task": 5}\n')
    with (tmp_path / verdict.FILE).open("ab") as file:
        file.write(b"\xff\xfe\n")
    verdicts, strange = verdict.kept(tmp_path)
    assert (len(verdicts), len(strange)) == (1, 4)
