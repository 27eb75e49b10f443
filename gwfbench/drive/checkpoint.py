"""What a stopped run needs to continue: the method's state and all that the driver holds, in one file.

`checkpoint.pt` is a SHA-256 in hex, a new line, and what `torch.save` makes of a dict of tensors and plain values. It
is read with `weights_only=True`, so that no code in it can run; a damaged or edited file is refused. It is written next
to its place and moved there.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gwfbench.drive.judge import Seen, reason_of
from gwfbench.drive.log import Log
from gwfbench.drive.machine import Machine
from gwfbench.drive.meter import Counts, Meter
from gwfbench.drive.points import Cloud
from gwfbench.drive.signals import Stops
from gwfbench.protocol import State
from gwfbench.store import folders
from gwfbench.store.checked import read_bytes, sync
from gwfbench.store.folders import Attempt
from gwfbench.store.record import Row, Run

FORMAT = 3
EVERY = 120.0  # seconds between two checkpoints, at most
SOON = 1.0  # seconds after which there is the first
RESUMED = frozenset({"killed", "timeout", "oom"})  # ends from outside: the same run may go further another time
_OF_RUN = ("status", "reason", "sample_seconds", "judge_seconds")  # kept of each run, and its rows


@dataclass(frozen=True)
class Checkpoint:
    """A batch of runs right after a law was yielded.

    Args:
        seeds: of the batch; tensors have them first.
        path: flow times of the laws, 0 first.
        state: the method's.
        cloud, cloud_log_prob: the driver's points, where laws are pushed.
        seen: the law, if it may still have to be judged.
        units: of training so far, as seconds.
        runs: of each seed: status, reason, rows, sample_seconds, judge_seconds.
        draws: of each seed: the kept points and log-densities by their names in draws.npz.
        resumed: how often the run had been resumed.
    """

    seeds: tuple[int, ...]
    path: tuple[float, ...]
    state: State
    cloud: Tensor | None
    cloud_log_prob: Tensor | None
    seen: Seen | None
    seconds: float
    units: float
    training: Counts
    sampling: Counts
    runs: tuple[Mapping[str, Any], ...]
    draws: tuple[Mapping[str, np.ndarray], ...]
    log: str
    resumed: int


class Keeper:
    """Keeps what is judged in the attempts' folders, and a checkpoint after `SOON`, 2 `SOON`, 4 `SOON` ... seconds, and
    then every `EVERY` seconds: whenever a run is stopped, it keeps half of what it has done since it went on, and all
    but the last `EVERY` seconds. So a run of several short sittings comes to its end.

    Args:
        files: one per seed; None where nothing is written.
        resumable: whether the method offers states.
    """

    def __init__(self, files: Sequence[Attempt | None], stops: Stops, log: Log, resumable: bool):
        self.resumable = resumable and any(files)
        self._files, self._stops, self._log = files, stops, log
        self._began = time.monotonic()
        self._last = self._began  # checkpoint

    def due(self) -> bool:
        return self.resumable and time.monotonic() - self._last >= min(max(self._last - self._began, SOON), EVERY)

    def started(self) -> None:
        """The time to the next checkpoint counts from now."""
        self._last = time.monotonic()

    def judged(self, seen: Seen, runs: Sequence[Run], rows: Sequence[list[Row]]) -> None:
        """Write the rows, the first points and their log-densities of each run that is still going."""
        for i, (file, run) in enumerate(zip(self._files, runs, strict=True)):
            if file is not None and run.status == "ok":
                count = folders.most(seen.points[i, :1].nbytes)
                density = None if seen.log_prob is None else _first(seen.log_prob[i], count)
                file.judged(seen.step, rows[i], _first(seen.points[i], count), density)

    def save(self, content: Checkpoint) -> None:
        """Write a checkpoint into each folder; a full disk goes to the log.

        Raises:
            TypeError: the method's state has something other than tensors and numbers.
        """
        draws = tuple(file.draws if file else {} for file in self._files)
        data = packed(content, draws)
        try:
            with self._stops.held():
                _write([file.checkpoint for file in self._files if file], data)
        except OSError as error:
            self._log.write(f"no checkpoint at step {len(content.path) - 1}: {reason_of(error)}\n")
        self.started()  # a large one takes seconds, which are not to be most of a run

    def restore(self, runs: Sequence[Run], draws: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Write into the new folders what the checkpoint has of the laws judged before."""
        for file, run, kept in zip(self._files, runs, draws, strict=True):
            for step in sorted(int(name[1:]) for name in kept if name[0] == "t"):
                if file is not None:
                    rows = [row for row in run.rows if row.step == step]
                    file.judged(step, rows, kept[f"t{step}"], kept.get(f"l{step}"))


def of(
    runs: Sequence[Run], path: Sequence[float], state: State, cloud: Cloud, seen: Seen | None, meter: Meter,
    machine: Machine, log: Log,
) -> Checkpoint:  # fmt: skip
    """The checkpoint of a batch right after a law; its draws are left to the folders' keeper."""
    return Checkpoint(
        seeds=tuple(run.identity.seed for run in runs),
        path=tuple(path),
        state=state,
        cloud=cloud.points,
        cloud_log_prob=cloud.log_prob,
        seen=seen,
        seconds=meter.seconds,
        units=machine.units,
        training=meter.training,
        sampling=meter.sampling,
        runs=tuple({name: getattr(run, name) for name in (*_OF_RUN, "rows")} for run in runs),
        draws=(),
        log=log.getvalue(),
        resumed=runs[0].resumed,
    )


def packed(content: Checkpoint, draws: Sequence[Mapping[str, np.ndarray]]) -> bytes:
    """The bytes of a checkpoint.

    Raises:
        TypeError: the method's state has something other than tensors and numbers.
    """
    for name, value in content.state.items():
        if not isinstance(value, Tensor) and type(value) not in (int, float):
            raise TypeError(f"its state has {name!r} of type {type(value).__name__}; expected Tensor, int or float")
    seen = content.seen
    plain = {
        **vars(content),
        "format": FORMAT,
        "state": {name: _own(value) for name, value in content.state.items()},
        "seen": None if seen is None else vars(seen) | {"counts": asdict(seen.counts)},
        "training": asdict(content.training),
        "sampling": asdict(content.sampling),
        "runs": [{**run, "rows": [asdict(row) for row in run["rows"]]} for run in content.runs],
        "draws": [{name: torch.from_numpy(array) for name, array in each.items()} for each in draws],
    }
    stream = io.BytesIO()
    torch.save(plain, stream)  # a tensor that is there twice (the cloud, and the law seen) is kept once
    data = stream.getvalue()
    return hashlib.sha256(data).hexdigest().encode() + b"\n" + data


def _own(value: Tensor | float) -> Tensor | float:
    """A tensor without its graph, and without what else lies in its memory."""
    return value.detach().clone(memory_format=torch.contiguous_format) if isinstance(value, Tensor) else value


def load(file: Path, device: torch.device) -> Checkpoint:
    """What `Keeper.save` wrote; tensors that were on an accelerator go to the device.

    Raises:
        ValueError: it is damaged, or no checkpoint.
        OSError: it can't be read.
    """
    sha, _, data = read_bytes(file).partition(b"\n")
    try:
        if hashlib.sha256(data).hexdigest().encode() != sha:
            raise ValueError("its content does not match its hash")
        place = lambda storage, where: storage if where == "cpu" else storage.cuda(device.index)  # noqa: E731
        plain = torch.load(io.BytesIO(data), map_location=place, weights_only=True)
        if plain.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        seen = plain["seen"]
        return Checkpoint(
            **plain
            | {
                "seen": seen and Seen(**seen | {"counts": Counts(**seen["counts"])}),
                "training": Counts(**plain["training"]),
                "sampling": Counts(**plain["sampling"]),
                "runs": tuple({**run, "rows": [Row(**row) for row in run["rows"]]} for run in plain["runs"]),
                "draws": tuple({name: array.numpy() for name, array in each.items()} for each in plain["draws"]),
            }
        )
    except Exception as error:  # a damaged file can break anything on the way
        raise ValueError(f"{type(error).__name__}: {error}") from None


def find(out: Path, runs: Sequence[Run], device: torch.device, log: Log) -> Checkpoint | None:
    """The newest checkpoint that these runs can go on from; why one is refused goes to the log.

    It is one of the same code, budget, metrics, torch version and device, whose batch has all the seeds, left by an
    attempt that was ended from outside after the last one that ended by itself.
    """
    first = runs[0]
    for old in reversed(folders.of_key(out, first.identity.key)):
        same = (old.code, old.budget, old.judge) == (first.code, first.budget, first.judge)
        if not same or not _same_machine(out, old.env, first.env):
            continue
        if old.status not in RESUMED:
            return None
        file = folders.checkpoint_of(out, old)
        if not file.exists():
            continue
        try:
            found = load(file, device)
        except (ValueError, OSError) as error:
            log.write(f"the checkpoint of attempt {old.attempt} is refused: {error}\n")
            continue
        if {run.identity.seed for run in runs} <= set(found.seeds):
            return found
        log.write(f"the checkpoint of attempt {old.attempt} has seeds {found.seeds} only\n")
    return None


def remove_all(out: Path, run: Run) -> None:
    """Remove what earlier attempts of a run left: it has ended by itself, and nothing goes on from there."""
    for old in folders.of_key(out, run.identity.key):
        if old.attempt != run.attempt:
            folders.checkpoint_of(out, old).unlink(missing_ok=True)


def _same_machine(out: Path, one: str, other: str) -> bool:
    if one == other:
        return True
    facts = folders.environments(out, (one, other))
    first, second = ([facts[name].get(key) for key in ("torch", "device")] for name in (one, other))
    return first == second and None not in first


def _write(places: Sequence[Path], data: bytes) -> None:
    """Write it to the first place, and link it to the others; what was there stays if it can't be written."""
    drafts = [place.with_name(f"{place.name}.{os.getpid()}") for place in places]
    try:
        drafts[0].write_bytes(data)
        sync(drafts[0])
        for draft in drafts[1:]:
            try:
                os.link(drafts[0], draft)
            except OSError:  # a file system without links
                shutil.copyfile(drafts[0], draft)
        for draft, place in zip(drafts, places, strict=True):
            draft.replace(place)
    finally:
        for draft in drafts:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)


def _first(points: Tensor, count: int) -> np.ndarray:
    """The first points, copied: the driver moves its cloud in place."""
    return points[:count].to("cpu", copy=True).numpy()
