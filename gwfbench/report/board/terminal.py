"""Leaderboards and boards of suites for a terminal: what fits its width, and what to type for the rest."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from gwfbench.report import terminal
from gwfbench.report.board import short, suites
from gwfbench.report.board.cells import NO_CELL
from gwfbench.report.board.leaderboard import Board
from gwfbench.report.board.tables import costs_of, power, title, uses, usual
from gwfbench.report.terminal import Table
from gwfbench.suites.suite import Suite

PLUS_MINUS = (
    "Metrics: median over seeds, ± the distance to the farther end of its 95 % interval (of two seeds: of their "
    "range); 2.2e-5 ±0.5 is 2.2e-5 ± 0.5e-5."
)
INTERVAL = "Metrics: median over seeds, with its 95 % interval (of two seeds: their range)."
NOTES = (
    "exact: draws from the truth, the best there is. still: does not move. floor: no worse than draws from the truth. "
    "tier: methods that use the same of the target and share a letter can't be told apart."
)
TIME = "time: training, and moving the judged points."
MORE = "For more: --wide (all metrics and costs), --intervals (both ends), report --help."


@dataclass(frozen=True)
class Look:
    """How boards are shown.

    Args:
        wide: all metrics and costs, in several tables if need be.
        intervals: both ends instead of ±.
        chosen: whether the user has chosen the metrics: all of them are shown then.
    """

    wide: bool = False
    intervals: bool = False
    chosen: bool = False

    @property
    def number(self) -> str:
        return INTERVAL if self.intervals else PLUS_MINUS


@dataclass(frozen=True)
class _Column:
    head: str
    cells: Sequence[str]
    left: bool = False


def print_boards(boards: Sequence[Board], look: Look = Look()) -> None:
    """The leaderboard of each task: its first metric, or the chosen ones, tier and time; or all there is."""
    for number, board in enumerate(boards):
        shown = board if look.wide else _short(board, look.chosen)
        columns = [*_scores(shown, look.intervals), *(_all_costs(shown) if look.wide else _time(shown))]
        names = _Column("method", [line.method for line in board.lines], left=True)
        dim = [i for i, line in enumerate(board.lines) if line.role != "method"]
        for part, some in enumerate(_side_by_side(names, columns)):
            first = next(iter(shown.better), "")
            by = f", by {first}: {shown.better[first]} is better" if first and len(shown.better) == 1 else ""
            more = ", continued" if part else ""
            if number or part:
                terminal.put([("", "")])
            terminal.show(_table(names, some, dim), title(board) + by + more)
        remarks = [*power(board), *_other_counts(shown), *shown.remarks]
        terminal.put([(line, "dim") for text in remarks for line in terminal.wrapped(text, terminal.width())])
    if boards:
        _foot([look.number, NOTES, "" if look.wide else TIME, "" if look.wide else MORE])


def _foot(sentences: Sequence[str]) -> None:
    room = terminal.width()
    terminal.put([("", ""), *((line, "dim") for text in sentences for line in terminal.wrapped(text, room))])


def _short(board: Board, chosen: bool) -> Board:
    """With its first metric alone, or the chosen ones."""
    better = dict(list(board.better.items())[: None if chosen else 1])
    lines = [replace(line, costs={k: v for k, v in line.costs.items() if k != "grads_to_accuracy"})
             for line in board.lines]  # fmt: skip
    return replace(board, better=better, absent=board.absent if chosen else (), lines=lines)


def _scores(board: Board, intervals: bool) -> Iterator[_Column]:
    """Metrics, with the tier after the first, and seeds where one is missing."""
    tier = _Column("tier", [line.tier or "-" for line in board.lines], left=True)
    for i, name in enumerate(board.metrics):
        cells = [line.cells.get(name, NO_CELL) for line in board.lines]
        yield _Column(name, short.column(cells, intervals), left=True)
        if i == 0:
            yield tier
    if not board.metrics:
        yield tier
    seeds = [str(line.seeds) for line in board.lines]
    if len(set(seeds)) > 1 or any(line.seeds.failed or line.seeds.worst or line.seeds.killed for line in board.lines):
        yield _Column("seeds", seeds, left=True)


def _time(board: Board) -> Iterator[_Column]:
    """What a user pays, of methods alone: controls are no work of anybody's."""
    total = [
        line.costs["seconds"] + line.costs["sample_seconds"] if line.role == "method" else math.nan
        for line in board.lines
    ]
    yield _Column("time [s]", [short.number(value) for value in total])


def _all_costs(board: Board) -> Iterator[_Column]:
    for cost, head in costs_of(board).items():
        yield _Column(head, [short.number(line.costs.get(cost, math.nan)) for line in board.lines])
    yield _Column("uses", [uses(line.information) for line in board.lines], left=True)


def _other_counts(board: Board) -> Iterator[str]:
    """Who was judged by another number of points than most."""
    for name in board.metrics:
        most = usual(board.lines, name)
        others: dict[float, list[str]] = defaultdict(list)
        for line in board.lines:
            n = line.cells.get(name, NO_CELL).n
            if not math.isnan(n) and n != most:
                others[n].append(line.method)
        for n, who in others.items():
            yield f"{name}: judged by {n:.0f} points for {', '.join(who)}, by {most:.0f} for the others."


def _side_by_side(names: _Column, columns: Sequence[_Column]) -> Iterator[list[_Column]]:
    """Columns of each of the tables that a table takes, so that none is wider than the terminal."""
    room, some = terminal.width(), list[_Column]()
    if _sum(columns) <= room:  # below the names, if need be
        yield [*columns]
        return
    for column in columns:
        if some and not _fits(names, [*some, column], room):
            yield some
            some = []
        some.append(column)
    if some:
        yield some


def _fits(names: _Column, columns: Sequence[_Column], room: int) -> bool:
    """Whether they fit, if need be below the names."""
    size = _sum(columns)
    return (size if _size(names) > room // 3 else size + _size(names)) <= room


def _sum(columns: Sequence[_Column]) -> int:
    return sum(len(terminal.GAP) + _size(column) for column in columns)


def _size(column: _Column) -> int:
    return max(len(text) for cell in (column.head, *column.cells) for text in cell.split("\n"))


def _table(names: _Column, columns: Sequence[_Column], dim: Sequence[int]) -> Table:
    whole = [names, *columns]
    rows = list(zip(*(column.cells for column in whole), strict=True))
    left = [i for i, column in enumerate(whole) if column.left]
    return Table([column.head for column in whole], rows, left, dim=dim)


def print_suite(rows: pd.DataFrame, suite: Suite, look: Look = Look()) -> None:
    """The board of a suite: a table for the methods that use the same information on the same tasks.

    Args:
        rows: of `suites.of_suite`.
    """
    made = suites.entries(rows, suite)
    boards = {part.task: board for part, board in suites.task_boards(rows, suite)}
    metrics = {part.task: suite.metric(part) for part in suite.parts}
    room = terminal.width()
    limit = f", budget {suite.budget} a run" if suite.budget else ""
    head = f"Suite {suite.name}: {suite.title} (track {suite.track}, {suite.seeds} seeds{limit})"
    terminal.put([(line, "bold") for line in terminal.wrapped(head, room)])
    groups: dict[tuple[str, tuple[str, ...]], list[suites.Entry]] = defaultdict(list)
    for one in made:
        groups[one.information, tuple(one.scores)].append(one)
    for (information, tasks), some in groups.items():
        names, columns, dim = _group(some, tasks, boards, metrics, look)
        where = ", ".join(tasks) if len(tasks) < 4 else f"{len(tasks)} tasks"
        told = f"Methods that use {information}, on {where}"
        for part, shown in enumerate(_side_by_side(names, columns)):
            terminal.put([("", "")])
            terminal.show(_table(names, shown, dim), told + (", continued" if part else ""))
    missing = suites.missing(made, suite)
    score = "score: 0 is exact, 1 is still; mean over seeds and tasks, ± over tasks (of one task: over seeds)."
    _foot([missing, score, look.number, NOTES, TIME, "" if look.wide else MORE])


def _group(
    some: Sequence[suites.Entry], tasks: Sequence[str], boards: dict[str, Board], metrics: dict[str, str], look: Look
) -> tuple[_Column, list[_Column], list[int]]:
    """Names, columns and dim rows of a table, controls with it where there is a column for them."""
    names = ["exact", *(one.name for one in some), "still"]
    scores = [_score(one, look.intervals) for one in some]
    by_task = []
    for task in tasks:
        cells = {line.method: line.cells.get(metrics[task], NO_CELL) for line in boards[task].lines}
        column = short.column([cells.get(name, NO_CELL) for name in names], look.intervals)
        by_task.append(_Column(metrics[task] if len(tasks) == 1 else f"{task}\n{metrics[task]}", column, left=True))
    failed = [str(one.failed) for one in some]
    own = [
        _Column("score", ["0", *scores, "1"], left=True),
        _Column("tier", ["-", *(one.tier or "-" for one in some), "-"], left=True),
        *([_Column("failed", ["-", *failed, "-"])] if any(one.failed for one in some) else []),
        _Column("time [s]", ["-", *(short.number(one.total) for one in some), "-"]),
    ]
    if look.wide:
        own.append(_Column("units", ["-", *(short.number(one.units) for one in some), "-"]))
        own.append(_Column("calls", ["-", *(short.number(one.calls) for one in some), "-"]))
    first = _Column("method", names, left=True)
    if look.wide or _fits(first, [*by_task, *own], terminal.width()):
        own = [*by_task, *own]
    return first, own, [0, len(names) - 1]


def _score(one: suites.Entry, intervals: bool) -> str:
    if math.isnan(one.score):
        return "-"
    if intervals:
        return f"{one.score:.3f} [{one.low:.3f}, {one.high:.3f}]"
    half = max(one.score - one.low, one.high - one.score)
    return f"{one.score:.3f}" + ("" if math.isnan(half) else f" ±{half:.3f}")
