"""A metric over points that runs have kept, without training.

A value that does not count any more (`audit/counted.py`) is made anew from the first 4096 judged points that the
attempt keeps: the same problem, the same random numbers as the runner's, so that at the same number of points it is the
same number. The rows stand in a file of their own next to the attempt's, `scores-<metric>@<version>.jsonl`: a line on
what they are, with their SHA-256, and a line a judged law.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from gwfbench.audit import counted
from gwfbench.audit.today import Today
from gwfbench.drive.job import Job
from gwfbench.drive.judge import Judge, Seen, judged_index, reason_of
from gwfbench.drive.log import Log
from gwfbench.drive.meter import Counts
from gwfbench.errors import UserError, require, unknown
from gwfbench.metrics import known as known_metrics
from gwfbench.plugins.registry import name_of
from gwfbench.protocol import Instance, Metric, Need
from gwfbench.rng import Streams
from gwfbench.store import checked, fingerprint, folders
from gwfbench.store.record import Row, Run, to_json

NOT_NEEDED = "it has values that count"


class CantScore(Exception):
    """This metric can't be had from what this attempt keeps; why, in words."""


class CantKeep(UserError):
    """The values can't be written: it would be so for every run."""


@dataclass(frozen=True)
class Scored:
    """What scoring did with one run."""

    run: Run
    rows: tuple[Row, ...] = ()
    skipped: str = ""  # why


def score(name: str, out: Path, wanted: Iterable[Run]) -> Iterator[Scored]:
    """Score attempts under `out` that have no values of the metric that count; rows are kept next to each."""
    places, today = folders.places(out), Today()
    for run in wanted:
        try:
            if run.attempt not in places:
                raise CantScore("its folder has been moved away")
            folder = places[run.attempt]
            stale = today.why_stale(run)
            if stale:
                raise CantScore(f"it is stale: {stale}; run it again")
            job = Job.of(run.identity, run.budget)
            judge, instance = _build(name, job)
            if _has(run, folder, judge.chosen[0]):
                raise CantScore(NOT_NEEDED)
            rows = tuple(_rows(judge, instance, run, folder))
            _keep(folder, run, judge.chosen[0], rows)
        except CantKeep:
            raise
        except (CantScore, UserError) as error:
            yield Scored(run, skipped=error.got if isinstance(error, UserError) else str(error))
            continue
        yield Scored(run, rows)


def again(name: str, run: Run, folder: Path) -> list[Row]:
    """The metric over the points that one attempt keeps, whatever values it has; nothing is written.

    Raises:
        CantScore, UserError: it can't be had.
    """
    judge, instance = _build(name, Job.of(run.identity, run.budget))
    return list(_rows(judge, instance, run, folder))


def require_metric(names: Iterable[str], name: str) -> None:
    """Raise `UserError` unless the metric is one of ours, or of the task that it is wanted for."""
    names = {*known_metrics(), *names}
    if name not in names:
        raise unknown("metric", name, names, see="the metrics of each task in its file")


def _build(name: str, job: Job) -> tuple[Judge, Instance]:
    """The judge that the driver has, with this metric alone."""
    try:
        streams = Streams(job.seeds, torch.device(job.device), job.dtype)
        instance = job.task.build(streams.fork(f"task/{name_of(job.task)}"))
    except (RuntimeError, AssertionError) as error:
        raise CantScore(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from None
    known = known_metrics() | {metric.name: metric for metric in instance.truth.metrics}
    if name not in known:
        raise CantScore(f"its task has no metric {name}")
    reason = instance.truth.lacks(known[name], job.contestant.clock)
    if reason:
        raise CantScore(reason)
    return Judge(job, instance, streams.fork("eval"), Log(), (name,)), instance


def _rows(judge: Judge, instance: Instance, run: Run, folder: Path) -> Iterator[Row]:
    """The metric's row for each law that the attempt keeps points of."""
    (metric,), laws, times = judge.chosen, {row.step: row for row in run.rows}, instance.problem.times
    try:
        with np.load(io.BytesIO(checked.read_bytes(folder / "draws.npz")), allow_pickle=False) as file:
            kept = dict(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise CantScore(f"draws.npz: {error}") from None
    if not any(f"t{step}" in kept for step in laws):
        raise CantScore("it keeps no points")
    for step, law in sorted(laws.items()):
        if f"t{step}" not in kept:
            continue
        index, path = judged_index(times, "flow", law.t), (0.0,)
        assert index is not None
        if metric.law == "jko":
            if [s for s in sorted(laws) if s <= step] != list(range(1, step + 1)) or index != step - 1:
                raise CantScore("it does not keep the times of all its JKO steps")
            path = (0.0, *times[:step])
        if metric.needs & {Need.FORWARD, Need.ESTIMATE}:
            raise CantScore("what it needs of a law is not kept with the points")
        if Need.LOG_PROB in metric.needs and f"l{step}" not in kept:
            raise CantScore("it keeps no log-densities of its law")
        seen = _seen(law, index, kept, run.identity.device)
        try:
            with torch.no_grad():
                estimate = judge.estimate(metric, seen, path)
        except (ValueError, ArithmeticError, RuntimeError) as error:
            raise CantScore(reason_of(error)) from None
        yield judge.row(metric, seen, estimate, 0)


def _seen(law: Row, index: int, kept: Mapping[str, np.ndarray], device: str) -> Seen:
    """The law as the driver had seen it, as far as its points were kept."""
    points, density = (None if name not in kept else torch.from_numpy(kept[name])[None].to(device)
                       for name in (f"t{law.step}", f"l{law.step}"))  # fmt: skip
    assert points is not None
    counts = Counts(law.score_calls, law.log_prob_calls, law.draw_calls)
    return Seen(law.step, law.t, index, points, density, law.seconds, counts, law.sample_seconds, law.sample_calls)


def _has(run: Run, folder: Path, metric: Metric) -> bool:
    """Whether the attempt has values of today's metric for all its laws."""
    code = fingerprint.metric_code(metric)
    steps = {row.step for row in run.rows}
    mine = {row.step for row in run.rows if (row.metric, row.metric_code) == (metric.name, code)}
    return steps <= mine or any(
        row.metric_code == code for row in counted.read(_file(folder, metric.name, metric.version), run)[0]
    )


# ------------------------------------------------------------------------------------------------- files


def _file(folder: Path, name: str, version: int) -> Path:
    require(
        bool(re.fullmatch(r"[\w.@-]+", name)), f"metric {name!r}", "letters, digits, _ . @ -", "give it such a name"
    )
    return folder / f"scores-{name}@{version}.jsonl"


def _keep(folder: Path, run: Run, metric: Metric, rows: tuple[Row, ...]) -> None:
    """The rows, whole or not at all.

    Raises:
        CantKeep: the folder can't be written.
    """
    lines = "".join(to_json(asdict(row)) + "\n" for row in rows)
    head = {
        "schema": counted.SCHEMA,
        "run_key": run.identity.key,
        "attempt": run.attempt,
        "sha256": counted.sha256(lines),
    }
    try:
        checked.write(_file(folder, metric.name, metric.version), to_json(head) + "\n" + lines)
    except OSError as error:
        raise CantKeep(
            f"{folder}: {error.strerror}", "a folder that can be written", "copy the results, and score the copy"
        ) from None
