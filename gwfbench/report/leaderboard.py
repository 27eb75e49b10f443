"""The leaderboard: tidy points in, one row for each (task, method) out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

LEVEL = 0.95  # of the intervals
ALARM = 4.0  # standard errors by which a method must beat the floor to be suspected
AT_FLOOR = 2.0  # standard errors from the floor within which a method is at it
COSTS = ("seconds", "score_calls", "sample_seconds", "sample_calls")


def leaderboard(points: pd.DataFrame, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Medians over seeds at each task's last judged time, with bootstrap intervals, floors and failures.

    Args:
        points: as `gwfbench.run` returns them, or as collected from records.
        metrics: which, and in which order; None: all, as the rows have them.

    Returns:
        One row a (task, method): task, method, role, information, t, seeds ("finished/total" and why the others did
        not), the median of each metric with <metric>_low, <metric>_high (95 % bootstrap interval of the median over
        seeds; none for one seed) and <metric>_verdict ("", "floor": not distinguishable from the noise floor, or
        "alarm": better than the floor by more than sampling error), and the median costs. Floors first, then methods
        by information used and first metric, failures last, then the other controls.
    """
    boards = [_board(rows, metrics) for _, rows in points.groupby("task", sort=False)]
    return pd.concat(boards, ignore_index=True) if boards else pd.DataFrame(columns=["task", "method"])


def alarms(board: pd.DataFrame) -> list[str]:
    """A line for each value that is better than its noise floor by more than sampling error."""
    lines = []
    for column in board.columns[board.columns.str.endswith("_verdict")]:
        metric = column.removesuffix("_verdict")
        for row in board[board[column] == "alarm"].to_dict("records"):
            lines.append(
                f"ALARM: {row['method']} on {row['task']}: {metric} {row[metric]:.3g} is better than exact "
                f"draws of the truth by more than sampling error. Look for a leak, training points among the judged, "
                f"or a wrong metric."
            )
    return lines


def _board(rows: pd.DataFrame, metrics: Sequence[str] | None) -> pd.DataFrame:
    final = _final(rows)
    names = list(rows["metric"].dropna().unique())
    names = [name for name in metrics if name in names] if metrics else _order(rows, names)
    floors = final[final["role"] == "floor"]
    board = []
    for method, group in rows.groupby("method", sort=False):
        roles = set(group["role"])
        line: dict[str, object] = {
            "task": group["task"].iloc[0],
            "method": method,
            "role": "method" if "method" in roles else "floor" if "floor" in roles else "control",
            "information": group["information"].iloc[0],
            "t": final["t"].max(),
            "seeds": _seeds(group, final[final["method"] == method]),
        }
        mine = final[final["method"] == method]
        for name in names:
            these = mine[mine["metric"] == name]
            values = these["value"].dropna().to_numpy(float)
            line[name] = float(np.median(values)) if len(values) else math.nan
            line[f"{name}_low"], line[f"{name}_high"] = _interval(values)
            line[f"{name}_verdict"] = _verdict(these, floors[floors["metric"] == name])
        one = (mine if len(mine) else group).drop_duplicates("run_key")
        line |= {cost: one[cost].astype(float).median() for cost in COSTS}
        board.append(line)
    table = pd.DataFrame(board)
    place = table["role"].map({"floor": 0, "method": 1, "control": 2})
    if not names:
        return table
    better = rows.loc[rows["metric"] == names[0], "better"].iloc[0]
    key = table[names[0]] * (-1 if better == "higher" else 1)
    order = pd.DataFrame({"place": place, "information": table["information"], "key": key})
    return table.loc[order.sort_values(["place", "information", "key"], na_position="last", kind="stable").index]


def _final(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of each run's last judged law, where that is at the task's last judged time (a null t is the limit)."""
    judged = rows[rows["metric"].notna()]
    last = judged[judged["step"] == judged.groupby(["run_key", "attempt"])["step"].transform("max")]
    t = pd.to_numeric(last["t"])
    return last[t.isna() | (t >= t.max() * (1 - 1e-9))]


def _order(rows: pd.DataFrame, names: list[str]) -> list[str]:
    """The order in which a run that has most of them lists them."""
    lists = [list(group["metric"].dropna().unique()) for _, group in rows.groupby("method", sort=False)]
    longest = max(lists, key=len)
    return longest + [name for name in names if name not in longest]


def _seeds(group: pd.DataFrame, final: pd.DataFrame) -> str:
    total, finished = group["seed"].nunique(), final["seed"].nunique()
    other = group[~group["seed"].isin(final["seed"])].drop_duplicates("seed")["status"].value_counts()
    return f"{finished}/{total}" + "".join(f", {count} {status}" for status, count in other.items())


def _interval(values: np.ndarray) -> tuple[float, float]:
    if len(values) < 2:
        return math.nan, math.nan
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = bootstrap((values,), np.median, confidence_level=LEVEL, method="percentile", rng=np.random.default_rng(0))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _verdict(mine: pd.DataFrame, floor: pd.DataFrame) -> str:
    """Compare a method with the noise floor, seed by seed, in units of the difference's standard error."""
    if not len(mine) or not len(floor) or mine["role"].iloc[0] != "method":
        return ""
    both = mine.merge(floor, on="seed", suffixes=("", "_floor")).dropna(subset=["value", "value_floor"])
    if not len(both):
        return ""
    gain = (both["value_floor"] - both["value"]).to_numpy(float) * (-1 if both["better"].iloc[0] == "higher" else 1)
    spread = both[["se", "se_floor"]].fillna(0.0).to_numpy(float)
    se = math.sqrt((spread**2).sum()) / len(both)
    if gain.mean() > ALARM * se:
        return "alarm"
    return "floor" if gain.mean() >= -AT_FLOOR * se else ""
