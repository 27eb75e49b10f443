"""One job from its start to its end, whatever that is: runs are begun, driven, and closed with a status and a reason.

A run that is stopped from outside (SIGTERM, Ctrl-C, a deadline) continues from its newest checkpoint: at the yield
where the signal found it, or, if the method was at work, at most `checkpoint.EVERY` seconds, or half of what it had
done, and one law before.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gwfbench.budget import BudgetSpent
from gwfbench.drive import checkpoint
from gwfbench.drive.checkpoint import Checkpoint
from gwfbench.drive.contract import BadLaw, line_in
from gwfbench.drive.controls import Control, NoTruth
from gwfbench.drive.driver import Drive, Progress
from gwfbench.drive.job import Job
from gwfbench.drive.judge import reason_of
from gwfbench.drive.log import Log
from gwfbench.drive.signals import Stopped, Stops
from gwfbench.errors import UserError
from gwfbench.protocol import Resumable
from gwfbench.rng import own_globals
from gwfbench.store import folders
from gwfbench.store.folders import Attempt
from gwfbench.store.record import Run, Status

# how the CPU's allocator, CUDA, and its libraries (cuBLAS, cuSOLVER, cuDNN, cuFFT) say that there is no memory left
NO_MEMORY = (
    *("DefaultCPUAllocator", "CUDA error: out of memory", "CUDA driver error: out of memory"),
    *("ALLOC_FAILED", "ALLOCATION_FAILED"),
)


@dataclass(frozen=True)
class Setting:
    """Where and how a job runs; no number depends on it.

    Args:
        env: hash of the environment.
        out: folder of the attempts, where a stopped one is found to continue from; None: nothing is written.
        anew: start from the beginning, whatever checkpoint there is.
        curve: judge the laws of `judge.ANYTIME` too where only the limit counts, not the last alone.
        judge: names of the metrics that judge alone, at each law; none: all of the task, where each says.
        watch: is given the run before it begins, to watch its clock from outside.
    """

    env: str
    out: Path | None = None
    anew: bool = False
    curve: bool = True
    judge: tuple[str, ...] = ()
    watch: Callable[[Drive], None] = lambda _: None


def begin(job: Job, env: str, out: Path | None, judge: tuple[str, ...] = ()) -> list[Run]:
    """One run per seed, numbered after the attempts under `out`; nothing is written."""
    who = job.contestant
    needs = () if isinstance(who, Control) else tuple(sorted(need.__name__ for need in who.needs))
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
    code, budget = job.code(), job.budget.limits()
    identities = [job.identity(seed) for seed in job.seeds]
    before = folders.of_keys(out, [one.key for one in identities]) if out else {}
    runs = []
    for identity in identities:
        number = 1 + max((run.number for run in before.get(identity.key, ())), default=0)
        runs.append(Run(identity, needs, code, env, now, budget, len(job.seeds), judge=judge, number=number))
    return runs


def interrupted() -> tuple[Status, str]:
    return "killed", "interrupted"


def execute(
    job: Job,
    setting: Setting,
    progress: Progress,
    log: Log | None = None,
    why_stopped: Callable[[], tuple[Status, str]] = interrupted,
) -> list[Run]:
    """Run the job to its end, whatever that is; every seed gets its run, with a status and a reason.

    Args:
        log: takes what the method prints and what the driver has to say.
        why_stopped: asked after an interrupt for the status and the reason that the runs get.

    Raises:
        KeyboardInterrupt: after the runs were kept; on SIGTERM too.
        OSError: they can't be kept.
    """
    asked, out, log = job.seeds, setting.out, log or Log()
    runs = begin(job, setting.env, out, setting.judge)
    saved = None
    if out and not setting.anew and isinstance(job.contestant, Resumable):
        saved = checkpoint.find(out, runs, torch.device(job.device), log)
    if saved is not None and saved.seeds != asked:  # seeds that have ended ride along: the state has them all
        job = replace(job, seeds=saved.seeds)
        runs = begin(job, setting.env, out, setting.judge)
    files = [Attempt(out, run) if out and run.identity.seed in asked else None for run in runs]
    stop = None
    name, device = " ".join(run.identity.key for run in runs), torch.device(job.device)
    # a method that prints must not break --format json; TF32 is no float32, which the row says
    float32 = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with Stops() as stops, contextlib.redirect_stdout(log), own_globals(name, device), float32:
        drive = Drive(job, runs, files, log, stops, setting.curve, setting.judge)
        setting.watch(drive)
        try:
            _to_an_end(drive, saved, progress, stops)
        except KeyboardInterrupt as error:
            stop = error
        with stops.held():
            if stop is not None:
                drive.save_at_the_end()
                drive.end(*(("killed", str(stop)) if isinstance(stop, Stopped) else why_stopped()))
            for run, file in zip(runs, files, strict=True):
                _close(drive, run, file, resumed=saved is not None)
    if stop is not None:
        raise KeyboardInterrupt(*stop.args)
    return [run for run in runs if run.identity.seed in asked]


def _to_an_end(drive: Drive, saved: Checkpoint | None, progress: Progress, stops: Stops) -> None:
    """Every end but an interrupt from outside becomes the runs' status and reason."""
    spent = ""
    try:
        try:
            drive.to_the_end(saved, progress)
        except BudgetSpent as error:
            spent = str(error)
        drive.judge_last()
        if spent:
            drive.end("budget" if drive.steps else "timeout", spent)
    except NoTruth as error:
        drive.end("skipped", str(error))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and stops.arrived:
            raise
        with contextlib.suppress(Exception):
            traceback.print_exc(file=drive.log)
        if is_out_of_memory(error):
            drive.end("oom", reason_of(error))
            return
        with contextlib.suppress(Exception):
            drive.judge_last()
        drive.end("error", _reason(drive.job, error))


def _reason(job: Job, error: BaseException) -> str:
    """An error in words; of a mistake in the use of what the runner offers, with the method's line."""
    if isinstance(error, BadLaw):
        return str(error)
    module = sys.modules.get(type(job.contestant).__module__)
    file = getattr(module, "__file__", None)
    where = line_in(file, error.__traceback__) if isinstance(error, UserError) and file else ""
    return f"{reason_of(error)}{where}"


def _close(drive: Drive, run: Run, file: Attempt | None, resumed: bool) -> None:
    """Fill in what the run has cost, and move its folder into place."""
    run.seconds, run.steps, machine = drive.meter.seconds, drive.steps, drive.machine
    machine.look()
    run.unit = run.seconds / machine.units if machine.units > 0 else None
    run.memory = machine.memory or None
    run.energy = None if math.isnan(machine.energy) else machine.energy
    run.information = tuple(sorted({*run.information, *drive.asked}))
    if file is None:
        return
    ended = run.status not in checkpoint.RESUMED
    if ended:
        file.checkpoint.unlink(missing_ok=True)
    log = drive.log.getvalue()
    try:
        file.finish(run, log)
    except ValueError as error:  # what no file can keep: the run is closed with what it has judged
        blank = begin(drive.job, run.env, None)[0]
        of_cost = ("seconds", "sample_seconds", "judge_seconds", "unit", "memory", "energy")
        for name in (*of_cost, "steps", "paired", "resumed", "information"):
            setattr(run, name, getattr(blank, name))
        run.status, run.reason = "error", reason_of(error)
        file.finish(run, log)
    if ended and resumed:
        checkpoint.remove_all(file.out, run)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; torch has no class of its own for that except in its own allocator on a GPU."""
    if isinstance(error, RuntimeError):  # torch.AcceleratorError is one
        words = "".join(map(str, error.args))
        if any(one in words for one in NO_MEMORY):
            return True
    return isinstance(error, MemoryError | torch.OutOfMemoryError)
