"""Oracle calls to accuracy: what a method had paid at the first judged law from which its bias stays small.

The bias is the metric `b2_max`, small is below 0.01 (Hoffman and Sountsov 2022), and only tasks count whose limit alone
counts. Calls are those of the board over tasks: points passed to the target's score or to its log-density, the larger
number of the two, or drawn from the target, in training and for moving the judged points (there: of the score). Only
judged laws are looked at, so that the number is at most one gap between two of them too large. A run that never gets
there, gets worse again, or fails, is infinite.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from gwfbench.report.board.cells import FINISHED, Key

METRIC, SMALL = "b2_max", 0.01


def calls(row: Mapping[Any, Any]) -> float:
    """What a judged law had cost: points through the oracles of the target; score and log-density at once are one."""
    training = max(row["score_calls"], row["log_prob_calls"])
    return training + row["draw_calls"] + row["sample_calls"] * row["n"]


def grads_to_accuracy(rows: pd.DataFrame) -> dict[Key, float]:
    """By (task, method), the median over runs; none where no run has been judged by `b2_max`."""
    mine = rows[(rows["role"] == "method") & (rows["metric"] == METRIC) & pd.to_numeric(rows["t"]).isna()]
    found: dict[Key, list[float]] = defaultdict(list)
    for _, run in mine.groupby(["run_key", "attempt"], sort=False):
        laws = run.sort_values("step").to_dict("records")
        found[laws[0]["task"], laws[0]["method"]].append(_calls_of(laws))
    return {key: statistics.median(paid) for key, paid in found.items()}


def _calls_of(laws: Sequence[Mapping[Any, Any]]) -> float:
    if laws[-1]["status"] not in FINISHED:
        return math.inf
    paid = math.inf
    for law in reversed(laws):
        if not law["value"] < SMALL:  # nor where there is no value
            break
        paid = calls(law)
    return paid
