"""How runs stand: done, failed, stale, killed, running, missing; and how long those that are left will take."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from gwfbench.audit.today import Today
from gwfbench.drive.job import Job
from gwfbench.errors import UserError
from gwfbench.runs.scheduler import answer, has_curve
from gwfbench.store import folders, locks
from gwfbench.store.record import Identity, Run

State = Literal["done", "failed", "stale", "killed", "running", "missing"]
LEFT: frozenset[State] = frozenset({"stale", "killed", "running", "missing"})  # what the same `run` still has to do


@dataclass(frozen=True)
class Standing:
    """One run as it stands."""

    task: str
    method: str
    seed: int
    run_key: str
    state: State
    status: str = ""  # of its newest attempt
    reason: str = ""
    seconds: float | None = None  # that attempt took, judging included
    expected: float | None = None  # seconds that the run will take; None where nothing is left, or there is no estimate
    basis: str = ""  # what that is estimated from


Found = tuple[list[Standing], list[str]]  # and what else was found under `out`: damaged folders, other versions' runs


def survey(jobs: Iterable[Job], out: Path) -> Found:
    """How each run of these jobs stands under `out`, in their order."""
    runs, strange = folders.attempts(out)
    return list(_look(jobs, runs, out)), strange


def survey_all(out: Path) -> Found:
    """How each run that was ever tried under `out` stands, as it was asked for last."""
    runs, strange = folders.attempts(out)
    gone: list[Standing] = []
    jobs: list[Job] = []
    today = Today()
    for run in {run.identity.key: run for run in runs}.values():
        try:
            job = Job.of(run.identity, run.budget)
        except UserError:
            job = None
        # with other fields or versions today's run has another key, and has not been tried
        if job is not None and job.identity(run.identity.seed) == run.identity:
            jobs.append(job)
        else:
            gone.append(_stand(run.identity, "stale", run, today.why_stale(run)))
    return [*_look(jobs, runs, out), *gone], strange


def _look(jobs: Iterable[Job], runs: Sequence[Run], out: Path) -> Iterator[Standing]:
    of_key: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        of_key[run.identity.key].append(run)
    guess = _Guess(runs)
    for job in jobs:
        for seed in job.seeds:
            who = job.identity(seed)
            yield guess.complete(_state(job, who, of_key[who.key], out))


def _state(job: Job, who: Identity, attempts: Sequence[Run], out: Path) -> Standing:
    newest = attempts[-1] if attempts else None
    ours = [run for run in attempts if run.code == job.code()]
    found = answer(ours, job)
    if found is not None:
        reason = found.reason or ("" if has_curve(found) else "run with --no-curve: only its last law is judged")
        return _stand(who, "failed" if found.failed else "done", found, reason)
    if locks.is_claimed(out, who.key):
        return _stand(who, "running", newest, "another process is at it")
    if newest is None:
        return _stand(who, "missing", None, "")
    if not ours:
        return _stand(who, "stale", newest, "the code has changed since")
    if ours[-1].status == "killed":
        return _stand(who, "killed", ours[-1], ours[-1].reason)
    if not ours[-1].began:
        return _stand(who, "missing", ours[-1], ours[-1].reason)
    if ours[-1].judge:
        return _stand(who, "missing", ours[-1], f"run with --judge: only {', '.join(ours[-1].judge)} judged it")
    then = ", ".join(f"{name}={limit:g}" for name, limit in ours[-1].budget.items()) or "none"
    why = f": {ours[-1].reason}" if ours[-1].reason else ""
    return _stand(who, "missing", ours[-1], f"with another budget it may end otherwise; it had {then}{why}")


def _stand(who: Identity, state: State, run: Run | None, reason: str) -> Standing:
    return Standing(
        who.task, who.method, who.seed, who.key, state, run.status if run else "", reason, run and _took(run)
    )


def _took(run: Run) -> float:
    """Seconds, judging included; what a batch took is shared by its seeds."""
    return (run.seconds + run.sample_seconds + run.judge_seconds) / run.batch


class _Guess:
    """What runs take, from the whole ones of the past: of the same task and method, or of the method on other tasks."""

    def __init__(self, runs: Iterable[Run]):
        self._both: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._method: dict[str, list[float]] = defaultdict(list)
        for run in runs:
            if run.status in ("ok", "budget"):
                self._both[run.identity.task, run.identity.method].append(_took(run))
                self._method[run.identity.method].append(_took(run))

    def complete(self, one: Standing) -> Standing:
        if one.state not in LEFT:
            return one
        known = (
            (self._both.get((one.task, one.method)), f"{one.method} on {one.task}"),
            (self._method.get(one.method), f"{one.method} on other tasks"),
        )
        for seconds, basis in known:
            if seconds:
                many = f"{len(seconds)} run{'s' * (len(seconds) > 1)} of {basis}"
                return replace(one, expected=statistics.median(seconds), basis=many)
        return one
