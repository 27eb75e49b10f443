"""What a stopped run needs to go on: the method's state and all that the runner holds, in one file.

`checkpoint.npz` holds plain arrays (no pickle) and, under "facts", JSON with a SHA-256 of all the rest, so that a torn
or edited file is refused. It is written beside its place and moved there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gwfbench.budget import Counts
from gwfbench.drive.judge import Seen
from gwfbench.drive.log import Log
from gwfbench.protocol import State
from gwfbench.store import folders
from gwfbench.store.record import Row, Run

FORMAT = 1
RESUMED = frozenset({"killed", "timeout", "oom"})  # ends from outside: the same run may go further another time


@dataclass(frozen=True)
class Checkpoint:
    """A batch of runs right after a law was yielded.

    Args:
        seeds: of the batch; tensors have them first.
        path: flow times of the laws, 0 first.
        state: the method's.
        cloud, cloud_log_prob: the runner's points, where laws are pushed.
        seen: the law, if it may still have to be judged.
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
    training: Counts
    sampling: Counts
    runs: tuple[Mapping[str, Any], ...]
    draws: tuple[Mapping[str, np.ndarray], ...]
    log: str
    resumed: int


def save(places: Sequence[Path], checkpoint: Checkpoint) -> None:
    """Write it to the first place, and link it to the others.

    Raises:
        TypeError: the method's state has something other than tensors and numbers.
        OSError: it can't be written; what was there stays.
    """
    tensors: dict[str, Tensor] = {"path": torch.tensor(checkpoint.path, dtype=torch.float64)}
    numbers: dict[str, int | float] = {}
    for name, value in checkpoint.state.items():
        if isinstance(value, Tensor):
            tensors[f"state/{name}"] = value
        elif type(value) in (int, float):
            numbers[name] = value
        else:
            raise TypeError(f"its state has {name!r} of type {type(value).__name__}; expected Tensor, int or float")
    seen = checkpoint.seen
    points = None if seen is None or seen.points is checkpoint.cloud else seen.points
    densities = None if seen is None or seen.log_prob is checkpoint.cloud_log_prob else seen.log_prob
    own = {"cloud": checkpoint.cloud, "cloud_log_prob": checkpoint.cloud_log_prob}
    for name, tensor in (own | {"seen/points": points, "seen/log_prob": densities}).items():
        if tensor is not None:
            tensors[name] = tensor
    arrays = {name: _bytes(tensor) for name, tensor in tensors.items()}
    for seed, draws in zip(checkpoint.seeds, checkpoint.draws, strict=True):
        arrays |= {f"draws/{seed}/{name}": array for name, array in draws.items()}
    plain = {name: tensor for name, tensor in vars(seen).items() if not isinstance(tensor, Tensor)} if seen else None
    facts = {
        "format": FORMAT,
        "seeds": checkpoint.seeds,
        "numbers": numbers,
        "tensors": {name: [str(t.dtype)[6:], list(t.shape), t.device.type] for name, t in tensors.items()},
        "seen": plain and plain | {"counts": asdict(plain["counts"])},
        "no_density": seen is not None and seen.log_prob is None,
        "seconds": checkpoint.seconds,
        "training": asdict(checkpoint.training),
        "sampling": asdict(checkpoint.sampling),
        "runs": [{**run, "rows": [asdict(row) for row in run["rows"]]} for run in checkpoint.runs],
        "log": checkpoint.log,
        "resumed": checkpoint.resumed,
    }
    text = json.dumps(facts, sort_keys=True)
    text = json.dumps({"sha256": _digest(text, arrays), "facts": text})
    _write(places, arrays | {"facts": np.frombuffer(text.encode(), dtype=np.uint8)})


def load(file: Path, device: torch.device) -> Checkpoint:
    """What `save` wrote; tensors that were on an accelerator go to the device.

    Raises:
        ValueError: it is torn or not a checkpoint.
        OSError: it can't be read.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as npz:
            arrays = {name: npz[name] for name in npz.files}
        outer = json.loads(arrays.pop("facts").tobytes())
        if outer["sha256"] != _digest(outer["facts"], arrays):
            raise ValueError("its content does not match its hash")
        facts = json.loads(outer["facts"])
        if facts["format"] != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        tensors = {name: _tensor(arrays[name], kind, device) for name, kind in facts["tensors"].items()}
        seen = facts["seen"]
        if seen is not None:
            points = tensors.get("seen/points", tensors.get("cloud"))
            densities = None if facts["no_density"] else tensors.get("seen/log_prob", tensors.get("cloud_log_prob"))
            seen = Seen(**seen | {"points": points, "log_prob": densities, "counts": Counts(**seen["counts"])})
        return Checkpoint(
            seeds=tuple(facts["seeds"]),
            path=tuple(tensors["path"].tolist()),
            state={n.removeprefix("state/"): t for n, t in tensors.items() if n.startswith("state/")}
            | facts["numbers"],
            cloud=tensors.get("cloud"),
            cloud_log_prob=tensors.get("cloud_log_prob"),
            seen=seen,
            seconds=facts["seconds"],
            training=Counts(**facts["training"]),
            sampling=Counts(**facts["sampling"]),
            runs=tuple({**run, "rows": [Row(**row) for row in run["rows"]]} for run in facts["runs"]),
            draws=tuple(_under(arrays, f"draws/{seed}/") for seed in facts["seeds"]),
            log=facts["log"],
            resumed=facts["resumed"],
        )
    except OSError:
        raise
    except Exception as error:  # a torn file can break anything on the way
        raise ValueError(f"{type(error).__name__}: {error}") from None


def find(out: Path, runs: Sequence[Run], device: torch.device, log: Log) -> Checkpoint | None:
    """The newest checkpoint that these runs can go on from; why one is refused goes to the log.

    It is one of the same code, budget, torch version and device, whose batch has all the seeds, left by an attempt that
    was ended from outside after the last one that ended by itself.
    """
    first = runs[0]
    for old in reversed(folders.of_key(out, first.identity.key)):
        if old.code != first.code or old.budget != first.budget or not _same_machine(out, old.env, first.env):
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


def _write(places: Sequence[Path], arrays: Mapping[str, np.ndarray]) -> None:
    beside = [place.with_name(f"{place.name}.{os.getpid()}") for place in places]
    try:
        with beside[0].open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        for copy in beside[1:]:
            try:
                os.link(beside[0], copy)
            except OSError:  # a file system without links
                shutil.copyfile(beside[0], copy)
        for copy, place in zip(beside, places, strict=True):
            copy.replace(place)
    finally:
        for copy in beside:
            with contextlib.suppress(OSError):
                copy.unlink(missing_ok=True)


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    sha = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name} {array.dtype.str} {array.shape}".encode())
        sha.update(array.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def _bytes(tensor: Tensor) -> np.ndarray:
    """Its bytes: numpy does not know every dtype of torch."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _tensor(data: np.ndarray, kind: tuple[str, list[int], str], device: torch.device) -> Tensor:
    dtype, shape, was_on = kind
    # into torch's own memory: numpy aligns less, and sums by vector instructions may round by alignment
    own = torch.empty(shape, dtype=getattr(torch, dtype))
    own.reshape(-1).view(torch.uint8).copy_(torch.from_numpy(data))
    return own if was_on == "cpu" else own.to(device)


def _under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
