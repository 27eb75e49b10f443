import csv
import math

import numpy as np
import pandas as pd
import pytest

from gwfbench.report.board import changes
from gwfbench.report.board.changes import Change


def rows(method, values, metric="symkl", better="lower", n=100, version=1, task="ou", failed=(), role="method"):
    """One judged law a seed; failed seeds have a row without a metric."""
    plain = {"task": task, "method": method, "step": 1, "role": role, "attempt": "a", "se": 0.1, "t": 1.0}
    judged = [
        plain | {"seed": seed, "metric": metric, "better": better, "metric_version": version, "value": value, "n": n,
                 "status": "ok", "run_key": f"{task}{method}{seed}"}
        for seed, value in enumerate(values) if seed not in failed
    ]  # fmt: skip
    gone = [
        plain | {"seed": seed, "metric": None, "better": "", "metric_version": math.nan, "value": math.nan, "n": math.nan,
                 "status": "oom", "run_key": f"{task}{method}{seed}"}
        for seed in failed
    ]  # fmt: skip
    return judged + gone


def compared(now, then, metrics=None):
    return {(c.method, c.metric): c for c in changes.changes(pd.DataFrame(now), pd.DataFrame(then), metrics)}


NOISE = np.random.default_rng(0).normal(0, 0.02, 5)
BASE = np.array([1.0, 1.2, 0.9, 1.1, 1.3])


@pytest.mark.parametrize(
    ("factor", "better", "outcome"),
    [
        (0.5, "lower", "better"),
        (2.0, "lower", "worse"),
        (2.0, "higher", "better"),
        (0.5, "higher", "worse"),
        (1.0, "lower", "not told apart"),
    ],
)
def test_a_change_in_each_direction(factor, better, outcome):
    now = rows("a", BASE * factor * np.exp(NOISE - NOISE.mean()), better=better)
    found = compared(now, rows("a", BASE, better=better))
    one = found["a", "symkl"]
    assert one.outcome == outcome
    assert one.seeds == 5
    assert one.then == np.median(BASE)
    back = compared(rows("a", BASE, better=better), now)["a", "symkl"]
    assert back.outcome == {"better": "worse", "worse": "better"}.get(outcome, outcome)
    assert back.p == pytest.approx(one.p)


def test_the_same_rows_are_identical_whatever_their_values():
    same = [*rows("a", BASE), *rows("b", [1.0, math.inf, 2.0]), *rows("c", [1.0]), *rows("d", BASE, failed=(1,))]
    found = compared(same, list(reversed(same)))
    assert {one.outcome for one in found.values()} == {"identical"}
    assert changes.sentence(list(found.values())) == "4 cells: 4 identical."


def test_the_test_is_corrected_for_the_number_of_cells():
    rng = np.random.default_rng(1)
    now, then = [], []
    for i in range(200):
        now += rows(f"m{i}", np.exp(rng.normal(0, 0.1, 5)))
        then += rows(f"m{i}", np.exp(rng.normal(0, 0.1, 5)))
    found = compared(now, then)
    assert {one.outcome for one in found.values()} == {"not told apart"}
    now += rows("new", 1e-3 * BASE * np.exp(NOISE))
    found = compared(now, [*then, *rows("new", BASE)])
    assert [key for key, one in found.items() if one.outcome == "better"] == [("new", "symkl")]
    assert next(iter(found)) == ("new", "symkl"), "what has changed comes first"


def test_a_seed_that_fails_now_is_worse_and_one_that_failed_before_is_not():
    whole, broken = rows("a", BASE), rows("a", BASE, failed=(3,))
    one = compared(broken, whole)["a", "symkl"]
    assert (one.outcome, one.why) == ("worse", "fails on seeds that finished before: 3")
    assert compared(whole, broken)["a", "symkl"].outcome == "not told apart"
    lost = compared(rows("a", [1.0, math.inf, 0.9, 1.1, 1.3]), whole)["a", "symkl"]
    assert lost.outcome == "worse", "a value that is infinite has failed too"


def test_what_cannot_be_compared_says_why():
    found = compared(rows("a", BASE, version=2), rows("a", BASE))["a", "symkl"]
    assert (found.outcome, found.why) == ("incomparable", "version 1 of the metric, now 2")
    found = compared(rows("a", BASE, n=200), rows("a", BASE))["a", "symkl"]
    assert (found.outcome, found.why) == ("incomparable", "n = 100, now 200")
    found = compared(rows("a", [1.0]), rows("a", [2.0]))["a", "symkl"]
    assert (found.outcome, found.why, found.seeds) == ("not told apart", "fewer than two seeds in common", 1)


def test_only_now_and_only_then():
    now = [*rows("a", BASE), *rows("a", BASE, metric="mmd"), *rows("b", BASE), *rows("a", BASE, task="gmm")]
    then = [*rows("a", BASE), *rows("c", BASE), *rows("a", BASE, task="blr")]
    found = changes.changes(pd.DataFrame(now), pd.DataFrame(then))
    places = {(one.task, one.method, one.metric): one.outcome for one in found}
    assert places == {
        ("ou", "a", "symkl"): "identical",
        ("ou", "a", "mmd"): "only now",
        ("ou", "b", "symkl"): "only now",
        ("ou", "c", "symkl"): "only then",
        ("gmm", "a", "symkl"): "only now",
        ("blr", "a", "symkl"): "only then",
    }
    text = changes.markdown(found)
    assert "Only now: " in text
    assert "b on ou (symkl)" in text
    assert "a on blr (symkl)" in text
    chosen = changes.changes(pd.DataFrame(now), pd.DataFrame(then), ["mmd"])
    assert [one.metric for one in chosen] == ["mmd"]


def test_the_text_lists_what_has_changed():
    text = changes.markdown(
        [Change("ou", "a", "symkl", "worse", 0.123456, 0.2, 5, 0.001), Change("ou", "b", "symkl", "identical")]
    )
    assert text.startswith("2 cells: 1 worse, 1 identical.")
    assert "| worse | ou     | a        | symkl    | 0.123  | 0.2   | 5       | 0.001 |" in text


def test_the_command_says_by_its_exit_code_whether_something_is_worse(cli, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new.csv"
    old.mkdir()
    table = pd.DataFrame(rows("ula", BASE))
    table.to_csv(old / "rows.csv", index=False)
    pd.DataFrame(rows("ula", 3 * BASE * np.exp(NOISE))).to_csv(new, index=False)
    code, out, _ = cli("report", "against", str(old), "--rows", str(new))
    assert code == 1
    assert "1 cells: 1 worse." in out
    code, out, _ = cli("report", "against", str(new), "--rows", str(old / "rows.csv"), "--format", "csv")
    assert code == 0
    line = next(csv.DictReader(out.splitlines()))
    assert (line["method"], line["outcome"], line["seeds"]) == ("ula", "better", "5")
    assert cli("report", "against", str(old), "--rows", str(old / "rows.csv"))[0] == 0
    assert cli("report", "against", str(tmp_path / "none"), "--rows", str(new))[0] == 2
    code, _, err = cli("report", "against", str(old), "--rows", str(new), "--metric", "w3")
    assert code == 2
    assert "w3" in err
