"""The files of runs: one folder an attempt, written beside its place and moved there when it ends."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gwfbench.errors import UserError
from gwfbench.provenance import env_hash
from gwfbench.record import SCHEMA, Identity, Point, Run, to_json

CHECKPOINT = "checkpoint.npz"
KEPT = 4096  # points a judged time that stay in draws.npz


class Attempt:
    """The folder of one attempt: written beside its place, row by row, and moved there when it ends.

    run.json, points.jsonl, draws.npz (plain arrays t<step>, and l<step> where the law has a density), log.txt; of a
    stopped run checkpoint.npz. A crash leaves the half-written folder, with the rows so far, under a name that starts
    with ".partial".
    """

    def __init__(self, out: Path, run: Run):
        name = _name(run)
        self._folder, self._place = out / f".partial-{name}", out / name
        self.checkpoint = self._folder / CHECKPOINT
        self.draws: dict[str, np.ndarray] = {}
        self._folder.mkdir(parents=True)

    def judged(self, step: int, points: list[Point], draws: np.ndarray, log_prob: np.ndarray | None = None) -> None:
        """Append rows, and keep the first points of the judged cloud (n, d) and their log-densities (n,)."""
        with (self._folder / "points.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(to_json(asdict(point)) + "\n" for point in points)
        self.draws[f"t{step}"] = draws[:KEPT]
        if log_prob is not None:
            self.draws[f"l{step}"] = log_prob[:KEPT]

    def finish(self, run: Run, log: str) -> None:
        """Write the rest and move the folder into place."""
        (self._folder / "points.jsonl").touch()
        np.savez(self._folder / "draws.npz", **self.draws)  # type: ignore[arg-type]
        (self._folder / "log.txt").write_text(log, encoding="utf-8")
        files = {name: _sha256(self._folder / name) for name in ("points.jsonl", "draws.npz", "log.txt")}
        content = {
            "schema": SCHEMA,
            "run_key": run.identity.key,
            **asdict(run),
            "points": len(run.points),
            "files": files,
        }
        (self._folder / "run.json").write_text(to_json(content, indent=2) + "\n", encoding="utf-8")
        self._folder.replace(self._place)


def save_environment(out: Path, facts: Mapping[str, Any]) -> None:
    """Keep the facts as env-<hash>.json beside the attempts."""
    path = out / f"env-{env_hash(facts)}.json"
    if not path.exists():
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(to_json(facts, indent=2) + "\n", encoding="utf-8")
        beside.replace(path)


def environments(out: Path, hashes: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The kept facts of these environments; one that is lost or does not match its hash is empty."""
    found = {}
    for name in sorted(set(hashes)):
        try:
            facts = json.loads((out / f"env-{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            facts = {}
        found[name] = facts if facts and env_hash(facts) == name else {}
    return found


def read(folder: Path) -> Run:
    """The run of an attempt's folder.

    Raises:
        ValueError: the folder is not a whole attempt; what is wrong is in the message.
    """
    try:
        content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if content.pop("schema") != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
        key, files, count = content.pop("run_key"), content.pop("files"), content.pop("points")
        for name, digest in files.items():
            if _sha256(folder / Path(name).name) != digest:
                raise ValueError(f"{name} has changed since it was written")
        lines = (folder / "points.jsonl").read_text(encoding="utf-8").splitlines()
        points = [Point(**json.loads(line)) for line in lines]
        identity = Identity(**content.pop("identity"))
        run = Run(**content | {"identity": identity, "points": points, "information": tuple(content["information"])})
    except FileNotFoundError as error:
        raise ValueError(f"it has no {Path(error.filename).name}") from None
    except (OSError, KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if identity.key != key or len(points) != count:
        raise ValueError("run.json does not agree with itself or with points.jsonl")
    return run


def attempts(out: Path) -> tuple[list[Run], list[str]]:
    """All whole attempts under a folder, oldest first, and what was found beside them, each with its reason."""
    runs, strange = [], []
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file", "a folder", "name another folder")
    for path in sorted(out.iterdir()) if out.exists() else ():
        if path.is_file() and path.name.startswith("env-"):
            continue
        if path.name.startswith(".partial-"):
            strange.append(f"{path.name}: unfinished: it is being written, or its process died")
        elif not path.is_dir():
            strange.append(f"{path.name}: not an attempt's folder")
        else:
            try:
                runs.append(read(path))
            except ValueError as error:
                strange.append(f"{path.name}: {error}")
    return sorted(runs, key=lambda run: run.started), strange


def of_key(out: Path, key: str) -> list[Run]:
    """The whole attempts at one run, the newest last."""
    runs = []
    for path in sorted(out.glob(f"*-{key[:8]}-*")):
        try:
            runs.append(read(path))
        except ValueError:
            continue  # it is said where all attempts are read
    return sorted((run for run in runs if run.identity.key == key), key=lambda run: run.started)


def checkpoint_of(out: Path, run: Run) -> Path:
    """Where the checkpoint of a finished attempt is, if it left one."""
    return out / _name(run) / CHECKPOINT


def _name(run: Run) -> str:
    plain = f"{run.identity.task}-{run.identity.method}".replace(":", "-").replace("=", "").replace(",", "-")
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in plain)[:80]
    return f"{name}-s{run.identity.seed}-{run.identity.key[:8]}-{run.attempt}"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
