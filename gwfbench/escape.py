"""Words of strangers on their way out: what a name, a reason or a path may hold, made harmless for where it goes.

A control character can move a terminal's cursor, hide text or break a table; markup can become a link or a script; a
cell that begins with "=" is a formula to a spreadsheet. All text that this package did not write itself leaves through
one of these functions.
"""

from __future__ import annotations

import re
import unicodedata

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
FORMULA = ("=", "+", "-", "@")


def block(text: str) -> str:
    r"""For a terminal: lines stay, other control characters are shown: `\x1b`, `\u202e`.

    >>> block("a\x1b[31m\nb")
    'a\\x1b[31m\nb'
    """
    return "".join(char if char in "\n\t" or not _controls(char) else _shown(char) for char in text)


def line(text: str) -> str:
    r"""For one line of a terminal, a log or a table: line ends and tabs are shown too."""
    return "".join(_shown(char) if _controls(char) else char for char in text)


def rich(text: str) -> str:
    """For a table or bar of rich: one line, whose square brackets are no markup."""
    from rich.markup import escape

    return escape(line(text))


def markdown(text: str) -> str:
    """For Markdown, in a table or a heading: one line, no HTML, no column, no link, no emphasis."""
    shown = line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|])", r"\\\1", shown)


def latex(text: str) -> str:
    """For LaTeX: one line in which all characters are printed as they are."""
    return "".join(LATEX.get(char, char) for char in line(text))


def csv(text: str) -> str:
    """For a cell of a CSV: one line, and no formula."""
    shown = line(text)
    return f"'{shown}" if shown.startswith(FORMULA) else shown


def _controls(char: str) -> bool:
    """Whether it acts instead of being seen: controls, bidi and other formats, surrogates, line separators."""
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _shown(char: str) -> str:
    return char.encode("unicode_escape").decode()
