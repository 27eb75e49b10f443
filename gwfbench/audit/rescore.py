"""A metric over points that runs have kept, without training; and which values of a run still count.

A value counts while the source of its metric is what it is today (`metric_code` in its row). One that does not is
left out, and `score` makes it anew from the first 4096 judged points that the attempt keeps: the same problem, the same
random numbers as the runner's, so that at the same number of points it is the same number. The rows stand in a file of
their own beside the attempt's, `scores-<metric>@<version>.jsonl`: a line on what they are, with their SHA-256, and a
line a judged law.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gwfbench import metrics
from gwfbench.audit import status
from gwfbench.drive.controls import Control
from gwfbench.drive.job import Job
from gwfbench.errors import UserError, require, unknown
from gwfbench.plugins.registry import name_of
from gwfbench.protocol import Instance, Judged, Metric, Need
from gwfbench.rng import Streams
from gwfbench.store import checked, fingerprint
from gwfbench.store.record import Row, Run, to_json

SCHEMA = 1  # of the files
NOT_NEEDED = "it has values that count"


class CantScore(Exception):
    """This metric can't be had from what this attempt keeps; why, in words."""


@dataclass(frozen=True)
class Scored:
    """What scoring did with one run."""

    run: Run
    points: tuple[Row, ...] = ()
    skipped: str = ""  # why


def score(name: str, out: Path, wanted: Iterable[Run]) -> Iterator[Scored]:
    """Score attempts under `out` that have no values of the metric that count; rows are kept beside each."""
    folders = {path.name[-17:]: path for path in out.iterdir()}  # names end in <key>-<attempt>
    for run in wanted:
        folder = folders[f"{run.identity.key[:8]}-{run.attempt}"]
        try:
            job = status.job_of(run)
            if job.identity(run.identity.seed) != run.identity or job.code() != run.code:
                raise CantScore("it is stale: made by other code, fields or versions; run it again")
            metric, instance, streams = _build(name, job)
            if _has(run, folder, metric):
                raise CantScore(NOT_NEEDED)
            points = tuple(_points(metric, instance, streams, job, run, folder))
        except (CantScore, UserError) as error:
            yield Scored(run, skipped=error.got if isinstance(error, UserError) else str(error))
            continue
        _keep(folder, run, metric, points)
        yield Scored(run, points)


def require_metric(names: Iterable[str], name: str) -> None:
    """Raise `UserError` unless the metric is one of ours, or of the task that it is wanted for."""
    names = {*metrics.known(), *names}
    if name not in names:
        raise unknown("metric", name, names, see="the metrics of each task in its file")


def _build(name: str, job: Job) -> tuple[Metric, Instance, Streams]:
    """The metric, and the instance and the streams as the runner has them."""
    try:
        streams = Streams(job.seeds, torch.device(job.device), job.dtype)
        instance = job.task.build(streams.fork(f"task/{name_of(job.task)}"))
    except (RuntimeError, AssertionError) as error:
        raise CantScore(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from None
    found = metrics.known() | {metric.name: metric for metric in instance.truth.metrics}
    if name not in found:
        raise CantScore(f"its task has no metric {name}")
    metric = found[name]
    reason = instance.truth.lacks(metric, job.contestant.clock)
    if reason:
        raise CantScore(reason)
    return metric, instance, streams.fork("eval")


def _points(metric: Metric, instance: Instance, streams: Streams, job: Job, run: Run, folder: Path) -> Iterator[Row]:
    """The metric's row for each law that the attempt keeps points of."""
    laws = {point.step: point for point in run.rows}
    try:
        with np.load(folder / "draws.npz", allow_pickle=False) as file:
            kept = dict(file)
    except (OSError, ValueError) as error:
        raise CantScore(f"draws.npz: {error}") from None
    times = instance.problem.times
    if not any(f"t{step}" in kept for step in laws):
        raise CantScore("it keeps no points")
    for step, law in sorted(laws.items()):
        if f"t{step}" not in kept:
            continue
        index = len(times) - 1
        if law.t is not None:
            index = min(range(len(times)), key=lambda i: abs(times[i] - law.t))  # type: ignore[operator]
        path = (0.0,)
        if metric.law == "jko":
            if [s for s in sorted(laws) if s <= step] != list(range(1, step + 1)) or index != step - 1:
                raise CantScore("it does not keep the times of all its JKO steps")
            path = (0.0, *times[:step])
        x = torch.from_numpy(kept[f"t{step}"])[None, : metric.points].to(job.device)
        log_prob = None
        if Need.LOG_PROB in metric.needs:
            if f"l{step}" not in kept:
                raise CantScore("it keeps no log-densities of its law")
            log_prob = torch.from_numpy(kept[f"l{step}"])[None, : metric.points].to(job.device)
        truth, at = metric.against(instance.truth, path, index)
        rng = streams.fork(f"metric/{metric.name}/{index}")
        try:
            with torch.no_grad():
                estimate = metric.evaluate(Judged(x, log_prob, truth, at, rng))
            value, se, n = float(estimate.value[0]), float(estimate.se[0]), estimate.n
        except (ValueError, ArithmeticError, RuntimeError) as error:
            raise CantScore(f"{type(error).__name__}: {error}") from None
        yield replace(
            law,
            metric=metric.name,
            metric_version=metric.version,
            metric_code=fingerprint.metric_code(metric),
            better=metric.better,
            law=metric.law,
            role=_role(job, metric),
            value=value if np.isfinite(value) else None,
            se=se if np.isfinite(se) else None,
            n=n,
        )


def _role(job: Job, metric: Metric) -> Any:
    who = job.contestant
    if not isinstance(who, Control):
        return "method"
    return "floor" if who.floor == metric.law and metric.better == "lower" else "control"


def _has(run: Run, folder: Path, metric: Metric) -> bool:
    """Whether the attempt has values of today's metric for all its laws."""
    code = fingerprint.metric_code(metric)
    steps = {point.step for point in run.rows}
    mine = {point.step for point in run.rows if (point.metric, point.metric_code) == (metric.name, code)}
    return steps <= mine or any(
        point.metric_code == code for point in _read(_file(folder, metric.name, metric.version), run)[0]
    )


# ------------------------------------------------------------------------------------------------- files


def _file(folder: Path, name: str, version: int) -> Path:
    require(
        bool(re.fullmatch(r"[\w.@-]+", name)), f"metric {name!r}", "letters, digits, _ . @ -", "give it such a name"
    )
    return folder / f"scores-{name}@{version}.jsonl"


def _keep(folder: Path, run: Run, metric: Metric, points: tuple[Row, ...]) -> None:
    """The rows, whole or not at all."""
    rows = "".join(to_json(asdict(point)) + "\n" for point in points)
    head = {"schema": SCHEMA, "run_key": run.identity.key, "attempt": run.attempt, "sha256": _sha256(rows)}
    checked.write(_file(folder, metric.name, metric.version), to_json(head) + "\n" + rows)


def _read(path: Path, run: Run) -> tuple[list[Row], str]:
    """The rows of a file, or none and what is wrong with it; no file has no rows."""
    if not path.exists():
        return [], ""
    try:
        first, _, rows = path.read_text(encoding="utf-8").partition("\n")
        head = json.loads(first)
        if head["schema"] != SCHEMA or head["sha256"] != _sha256(rows):
            raise ValueError("it has changed since it was written")
        if (head["run_key"], head["attempt"]) != (run.identity.key, run.attempt):
            raise ValueError("it is of another attempt")
        return Row.read(rows.splitlines()), ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [], f"{path.parent.name}/{path.name}: {error}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# ------------------------------------------------------------------------------------------------- what counts


def current(runs: Iterable[Run], out: Path | None) -> tuple[list[Run], list[str]]:
    """The runs with the values that count today, scored ones included, and what there is to say.

    For each judged law and metric the newest version counts; of one version, what the runner judged before what was
    scored later from fewer points.

    Args:
        out: where the attempts are; None: nothing was scored.
    """
    today = {name: fingerprint.metric_code(metric) for name, metric in metrics.known().items()}
    runs = list(runs)
    files = _files(runs, out)
    said, old, found = [], Counter[str](), []
    for run in runs:
        points = run.rows
        for path in files.get(f"{run.identity.key[:8]}-{run.attempt}", ()):
            more, wrong = _read(path, run)
            said += [f"left alone: {wrong}"] if wrong else []
            points = [*points, *more]
        codes = {(point.metric, point.metric_code) for point in points}
        cells = {(point.step, point.metric) for point in points}
        if points is run.rows and len(cells) == len(points) and all(today.get(name, c) == c for name, c in codes):
            found.append(run)  # as nearly all are
            continue
        # a task's own metric is in the code of the run
        good = [point for point in points if today.get(point.metric, point.metric_code) == point.metric_code]
        best: dict[tuple[int, str], Row] = {}
        for point in good:
            have = best.get((point.step, point.metric))
            if have is None or have.metric_version < point.metric_version:
                best[point.step, point.metric] = point
        for point in points:
            old[point.metric] += (point.step, point.metric) not in best
        found.append(replace(run, points=_in_order(points, best)))
    said += [
        f"left out: {count} values of {name}, judged by other code than today's metric; "
        f"python -m gwfbench score --metric {name} makes them anew from kept points"
        for name, count in old.items()
        if count
    ]
    return found, said


def _files(runs: Sequence[Run], out: Path | None) -> dict[str, list[Path]]:
    """The files of scores of these attempts, by the end of their folders' names."""
    found: dict[str, list[Path]] = defaultdict(list)
    if out and runs:
        wanted = f"*-{runs[0].identity.key[:8]}-{runs[0].attempt}" if len(runs) == 1 else "*"
        for path in sorted(out.glob(f"{wanted}/scores-*.jsonl")):
            found[path.parent.name[-17:]].append(path)
    return found


def _in_order(points: Iterable[Row], best: Mapping[tuple[int, str], Row]) -> list[Row]:
    """The values that count, law by law, metrics in the order of the rows."""
    names = list(dict.fromkeys(point.metric for point in points))
    return sorted(best.values(), key=lambda point: (point.step, names.index(point.metric)))
