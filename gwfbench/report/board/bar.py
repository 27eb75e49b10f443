"""Against a bar: is a method better than a strong, cheap one that was given no more oracle calls?

The bar may stand on a page in several settings (`smc`, `smc:moves=4`, ...): points of its curve of quality against
calls. A method's last law is put next to the most expensive of these that used no more calls; where there is none, next
to the cheapest, and the note says so. A failed seed, and one without a value, counts as the worst on the board. A value
that is better than exact draws of the truth (an alarm) wins nothing: it is left out.

    better, worse   their values under the same seeds differ (`stats.differs`), at 5 % for all pairs on the page (Holm)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from gwfbench import escape
from gwfbench.errors import require
from gwfbench.plugins.registry import head
from gwfbench.report import stats
from gwfbench.report.board.accuracy import calls
from gwfbench.report.board.cells import last_laws
from gwfbench.report.board.leaderboard import Board, boards
from gwfbench.report.board.lines import Line
from gwfbench.report.table import contestants

NOTE = """better / not told apart / worse, counted over metrics: the method's last law, compared with that of the most
expensive setting of {bar} with no more oracle calls (points passed to the target's score, its log-density or both, or
drawn from the target), by paired t tests at five per cent for all {pairs} pairs of the page together (Holm). Pairs that
were judged at different numbers of points are left out, and values that are too good to be true (ALARM).{early} No
method had more than the page's budget; a setting that ends earlier leaves the rest of it unused."""
EARLY = " *: {bar} has no setting that cheap; compared with its cheapest."


@dataclass(frozen=True)
class Pair:
    """A method next to the bar, in one metric of one task; `p` by itself, or Holm's."""

    task: str
    method: str
    metric: str
    bar: str  # which setting
    fair: bool  # the setting has no more calls than the method
    ahead: bool  # the method's mean is better
    seeds: int  # that both have
    p: float

    @property
    def outcome(self) -> str:
        if self.p >= stats.LEVEL:
            return "same"
        return "better" if self.ahead else "worse"


def against(rows: pd.DataFrame, bar: str, metrics: Sequence[str] | None = None) -> list[Pair]:
    """Every other method of each task next to the bar, in each metric that both have.

    Args:
        rows: the results table.
        bar: a method's name; all of its settings count.

    Raises:
        UserError: it is not among the rows.
    """
    rows = contestants(rows)
    paid = _paid(rows)
    found = [pair for board in boards(rows, metrics) for pair in _pairs(board, bar, paid)]
    require(bool(found), f"bar = {bar}", "a method on the page, and others next to it", "run it, or leave `bar` out")
    corrected = stats.holm([pair.p for pair in found])
    return [replace(pair, p=p) for pair, p in zip(found, corrected, strict=True)]


def _paid(rows: pd.DataFrame) -> dict[tuple[str, str], float]:
    """By (task, method), the median over runs of the calls of the last law."""
    last = last_laws(rows).drop_duplicates(["run_key", "attempt"])
    last = last.assign(paid=[calls(row) for row in last.to_dict("records")])
    return last.groupby(["task", "method"])["paid"].median().to_dict()  # type: ignore[return-value]


def _pairs(board: Board, bar: str, paid: Mapping[tuple[str, str], float]) -> Iterator[Pair]:
    lines = [line for line in board.lines if line.role == "method" and (board.task, line.method) in paid]
    cost = {line.method: paid[board.task, line.method] for line in lines}
    settings = sorted((line for line in lines if head(line.spec) == bar), key=lambda line: cost[line.method])
    for line in lines:
        if not settings or head(line.spec) == bar:
            continue
        cheaper = [one for one in settings if cost[one.method] <= cost[line.method]]
        rival = cheaper[-1] if cheaper else settings[0]
        for metric in board.metrics:
            values = _values(board, metric, (line, rival))
            if values is not None:
                (mine, its), logs = values
                p = stats.differs(mine, its, logs=logs)
                ahead = sum(mine.values()) / len(mine) < sum(its.values()) / len(its)
                yield Pair(
                    board.task,
                    line.method,
                    metric,
                    rival.method,
                    bool(cheaper),
                    ahead,
                    len(mine.keys() & its.keys()),
                    p,
                )


def _values(board: Board, metric: str, lines: Sequence[Line]) -> tuple[tuple[dict[int, float], ...], bool] | None:
    """Of each line, by seed, lower is better, failures the worst on the board; None if one of them has no value.

    Nor are values compared that were judged at different numbers of points, or that are too good to be true.
    """
    sign = -1 if board.better[metric] == "higher" else 1
    of = {
        line.method: dict.fromkeys(line.seeds.failed, math.nan)
        | {seed: sign * value for seed, (value, _) in line.cells[metric].values.items()}
        for line in board.lines
        if metric in line.cells
    }
    if any(line.method not in of or line.cells[metric].verdict == "alarm" for line in lines):
        return None
    if len({line.cells[metric].n for line in lines}) > 1:
        return None
    scaled, logs = stats.on_scale(of)
    return tuple(scaled[line.method] for line in lines), logs


def markdown(pairs: Sequence[Pair], bar: str, learnt: Sequence[str]) -> str:
    """One sentence, and a table of methods by tasks.

    Args:
        learnt: names of the methods that train a law, of which the sentence speaks.
    """
    tasks, methods = (list(dict.fromkeys(getattr(pair, name) for pair in pairs)) for name in ("task", "method"))
    counts: dict[tuple[str, str], Counter[str]] = {(m, t): Counter() for m in methods for t in tasks}
    unfair = {(pair.method, pair.task) for pair in pairs if not pair.fair}
    for pair in pairs:
        counts[pair.method, pair.task][pair.outcome] += 1
    lines = [_row("method", tasks), f"|:--|{'--:|' * len(tasks)}"]
    for method in sorted(methods, key=lambda name: (head(name) not in learnt, name)):
        cells = [
            " / ".join(str(found[word]) for word in ("better", "same", "worse")) + "*" * ((method, task) in unfair)
            if (found := counts[method, task])
            else ""
            for task in tasks
        ]
        lines.append(_row(method, cells))
    early = EARLY.format(bar=bar) if unfair else ""
    note = NOTE.format(bar=f"`{bar}`", pairs=len(pairs), early=early).replace("\n", " ")
    return f"**{sentence(pairs, bar, learnt)}**\n\n" + "\n".join(lines) + f"\n\n{note}\n"


def _row(first: str, cells: Sequence[str]) -> str:
    return "| " + " | ".join([escape.markdown(first), *map(escape.markdown, cells)]) + " |"


def sentence(pairs: Sequence[Pair], bar: str, learnt: Sequence[str]) -> str:
    """Whether a learnt method beats the bar anywhere, by how few seeds, and which of them the page lacks."""
    there = {head(pair.method) for pair in pairs}
    absent = [f"`{name}`" for name in learnt if name not in there]
    mine = [pair for pair in pairs if head(pair.method) in learnt and pair.fair]
    won = [pair for pair in mine if pair.outcome == "better"]
    lost = sum(pair.outcome == "worse" for pair in mine)
    who = ", ".join(f"`{name}`" for name in learnt if name in there)
    fewest = min((pair.seeds for pair in mine), default=0)
    rest = f"Of {len(mine)} pairs of a learnt method ({who}) and a metric, {lost} are worse than `{bar}`"
    caveat = f"With as few as {fewest} seeds, small differences are not found."
    if absent:
        caveat += f" Not compared (not run, or no seed ended with a law): {', '.join(absent)}."
    if not won:
        verdict = f"No learnt method beats `{bar}` at equal oracle calls on any of these tasks."
        return f"{verdict} {rest}, none is better. {caveat}"
    places: dict[tuple[str, str], list[str]] = {}
    for pair in won:
        places.setdefault((pair.method, pair.task), []).append(pair.metric)
    where = "; ".join(f"`{method}` on {task} ({', '.join(names)})" for (method, task), names in places.items())
    return f"A learnt method beats `{bar}` at equal oracle calls here: {where}. {rest}, {len(won)} better. {caveat}"
