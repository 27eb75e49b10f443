"""Figures for papers, a column wide, as PNG and PDF: quality against training seconds, and curves.

The same numbers and the same looks as on the page: medians over seeds with their 95 % intervals, floors and
controls in grey. A curve is the error along the flow where a task has judged times, else quality against seconds, and
in a second figure against points through the target's score or its log-density (the larger number), or drawn from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from gwfbench.errors import UserError
from gwfbench.report.board.leaderboard import Board
from gwfbench.report.board.lines import Line
from gwfbench.report.figures.style import Look, looks
from gwfbench.report.page.data import ALONG, CALLS, History, Sheet, sheets
from gwfbench.report.table import contestants

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 3.4  # inches: one column of two
FAR = 100  # floors: beyond them an axis has logarithms
HEIGHT = 2.4  # of the plot, without the names under it
MARKERS = {
    "circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "cross": "P", "x": "X", "triangle-down": "v",
    "pentagon": "p",
}  # fmt: skip
LINES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
# type 42 keeps text as text in a PDF, which journals ask for
STYLE: Any = {"font.size": 8, "axes.linewidth": 0.6, "pdf.fonttype": 42, "xtick.labelsize": 7}


def draw(rows: pd.DataFrame, metrics: Sequence[str] | None, folder: Path) -> Iterator[str]:
    """Write the figures of each task; a message for each, and for each that would be empty.

    Args:
        rows: the results table.
        metrics: which; None: of each task the first.

    Raises:
        UserError: there is no matplotlib, or the folder can't be written.
    """
    try:
        from matplotlib import rc_context
    except ImportError:
        fix = "pip install matplotlib"
        raise UserError("report figures without matplotlib", "matplotlib", fix) from None
    rows = contestants(rows)
    all_looks = looks(zip(rows["method"], rows["role"], strict=True))
    for sheet in sheets(rows, metrics):
        task, names = sheet.board.task, sheet.board.metrics
        for metric in names if metrics else names[:1]:
            limit = math.isnan(sheet.board.t)
            for kind, make in (("cost", _cost), ("curve", _curve), *[("calls", _against_calls)] * limit):
                with rc_context(STYLE):
                    figure = make(sheet, metric, all_looks)
                    if figure is None:
                        yield f"no {kind} of {metric} on {task}: no method has one"
                        continue
                    yield _save(figure, folder, f"{task}-{metric}-{kind}")


def _save(figure: Figure, folder: Path, name: str) -> str:
    path = folder / re.sub(r"[^A-Za-z0-9_.]+", "-", name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for ending, date in (("png", "Software"), ("pdf", "CreationDate")):  # the same rows give the same bytes
            figure.savefig(f"{path}.{ending}", dpi=300, metadata={date: None})
    except OSError as error:
        raise UserError(
            f"report figures {folder}: {error.strerror}", "a folder that can be written", "name another"
        ) from None
    return f"wrote {path}.png and .pdf"


def _cost(sheet: Sheet, metric: str, style: Mapping[str, Look]) -> Figure | None:
    board = sheet.board
    shown = [line for line in _with(board, metric) if line.role == "method" and line.costs["seconds"] > 0]
    if not shown:
        return None
    figure, ax = _axes(board, metric, "training seconds")
    ax.set_xscale("log")
    seconds = [line.costs["seconds"] for line in shown]
    ax.set_xlim(min(seconds) / 2, 2 * max(seconds))  # one method alone would leave no width
    cells = [line.cells[metric] for line in shown]
    _upright(ax, [cell.value for cell in cells], [cell.low for cell in cells], board, metric)
    for line in shown:
        cell, look = line.cells[metric], style[line.method]
        low, high = (end if math.isfinite(end) else cell.value for end in (cell.low, cell.high))
        ax.errorbar(
            [line.costs["seconds"]], [cell.value], yerr=[[cell.value - low], [high - cell.value]], color=look.colour,
            marker=MARKERS[look.marker], linestyle="none", markersize=4.5, linewidth=0.8, capsize=1.5,
            label=line.method,
        )  # fmt: skip
    _levels(ax, board, metric, style)
    return _finish(figure, ax)


def _curve(sheet: Sheet, metric: str, style: Mapping[str, Look]) -> Figure | None:
    along = not math.isnan(sheet.board.t)
    place = ALONG.index("t" if along else "seconds")
    return _drawn(sheet, metric, style, "flow time t" if along else "training seconds", lambda step: step[place])


def _against_calls(sheet: Sheet, metric: str, style: Mapping[str, Look]) -> Figure | None:
    def calls(step: list[float | None]) -> float:
        score, log_prob, draws = (step[ALONG.index(name)] or 0.0 for name in CALLS)
        return max(score, log_prob) + draws

    return _drawn(sheet, metric, style, "oracle calls in training", calls)


def _drawn(
    sheet: Sheet,
    metric: str,
    style: Mapping[str, Look],
    label: str,
    place: Callable[[list[float | None]], float | None],
) -> Figure | None:
    """Curves against what `place` takes from the values of ALONG."""
    board = sheet.board
    along = not math.isnan(board.t)
    drawn = [(line, _track(sheet.histories[line.method], metric, place)) for line in _with(board, metric)]
    tracks = [(line, track) for line, track in drawn if len(track) > 1]
    tracks = [(line, track) for line, track in tracks if along or line.role == "method"]
    if not any(line.role == "method" for line, _ in tracks):
        return None
    figure, ax = _axes(board, metric, label)
    if not along:
        ax.set_xscale("log")
        _levels(ax, board, metric, style)
    known = [point for line, track in tracks if line.role == "method" for point in track]
    _upright(
        ax,
        [middle for _, middle, _, _ in known],
        [end for *_, low, high in known for end in (low, high)],
        board,
        metric,
    )
    for line, track in tracks:
        x, middle, low, high = zip(*track, strict=True)
        look = style[line.method]
        ax.fill_between(x, low, high, color=look.colour, alpha=0.15, linewidth=0)
        ax.plot(
            x, middle, color=look.colour, linestyle=LINES[look.line], marker=MARKERS[look.marker], markersize=2.5,
            linewidth=1, label=line.method,
        )  # fmt: skip
    return _finish(figure, ax)


def _with(board: Board, metric: str) -> list[Line]:
    return [line for line in board.lines if math.isfinite(line.value(metric))]


def _track(
    history: History, metric: str, place: Callable[[list[float | None]], float | None]
) -> list[tuple[float, float, float, float]]:
    """(x, median, low, high) of each law; the median itself where an end is not known, or infinite."""
    found = []
    for step, band in zip(history.steps, history.curves.get(metric, []), strict=False):
        x = place(step)
        if band is not None and x is not None and x > 0:
            middle, low, high = band
            found.append((x, middle, *(end if math.isfinite(end) else middle for end in (low, high))))
    return found


def _axes(board: Board, metric: str, along: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    ax: Any = figure.subplots()
    ax.set_title(board.task, fontsize=8)
    ax.set_xlabel(along)
    ax.set_ylabel(f"{metric} ({board.better[metric]} is better)")
    ax.grid(color="#DDDDDD", linewidth=0.4)
    ax.set_axisbelow(True)
    return figure, ax


def _upright(ax: Axes, middles: Sequence[float], ends: Sequence[float], board: Board, metric: str) -> None:
    """Logarithms where all that methods have is positive; where values go far beyond the floor, logarithms beyond it,
    on an axis that holds all medians, and of their intervals what lies near.
    """
    middles, ends = ([value for value in values if not math.isnan(value)] for values in (middles, ends))
    cells = [line.cells[metric] for line in _with(board, metric) if line.role == "floor"]
    edges = [abs(end) for cell in cells for end in (cell.value, cell.low, cell.high) if math.isfinite(end)]
    floor = max(edges, default=0.0)
    if all(value > 0 for value in [*middles, *ends]):
        ax.set_yscale("log")
    elif 0 < FAR * floor < max(map(abs, middles)):
        ax.set_yscale("symlog", linthresh=floor)
        ax.set_ylim(min(-3 * floor, 3 * min(middles)), 3 * max(middles))


def _levels(ax: Axes, board: Board, metric: str, style: Mapping[str, Look]) -> None:
    for line in _with(board, metric):
        value, look = line.cells[metric].value, style[line.method]
        if line.role != "method" and (value > 0 or ax.get_yscale() != "log"):
            ax.axhline(value, color=look.colour, linestyle=LINES[look.line], linewidth=0.9, label=line.method)


def _finish(figure: Figure, ax: Axes) -> Figure:
    """With the names under the plot, in two columns of the larger letters where they fit, and no wider than it."""
    marks, names = ax.get_legend_handles_labels()
    size, columns = 5.5, 1
    for large in (6.5, 5.5):
        if 2 * large / 72 * (0.6 * max(map(len, names)) + 5) <= WIDTH:  # a letter is 0.6 wide, its mark 5
            size, columns = large, 2
            break
    figure.set_size_inches(WIDTH, HEIGHT + math.ceil(len(names) / columns) * 1.5 * size / 72)
    figure.legend(
        marks, names, loc="outside lower center", ncols=columns, frameon=False, borderaxespad=0, handlelength=2.2,
        columnspacing=1, fontsize=size,
    )  # fmt: skip
    return figure
