"""scripts/peers.py: its page is what its rows give, its rows are sane, and each adapter does the same work on both sides."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gwfbench.errors import UserError

ROOT = Path(__file__).parents[1]
SCRIPTS = str(ROOT / "scripts")
sys.path.insert(0, SCRIPTS)
import peers  # noqa: E402
import peers_flows  # noqa: E402
import peers_page  # noqa: E402

sys.path.remove(SCRIPTS)
CASES = peers.cases()
KEPT = ROOT / "results/peers.csv"
ROWS = peers.read(KEPT)
MEETS = {"W2": 1e-3, "size of the step": 1e-3, "sliced W2": 1e-9, "FID": 1e-6, "precision": 0.02, "recall": 0.02}
SLOW = ("nuts", "smc", "field-ott", "svgd")  # JAX compiles


def line(name="a", quantity="seconds", kind="seconds", theirs="2 4 6", ours="1 2 3", **more):
    usual = {
        "peer": "geomloss", "version": "1", "problem": "p", "setting": "s", "their_call": "f", "our_call": "g",
        "exact": None, "first_theirs": 1.0, "first_ours": 1.0, "repeats": 3, "load": 1.0, "date": "2026-01-01",
        "commit": "c", "machine": "m", "python": "3", "torch": "2",
    }  # fmt: skip
    medians = {
        side: float(np.median(np.array(all_.split(), float))) for side, all_ in (("theirs", theirs), ("ours", ours))
    }
    return {
        "name": name,
        "quantity": quantity,
        "kind": kind,
        "all_theirs": theirs,
        "all_ours": ours,
        **medians,
        **usual,
        **more,
    }


# The page and its rows


def test_the_page_is_what_its_rows_give():
    assert (ROOT / "results/peers.md").read_text(encoding="utf-8") == peers_page.page(ROWS)


def test_every_comparison_is_there_and_names_are_unique():
    assert list(dict.fromkeys(ROWS["name"])) == [case.name for case in CASES]
    assert len({case.name for case in CASES}) == len(CASES)
    shown = [name for name in ROWS["name"].unique() for _, group in peers_page.GROUPS if name.startswith(group)]
    assert sorted(shown) == sorted(ROWS["name"].unique())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rows_are_sane(case):
    rows = ROWS[ROWS["name"] == case.name]
    assert set(rows["peer"]) == {case.peer}
    assert rows[["version", "commit", "machine", "date"]].notna().all(axis=None)
    assert (rows["repeats"] >= 5).all()
    assert (rows["seeds"] >= 5).all()
    assert "seconds" in set(rows["quantity"])
    assert set(rows["kind"]) <= {"seconds", "error", "value"}
    for row in rows.to_dict("records"):
        for side in ("theirs", "ours"):
            each = peers_page.numbers(row, side)
            assert len(each) == row["repeats"]
            assert np.isfinite(each).all()
            assert row[side] == pytest.approx(np.median(each), rel=1e-5)
            assert row["kind"] != "seconds" or (each > 0).all()
    if rows["calls_theirs"].notna().any() and "alone" not in case.name:
        assert (rows["calls_theirs"] / rows["calls_ours"]).between(0.8, 1.25).all()  # as many gradients


def test_values_that_should_be_equal_are():
    values = ROWS[ROWS["kind"] == "value"]
    assert len(values)
    for row in values.to_dict("records"):
        assert peers_page.gap(row) < MEETS[row["quantity"]], (row["name"], row["quantity"])


def test_the_page_begins_with_findings_and_names_no_machine_s_paths():
    text = (ROOT / "results/peers.md").read_text(encoding="utf-8")
    assert 3 <= sum(text.count(f"\n{number}. ") for number in range(1, 8)) <= 6
    assert text.index("\n1. ") < text.index("|")
    assert not any(word in text for word in ("/tmp", "/work", "/root", "pypi", "PyPI"))


# What the page says of numbers


def test_ratios_verdicts_and_gaps_are_those_of_planted_numbers():
    assert peers_page.between(line()) == "**2** (2 to 2)"
    better = line(kind="error", theirs="1 1.1 0.9", ours="2 2.1 1.9")
    assert peers_page.verdict(better) == "**theirs is lower**"
    assert (
        peers_page.verdict(better | {"all_theirs": better["all_ours"], "all_ours": better["all_theirs"]})
        == "ours is lower"
    )
    assert peers_page.verdict(line(kind="error", theirs="1 3 2", ours="2 1 3")) == "not told apart"
    assert peers_page.verdict(line(kind="error", theirs="1 2 3", ours="1.001 2 3")) == "equal"
    assert peers_page.gap(line(theirs="1 2 3", ours="1 2 2")) == 0.5


def test_what_a_peer_is_better_at_is_said_and_a_part_of_the_rows_is_a_page_too():
    rows = [
        line(theirs="1 1 1", problem="slow one"),
        line("b", "x", "error", "1 1.1 0.9", "2 2.1 1.9", problem="rough one"),
    ]
    text = peers_page.page(pd.DataFrame(rows))
    assert "slow one: geomloss (f) takes **0.5** (0.333 to 1)" not in text  # not in all repeats
    assert "- rough one: geomloss (f), x 1, ours 2" in text
    text = peers_page.page(pd.DataFrame([line(theirs="1 1 1", ours="2 3 4", problem="slow one")]))
    assert "- slow one: geomloss (f) takes **0.333** (0.25 to 0.5) of our time" in text


def test_numbers_of_other_comparisons_stay_in_the_file(tmp_path):
    path, (one, two, *_) = tmp_path / "peers.csv", [case.name for case in CASES]
    peers.kept(path, pd.DataFrame([line(two), line(one)]))
    peers.kept(path, pd.DataFrame([line(two, theirs="9 9 9")]))
    found = peers.read(path)
    assert found[["name", "theirs"]].to_dict("list") == {"name": [one, two], "theirs": [4.0, 9.0]}


# Mistakes of users


def test_a_peer_that_is_not_there_is_named_with_the_command_that_installs_it(monkeypatch, capsys):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None if name == "geomloss" else 1)
    with pytest.raises(UserError, match="pip install geomloss, or all of them: pip install 'gwfbench\\[peers\\]'"):
        peers.chosen([], None)
    assert {case.peer for case in peers.chosen([], "POT")} == {"POT"}
    monkeypatch.setattr(sys, "argv", ["peers.py", "--only", "geomloss"])
    with pytest.raises(SystemExit) as stop:
        peers.main()
    assert stop.value.code == 2
    assert "geomloss: not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["w2-pott"], "did you mean 'w2-pot'"),
        (["--only", "geomlos"], "did you mean 'geomloss'"),
        (["w2-pot", "--only", "scipy"], "leave one of them out"),
        (["--page", "nowhere/peers"], "no such file"),
        (["--seeds", "1"], "2 or more"),
    ],
)
def test_mistakes_end_with_2_and_say_what_to_do(words, says, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["peers.py", *words])
    with pytest.raises(SystemExit) as stop:
        peers.main()
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


# The adapters


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] * case.name.startswith(SLOW)) for case in CASES],
    ids=lambda case: case.name,
)
@pytest.mark.timeout(900)  # JAX compiles for long on a busy machine
@pytest.mark.filterwarnings("ignore")  # theirs are not ours to mend
def test_both_sides_do_the_same_work_on_a_small_problem(case):
    fidelity = case.peer == "torch-fidelity"  # ours knows how to import it next to a CPU build of torch
    for module in ("gwfbench.nn.fidelity",) if fidelity else case.modules:
        pytest.importorskip(module, reason="the extra `peers`")
    sides = case.small()(0)
    theirs, ours = sides.theirs(), sides.ours()
    for quantity, found in sides.judge(theirs, ours).items():
        assert math.isfinite(found.theirs)
        assert math.isfinite(found.ours)
        if found.kind == "value":
            assert found.theirs == pytest.approx(found.ours, rel=MEETS[quantity])
        if quantity.startswith("error of the field"):
            assert found.ours < 0.1
            assert found.theirs < (0.1 if "geomloss" not in case.name else 1)
        if quantity == "W2":
            assert found.theirs == pytest.approx(found.ours, rel=0.1)
    if sides.calls is not None:
        assert min(sides.calls(theirs, ours)) > 0


def test_the_sliced_field_is_pot_s_gradient():
    assert peers_flows.sliced_gap(50, 8) < 1e-5


@pytest.mark.slow
def test_one_comparison_is_made_and_written(tmp_path):
    words = ["bures-near", "--seeds", "2", "--write", str(tmp_path / "peers")]
    done = subprocess.run([sys.executable, SCRIPTS + "/peers.py", *words], capture_output=True, text=True, check=True)
    assert "relative error" in done.stdout
    rows = peers.read(tmp_path / "peers.csv")
    assert set(rows["quantity"]) == {"seconds", "relative error"}
    assert (tmp_path / "peers.md").read_text() == peers_page.page(rows)
