"""A plan as one Slurm job array, through submitit: submit what is left, put back what was stopped, wait.

Each job of the array starts `python -m gwfbench exec PLAN --shard i/n` in the Python that submitted it. What happens
to it (Slurm's manual of sbatch, --signal and --requeue; of slurm.conf, PreemptMode, GraceTime, KillWait):

- near its end of time Slurm sends submitit's signal (USR2, 90 s before): exec is stopped, the job is put back;
- preempted, exec gets SIGTERM with the job: where Slurm leaves it running, the job puts itself back;
- cancelled, requeued or its node lost: Slurm has decided already, the job only ends.

A job that starts again carries out the same shard: what is finished is not run again. submitit keeps its own files, a
pickle of the command words among them, under OUT/slurm; none is read as a result.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gwfbench.errors import UserError, require
from gwfbench.store import checked

if TYPE_CHECKING:
    from gwfbench.drive.job import Job
    from gwfbench.store.record import Run

STOP = 60  # seconds that exec gets to keep its state; submitit's signal comes 90 s before the end
REQUEUES = 10  # after so many ends of time a job is given up: a run that keeps no state would start for ever
OURS = {"array", "output", "error", "open-mode", "requeue", "no-requeue", "wrap", "test-only", "parsable"}
NAMED = {"partition": "partition", "time": "time", "mem": "mem", "cpus-per-task": "cpus", "gpus-per-node": "gpus"}


@dataclass(frozen=True)
class Resources:
    """What a job of the array asks for."""

    shards: int
    "parts of the plan, each one job"
    parallel: int
    "jobs at once"
    minutes: int
    "after which Slurm ends a job"
    partition: str = ""
    "none: the cluster's default"
    gpus: int = 0
    cpus: int = 1
    mem: str = ""
    "as sbatch takes it, 4G; none: the cluster's default"
    extra: Mapping[str, str | bool] = field(default_factory=dict)
    "more options of sbatch"

    @staticmethod
    def read(
        shards: int, parallel: int | None, partition: str, limit: str, gpus: int, cpus: int, mem: str,
        extra: Sequence[str],
    ) -> Resources:  # fmt: skip
        """From words.

        Raises:
            UserError: on the first that sbatch could not take.
        """
        plain = r"[\w.,+-]*"
        require(bool(re.fullmatch(plain, partition, re.A)), f"--partition {partition}", "a name", "see sinfo")
        require(bool(re.fullmatch(r"(\d+[KMGT]?)?", mem, re.A)), f"--mem {mem}", "4000M, 4G, ...", "--mem 4G")
        options: dict[str, str | bool] = {}
        for text in extra:
            name, given, value = text.partition("=")
            name = name.replace("_", "-")
            shape = re.fullmatch(r"[a-z][a-z0-9-]*", name) and value.isprintable() and bool(value) == bool(given)
            require(bool(shape), f"--slurm {text}", "an option of sbatch: name=value or name", "--slurm account=me")
            require(
                name not in OURS, f"--slurm {text}", f"an option that submit does not set: not {name}", "leave it out"
            )
            require(name not in NAMED, f"--slurm {text}", "an option without its own flag", f"use --{NAMED.get(name)}")
            require(name not in options, f"--slurm {text}: given twice", "each option once", "leave one out")
            options[name] = value or True
        return Resources(shards, parallel or shards, minutes(limit), partition, gpus, cpus, mem, options)


def minutes(text: str) -> int:
    """Whole minutes, rounded up, of Slurm's `90`, `90:30`, `1:30:00`, `2-12`, `2-12:30`, `2-12:30:00`.

    Raises:
        UserError: it is none of these, or no time at all.
    """
    found = re.fullmatch(r"(?:(\d{1,4})-)?(\d{1,6})(?::(\d{1,2}))?(?::(\d{1,2}))?", text, re.A)
    total = 0.0
    if found:
        days, *rest = (int(part) if part else 0 for part in found.groups())
        if found[1] is not None or found[4] is not None:
            hours, mins, secs = rest
            total = (24 * days + hours) * 60 + mins + secs / 60
        else:
            mins, secs, _ = rest
            total = mins + secs / 60
    require(total > 0, f"--time {text}", "a time as Slurm writes it: minutes, h:mm:ss, d-hh:mm:ss", "--time 4:00:00")
    return math.ceil(total)


@dataclass(frozen=True)
class State:
    """Where the runs of a plan stand."""

    finished: list[Run]
    "the newest finished attempt of each"
    queued: dict[str, str]
    "run key to the job of Slurm, waiting or running, that has it"
    left: list[Job]
    "jobs with the seeds that are neither"

    @property
    def count(self) -> int:
        return sum(len(job.seeds) for job in self.left)


def look(jobs: Sequence[Job], out: Path, retry: Collection[str] = (), judge: Sequence[str] = ()) -> State:
    """Where the runs of these jobs stand, from the attempts under `out` and Slurm's queue.

    What ended with a status of `retry` is not finished, nor what was not judged by all that `judge` asks for.
    """
    from gwfbench.runs import scheduler
    from gwfbench.store import folders

    attempts: dict[str, list[Run]] = {}
    for run in folders.attempts(out)[0]:
        attempts.setdefault(run.identity.key, []).append(run)
    alive, where = _alive(), {}
    for path in sorted((out / "slurm").glob("array-*.json")):
        for name, keys in json.loads(path.read_text(encoding="utf-8")).items():
            where |= dict.fromkeys(keys, name) if name in alive else {}
    finished, queued, left = [], {}, []
    for job in jobs:
        missing = []
        for seed in job.seeds:
            key = job.identity(seed).key
            ours = [run for run in attempts.get(key, ()) if run.code == job.code()]
            newest = [run for run in ours if scheduler.judged_by(run, judge)][-1:]
            done = [run for run in newest if scheduler.finished(run, job, judge=judge) and run.status not in retry]
            if done:
                finished += done
            elif key in where:
                queued[key] = where[key]
            else:
                missing.append(seed)
        if missing:
            left.append(replace(job, seeds=tuple(missing)))
    return State(finished, queued, left)


def require_slurm() -> None:
    """Raise `UserError` unless submitit and Slurm's commands are here."""
    anywhere = "python -m gwfbench exec FILE --shard i/n does a part anywhere"
    missing = [name for name in ("sbatch", "squeue", "srun", "scontrol") if shutil.which(name) is None]
    require(
        not missing,
        f"submit: no {', '.join(missing)} on this machine",
        "a machine that can submit to Slurm",
        f"go to the cluster's login node; without Slurm, {anywhere}",
    )
    require(
        importlib.util.find_spec("submitit") is not None,
        "submit: submitit is not installed",
        "the package submitit",
        f"pip install submitit; without it, {anywhere}",
    )


def submit(jobs: Sequence[Job], out: Path, asked: Resources, words: Sequence[str]) -> str:
    """Submit jobs as one array of at most `asked.shards` parts, each `exec` with these more words; the array's number.

    Raises:
        UserError: Slurm refuses it, in its own words.
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    from gwfbench.runs import plan
    from gwfbench.store.record import digest, to_json

    parts = min(asked.shards, len(jobs))
    folder = out.absolute() / "slurm"
    file = folder / f"plan-{digest(plan.text(jobs))}.jsonl"
    plan.write(file, jobs)  # a copy: an edit of the user's file must not reach jobs that wait
    shards = [
        Shard([str(file), "--shard", f"{part}/{parts}", "--out", str(out.absolute()), *words])
        for part in range(1, parts + 1)
    ]
    more = {"requeue": True, **({"mem": asked.mem} if asked.mem else {}), **asked.extra}
    given = {"partition": asked.partition, "gpus_per_node": asked.gpus}
    executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=REQUEUES)
    executor.update_parameters(
        job_name="gwfbench",
        time=asked.minutes,
        cpus_per_task=asked.cpus,
        array_parallelism=asked.parallel,
        srun_args=[f"--cpus-per-task={asked.cpus}"],  # from Slurm 22.05 on srun does not take sbatch's
        additional_parameters=more,
        **{name: value for name, value in given.items() if value},
    )
    try:
        names = [job.job_id for job in executor.submit_array(shards)]
    except (FailedJobError, FailedSubmissionError) as error:
        said = " ".join(str(error).split())[-300:]
        raise UserError(f"submit: {said}", "options that Slurm takes", "see sinfo for partitions and limits") from None
    array = names[0].partition("_")[0]
    keys = {
        name: [key for job in plan.shard(jobs, part, parts) for key in plan.keys(job)]
        for part, name in enumerate(names, start=1)
    }
    checked.write(folder / f"array-{array}.json", to_json(keys) + "\n")
    return array


def wait(arrays: Sequence[str], tell: Callable[[str], Any], every: float = 10.0) -> None:
    """Return when none of these arrays is in the queue; what changes is told, with Slurm's own reasons."""
    last, pause = "", 1.0
    while True:
        try:
            rest = [state for name, state in _alive().items() if name.partition("_")[0] in arrays]
        except UserError as error:  # its controller may be away for a while
            rest, now = [""], error.got
        else:
            now = ", ".join(f"{rest.count(state)} {state}" for state in sorted(set(rest)))
        if not rest:
            return
        if now != last:
            tell(f"array {', '.join(arrays)}: {now}")
        last, pause = now, min(every, 1.3 * pause)
        time.sleep(pause)


def _alive() -> dict[str, str]:
    """State and reason of each of our jobs in Slurm's queue, waiting or running, by its name."""
    words = ["squeue", "--me", "--noheader", "--array", "--format=%i|%T|%r"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    require(
        done.returncode == 0,
        f"squeue: {' '.join(done.stderr.split())[-300:]}",
        "Slurm's queue",
        "see whether Slurm is up: sinfo",
    )
    rows = [line.split("|") for line in done.stdout.splitlines()]
    return {name: state.lower() + ("" if why == "None" else f" ({why})") for name, state, why in rows}


@dataclass
class Shard:
    """One job of the array: `exec` in a process of its own, so that it can be stopped and its end told."""

    words: list[str]
    "after `python -m gwfbench exec`"
    child: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __call__(self) -> int:
        """The exit code of exec, 0 or 1: failed runs are rows.

        Raises:
            SystemExit: Slurm stopped this job, to end it or to start it again.
            RuntimeError: exec itself ended otherwise.
        """
        from submitit.core.job_environment import JobEnvironment

        # Slurm signals a job's whole tree, and exec would die of this one: it is ours, to stop exec in order.
        ours = getattr(signal, f"SIG{JobEnvironment.USR_SIG}")
        signal.pthread_sigmask(signal.SIG_BLOCK, {ours})
        try:
            self.child = subprocess.Popen([sys.executable, "-m", "gwfbench", "exec", *self.words])
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {ours})
        # Not child.wait(): a handler that waits too could not, for the lock inside it.
        os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOWAIT)
        code = self.child.wait()
        if code in (0, 1):
            return code
        if code in (-signal.SIGTERM, 130):
            if _still_running():
                signal.raise_signal(ours)  # preempted, with time to go before Slurm ends it: submitit puts it back
            raise SystemExit("exec was stopped with its job")
        raise RuntimeError(f"exec ended with {code}; its last lines are in this log")

    def checkpoint(self) -> Any:
        """Stop exec, which keeps its state, and name what submitit calls when the job starts again."""
        from submitit.helpers import DelayedSubmission

        if self.child is not None:
            self.child.terminate()
            try:
                self.child.wait(STOP)
            except subprocess.TimeoutExpired:
                self.child.kill()
        return DelayedSubmission(Shard(self.words))


def _still_running() -> bool:
    """Whether Slurm has not decided how this job ends: one that it cancels or requeues is COMPLETING."""
    words = ["squeue", "--noheader", "--format=%T", f"--jobs={os.environ['SLURM_JOB_ID']}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() == "RUNNING"
