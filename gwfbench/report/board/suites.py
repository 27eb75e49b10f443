"""The board of a suite: where each method stands between the truth and not moving, over all of its tasks.

    score      (v - exact) / (still - exact) in the task's headline metric, each of the same seed, held to [0, 1]; a
               failed seed, and one without a value, is 1: it counts as `still`. Mean over seeds, then over tasks
    interval   95 %: t interval of the mean over tasks, of one task over seeds, cut to [0, 1]. It is about the mean over
               such tasks as these, and has the noise of seeds in it
    tier       letters by the scores over tasks of each seed (paired t, Holm, as on all boards), among methods that use
               the same information on the same tasks: what they tell is about these tasks
    limit      with a limit on seconds, units or oracle calls, of each run its last judged law within it counts

A method's tasks are those whose roster has it, and for one that is on none, those that it fits. Who lacks one of its
tasks has no score, and stands in the matrix alone.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from gwfbench import escape
from gwfbench.budget import Budget
from gwfbench.plugins import registry
from gwfbench.report import stats
from gwfbench.report.board.accuracy import calls
from gwfbench.report.board.cells import NO_CELL
from gwfbench.report.board.leaderboard import Board, boards
from gwfbench.report.board.tables import cell, uses
from gwfbench.report.table import checked
from gwfbench.suites.suite import Part, Suite

LIMITS = ("seconds", "units", "calls")
NOTES = (
    "score: 0 is exact, 1 is still, mean over seeds and the method's tasks [95 % interval over tasks]. tier: methods "
    "that use the same information on the same tasks and share a letter can't be told apart on these tasks (paired t "
    "tests over seeds of the mean score, Holm, 5 %). In the column of a task: its headline metric, median over seeds "
    "[95 % interval]; a failed seed counts as still. train s: medians over seeds, summed over tasks. units: the same "
    "for train s divided by the time of a fixed piece of work on the same device during the run. calls: the same for "
    "points passed to the target's score or log-density (the larger number) or drawn from the target, also for moving "
    "the judged points."
)


@dataclass(frozen=True)
class Entry:
    """A method of the suite."""

    name: str
    information: str
    scores: Mapping[str, Mapping[int, float]]  # by task and seed
    cells: Mapping[str, str]  # by task, as text
    seconds: float  # medians over seeds, summed over tasks
    units: float
    calls: float
    failed: int  # seeds, over tasks
    total: float = math.nan  # seconds with those of moving the judged points
    score: float = math.nan  # nan where a task is missing
    low: float = math.nan
    high: float = math.nan
    tier: str = ""


def of_suite(rows: pd.DataFrame, suite: Suite) -> pd.DataFrame:
    """The rows that belong to a suite: its tasks, seeds, budget, and one setting of each method, named without it.

    A run is within the budget that was told its limits, and others perhaps, which are no gain, or that never came to
    those it was not told. A method that is not on the roster keeps the name that boards give it.
    """
    rows = checked(rows, "the rows")
    roster = {(part.task, method): registry.head(method) for part in suite.parts for method in part.methods}
    tasks = {part.task for part in suite.parts}
    fits = rows["task"].isin(tasks) & (rows["seed"] < suite.seeds)
    budgets = {text: Budget.read(str(text)).limits() for text in rows["budget"].unique()}
    for name, limit in Budget.read(suite.budget).limits().items():
        told = rows["budget"].map({text: limits.get(name) for text, limits in budgets.items()})
        spent = rows.groupby(["run_key", "attempt"])["step" if name == "steps" else name].transform("max")
        fits &= (rows["role"] != "method") | (told == limit) | (told.isna() & ~(spent > limit))
    kept = rows[fits]
    names = [
        roster.get((task, method)) or registry.short(method)
        for task, method in zip(kept["task"], kept["method"], strict=True)
    ]
    return kept.assign(method=names, budget="", spec=kept["method"], device_class=kept["device"].str.split(":").str[0])


def within(rows: pd.DataFrame, suite: Suite, limit: str, most: float) -> pd.DataFrame:
    """The rows of the laws that had cost at most so much; runs without one keep a row without a metric.

    Judged by its headline metric alone: another metric may have taken fewer points, which are paid for too.

    Args:
        limit: one of LIMITS.
    """
    rows = rows[headlines(rows, suite) | rows["metric"].isna()]
    paid = {
        "seconds": lambda: rows["seconds"],
        "units": lambda: rows["seconds"] / rows["unit"],
        "calls": lambda: pd.Series([calls(row) for row in rows.to_dict("records")], rows.index),
    }[limit]()
    control = rows["role"] != "method"
    inside = (paid <= most) | control | rows["metric"].isna()
    lost = rows[~rows["run_key"].isin(rows.loc[inside, "run_key"])].drop_duplicates(["run_key", "attempt"])
    status = lost["status"].where(lost["status"] == "killed", "timeout")
    return pd.concat([rows[inside], lost.assign(metric=None, value=math.nan, status=status)])


def entries(rows: pd.DataFrame, suite: Suite) -> list[Entry]:
    """Of `of_suite` rows: those with all tasks by information and score, then the others."""
    if not len(rows):
        return []
    found: dict[str, list[tuple[Part, Board]]] = defaultdict(list)
    for part, board in task_boards(rows, suite):
        for line in board.lines:
            if line.role == "method" and (line.cells or line.seeds.failed):
                found[line.method].append((part, board))
    paid = _paid(rows[headlines(rows, suite)])
    made = [_entry(name, those, suite, paid) for name, those in found.items()]
    whole = [_placed(one) if set(one.scores) == set(_tasks(one.name, suite)) else one for one in made]
    groups: dict[tuple[str, ...], dict[str, dict[int, float]]] = defaultdict(dict)
    for one in whole:
        if not math.isnan(one.score):
            means = {seed: statistics.fmean(own[seed] for own in one.scores.values()) for seed in _seeds(one)}
            groups[one.information, *sorted(one.scores)][one.name] = means
    letters = {name: tier for group in groups.values() if len(group) > 1 for name, tier in stats.tiers(group).items()}
    done = [replace(one, tier=letters.get(one.name, "")) for one in whole]
    return sorted(done, key=lambda o: (math.isnan(o.score), o.information, -len(o.scores), o.score, o.name))


def task_boards(rows: pd.DataFrame, suite: Suite) -> Iterator[tuple[Part, Board]]:
    """Each task's board by its headline metric, where somebody has been judged by it."""
    for part in suite.parts:
        mine, metric = rows[rows["task"] == part.task], suite.metric(part)
        if (mine["metric"] == metric).any():
            (board,) = boards(mine, [metric])
            yield part, board


def _tasks(name: str, suite: Suite) -> list[str]:
    """The tasks of a method."""
    own = [part.task for part in suite.parts if name in map(registry.head, part.methods)]
    plugin = registry.plugins("method").get(registry.head(name))
    fit = [
        p.task for p in suite.parts if plugin and registry.fits(registry.find("task", registry.head(p.task)), plugin)
    ]
    return own or fit


def headlines(rows: pd.DataFrame, suite: Suite) -> pd.Series:
    """Which rows are of their task's headline metric."""
    wanted = {(part.task, suite.metric(part)) for part in suite.parts}
    return pd.Series([pair in wanted for pair in zip(rows["task"], rows["metric"], strict=True)], rows.index, bool)


def _paid(rows: pd.DataFrame) -> dict[tuple[str, str], float]:
    """By (task, method), the median over runs of the calls of the last law, for the points of the headline metric.

    Args:
        rows: of headline metrics alone: another one may have taken more points or fewer, which are paid for too.
    """
    judged = rows.sort_values("step").drop_duplicates(["run_key", "attempt"], keep="last")
    judged = judged.assign(paid=[calls(row) for row in judged.to_dict("records")])
    return judged.groupby(["task", "method"])["paid"].median().to_dict()  # type: ignore[return-value]


def _seeds(entry: Entry) -> set[int]:
    """Seeds that it has on each of its tasks."""
    return set.intersection(*(set(own) for own in entry.scores.values()))


def _entry(
    name: str, those: Sequence[tuple[Part, Board]], suite: Suite, of: Mapping[tuple[str, str], float]
) -> Entry:  # fmt: skip
    scores: dict[str, dict[int, float]] = {}
    texts: dict[str, str] = {}
    seconds = sampled = units = paid = 0.0
    failed = 0
    information: set[str] = set()
    for part, board in those:
        metric = suite.metric(part)
        line = next(line for line in board.lines if line.method == name)
        marks = [_values(board, control, metric) for control in ("exact", "still")]
        own = {seed: value for seed, (value, _) in line.cells.get(metric, NO_CELL).values.items()}
        own |= dict.fromkeys(line.seeds.failed, math.nan)
        if not own:  # judged by other metrics alone
            continue
        scores[part.task] = {
            seed: stats.score(value, *(mark.get(seed, mark[None]) for mark in marks)) for seed, value in own.items()
        }
        texts[part.task] = cell(line, metric, line.cells.get(metric, NO_CELL).n)
        seconds += line.costs["seconds"]
        sampled += line.costs["sample_seconds"]
        units += line.costs["units"]
        paid += of.get((part.task, name), 0.0)
        failed += len(line.seeds.failed) + line.seeds.worst
        information |= set(line.information.split())
    used = uses(" ".join(sorted(information)))
    return Entry(name, used, scores, texts, seconds, units, paid, failed, seconds + sampled)


def _values(board: Board, control: str, metric: str) -> dict[int | None, float]:
    """Of a control by seed; of None the median, for seeds under which it was not run."""
    found = next((line.cells.get(metric, NO_CELL) for line in board.lines if line.method == control), NO_CELL)
    return {seed: value for seed, (value, _) in found.values.items()} | {None: found.value}


def _placed(entry: Entry) -> Entry:
    """With its score over tasks and its interval."""
    means = {i: statistics.fmean(own.values()) for i, own in enumerate(entry.scores.values())}
    score, half = stats.paired(means if len(means) > 1 else next(iter(entry.scores.values())))
    if math.isnan(half):  # one task and one seed, or no spread at all
        half = 0.0 if len(means) > 1 else math.nan
    return replace(entry, score=score, low=max(0.0, score - half), high=min(1.0, score + half))


def markdown(rows: pd.DataFrame, suite: Suite) -> str:
    """The board as Markdown."""
    made = entries(rows, suite)
    heads = {part.task: f"{part.task}: {suite.metric(part)}" for part in suite.parts}
    lines = [
        {
            "method": escape.markdown(one.name),
            "score": "-" if math.isnan(one.score) else f"{one.score:.3f} [{one.low:.3f}, {one.high:.3f}]",
            "tier": one.tier or "-",
            **{escape.markdown(head): one.cells.get(task, "-") for task, head in heads.items()},
            "failed": str(one.failed),
            "train s": f"{one.seconds:.3g}",
            "units": "-" if math.isnan(one.units) else f"{one.units:.3g}",
            "calls": f"{one.calls:.3g}",
            "uses": one.information,
        }
        for one in made
    ]
    controls = _controls(rows, suite, heads)
    table = pd.DataFrame([*controls, *lines]).fillna("-")
    if all(math.isnan(one.units) for one in made):  # rows of before have none
        table = table.drop(columns="units", errors="ignore")
    table = table.to_markdown(index=False, disable_numparse=True)
    about = f"Suite `{suite.name}`: track {suite.track}, {suite.seeds} seeds, budget {suite.budget or 'none'} per run."
    lacking = missing(made, suite)
    return "\n\n".join(filter(None, [about, table, lacking, NOTES])) + "\n"


def _controls(rows: pd.DataFrame, suite: Suite, heads: Mapping[str, str]) -> list[dict[str, str]]:
    found: dict[str, dict[str, str]] = {
        control: {"method": control, "score": score, "tier": "-"} for control, score in (("exact", "0"), ("still", "1"))
    }
    for part, board in task_boards(rows, suite):
        metric = suite.metric(part)
        for line in board.lines:
            if line.method in found:
                text = cell(line, metric, line.cells.get(metric, NO_CELL).n)
                found[line.method][escape.markdown(heads[part.task])] = text
    return list(found.values())


def missing(made: Sequence[Entry], suite: Suite) -> str:
    """What of the roster has not run, or not with all seeds."""
    there = {one.name: one for one in made}
    absent: list[str] = []
    few: list[str] = []
    for name in suite.methods:
        tasks = _tasks(name, suite)
        own = there[name].scores if name in there else {}
        lacks = [task for task in tasks if task not in own]
        if lacks:
            absent.append(f"{name} on {', '.join(lacks)}" if own else name)
        seeds = {len(own[task]) for task in tasks if task in own}
        if seeds and min(seeds) < suite.seeds:
            few.append(f"{name} ({'-'.join(map(str, sorted({min(seeds), max(seeds)})))})")
    said = [f"Not run yet: {'; '.join(absent)}."] if absent else []
    said += [f"Fewer seeds than {suite.seeds}: {', '.join(few)}."] if few else []
    return escape.markdown(" ".join(said))
