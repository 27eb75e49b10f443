"""The leaderboard: the results table in; boards out, one per task, with a line for each contestant.

A `Board` is what every text, page and figure reads; `leaderboard` is its view as a DataFrame.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd

from gwfbench import escape
from gwfbench.errors import UserError, unknown
from gwfbench.plugins import registry
from gwfbench.report.board.accuracy import grads_to_accuracy
from gwfbench.report.board.cells import NO_CELL, Cell, Key, cells, last_laws
from gwfbench.report.board.grades import Grade, grades
from gwfbench.report.board.lines import ROLES, Line, Seeds
from gwfbench.report.board.verdicts import judged
from gwfbench.report.table import contestants

PLACE = {"floor": 0, "method": 1, "control": 2}  # on the board
BIASED = ("w2", "sinkhorn")  # distances of two clouds, which the noise of both makes larger
NARROW = ", or a law that is too narrow: few of its points are nearer to few draws of the truth than such draws are"
COSTS = ["seconds", "units", "score_calls", "sample_seconds", "sample_calls", "memory", "energy"]


@dataclass(frozen=True)
class Board:
    """One task: floors first, then methods by information and first metric, failures last, then other controls."""

    task: str
    t: float  # last judged time; nan for the limit
    better: Mapping[str, str]  # lower or higher, by metric, in the order of the metrics
    lines: Sequence[Line]
    absent: Sequence[str] = ()  # metrics that are left out: no contestant has a value
    codes: Mapping[str, int] = field(default_factory=dict)  # by method: versions of the code that made its rows
    graded: Mapping[str, Grade] = field(default_factory=dict)  # by method, in the first metric

    @property
    def metrics(self) -> list[str]:
        """Those in which some contestant has been judged."""
        return [name for name in self.better if any(name in line.cells for line in self.lines)]

    @property
    def remarks(self) -> list[str]:
        """What a reader must know in addition to the table, one sentence each."""
        return [*_killed(self), *_untold(self), *_worst(self), *_left(self), *_paid(self), *(
            f"{name} is left out: no contestant has a value of it here." for name in self.absent
        ), *(
            f"The runs of {method} were made by {count} versions of the code." for method, count in self.codes.items()
        )]  # fmt: skip


def leaderboard(rows: pd.DataFrame, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Medians over seeds at each task's last judged time, with intervals, floors and failures.

    Args:
        rows: the results table, as `gwfbench.run` returns it, or as pandas reads the CSV of `report --write`.
        metrics: names of metrics, in the order of the columns; None: all, in the order of the task.

    Returns:
        One row per (task, method): task, method, role, information, t, seeds ("finished/total" and why the others
        did not finish), tier by the first metric among methods of the same information (letters: `stats.tiers`; ""
        where there are too few seeds), detectable (`stats.detectable`, in words), the median of each metric with
        <metric>_low, <metric>_high (95 % interval of the median over seeds; of two seeds their range; empty for one),
        <metric>_n (points used), <metric>_worst (seeds without a value, which count as infinitely bad),
        <metric>_left (values left out of the cell: of an older version of the metric than others on that task, at
        another n than most seeds, or of another attempt) and <metric>_verdict ("", "floor": shown to be at the noise
        floor, or "alarm": too good to be true), and the median costs; where b2_max was judged also grads_to_accuracy,
        the median of the oracle calls from which it stays below 0.01 (inf: never).
        Runs of one method that differ in precision, device class or the budget that ended them are methods of their
        own: `ula [float64]`. Floors come first, then methods by information used and first metric, failures last, then
        the other controls.

    Raises:
        UserError: there are no rows, they are no table of results, or there is no such metric.

    >>> rows = gwfbench.run("ou:horizon=0.1", "ula", seeds=2, isolate=False)
    >>> list(gwfbench.leaderboard(rows, ["symkl"])["method"])
    ['exact', 'exact_jko', 'ula', 'still']
    """
    if not len(rows):
        raise UserError("no rows", "a table of results with at least one", "gwfbench.run or gwfbench.load gives one")
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
                    f"{name}_worst": len(cell.worst), f"{name}_left": sum(cell.left.values()),
                    f"{name}_verdict": cell.verdict,
                }  # fmt: skip
            records.append(record | dict(line.costs))
    return pd.DataFrame(records) if records else pd.DataFrame(columns=["task", "method"])


def boards(rows: pd.DataFrame, metrics: Sequence[str] | None = None) -> list[Board]:
    """The board of each task, in the order of the rows.

    Args:
        rows: the results table.
        metrics: names of metrics, in the order of the columns; None: all, in the order of the task.

    Raises:
        UserError: there is no such metric.
    """
    if not len(rows):
        return []
    rows = contestants(rows)
    final = last_laws(rows)
    found = judged(cells(final))
    listed: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for task, *rest in _distinct(rows[rows["metric"].notna()], ["task", "method", "metric", "better"]):
        listed[task].append(tuple(rest))
    known = {metric for own in listed.values() for _, metric, _ in own}
    for name in metrics or ():
        if name not in known:
            raise unknown("metric", name, known, see="the column metric of the rows")
    lines: dict[str, list[Line]] = defaultdict(list)
    information, seeds, costs = _information(rows), _seeds(rows, final), _costs(rows)
    for key, paid in grads_to_accuracy(rows).items():
        costs[key]["grads_to_accuracy"] = paid
    for (task, method, spec), role in _roles(rows).items():
        key = task, method
        lines[task].append(Line(method, spec, role, information[key], seeds[key], costs[key], found.get(key, {})))
    times = final["t"].groupby(final["task"]).max()
    codes = _codes(final)
    return [
        _board(task, times.get(task, math.nan), listed[task], own, metrics, codes[task]) for task, own in lines.items()
    ]


def _board(
    task: str, t: float, listed: Sequence[tuple[str, str, str]], lines: Sequence[Line], metrics: Sequence[str] | None,
    codes: Mapping[str, int],
) -> Board:  # fmt: skip
    """Choose and order the metrics; grade and order the lines by the first one."""
    direction = {metric: better for _, metric, better in listed}
    chosen = [name for name in metrics or _order(task, listed) if name in direction]
    absent = [name for name in chosen if not _has_value(lines, name)]
    better = {name: direction[name] for name in chosen if name not in absent}
    first = next(iter(better), "")
    graded = grades(lines, first) if first else {}
    none = Grade("", "", "")
    done = []
    for line in lines:
        grade, own = graded.get(line.method, none), [line.cells[name] for name in better if name in line.cells]
        seeds = replace(line.seeds, worst=len({seed for cell in own for seed in cell.worst}))
        done.append(replace(line, tier=grade.tier, detectable=grade.detectable, seeds=seeds))
    return Board(task, t, better, sorted(done, key=partial(_rank, first, better)), absent, codes, graded)


def _has_value(lines: Sequence[Line], metric: str) -> bool:
    """Whether somebody has one, or has only values that stay out of cells."""
    own = [line.cells[metric] for line in lines if metric in line.cells]
    return not own or any(len(cell.values) > len(cell.worst) or cell.left for cell in own)


def _codes(final: pd.DataFrame) -> dict[str, dict[str, int]]:
    """By task and method, where rows of its cells were made by several: how many versions of the code."""
    found: dict[Key, set[str]] = defaultdict(set)
    for task, method, code in _distinct(final, ["task", "method", "code"]):
        found[task, method].add(code)
    several: dict[str, dict[str, int]] = defaultdict(dict)
    for (task, method), codes in found.items():
        if len(codes) > 1:
            several[task][method] = len(codes)
    return several


def alarms(made: Sequence[Board]) -> list[str]:
    """A line for each value that is too good to be true."""
    return [
        escape.line(
            f"ALARM: {line.method} on {board.task}: {name} {cell.shown['value']} is {cell.why}. "
            f"Look for a leak, training points among the judged points, or a wrong metric"
            f"{NARROW if name in BIASED else ''}."
        )
        for board, line, name, cell in _all_cells(made)
        if cell.verdict == "alarm"
    ]


def left_out(made: Sequence[Board]) -> list[str]:
    """All remarks, a line each."""
    return [escape.line(f"{board.task}: {remark}") for board in made for remark in board.remarks]


def _left(board: Board) -> list[str]:
    fix = "; to compute them again from kept points: python -m gwfbench score --metric "
    return [
        f"Left out: {count} values of {name} for {line.method}, {reason}{'' if 'attempt' in reason else fix + name}."
        for _, line, name, cell in _all_cells([board])
        for reason, count in cell.left.items()
    ]


def _worst(board: Board) -> list[str]:
    """Which seeds count as the worst, one sentence for each contestant and reason."""
    found: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for _, line, name, cell in _all_cells([board]):
        for reason in dict.fromkeys(cell.worst.values()):
            seeds = ", ".join(str(seed) for seed, why in sorted(cell.worst.items()) if why == reason)
            found[line.method, seeds, reason].append(name)
    return [
        f"{method}: {', '.join(names)} under seed {seeds} counts as the worst value: {reason}."
        for (method, seeds, reason), names in found.items()
    ]


def _killed(board: Board) -> list[str]:
    """Whose runs were stopped from outside: their results are not known yet."""
    who = [f"{line.method} ({line.seeds.killed})" for line in board.lines if line.seeds.killed]
    return [f"Killed, and not counted until run again: {', '.join(who)}."] if who else []


def _untold(board: Board) -> list[str]:
    """Metrics that can't judge here."""
    names = [
        name for name in board.better
        if any(line.cells[name].told is False for line in board.lines if name in line.cells)
    ]  # fmt: skip
    if not names:
        return []
    return [f"{', '.join(names)}: can't tell still from exact here, so it gives no <= floor, tier or score over tasks."]


def _paid(board: Board) -> list[str]:
    """What the column is that only some boards have."""
    if not any("grads_to_accuracy" in line.costs for line in board.lines):
        return []
    return [
        "calls to b2 < 0.01: points passed to the target's score or its log-density (the larger number), or drawn from "
        "the target, up to the first judged law from which b2_max stays below 0.01, median over seeds; inf: never."
    ]


def _all_cells(made: Sequence[Board]) -> list[tuple[Board, Line, str, Cell]]:
    return [
        (board, line, name, line.cells[name])
        for board in made
        for line in board.lines
        for name in board.better
        if name in line.cells
    ]


def _roles(rows: pd.DataFrame) -> dict[tuple[str, str, str], str]:
    """What each (task, method, spec) is; one that has several roles, by metric, is the first of ROLES."""
    found: dict[tuple[str, str, str], str] = {}
    for *key, role in _distinct(rows, ["task", "method", "spec", "role"]):
        who = (key[0], key[1], key[2])
        role = "control" if role == "method" and who[2] in registry.CONTROLS else role  # it was skipped
        found[who] = min(role, found.get(who, role), key=ROLES.index)
    return found


def _seeds(rows: pd.DataFrame, final: pd.DataFrame) -> dict[Key, Seeds]:
    """By (task, method): a seed that has no last law has failed, with the first status of its rows, or was killed."""
    finished = set(_distinct(final, ["task", "method", "seed"]))
    ends: dict[Key, dict[int, str]] = defaultdict(dict)
    for task, method, seed, status in _distinct(rows, ["task", "method", "seed", "status"]):
        ends[task, method].setdefault(seed, status)
    found = {}
    for (task, method), statuses in ends.items():
        lost = {seed: statuses[seed] for seed in sorted(statuses) if (task, method, seed) not in finished}
        failed = {seed: status for seed, status in lost.items() if status != "killed"}
        found[task, method] = Seeds(len(statuses) - len(lost), failed, killed=len(lost) - len(failed))
    return found


def _costs(rows: pd.DataFrame) -> dict[Key, dict[str, float]]:
    """By (task, method): medians over runs of what each had cost in the end."""
    rows = rows.assign(units=rows["seconds"] / rows["unit"])
    runs = rows[COSTS].groupby([rows["task"], rows["method"], rows["run_key"]], sort=False).max()
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


def _order(task: str, listed: Sequence[tuple[str, str, str]]) -> list[str]:
    """The metrics in the task's own order, whatever the order of the rows; others after them by name.

    Of a task that is not known here: as a contestant that has most of them lists them.
    """
    names = list(dict.fromkeys(metric for _, metric, _ in listed))
    try:
        plugin = registry.find("task", registry.head(task))
        own = plugin.metrics or plugin.load().metrics  # to load it takes torch
    except UserError:
        own = ()
    if own:
        return [*(name for name in own if name in names), *sorted(set(names).difference(own))]
    lists: dict[str, list[str]] = defaultdict(list)
    for method, metric, _ in listed:
        lists[method].append(metric)
    longest = max(lists.values(), key=len, default=[])
    return list(dict.fromkeys([*longest, *names]))


def _rank(first: str, better: Mapping[str, str], line: Line) -> tuple[int, str, bool, float, str]:
    """Floors, methods by information and first metric, failures, other controls; equal ones by name."""
    value = line.value(first) * (-1 if better.get(first) == "higher" else 1)
    return PLACE[line.role], line.of_target, math.isnan(value), 0.0 if math.isnan(value) else value, line.method
