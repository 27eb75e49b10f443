"""The leaderboard: the results table in; boards out, one per task, with a line for each contestant.

A `Board` is what every text, page and figure reads; `leaderboard` is its view as a DataFrame.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd

from gwfbench.report import stats
from gwfbench.report.board.cells import NO_CELL, Cell, Key, cells, last_laws

PLACE = {"floor": 0, "method": 1, "control": 2}  # on the board
ROLES = ("method", "floor", "control")  # what a contestant with several, by metric, is first
COSTS = ["seconds", "score_calls", "sample_seconds", "sample_calls"]


@dataclass(frozen=True)
class Seeds:
    """How many seeds finished, and how each of the others ended."""

    finished: int
    failed: Mapping[int, str] = field(default_factory=dict)  # status by seed

    def __str__(self) -> str:
        """As on the board: `3/5, 2 oom`."""
        reasons = "".join(f", {count} {status}" for status, count in Counter(self.failed.values()).most_common())
        return f"{self.finished}/{self.finished + len(self.failed)}{reasons}"


@dataclass(frozen=True)
class Line:
    """One contestant on one task."""

    method: str
    role: str
    information: str  # used by any of its runs
    seeds: Seeds
    costs: Mapping[str, float]  # COSTS, medians over runs
    cells: Mapping[str, Cell]  # by metric; none for a metric that no finished run has
    tier: str = ""  # by the first metric among methods of the same information: letters (`stats.tiers`)
    detectable: str = ""  # difference that the seeds would show in the first metric (`stats.detectable`), in words

    def value(self, metric: str) -> float:
        """The median; nan where there is none."""
        return self.cells[metric].value if metric in self.cells else math.nan


@dataclass(frozen=True)
class Board:
    """One task: floors first, then methods by information and first metric, failures last, then other controls."""

    task: str
    t: float  # last judged time; nan for the limit
    better: Mapping[str, str]  # lower or higher, by metric, in the order of the metrics
    lines: Sequence[Line]

    @property
    def metrics(self) -> list[str]:
        """Those with a value."""
        return [name for name in self.better if not all(math.isnan(line.value(name)) for line in self.lines)]


@dataclass(frozen=True)
class Grade:
    """A method's letters in one metric, and the difference that its seeds would show, in words."""

    tier: str
    detectable: str


def leaderboard(rows: pd.DataFrame, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Medians over seeds at each task's last judged time, with bootstrap intervals, floors and failures.

    Args:
        rows: the results table, as `gwfbench.run` returns it.
        metrics: which, and in which order; None: all, as the rows have them.

    Returns:
        One row per (task, method): task, method, role, information, t, seeds ("finished/total" and why the others
        did not finish), tier by the first metric among methods of the same information (letters: `stats.tiers`),
        detectable (`stats.detectable`, in words), the median of each metric with <metric>_low, <metric>_high (95 %
        bootstrap interval of the median over seeds; empty for one seed), <metric>_n (points used), <metric>_left
        (values left out of the cell: of an older version of the metric than others on that task, or at another n than
        most seeds) and <metric>_verdict ("", "floor": not distinguishable from the noise floor at the same n, or
        "alarm": better than the floor by more than sampling error), and the median costs. Floors come first, then
        methods by information used and first metric, failures last, then the other controls.

    >>> rows = gwfbench.run("ou:horizon=0.1", "ula", seeds=2, isolate=False)
    >>> list(gwfbench.leaderboard(rows, ["symkl"])["method"])
    ['exact', 'exact_jko', 'ula', 'still']
    """
    return frame(boards(rows, metrics))


def frame(made: Sequence[Board]) -> pd.DataFrame:
    """Boards as a DataFrame, one row per (task, method); see `leaderboard`."""
    records = []
    for board in made:
        for line in board.lines:
            record: dict[str, Any] = {
                "task": board.task, "method": line.method, "role": line.role, "information": line.information,
                "t": board.t, "seeds": str(line.seeds), "tier": line.tier, "detectable": line.detectable,
            }  # fmt: skip
            for name in board.better:
                cell = line.cells.get(name, NO_CELL)
                record |= {
                    name: cell.value, f"{name}_low": cell.low, f"{name}_high": cell.high, f"{name}_n": cell.n,
                    f"{name}_left": cell.left, f"{name}_verdict": cell.verdict,
                }  # fmt: skip
            records.append(record | dict(line.costs))
    return pd.DataFrame(records) if records else pd.DataFrame(columns=["task", "method"])


def boards(rows: pd.DataFrame, metrics: Sequence[str] | None = None) -> list[Board]:
    """The board of each task, in the order of the rows.

    Args:
        rows: the results table.
        metrics: which, and in which order; None: all, as the rows have them.
    """
    if not len(rows):
        return []
    final = last_laws(rows)
    found = cells(final)
    listed: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for task, *rest in _distinct(rows[rows["metric"].notna()], ["task", "method", "metric", "better"]):
        listed[task].append(tuple(rest))
    lines: dict[str, list[Line]] = defaultdict(list)
    information, seeds, costs = _information(rows), _seeds(rows, final), _costs(rows)
    for (task, method), role in _roles(rows).items():
        key = task, method
        lines[task].append(Line(method, role, information[key], seeds[key], costs[key], found[key]))
    times = pd.to_numeric(final["t"]).groupby(final["task"]).max()
    return [_board(task, times.get(task, math.nan), listed[task], own, metrics) for task, own in lines.items()]


def _board(
    task: str, t: float, listed: Sequence[tuple[str, str, str]], lines: Sequence[Line], metrics: Sequence[str] | None
) -> Board:
    """Choose and order the metrics; grade and order the lines by the first one."""
    direction = {metric: better for _, metric, better in listed}
    known = _order([(method, metric) for method, metric, _ in listed])
    better = {name: direction[name] for name in metrics or known if name in direction}
    first = next(iter(better), None)
    if first:
        graded = grades(lines, first)
        none = Grade("", "")
        best = [graded.get(line.method, none) for line in lines]
        lines = [replace(line, tier=g.tier, detectable=g.detectable) for line, g in zip(lines, best, strict=True)]
    return Board(task, t, better, sorted(lines, key=partial(_rank, first or "", better)))


def alarms(made: Sequence[Board]) -> list[str]:
    """A line for each value that is better than its noise floor by more than sampling error."""
    return [
        f"ALARM: {line.method} on {board.task}: {name} {cell.value:.3g} is better than exact draws of the truth by "
        f"more than sampling error. Look for a leak, training points among the judged points, or a wrong metric."
        for board, line, name, cell in _all_cells(made)
        if cell.verdict == "alarm"
    ]


def left_out(made: Sequence[Board]) -> list[str]:
    """A line for each cell from which values stay out because they can't be compared with the others."""
    return [
        f"left out: {cell.left} values of {name} for {line.method} on {board.task}: made by an older version of the "
        f"metric, or at another number of points; to fix this: python -m gwfbench score --metric {name}"
        for board, line, name, cell in _all_cells(made)
        if cell.left
    ]


def _all_cells(made: Sequence[Board]) -> list[tuple[Board, Line, str, Cell]]:
    return [
        (board, line, name, line.cells[name])
        for board in made
        for line in board.lines
        for name in board.better
        if name in line.cells
    ]


def _roles(rows: pd.DataFrame) -> dict[Key, str]:
    """What each (task, method) is; one that has several roles, by metric, is the first of ROLES."""
    found: dict[Key, str] = {}
    for task, method, role in _distinct(rows, ["task", "method", "role"]):
        found[task, method] = min(role, found.get((task, method), role), key=ROLES.index)
    return found


def _seeds(rows: pd.DataFrame, final: pd.DataFrame) -> dict[Key, Seeds]:
    """By (task, method): a seed that has no last law has failed, with the first status of its rows."""
    finished = set(_distinct(final, ["task", "method", "seed"]))
    ends: dict[Key, dict[int, str]] = defaultdict(dict)
    for task, method, seed, status in _distinct(rows, ["task", "method", "seed", "status"]):
        ends[task, method].setdefault(seed, status)
    found = {}
    for (task, method), statuses in ends.items():
        failed = {seed: status for seed, status in statuses.items() if (task, method, seed) not in finished}
        found[task, method] = Seeds(len(statuses) - len(failed), failed)
    return found


def _costs(rows: pd.DataFrame) -> dict[Key, dict[str, float]]:
    """By (task, method): medians over runs of what each had cost in the end."""
    numbers = rows[COSTS].apply(pd.to_numeric)
    runs = numbers.groupby([rows["task"], rows["method"], rows["run_key"]], sort=False).max()
    medians = runs.groupby(level=[0, 1], sort=False).median()
    return dict(zip(medians.index.to_list(), medians.to_dict("records"), strict=True))  # type: ignore[arg-type]


def _distinct(rows: pd.DataFrame, columns: list[str]) -> list[tuple[Any, ...]]:
    """The different values of these columns together, in the order of the rows."""
    return list(dict.fromkeys(zip(*(rows[name].to_list() for name in columns), strict=True)))


def _information(rows: pd.DataFrame) -> dict[Key, str]:
    """What each (task, method) has used: of all its runs, for one that failed early may have asked for less."""
    found: dict[Key, list[str]] = defaultdict(list)
    for task, method, value in _distinct(rows, ["task", "method", "information"]):
        found[task, method].append(value)
    return {key: " ".join(sorted(set(" ".join(parts).split()))) for key, parts in found.items()}


def grades(lines: Sequence[Line], metric: str) -> dict[str, Grade]:
    """Tiers by one metric, and the difference that the seeds would show; by method.

    Methods are compared with those of the same information alone.

    Args:
        lines: of one task.
    """
    own = {line.method: line.cells[metric] for line in lines if metric in line.cells}
    sign = -1 if any(cell.better == "higher" for cell in own.values()) else 1
    everyone = [sign * value for cell in own.values() for value, _ in cell.values.values()]
    groups: dict[str, dict[str, dict[int, float]]] = defaultdict(dict)
    for line in lines:
        if line.role == "method" and (line.method in own or line.seeds.failed):
            values = own.get(line.method, NO_CELL).values.items()
            known = {seed: sign * value for seed, (value, _) in values}
            groups[line.information][line.method] = dict.fromkeys(line.seeds.failed, math.nan) | known
    found = {}
    for values in groups.values():
        letters, (gap, is_factor) = stats.tiers(values, everyone), stats.detectable(values, everyone)
        words = "" if math.isnan(gap) else f"a factor of {gap:.3g}" if is_factor else f"{gap:.2g}"
        found |= {method: Grade(letters[method], words) for method in values}
    return found


def _order(listed: Sequence[Key]) -> list[str]:
    """The metrics in the order in which a contestant that has most of them lists them."""
    lists: dict[str, list[str]] = defaultdict(list)
    for method, metric in listed:
        lists[method].append(metric)
    longest = max(lists.values(), key=len, default=[])
    return list(dict.fromkeys([*longest, *(metric for _, metric in listed)]))


def _rank(first: str, better: Mapping[str, str], line: Line) -> tuple[int, str, bool, float]:
    """Floors, methods by information and first metric, failures, other controls."""
    value = line.value(first) * (-1 if better.get(first) == "higher" else 1)
    return PLACE[line.role], line.information, math.isnan(value), 0.0 if math.isnan(value) else value
