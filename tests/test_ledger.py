"""The paper ledger: its files, the verdict's rule, the page from rows, and `reproduce`."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from gwfbench.commands import reproduce
from gwfbench.errors import UserError
from gwfbench.papers import ledger
from gwfbench.plugins import registry
from gwfbench.report.board.leaderboard import Seeds
from gwfbench.report.paper_page import Ours, counted, margin, page, verdict
from gwfbench.rng import Streams

PAPERS = ("caucheteux2026", "deng2026", "fan2022", "mokrov2021")
NUMBER = ledger.Number("a, b", "Table 1", value=(1.0,), metric="symkl", task="ou", method="ula")
SMALL = """
[paper]
title = "A paper"

[[run]]
task = "ou:horizon=0.1"
method = "ula:step=0.05"
source = "5.1"
note = "the text has another step"

[[run]]
task = "ou:horizon=0.1"
method = "ula:step=0.1"
source = "as the entry before, cut"
quick = "one step for two"

[[table]]
name = "Table 1"
title = "Normal laws"
definition = "From 100 points."
rounding = 0.05
metric = "symkl"
task = "ou:dim=2,horizon=0.1"
numbers = [
  { what = "first | row", value = 1.0, run = "ula", source = "row 1" },
  { what = "second row", value = [0.1, 0.2], method = "gaussian_vi", source = "row 2" },
  { what = "third row", value = -0.3, scale = "log10", run = "ula:step=0.05", source = "row 3" },
]

[[table]]
name = "Figure 2"
title = "What nobody has"
kind = "code"
source = "Figure 2"
missing = "needs a GPU"
numbers = [{ what = "GLOW", value = 45.99, task = "nothing_of_ours", method = "glow:depth=3" }, { what = "blurred" }]
"""


def rows(values, task="ou:horizon=0.1", method="ula:step=0.05", metric="symkl", se=0.0, status="ok"):
    """Points of one run a value, as they are read from a CSV; None is a run that failed before it was judged."""
    same = {
        "task": task, "method": method, "t": 0.1, "better": "lower", "role": "method", "n": 100, "seconds": 1.0,
        "score_calls": 0, "sample_seconds": 0.0, "sample_calls": 0.0, "information": "LogDensity", "track": "default", "step": 1, "metric_version": 1,
    }  # fmt: skip
    return pd.DataFrame(
        same
        | {"seed": seed, "run_key": f"{task}{method}{seed}", "attempt": "0"}
        | {"metric": metric if value is not None else None, "value": value, "se": se, "status": status}
        for seed, value in enumerate(values)
    )


@pytest.mark.parametrize("key", PAPERS)
def test_the_files_are_valid_and_every_spec_in_them_parses(key):
    paper = ledger.load(key)
    assert ledger.papers() == list(PAPERS)
    numbers = [number for table in paper.tables for number in table.numbers]
    for number in numbers:
        found = ledger.answers(paper, number)
        assert found or number.missing, number.what
        for one in found:
            assert registry.parse("method", one.method)
            assert number.metric in registry.parse("task", one.task).metrics or number.metric == "fid"
        assert number.value == tuple(sorted(set(number.value), key=number.value.index))
    tables = [table for table in paper.tables if any(not number.missing for number in table.numbers)]
    for whole in (False, True):
        todo = ledger.to_run(paper, paper.tables, whole)
        assert {name for names in todo.values() for name in names} == {table.name for table in tables}
    for run in paper.runs:
        assert registry.parse("task", run.task)
        assert registry.parse("method", run.method)


def test_every_published_method_keeps_its_row():
    fan = {table.name: [number.what for number in table.numbers] for table in ledger.load("fan2022").tables}
    assert {"Table 2", "Table 3", "Table 5", "Table 7", "Table 8", "Figure 3", "Figure 4", "Figure 5"} <= set(fan)
    assert fan["Table 3"] == ["GLOW", "VGrow", "JKO-Flow", "WGAN-GP", "SN-GAN"]
    assert [what.partition(":")[0] for what in fan["Table 8"][:4]] == ["AE-OT", "AE-OT-GAN", "OTM", "JKO-Flow"]
    assert len(fan["Table 2"]) == 9 * 2 * 2
    assert len(fan["Table 5"]) == 9 * 3 * 2
    gwf = ledger.load("caucheteux2026").tables
    assert [len(table.numbers) for table in gwf[:2]] == [8 * 4, 8 * 4]
    assert all(number.spread > 0 for number in gwf[1].numbers)


def test_tables_that_print_the_same_numbers_agree():
    tables = {table.name: table for table in ledger.load("fan2022").tables}
    full = {number.what.replace("-ICNN-d", "-ICNN"): number.value for number in tables["Table 5"].numbers}
    assert {number.what: number.value for number in tables["Table 2"].numbers}.items() <= full.items()
    (mokrov,) = ledger.load("mokrov2021").tables
    theirs = {number.what.replace(":", ", JKO-ICNN:"): number.value for number in mokrov.numbers}
    assert theirs.items() <= full.items()
    assert len(theirs) == 18
    fids = [n.value for name in ("Table 3", "Table 7", "Table 8") for n in tables[name].numbers if "JKO-Flow" in n.what]
    assert fids == [(23.1,), (80.0,), (23.1,), (23.1,)]


def test_the_common_errors_are_those_of_two_test_parts():
    from gwfbench.tasks import blr

    (table,) = ledger.chosen(ledger.load("fan2022"), ["table5"])
    for name in ("splice", "waveform", "twonorm", "ringnorm", "german", "image", "diabetis", "banana"):
        law, test = blr.BLR(name).build(Streams((0,), dtype=torch.float64)), torch.from_numpy(blr.signed_rows(name)[1])
        p = torch.sigmoid(law.truth.draw(0, 1024, Streams((0,), dtype=torch.float64))[0, :, :-1] @ test.mT).mean(0)
        for reward, metric in (((p > 0.5).double(), "accuracy"), (p.log(), "log_likelihood")):
            wanted = math.sqrt(2 / len(test)) * float(reward.std())
            found = {n.error for n in table.numbers if n.what.startswith(f"{name},") and n.metric == metric}
            assert len(found) == 1
            assert found.pop() == pytest.approx(wanted, rel=0.06)


CASES = {  # fields of the number, of ours, verdict
    "inside": ({}, (1.0, 0.9, 1.1), "reproduced"),
    "below": ({}, (0.5, 0.4, 0.6), "better"),
    "above": ({}, (1.5, 1.4, 1.6), "not reproduced"),
    "below, but higher is better": ({"better": "higher"}, (0.5, 0.4, 0.6), "not reproduced"),
    "above, and higher is better": ({"better": "higher"}, (1.5, 1.4, 1.6), "better"),
    "at the end of the interval": ({}, (1.2, 1.0, 1.4), "reproduced"),
    "just beyond it": ({}, (1.2, 1.0 + 1e-9, 1.4), "not reproduced"),
    "within the rounding": ({"rounding": 0.05}, (1.05, 1.05, 1.05), "reproduced"),
    "just beyond the rounding": ({"rounding": 0.05}, (1.0501, 1.0501, 1.0501), "not reproduced"),
    "within two of our errors": ({}, (1.2, 1.2, 1.2, 0.1), "reproduced"),
    "beyond two of our errors": ({}, (1.21, 1.21, 1.21, 0.1), "not reproduced"),
    "no error of ours is known": ({}, (1.01, 1.01, 1.01, math.nan), "not reproduced"),
    "within two of their errors": ({"spread": 0.2, "seeds": 4}, (1.2, 1.2, 1.2), "reproduced"),
    "beyond two of their errors": ({"spread": 0.2, "seeds": 4}, (1.21, 1.21, 1.21), "not reproduced"),
    "their number of seeds is not known": ({"spread": 0.2}, (1.4, 1.4, 1.4), "reproduced"),
    "within the common error": ({"error": 0.3}, (1.6, 1.6, 1.6), "reproduced"),
    "errors add in squares": ({"error": 0.3, "rounding": 0.1}, (2.1, 2.1, 2.1, 0.4), "reproduced"),
    "and no more": ({"error": 0.3, "rounding": 0.1}, (2.11, 2.11, 2.11, 0.4), "not reproduced"),
    "between two readings": ({"value": (1.0, 2.0)}, (1.5, 1.5, 1.5), "reproduced"),
    "round two readings": ({"value": (2.0, 1.0)}, (1.5, 0.5, 2.5), "reproduced"),
    "below two readings": ({"value": (2.0, 1.0)}, (0.5, 0.5, 0.9), "better"),
    "above two readings": ({"value": (1.0, 2.0)}, (3.0, 2.1, 4.0), "not reproduced"),
    "without a value": ({}, (math.nan, math.nan, math.nan), "not reproduced"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_verdict(case):
    fields, ours, wanted = CASES[case]
    value, low, high, se = (*ours, 0.0)[:4]
    number = replace(NUMBER, **fields)
    assert verdict(number, Ours(value, low, high, se, Seeds(3))) == wanted
    assert verdict(number, Ours(value, low, high, se, Seeds(2, {2: "diverged"}))) == "not reproduced"


def test_the_margin_in_numbers():
    number = replace(NUMBER, rounding=0.5, spread=8.0, seeds=4, error=12.0)
    assert margin(number, Ours(1, 1, 1, 3.0, Seeds(1))) == 0.5 + 2 * 13


def test_a_number_is_answered_by_the_runs_that_it_names():
    paper = ledger.parse("small", SMALL)
    first, second, third = paper.tables[0].numbers
    assert [(one.method, one.setting) for one in ledger.answers(paper, first)] == [
        (registry.spec(registry.parse("method", "ula:step=0.05")), "paper"),
        (registry.spec(registry.parse("method", "ula:step=0.1")), "quick"),
    ]
    assert {one.task for one in ledger.answers(paper, first)} == {"ou:horizon=0.1"}
    assert [one.setting for one in ledger.answers(paper, second)] == ["ours"]
    assert [one.setting for one in ledger.answers(paper, third)] == ["paper"]
    both = replace(third, method="ula:step=0.10")  # the run that is cut
    assert [one.setting for one in ledger.answers(paper, both)] == ["paper", "ours"]
    assert [one.setting for one in ledger.answers(paper, replace(both, run="ula"))] == ["paper", "quick"]
    assert ledger.answers(paper, paper.tables[1].numbers[0]) == []

    def what(whole):
        return {(one.setting, tuple(names)) for one, names in ledger.to_run(paper, paper.tables, whole).items()}

    assert what(False) == {("quick", ("Table 1",)), ("ours", ("Table 1",)), ("paper", ("Table 1",))}
    assert what(True) == {("paper", ("Table 1",)), ("ours", ("Table 1",))}


BAD = {
    "not TOML": ('source = "row 1"', "source = row 1", "small: "),
    "no title": ('title = "A paper"', "", "no title"),
    "unknown section": ("[[table]]", "[[tabel]]", "[tabel]"),
    "unknown field": ("rounding = 0.05", "runding = 0.05", "field runding"),
    "wrong type": ("rounding = 0.05", 'rounding = "0.05"', "rounding = '0.05'"),
    "value is a word": ("value = 1.0", 'value = "1.0"', "value"),
    "value is not finite": ("value = 1.0", "value = nan", "finite"),
    "neither run nor missing": ('run = "ula", source', "source", "why they are missing"),
    "no metric": ('metric = "symkl"\n', "", "why they are missing"),
    "no source": (', source = "row 1"', "", "source"),
    "no value": ("value = 1.0, ", "", "why they are missing"),
    "better is a riddle": ("rounding = 0.05", 'rounding = 0.05\nbetter = "more"', "better = lower or higher"),
    "negative error": ("rounding = 0.05", "rounding = -0.05", "not negative"),
    "a row twice": ("second row", "first | row", "two numbers"),
    "a table twice": ('"Figure 2"\ntitle', '"Table  1"\ntitle', "two tables"),
    "kind": ('kind = "code"', 'kind = "rumour"', "kind rumour"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_damaged_file_is_refused(case):
    old, new, said = BAD[case]
    assert old in SMALL
    with pytest.raises(UserError) as error:
        ledger.parse("small", SMALL.replace(old, new, 1))
    assert said in str(error.value)


def test_a_run_that_is_not_there_and_a_spec_that_does_not_parse_are_refused():
    for old, new, said in (
        ('run = "ula"', 'run = "ula:step=7"', "no [[run]]"),
        ('method = "gaussian_vi"', 'method = "gaussian_v"', "gaussian_v"),
        ('method = "gaussian_vi"', 'method = "gaussian_vi:stepp=1"', "stepp"),
        ('task = "nothing_of_ours", method = "glow:depth=3"', 'task = "ou", method = "ula:depth=3"', "depth"),
    ):
        paper = ledger.parse("small", SMALL.replace(old, new))
        with pytest.raises(UserError) as error:
            [ledger.answers(paper, number) for table in paper.tables for number in table.numbers]
        assert said in str(error.value)


def lines(text):
    """Cells of the page's tables by their first."""
    cut = [line.replace("\\|", "!").strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in cut}


def test_the_page_from_rows():
    paper = ledger.parse("small", SMALL)
    points = pd.concat(
        [
            rows([0.4, 0.5, 0.6]),
            rows([2.0, 2.2, 2.4], method="ula:step=0.1"),
            rows([0.15, None], method="gaussian_vi").assign(status=["ok", "diverged"]),
        ]
    )
    text, tally = page(paper, points)
    assert "## Table 1: Normal laws\n\nFrom 100 points.\n" in text
    assert "## Figure 2: What nobody has\n\nSource: Figure 2.\n" in text
    assert tally == {"reproduced": 1, "better": 1, "not reproduced": 2, "not run": 2}
    assert f"\nLines: {counted(tally)}.\n" in text
    assert counted(tally) == "1 reproduced, 1 better, 2 not reproduced, 2 not run"
    found = lines(text)
    assert found["third row"] == ["-0.3", "-0.301 [-0.398, -0.222]", "3/3", "paper", "**reproduced**", ""]
    assert found["second row"][:5] == ["0.1 to 0.2", "0.15", "1/2, 1 diverged", "ours", "**not reproduced**"]
    assert found["GLOW"] == ["45.99", "-", "-", "-", "**not run**", "needs a GPU"]
    assert found["blurred"][0] == "-"
    one, two = (line for line in text.splitlines() if line.startswith("| first"))
    assert "**better**" in one
    assert "| paper" in one
    assert "**not reproduced** | one step for two" in two
    assert "- paper: `ula:step=0.05` on `ou:horizon=0.1`. source: 5.1; the text has another step." in text
    assert "- quick: `ula:step=0.1` on `ou:horizon=0.1`. cut: one step for two; source:" in text


def test_the_page_is_a_function_of_the_rows_set():
    paper = ledger.parse("small", SMALL)
    points = pd.concat([rows([0.4, 0.5, 0.6]), rows([1.0], task="ou:dim=3"), rows([2.0, 2.5], method="ula:step=0.1")])
    shuffled = points.sample(frac=1, random_state=3)
    assert page(paper, points) == page(paper, shuffled)
    assert counted(page(paper, points.iloc[:0])[1]) == "0 reproduced, 0 better, 0 not reproduced, 5 not run"


def test_a_metric_that_the_rows_lack_is_not_reproduced():
    paper = ledger.parse("small", SMALL)
    cells = lines(page(paper, rows([0.5, 0.5], metric="kl"))[0])["first ! row"]
    assert cells == ["1", "-", "2/2", "paper", "**not reproduced**", "not all of our runs finished with a value"]


def test_logarithms_take_the_error_along():
    paper = ledger.parse("small", SMALL)
    near = lines(page(paper, rows([0.25], se=0.08))[0])["third row"]  # log10: -0.602, error 0.139
    far = lines(page(paper, rows([0.25], se=0.01))[0])["third row"]
    assert near[4] == "**reproduced**"
    assert far[4] == "**better**"
    assert lines(page(paper, rows([0.0]))[0])["third row"][4] == "**not reproduced**"


def test_of_a_run_in_several_files_the_last_one_s_rows_count(cli, small):
    old, new = rows([9.0]).assign(n=1000, attempt="1"), rows([1.0])
    old.to_csv("old.csv", index=False)
    new.to_csv("new.csv", index=False)
    for files, wanted in ((("old", "new"), ["1", "1", "1/1"]), (("new", "old"), ["1", "9", "1/1"])):
        given = [word for name in files for word in ("--rows", f"{name}.csv")]
        code, _, err = cli("reproduce", "small", *given, "--write", "pages")
        assert code == 0, err
        assert lines((small / "pages" / "small.md").read_text())["first ! row"][:3] == wanted


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A paper that is quick to run, in place of the others."""
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "small.toml").write_text(SMALL)
    monkeypatch.setattr(ledger, "FOLDER", folder)
    return tmp_path


def test_reproduce_runs_what_answers_and_writes_the_page(cli, small, monkeypatch):
    monkeypatch.setattr(registry.find("task", "ou").load(), "metrics", ("symkl",))
    words = ["reproduce", "small", "--seeds", "2", "--write", "pages", "--out", "runs", "--no-isolate"]
    code, text, err = cli(*words)
    assert code == 0, err
    assert text.startswith("small: 6 runs of 3 settings\n")
    assert "cut: one step for two" in text
    assert "  2: needs a GPU" in text
    made = (small / "pages" / "small.md").read_text()
    counts = next(line for line in made.splitlines() if line.startswith("Lines: ")).removeprefix("Lines: ").rstrip(".")
    assert f"wrote pages/small.md: {counts}" in err
    assert len([line for line in made.splitlines() if "| 2/2" in line]) == 4
    code, _, err = cli(*words, "--only", "figure2")  # nothing is to be run for it
    assert code == 0
    assert cli("report", "--out", "runs", "--write", "kept")[0] == 0
    code, text, _ = cli("reproduce", "small", "--rows", "kept/rows.csv", "--rows", "kept/rows.csv", "--write", "again")
    assert code == 0
    assert text == ""
    assert (small / "again" / "small.md").read_text() == made


def test_a_dry_run_runs_and_writes_nothing(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "performed", None)
    code, text, err = cli("reproduce", "fan2022", "--only", "Table 2", "--dry-run", "--seeds", "2")
    assert code == 0, err
    assert text.startswith("fan2022: ")
    assert "needs data: covtype" in text
    assert "svgd" not in text
    assert list(tmp_path.iterdir()) == []
    code, text, _ = cli("reproduce", "deng2026", "--dry-run")
    assert code == 0
    assert text.startswith("deng2026: 0 runs of 0 settings\nnot run: 53 numbers\n  53: needs GPUs")


@pytest.mark.parametrize("whole", [False, True])
def test_quick_settings_are_the_default(cli, small, whole):
    _, text, _ = cli("reproduce", "small", "--dry-run", *["--paper-settings"] * whole)
    assert ("ula:step=0.1\n" in text) == (not whole)


@pytest.mark.parametrize(
    ("words", "got", "fix"),
    [
        (["fan2002"], "no paper 'fan2002'", "did you mean 'fan2022'?"),
        (["fan2022", "--only", "table6"], "no table 'table6'", "did you mean 'table"),
        (["fan2022", "--rows", "none.csv"], "none.csv: ", "report --write"),
        (["fan2022", "--rows", "a.csv", "--only", "table2"], "--only with --rows", "leave --only out"),
        (["fan2022", "--rows", "a.csv", "--dry-run"], "--dry-run with --rows", "leave --dry-run out"),
        (["fan2022", "--dry-run", "--seeds", "0"], "--seeds 0", "--seeds 3"),
    ],
)
def test_mistakes_end_with_2(cli, tmp_path, words, got, fix):
    code, _, err = cli("reproduce", *words)
    assert code == 2
    assert got in err
    assert fix in err
    assert list(tmp_path.iterdir()) == []
