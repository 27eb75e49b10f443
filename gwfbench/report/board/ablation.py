"""What one field does: every method with and without it, over the seeds that both have."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gwfbench.errors import UserError
from gwfbench.plugins.registry import head, typed
from gwfbench.report import stats
from gwfbench.report.board.leaderboard import failures, finals, last_laws

ALL = "all of them"
NOTE = """median without -> with: the mean over seeds of their ratio, with / without (difference, where values are not
all positive) [95 % paired t interval]. * no noise at 5 % for all pairs of the table together (Holm). A failed seed
counts as the worst value on its board. all of them: the mean over methods, seed by seed, tested alone."""


def ablation(points: pd.DataFrame, change: str, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Each method with the field as `change` says (`key=value`), beside the same method without it.

    Args:
        points: as `leaderboard` takes them.
        metrics: which; None: the first that there is.

    Returns:
        One row a (metric, task, method): metric, task, method (without the field), before, after (medians over seeds),
        effect (ratio, or difference where `ratio` is false), low, high (95 %), ratio, seeds, p (Holm's, over the rows
        of one metric). The last row of each task is over all methods.

    Raises:
        UserError: no method is there with and without it, or nobody has such a metric.
    """
    final = last_laws(points)
    cells, failed = finals(final), failures(points, final)
    judged = dict.fromkeys(final["metric"])
    chosen = list(metrics or list(judged)[:1])
    pairs = list(_pairs(list(dict.fromkeys(points["method"])), change))
    if not pairs or not judged.keys() & set(chosen):
        raise UserError(
            f"--ablate {change}", "methods that ran with this field and without it",
            "for example --method gwf --method gwf:step=inf, then --ablate step=inf",
        )  # fmt: skip
    found: list[dict[str, Any]] = []
    for metric in chosen:
        rows: list[dict[str, Any]] = []
        for task in dict.fromkeys(points["task"]):
            here = {who: cell for (where, who, name), cell in cells.items() if (where, name) == (task, metric)}
            sign = -1 if any(cell.better == "higher" for cell in here.values()) else 1
            board = {
                who: dict.fromkeys(failed[task, who], math.nan) | {s: sign * v for s, (v, _) in cell.values.items()}
                for who, cell in here.items()
            }
            scaled, logs = stats.on_scale(board)
            effects = []
            for before, after in pairs:
                if before in scaled and after in scaled:
                    a, b = scaled[after], scaled[before]
                    effects.append({seed: a[seed] - b[seed] for seed in a.keys() & b.keys()})
                    medians = [float(np.median(list(scaled[who].values()))) for who in (before, after)]
                    rows.append(_row(metric, task, before, medians, effects[-1], logs, sign))
            common = set.intersection(*map(set, effects)) if effects else set()
            if len(effects) > 1 and common:
                mean = {seed: float(np.mean([effect[seed] for effect in effects])) for seed in common}
                rows.append(_row(metric, task, ALL, [math.nan, math.nan], mean, logs, sign))
        single = [row for row in rows if row["method"] != ALL]
        for row, p in zip(single, stats.holm([row["p"] for row in single]), strict=True):
            row["p"] = p
        found += rows
    return pd.DataFrame(found)


def markdown(table: pd.DataFrame, change: str) -> str:
    """The table of `ablation` as Markdown, a section a metric, the tasks side by side."""
    parts = []
    for metric, rows in table.groupby("metric", sort=False):
        tasks = list(dict.fromkeys(rows["task"]))
        cells = {(row["task"], row["method"]): _cell(row) for row in rows.to_dict("records")}
        methods = [*(who for who in dict.fromkeys(rows["method"]) if who != ALL), ALL]
        body = [[who, *(cells.get((task, who), "-") for task in tasks)] for who in methods]
        shown = pd.DataFrame(body, columns=["method", *tasks]).to_markdown(index=False, disable_numparse=True)
        parts.append(f"## What `{change}` does to {metric}\n\n{shown}\n")
    return "\n".join([*parts, NOTE, ""])


def _pairs(methods: Sequence[str], change: str) -> Iterator[tuple[str, str]]:
    """Methods without and with the field."""
    key, _, value = change.partition("=")
    fields = {method: typed(method) for method in methods}
    for after, with_it in fields.items():
        if with_it.get(key) == value:
            without = {name: text for name, text in with_it.items() if name != key}
            for before, own in fields.items():
                if head(before) == head(after) and own == without:
                    yield before, after


def _row(
    metric: str, task: str, method: str, medians: Sequence[float], effect: dict[int, float], logs: bool, sign: int
) -> dict[str, Any]:
    mean, half = stats.paired(effect)
    back = math.exp if logs else lambda x: sign * x + 0.0  # no -0
    ends = sorted([back(mean - half), back(mean + half)]) if math.isfinite(half) else [math.nan, math.nan]
    return {
        "metric": metric, "task": task, "method": method, "before": back(medians[0]), "after": back(medians[1]),
        "effect": back(mean), "low": ends[0], "high": ends[1], "ratio": logs, "seeds": len(effect),
        "p": stats.differs(effect, dict.fromkeys(effect, 0.0)),
    }  # fmt: skip


def _cell(row: dict[Any, Any]) -> str:
    sign = "x " if row["ratio"] else ""
    interval = "" if math.isnan(row["low"]) else f" [{row['low']:.3g}, {row['high']:.3g}]"  # one seed has none
    change = f"{sign}{row['effect']:.3g}{interval}"
    star = " *" if row["p"] < stats.LEVEL else ""
    medians = "" if row["method"] == ALL else f"{row['before']:.3g} -> {row['after']:.3g}: "
    return medians + change + star
