"""What the page and the figures show, as plain values: boards with tiers, curves, and where each number comes from."""

from __future__ import annotations

import math
import shlex
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd

from gwfbench.audit.verify import Verdict
from gwfbench.budget import Budget
from gwfbench.drive.job import Job
from gwfbench.errors import UserError
from gwfbench.report.board.leaderboard import Final, failures, finals, grades, interval, last_laws, leaderboard
from gwfbench.report.board.tables import metric_names, uses

CALLS = ("score_calls", "log_prob_calls", "draw_calls")
ALONG = ("step", "t", "seconds", *CALLS)  # what a curve may be drawn against
RUN = (
    *("seed", "run_key", "attempt", "status", "reason", "seconds", "device", "dtype", "budget", "batch"),
    *("code", "env"),
)


@dataclass(frozen=True)
class Cell:
    """One metric of one contestant at the last judged time: the median over seeds and all that stands behind it."""

    value: float
    low: float
    high: float
    n: float
    left: int  # values of an older version or another n, left out
    verdict: str  # "", "floor", "alarm"
    tier: str  # letters; empty where there is nothing to compare
    version: int
    code: str  # hash of the metric's source
    values: list[tuple[int, float, float]]  # seed, value, standard error


@dataclass(frozen=True)
class Line:
    """One contestant on one task."""

    method: str
    role: str
    information: str
    seeds: str  # finished/total, and why the others did not
    costs: dict[str, float]  # medians over runs, in the end
    cells: dict[str, Cell]
    steps: list[list[float | None]]  # of the judged laws, each with the values of ALONG; medians over seeds
    curves: dict[str, list[list[float] | None]]  # by metric, for each of the steps: median, low, high
    runs: list[list[Any]]  # the values of RUN for each
    command: str  # runs them again
    stale: str  # why today's code would not give these rows; empty if it would
    verified: dict[str, int]  # runs by verdict


@dataclass(frozen=True)
class Board:
    """One task."""

    task: str
    t: float | None
    metrics: list[str]
    better: dict[str, str]
    detectable: dict[str, dict[str, str]]  # by metric and information: the difference of two methods that is seen
    lines: list[Line]


def boards(points: pd.DataFrame, metrics: Sequence[str] | None = None, verdicts: Iterable[Verdict] = ()) -> list[Board]:
    """All tasks of these points, as `leaderboard` orders them.

    Args:
        points: tidy rows, as `session.tidy` or a CSV of them.
        metrics: which, and in which order; None: all.
        verdicts: of runs that were run again; the newest on each attempt counts.
    """
    table = leaderboard(points, metrics)
    if not len(points):
        return []
    final = last_laws(points)
    cells, facts, failed = finals(final), _facts_of_metrics(final), failures(points, final)
    runs, curves = _runs(points), _curves(points)
    word = {(one.run_key, one.attempt): one.verdict for one in verdicts}
    made = []
    for task in dict.fromkeys(map(str, table["task"])):
        part = table[table["task"] == task]
        rows = part.to_dict("records")
        names = [name for name in metric_names(part) if part[name].notna().any()]
        better = {name: facts[task, name][0] for name in names}
        lost = {row["method"]: failed[task, row["method"]] for row in rows}
        graded = {
            name: grades(rows, {m: cells[task, m, name] for m in lost if (task, m, name) in cells}, lost)
            for name in names
        }
        lines = []
        for row in rows:
            who = (task, str(row["method"]))
            own = {
                name: _cell(row, name, cells[*who, name], graded[name].get(who[1], ("", ""))[0], facts[task, name])
                for name in names
                if (*who, name) in cells
            }
            lines.append(_line(row, own, runs[who], curves[who], word))
        t = rows[0]["t"]
        gaps = {
            name: {uses(row["information"]): of[row["method"]][1] for row in rows if row["method"] in of}
            for name, of in graded.items()
        }
        made.append(Board(task, None if pd.isna(t) else float(t), names, better, gaps, lines))
    return made


def _cell(row: Mapping[Any, Any], name: str, final: Final, tier: str, facts: tuple[str, int, str]) -> Cell:
    values = [(int(seed), value, se) for seed, (value, se) in sorted(final.values.items())]
    value, low, high, n = (float(row[f"{name}{end}"]) for end in ("", "_low", "_high", "_n"))
    _, version, code = facts
    return Cell(value, low, high, n, int(row[f"{name}_left"]), row[f"{name}_verdict"], tier, version, code, values)


def _line(
    row: Mapping[Any, Any], cells: dict[str, Cell], runs: list[dict[str, Any]], curve: _Curve,
    word: Mapping[tuple[str, str], str],
) -> Line:  # fmt: skip
    costs = {name: float(row[name]) for name in ("seconds", "score_calls", "sample_seconds", "sample_calls")}
    costs |= {name: statistics.median(run[name] for run in runs) for name in CALLS[1:]}
    verified: dict[str, int] = defaultdict(int)
    for run in runs:
        if verdict := word.get((run["run_key"], run["attempt"])):
            verified[verdict] += 1
    stale = [why for run in runs if (why := _stale(run))]
    return Line(
        method=row["method"], role=row["role"], information=row["information"],
        seeds=row["seeds"], costs=costs, cells=cells,
        steps=curve.steps, curves=curve.values, runs=[[run[name] for name in RUN] for run in runs],
        command=_command(runs), stale=f"{len(stale)} of {len(runs)}: {stale[0]}" if stale else "",
        verified=dict(verified),
    )  # fmt: skip


def _facts_of_metrics(final: pd.DataFrame) -> dict[tuple[Any, str], tuple[str, int, str]]:
    """What is better, the newest version and its code, by task and metric."""
    found: dict[tuple[Any, str], tuple[str, int, str]] = {}
    columns = ["task", "metric", "better", "metric_version", "metric_code"]
    for task, metric, better, version, code in zip(*(final[name] for name in columns), strict=True):
        if (task, metric) not in found or int(version) > found[task, metric][1]:
            found[task, metric] = (str(better), int(version), str(code))
    return found


def _runs(points: pd.DataFrame) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """What each run was and cost, by task and method, by seed."""
    kept = points[[*RUN, "task", "method", *CALLS[1:]]]
    words = {name: kept[name].astype(object).where(kept[name].notna(), "").astype(str) for name in ("budget", "reason")}
    kept = kept.assign(**words, **{name: pd.to_numeric(kept[name]).fillna(0) for name in CALLS[1:]})
    last = kept.sort_values(["seed", "seconds"], kind="stable").groupby(["run_key", "attempt"], sort=False).tail(1)
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for run in last.to_dict("records"):
        found[run["task"], run["method"]].append(run)  # type: ignore[arg-type]
    return found


@dataclass
class _Curve:
    steps: list[list[float | None]]
    values: dict[str, list[list[float] | None]]


def _curves(points: pd.DataFrame) -> dict[tuple[str, str], _Curve]:
    """Medians over the seeds that got there at each judged law, with intervals, by task and method."""
    judged = points[points["metric"].notna() & points["value"].notna()]
    newest = judged.groupby(["task", "metric"])["metric_version"].transform("max")
    judged = judged[judged["metric_version"] == newest]
    along: dict[tuple[str, str], dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
    values: dict[tuple[str, str], dict[str, dict[int, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    columns = [judged[name].to_list() for name in ("task", "method", "metric", "step", "value")]
    places = zip(*(pd.to_numeric(judged[name]).to_list() for name in ALONG), strict=True)
    for (task, method, metric, step, value), place in zip(zip(*columns, strict=True), places, strict=True):
        along[task, method][int(step)].append(place)
        values[task, method][metric][int(step)].append(value)
    found: dict[tuple[str, str], _Curve] = defaultdict(lambda: _Curve([], {}))
    for who, by_step in along.items():
        order = sorted(by_step)
        steps = [[_median(column) for column in zip(*by_step[step], strict=True)] for step in order]
        bands = {
            metric: [_band(sorted(some[step])) if step in some else None for step in order]
            for metric, some in values[who].items()
        }
        found[who] = _Curve(steps, bands)
    return found


def _median(values: Sequence[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else None


def _band(values: list[float]) -> list[float]:
    return [statistics.median(values), *interval(values)]


def _command(runs: Sequence[Mapping[str, Any]]) -> str:
    """Runs the same seeds again; a line for each budget, device or precision that they had."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for run in runs:
        groups[tuple(str(run[name]) for name in ("device", "dtype", "budget"))].append(int(run["seed"]))
    lines = []
    for (device, dtype, budget), seeds in groups.items():
        seeds = sorted(set(seeds))
        count = str(len(seeds)) if seeds == list(range(len(seeds))) else ",".join(map(str, seeds))
        words = ["--task", runs[0]["task"], "--method", runs[0]["method"]]
        words += ["--seeds", f"{count}," if len(seeds) == 1 and seeds != [0] else count]
        words += ["--device", device] * (device != "cpu") + ["--dtype", dtype] * (dtype != "float32")
        words += ["--budget", budget] * bool(budget)
        lines.append(shlex.join(["python", "-m", "gwfbench", "run", *words]))
    return "\n".join(lines)


def _stale(run: Mapping[str, Any]) -> str:
    """Why today's code would not give this run; empty if it would."""
    found = _today(*(str(run[name]) for name in ("task", "method", "device", "dtype", "budget")))
    if isinstance(found, str):
        return found
    job, code = found
    if job.identity(int(run["seed"])).key != run["run_key"]:
        return "fields or versions are others today"
    return "" if code == run["code"] else "made by other code than today's"


@cache
def _today(task: str, method: str, device: str, dtype: str, budget: str) -> tuple[Job, str] | str:
    words = {"task": task, "method": method, "device": device, "dtype": dtype, "seeds": [0]}
    try:
        job = Job.read(words | {"budget": Budget.read(budget).limits()})
        return job, job.code()
    except UserError as error:
        return f"it can't be built here: {error.got}"
