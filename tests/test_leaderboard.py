import itertools
import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from gwfbench.errors import UserError
from gwfbench.report.board import tables
from gwfbench.report.board.ablation import ALL, ablation, markdown
from gwfbench.report.board.leaderboard import Seeds, alarms, boards, frame, leaderboard, left_out
from gwfbench.report.stats import interval


def rows(method, values, role="method", se=0.1, better="lower", status="ok", info="LogDensity", metric="symkl"):
    """Two judged times a seed; the first one must not count."""
    return [
        {
            "task": "ou", "method": method, "seed": seed, "step": step, "t": 0.5 * step, "metric": metric, "better": better, "metric_version": 1,
            "role": role, "value": value if step == 2 else 99.0, "se": se, "n": 100, "seconds": 2.0 * step,
            "score_calls": 10 * step, "sample_seconds": 0.5, "sample_calls": 1.0, "status": status, "reason": "",
            "information": info, "track": "default", "run_key": f"{method}{seed}", "attempt": "a",
        }
        for seed, value in enumerate(values)
        for step in (1, 2)
    ]  # fmt: skip


def failure(method, seed, status):
    line = dict.fromkeys(rows("x", [0.0])[0]) | {"task": "ou", "method": method, "seed": seed, "status": status}
    return [
        line
        | {
            "role": "method",
            "information": "LogDensity",
            "track": "default",
            "run_key": f"{method}{seed}",
            "attempt": "a",
        }
    ]


FLOOR = rows("exact", [1.0, 1.1, 0.9], role="floor", info="")


def table_of(*parts):
    return pd.DataFrame([line for part in parts for line in part])


def board(*parts):
    return leaderboard(table_of(*parts)).set_index("method")


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
    assert len(alarms(boards(table_of(FLOOR, rows("it", values))))) == (verdict == "alarm")


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


def test_what_a_method_used_is_the_union_over_its_runs():
    table = board(FLOOR, rows("a", [3.0, 4.0], info="Initial LogDensity"), failure("a", 2, "error"))
    assert list(table.index) == ["exact", "a"]
    assert table.loc["a", "information"] == "Initial LogDensity"


def test_a_run_that_diverged_on_its_way_to_a_limit_is_a_failure():
    """Its laws before were judged, and are no results."""
    good, lost = rows("good", [3.0, 4.0]), rows("lost", [2.0, 2.5])
    good, lost = ([line | {"t": None} for line in part] for part in (good, lost))
    lost = [line | {"status": "diverged"} if line["seed"] == 1 else line for line in lost]
    table = leaderboard(pd.DataFrame([*(line | {"t": None} for line in FLOOR), *good, *lost])).set_index("method")
    assert table.loc["lost", "seeds"] == "1/2, 1 diverged"
    assert table.loc["lost", "symkl"] == 2.0
    assert table.loc["good", "seeds"] == "2/2"


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
    table = table_of(FLOOR, rows("m", [1.0, 1.0, 1.05]), rows("s", [9.0], role="control", info=""))
    text = tables.markdown(boards(table))
    assert "## ou at t = 1" in text
    assert "<= floor 1 [1, 1.1]" in text
    assert text.index("exact") < text.index("| m ") < text.index("| s ")
    assert tables.NOTES in text


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_the_interval_is_the_bootstrap_over_all_resamples(size):
    values = sorted(np.random.default_rng(size).normal(size=size))
    every = np.sort([np.median(pick) for pick in itertools.product(values, repeat=size)])
    low, high = (every[math.ceil(level * len(every) - 1e-9) - 1] for level in (0.025, 0.975))
    assert interval(values) == pytest.approx((low, high), rel=1e-12)


def test_the_interval_covers_and_shrinks():
    """At 25 and 26 values of a skewed law about 95 % of the intervals hold the median; tied values have no width."""
    rng = np.random.default_rng(0)
    for size in (25, 26):
        draws = np.sort(rng.exponential(size=(400, size)))
        held = np.mean([low <= math.log(2) <= high for low, high in map(interval, draws.tolist())])
        assert abs(held - 0.95) < 5 * math.sqrt(0.95 * 0.05 / 400)
    assert interval([2.0] * 7) == (2.0, 2.0)
    assert all(math.isnan(end) for end in interval([1.0]))


def test_values_of_another_n_or_version_are_never_in_one_cell():
    some = rows("some", [3.0, 4.0, 50.0])
    for line in some[4:]:
        line["n"] = 7
    table = board(FLOOR, some)
    assert (table.loc["some", "symkl"], table.loc["some", "symkl_n"], table.loc["some", "symkl_left"]) == (3.5, 100, 1)
    assert left_out(boards(table_of(FLOOR, some)))[0].startswith("left out: 1 values of symkl for some on ou")
    newer = [line | {"metric_version": 2} for line in rows("newer", [3.0])]
    table = board(FLOOR, newer)
    assert math.isnan(table.loc["exact", "symkl"])
    assert table.loc["exact", "symkl_left"] == 3


def test_there_is_no_verdict_against_a_floor_at_another_n():
    better = [line | {"n": 9} for line in rows("better", [0.1, 0.1, 0.1])]
    table = board(FLOOR, better)
    assert table.loc["better", "symkl_verdict"] == ""
    assert "0.1 [0.1, 0.1] (n = 9)" in tables.markdown(boards(table_of(FLOOR, better)))


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_work_in_proportion(calls):
    names = [f"m{i}" for i in range(5)]
    lines = [
        line | {"task": f"ou:dim={task}", "metric": name, "run_key": f"{task} {line['run_key']}"}
        for task in range(20)
        for method in range(20)
        for name in names
        for line in rows(f"a{method}", [1.0] * 25)
    ]
    data = pd.DataFrame(lines)
    assert len(data) == 100_000
    assert len(leaderboard(data)) == 400
    assert calls(leaderboard, data) <= 10 * calls(leaderboard, data[:10_000])


def test_a_board_says_which_seeds_failed_and_how():
    (made,) = boards(table_of(FLOOR, rows("half", [2.0, 3.0]), failure("half", 4, "oom"), failure("half", 7, "oom")))
    line = next(line for line in made.lines if line.method == "half")
    assert line.seeds == Seeds(2, {4: "oom", 7: "oom"})
    assert str(line.seeds) == "2/4, 2 oom"
    assert str(Seeds(3)) == "3/3"
    assert line.cells["symkl"].values == {0: (2.0, 0.1), 1: (3.0, 0.1)}
    assert math.isnan(line.value("a metric that it lacks"))


def test_each_task_has_its_own_order_of_metrics_on_the_board_and_in_its_tables():
    """The first metric is the one that tiers and the detectable difference are about, whatever the task before has."""
    one = rows("a", [1.0, 2.0, 3.0], metric="w2") + rows("a", [1.0, 2.0, 3.0], metric="symkl")
    other = [
        line | {"task": "gmm"}
        for name in ("symkl", "w2")
        for k in "ab"
        for line in rows(k, [1.0, 2.0, 4.0], metric=name)
    ]
    made = boards(table_of(one, other))
    assert [(board.task, board.metrics) for board in made] == [("ou", ["w2", "symkl"]), ("gmm", ["symkl", "w2"])]
    text = tables.markdown(made).split("## gmm")[1]
    assert re.search(r"\| method +\| tier +\| symkl +\| w2 ", text)
    assert "Least difference in symkl between" in text
    assert list(frame(made).columns) == list(leaderboard(table_of(one, other)).columns)


def effects(*parts, change="step=inf"):
    return pd.DataFrame(ablation(table_of(*parts), change, ["symkl"])).set_index("method")


def test_holm_counts_the_methods_of_all_tasks_and_leaves_alone_what_is_over_all_of_them():
    before, after = [1.0, 2.0, 4.0, 3.0], [1.5, 2.2, 7.0, 3.1]
    pairs = [("gwf", "gwf:step=inf"), ("gan", "gan:step=inf")]
    on_two = [
        line | {"task": task}
        for task in ("ou", "gmm")
        for names in pairs
        for name, values in zip(names, (before, after), strict=True)
        for line in rows(name, values)
    ]
    found = ablation(table_of(on_two), "step=inf", ["symkl"])
    alone = effects(rows("gwf", before), rows("gwf:step=inf", after)).loc["gwf", "p"]
    ps = {(effect.task, effect.method): effect.p for effect in found}
    assert len(ps) == 6
    assert [ps[task, name] for task in ("ou", "gmm") for name in ("gwf", "gan")] == pytest.approx(
        [min(1, 4 * alone)] * 4
    )
    assert ps["ou", ALL] == pytest.approx(alone)


def test_a_constant_ratio_is_found_and_a_mixed_one_is_not():
    base, noisy = [1.0, 2.0, 4.0], [1.0, 1.0, 1.0]
    found = effects(
        FLOOR, rows("gwf:lr=0.1", base), rows("gwf:step=inf,lr=0.1", [3 * value for value in base]),
        rows("gwf", noisy), rows("gwf:step=inf", [0.5, 2.0, 1.0]), rows("gwf:step=1.0", noisy), rows("gan:step=inf", noisy),
    )  # fmt: skip
    assert list(found.index) == ["gwf:lr=0.1", "gwf", ALL]
    line = found.loc["gwf:lr=0.1"]
    assert (line["before"], line["after"], line["seeds"], line["ratio"]) == (
        pytest.approx(2),
        pytest.approx(6),
        3,
        True,
    )
    assert [line["effect"], line["low"], line["high"]] == pytest.approx([3, 3, 3])
    assert line["p"] < 1e-6
    assert found.loc["gwf", "effect"] == pytest.approx(1)
    assert found.loc["gwf", "p"] == 1
    assert found.loc[ALL, "effect"] == pytest.approx(math.sqrt(3))


def test_the_interval_and_p_are_the_paired_t_test_s():
    before, after = [1.0, 2.0, 4.0, 3.0], [1.5, 2.2, 7.0, 3.1]
    line = effects(rows("gwf", before), rows("gwf:step=inf", after)).loc["gwf"]
    test = scipy_stats.ttest_rel([math.log(value) for value in after], [math.log(value) for value in before])
    ends = test.confidence_interval()
    assert [line["low"], line["high"]] == pytest.approx([math.exp(ends.low), math.exp(ends.high)])
    assert line["p"] == pytest.approx(test.pvalue)


def test_differences_where_values_are_not_positive_and_higher_is_better():
    line = effects(rows("gwf", [-1.0, 0.5]), rows("gwf:step=inf", [0.0, 2.5])).loc["gwf"]
    assert (line["effect"], line["ratio"]) == (pytest.approx(1.5), False)
    up = effects(rows("gwf", [1.0, 2.0], better="higher"), rows("gwf:step=inf", [2.0, 4.0], better="higher")).loc["gwf"]
    assert (up["before"], up["after"], up["effect"]) == (1.5, 3.0, pytest.approx(1.5))


def test_a_failed_seed_is_the_worst_value_of_the_board():
    still = rows("still", [50.0, 50.0], role="control")
    found = effects(still, rows("gwf", [1.0, 1.0]), rows("gwf:step=inf", [1.0]), failure("gwf:step=inf", 1, "error"))
    assert found.loc["gwf", "effect"] == pytest.approx(math.sqrt(50))


def test_text_and_what_can_t_be_compared():
    points = pd.DataFrame(rows("gwf", [1.0, 2.0]) + rows("gwf:step=inf", [2.0, 4.0]))
    text = markdown(ablation(points, "step=inf", ["symkl"]), "step=inf")
    assert "## What `step=inf` does to symkl" in text
    assert "| gwf" in text
    assert "x 2 [2, 2] *" in text
    with pytest.raises(UserError, match="ablate lr=3"):
        ablation(points, "lr=3")
