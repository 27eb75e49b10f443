"""Scores over tasks: where each contestant stands between the truth and not moving, and how soon it gets near.

    score    (v - exact) / (still - exact), held to [0, 1], of the task's first metric at the last judged law: mean
             over seeds, then over tasks; a failed seed is 1
    target   a score of at most 0.1; its cost is the median over seeds of the first judged law that has it
    within   the share of a contestant's tasks on which its cost to target is at most that many times the least of all
             contestants that use the same information (performance profiles: Dolan and More 2002)

Oracle calls are points through the target's score or draws from it, in training and for the judged points.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from gwfbench.report import stats
from gwfbench.report.board.cells import FINISHED
from gwfbench.report.board.leaderboard import Board, boards
from gwfbench.report.board.tables import uses

TARGET = 0.1
FACTORS = (2, 10)
COSTS = ("seconds", "calls")


@dataclass(frozen=True)
class Ended:
    """One run: its score, and what it had cost at the first law at target (inf: it never was)."""

    score: float
    failed: bool
    costs: dict[str, float]  # of COSTS


@dataclass
class Record:
    """One contestant over tasks."""

    scores: list[float] = field(default_factory=list)  # by task
    failed: list[bool] = field(default_factory=list)  # by run
    costs: dict[str, dict[str, float]] = field(default_factory=dict)  # by task, then of COSTS: medians over seeds


def overall(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each contestant that was run on two tasks or more.

    Args:
        rows: the results table, of several tasks.

    Returns:
        uses, method, tasks, score, failed (share of seeds), solved (share of tasks at target), and for each cost in
        `COSTS` and each factor the share of tasks within it of the least; best first within what they use.
    """
    groups: dict[str, dict[str, Record]] = defaultdict(lambda: defaultdict(Record))  # by what they use, then method
    of_task = {task: part for task, part in rows.groupby("task", sort=False)}
    for board in boards(rows):
        marks = _marks(board)
        if marks is None:
            continue
        metric, exact, still = marks
        part = of_task[board.task]
        for line in board.lines:
            if line.role == "method":
                runs = _runs(part[part["method"] == line.method], metric, exact, still)
                record = groups[uses(line.information)][line.method]
                record.scores.append(statistics.fmean(run.score for run in runs))
                record.failed += [run.failed for run in runs]
                record.costs[board.task] = {cost: statistics.median(run.costs[cost] for run in runs) for cost in COSTS}
    table = pd.DataFrame([
        {"uses": group, "method": method} | _summary(method, records)
        for group, records in groups.items()
        for method, record in records.items()
        if len(record.costs) > 1
    ])  # fmt: skip
    return table.sort_values(["uses", "score"], ignore_index=True) if len(table) else table


def _marks(board: Board) -> tuple[str, float, float] | None:
    """The first metric with its values for `exact` and `still`; None where there is no scale between the two."""
    metric = next(iter(board.better), None)
    values = {line.method: line.value(metric) for line in board.lines} if metric else {}
    exact, still = (values.get(name, math.nan) for name in ("exact", "still"))
    return (metric, exact, still) if metric and math.isfinite(exact - still) else None


def _summary(method: str, group: dict[str, Record]) -> dict[str, Any]:
    """What is said of a contestant among those that use the same information."""
    own = group[method]
    found: dict[str, Any] = {
        "tasks": len(own.costs), "score": statistics.fmean(own.scores), "failed": statistics.fmean(own.failed),
        "solved": statistics.fmean(math.isfinite(costs["seconds"]) for costs in own.costs.values()),
    }  # fmt: skip
    for cost in COSTS:
        table = {name: _column(record, list(own.costs), cost) for name, record in group.items()}
        shares = stats.profile(table, FACTORS)[method]
        found |= {f"{cost} x{factor}": share for factor, share in zip(FACTORS, shares, strict=True)}
    return found


def _column(record: Record, tasks: Sequence[str], cost: str) -> list[float]:
    return [record.costs[task][cost] if task in record.costs else math.nan for task in tasks]


def _runs(rows: pd.DataFrame, metric: str, exact: float, still: float) -> list[Ended]:
    found = []
    for _, run in rows.groupby(["run_key", "attempt"], sort=False):
        curve: list[tuple[float, dict[str, float]]] = []  # score, and what it had cost
        for row in run[run["metric"] == metric].sort_values("step").to_dict("records"):
            calls = _number(row["score_calls"]) + _number(row["draw_calls"]) + _number(row["sample_calls"]) * row["n"]
            paid = {"seconds": _number(row["seconds"]), "calls": calls}
            curve.append((stats.score(_number(row["value"]), exact, still), paid))
        failed = not run["status"].isin(FINISHED).all() or not curve
        costs = {cost: stats.to_target([(paid[cost], score) for score, paid in curve], TARGET) for cost in COSTS}
        found.append(Ended(1.0 if failed else curve[-1][0], failed, costs))
    return found


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
