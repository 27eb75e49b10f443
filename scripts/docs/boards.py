"""Boards of results/*/leaderboard.md as HTML that reads on a screen: one number a line, its interval below it."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape

from scripts.docs.text import words

VALUE = re.compile(
    r"(?P<mark><= floor |ALARM )?(?P<value>-?[\d.]+(?:e[+-]?\d+)?|-?inf|nan)(?: (?P<spread>[\[(].*[\])]))?"
)
COUNT = re.compile(r" \(n = (\d+)\)$")
CELL = re.compile(r"(?<!\\)\|")
MARKS = {
    "<= floor ": '<a class="mark floor" href="{floors}#floor" title="shown to be as good as exact draws">&le; floor</a>',
    "ALARM ": '<a class="mark alarm" href="{floors}#alarm" title="better than the truth allows: look for a leak">alarm</a>',
}
LEGENDS = ("score: 0 is exact", "Median over seeds")
CONTROLS = ("exact", "exact_jko", "still")
Links = Callable[[str, str], str]  # kind ("method", "metric"), name -> address, or ""


def cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table."""
    return [part.strip().replace("\\|", "|") for part in CELL.split(line.strip())[1:-1]]


def html(text: str, links: Links, floors: str) -> str:
    """A page whose boards (tables with the head `method`) are HTML.

    Args:
        floors: address of the page that explains marks.
    """
    out: list[str] = []
    lines = text.split("\n")
    while lines:
        if lines[0].startswith(LEGENDS):
            out += ['??? note "What the columns mean"', "", "    " + words(lines.pop(0))]
        elif not lines[0].startswith("| method"):
            out.append(lines.pop(0))
        else:
            board: list[str] = []
            while lines and lines[0].startswith("|"):
                board.append(lines.pop(0))
            out += ["", board_of([cells(line) for line in board if not line.startswith("|:")], links, floors), ""]
    return "\n".join(out)


def board_of(rows: list[list[str]], links: Links, floors: str) -> str:
    """One board, its head first, as one block of HTML."""
    head, *body = _with_counts(rows)
    lines = ['<div class="board" data-search-exclude><table class="rows"><thead><tr>']
    lines.append("".join(f"<th>{_headed(name, links)}</th>" for name in head))
    lines.append("</tr></thead><tbody>")
    for row in body:
        control = ' class="control"' if row[0] in CONTROLS else ""
        rest = "".join(_valued(text, floors) for text in row[1:])
        lines.append(f"<tr{control}><th>{_method(row[0], links)}</th>{rest}</tr>")
    lines.append("</tbody></table></div>")
    return "\n".join(lines)


def _with_counts(rows: list[list[str]]) -> list[list[str]]:
    """The number of points, which is the same in a whole column, in its head alone."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    for column in columns:
        counts = {found[1] for cell in column[1:] if (found := COUNT.search(cell))}
        if len(counts) == 1 and all(COUNT.search(cell) or not VALUE.match(cell) for cell in column[1:]):
            column[:] = [f"{column[0]} (n = {counts.pop()})", *(COUNT.sub("", cell) for cell in column[1:])]
    return [list(row) for row in zip(*columns, strict=True)]


def _anchor(address: str, text: str) -> str:
    return f'<a href="{escape(address)}">{text}</a>' if address else text


def _headed(name: str, links: Links) -> str:
    name, _, count = name.partition(" (n")
    task, colon, metric = name.rpartition(": ")
    linked = _anchor(links("metric", metric), escape(metric)) + (f"<small>(n{count}</small>" if count else "")
    return f"{_broken(task)}:<br>{linked}" if colon else linked


def _method(name: str, links: Links) -> str:
    plain = re.split("[^\\w.+-]", name)[0]
    rest = name.removeprefix(plain)
    shown = _anchor(links("method", plain), escape(plain))
    return f"{shown}<small>{_broken(rest)}</small>" if rest else shown


def _broken(text: str) -> str:
    """With places where a line may end."""
    return re.sub(r"([,:@=])", r"\1<wbr>", escape(text))


def _valued(text: str, floors: str) -> str:
    found = VALUE.match(text)
    if not found:
        return f"<td>{escape(text)}</td>"
    mark = MARKS.get(found["mark"] or "", "").format(floors=floors)
    value = escape(found["value"]).replace("-", "&minus;")
    spread = (found["spread"] or "") + text[found.end() :]
    small = f"<small>{escape(spread.strip())}</small>" if spread.strip() else ""
    if text[found.end() :].startswith("/"):  # 5/5
        return f"<td>{escape(text)}</td>"
    return f'<td class="number">{mark}{value}{small}</td>'
