"""A suite in one figure: the rank of each method on each task, with its tier there, as PNG and PDF."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from gwfbench.report.board.leaderboard import Board, boards
from gwfbench.report.board.lines import Line
from gwfbench.report.figures.papers import (
    LETTERS,
    LINES,
    STYLE,
    WIDTHS,
    Wanted,
    plain,
    save,
    shown_names,
    style_context,
)
from gwfbench.report.figures.style import looks
from gwfbench.report.names import require_known
from gwfbench.suites.suite import Suite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW = 0.2  # inches
MANY = 3  # letters, at most, that stand in a box
SHORT = 11


def draw(rows: pd.DataFrame, suite: Suite, folder: Path, wanted: Wanted) -> str:
    """Write the figure of a suite; a message.

    Args:
        rows: those of the suite (`board.suites.of_suite`).

    Raises:
        UserError: there is no matplotlib, the folder can't be written, or a label is of no method.
    """
    rc_context = style_context()
    require_known(wanted.texts, rows["method"])
    made = []
    for part in suite.parts:
        mine, metric = rows[rows["task"] == part.task], suite.metric(part)
        if (mine["metric"] == metric).any():
            made += boards(mine, [metric])
    with rc_context(STYLE):
        return save(_bump(made, suite.name, wanted), folder, f"{suite.name}-tiers")


def ranks(board: Board) -> list[Line]:
    """The methods of a board in the order of their medians in its first metric, best first; failures last."""
    metric = next(iter(board.better))
    sign = -1 if board.better[metric] == "higher" else 1
    methods = [line for line in board.lines if line.role == "method"]
    return sorted(methods, key=lambda one: (not math.isfinite(one.value(metric)), sign * one.value(metric), one.method))


def _bump(made: Sequence[Board], suite: str, wanted: Wanted) -> Figure:
    from matplotlib.figure import Figure

    found = [ranks(board) for board in made]
    methods = list(dict.fromkeys(line.method for lines in found for line in lines))
    names, style = shown_names(methods, wanted.texts), looks((name, "method") for name in methods)
    most = max(map(len, found))
    figure = Figure(figsize=(WIDTHS[wanted.columns], 1.1 + ROW * most), layout="constrained")
    ax: Any = figure.subplots()
    for name in methods:
        places = [(i, k) for i, lines in enumerate(found) for k, line in enumerate(lines, 1) if line.method == name]
        colour = style[name].colour
        ax.plot(*zip(*places, strict=True), color=colour, linestyle=LINES[style[name].line], linewidth=1.1, zorder=1)
        for i, k in places:
            text = _tier(found[i][k - 1], next(iter(made[i].better)))
            box = {"boxstyle": "round,pad=0.18", "facecolor": "white", "edgecolor": colour, "linewidth": 0.8}
            ax.text(i, k, text, fontsize=6, ha="center", va="center", zorder=2, bbox=box)
        ax.annotate(
            names[name], places[-1], (12, 0), textcoords="offset points", fontsize=LETTERS, va="center", color=colour
        )
    metrics = list(dict.fromkeys(next(iter(board.better)) for board in made))
    several = len(metrics) > 1
    heads = [_head(board.task) + (f"\n{next(iter(board.better))}" if several else "") for board in made]
    ax.set_title(f"{suite}{'' if several else f', by {metrics[0]}'}", fontsize=8)
    ax.set(xlim=(-0.2, len(made) - 0.8), ylim=(most + 0.6, 0.4), ylabel="rank by median", yticks=range(1, most + 1))
    ax.set_xticks(range(len(made)), heads, fontsize=6)
    ax.set_xlabel("letters: tiers, \N{MULTIPLICATION SIGN}: failed", fontsize=6)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure


def _tier(line: Line, metric: str) -> str:
    """The letters, the first and last of many; a cross for a failure."""
    if not math.isfinite(line.value(metric)):
        return "\N{MULTIPLICATION SIGN}"
    tier = line.tier or "-"
    return tier if len(tier) <= MANY else f"{tier[0]}\N{EN DASH}{tier[-1]}"


def _head(task: str) -> str:
    """A task in short lines."""
    parts = re.findall(r"[^:,]+[:,]?", task)
    return plain("\n".join(re.sub("([_=])", r"\1\n", part, count=1) if len(part) > SHORT else part for part in parts))
