"""Oracle calls to accuracy: the first judged law from which b2_max stays small, by hand; and where it is shown."""

import math

import pandas as pd
import pytest

from gwfbench.report.board import tables
from gwfbench.report.board.accuracy import grads_to_accuracy
from gwfbench.report.board.leaderboard import boards, leaderboard


def laws(method, values, seed=0, role="method", status="ok", t=None, metric="b2_max"):
    """Laws after 1, 2, ... steps: 100 calls of training a step, 3 a judged point, of which there are 10, and a draw."""
    return [
        {
            "task": "gmm", "method": method, "seed": seed, "step": step, "t": t, "metric": metric, "better": "lower",
            "metric_version": 1, "role": role, "value": value, "se": 0.001, "n": 10, "seconds": 1.0 * step, "law": "flow",
            "score_calls": 100 * step, "draw_calls": 1, "sample_calls": 3.0 * step, "sample_seconds": 0.0, "status": status,
            "reason": "", "information": "LogDensity", "run_key": f"{method}{seed}", "attempt": "a",
        }
        for step, value in enumerate(values, 1)
    ]  # fmt: skip


def paid(step):
    return 100 * step + 1 + 3 * step * 10


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5, 0.009, 0.008], paid(2)),
        ([0.009, 0.5, 0.008], paid(3)),  # not before it stays there
        ([0.009, 0.001, 0.002], paid(1)),
        ([0.5, 0.5, 0.01], math.inf),
        ([0.5, 0.001, 0.02], math.inf),
        ([0.5, None, 0.001], paid(3)),  # no value is not small
        ([0.001, 0.001, None], math.inf),
    ],
)
def test_the_first_law_from_which_it_stays_small(values, expected):
    table = leaderboard(pd.DataFrame(laws("m", values))).set_index("method")
    assert table.loc["m", "grads_to_accuracy"] == expected


def test_the_median_over_seeds_a_failed_one_is_infinite():
    rows = [*laws("m", [0.001]), *laws("m", [1.0, 0.001], 1), *laws("m", [0.001], 2, status="diverged")]
    table = leaderboard(pd.DataFrame(rows)).set_index("method")
    assert table.loc["m", "grads_to_accuracy"] == paid(2)


def test_controls_flows_and_other_metrics_have_none():
    frame = pd.DataFrame([
        *laws("exact", [0.001], role="floor"), *laws("flow", [0.001], t=0.5), *laws("other", [0.001], metric="b2_mean"),
    ])  # fmt: skip
    assert grads_to_accuracy(frame.assign(t=pd.to_numeric(frame["t"]))) == {}


def test_it_is_a_column_with_a_note_only_where_there_is_one():
    with_it, without = (
        boards(
            pd.DataFrame([*laws("exact", [0.001], role="floor", metric=name), *laws("m", [0.5, 0.001], metric=name)])
        )
        for name in ("b2_max", "ksd")
    )
    text, plain = tables.markdown(with_it), tables.markdown(without)
    assert "calls to b2 < 0.01" in text
    assert text.count("calls to b2") == 2  # the head, and what it means
    assert f"{paid(2)}" in text
    assert "calls to b2" not in plain
