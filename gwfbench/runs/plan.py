"""Plans: a file of jobs, one JSON line each, that any machine can carry out, whole or in parts.

A line is `Job.words()` and `keys`, the run key of each of its seeds. It stands alone: plans may be cut, sorted, joined.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from gwfbench.drive.job import Job
from gwfbench.errors import UserError, require
from gwfbench.store import checked, inputs

Item = TypeVar("Item")
SHOWN = 400  # characters of what a line has, at most


def text(jobs: Iterable[Job]) -> str:
    """The lines of these jobs.

    Raises:
        UserError: a device has a name that can't be.
    """
    jobs = list(jobs)
    for job in jobs:
        _require_device_name(job.device)
    return "".join(json.dumps({**job.words(), "keys": keys(job)}, allow_nan=False) + "\n" for job in jobs)


def keys(job: Job) -> list[str]:
    """The run key of each seed, in the order of the seeds."""
    return [job.identity(seed).key for seed in job.seeds]


def write(path: Path, jobs: Iterable[Job], force: bool = False) -> bool:
    """Write a plan, whole or not at all; False if the same one is there already.

    Raises:
        UserError: another plan is there and `force` is not given, or the file can't be written.
    """
    content = text(jobs)
    try:
        named = path.name not in ("", "-") and (path.is_file() or not path.exists())
        require(named, f"--plan {path}: no file", "the name of a file", "write --plan plan.jsonl")
        if path.exists():
            if path.read_bytes() == content.encode():
                return False
            fix = "name another file, or replace it with --force"
            require(force, f"--plan {path}: another plan is there", "a new file, or the same plan", fix)
        path.parent.mkdir(parents=True, exist_ok=True)
        checked.write(path, content)
    except OSError as error:
        raise UserError(f"--plan {path}: {error.strerror}", "a file that can be written", "name another file") from None
    return True


def read(path: Path) -> list[Job]:
    """The jobs of a plan, in the order of its lines; devices are not looked for.

    Raises:
        UserError: a line is no job, was made by code whose run keys differ, or repeats a run; the line is named.
    """
    write_it = "let `run --plan FILE` write it"
    try:
        content = inputs.finite(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "a plan, one JSON line per job", write_it) from None
    jobs: list[Job] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            job = _job(line)
            for key in keys(job):
                where = f"a run of line {seen[key]} again" if key in seen else ""
                require(not where, where, "each run once", "delete one of the lines")
                seen[key] = number
        except UserError as error:
            got, expected = _short(error.got), _short(error.expected)
            raise UserError(f"{path}:{number}: {got}", expected, error.fix) from None
        jobs.append(job)
    require(bool(jobs), f"{path}: no job", "at least one line", write_it)
    return jobs


def _job(line: bytes) -> Job:
    try:
        words: Any = json.loads(line.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        got = f"not JSON ({str(error) or type(error).__name__})"
        raise UserError(got, "one JSON object per line", "let `run --plan FILE` write it") from None
    planned = words.pop("keys", None) if isinstance(words, dict) else None
    job = Job.read(words)
    _require_device_name(job.device)
    ours = keys(job)
    if planned != ours:
        raise UserError(
            f"run keys {json.dumps(planned)}",
            f"{json.dumps(ours)}, the keys that this version of the code gives for these words",
            "the plan was edited, or made by another version: write it again with the same `run ... --plan FILE`",
        )
    return job


def _short(words: str) -> str:
    return words if len(words) <= SHOWN else f"{words[:SHOWN]} [... {len(words) - SHOWN} more]"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is given twice")
    return found


def shard(items: Sequence[Item], part: int, parts: int) -> list[Item]:
    """One shard: every `parts`-th item from number `part` on, so that expensive neighbours are spread evenly."""
    return list(items[part - 1 :: parts])


def require_devices(jobs: Iterable[Job]) -> None:
    """Raise `UserError` unless this machine has every device that the jobs name."""
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    for name in dict.fromkeys(job.device for job in jobs):
        if torch.device(name).type == "cuda":
            there = name in gpus or (name == "cuda" and bool(gpus))
        else:
            there = _makes_tensors(name)
        fix = "carry it out on a machine that has it, or write the plan for another with run --device"
        require(there, f"device {name} of the plan: this machine has none", f"one of {', '.join(['cpu', *gpus])}", fix)


def _makes_tensors(device: str) -> bool:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        return False
    return True


def _require_device_name(device: str) -> None:
    try:
        torch.device(device)
    except RuntimeError:
        raise UserError(f"device {device!r}", "cpu, cuda, cuda:1, ...", "write --device cpu") from None
