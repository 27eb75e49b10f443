"""The paper ledger: its files, the verdict's rule, the page from rows, and `reproduce`."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from gwfbench.commands import reproduce
from gwfbench.datasets.protocols import Called
from gwfbench.errors import UserError
from gwfbench.papers import ledger
from gwfbench.plugins import registry
from gwfbench.report.board.leaderboard import Seeds, boards
from gwfbench.report.paper_page import counted, page
from gwfbench.report.verdicts import Ours, Verdict, difference, fails_from, judged, judged_difference, margin, reach
from gwfbench.rng import Streams

ROOT = Path(__file__).parents[1]
PAPERS = ("caucheteux2026", "deng2026", "fan2022", "hertrich2025", "mokrov2021", "vargas2023")
NUMBER = ledger.Number("a, b", "Table 1", value=(1.0,), metric="symkl", task="ou", method="ula")
SMALL = """
[paper]
title = "A paper"
link = "https://arxiv.org/abs/0000.00000"

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
            assert number.metric in registry.parse("task", one.task).metrics or Called.read(number.metric)
        assert number.value == tuple(sorted(set(number.value), key=number.value.index))
    for cuda in (False, True):
        tables = {
            table.name
            for table in paper.tables
            for number in table.numbers
            if not number.missing or (cuda and number.device == "cuda")
        }
        for whole in (False, True):
            todo = ledger.to_run(paper, paper.tables, whole, cuda)
            assert {name for names in todo.values() for name in names} == tables
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
    mokrov, _ = ledger.load("mokrov2021").tables
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


BY_RULE = {  # fields of the number, of ours (value, ends of the interval, error), word at the paper's settings
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
FAR = -1000.0  # a value of `still` that leaves all bands narrow


def ours(value, low=None, high=None, se=0.0, seeds=3, failed=()):
    low, high = value if low is None else low, value if high is None else high
    return Ours(value, low, high, se, Seeds(seeds, dict.fromkeys(failed, "diverged")))


@pytest.mark.parametrize("case", BY_RULE)
def test_the_rule(case):
    fields, (value, low, high, *se), word = BY_RULE[case]
    number = replace(NUMBER, **fields)
    found = ours(value, low, high, *se)
    assert judged(number, "paper", found, FAR) == Verdict(word)
    failed = replace(found, seeds=Seeds(3, {3: "diverged"}))
    assert judged(number, "paper", failed, FAR) == Verdict("not reproduced")


@pytest.mark.parametrize(
    ("setting", "seeds", "fields", "still", "why"),
    [
        ("paper", 3, {}, FAR, ()),
        ("ours", 3, {}, FAR, ("own setting",)),
        ("quick", 3, {}, FAR, ("cut setting",)),
        ("paper", 2, {}, FAR, ("two seeds",)),
        ("ours", 1, {}, FAR, ("own setting", "one seed")),
        ("paper", 3, {"fitted": "the encoding"}, FAR, ("choices fitted to this table",)),
        ("paper", 3, {}, math.nan, ("power not known",)),
        ("paper", 3, {}, 1.39, ("band too wide to tell",)),
        ("paper", 3, {}, 1.41, ()),
    ],
)
def test_agreement_alone_is_no_reproduction(setting, seeds, fields, still, why):
    number = replace(NUMBER, **fields)
    inside = ours(1.0, 0.9, 1.1, seeds=seeds)
    assert judged(number, setting, inside, still) == Verdict("consistent" if why else "reproduced", why)


def test_a_difference_at_other_settings_is_not_held_against_the_paper():
    assert judged(NUMBER, "ours", ours(2.0), FAR) == Verdict("different", ("own setting",))
    assert judged(NUMBER, "paper", ours(2.0, seeds=1), FAR) == Verdict("different", ("one seed",))
    assert judged(NUMBER, "paper", ours(2.0), FAR) == Verdict("not reproduced")
    assert str(judged(NUMBER, "quick", ours(0.5), FAR)) == "**better** (cut setting)"


def test_readings_a_decade_apart_tell_little():
    """Half of the way from P_0 in logarithms is an order of magnitude or more: 1e-4 to 1e-3 with still = 1."""
    number = replace(NUMBER, value=(1e-4, 1e-3))
    inside = ours(5e-4, 4e-4, 6e-4)
    assert judged(number, "paper", inside, 1.0).why == ()
    assert judged(number, "paper", inside, 0.05).why == ("band too wide to tell",)
    touching_zero = ours(2e-4, -1e-5, 2e-4)
    assert judged(number, "paper", touching_zero, 1.0).why == ("band too wide to tell",)


def test_what_the_rule_tells_apart_on_the_german_table():
    """The published accuracy agrees with anything from 0.57 to 0.77: the page must say that this is little."""
    number = replace(NUMBER, value=(0.67,), rounding=0.005, error=0.046, better="higher")
    for value in (0.58, 0.67, 0.76):
        assert judged(number, "paper", ours(value), 0.5) == Verdict("consistent", ("band too wide to tell",))


@pytest.mark.parametrize(
    ("bias", "spread", "wanted"),
    [
        (-0.3, 0.0, 0.3),
        (0.0, 1.0, 0.674490),  # the normal law's quartile
        (5.0, 1e-3, 5.0),
        (-5.0, 0.1, 5.0),
        (1.0, 1.0, 1.050544),  # root of Phi(x - 1) - Phi(-x - 1) = 1/2
    ],
)
def test_an_estimate_s_typical_distance_from_the_truth(bias, spread, wanted):
    number = replace(NUMBER, value=(7.0 + bias,), truth=7.0, spread=spread)
    assert number.compared == pytest.approx((wanted,), rel=1e-5)
    assert number.value == (7.0 + bias,)
    assert replace(number, truth=math.nan).compared == number.value


def test_an_estimate_is_judged_by_its_distance_and_not_by_its_sign():
    """Published log Z of 6.5 where it is 7: an error of 0.5 agrees, less is better, more is not, on either side."""
    for value in (6.5, 7.5):
        number = replace(NUMBER, value=(value,), truth=7.0, metric="log_z")
        assert judged(number, "paper", ours(0.5), 5.0) == Verdict("reproduced")
        assert judged(number, "paper", ours(0.25), 5.0) == Verdict("better")
        assert judged(number, "paper", ours(0.75), 5.0) == Verdict("not reproduced")
        assert judged(number, "paper", ours(6.5), 5.0) == Verdict("not reproduced")


def test_half_of_our_metric_is_compared_where_half_is_printed():
    paper = ledger.parse("small", SMALL.replace('value = -0.3, scale = "log10"', 'value = 0.3, scale = "half"'))
    found = lines(page(paper, rows([0.6, 0.7, 0.5], se=0.02))[0])["third row"]
    assert found["ours [95 %]"].startswith("0.3 [")
    assert found["verdict"].startswith("**consistent**")
    one = lines(page(paper, rows([0.45], se=0.1))[0])["third row"]  # half: 0.225 +- 0.05
    assert one["agrees within"] == "0.075 to 0.375"


def test_the_page_says_how_far_an_estimate_is_off():
    small = SMALL.replace('what = "second row", value = [0.1, 0.2]', 'what = "second row", value = -8.4, truth = -8.0')
    text, _ = page(ledger.parse("small", small), rows([0.3], method="gaussian_vi"))
    assert lines(text)["second row"]["published"] == "-8.4, off by 0.4"
    assert "From 100 points. Off by: the distance from the certified log Z" in text
    assert "Off by" not in page(ledger.parse("small", SMALL), rows([0.3]))[0]


@pytest.mark.parametrize("key", ["hertrich2025", "vargas2023"])
def test_the_truth_of_an_estimate_is_the_task_s_certificate(key):
    numbers = [number for table in ledger.load(key).tables for number in table.numbers]
    asked = {number.task: number.truth for number in numbers if number.task and not math.isnan(number.truth)}
    for task, truth in asked.items():
        known = registry.parse("task", task).build(Streams((0,), dtype=torch.float64)).truth.log_z
        assert known is not None
        assert truth == pytest.approx(float(known[0]), abs=max(1e-4, float(known[1])))
    assert len(asked) == (5 if key == "vargas2023" else 0)


def test_the_margin_in_numbers():
    number = replace(NUMBER, rounding=0.5, spread=8.0, seeds=4, error=12.0)
    assert margin(number, ours(1, se=3.0)) == 0.5 + 2 * 13


def claim(published, gaps, setting="paper", **fields):
    """The verdict on a claimed advantage, from our accuracies at three seeds or so; the other method has 0.5."""
    first = replace(NUMBER, value=(0.5 + published,), metric="accuracy", better="higher", **fields)
    second = replace(first, value=(0.5,))
    found = rows([0.5 + gap for gap in gaps], metric="accuracy")
    other = rows([0.5] * len(gaps), metric="accuracy", method="other")
    (board,) = boards(pd.concat([found, other]).assign(better="higher"))
    lines = {line.method: line for line in board.lines}
    answer = ledger.Answer("", "", setting)
    gap = difference(first, second, (answer, lines["ula:step=0.05"]), (answer, lines["other"]))
    return gap, judged_difference(gap)


def test_a_claimed_advantage_is_judged_by_paired_differences():
    assert claim(0.05, [0.049, 0.050, 0.051])[1] == Verdict("reproduced")
    assert claim(0.05, [-0.003, -0.002, -0.004])[1] == Verdict("not reproduced")
    assert claim(0.05, [-0.003, -0.002, -0.004], "ours")[1] == Verdict("different", ("own setting",))
    assert claim(0.05, [0.09, 0.091, 0.092])[1] == Verdict("better")
    assert claim(0.05, [0.2, -0.1, 0.05])[1] == Verdict("consistent", ("no advantage to be seen",))
    assert claim(0.05, [0.05])[1] == Verdict("consistent", ("one seed",))
    assert claim(0.05, [0.049, 0.050, 0.051], fitted="x")[1].why == ("choices fitted to this table",)


def test_another_test_part_has_an_error_in_a_difference_too():
    gap, verdict = claim(0.05, [-0.003, -0.002, -0.004], rows=100)
    half = (gap.high - gap.low) / 2
    assert half == pytest.approx(2 * math.sqrt(2 * 0.05 / 100) + 4.302653 * 0.001 / math.sqrt(3), rel=1e-6)
    assert verdict == Verdict("consistent", ("no advantage to be seen",))
    assert claim(0.05, [-0.003, -0.002, -0.004], rows=100_000)[1] == Verdict("not reproduced")


def test_the_paper_s_claims_are_differences_of_its_columns():
    (table,) = ledger.chosen(ledger.load("fan2022"), ["table5"])
    claims = {what: (one.value[0], other.value[0]) for what, one, other in table.claims()}
    assert claims["image, Ours - JKO-ICNN-d: accuracy"] == (0.866, 0.82)
    assert claims["image, Ours - SVGD: log-likelihood"] == (-0.394, -0.44)
    assert len(claims) == 9 * 2 * 2


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
    "again names no table": ('kind = "code"', 'again = "Table 9"', "again = Table 9"),
    "again names itself": ('kind = "code"', 'again = "Figure 2"', "again = Figure 2"),
    "pairs are no pairs": ('kind = "code"', 'pairs = ["a", "b"]', "pairs"),
    "truth of another scale": ("value = -0.3, ", "value = -0.3, truth = 1.0, ", "truth without scale"),
    "no link": ('link = "https://arxiv.org/abs/0000.00000"\n', "", "no link"),
    "evidence without words": ('kind = "code"', 'evidence = ["studies/ou"]', "evidence"),
    "a curve with a value": ("value = -0.3, ", 'value = -0.3, curve = "Figure 1", ', "the name of a curve"),
    "a device that is none": ("value = -0.3, ", 'value = -0.3, device = "tpu", ', "device = cpu or cuda"),
    "a GPU's number without a reason": ("value = -0.3, ", 'value = -0.3, device = "cuda", ', "and missing"),
    "a pair of no columns": ('kind = "code"', 'pairs = [["a", "b"]]', "pair a, b"),
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
    """The rows of the page's tables by their first cell, each by the names of its columns."""
    found, names = {}, []
    for line in text.splitlines():
        if not line.startswith("|"):
            names = []
            continue
        cells = [cell.strip() for cell in line.replace("\\|", "!").strip("|").split("|")]
        if not names:
            names = cells
        elif not cells[0].startswith(":-"):
            found[cells[0]] = dict(zip(names, cells, strict=True))
    return found


def test_the_page_from_rows():
    paper = ledger.parse("small", SMALL)
    points = pd.concat(
        [
            rows([0.4, 0.5, 0.6]),
            rows([2.0, 2.2, 2.4], method="ula:step=0.1"),
            rows([0.15, None], method="gaussian_vi").assign(status=["ok", "diverged"]),
            rows([500.0], method="still").assign(role="control"),
            rows([0.01], method="exact").assign(role="floor"),
        ]
    )
    text, tally = page(paper, points)
    command = "The command: `python -m gwfbench reproduce small --only table1`"
    assert f"## Table 1: Normal laws\n\n{command}\n\nFrom 100 points.\n" in text
    assert "## Figure 2: What nobody has\n\nSource: Figure 2.\n" in text
    assert tally == {"reproduced": 1, "better": 1, "different": 2, "not run": 2}
    assert f"\nThe paper: <https://arxiv.org/abs/0000.00000>.\n\nLines: {counted(tally)}.\n" in text
    assert counted(tally) == "1 reproduced, 0 consistent, 1 better, 0 not reproduced, 2 different, 2 not run"
    found = lines(text)
    third = found["third row"]
    assert third["published"] == "-0.3"
    assert third["ours [95 %]"].startswith("-0.301 [")
    assert (third["truth"], third["seeds"], third["settings"]) == ("-2", "3/3", "paper")
    assert third["verdict"] == "**reproduced**"
    second = found["second row"]
    assert (second["published"], second["seeds"]) == ("0.1 to 0.2", "1/2, 1 diverged")
    assert second["verdict"] == "**different** (own setting; one seed)"
    assert second["remark"] == "not all of our runs finished with a value"
    folded = "<details><summary><b>not run</b>, 2: needs a GPU</summary>\n\n- needs a GPU: GLOW: 45.99; blurred: -.\n"
    assert folded in text
    one, two = (line for line in text.splitlines() if line.startswith("| first"))
    assert "**better**" in one
    assert "| paper" in one
    assert "**different** (cut setting)" in two
    assert "| one step for two" in two
    assert "- paper: `ula:step=0.05` on `ou:horizon=0.1`. source: 5.1; the text has another step." in text
    assert "- quick: `ula:step=0.1` on `ou:horizon=0.1`. cut: one step for two; source:" in text
    cost = "8 runs, 0.0022 hours of one core, 0.0022 of them training; what judging took is left out where older rows"
    assert text.count(f"\nBehind these lines: {cost}") == text.count(f"\nBehind the lines above: {cost}") == 1
    assert third["fails from"] == "-0.025 (9%)"  # 0.05 and the lower half of the interval above -0.3; P_0 is at 2.7


def test_values_that_stand_in_two_tables_are_counted_once():
    again = SMALL.replace('kind = "code"', 'again = "Table 1"').replace('what = "GLOW"', 'what = "second row"')
    text, tally = page(ledger.parse("small", again), rows([0.4, 0.5, 0.6]))
    assert "The same values stand in Table 1: they are answered and counted there.\n" in text
    assert tally.total() == 3
    fan, _ = page(ledger.load("fan2022"), rows([0.4]))
    assert fan.count("twonorm, JKO-ICNN") == fan.count("twonorm, JKO-ICNN-d")


def test_many_lines_that_were_not_run_are_folded():
    more = ", ".join(f'{{ what = "row {i}", value = {i}.5 }}' for i in range(8))
    text, tally = page(ledger.parse("small", SMALL.replace('{ what = "blurred" }', more)), rows([0.4]))
    head = "<details><summary><b>not run</b>, 9: needs a GPU</summary>\n\n- needs a GPU: "
    assert f"{head}GLOW: 45.99; row 0: 0.5; row 1: 1.5" in text
    assert tally["not run"] == 10


def test_what_was_not_run_is_one_fold_a_table_whatever_the_reasons():
    why = [f"reason {i}, which has some words and some more" for i in range(6)]
    more = ", ".join(f'{{ what = "row {i}", value = {i}.5, missing = "{one}" }}' for i, one in enumerate(why))
    text, _ = page(ledger.parse("small", SMALL.replace('{ what = "blurred" }', more)), rows([0.4]))
    part = text[text.index("## Figure 2") :]
    assert part.count("<details>") == part.count("</details>") == 1
    summary = next(line for line in part.splitlines() if "<summary>" in line)
    assert summary.startswith("<details><summary><b>not run</b>, 7: needs a GPU (1); reason 0, which has some words")
    assert summary.endswith("; 3 more reasons</summary>")
    assert all(f"\n- {one}: row {i}: {i}.5.\n" in part for i, one in enumerate(why))
    for key in PAPERS:
        text, _ = page(ledger.load(key), pd.DataFrame())
        assert all(each.count("<details>") <= 1 for each in text.split("\n## "))


GPU = SMALL.replace(
    '{ what = "GLOW", value = 45.99, task = "nothing_of_ours", method = "glow:depth=3" }',
    '{ what = "GLOW", value = 45.99, device = "cuda", metric = "symkl", task = "ou", method = "ula", flop = 1.8e18 }',
)


def test_what_takes_a_gpu_has_its_command_and_its_minutes():
    paper = ledger.parse("small", GPU)
    glow = paper.tables[1].numbers[0]
    assert glow.command == "run --task ou --method ula --device cuda"
    assert glow.minutes == pytest.approx((100.0, 200.0))  # 1.8e18 / 3e14 and / 1.5e14 seconds
    assert {one.task for one in ledger.to_run(paper, paper.tables[1:], False)} == set()
    assert [one.task for one in ledger.to_run(paper, paper.tables[1:], False, cuda=True)] == ["ou"]
    text, _ = page(paper, rows([0.4]))
    assert "The command: `python -m gwfbench reproduce small --only figure2 --device cuda`" in text
    assert (
        "  - GLOW: 45.99 (`run --task ou --method ula --device cuda`; 100 to 200 GPU minutes, 1.8 EFLOP, counted"
        in text
    )


def test_rows_of_a_gpu_answer_it():
    found = rows([44.0, 45.0, 47.0], task="ou", method="ula").assign(device="cuda:0")
    assert lines(page(ledger.parse("small", GPU), found)[0])["GLOW"]["seeds"] == "3/3"


def test_values_by_an_older_version_of_a_metric_are_neither_good_nor_bad():
    old = rows([0.4, 0.5, 0.6])
    new = rows([9.0], method="still").assign(role="control", metric_version=2)
    text, tally = page(ledger.parse("small", SMALL), pd.concat([old, new]))
    assert tally == {"not run": 5}
    assert "by an older version of the metric: to be run again: first | row: 1; third row: -0.3." in text


def test_a_curve_has_our_values_and_no_verdict():
    curve = SMALL.replace("value = -0.3, scale", 'curve = "Figure 1, left", scale')
    text, tally = page(ledger.parse("small", curve), pd.concat([rows([0.4, 0.5, 0.6]), rows([0.01], method="exact")]))
    found = lines(text)["third row"]
    assert found["curve"] == "Figure 1, left"
    assert found["ours [95 %]"].startswith("-0.301 [")
    assert (found["truth"], found["seeds"]) == ("-2", "3/3")
    assert "verdict" not in found
    assert tally.total() == 4
    text, tally = page(ledger.parse("small", curve), rows([0.4], task="ou"))
    assert "no results yet: first | row: 1; second row: 0.1 to 0.2; third row: Figure 1, left." in text
    assert tally["not run"] == 5


def test_the_page_says_what_it_is_made_of():
    facts = {"e1": {"commit": "abc", "cpu": "A `CPU`", "torch": "2"}, "e2": {"commit": "aab", "torch": "2"}}
    both = rows([0.4, 0.5]).assign(env=["e1", "e2"])
    sources = {"../ou/rows.csv": {("ou:horizon=0.1", "ula:step=0.05")}, "../jko/rows.csv": {("ou", "vjko")}}
    text, _ = page(ledger.parse("small", SMALL), both, sources, facts)
    assert "Made from [../ou/rows.csv](../ou/rows.csv), [../jko/rows.csv](../jko/rows.csv).\n" in text
    assert "say it. Rows: [ou](../ou/rows.csv).\n" in text  # of this table
    assert "\ncommits: aab, abc\n" in text
    assert lines(text)["first ! row"]["commit"] == "aab abc"
    assert "\nprocessors: A \\`CPU\\`\n" in text
    assert "\ntorch: 2\n" in text


def test_the_page_is_a_function_of_the_rows_set():
    paper = ledger.parse("small", SMALL)
    points = pd.concat([rows([0.4, 0.5, 0.6]), rows([1.0], task="ou:dim=3"), rows([2.0, 2.5], method="ula:step=0.1")])
    shuffled = points.sample(frac=1, random_state=3)
    assert page(paper, points) == page(paper, shuffled)
    nothing = page(paper, points.iloc[:0])[1]
    assert nothing == {"not run": 5}


def test_a_metric_that_the_rows_lack_is_not_reproduced():
    paper = ledger.parse("small", SMALL)
    cells = lines(page(paper, rows([0.5, 0.5, 0.5], metric="kl"))[0])["first ! row"]
    assert (cells["ours [95 %]"], cells["agrees within"], cells["seeds"]) == ("-", "-", "3/3")
    assert cells["verdict"] == "**not reproduced**"
    assert cells["remark"] == "not all of our runs finished with a value"


def test_logarithms_take_the_error_along():
    paper = ledger.parse("small", SMALL)
    near = lines(page(paper, rows([0.25], se=0.08))[0])["third row"]  # log10: -0.602, error 0.139
    far = lines(page(paper, rows([0.25], se=0.01))[0])["third row"]
    assert near["verdict"] == "**consistent** (one seed; power not known)"
    assert far["verdict"] == "**better** (one seed)"
    assert lines(page(paper, rows([0.0]))[0])["third row"]["verdict"] == "**different** (one seed)"


def test_of_a_run_in_several_files_the_last_one_s_rows_count(cli, small):
    old, new = rows([9.0]).assign(n=1000, attempt="1"), rows([1.0])
    old.to_csv("old.csv", index=False)
    new.to_csv("new.csv", index=False)
    for files, wanted in ((("old", "new"), "1"), (("new", "old"), "9")):
        given = [word for name in files for word in ("--rows", f"{name}.csv")]
        code, _, err = cli("reproduce", "small", *given, "--write", "pages")
        assert code == 0, err
        found = lines((small / "pages" / "small.md").read_text())["first ! row"]
        assert (found["published"], found["ours [95 %]"], found["seeds"]) == ("1", wanted, "1/1")


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
    code, text, _ = cli("reproduce", "small", "--rows", "kept/rows.csv", "kept/rows.csv", "--write", "again")
    assert code == 0
    assert text == ""
    source = "Made from [kept/rows.csv](kept/rows.csv).\n\n"
    again = (small / "again" / "small.md").read_text().replace(source, "")
    assert again.replace(" Rows: [kept/rows.csv](kept/rows.csv).", "") == made


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
    assert text.startswith("deng2026: 6 runs of 2 settings\n")
    assert "\nnot run: 55 numbers\n  53: needs GPUs" in text


def test_a_dry_run_lists_what_takes_a_gpu_with_its_hours(cli, monkeypatch):
    monkeypatch.setattr(reproduce, "performed", None)
    code, text, _ = cli("reproduce", "caucheteux2026", "--dry-run", "--only", "table4", "--seeds", "2")
    assert code == 0
    assert text.startswith("caucheteux2026: 0 runs of 0 settings\nnot run: 32 numbers\n")
    code, text, _ = cli(
        "reproduce", "caucheteux2026", "--dry-run", "--only", "table4", "--seeds", "2", "--device", "cuda"
    )
    assert code == 0
    assert text.startswith("caucheteux2026: 64 runs of 32 settings\n")
    assert "not run" not in text
    assert (
        "on a GPU: 32 settings, about 61 to 1.2e+02 hours for 2 seed(s) of each (operations counted, 300 to 150" in text
    )
    command = "run --task images:data=cifar10,against=train --method gwf@cifar10:step=30.72 --device cuda --seeds 2"
    assert f"  python -m gwfbench {command}\n    a seed: 57 to 114 minutes\n" in text


@pytest.mark.parametrize("key", PAPERS)
def test_every_command_for_a_gpu_can_be_typed(key):
    for table in ledger.load(key).tables:
        for number in table.numbers:
            if number.command:
                assert registry.parse("task", number.task)
                assert registry.parse("method", number.method)
                assert number.minutes[0] > 0


@pytest.mark.parametrize("key", PAPERS)
def test_sources_and_evidence_can_be_opened(key):
    paper = ledger.load(key)
    for table in paper.tables:
        for said in table.evidence:
            assert (ROOT / "results" / said.partition(": ")[0]).is_file(), said
        for target in re.findall(r"\]\(([^)]+)\)", table.source):
            assert target.startswith("https://") or (ROOT / "results" / "papers" / target).is_file(), target
        if paper.key != "fan2022":  # whose tables are the paper's own, by number
            assert "](" in table.source or "](" in table.definition, table.name


def test_a_dry_run_says_what_the_runs_will_cost(cli, small):
    earlier = rows([0.4, 0.5, 0.6]).assign(seconds=[3000.0, 3600.0, 5000.0], sample_seconds=3600.0)
    ((small / "results" / "ou").mkdir(parents=True), earlier.to_csv("results/ou/rows.csv", index=False))
    _, text, _ = cli("reproduce", "small", "--dry-run", "--seeds", "2")
    wanted = (
        "cost: about 4 hours of one core for 2 runs, by earlier rows, judging left out; 4 runs are of settings without"
    )
    assert wanted in text
    earlier.assign(seconds=0.0, sample_seconds=36.0).to_csv("mine.csv", index=False)
    _, text, _ = cli("reproduce", "small", "--dry-run", "--seeds", "2", "--rows", "mine.csv")
    assert "cost: about 0.02 hours of one core for 2 runs" in text
    earlier.assign(seconds=0.0, sample_seconds=0.0, judge_seconds=72.0).to_csv("mine.csv", index=False)
    _, text, _ = cli("reproduce", "small", "--dry-run", "--seeds", "2", "--rows", "mine.csv")
    assert "cost: about 0.04 hours of one core for 2 runs, by earlier rows, judging included; 4 runs" in text
    earlier.assign(method="other").to_csv("mine.csv", index=False)
    assert "cost: not known" in cli("reproduce", "small", "--dry-run", "--rows", "mine.csv")[1]


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
        (["fan2022", "table2"], "reproduce fan2022 table2", "write --rows first"),
        (["fan2022", "--dry-run", "--seeds", "0"], "--seeds 0", "--seeds 3"),
    ],
)
def test_mistakes_end_with_2(cli, tmp_path, words, got, fix):
    code, _, err = cli("reproduce", *words)
    assert code == 2
    assert got in err
    assert fix in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("better", ["lower", "higher"])
@pytest.mark.parametrize(("rounding", "spread", "error", "se"), [(0.05, 0.0, 0.0, 0.0), (0.01, 0.3, 0.1, 0.2)])
def test_what_fails_from_is_where_the_verdict_turns(better, rounding, spread, error, se):
    """The same interval about another value of ours: on one side of it the published value agrees, beyond it not."""
    number = replace(NUMBER, value=(1.0, 1.2), better=better, rounding=rounding, spread=spread, error=error)
    mine = ours(1.1, 0.9, 1.4, se)
    turn = fails_from(number, mine)
    sign = 1 if better == "lower" else -1
    for off, word in ((-1e-6, "reproduced"), (1e-6, "not reproduced")):
        value = turn + sign * off
        there = ours(value, value - 0.2, value + 0.3, se)
        assert judged(number, "paper", there, 1e3 * sign).word in (
            {word} if word != "reproduced" else {word, "consistent"}
        )


def test_how_far_that_is_on_the_way_to_not_moving():
    mine = ours(1.0, 0.9, 1.1)  # fails from 1 + 0.1 + 0
    assert reach(NUMBER, mine, 2.0) == pytest.approx(0.1)
    assert reach(NUMBER, mine, 100.0) == pytest.approx(math.log(1.1) / math.log(100.0))  # more than a decade apart
    assert reach(replace(NUMBER, scale="log10"), mine, 100.0) == pytest.approx(0.1 / 99)
    assert reach(replace(NUMBER, better="higher"), mine, -1.0) == pytest.approx(0.1 / 2)
    for nowhere in (math.nan, 1.0, 0.5):
        assert math.isnan(reach(NUMBER, mine, nowhere))


def test_another_method_is_never_reproduced():
    instead = replace(NUMBER, instead="NUTS for HMC")
    assert judged(instead, "paper", ours(1.0), FAR) == Verdict("consistent", ("another method",))
    assert judged(instead, "paper", ours(2.0), FAR) == Verdict("different", ("another method",))
