"""A search for a setting of a method: candidates from values and ranges of its fields, best by the score over tasks.

    mmd_flow:step=0.1|1|10,noise=0|0.1      six candidates, all of them
    mmd_flow:step=0.1..10,points=64|256     drawn at random: a range by its logarithm where both ends are positive

Seeds are `FIRST`, `FIRST` + 1, ...: never those that boards judge, which count from 0.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from gwfbench.errors import UserError, require
from gwfbench.plugins import registry, settings
from gwfbench.report.board import suites
from gwfbench.suites.suite import Part, Suite

FIRST = 1000
TRIES = 100  # draws in a row of candidates that are there already, until the search says that there is no other
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})")


@dataclass(frozen=True)
class Found:
    """A candidate, and how it did.

    Args:
        method: as rows name it.
        score: 0 is exact, 1 is still: mean over tasks and seeds of the tasks' headline metrics.
        units: of training, medians over seeds, summed over tasks.
        failed: seeds, over tasks.
    """

    method: str
    score: float
    units: float
    failed: int


def candidates(method: str, count: int | None) -> list[str]:
    """The settings to try, as rows name them.

    Args:
        method: `name:key=value`, of which values may be `1|2|3`, or with a count also `0.1..10`.
        count: how many to draw, always the same ones; None: all combinations.

    Raises:
        UserError: there is no choice in it, a range without a count, or too few candidates for it.
    """
    fields = {key: value for key, value in registry.typed(method).items() if RANGE.fullmatch(value)}
    if count is None:
        for key, value in fields.items():
            raise UserError(f"{key}={value}", "values to choose from, as 0.1|1|10", "or draw from a range: --random 20")
        texts = [registry.canonical("method", text) for text in registry.grid(method)]
        require(len(texts) > 1, f"'{method}': one candidate", "values to choose from", f"write {_example(method)}")
        return list(dict.fromkeys(texts))
    require(count > 0, f"--random {count}", "1 or more", "leave it out for all combinations")
    made, found, tried = random.Random(7), dict[str, None](), 0
    choices = registry.grid(method)
    require(
        len(choices) > 1 or bool(fields), f"'{method}': one candidate", "values or a range", f"write {_example(method)}"
    )
    while len(found) < count:
        text = registry.canonical("method", _drawn(made.choice(choices), made))
        tried = 0 if text not in found else tried + 1
        found[text] = None
        require(
            tried < TRIES, f"--random {count}: '{method}' has {len(found)} candidates", "more",
            "leave --random out to try all",
        )  # fmt: skip
    return list(found)


def _example(method: str) -> str:
    name = registry.head(method)
    key = next(iter(registry.find("method", name).defaults), "step")
    return f"{name}:{key}=1|2"


def _drawn(text: str, made: random.Random) -> str:
    """With a value in place of each range: uniform in the logarithm where both ends are positive; whole between whole
    ends without a point."""
    head, _, fields = text.partition(":")
    parts = []
    for key, value in settings.split(fields).items():
        ends = RANGE.fullmatch(value)
        parts.append(f"{key}={_between(ends[1], ends[2], made)}" if ends else f"{key}={value}")
    return f"{head}:{','.join(parts)}"


def _between(low: str, high: str, made: random.Random) -> str:
    a, b = float(low), float(high)
    require(a < b, f"{low}..{high}", "the lower end first", f"write {high}..{low}")
    x = math.exp(made.uniform(math.log(a), math.log(b))) if a > 0 else made.uniform(a, b)
    whole = all(re.fullmatch(r"[-+]?\d+", end) for end in (low, high))
    return str(round(x)) if whole else f"{x:.3g}"


def seeds(count: int) -> tuple[int, ...]:
    """The seeds of a search."""
    require(count > 0, f"--seeds {count}", "1 or more", "write --seeds 3")
    return tuple(range(FIRST, FIRST + count))


def metric_of(task: str) -> str:
    """The first metric of a task."""
    return Suite("", "", "", 1, ()).metric(Part(task, "", ()))


def best(rows: pd.DataFrame, tasks: Sequence[str], count: int, metric: str = "") -> list[Found]:
    """The candidates, best first; of equal scores to three digits the one that trained for fewer units.

    Args:
        rows: the results table of the search, controls with it.
        tasks: as rows name them.
        count: of seeds.
        metric: that counts; empty: the first of each task.

    Raises:
        UserError: the metric judged nothing, or can't tell `still` from `exact`.
    """
    suite = Suite("search", "", "", count, tuple(Part(task, metric, ()) for task in tasks))
    entries = suites.entries(suites.of_suite(rows.assign(seed=rows["seed"] - FIRST), suite), suite)
    spelt = {registry.short(text): text for text in rows["method"].unique()}
    found = [Found(spelt[one.name], one.score, one.units, one.failed) for one in entries]
    require(
        any(not math.isnan(one.score) for one in found), f"no score by {metric or 'the first metric'}",
        "a metric that has judged exact, still and a candidate on every task", "name another by --metric",
    )  # fmt: skip
    return sorted(found, key=lambda one: (math.isnan(one.score), round(one.score, 3), one.units))


def told(rows: pd.DataFrame) -> str:
    """What the search has cost, in words."""
    runs = rows[rows["role"] == "method"].groupby(["run_key", "attempt"])[["seconds", "unit"]].max()
    units = (runs["seconds"] / runs["unit"]).sum()
    return f"{len(runs)} runs, {runs['seconds'].sum() / 3600:.2g} hours of training, {units:.3g} units"
