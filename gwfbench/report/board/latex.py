"""Leaderboards as LaTeX for papers: short names, true minus signs, the best of each column in bold.

Controls stand apart between rules. Costs are seconds of training and sampling together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from gwfbench import escape
from gwfbench.report.board.cells import NO_CELL
from gwfbench.report.board.leaderboard import Board
from gwfbench.report.board.lines import Line
from gwfbench.report.board.tables import title
from gwfbench.report.names import labels, require_known

NUMBER = re.compile(r"(?<![\w.])(-?)(\d+(?:\.\d+)?)(?:e([+-]?)0*(\d+))?(?![\w.])")
FLOOR, ALARM = "$^{*}$", "$^{!}$"
HEAD = r"""% \usepackage{booktabs}
% Median over seeds [95 % interval of the median]; bold: the best median of a method; *: at the noise floor;
% !: better than the floor, look for a mistake; s: seconds of training and sampling.
"""
INFINITY = r"\infty"
ORDER = ("floor", "method", "control")  # of the parts of a table, by role


def tables(shown: Sequence[Board], pivot: bool = False, texts: Mapping[str, str] | None = None) -> str:
    """The boards with booktabs: one table per task, or one per metric with the tasks side by side.

    Args:
        pivot: one table per metric.
        texts: names of the user's own (`names.labels`).

    Raises:
        UserError: a label is of no method on these boards.
    """
    every = list(dict.fromkeys(line.method for board in shown for line in board.lines))
    require_known(texts or {}, every)
    names = labels(every, texts)
    parts = _pivoted(shown, names) if pivot else [_of_task(board, names) for board in shown]
    said = [f"% {escape.line(text)}: {escape.line(name)}\n" for name, text in names.items() if text != name]
    return HEAD + "".join(said) + "\n" + "\n".join(parts)


def _of_task(board: Board, names: Mapping[str, str]) -> str:
    best = {name: _best(board, name) for name in board.metrics}
    seeds = len({str(line.seeds) for line in board.lines}) > 1
    heads = ["method", "tier", *map(escape.latex, board.metrics), *["seeds"] * seeds, "s"]

    def cells(line: Line) -> list[str]:
        shown = [_cell(line, name, best[name]) for name in board.metrics]
        return [line.tier or "--", *shown, *[escape.latex(str(line.seeds))] * seeds, _seconds(line)]

    groups = [[(line.method, cells(line)) for line in board.lines if line.role == role] for role in ORDER]
    return _table(title(board), heads, groups, names)


def _pivoted(shown: Sequence[Board], names: Mapping[str, str]) -> list[str]:
    lines = [{line.method: line for line in board.lines} for board in shown]
    roles = {line.method: line.role for board in shown for line in board.lines}
    heads = ["method", *(escape.latex(board.task) for board in shown)]

    def section(name: str, text: Callable[[Board, Line], str]) -> str:
        def cells(method: str) -> list[str]:
            pairs = zip(shown, lines, strict=True)
            return [text(board, own[method]) if method in own else "--" for board, own in pairs]

        groups = [[(method, cells(method)) for method, role in roles.items() if role == wanted] for wanted in ORDER]
        return _table(name, heads, groups, names)

    metrics = list(dict.fromkeys(name for board in shown for name in board.metrics))
    best = {(board.task, name): _best(board, name) for board in shown for name in metrics}
    parts = [
        section(name, lambda board, line, name=name: _cell(line, name, best[board.task, name])) for name in metrics
    ]
    return [*parts, section("training and sampling, s", lambda _, line: _seconds(line))]


def _table(
    name: str, heads: Sequence[str], groups: Sequence[Sequence[tuple[str, Sequence[str]]]], names: Mapping[str, str]
) -> str:
    """Groups of rows (method, cells), a rule before each."""
    rows = [
        "\n".join(" & ".join([escape.latex(names[who]), *cells]) + r" \\" for who, cells in own)
        for own in groups
        if own
    ]
    body = "\n\\midrule\n".join([" & ".join(heads) + r" \\", *rows])
    columns = "l" + "r" * (len(heads) - 1)
    return (
        f"% {escape.line(name)}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"
    )


def _best(board: Board, metric: str) -> str:
    """The best median of a method, as it is shown."""
    cells = [line.cells[metric] for line in board.lines if line.role == "method" and math.isfinite(line.value(metric))]
    choose = max if board.better.get(metric) == "higher" else min
    return choose(cells, key=lambda cell: cell.value).shown["value"] if cells else ""


def _cell(line: Line, metric: str, best: str) -> str:
    cell = line.cells.get(metric, NO_CELL)
    if math.isnan(cell.value):
        return "--"
    shown = cell.shown
    value = _math(shown["value"], bold=line.role == "method" and shown["value"] == best)
    mark = {"floor": FLOOR, "alarm": ALARM}.get(cell.verdict, "")
    return " ".join(filter(None, [value + mark, _math(shown["interval"])]))


def _seconds(line: Line) -> str:
    """What a user waits for."""
    paid = line.costs["seconds"] + line.costs["sample_seconds"]
    return "--" if math.isnan(paid) else _math(f"{paid:.3g}")


def _math(text: str, bold: bool = False) -> str:
    """Numbers as mathematics: a true minus, powers of ten."""

    def number(found: re.Match[str]) -> str:
        sign, digits, minus, power = found.groups()
        tens = f" \\cdot 10^{{{'-' if minus == '-' else ''}{power}}}" if power else ""
        shown = f"{sign}{digits}{tens}"
        return f"$\\mathbf{{{shown}}}$" if bold else f"${shown}$"

    if text.startswith("["):
        return f"${NUMBER.sub(number, text).replace('$', '').replace('inf', INFINITY)}$"
    return NUMBER.sub(number, text.replace("inf", f"${INFINITY}$"))
