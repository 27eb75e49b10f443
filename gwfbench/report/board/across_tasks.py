"""Scores over tasks: where each contestant stands between the truth and not moving, and how soon it gets near.

    score    (v - exact) / (still - exact), held to [0, 1], of the task's first metric at the last judged law: a seed's
             mean, then over tasks; a failed seed is 1
    target   a score of at most 0.1; its cost is the median over seeds of the first judged law that has it
    within   the share of a contestant's tasks on which its cost to target is at most that many times the least of all
             contestants that use the same information (performance profiles: Dolan and More 2002)

Oracle calls are points through the target's score or draws from it, in training and for the judged points.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from typing import Any

import pandas as pd

from gwfbench.report import stats
from gwfbench.report.board.leaderboard import FINISHED, leaderboard
from gwfbench.report.board.tables import metric_names, uses

TARGET = 0.1
FACTORS = (2, 10)
COSTS = ("seconds", "calls")


def overall(points: pd.DataFrame) -> pd.DataFrame:
    """One row for each contestant that was run on two tasks or more.

    Args:
        points: tidy rows, of several tasks.

    Returns:
        uses, method, tasks, score, failed (share of seeds), solved (share of tasks at target), and for each cost in
        `COSTS` and each factor the share of tasks within it of the least; best first within what they use.
    """
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    costs: dict[tuple[str, str], dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for task, part in points.groupby("task", sort=False):
        board = leaderboard(part)
        metric = next(iter(metric_names(board)), None)
        marks = board.set_index("method")[metric] if metric else pd.Series(dtype=float)
        if not {"exact", "still"} <= set(marks.index) or not math.isfinite(marks["exact"] - marks["still"]):
            continue
        for row in board[board["role"] == "method"].to_dict("records"):
            who = uses(row["information"]), str(row["method"])
            runs = _runs(part[part["method"] == row["method"]], str(metric), marks["exact"], marks["still"])
            line = lines.setdefault(who, {"scores": [], "failed": [], "tasks": []})
            line["scores"].append(statistics.fmean(run["score"] for run in runs))
            line["failed"] += [run["failed"] for run in runs]
            line["tasks"].append(task)
            for cost in COSTS:
                costs[who[0], cost][row["method"]][str(task)] = statistics.median(run[cost] for run in runs)
    table = pd.DataFrame([_line(who, line, costs) for who, line in lines.items() if len(line["tasks"]) > 1])
    return table.sort_values(["uses", "score"], ignore_index=True) if len(table) else table


def _line(who: tuple[str, str], line: dict[str, Any], costs: Any) -> dict[str, Any]:
    seconds = costs[who[0], "seconds"][who[1]].values()
    found = {
        "uses": who[0], "method": who[1], "tasks": len(line["tasks"]), "score": statistics.fmean(line["scores"]),
        "failed": statistics.fmean(line["failed"]), "solved": statistics.fmean(map(math.isfinite, seconds)),
    }  # fmt: skip
    for cost in COSTS:
        group = costs[who[0], cost]
        tasks = line["tasks"]
        shares = stats.profile(
            {name: [row.get(task, math.nan) for task in tasks] for name, row in group.items()}, FACTORS
        )
        found |= {f"{cost} x{factor}": share for factor, share in zip(FACTORS, shares[who[1]], strict=True)}
    return found


def _runs(rows: pd.DataFrame, metric: str, exact: float, still: float) -> list[dict[str, Any]]:
    """Of each run: its score, whether it failed, and what it had cost at the first law at target."""
    found = []
    for _, run in rows.groupby(["run_key", "attempt"], sort=False):
        curve, last = [], math.nan
        for row in run[run["metric"] == metric].sort_values("step").to_dict("records"):
            last = stats.score(_number(row["value"]), exact, still)
            calls = _number(row["score_calls"]) + _number(row["draw_calls"]) + _number(row["sample_calls"]) * row["n"]
            curve.append((last, {"seconds": _number(row["seconds"]), "calls": calls}))
        failed = not run["status"].isin(FINISHED).all() or not curve
        costs = {cost: stats.to_target([(paid[cost], score) for score, paid in curve], TARGET) for cost in COSTS}
        found.append({"score": 1.0 if failed else last, "failed": failed, **costs})
    return found


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
