"""Figures for papers, one or two columns wide, as PNG and PDF: quality against cost, and curves.

Medians over seeds with their 95 % intervals. Floors are grey bands, other controls grey lines. A curve is the error
along the flow where a task has judged times, else quality against what the judged laws had cost.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from gwfbench.errors import UserError
from gwfbench.report.board.accuracy import calls
from gwfbench.report.board.leaderboard import Board, boards
from gwfbench.report.board.lines import Line
from gwfbench.report.figures.style import Look, looks
from gwfbench.report.names import labels, require_known
from gwfbench.report.page.data import ALONG, History, Sheet, sheets
from gwfbench.report.table import contestants

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTHS = {1: 3.4, 2: 7.0}  # inches, by columns of a page
HEIGHT = 2.4  # of the plot, without names under it
LETTERS = 6.5  # points, of a name
FAR = 100  # floors: beyond them an axis has logarithms
WORSE = 10  # times still: beyond it nothing is shown
LAWS = 3  # at least, of a curve
COSTS = {  # what an axis of cost has, and its name
    "total": "training and sampling, seconds",
    "calls": "oracle calls, training and sampling",
    "train": "training, seconds",
}
MARKERS = {
    "circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "cross": "P", "x": "X", "triangle-down": "v",
    "pentagon": "p",
}  # fmt: skip
LINES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
# type 42 keeps text as text in a PDF, which journals ask for
STYLE: Any = {
    "font.size": 8, "axes.linewidth": 0.6, "pdf.fonttype": 42, "ps.fonttype": 42, "xtick.labelsize": 7,
    "ytick.labelsize": 7, "axes.unicode_minus": True, "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """How figures are to be.

    Args:
        x: one of COSTS.
        columns: of a page, that a figure is wide.
        texts: names of the user's own (`names.labels`).
    """

    x: str = "total"
    columns: int = 1
    texts: Mapping[str, str] = field(default_factory=dict)


def draw(
    rows: pd.DataFrame, metrics: Sequence[str] | Mapping[str, str] | None, folder: Path, wanted: Wanted | None = None
) -> Iterator[str]:
    """Write the figures of each task; a message for each, and for each that would be empty.

    Args:
        rows: the results table.
        metrics: which; None: of each task the first; or one by task.

    Raises:
        UserError: there is no matplotlib, the folder can't be written, or a label is of no method.
    """
    rc_context, wanted = style_context(), wanted or Wanted()
    rows = contestants(rows)
    require_known(wanted.texts, rows["method"])
    said: set[str] = set()
    for task, metric, part in _parts(rows, metrics):
        (sheet,) = sheets(part.assign(seconds=_paid(part, wanted.x)), [metric])
        lines = sheet.board.lines
        names = shown_names([line.method for line in lines], wanted.texts)
        style = looks((line.method, line.role) for line in lines)
        short = [f"{text}: {name}" for name, text in names.items() if text != name]
        yield from (text for text in short if text not in said)
        said.update(short)
        along = "t" if not math.isnan(sheet.board.t) else wanted.x
        for kind, make in ((f"cost-{wanted.x}", _cost), (f"curve-{along}", _curve)):
            with rc_context(STYLE):
                figure = make(_Plot(sheet, metric, style, names, wanted))
                if figure is None:
                    yield f"no {kind} of {metric} on {task}: no method has one"
                    continue
                yield save(figure, folder, f"{task}-{metric}-{kind}")


def style_context() -> Any:
    """`matplotlib.rc_context`.

    Raises:
        UserError: there is no matplotlib.
    """
    try:
        from matplotlib import rc_context
    except ImportError:
        raise UserError("report figures without matplotlib", "matplotlib", "pip install matplotlib") from None
    return rc_context


def plain(text: str) -> str:
    """Text whose dollar signs are no mathematics."""
    return text.replace("$", r"\$")


def shown_names(methods: Sequence[str], texts: Mapping[str, str]) -> dict[str, str]:
    """`names.labels`, whose texts of the user's own may hold mathematics."""
    own = set(texts.values())
    return {name: text if text in own else plain(text) for name, text in labels(methods, texts).items()}


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write a figure as PNG and PDF; a message."""
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


@dataclass(frozen=True)
class _Plot:
    """One metric of one task, and how it is drawn; `seconds` of the sheet are the cost that was asked for."""

    sheet: Sheet
    metric: str
    style: Mapping[str, Look]
    names: Mapping[str, str]
    wanted: Wanted

    @property
    def board(self) -> Board:
        return self.sheet.board

    @property
    def lines(self) -> list[Line]:
        return [line for line in self.board.lines if math.isfinite(line.value(self.metric))]


def _parts(
    rows: pd.DataFrame, metrics: Sequence[str] | Mapping[str, str] | None
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Task, metric, and their rows with those of runs that have no value."""
    for board in boards(rows, None if isinstance(metrics, Mapping) else metrics):
        mine = rows[rows["task"] == board.task]
        names = [metrics[board.task]] if isinstance(metrics, Mapping) else board.metrics
        for metric in names if metrics else names[:1]:
            yield board.task, metric, mine[(mine["metric"] == metric) | mine["metric"].isna()]


def _paid(rows: pd.DataFrame, x: str) -> pd.Series:
    """What each judged law had cost; a run without one has paid for no points."""
    if x == "calls":
        known = rows.assign(n=rows["n"].fillna(0.0)).to_dict("records")
        return pd.Series([calls(row) for row in known], rows.index, float)
    return rows["seconds"] + rows["sample_seconds"] if x == "total" else rows["seconds"]


def _cost(plot: _Plot) -> Figure | None:
    metric = plot.metric
    shown = [line for line in plot.lines if line.role == "method" and line.costs["seconds"] > 0]
    if not shown:
        return None
    figure, ax = _axes(plot, COSTS[plot.wanted.x])
    ax.set_xscale("log")
    paid = [line.costs["seconds"] for line in shown]
    ax.set_xlim(min(paid) / 2, 2 * max(paid))  # one method alone would leave no width
    cells = [line.cells[metric] for line in shown]
    top = _upright(ax, [cell.value for cell in cells], [cell.low for cell in cells], plot.board, metric)
    for line in shown:
        cell, look = line.cells[metric], plot.style[line.method]
        low, high = (end if math.isfinite(end) else cell.value for end in (cell.low, cell.high))
        at, inside, name = line.costs["seconds"], cell.value <= top, plot.names[line.method]
        # what lies above the axis stands on its edge, hollow
        ax.plot([at, at], [low, high], color=look.colour, linewidth=0.8)
        ax.plot(
            at, cell.value if inside else top, MARKERS[look.marker], color=look.colour, markersize=4, clip_on=inside,
            markerfacecolor=look.colour if inside else "white", label=name if inside else f"{name} (above)",
        )  # fmt: skip
    _levels(ax, plot)
    return _finish(figure, ax, plot)


def _curve(plot: _Plot) -> Figure | None:
    along = not math.isnan(plot.board.t)
    place = ALONG.index("t" if along else "seconds")
    drawn = [(line, _track(plot.sheet.histories[line.method], plot.metric, place)) for line in plot.lines]
    tracks = [(line, track) for line, track in drawn if len(track) >= LAWS]
    tracks = [(line, track) for line, track in tracks if along or line.role == "method"]
    known = [point for line, track in tracks if line.role == "method" for point in track]
    if not known:
        return None
    figure, ax = _axes(plot, "flow time t" if along else COSTS[plot.wanted.x])
    ends = [end for *_, low, high in known for end in (low, high)]
    _upright(ax, [middle for _, middle, _, _ in known], ends, plot.board, plot.metric)
    ax.set_xscale("linear" if along else "log")
    for line, track in tracks:
        x, middle, low, high = zip(*track, strict=True)
        look, band = plot.style[line.method], line.role == "floor"
        name = plot.names[line.method]
        shade, label = (0.25, _band_name(name)) if band else (0.15, None)
        ax.fill_between(x, low, high, color=look.colour, alpha=shade, linewidth=0, label=label)
        ax.plot(
            x, middle, color=look.colour, linestyle="-" if band else LINES[look.line],
            marker="" if band else MARKERS[look.marker], markersize=2.5, markevery=max(1, len(track) // 10),
            linewidth=0.6 if band else 1, label=None if band else name,
        )  # fmt: skip
    if not along:
        _levels(ax, plot)
    return _finish(figure, ax, plot)


def _track(history: History, metric: str, place: int) -> list[tuple[float, float, float, float]]:
    """(x, median, low, high) of each law; the median itself where an end is not known, or infinite."""
    found = []
    for step, band in zip(history.steps, history.curves.get(metric, []), strict=False):
        x = step[place]
        if band is not None and x is not None and x > 0:
            middle, low, high = band
            found.append((x, middle, *(end if math.isfinite(end) else middle for end in (low, high))))
    return found


def _axes(plot: _Plot, along: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    figure = Figure(figsize=(WIDTHS[plot.wanted.columns], HEIGHT), layout="constrained")
    ax: Any = figure.subplots()
    ax.set_title(plain(plot.board.task), fontsize=8)
    ax.set_xlabel(along)
    ax.set_ylabel(f"{plain(plot.metric)} ({plot.board.better[plot.metric]} is better)")
    ax.grid(color="#DDDDDD", linewidth=0.4)
    ax.set_axisbelow(True)
    return figure, ax


def _upright(ax: Axes, middles: Sequence[float], ends: Sequence[float], board: Board, metric: str) -> float:
    """Logarithms where all that methods have is positive; where values go far beyond the floor, logarithms beyond it,
    on an axis that holds all medians, and of their intervals what lies near. Where lower is better, what is far worse
    than not moving is left out, so that the rest is seen.

    Returns:
        The largest value that the axis holds.
    """
    middles, ends = ([value for value in values if not math.isnan(value)] for values in (middles, ends))
    cells = [line.cells[metric] for line in board.lines if line.role == "floor" and metric in line.cells]
    edges = [abs(end) for cell in cells for end in (cell.value, cell.low, cell.high) if math.isfinite(end)]
    floor = max(edges, default=0.0)
    still = max((line.value(metric) for line in board.lines if line.method == "still"), default=math.nan)
    far = board.better[metric] == "lower" and max(middles) > WORSE * still > 0
    top = WORSE * still if far else 3 * max(middles)
    if all(value > 0 for value in [*middles, *ends]):
        ax.set_yscale("log")
        if far:
            ax.set_ylim(min([*middles, *(cell.value for cell in cells if cell.value > 0)]) / 2, top)
    elif 0 < FAR * floor < max(map(abs, middles)):
        from matplotlib.ticker import FixedLocator, FuncFormatter

        ax.set_yscale("symlog", linthresh=floor, linscale=0.5)
        ax.set_ylim(min(-3 * floor, 3 * min(middles)), top)
        first, last = math.ceil(math.log10(floor)), math.floor(math.log10(top))
        powers = range(first, last + 1, max(1, (last - first) // 5))
        ax.yaxis.set_major_locator(FixedLocator([0.0, *(10.0**power for power in powers)]))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, plain=False)))
        ax.yaxis.set_minor_locator(FixedLocator([]))
    elif far:
        ax.set_ylim(top=top)
    return top if far else math.inf


def _levels(ax: Axes, plot: _Plot) -> None:
    """Floors as bands of their intervals, which may begin below a logarithmic axis; other controls as lines."""
    for line in plot.lines:
        cell, look, logs = line.cells[plot.metric], plot.style[line.method], ax.get_yscale() == "log"
        low, high = (end if math.isfinite(end) else cell.value for end in (cell.low, cell.high))
        if line.role == "method" or (logs and (high if line.role == "floor" else cell.value) <= 0):
            continue
        if line.role != "floor":
            ax.axhline(
                cell.value, color=look.colour, linestyle=LINES[look.line], linewidth=0.9, label=plot.names[line.method]
            )
            continue
        if logs and low <= 0:
            low = min(ax.get_ylim()[0], high / 2)
            ax.set_ylim(bottom=low)
        ax.axhspan(low, high, color=look.colour, alpha=0.25, linewidth=0, label=_band_name(plot.names[line.method]))
        if not logs or cell.value > 0:
            ax.axhline(cell.value, color=look.colour, linewidth=0.6)


def _band_name(name: str) -> str:
    return f"{name} (floor)"


def _ticks(axis: Any) -> None:
    """Ticks of a logarithmic axis: 1, 10, 100; between them 2 and 5, or all, where there are few of those."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if axis.get_scale() != "log":
        return
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    subs = (1.0,) if decades > 2 else (1.0, 2.0, 5.0) if decades > 0.7 else tuple(map(float, range(1, 10)))
    plain = low > 5e-4 and high < 2e4
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, plain)))
    axis.set_minor_formatter(NullFormatter())


def _tick(value: float, plain: bool) -> str:
    """A number as one writes it, 0.05, or 5 10^-2 where others are much larger or smaller."""
    if plain or not value:
        return f"{value:g}"
    power = math.floor(math.log10(value) + 1e-9)
    lead = f"{value / 10**power:.0f}"
    return f"${'' if lead == '1' else lead + chr(92) + 'cdot '}10^{{{power}}}$"


def _finish(figure: Figure, ax: Axes, plot: _Plot) -> Figure:
    """With the names outside, controls last: right of a wide plot; under a narrow one, in as many columns as fit."""
    _ticks(ax.xaxis)
    _ticks(ax.yaxis)
    controls = {
        name(plot.names[line.method]) for line in plot.lines if line.role != "method" for name in (str, _band_name)
    }
    shown = sorted(zip(*ax.get_legend_handles_labels(), strict=True), key=lambda pair: pair[1] in controls)
    marks, names = zip(*shown, strict=True)
    columns = plot.wanted.columns
    style: Any = {
        "frameon": False, "borderaxespad": 0, "handlelength": 2, "columnspacing": 1, "fontsize": LETTERS,
        "labelspacing": 0.35,
    }  # fmt: skip
    line = 1.4 * LETTERS / 72
    width = WIDTHS[columns]
    if columns == 2:
        figure.set_size_inches(width, max(HEIGHT, 0.6 + line * len(names)))
        figure.legend(marks, names, loc="outside right center", **style)
        return figure
    each = LETTERS / 72 * (0.55 * max(map(len, names)) + 4)  # a letter is 0.55 wide, its mark 4
    columns = max(1, min(3, int(width / each)))
    figure.set_size_inches(width, HEIGHT + math.ceil(len(names) / columns) * line)
    figure.legend(marks, names, loc="outside lower center", ncols=columns, **style)
    return figure
