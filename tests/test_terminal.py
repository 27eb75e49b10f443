"""Tables for terminals: nothing is wider than the terminal, nothing is cut, numbers are short and right."""

import math
import re
import sys
from pathlib import Path

import pytest

from gwfbench.report import rows as results
from gwfbench.report import terminal
from gwfbench.report.board import short, suites
from gwfbench.report.board import terminal as boards_of
from gwfbench.report.board.leaderboard import boards
from gwfbench.report.board.terminal import Look
from gwfbench.report.terminal import Table
from gwfbench.suites import suite

ROOT = Path(__file__).parents[1]
NAMES = ("exact", "vjko@ou-quick", "ula@quick", "sinkhorn_flow@quick", "mmd_flow@quick", "still")


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (2.21e-5, 1.7e-5, 2.6e-5, "2.2e-5 ±0.5"),
        (4.63e-5, 1.16e-5, 3.97e-4, "4.6e-5 ±40"),  # the farther end
        (0.0377, 0.0222, 0.0457, "0.038 ±0.015"),
        (0.142, 0.134, 0.153, "0.142 ±0.011"),
        (2600.0, 2480.0, 2640.0, "2600 ±120"),
        (69.0, 68.5, 69.7, "69.0 ±0.7"),
        (-1.88e-6, -1.33e-4, 1.71e-4, "0.0e-4 ±1.7"),  # far inside its interval, whose power of ten counts
        (0.28213, 0.2818, 0.2824, "0.2821 ±0.0003"),
        (1.11e6, 1.0e6, 1.2e6, "1.11e6 ±0.11"),
        (0.5, 0.5, 0.5, "0.5"),
        (0.0, 0.0, 0.0, "0"),
        (1.26e-5, math.nan, math.nan, "1.26e-5"),
        (math.inf, 1.0, math.inf, "inf"),
        (3.0, 1.0, math.inf, "3 ±inf"),
        (math.nan, math.nan, math.nan, "-"),
    ],
)
def test_a_number_and_what_is_known_of_it(value, low, high, shown):
    assert " ".join(filter(None, short.plus_minus(value, low, high))) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.000251, "0.000251"), (1.85e4, "18500"), (1.11e6, "1.11e6"), (math.nan, "-"), (0.0, "0")]
)
def test_a_cost(value, shown):
    assert short.number(value) == shown


LONG = "vjko:iterations=500,critic_steps=3"
FORMS = Table(["method", "state", "took", "why"], [[LONG, "done", "9.7 s", "the code has changed since"], ["ula", "x", "1 s", ""]],
              left=(0, 1, 3), prose=True, dim=(1,))  # fmt: skip


@pytest.mark.parametrize(
    ("room", "first", "last"),
    [
        (120, f"{LONG}  done   9.7 s  the code has changed since", "ula                                 x        1 s"),
        (60, f"{LONG}  done   9.7 s", "ula                                 x        1 s"),
        (40, LONG, "  x        1 s"),
        (12, LONG, "  took   1 s"),
    ],
)
def test_a_table_takes_the_first_form_that_fits(room, first, last):
    lines = [text for text, _ in FORMS.lines(room)]
    assert first in lines
    assert lines[-1] == last
    words = " ".join(" ".join(lines).split())
    assert "the code has changed since" in words, "prose is broken between words alone"
    assert all(len(line) <= max(room, len(LONG)) for line in lines)


def test_a_column_of_prose_that_nobody_needs_is_left_away():
    table = Table(["a", "b"], [["x", ""]], left=(0, 1), prose=True)
    assert [text for text, _ in table.lines(80)] == ["a", "─", "x"]


def smoke():
    """The committed rows, with times that stay when they are made again."""
    return results.read(ROOT / "results" / "smoke" / "rows.csv")[0].assign(seconds=0.25, sample_seconds=0.142)


@pytest.fixture(scope="module")
def made():
    return boards(smoke())


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("intervals", [False, True])
@pytest.mark.parametrize("columns", [40, 80, 100, 120])
def test_no_board_is_wider_than_the_terminal(made, capsys, monkeypatch, columns, intervals, wide):
    monkeypatch.setenv("COLUMNS", str(columns))
    boards_of.print_boards(made, Look(wide, intervals))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    assert "\x1b" not in out, "no terminal, no colours"
    assert all(re.search(rf"^{re.escape(name)}\b", out, re.M) for name in NAMES), "names are whole"
    number = "4.63e-5 [1.16e-5, 0.000397]" if intervals else "4.6e-5 ±40"
    assert number in out, "and so are numbers"
    assert ("c2st" in out) == wide


def test_a_board_has_its_headline_tier_and_time_and_says_what_else_there_is(made, capsys):
    boards_of.print_boards(made)
    out = capsys.readouterr().out
    assert "ou at t = 0.9, by symkl: lower is better" in out
    assert re.search(r"^method +symkl +tier +time \[s\]$", out, re.M)
    assert re.search(r"^sliced_flow@quick +0\.040 ±0\.017 +a +0\.392$", out, re.M), "training and sampling"
    assert re.search(r"^still +0\.444 ±0\.015 +- +-$", out, re.M), "a control is nobody's work"
    assert "--wide" in out
    assert "sliced_w2: judged by 4096 points for exact, still, by 1024 for the others." in out


@pytest.mark.parametrize("columns", [40, 80])
def test_the_board_of_a_suite(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    of = suite.load("smoke")
    boards_of.print_suite(suites.of_suite(smoke(), of), of)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    assert out.index("use density, on ou") < out.index("use samples, on")
    if columns == 80:
        assert re.search(r"^mmd_flow +0\.142 ±0\.011 +0\.294 ±0\.028 +b +0\.392$", out, re.M)


class Screen:
    """A standard output that says it is a terminal."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text
        return len(text)

    def flush(self):
        pass

    def isatty(self):
        return True


@pytest.mark.parametrize(("no_color", "colours"), [("", True), ("1", False)])
def test_a_terminal_gets_styles_and_no_color_no_colours(monkeypatch, no_color, colours):
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("NO_COLOR", no_color) if no_color else monkeypatch.delenv("NO_COLOR", raising=False)
    terminal.put([("head [x]", "bold"), ("\x1b[31mred", "dim")])
    assert ("\x1b[" in screen.text) == colours
    assert "head [x]" in screen.text
    assert "\\x1b[31mred" in screen.text, "what a name holds is shown"


def test_an_encoding_without_the_characters_of_tables(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "_plain", lambda: {ord("±"): "+-", ord("─"): "-"})
    terminal.show(Table(["a"], [["1 ±2"]]))
    assert capsys.readouterr().out == "a\n----\n1 +-2\n"


SUITES = pytest.param(("suite", "list"), marks=pytest.mark.slow)  # it reads all published rows


@pytest.mark.parametrize("words", [("list",), ("list", "--method", "vjko"), ("list", "--metrics"), SUITES])
def test_other_tables_fit_too(cli, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = cli(*words)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "sampling-small " in out or words[0] != "suite"


def test_a_list_has_one_line_for_each_and_fields_for_those_that_are_named(cli):
    from gwfbench.plugins import registry

    out = cli("list")[1]
    for kind in ("task", "method"):
        assert all(re.search(rf"^  {name}  +\S", out, re.M) for name in registry.plugins(kind))
    assert "step size" not in out
    assert "step size" in cli("list", "--fields")[1]
    named = cli("list", "--method", "ula")[1]
    assert "step size" in named
    assert "tasks that fit" in named
    assert "variational" not in named.lower(), "other methods are not shown"
