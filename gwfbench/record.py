"""What a run leaves: identity, rows, one folder an attempt, and the tidy tables that pandas collects from them."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.util
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gwfbench.errors import UserError

SCHEMA = 2
KEPT = 4096  # points a judged time that stay in draws.npz
Status = Literal["ok", "diverged", "budget", "timeout", "oom", "error", "killed", "skipped"]
Role = Literal["method", "floor", "control"]


@dataclass(frozen=True)
class Identity:
    """What makes a run the same run. The budget is outside it: a longer one extends the curve."""

    task: str  # as a user would type it
    task_version: int
    task_fields: Mapping[str, Any]
    method: str
    method_version: int
    method_fields: Mapping[str, Any]
    seed: int
    track: str
    dtype: str
    device: str  # the class: cpu, cuda

    @property
    def key(self) -> str:
        """16 hex digits of the SHA-256 of the canonical JSON."""
        return _digest(json.dumps({"schema": SCHEMA, **asdict(self)}, sort_keys=True))


@dataclass(frozen=True)
class Point:
    """One metric of one judged law of one seed: a row of the points table."""

    step: int
    t: float | None  # flow time; None where only the limit counts
    metric: str
    metric_version: int
    better: str
    law: str
    role: Role  # "floor": this value is the metric's noise floor
    value: float | None
    se: float | None
    n: int
    seconds: float  # of training so far, evaluation off the clock
    score_calls: int  # points through the oracle so far, in training
    log_prob_calls: int
    draw_calls: int
    sample_seconds: float  # spent so far in moving the judged points
    sample_calls: float  # score calls so far for each judged point


@dataclass
class Run:
    """One attempt at one run: a row of the runs table."""

    identity: Identity
    information: tuple[str, ...]  # info types that the method needs
    code: str  # hash of the source of task, method and the gwfbench modules that they import
    env: str
    started: str  # UTC
    budget: dict[str, float] = field(default_factory=dict)  # limits by name
    batch: int = 1  # seeds trained together; seconds are the batch's
    status: Status = "ok"
    reason: str = ""
    seconds: float = 0.0
    sample_seconds: float = 0.0
    judge_seconds: float = 0.0
    steps: int = 0
    points: list[Point] = field(default_factory=list)
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    @property
    def failed(self) -> bool:
        return self.status not in ("ok", "budget", "skipped")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Tidy rows, one a point; a run without points has one row too, with nulls and its reason."""
        who = {"task": self.identity.task, "method": self.identity.method, "seed": self.identity.seed}
        end = {
            "status": self.status,
            "reason": self.reason,
            "information": " ".join(self.information),
            "track": self.identity.track,
            "batch": self.batch,
            "run_key": self.identity.key,
            "attempt": self.attempt,
            "code": self.code,
            "env": self.env,
        }
        empty = dict.fromkeys(spec.name for spec in dataclasses.fields(Point)) | {
            "role": "method",
            "seconds": self.seconds,
        }
        for point in [asdict(point) for point in self.points] or [empty]:
            yield who | point | end


# ---------------------------------------------------------------------------------------------------- hashes


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_hash(*modules: str) -> str:
    """Hash of the source of these modules and of every module of their packages that they import, directly or not."""
    texts: dict[str, str] = {}
    todo = [module for module in modules if module]
    while todo:
        module = todo.pop()
        if module not in texts:
            texts[module], imported = _source(module)
            todo += imported
    return _digest(json.dumps(texts, sort_keys=True))


@cache
def _source(module: str) -> tuple[str, tuple[str, ...]]:
    """Text of a module, and the modules of gwfbench or of its own top package that it imports."""
    loaded = sys.modules.get(module)
    found = None if loaded else importlib.util.find_spec(module)
    file = getattr(loaded, "__file__", None) or (found and found.origin)
    if file is None:  # built in, or typed in
        return "", ()
    text = Path(file).read_text(encoding="utf-8")
    package = module if Path(file).name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = (
                importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                if node.level
                else node.module or ""
            )
            names |= {start} | {f"{start}.{alias.name}" for alias in node.names}
    tops = {"gwfbench", module.partition(".")[0]}
    # the top package's own __init__ holds names, no numerics
    return text, tuple(
        sorted(name for name in names if name.partition(".")[0] in tops and "." in name and _is_module(name))
    )


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is a module, not a package: a name inside it
        return False


@cache
def environment(device: str, threads: int) -> dict[str, Any]:
    """Versions, machine and commit: taken once a session, referenced by hash."""
    from importlib.metadata import version

    import torch

    facts: dict[str, Any] = {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "scipy", "pandas", "pot", "scikit-learn", "gwfbench")},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "threads": threads,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "commit": _commit(),
    }
    return facts


def env_hash(facts: Mapping[str, Any]) -> str:
    return _digest(json.dumps(facts, sort_keys=True))


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _commit() -> str:
    """The checkout's commit, "+" added when it has changes; empty outside a checkout."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return ""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=False
        ).stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain") else "")


# ---------------------------------------------------------------------------------------------------- files


class Attempt:
    """The folder of one attempt: written beside its place, row by row, and moved there when it ends.

    run.json, points.jsonl, draws.npz (plain arrays t<step>), log.txt. A crash leaves the half-written folder, with
    the rows so far, under a name that starts with ".partial".
    """

    def __init__(self, out: Path, run: Run):
        plain = f"{run.identity.task}-{run.identity.method}".replace(":", "-").replace("=", "").replace(",", "-")
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in plain)[:80]
        name = f"{name}-s{run.identity.seed}-{run.identity.key[:8]}-{run.attempt}"
        self._folder, self._place = out / f".partial-{name}", out / name
        self._draws: dict[str, np.ndarray] = {}
        self._folder.mkdir(parents=True)

    def judged(self, step: int, points: list[Point], draws: np.ndarray) -> None:
        """Append rows, and keep the first points of the judged cloud (n, d)."""
        with (self._folder / "points.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(to_json(asdict(point)) + "\n" for point in points)
        self._draws[f"t{step}"] = draws[:KEPT]

    def finish(self, run: Run, log: str) -> None:
        """Write the rest and move the folder into place."""
        (self._folder / "points.jsonl").touch()
        np.savez(self._folder / "draws.npz", **self._draws)  # type: ignore[arg-type]
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


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON proper: what is not finite becomes null."""

    def clean(part: Any) -> Any:
        if isinstance(part, float):
            return part if math.isfinite(part) else None
        if isinstance(part, Mapping):
            return {key: clean(inner) for key, inner in part.items()}
        if isinstance(part, list | tuple):
            return [clean(inner) for inner in part]
        return part

    return json.dumps(clean(value), indent=indent, allow_nan=False)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
