"""What the page and the figures show: boards with tiers in all metrics, curves, and where each number comes from."""

from __future__ import annotations

import math
import shlex
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from gwfbench.audit.today import Today
from gwfbench.audit.verdict import Verdict
from gwfbench.report.board.accuracy import calls
from gwfbench.report.board.cells import last_laws
from gwfbench.report.board.grades import Grade, grades
from gwfbench.report.board.leaderboard import Board, boards
from gwfbench.report.board.lines import Line
from gwfbench.report.board.tables import power, uses
from gwfbench.report.stats import interval
from gwfbench.report.table import contestants

IDENTITY = ("task", "seed", "device", "dtype", "run_key", "code")
CALLS = ("score_calls", "log_prob_calls", "draw_calls")
ALONG = ("step", "t", "seconds", *CALLS)  # what a curve may be drawn against
TOTALS = ("total", "oracle")  # of a run: seconds of training and sampling; oracle calls, for the judged points too
DIGITS, DRAWN = 7, 4  # digits of values, and of what is only drawn
RUN = (
    *("seed", "run_key", "attempt", "status", "reason", "seconds", "device", "dtype", "budget", "batch"),
    *("code", "env"),
)


@dataclass(frozen=True)
class History:
    """What stands behind one line of a board."""

    calls: dict[str, float]  # of CALLS that are not on the board, and of TOTALS; medians over runs
    steps: list[list[float | None]]  # of the judged laws, each with the values of ALONG; medians over seeds
    curves: dict[str, list[list[float] | None]]  # by metric, for each of the steps: median, low, high
    runs: list[list[Any]]  # the values of RUN for each
    command: str  # runs them again
    stale: str  # why today's code would not give these rows; empty if it would
    verified: dict[str, int]  # runs by verdict


@dataclass(frozen=True)
class Source:
    """The newest version of a metric among the rows."""

    version: int
    code: str  # hash of its source


@dataclass(frozen=True)
class Sheet:
    """One task: its board, and all that stands behind it."""

    board: Board
    grades: dict[str, dict[str, Grade]]  # by metric, then method
    sources: dict[str, Source]  # by metric
    histories: dict[str, History]  # by method

    def plain(self, headline: str = "") -> dict[str, Any]:
        """As values for JSON.

        Args:
            headline: the metric that a reader sees first; empty: the board's first.
        """
        return {
            "task": self.board.task,
            "t": None if math.isnan(self.board.t) else self.board.t,
            "headline": headline if headline in self.board.metrics else next(iter(self.board.metrics), ""),
            "metrics": self.board.metrics,
            "sources": {name: asdict(self.sources[name]) for name in self.board.metrics},
            "better": {name: self.board.better[name] for name in self.board.metrics},
            "power": {name: power(self.board, name, found) for name, found in self.grades.items()},
            "remarks": self.board.remarks,
            "lines": [self._line(line) for line in self.board.lines],
        }

    def _line(self, line: Line) -> dict[str, Any]:
        history = self.histories[line.method]
        return {
            "method": line.method,
            "spec": line.spec,
            "role": line.role,
            "information": uses(line.information),
            "seeds": str(line.seeds),
            "failed": len(line.seeds.failed) + line.seeds.worst,
            "costs": dict(line.costs) | history.calls,
            "cells": {name: self._cell(line, name) for name in self.board.metrics if name in line.cells},
            "steps": short(history.steps, DRAWN),
            "curves": short(history.curves, DRAWN),
            **{name: getattr(history, name) for name in ("runs", "command", "stale", "verified")},
        }

    def _cell(self, line: Line, metric: str) -> dict[str, Any]:
        cell, grade = line.cells[metric], self.grades[metric].get(line.method)
        return {
            **{name: getattr(cell, name) for name in ("n", "left", "verdict", "why")},
            **{name: short(getattr(cell, name), DIGITS) for name in ("value", "low", "high")},
            "shown": cell.shown,
            "worst": [[seed, why] for seed, why in sorted(cell.worst.items())],
            "tier": grade.tier if grade else "",
            "values": [[seed, *short([value, se], DIGITS)] for seed, (value, se) in sorted(cell.values.items())],
        }


def short(value: Any, digits: int) -> Any:
    """With all floats in it of so many digits."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, Mapping):
        return {key: short(one, digits) for key, one in value.items()}
    return [short(one, digits) for one in value] if isinstance(value, list | tuple) else value


def sheets(
    rows: pd.DataFrame, metrics: Sequence[str] | None = None, verdicts: Iterable[Verdict] = (),
    only: Collection[tuple[str, str]] | None = None,
) -> list[Sheet]:  # fmt: skip
    """All tasks of the results table.

    Args:
        metrics: which, and in which order; None: all.
        verdicts: of runs that were run again; the newest on each attempt counts.
        only: tasks and specs of the methods whose lines to keep, next to controls; None: all.
    """
    if not len(rows):
        return []
    rows = contestants(rows)
    sources, runs, curves = _sources(rows), _runs(rows), _curves(rows)
    word = {(verdict.run_key, verdict.attempt): verdict.verdict for verdict in verdicts}
    today = Today()
    return [
        Sheet(
            board,
            {name: grades(board.lines, name) for name in board.metrics},
            {name: sources[board.task, name] for name in board.metrics},
            {
                line.method: _history(runs[board.task, line.method], curves[board.task, line.method], word, today)
                for line in board.lines
            },
        )
        for board in (_limited(board, only) for board in boards(rows, metrics))
    ]


def _limited(board: Board, only: Collection[tuple[str, str]] | None) -> Board:
    kept = [line for line in board.lines if only is None or line.role != "method" or (board.task, line.spec) in only]
    return replace(board, lines=kept)


def _history(
    runs: list[dict[str, Any]], curve: _Curve, word: Mapping[tuple[str, str], str], today: Today
) -> History:  # fmt: skip
    stale = [why for run in runs if (why := today.why_stale_row(method=run["spec"], **{n: run[n] for n in IDENTITY}))]
    return History(
        calls={name: statistics.median(run[name] for run in runs) for name in (*CALLS[1:], *TOTALS)},
        steps=curve.steps,
        curves=curve.values,
        runs=[[run[name] for name in RUN] for run in runs],
        command=_command(runs),
        stale=f"{len(stale)} of {len(runs)}: {stale[0]}" if stale else "",
        verified=dict(Counter(filter(None, (word.get((run["run_key"], run["attempt"])) for run in runs)))),
    )


def _sources(rows: pd.DataFrame) -> dict[tuple[str, str], Source]:
    """By (task, metric)."""
    final = last_laws(rows)
    found: dict[tuple[str, str], Source] = {}
    columns = ["task", "metric", "metric_version", "metric_code"]
    for task, metric, version, code in zip(*(final[name] for name in columns), strict=True):
        if (task, metric) not in found or int(version) > found[task, metric].version:
            found[task, metric] = Source(int(version), str(code))
    return found


def _runs(rows: pd.DataFrame) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The settings and costs of each run, by task and method, in the order of seeds."""
    paid = [*CALLS, "sample_seconds", "sample_calls", "n"]
    kept = rows[[*RUN, "task", "method", "spec", *paid]]
    kept = kept.assign(**{name: kept[name].fillna(0) for name in paid})
    last = (
        kept.sort_values(["seed", "seconds", "n"], kind="stable")  # the metric that took the most points comes last
        .groupby(["task", "method", "run_key", "attempt"], sort=False)
        .tail(1)
    )
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for run in last.to_dict("records"):
        totals = {"total": run["seconds"] + run["sample_seconds"], "oracle": calls(run)}
        found[run["task"], run["method"]].append(run | totals)  # type: ignore[arg-type,operator]
    return found


@dataclass
class _Curve:
    steps: list[list[float | None]]
    values: dict[str, list[list[float] | None]]


def _curves(rows: pd.DataFrame) -> dict[tuple[str, str], _Curve]:
    """By (task, method): at each judged law the medians over the seeds that reached it, with intervals."""
    judged = rows[rows["metric"].notna()]
    newest = judged.groupby(["task", "metric"])["metric_version"].transform("max")
    judged = judged[judged["metric_version"] == newest]
    laws = judged.groupby(["run_key", "attempt"])["step"].transform("nunique")
    ends = judged.groupby(["task", "method"])["step"].transform("nunique")
    judged = judged[(laws > 1) | (ends == 1)]  # last laws of several runs, at several steps, are no curve
    along: dict[tuple[str, str], dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
    values: dict[tuple[str, str], dict[str, dict[int, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    signed = set(zip(*(judged.loc[judged["value"] <= 0, name] for name in ("task", "metric")), strict=True))
    columns = [judged[name].to_list() for name in ("task", "method", "metric", "better", "step", "value")]
    places = zip(*(judged[name].to_list() for name in ALONG), strict=True)
    for (task, method, metric, better, step, value), place in zip(zip(*columns, strict=True), places, strict=True):
        along[task, method][int(step)].append(place)
        worst = math.inf if better == "lower" else -math.inf
        values[task, method][metric][int(step)].append(value if math.isfinite(value) else worst)
    found: dict[tuple[str, str], _Curve] = defaultdict(lambda: _Curve([], {}))
    for key, by_step in along.items():
        order = sorted(by_step)
        steps = [[_median(column) for column in zip(*by_step[step], strict=True)] for step in order]
        bands = {
            metric: [_band(of_step.get(step), (key[0], metric) not in signed) for step in order]
            for metric, of_step in values[key].items()
        }
        found[key] = _Curve(steps, bands)
    return found


def _median(values: Sequence[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else None


def _band(values: list[float] | None, logs: bool) -> list[float] | None:
    """Median and interval; None where no seed got, or where the median is infinite."""
    if not values or not math.isfinite(middle := statistics.median(values)):
        return None
    return [middle, *interval(sorted(values), logs)]


def _command(runs: Sequence[Mapping[str, Any]]) -> str:
    """Runs the same seeds again; a line for each budget, device or precision that they had."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for run in runs:
        groups[tuple(str(run[name]) for name in ("device", "dtype", "budget"))].append(int(run["seed"]))
    lines = []
    for (device, dtype, budget), seeds in groups.items():
        words = ["--task", runs[0]["task"], "--method", runs[0]["spec"], "--seeds", _seed_words(seeds)]
        for option, value, default in (
            ("--device", device, "cpu"),
            ("--dtype", dtype, "float32"),
            ("--budget", budget, ""),
        ):
            if value != default:
                words += [option, value]
        lines.append(shlex.join(["python", "-m", "gwfbench", "run", *words]))
    return "\n".join(lines)


def _seed_words(seeds: Iterable[int]) -> str:
    """As --seeds takes them: a number of seeds, or a list."""
    seeds = sorted(set(seeds))
    if seeds == list(range(len(seeds))):
        return str(len(seeds))
    return ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")
