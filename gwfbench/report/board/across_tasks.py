"""Scores over tasks: where each contestant stands between the truth and not moving, and how soon it gets near.

    score    (v - exact) / (still - exact), each of the same seed, held to [0, 1], of the task's first metric that tells
             still from exact, at the last judged law: mean over seeds, then over tasks; a failed seed is 1
    target   a score of at most 0.1; its cost is the median over seeds of the first judged law that has it
    within   the share of a contestant's tasks on which its cost to target is at most that many times the least of all
             contestants that use the same information (performance profiles: Dolan and More 2002)

Oracle calls are points through the target's score or its log-density (the larger number), or draws from it, in training
and for the judged points. Seconds are of training, in units of the machine where all rows have them.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gwfbench.report import stats
from gwfbench.report.board.accuracy import calls
from gwfbench.report.board.cells import FINISHED, NO_CELL, Cell
from gwfbench.report.board.leaderboard import Board, boards
from gwfbench.report.board.tables import uses
from gwfbench.report.table import contestants

TARGET = 0.1
FACTORS = (2, 10)
COSTS = ("seconds", "calls")


@dataclass(frozen=True)
class Ended:
    """One run: its score, and what it had cost at the first law at target (inf: it never was)."""

    score: float
    failed: bool
    costs: dict[str, float]  # of COSTS


@dataclass(frozen=True)
class Record:
    """One contestant on one task."""

    score: float
    failed: list[bool]  # by run
    costs: dict[str, float]  # of COSTS: medians over seeds


def overall(rows: pd.DataFrame) -> pd.DataFrame:
    """Scores of contestants that were run on the same two tasks or more.

    A set of tasks that some contestant was run on makes a table, in which all stand that were run on all of them, by
    what they have done on these; unless a larger set has the same contestants.

    Args:
        rows: the results table, of several tasks.

    Returns:
        uses, tasks (their names), method, score, failed (share of seeds), solved (share of tasks at target), and for
        each cost in `COSTS` and each factor the share of tasks within it of the least; best first within a table.
    """
    rows = rows[rows["status"] != "killed"] if len(rows) else rows
    if not len(rows):
        return pd.DataFrame()
    rows = contestants(rows)
    if rows.loc[rows["role"] == "method", "unit"].notna().all():  # where all were timed: machines and hours cancel
        rows = rows.assign(seconds=rows["seconds"] / rows["unit"])
    groups: dict[str, dict[str, dict[str, Record]]] = defaultdict(lambda: defaultdict(dict))  # uses, method, task
    of_line = dict(iter(rows.groupby(["task", "method"], sort=False)))
    for board in boards(rows):
        metric = _telling(board)
        if metric is None:
            continue
        marks = {name: _values(board, name, metric) for name in ("exact", "still")}
        for line in board.lines:
            if line.role == "method":
                runs = _runs(of_line[board.task, line.method], metric, marks)
                groups[uses(line.information)][line.method][board.task] = Record(
                    statistics.fmean(run.score for run in runs),
                    [run.failed for run in runs],
                    {cost: statistics.median(run.costs[cost] for run in runs) for cost in COSTS},
                )
    return pd.DataFrame([
        {"uses": uses, "tasks": ", ".join(tasks), **row}
        for uses, group in groups.items()
        for tasks, names in _sets(group)
        for row in _scored({name: [group[name][task] for task in tasks] for name in names})
    ])  # fmt: skip


def _sets(group: Mapping[str, Mapping[str, Record]]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Sets of tasks, the largest first, each with the contestants that were run on all of it."""
    found: dict[tuple[str, ...], tuple[str, ...]] = {}  # the tasks of these contestants
    for own in sorted(group.values(), key=len, reverse=True):
        names = tuple(name for name, other in group.items() if own.keys() <= other.keys())
        if len(own) > 1 and len(names) > 1:
            found.setdefault(names, tuple(own))
    return [(tasks, names) for names, tasks in found.items()]


def _telling(board: Board) -> str | None:
    """The first metric that tells `still` from exact draws."""
    return next((name for name in board.better if _cell(board, "still", name).told), None)


def _cell(board: Board, name: str, metric: str) -> Cell:
    return next((line.cells.get(metric, NO_CELL) for line in board.lines if line.method == name), NO_CELL)


def _values(board: Board, name: str, metric: str) -> dict[int | None, float]:
    """By seed; of None the median, for seeds under which it was not run."""
    cell = _cell(board, name, metric)
    return {seed: value for seed, (value, _) in cell.values.items()} | {None: cell.value}


def _scored(records: Mapping[str, Sequence[Record]]) -> list[dict[str, Any]]:
    """A row for each contestant of a table, best first; the records of all are of the same tasks."""
    shares = {
        cost: stats.profile({name: [one.costs[cost] for one in own] for name, own in records.items()}, FACTORS)
        for cost in COSTS
    }
    found = [
        {
            "method": name,
            "score": statistics.fmean(one.score for one in own),
            "failed": statistics.fmean(failed for one in own for failed in one.failed),
            "solved": statistics.fmean(math.isfinite(one.costs["seconds"]) for one in own),
        }
        | {
            f"{cost} x{factor}": share
            for cost in COSTS
            for factor, share in zip(FACTORS, shares[cost][name], strict=True)
        }
        for name, own in records.items()
    ]
    return sorted(found, key=lambda row: (row["score"], row["method"]))


def _runs(rows: pd.DataFrame, metric: str, marks: Mapping[str, Mapping[int | None, float]]) -> list[Ended]:
    found = []
    for _, run in rows.groupby(["run_key", "attempt"], sort=False):
        exact, still = (own.get(int(run["seed"].iloc[0]), own[None]) for own in (marks["exact"], marks["still"]))
        curve: list[tuple[float, dict[str, float]]] = []  # score, and what it had cost
        for row in run[run["metric"] == metric].sort_values("step").to_dict("records"):
            curve.append((stats.score(row["value"], exact, still), {"seconds": row["seconds"], "calls": calls(row)}))
        failed = not run["status"].isin(FINISHED).all() or not curve
        costs = {cost: stats.to_target([(paid[cost], score) for score, paid in curve], TARGET) for cost in COSTS}
        found.append(Ended(1.0 if failed else curve[-1][0], failed, costs))
    return found
