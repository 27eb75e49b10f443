"""Words of strangers on their way out."""

import csv
import io

import pytest

from gwfbench import escape

NASTY = [
    "\x1b[2J",
    "a\r50%",
    "a\nb",
    "\0",
    "\u202egnp",
    "\u2028",
    "\ud800",
    "[/red]",
    "<script>",
    "a|b",
    "=1+1",
    "%\\end{x}",
    "\\",
    "é 中 ü",
]


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("way", [escape.line, escape.rich, escape.markdown, escape.latex, escape.csv])
def test_one_line_of_what_can_be_seen(way, text):
    shown = way(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) == 1
    shown.encode()


def test_lines_stay_in_a_block():
    assert escape.block("a\n\tb\x1b") == "a\n\tb\\x1b"
    assert escape.block("\r\u202e") == "\\r\\u202e"


def test_what_is_harmless_stays():
    text = "vjko:step=0.1, é 中"
    assert {way(text) for way in (escape.block, escape.line, escape.rich, escape.markdown, escape.csv)} == {text}


def test_rich_prints_it_as_it_is():
    from rich.console import Console

    for text in ("[red]x", "[/]", "a[/x]b", "\\[b]"):
        console = Console(file=io.StringIO(), width=80)
        console.print(escape.rich(text))
        assert console.file.getvalue() == f"{text}\n"


def test_markdown_has_no_markup():
    assert escape.markdown("<b>|[x](y)") == "&lt;b&gt;\\|\\[x\\](y)"


def test_latex_prints_all_characters():
    assert escape.latex("a_b%{") == r"a\_b\%\{"


@pytest.mark.parametrize("text", ["=cmd", "@x", "+1", "-1"])
def test_a_cell_is_no_formula(text):
    out = io.StringIO()
    csv.writer(out).writerow([escape.csv(text)])
    assert out.getvalue() == f"'{text}\r\n"
