"""The cells of leaderboards: values that may be compared, their median and interval, and the verdict on them."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from gwfbench.report import stats

ALARM = 4.0  # standard errors by which a method must beat the floor to be suspected
AT_FLOOR = 2.0  # standard errors from the floor within which a method is at it
FINISHED = ("ok", "budget")  # a spent budget is an end, not a failure

Key = tuple[str, str]  # task, method


@dataclass(frozen=True)
class Cell:
    """One metric of one contestant at the last judged time: values of one version at one number of points."""

    role: str
    better: str
    n: float  # points used; nan where there is no value
    left: int  # values of an older version or at another n, which stay out
    values: Mapping[int, tuple[float, float]]  # by seed, with its standard error
    value: float = math.nan  # median over seeds; nan where there is none
    low: float = math.nan  # 95 % bootstrap interval of the median; nan for one seed
    high: float = math.nan
    verdict: Literal["", "floor", "alarm"] = ""  # not distinguishable from the noise floor, or better than it


NO_CELL = Cell("", "lower", math.nan, 0, {})


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
    columns = ["task", "method", "metric", "role", "better", "metric_version", "n", "seed"]
    numbers = {name: pd.to_numeric(final[name]).astype(float) for name in ("value", "se")}
    table: Any = final[columns].assign(**numbers)
    groups: dict[tuple[str, str, str], list[Any]] = defaultdict(list)
    newest: dict[Key, int] = defaultdict(int)
    for row in table.itertuples(index=False):
        groups[row.task, row.method, row.metric].append(row)
        newest[row.task, row.metric] = max(newest[row.task, row.metric], row.metric_version)
    floors: dict[Key, Cell] = {}
    found: dict[Key, dict[str, Cell]] = defaultdict(dict)
    for (task, method, metric), rows in groups.items():
        found[task, method][metric] = cell = _cell(rows, newest[task, metric])
        if cell.role == "floor":
            floors[task, metric] = cell
    for (task, _), own in found.items():
        for metric, cell in own.items():
            own[metric] = replace(cell, verdict=_verdict(cell, floors.get((task, metric), NO_CELL)))
    return found


def _cell(rows: Sequence[Any], version: int) -> Cell:
    known = [row for row in rows if not math.isnan(row.value)]  # a null is no value
    current = [row for row in known if row.metric_version == version]
    counts = Counter(row.n for row in current)
    n = max(counts, key=lambda n: (counts[n], n), default=math.nan)
    values = {row.seed: (row.value, row.se) for row in current if row.n == n}
    ordered = sorted(value for value, _ in values.values())
    middle = statistics.median(ordered) if ordered else math.nan
    low, high = stats.interval(ordered)
    return Cell(rows[0].role, rows[0].better, n, len(known) - len(values), values, middle, low, high)


def _verdict(mine: Cell, floor: Cell) -> Literal["", "floor", "alarm"]:
    """Compare a method with the noise floor at the same n, seed by seed, in the difference's standard errors."""
    both = [(mine.values[seed], floor.values[seed]) for seed in mine.values if seed in floor.values]
    if mine.role != "method" or not both or mine.n != floor.n:
        return ""
    sign = -1 if mine.better == "higher" else 1
    gain = sign * sum(bound - value for (value, _), (bound, _) in both) / len(both)
    errors = (error for pair in both for _, error in pair)
    se = math.sqrt(sum(error**2 for error in errors if not math.isnan(error))) / len(both)
    if gain > ALARM * se:
        return "alarm"
    return "floor" if gain >= -AT_FLOOR * se else ""
