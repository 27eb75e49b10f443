import math

import numpy as np
import pandas as pd
import pytest

from gwfbench.report import tables
from gwfbench.report.leaderboard import alarms, leaderboard


def rows(method, values, role="method", se=0.1, better="lower", status="ok", info="LogDensity", metric="symkl"):
    """Two judged times a seed; the first one must not count."""
    return [
        {
            "task": "ou", "method": method, "seed": seed, "step": step, "t": 0.5 * step, "metric": metric, "better": better, "metric_version": 1,
            "role": role, "value": value if step == 2 else 99.0, "se": se, "n": 100, "seconds": 2.0 * step,
            "score_calls": 10 * step, "sample_seconds": 0.5, "sample_calls": 1.0, "status": status, "reason": "",
            "information": info, "run_key": f"{method}{seed}", "attempt": "a",
        }
        for seed, value in enumerate(values)
        for step in (1, 2)
    ]  # fmt: skip


def failure(method, seed, status):
    line = dict.fromkeys(rows("x", [0.0])[0]) | {"task": "ou", "method": method, "seed": seed, "status": status}
    return [line | {"role": "method", "information": "LogDensity", "run_key": f"{method}{seed}", "attempt": "a"}]


FLOOR = rows("exact", [1.0, 1.1, 0.9], role="floor", info="")


def board(*parts):
    return leaderboard(pd.DataFrame([line for part in parts for line in part])).set_index("method")


def test_medians_intervals_and_costs_at_the_last_time():
    table = board(FLOOR, rows("good", [3.0, 4.0, 8.0]))
    line = table.loc["good"]
    assert (line["symkl"], line["t"], line["seconds"], line["score_calls"]) == (4.0, 1.0, 4.0, 20)
    assert line["symkl_low"] == 3.0
    assert line["symkl_high"] == 8.0
    assert line["symkl_verdict"] == ""
    assert line["seeds"] == "3/3"
    one = board(rows("one", [3.0])).loc["one"]
    assert math.isnan(one["symkl_low"])


@pytest.mark.parametrize(
    ("values", "verdict"),
    [([1.0, 1.0, 1.1], "floor"), ([0.9, 1.1, 0.95], "floor"), ([2.0, 2.0, 2.0], ""), ([0.2, 0.3, 0.1], "alarm")],
)
def test_verdicts_against_the_floor(values, verdict):
    table = board(FLOOR, rows("it", values))
    assert table.loc["it", "symkl_verdict"] == verdict
    assert table.loc["exact", "symkl_verdict"] == ""
    assert len(alarms(table.reset_index())) == (verdict == "alarm")


def test_the_direction_turns_the_verdict():
    up = {"better": "higher"}
    table = board(rows("exact", [0.9, 0.9], role="floor", se=0.001, **up), rows("a", [0.99, 0.99], se=0.001, **up))
    assert table.loc["a", "symkl_verdict"] == "alarm"
    table = board(rows("exact", [0.9] * 2, role="floor", se=0.001, **up), rows("a", [0.5] * 2, se=0.001, **up))
    assert table.loc["a", "symkl_verdict"] == ""


def test_failures_are_counted_and_shown_never_dropped():
    table = board(FLOOR, rows("half", [2.0, 3.0]) + failure("half", 2, "diverged"), failure("none", 0, "error"))
    assert table.loc["half", "seeds"] == "2/3, 1 diverged"
    assert table.loc["none", "seeds"] == "0/1, 1 error"
    assert math.isnan(table.loc["none", "symkl"])
    assert list(table.index) == ["exact", "half", "none"]


def test_a_run_cut_before_the_last_time_has_no_value_there():
    cut = [line for line in rows("cut", [0.5], status="budget") if line["step"] == 1]
    table = board(FLOOR, cut)
    assert math.isnan(table.loc["cut", "symkl"])
    assert table.loc["cut", "seeds"] == "0/1, 1 budget"


def test_order_floors_then_methods_by_information_and_value_then_controls():
    table = board(
        rows("still", [9.0], role="control", info=""), rows("b", [3.0]), rows("a", [5.0]),
        rows("s", [1.0], info="TargetSamples"), FLOOR,
    )  # fmt: skip
    assert list(table.index) == ["exact", "b", "a", "s", "still"]


def test_null_is_never_zero():
    table = board(FLOOR, rows("nulls", [None, None, None]))
    assert math.isnan(table.loc["nulls", "symkl"])


def test_a_pure_function_of_rows():
    data = pd.DataFrame([*FLOOR, *rows("a", [3.0, 4.0])])
    copy = data.copy()
    first = leaderboard(data)
    pd.testing.assert_frame_equal(first, leaderboard(data))
    pd.testing.assert_frame_equal(data, copy)
    shuffled = data.sample(frac=1, random_state=np.random.default_rng(0))
    pd.testing.assert_frame_equal(first.set_index("method"), leaderboard(shuffled).set_index("method"), check_like=True)


def test_markdown_says_everything():
    table = leaderboard(
        pd.DataFrame([*FLOOR, *rows("m", [1.0, 1.0, 1.05]), *rows("s", [9.0], role="control", info="")])
    )
    text = tables.markdown(table)
    assert "## ou at t = 1" in text
    assert "<= floor 1 [1, 1.1]" in text
    assert text.index("exact") < text.index("| m ") < text.index("| s ")
    assert tables.NOTES in text
