"""The cells of leaderboards: values that may be compared, their median and interval.

A value is a finite number, or it counts as the worst there is: infinite where lower is better. Rows of a cell agree in
precision, device class and budget (they are one contestant's, see report/table.py), in the metric's version, and in the
number of points.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from gwfbench.report import stats

FINISHED = ("ok", "budget")  # a spent budget is an end, not a failure
UNSAID = "no reason was kept"  # in rows from before the reason had a column

Key = tuple[str, str]  # task, method


@dataclass(frozen=True)
class Cell:
    """One metric of one contestant at the last judged time."""

    role: str
    better: str
    n: float  # points used; nan where there is no value
    values: Mapping[int, tuple[float, float]]  # by seed, with its standard error (nan: unknown)
    worst: Mapping[int, str] = field(default_factory=dict)  # seeds that count as the worst, and why
    left: Mapping[str, int] = field(default_factory=dict)  # values that stay out, by reason
    kind: Key = ("float32", "cpu")  # precision and device class
    value: float = math.nan  # median over seeds; nan where there is none
    low: float = math.nan  # 95 % interval of the median; the range of two seeds; nan for one
    high: float = math.nan
    verdict: Literal["", "floor", "alarm"] = ""  # shown to be at the noise floor, or better than it
    why: str = ""  # there is an alarm
    told: bool | None = None  # whether the metric tells `still` from exact draws on this task; None: not known

    @property
    def shown(self) -> dict[str, str]:
        """Median and interval as text, with the same number of digits, and the median inside."""
        if math.isnan(self.value):
            return {"value": "-", "interval": ""}
        return {"value": stats.rounded(self.value), "interval": self._interval()}

    def _interval(self) -> str:
        if math.isnan(self.low):
            return ""
        low, high = stats.outwards(self.low, self.high)
        return f"({low} to {high})" if len(self.values) == 2 else f"[{low}, {high}]"


NO_CELL = Cell("", "lower", math.nan, {})


def last_laws(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of each finished run's last judged law, where that is at the task's last judged time (null t: the limit).

    A run that diverged on the way to a limit has judged laws too, and none that counts.
    """
    judged = rows[rows["metric"].notna() & rows["status"].isin(FINISHED)]
    last = judged[judged["step"] == judged.groupby(["run_key", "attempt"])["step"].transform("max")]
    t = pd.to_numeric(last["t"])
    return last[t.isna() | (t >= t.groupby(last["task"]).transform("max") * (1 - 1e-9))]


def cells(final: pd.DataFrame) -> dict[Key, dict[str, Cell]]:
    """By (task, method), then metric: values of the newest version, at the n that most seeds have."""
    columns = [
        *("task", "method", "metric", "role", "better", "metric_version", "n", "seed", "attempt", "value", "se"),
        *("worst", "dtype", "device_class"),
    ]
    groups: dict[tuple[str, str, str], list[Any]] = defaultdict(list)
    newest: dict[Key, int] = defaultdict(int)
    signed: set[Key] = set()
    table: Any = final[columns]
    for row in table.itertuples(index=False):
        groups[row.task, row.method, row.metric].append(row)
        newest[row.task, row.metric] = max(newest[row.task, row.metric], row.metric_version)
        if row.value <= 0:
            signed.add((row.task, row.metric))
    found: dict[Key, dict[str, Cell]] = defaultdict(dict)
    for (task, method, metric), rows in groups.items():
        logs = (task, metric) not in signed
        found[task, method][metric] = _cell(rows, newest[task, metric], logs)
    return found


def _cell(rows: Sequence[Any], version: int, logs: bool) -> Cell:
    first, left = rows[0], Counter[str]()
    current = [row for row in rows if row.metric_version == version]
    left["made by an older version of the metric"] = len(rows) - len(current)
    counts = Counter(row.n for row in current if math.isfinite(row.value)) or Counter(row.n for row in current)
    n = max(counts, key=lambda n: (counts[n], n), default=math.nan)
    worst_value = math.inf if first.better == "lower" else -math.inf
    values: dict[int, tuple[float, float]] = {}
    worst: dict[int, str] = {}
    attempts: dict[int, str] = {}
    for row in sorted(current, key=lambda row: (row.seed, row.attempt)):
        good = math.isfinite(row.value)
        if good and row.n != n:
            left["at another number of points"] += 1
            continue
        if attempts.setdefault(row.seed, row.attempt) != row.attempt:
            left["of another attempt at the same seed"] += 1
        attempts[row.seed] = row.attempt
        values[row.seed] = (row.value, row.se) if good else (worst_value, math.nan)
        worst.pop(row.seed, None)
        if not good:
            worst[row.seed] = row.worst or ("infinite" if math.isinf(row.value) else UNSAID)
    ordered = sorted(value for value, _ in values.values())
    middle = _median(ordered)
    low, high = stats.interval(ordered, logs)
    kind = first.dtype, first.device_class
    return Cell(first.role, first.better, n, values, worst, +left, kind, middle, low, high)


def _median(ordered: Sequence[float]) -> float:
    return statistics.median(ordered) if ordered else math.nan
