"""The files of runs: one folder per attempt, written next to its place and moved there when it ends."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gwfbench.errors import UserError
from gwfbench.store import checked, command_cache, locks
from gwfbench.store.environment import env_hash
from gwfbench.store.record import SCHEMA, Row, Run, Status, to_json

WHOLE = frozenset({"rows.jsonl", "draws.npz", "log.txt"})  # files whose hashes run.json has
CHECKPOINT = "checkpoint.pt"
KEPT = 4096  # points a judged time that stay in draws.npz, at most
KEPT_BYTES = 2**24  # and of so many bytes: 1365 images of 3 x 32 x 32
ASIDE = "aside"
NOT_RUNS = frozenset(
    {ASIDE, locks.FOLDER, command_cache.FOLDER, "slurm", "verified.jsonl"}
)  # what else has its place next to attempts
_ATTEMPT = re.compile(r".*-s\d+-[0-9a-f]{8}-[0-9a-f]{8}")


class Attempt:
    """The folder of one attempt: written next to its place, row by row, and moved there when it ends.

    run.json, rows.jsonl, draws.npz (plain arrays t<step>, and l<step> where the law has a density), log.txt; of a
    stopped run checkpoint.pt. A crash leaves the half-written folder under the
    name .partial-<key>-<attempt>: header.json (what the run is), and the rows so far.

    Raises:
        OSError: here and below, the folder can't be written.
        ValueError: the run's values are none that a file can keep.
    """

    def __init__(self, out: Path, run: Run):
        self.out = out
        self._folder, self._place = out / f"{locks.PARTIAL}{run.identity.key}-{run.attempt}", out / _name(run)
        self.checkpoint = self._folder / CHECKPOINT
        self.draws: dict[str, np.ndarray] = {}
        self._process = os.getpid()
        header = to_json(_content(run), indent=2)
        _run(checked.from_json(header), [])  # before anything is spent: what can't be read again is not begun
        self._folder.mkdir(parents=True)
        checked.write(self._folder / "header.json", header)

    def judged(self, step: int, rows: list[Row], draws: np.ndarray, log_prob: np.ndarray | None = None) -> None:
        """Append rows, and keep the first points of the judged cloud (n, d) and their log-densities (n,)."""
        self._require_own_process()
        with (self._folder / "rows.jsonl").open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, rows)))
        count = most(draws[:1].nbytes)
        self.draws[f"t{step}"] = draws[:count].copy()  # the runner moves its cloud in place
        if log_prob is not None:
            self.draws[f"l{step}"] = log_prob[:count].copy()

    def finish(self, run: Run, log: str) -> None:
        """Write the rest and move the folder into place."""
        self._require_own_process()
        # again, and whole: an interrupt may have come between a row and its line
        checked.write(self._folder / "rows.jsonl", "".join(map(_line, run.rows)))
        _save_draws(self._folder, self.draws)
        _seal(self._folder, self._place, run, log)

    def _require_own_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError("a fork that the method made came back; only its first process writes the run")


def most(size: int) -> int:
    """How many points of so many bytes each are kept of a judged law."""
    return max(1, min(KEPT, KEPT_BYTES // max(size, 1)))


def close(folder: Path, status: Status, reason: str, log: str) -> Run:
    """Close the half-written folder of a process that is gone, with the rows that it had judged.

    Raises:
        ValueError: it is too damaged to be closed; it is left as it was.
        OSError: it can't be written.
    """
    if (folder / "run.json").exists():  # only the move was missing
        run = read(folder)
        folder.replace(folder.parent / _name(run))
        return run
    try:
        run = _run(checked.from_json((folder / "header.json").read_text(encoding="utf-8")), [])
        whole = _whole_lines(folder / "rows.jsonl")
        run.rows = Row.read(whole)
    except FileNotFoundError as error:
        raise ValueError(f"it has no {Path(error.filename).name}") from None
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if folder.name != f"{locks.PARTIAL}{run.identity.key}-{run.attempt}":
        raise ValueError("header.json is another run's")
    run.status, run.reason = status, reason
    if run.rows:
        last = run.rows[-1]
        run.steps, run.seconds, run.sample_seconds = last.step, last.seconds, last.sample_seconds
    checked.write(folder / "rows.jsonl", "".join(line + "\n" for line in whole))
    if not (folder / "draws.npz").exists():
        _save_draws(folder, {})
    _seal(folder, folder.parent / _name(run), run, log)
    return run


def sweep(out: Path) -> tuple[list[Run], list[str]]:
    """Clean up after dead processes, set damaged folders aside, then return the same as `attempts`.

    A folder whose run a living process has claimed is left to it. Nothing is deleted: `aside/` has what is not whole.

    Raises:
        OSError: there is something to do, and the folder can't be written.
    """
    said = []
    for path in sorted(out.glob(f"{locks.PARTIAL}*")):
        ours = locks.claim(out, _key_of(path)) if path.is_dir() else None
        if ours is not None:
            try:
                if path.exists():  # else another process has closed it meanwhile
                    said.append(close_dead(path))
            finally:
                ours.release()
    runs, strange = _scan(out)
    for path, reason in strange:
        torn = path.is_dir() and (_ATTEMPT.fullmatch(path.name) or (path / "run.json").exists())
        said.append(set_aside(path, reason) if torn else f"left alone: {path.name}: {reason}")
    return runs, said


def close_dead(folder: Path) -> str:
    """Close the half-written folder of a dead process as killed, or set it aside; what was done, in words."""
    try:
        run = close(folder, "killed", "its process died", "")
    except ValueError as error:
        return set_aside(folder, str(error))
    return f"closed: {_name(run)}: {run.status}: {run.reason or 'only its move was missing'}"


def set_aside(path: Path, reason: str) -> str:
    """Move a folder that is not whole into aside/, as it is; what was done, in words."""
    aside = path.parent / ASIDE
    aside.mkdir(exist_ok=True)
    name, number = path.name.lstrip("."), 1
    while (aside / name).exists():
        number += 1
        name = f"{path.name.lstrip('.')}-{number}"
    try:
        path.rename(aside / name)
    except FileNotFoundError:
        return f"set aside: {path.name}, by another process: {reason}"
    return f"set aside: {path.name} is now {ASIDE}/{name}: {reason}"


def probe(out: Path) -> None:
    """Make the folder, and raise OSError if it can't be written."""
    (out / locks.FOLDER).mkdir(parents=True, exist_ok=True)
    path = out / locks.FOLDER / f"probe-{os.getpid()}"
    path.write_text("this folder can be written")
    path.unlink()


def save_environment(out: Path, facts: Mapping[str, Any]) -> None:
    """Keep the facts as env-<hash>.json next to the attempts."""
    path = out / f"env-{env_hash(facts)}.json"
    if not path.exists():
        checked.write(path, to_json(facts, indent=2) + "\n")


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
        content = checked.from_json((folder / "run.json").read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
        content = checked.unsealed({name: value for name, value in content.items() if name != "schema"})
        files, count = content.pop("files"), content.pop("rows")
        if WHOLE - files.keys():
            raise ValueError(f"run.json has no hash of {', '.join(sorted(WHOLE - files.keys()))}")
        for name, sha in files.items():
            if _sha256(folder / Path(name).name) != sha:
                raise ValueError(f"{name} has changed since it was written")
        lines = (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()
        run = _run(content, Row.read(lines))
    except FileNotFoundError as error:
        raise ValueError(f"it has no {Path(error.filename).name}") from None
    except (OSError, KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if len(run.rows) != count:
        raise ValueError("run.json does not agree with rows.jsonl")
    return run


def attempts(out: Path) -> tuple[list[Run], list[str]]:
    """All whole attempts under a folder, each run's newest last, and what else was found there, with reasons.

    The newest is the one of the highest number: clocks may be set back.
    """
    runs, strange = _scan(out)
    return runs, [f"{path.name}: {reason}" for path, reason in strange]


def _scan(out: Path) -> tuple[list[Run], list[tuple[Path, str]]]:
    runs: list[Run] = []
    strange: list[tuple[Path, str]] = []
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file", "a folder", "name another folder")
    for path in sorted(out.iterdir()) if out.exists() else ():
        if path.name in NOT_RUNS or (path.is_file() and path.name.startswith("env-")):
            continue
        if path.name.startswith(locks.PARTIAL):
            written = locks.is_claimed(out, _key_of(path))
            why = "it is being written" if written else "its process died; `run` will close it"
            strange.append((path, f"unfinished: {why}"))
        elif not path.is_dir():
            strange.append((path, "not an attempt's folder"))
        else:
            try:
                runs.append(read(path))
            except ValueError as error:
                if path.exists():  # else it was moved while we looked
                    strange.append((path, str(error)))
    return sorted(runs, key=_age), strange


def of_key(out: Path, key: str) -> list[Run]:
    """The whole attempts at one run, the newest last."""
    runs = []
    for name in os.listdir(out) if out.exists() else ():
        if f"-{key[:8]}-" in name and not name.startswith("."):
            try:
                runs.append(read(out / name))
            except ValueError:
                continue  # it is said where all attempts are read
    return sorted((run for run in runs if run.identity.key == key), key=_age)


def places(out: Path) -> dict[str, Path]:
    """The folders of attempts under `out`, by attempt."""
    return {attempt: path for path in out.iterdir() if (attempt := attempt_of(path))}


def attempt_of(folder: Path) -> str:
    """The attempt that a folder is of, by its name; empty if it is of none."""
    return folder.name[-8:] if _ATTEMPT.fullmatch(folder.name) else ""


def checkpoint_of(out: Path, run: Run) -> Path:
    """Where the checkpoint of a finished attempt is, if it left one."""
    return out / _name(run) / CHECKPOINT


def partials(out: Path, key: str) -> list[Path]:
    """The half-written folders of one run."""
    return sorted(out.glob(f"{locks.PARTIAL}{key}-*"))


def _line(row: Row) -> str:
    return to_json(asdict(row)) + "\n"


def _key_of(partial: Path) -> str:
    return partial.name.removeprefix(locks.PARTIAL).partition("-")[0]


def _age(run: Run) -> tuple[int, str]:
    return run.number, run.started


def _name(run: Run) -> str:
    """A folder's name from what users typed: letters, digits, "-", "_" and dots inside, so it stays in its folder."""
    plain = f"{run.identity.task}-{run.identity.method}".replace(":", "-").replace("=", "").replace(",", "-")
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in plain)[:80].lstrip(".")
    return f"{name}-s{run.identity.seed}-{run.identity.key[:8]}-{run.attempt}"


def _content(run: Run) -> dict[str, Any]:
    return {"schema": SCHEMA, "run_key": run.identity.key, **asdict(run), "rows": len(run.rows)}


def _run(content: Mapping[str, Any], rows: list[Row]) -> Run:
    """The run of what `_content` gave; raises what a wrong content raises."""
    content = {name: value for name, value in content.items() if name not in ("schema", "rows")}
    key = content.pop("run_key")
    run = Run.read(content, rows)
    if run.identity.key != key:
        raise ValueError("its run key is not that of its identity")
    return run


def _seal(folder: Path, place: Path, run: Run, log: str) -> None:
    """Write log.txt and run.json, with the digests of all, and move the folder into place."""
    (folder / "log.txt").write_text(log, encoding="utf-8", errors="backslashreplace")
    content = _content(run) | {"files": {name: _sha256(folder / name) for name in sorted(WHOLE)}}
    content = json.loads(to_json(content))
    text = to_json({"schema": content.pop("schema"), **checked.sealed(content)}, indent=2)
    checked.write(folder / "run.json", text + "\n")
    (folder / "header.json").unlink(missing_ok=True)
    folder.replace(place)


def _save_draws(folder: Path, draws: Mapping[str, np.ndarray]) -> None:
    beside = folder / "draws.npz.new"
    with beside.open("wb") as file:
        np.savez(file, **draws)  # type: ignore[arg-type]
    beside.replace(folder / "draws.npz")


def _whole_lines(path: Path) -> list[str]:
    """The lines that end: a kill inside a write leaves one that does not."""
    if not path.exists():
        return []
    return path.read_bytes().decode(errors="replace").split("\n")[:-1]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
