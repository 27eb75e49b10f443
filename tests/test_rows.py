"""rows.csv: whatever is in it comes back, however it is read; and what is no table of results is a user's mistake."""

import math
import random
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gwfbench
from gwfbench.errors import UserError
from gwfbench.report import rows as kept_rows
from gwfbench.report.board import latex, tables
from gwfbench.report.board.leaderboard import boards, leaderboard
from gwfbench.report.page.data import sheets
from gwfbench.report.table import checked, kept
from gwfbench.store import folders
from gwfbench.store.record import Identity, Row, Run
from gwfbench.store.rows import tidy

NAMES = ("nan", "NA", "None", "null", "n/a", "True", "1e5", "inf", "=cmd|x", "ula", "a|b", "x [y](z)", "007", "-1")


def run(method, seed, values, task="strange", status="ok", reason="", **facts):
    rows = [
        Row(1, None, name, 1, "lower", "flow", "method", value, 0.1, 100, 1.5, 10, 0, 0, 0.5, 1.0)
        for name, value in values.items()
    ]
    who = Identity(task, 1, {}, method, 1, {}, seed, facts.get("dtype", "float32"), facts.get("device", "cpu"))
    return Run(who, ("LogDensity",), "c", "e", "2026-01-01T00:00:00+00:00", status=status, reason=reason, rows=rows)


def table():
    rng = np.random.default_rng(0)
    runs = [
        run(name, seed, {"w2": float(rng.lognormal()), "kl": float(rng.normal())})
        for name in NAMES
        for seed in range(3)
    ]
    runs += [run("ula", 3, {}, status="error", reason=reason) for reason in ("a\r50%",)]
    runs += [run("nan", 3, {}, status="error", reason='=1+1\r\n\0\x1b[31m, "quoted"')]
    return tidy(runs)


def both_ways(rows, folder):
    kept_rows.write(rows, folder / "rows.csv")
    return kept_rows.read(folder / "rows.csv")[0], pd.read_csv(folder / "rows.csv")


def test_what_is_written_comes_back(tmp_path):
    rows = table()
    read, by_pandas = both_ways(rows, tmp_path)
    assert list(read["method"]) == list(rows["method"])
    assert list(read["value"].fillna(-1)) == list(pd.to_numeric(rows["value"]).fillna(-1)), "to the last bit"
    assert [text for text in dict.fromkeys(read["reason"]) if text] == ["a\\r50%", '=1+1\\r\\n\\x00\\x1b[31m, "quoted"']
    before, *after = (leaderboard(one) for one in (rows, read, by_pandas))
    for one in after:
        pd.testing.assert_frame_equal(one, before, check_exact=False, rtol=1e-14)
    assert list(kept_rows.read(tmp_path / "rows.csv")[0]["reason"]) == list(checked(by_pandas, "")["reason"])
    again, _ = both_ways(read, tmp_path)
    pd.testing.assert_frame_equal(again, read, check_dtype=False)


@given(st.text())
def test_any_name_comes_back_as_one_line(text):
    from gwfbench import escape
    from gwfbench.report.table import _back

    cell = kept(text)
    assert cell == escape.line(cell)
    assert not cell.startswith(("=", "+", "-", "@"))
    assert _back(cell) == escape.line(text) or text.startswith("'")
    assert cell == "" or pd.read_csv(_file(cell), dtype=object)["a"].notna().all()


def _file(cell):
    import csv
    import io

    file = io.StringIO()
    csv.writer(file).writerows([["a", "b"], [cell, "x"]])
    return io.StringIO(file.getvalue())


@pytest.mark.parametrize("value", [5e-324, 1.7976931348623157e308, -0.1, 0.1 + 0.2, 1e22, 123456789.123456789])
def test_any_float_comes_back(tmp_path, value):
    rows = tidy([run("ula", 0, {"w2": value})])
    assert both_ways(rows, tmp_path)[0]["value"].iloc[0] == value


def shown(path):
    """All that is made of rows without running anything."""
    rows, facts = kept_rows.read(path)
    made = boards(rows)
    sheets(rows)
    tables.markdown(made), tables.pivoted(made), latex.tables(made), tables.csv(made), tables.provenance(rows, facts)


def mutations(text, count):
    rng = random.Random(7)
    for i in range(count):
        at = rng.randrange(len(text))
        if i % 4 == 0:
            yield text[:at]
        elif i % 4 == 1:
            yield text[:at] + text[at + rng.randrange(1, 40) :]
        elif i % 4 == 2:
            yield text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :]
        else:
            word = rng.choice([b",", b"\n", b"\r", b'"', b"\0", b"1e999", b"-", b"nan", b"\xff", b"9" * 400, b"True"])
            yield text[:at] + word + text[at:]


def test_a_damaged_csv_is_a_users_mistake(tmp_path):
    path = tmp_path / "rows.csv"
    kept_rows.write(tidy([run(name, seed, {"w2": 1.0 + seed, "kl": 0.5}) for name in "ab" for seed in (0, 1)]), path)
    text, refused = path.read_bytes(), 0
    for damaged in mutations(text, 400):
        path.write_bytes(damaged)
        try:
            shown(path)
        except UserError:
            refused += 1
    assert refused > 150


def test_a_line_that_was_cut_is_refused(tmp_path):
    path = tmp_path / "rows.csv"
    kept_rows.write(table(), path)
    text = path.read_text()
    for end in range(len(text) - 200, len(text) - 2, 7):
        path.write_text(text[:end])
        if text[:end].endswith("\n"):
            continue
        last = text[:end].rpartition("\n")[2]
        if last.count(",") < text.splitlines()[0].count(","):
            with pytest.raises(UserError, match=r"cells, expected|end of data"):
                kept_rows.read(path)


def test_rows_of_one_run_agree(tmp_path):
    rows = tidy([run("ula", 0, {"w2": 1.0, "kl": 2.0})])
    rows.loc[1, "seed"] = 1
    kept_rows.write(rows, tmp_path / "rows.csv")
    with pytest.raises(UserError, match="several values of seed"):
        kept_rows.read(tmp_path / "rows.csv")


def test_a_table_without_rows_is_a_users_mistake(tmp_path):
    path = tmp_path / "rows.csv"
    kept_rows.write(table(), path)
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match="no rows"):
        kept_rows.read(path)
    with pytest.raises(UserError, match="no rows"):
        gwfbench.leaderboard(pd.read_csv(path))
    path.write_text("")
    with pytest.raises(UserError, match="a CSV of results"):
        kept_rows.read(path)


def test_an_unknown_metric_is_a_users_mistake():
    with pytest.raises(UserError, match="no metric 'w3'"):
        gwfbench.leaderboard(table(), ["w3"])


@pytest.mark.parametrize(
    "change", [{"seed": 0.5}, {"seed": -1}, {"seed": True}, {"value": "much"}, {"role": "judge"}, {"n": -3}, {"method": None},
               {"dtype": "float8"}, {"status": "bogus"}, {"better": "most"}],
    ids=str,
)  # fmt: skip
def test_what_is_no_result_is_told(change):
    rows = table().astype(object)
    for name, value in change.items():
        rows.loc[3, name] = value
    with pytest.raises(UserError, match=next(iter(change))):
        gwfbench.leaderboard(rows)


def test_missing_columns_are_named():
    with pytest.raises(UserError, match="no column seed, role"):
        gwfbench.leaderboard(table().drop(columns=["seed", "role"]))


def test_the_order_of_rows_does_not_change_a_board():
    """Metrics are in the task's order, which is not that of the alphabet."""
    rng = np.random.default_rng(1)
    values = lambda: {name: float(rng.lognormal()) for name in ("symkl", "kl", "bures_w2", "w2")}  # noqa: E731
    rows = tidy([run(name, seed, values(), task="ou") for name in ("a", "b", "c") for seed in range(6)])
    before = leaderboard(rows)
    assert list(boards(rows)[0].metrics) == ["symkl", "kl", "bures_w2", "w2"]
    for other in (rows.sort_values(["metric", "value"]), rows[::-1], rows.sample(frac=1, random_state=3)):
        pd.testing.assert_frame_equal(leaderboard(other), before)


def test_strangers_names_harm_no_exit(tmp_path):
    evil = "x:a=<script>|[b](c)`$\\\x1b[31m\u202e\n=1"
    runs = [
        run(name, seed, {"w2": 1.0 + seed, "=1+1": 2.0}, task=task)
        for task in (evil, "|")
        for name in (evil, "ula")
        for seed in (0, 1)
    ]
    runs += [run("ula", 2, {}, task="|", status="error", reason=evil)]
    rows = tidy(runs)
    made = boards(rows)
    tex = latex.tables(made) + latex.tables(made, pivot=True)
    texts = [tables.markdown(made), tables.pivoted(made), tex, tables.csv(made)]
    texts.append(tables.provenance(rows, {"e": {"cpu": evil}}))
    for text in texts:
        assert all(char.isprintable() or char == "\n" for char in text)
    for text in (texts[0], texts[1], texts[4]):
        assert "<script>" not in text
        assert not re.search(r"(?<!\\)\]\(", text)
    pivot = [line for line in texts[1].splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in pivot} == {4}, "one column for each task"
    assert not [line for line in texts[3].splitlines() for cell in line.split(",") if cell.startswith(("=", '"='))]
    body = [line for line in texts[2].splitlines() if "script" in line and not line.startswith("%")]
    assert body
    assert all("\\$" in line and "[b]" in line for line in body)


def test_a_board_of_ten_thousand_seeds():
    values = np.random.default_rng(0).lognormal(size=10_000)
    runs = [run(name, seed, {"w2": float(value)}) for name in ("a",) for seed, value in enumerate(values)]
    line = leaderboard(tidy(runs)).iloc[0]
    ordered = np.sort(values)
    assert (line["w2_low"], line["w2_high"]) == (ordered[4901], ordered[-4902])
    assert line["w2"] == np.median(values)
    assert not math.isnan(line["w2"])


def test_a_run_that_a_budget_ended_hides_none_that_came_to_its_end(tmp_path):
    words = {"out": tmp_path, "controls": False, "isolate": False, "force": True}
    for budget in ("", "steps=1", ""):
        gwfbench.run("ou:horizon=0.1", "ula", 1, budget=budget, **words)
    rows, _, _ = kept_rows.rows_of(tmp_path)
    assert rows["attempt"].nunique() == 2
    assert set(rows["status"]) == {"ok", "budget"}
    assert [str(line.seeds) for line in boards(rows)[0].lines if line.method == "ula"] == ["1/1"]
    assert any(line.method == "ula [budget steps=1]" for line in boards(rows)[0].lines)


@pytest.mark.parametrize("judge", [(), ("kl",)])
def test_an_interrupted_attempt_hides_none_that_came_to_its_end(tmp_path, monkeypatch, judge):
    gwfbench.run("ou:horizon=0.1", "ula", 1, out=tmp_path, controls=False, isolate=False)
    ((ended,), _) = folders.attempts(tmp_path)
    ended = replace(ended, judge=judge)
    killed = replace(ended, attempt="f" * 8, status="killed", reason="interrupted", judge=())
    monkeypatch.setattr(folders, "attempts", lambda out: ([ended, killed], []))
    rows, _, _ = kept_rows.rows_of(tmp_path)
    assert set(rows["attempt"]) == {ended.attempt}
    assert set(rows["status"]) == {"ok"}
