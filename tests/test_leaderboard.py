import math
import operator
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from gwfbench.errors import UserError
from gwfbench.report.board import tables, terminal
from gwfbench.report.board.ablation import ALL, ablation, markdown
from gwfbench.report.board.leaderboard import Seeds, alarms, boards, frame, leaderboard, left_out
from gwfbench.report.stats import interval, on_scale


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
    assert (line["symkl_low"], line["symkl_high"]) == pytest.approx(interval([3.0, 4.0, 8.0], logs=True))
    assert line["symkl_verdict"] == ""
    assert line["seeds"] == "3/3"
    one = board(rows("one", [3.0])).loc["one"]
    assert math.isnan(one["symkl_low"])


@pytest.mark.parametrize(
    ("values", "still", "verdict"),
    [
        ([1.01, 1.11, 0.91], 20.0, "floor"), ([0.9, 1.15, 0.95], 20.0, "floor"),
        ([0.9, 1.15, 0.95], 3.0, ""),  # not told from the floor, but not shown to be near it
        ([2.0, 2.0, 2.0], 20.0, ""), ([2.0, 2.0, 2.0], 200.0, ""),  # near it, and told from it
        ([0.2, 0.3, 0.1], 20.0, "alarm"),
        ([0.2, 0.3, 0.1], 1.05, ""), ([1.01, 1.11, 0.91], 1.05, ""),  # a metric that judges nothing
    ],
)  # fmt: skip
def test_verdicts_against_the_floor(values, still, verdict):
    made = table_of(FLOOR, rows("it", values), rows("still", [still] * 3, role="control", info=""))
    table = leaderboard(made).set_index("method")
    assert table.loc["it", "symkl_verdict"] == verdict
    assert table.loc["exact", "symkl_verdict"] == ""
    assert len(alarms(boards(made))) == (verdict == "alarm")
    assert any("can't tell still from exact" in remark for remark in boards(made)[0].remarks) == (still == 1.05)


def test_the_floor_is_given_in_error_in_one_case_of_twenty():
    """To a method that is off by the margin, 5 % of the way to still; and it is given where all is the same."""
    rng = np.random.default_rng(0)
    marks = {
        "still": rows("still", [11.0], role="control", info="", se=0.0),
        "exact": rows("exact", [1.0], role="floor", se=0.0),
    }
    for off, se, low, high in ((0.5, 0.1, 0.0, 0.08), (0.0, 0.1, 0.9, 1.0), (0.0, 0.4, 0.0, 0.08)):
        values = 1.0 + off + se * rng.normal(size=500)
        made = leaderboard(
            table_of(*marks.values(), *(rows(f"m{i}", [value], se=se) for i, value in enumerate(values)))
        )
        found = (made.loc[made["role"] == "method", "symkl_verdict"] == "floor").mean()
        assert low <= found <= high


@pytest.mark.parametrize("who", ["exact", "still", "it"])
def test_an_unknown_standard_error_gives_no_verdict(who):
    parts = {
        "exact": rows("exact", [1.0] * 3, role="floor", info="", se=0.0),
        "still": rows("still", [9.0] * 3, role="control", info="", se=0.0),
        "it": rows("it", [0.99999] * 3, se=0.0), "other": rows("other", [1.0 + 1e-12] * 3, se=0.0),
    }  # fmt: skip
    before = board(*parts.values())["symkl_verdict"]
    assert (before["it"], before["other"]) == ("alarm", "floor")
    parts[who] = [line | {"se": None} for line in parts[who]]
    after = board(*parts.values())["symkl_verdict"]
    if who != "still":  # which only has to be seen to be worse
        assert after["it"] == ""
    assert after["other"] == ("" if who == "exact" else "floor")


def both(method, seeds, **values):
    """Rows in two metrics."""
    return [line for name, own in values.items() for line in rows(method, own[:seeds], metric=name, se=10.0)]


def test_the_values_of_exact_itself_are_an_alarm():
    floor = [
        line | {"role": "floor"} for line in both("exact", 2, w2=[0.17320508075, 0.2], sliced_w2=[0.31622776601, 0.3])
    ]
    copy = both("copy", 2, w2=[0.17320508075, 0.25], sliced_w2=[0.31622776601, 0.35])
    one = both("one", 2, w2=[0.17320508075, 0.25], sliced_w2=[0.4, 0.35])  # a chance
    table = board(floor, copy, one)
    assert list(table.loc["copy", ["w2_verdict", "sliced_w2_verdict"]]) == ["alarm", "alarm"]
    assert list(table.loc["one", ["w2_verdict", "sliced_w2_verdict"]]) == ["", ""]
    counts = {"accuracy": [171 / 200, 170 / 200], "recall": [0.25, 1.0], "outside": [0.0, 0.0]}
    floor = [line | {"role": "floor"} for line in both("exact", 2, **counts)]
    assert not alarms(boards(table_of(floor, both("it", 2, **counts)))), "counts may be equal by chance"


def test_what_is_far_below_the_floor_is_an_alarm():
    floor = rows("exact", [4.9e-6, 7e-6, 3e-6], role="floor", info="", se=4e-6)
    still = rows("still", [0.2] * 3, role="control", info="")
    table = board(
        floor, still, rows("matched", [-2e-16, 1e-17, 0.0], se=0.0), rows("once", [-2e-16], se=0.0),
        rows("lucky", [1e-6, 2e-7, 2e-6], se=3e-6),
    )["symkl_verdict"]  # fmt: skip
    assert (table["matched"], table["once"]) == ("alarm", "alarm")
    assert table["lucky"] != "alarm"
    rng = np.random.default_rng(1)  # chi-squared of one degree of freedom, the law with the most mass near 0
    chance = [rows(f"m{i}", list(rng.chisquare(1, size=3)), se=5.0) for i in range(300)]
    made = table_of(rows("exact", [1.0] * 3, role="floor", se=5.0), rows("still", [90.0] * 3, role="control"), *chance)
    assert not alarms(boards(made))


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


def test_methods_with_and_without_p_0_are_compared_and_those_of_other_information_are_not():
    own = {"a": "TargetSamples", "b": "Initial TargetSamples", "c": "Initial LogDensity", "d": "LogDensity"}
    noise = np.random.default_rng(3)
    made = [rows(name, 3.0 ** (i + 1) * (1 + 0.05 * noise.normal(size=5)), info=info)
            for i, (name, info) in enumerate(own.items())]  # fmt: skip
    table = board(rows("exact", [1.0, 1.1, 0.9, 1.0, 1.0], role="floor", info=""), *made)
    assert [table.loc[name, "tier"] for name in own] == ["a", "b", "a", "b"]
    assert list(table.index)[1:5] == ["c", "d", "a", "b"], "what is used of the target, then the value"


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


@pytest.mark.parametrize("null", [None, math.nan, math.inf])
def test_what_has_no_value_counts_as_the_worst_and_says_so(null):
    still = rows("still", [9.0] * 5, role="control", info="")
    some = [line | {"worst": "infinite"} for line in rows("some", [0.0135, null, null, null, null])]
    one = [line | {"worst": "ValueError: no"} for line in rows("one", [1.0, 1.0, null, 1.0, 1.2])]
    made = table_of(rows("exact", [1.0] * 5, role="floor", info=""), still, some, one)
    table = leaderboard(made).set_index("method")
    assert (table.loc["some", "symkl"], table.loc["some", "symkl_high"]) == (math.inf, math.inf)
    assert (table.loc["one", "symkl"], table.loc["one", "symkl_low"], table.loc["one", "symkl_high"]) == (
        1,
        0,
        math.inf,
    )
    assert list(table["symkl_worst"]) == [0, 1, 4, 0]
    assert list(table.index) == ["exact", "one", "some", "still"]
    assert table.loc["some", "seeds"] == "5/5, 4 without a value"
    assert table.loc["some", "symkl_verdict"] == ""
    text = tables.markdown(boards(made))
    assert "| inf [0, inf] " in text
    assert "some: symkl under seed 1, 2, 3, 4 counts as the worst value: infinite." in text
    assert "one: symkl under seed 2 counts as the worst value: ValueError: no." in text
    scaled, _ = on_scale(
        {"some": {seed: value for seed, (value, _) in boards(made)[0].lines[2].cells["symkl"].values.items()}}, [9.0]
    )
    assert sorted(scaled["some"].values()) == pytest.approx([math.log(0.0135), *[math.log(9.0)] * 4])


def test_where_higher_is_better_the_worst_is_below_all():
    up = {"better": "higher"}
    table = board(
        rows("a", [0.9, None, None], **up), rows("b", [0.5, 0.6, 0.7], **up), rows("still", [0.1], role="control", **up)
    )
    assert (table.loc["a", "symkl"], table.loc["b", "symkl"]) == (-math.inf, 0.6)
    assert list(table.index) == ["b", "a", "still"]


def test_a_metric_that_nobody_has_is_left_away():
    parts = [rows(name, [1.0, 2.0]) + rows(name, [None, None], metric="ksd") for name in ("a", "b", "still")]
    (made,) = boards(table_of(*parts))
    assert made.metrics == ["symkl"]
    assert any("ksd is left out" in remark for remark in made.remarks)
    assert all(line.seeds.worst == 0 for line in made.lines)


def changed(lines, key, **values):
    return [line | values | {"run_key": f"{line['run_key']}{key}"} for line in lines]


def test_precision_device_and_budget_make_lines_of_their_own():
    plain = rows("ula", [3.0, 4.0])
    exact64 = changed(rows("exact", [0.1], role="floor", info="", se=0.01), "d", dtype="float64")
    still64 = changed(rows("still", [9.0], role="control", info="", se=0.01), "d", dtype="float64")
    parts = [
        FLOOR, plain, changed(rows("ula", [5.0]), "d", dtype="float64"), changed(rows("ula", [7.0]), "c", device="cuda"),
        changed(rows("ula", [8.0, 8.5], status="budget"), "b", budget="steps=5.0"),
        changed(rows("ula", [4.5, 4.6, 4.7]), "w", budget="seconds=60.0"),  # which ended none
        changed(rows("blob", [0.1], se=0.01), "d", dtype="float64"), exact64, still64, rows("still", [9.0], role="control"),
    ]  # fmt: skip
    plain = {"dtype": "float32", "device": "cpu", "budget": ""}
    table = board(*([plain | line for line in part] for part in parts))
    names = {name: table.loc[name, "symkl"] for name in table.index if name.startswith("ula")}
    assert names.keys() == {"ula", "ula [float64]", "ula [cuda]", "ula [budget steps=5]"}
    assert (names["ula [float64]"], names["ula [cuda]"], names["ula [budget steps=5]"]) == (5.0, 7.0, 8.25)
    assert table.loc["blob", "symkl_verdict"] == "floor", "next to exact of the same precision"
    assert table.loc["ula [float64]", "seeds"] == "1/1"


def test_what_is_left_out_says_why():
    old = [line | {"metric_version": 1} for line in rows("old", [3.0, 4.0])]
    new = [line | {"metric_version": 2} for line in rows("new", [3.0, 4.0, 5.0])]
    for line in new:
        line["n"] = 7 if line["seed"] == 2 else line["n"]
    again = [line | {"attempt": "b", "value": 1.0} for line in new if line["seed"] == 0]
    codes = [line | {"code": f"c{line['seed']}"} for line in rows("mixed", [1.0, 2.0])]
    (made,) = boards(table_of(old, new, again, [line | {"metric_version": 2} for line in codes]))
    said = "\n".join(made.remarks)
    assert "Left out: 2 values of symkl for old, made by an older version of the metric;" in said
    assert "Left out: 1 values of symkl for new, at another number of points;" in said
    assert "Left out: 1 values of symkl for new, of another attempt at the same seed." in said
    assert "The runs of mixed were made by 2 versions of the code." in said


def test_a_pure_function_of_rows():
    data = pd.DataFrame([*FLOOR, *rows("a", [3.0, 4.0])])
    copy = data.copy()
    first = leaderboard(data)
    pd.testing.assert_frame_equal(first, leaderboard(data))
    pd.testing.assert_frame_equal(data, copy)
    shuffled = data.sample(frac=1, random_state=np.random.default_rng(0))
    pd.testing.assert_frame_equal(first.set_index("method"), leaderboard(shuffled).set_index("method"), check_like=True)


def test_markdown_says_everything():
    still = rows("still", [90.0] * 3, role="control", info="")
    table = table_of(FLOOR, rows("m", [1.01, 1.0, 1.05]), still, rows("s", [9.0], role="control", info=""))
    text = tables.markdown(boards(table))
    assert "## ou at t = 1" in text
    assert "| <= floor 1.01 [0." in text
    assert text.index("exact") < text.index("| m ") < text.index("| s ")
    assert tables.NOTES in text


def test_values_of_another_n_or_version_are_never_in_one_cell():
    some = rows("some", [3.0, 4.0, 50.0])
    for line in some[4:]:
        line["n"] = 7
    table = board(FLOOR, some)
    assert (table.loc["some", "symkl"], table.loc["some", "symkl_n"], table.loc["some", "symkl_left"]) == (3.5, 100, 1)
    assert left_out(boards(table_of(FLOOR, some)))[0].startswith(
        "ou: Left out: 1 values of symkl for some, at another n"
    )
    newer = [line | {"metric_version": 2} for line in rows("newer", [3.0])]
    table = board(FLOOR, newer)
    assert math.isnan(table.loc["exact", "symkl"])
    assert table.loc["exact", "symkl_left"] == 3


def test_there_is_no_verdict_against_a_floor_at_another_n():
    better = [line | {"n": 9} for line in rows("better", [0.1, 0.1, 0.1])]
    table = board(FLOOR, better)
    assert table.loc["better", "symkl_verdict"] == ""
    assert "| 0.1 [0.1, 0.1] (n = 9)" in tables.markdown(boards(table_of(FLOOR, better)))


def test_the_terminal_says_what_the_seeds_can_tell_and_takes_no_markup(capsys):
    few = [
        line | {"task": "[/]"} for line in rows("[red]x", [1.0, 2.0]) + rows("b", [2.0, 1.5]) + failure("c", 0, "oom")
    ]
    terminal.print_boards(boards(table_of([line | {"task": "[/]"} for line in few])))
    text = " ".join(capsys.readouterr().out.split())
    assert "[/] at t = 1" in text
    assert "[red]x" in text
    assert "(density: too few seeds for tiers)" in text
    assert "No tier for c: no seed has a value." in text
    terminal.print_boards(boards(table_of(FLOOR, [line | {"worst": "infinite"} for line in rows("lost", [1.0, None])])))
    assert "lost: symkl under seed 1 counts as the worst value: infinite." in capsys.readouterr().out


@pytest.mark.parametrize(("seeds", "letters"), [(1, False), (2, False), (3, False), (10, True)])
def test_letters_are_given_where_the_seeds_can_tell_a_factor_of_three(seeds, letters):
    rng = np.random.default_rng(5)
    parts = [rows(f"m{i}", np.exp(0.3 * rng.normal(size=seeds)).tolist()) for i in range(8)]
    parts.append(failure("lost", 0, "error"))
    (made,) = boards(table_of(*parts))
    tiers = {line.method: line.tier for line in made.lines}
    assert tiers.pop("lost") == ""
    assert made.lines[-1].method == "lost"
    assert set(tiers.values()) == ({"a"} if letters else {""})
    assert ("too few seeds" in "".join(tables.power(made))) != letters


def test_one_of_two_that_failed_on_all_seeds_shares_no_tier():
    (made,) = boards(table_of(rows("good", [1.0, 1.1]), failure("bad", 0, "error") + failure("bad", 1, "error")))
    assert [(line.method, line.tier) for line in made.lines] == [("good", ""), ("bad", "")]
    assert made.graded["bad"].why == "no seed has a value"


def test_what_is_told_apart_by_few_seeds_has_letters_and_a_warning():
    """One pair of four methods that differ by a factor of a million, and noise in which a factor of 3 is lost."""
    rng = np.random.default_rng(2)
    shift = {"a": 0.0, "b": 0.0, "c": 0.0, "d": 14.0}
    parts = [rows(name, np.exp(by + 0.8 * rng.normal(size=4)).tolist()) for name, by in shift.items()]
    (made,) = boards(table_of(*parts))
    tiers = {line.method: line.tier for line in made.lines}
    assert tiers["d"] not in tiers["a"]
    assert "a shared letter says little" in tables.power(made)[0]


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


def test_killed_runs_count_as_not_run_and_are_named():
    """Where as many seeds failed, and so are as bad as `still`, the better one loses its letter."""
    many = [1.0, 1.01, 0.99, 1.02, 0.98, 1.0]
    parts = (
        FLOOR,
        rows("good", many),
        rows("bad", [1.2 * value for value in many] * 2),
        rows("still", [50.0] * 12, "control"),
    )

    def board(*more):
        return boards(table_of(*parts, *more))[0]

    started = [row | {"seed": 6, "run_key": "good6", "status": "killed"} for row in rows("good", [0.9])]
    made = board(started, *(failure("good", seed, "killed") for seed in range(7, 12)), failure("never", 0, "killed"))
    lines, plain = {line.method: line for line in made.lines}, {line.method: line for line in board().lines}
    assert str(lines["good"].seeds) == "6/12, 6 killed"
    assert str(lines["never"].seeds) == "0/1, 1 killed"
    assert lines["good"].cells == plain["good"].cells
    assert [lines[name].tier for name in ("good", "bad", "never")] == ["a", "b", ""]
    assert made.remarks == ["Killed, and not counted until run again: good (6), never (1).", *board().remarks]
    failed = board(*(failure("good", seed, "error") for seed in range(6, 12)))
    assert next(line for line in failed.lines if line.method == "good").tier != "a"


def test_each_task_has_its_own_order_of_metrics_on_the_board_and_in_its_tables():
    """The first metric is the one that tiers and the detectable difference are about, whatever the task before has."""
    both = rows("a", [1.0, 2.0, 3.0], metric="w2") + rows("a", [1.0, 2.0, 3.0], metric="symkl")
    one = [line | {"task": "strange"} for line in both]
    other = [
        line | {"task": "stranger"}
        for name in ("symkl", "w2")
        for k in "ab"
        for line in rows(k, [1.0, 2.0, 4.0], metric=name)
    ]
    made = boards(table_of(one, other))
    assert [(board.task, board.metrics) for board in made] == [
        ("strange", ["w2", "symkl"]),
        ("stranger", ["symkl", "w2"]),
    ]
    text = tables.markdown(made).split("## stranger")[1]
    assert re.search(r"\| method +\| tier +\| symkl +\| w2 ", text)
    assert "No tier for a, b: too few seeds." in text
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


def test_a_ratio_is_found_and_a_mixed_one_is_not():
    base, noisy = [1.0, 2.0, 4.0], [1.0, 1.0, 1.0]
    ratios = [3.001, 2.999, 3.0]
    found = effects(
        FLOOR, rows("gwf:lr=0.1", base), rows("gwf:step=inf,lr=0.1", list(map(operator.mul, ratios, base))),
        rows("gwf", noisy), rows("gwf:step=inf", [0.5, 2.0, 1.0]), rows("gwf:step=1.0", noisy), rows("gan:step=inf", noisy),
    )  # fmt: skip
    assert list(found.index) == ["gwf", "gwf:lr=0.1", ALL]
    line = found.loc["gwf:lr=0.1"]
    assert (line["before"], line["after"], line["seeds"], line["ratio"]) == (2, pytest.approx(2 * 2.999), 3, True)
    assert [line["effect"], line["low"], line["high"]] == pytest.approx([3, 3, 3], rel=1e-3)
    assert line["low"] < 3 < line["high"]
    assert line["p"] < 1e-6
    assert found.loc["gwf", "effect"] == pytest.approx(1)
    assert found.loc["gwf", "p"] == 1
    assert found.loc[ALL, "effect"] == pytest.approx(math.sqrt(3))


def test_differences_that_are_all_equal_are_no_evidence():
    line = effects(rows("gwf", [1.0, 2.0, 4.0]), rows("gwf:step=inf", [2.0, 4.0, 8.0])).loc["gwf"]
    assert (line["effect"], line["p"]) == (pytest.approx(2), 1 / 4)
    assert math.isnan(line["low"])


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
    points = pd.DataFrame(rows("gwf", [1.0, 2.0, 3.0]) + rows("gwf:step=inf", [2.0, 4.0, 6.0101]))
    text = markdown(ablation(points, "step=inf", ["symkl"]), "step=inf")
    assert "## What `step=inf` does to symkl" in text
    assert "| gwf" in text
    assert "2 -> 4: x 2 [1.99, 2.01] *" in text
    with pytest.raises(UserError, match="ablate lr=3"):
        ablation(points, "lr=3")


def test_an_alarm_of_a_distance_of_clouds_names_narrow_laws_too():
    """A law with half the width of the truth is nearer to few draws of it than other draws are."""
    parts = FLOOR, rows("thin", [0.1, 0.11, 0.12]), rows("still", [9.0, 9.0, 9.0], role="control")
    texts = {}
    for metric in ("w2", "symkl"):
        frame = table_of(*parts).assign(metric=metric, se=0.01)
        (texts[metric],) = alarms(boards(frame))
    assert "too narrow" in texts["w2"]
    assert "too narrow" not in texts["symkl"]
