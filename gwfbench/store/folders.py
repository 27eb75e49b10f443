"""The files of runs: one folder per attempt, written next to its place and moved there when it ends."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gwfbench.errors import UserError
from gwfbench.store import checked, command_cache, locks, texts
from gwfbench.store.environment import env_hash
from gwfbench.store.record import Row, Run, Status, to_json

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
    stopped run checkpoint.pt. A crash leaves the half-written folder under the name .partial-<key>-<attempt>:
    header.json (what the run is, sealed), the rows so far, and in sums.txt a hash of each.

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
        header = texts.sealed(texts.content_of(run))
        texts.unsealed(header)  # before anything is spent: what can't be read again is not begun
        self._folder.mkdir(parents=True)
        checked.write(self._folder / "header.json", header)

    def judged(self, step: int, rows: list[Row], draws: np.ndarray, log_prob: np.ndarray | None = None) -> None:
        """Append rows, and keep the first points of the judged cloud (n, d) and their log-densities (n,)."""
        self._require_own_process()
        lines = [*map(texts.line_of, rows)]
        # a row has its hash before it is there
        for name, parts in ((texts.SUMS, map(texts.sum_of, lines)), ("rows.jsonl", lines)):
            with (self._folder / name).open("a", encoding="utf-8") as file:
                file.write("".join(parts))
        count = most(draws[:1].nbytes)
        self.draws[f"t{step}"] = draws[:count].copy()  # the runner moves its cloud in place
        if log_prob is not None:
            self.draws[f"l{step}"] = log_prob[:count].copy()

    def finish(self, run: Run, log: str) -> None:
        """Write the rest and move the folder into place."""
        self._require_own_process()
        texts.unsealed(texts.sealed(texts.content_of(run)))
        # again, and whole: an interrupt may have come between a row and its line
        lines = [*map(texts.line_of, run.rows)]
        checked.write(self._folder / texts.SUMS, "".join(map(texts.sum_of, lines)))
        checked.write(self._folder / "rows.jsonl", "".join(lines))
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
        _move(folder, folder.parent / _name(run))
        return run
    with texts.told():
        run = texts.unsealed(checked.read_text(folder / "header.json"))
        whole = texts.whole_rows(folder)
        run.rows = Row.read(whole)
        if (folder / "draws.npz").exists():
            with np.load(io.BytesIO(checked.read_bytes(folder / "draws.npz")), allow_pickle=False) as kept:
                dict(kept)  # each has its own check sum
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
    for path, error in strange:
        torn = path.is_dir() and (_ATTEMPT.fullmatch(path.name) or (path / "run.json").exists())
        whose = isinstance(error, texts.OtherSchema)
        said.append(set_aside(path, str(error)) if torn and not whose else f"left alone: {path.name}: {error}")
    return runs, said


def close_dead(folder: Path) -> str:
    """Close the half-written folder of a dead process as killed, or set it aside; what was done, in words."""
    try:
        run = close(folder, "killed", "its process died", "")
    except texts.OtherSchema as error:
        return f"left alone: {folder.name}: {error}"
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
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(set(hashes)):
        try:
            facts = checked.from_json(checked.read_text(out / f"env-{name}.json"))
            found[name] = facts if type(facts) is dict and env_hash(facts) == name else {}
        except (OSError, ValueError, RecursionError):
            found[name] = {}
    return found


def read(folder: Path) -> Run:
    """The run of an attempt's folder.

    Raises:
        ValueError: the folder is not a whole attempt; what is wrong is in the message.
    """
    with texts.told():
        content = texts.opened(checked.read_text(folder / "run.json"))
        files, count = content.pop("files"), content.pop("rows")
        if WHOLE - files.keys():
            raise ValueError(f"run.json has no hash of {', '.join(sorted(WHOLE - files.keys()))}")
        for name, sha in files.items():
            if _sha256(folder / Path(name).name) != sha:
                raise ValueError(f"{name} has changed since it was written")
        lines = checked.read_text(folder / "rows.jsonl").splitlines()
        run = texts.run_of(content, Row.read(lines))
    if len(run.rows) != count:
        raise ValueError("run.json does not agree with rows.jsonl")
    return run


def attempts(out: Path) -> tuple[list[Run], list[str]]:
    """All whole attempts under a folder, each run's newest last, and what else was found there, with reasons.

    The newest is the one of the highest number: clocks may be set back.
    """
    runs, strange = _scan(out)
    return runs, [f"{path.name}: {reason}" for path, reason in strange]


def require_folder(out: Path) -> None:
    """Raise `UserError` if there is something else of this name."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file", "a folder", "name another folder")


def _scan(out: Path) -> tuple[list[Run], list[tuple[Path, str | ValueError]]]:
    runs: list[Run] = []
    strange: list[tuple[Path, str | ValueError]] = []
    require_folder(out)
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
                    strange.append((path, error))
    return sorted(runs, key=_age), strange


def of_key(out: Path, key: str) -> list[Run]:
    """The whole attempts at one run, the newest last."""
    return of_keys(out, [key])[key]


def of_keys(out: Path, keys: Iterable[str]) -> dict[str, list[Run]]:
    """The same for each of many runs: the folder is listed once."""
    found: dict[str, list[Run]] = {key: [] for key in keys}
    begin = {key[:8] for key in found}
    for name in os.listdir(out) if out.exists() else ():
        if name[-17:-9] in begin and _ATTEMPT.fullmatch(name):
            try:
                run = read(out / name)
            except ValueError:
                continue  # it is said where all attempts are read
            if run.identity.key in found:
                found[run.identity.key].append(run)
    return {key: sorted(runs, key=_age) for key, runs in found.items()}


def places(out: Path) -> dict[str, Path]:
    """The folders of attempts under `out`, by attempt; one that was renamed by what is in it."""
    found = {}
    for path in out.iterdir() if out.is_dir() else ():
        attempt = attempt_of(path)
        if not attempt and (path / "run.json").is_file():
            with contextlib.suppress(ValueError):
                attempt = read(path).attempt
        if attempt:
            found[attempt] = path
    return found


def attempt_of(folder: Path) -> str:
    """The attempt that a folder is of, by its name; empty if it is of none."""
    return folder.name[-8:] if _ATTEMPT.fullmatch(folder.name) else ""


def checkpoint_of(out: Path, run: Run) -> Path:
    """Where the checkpoint of a finished attempt is, if it left one."""
    return out / _name(run) / CHECKPOINT


def partials(out: Path, key: str) -> list[Path]:
    """The half-written folders of one run."""
    return sorted(out.glob(f"{locks.PARTIAL}{key}-*"))


def _key_of(partial: Path) -> str:
    return partial.name.removeprefix(locks.PARTIAL).partition("-")[0]


def _age(run: Run) -> tuple[int, str]:
    return run.number, run.started


def _name(run: Run) -> str:
    """A folder's name from what users typed: letters, digits, "-", "_" and dots inside, so it stays in its folder."""
    plain = f"{run.identity.task}-{run.identity.method}".replace(":", "-").replace("=", "").replace(",", "-")
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in plain)[:80].lstrip(".")
    return f"{name}-s{run.identity.seed}-{run.identity.key[:8]}-{run.attempt}"


def _seal(folder: Path, place: Path, run: Run, log: str) -> None:
    """Write log.txt and run.json, with the digests of all, and move the folder into place."""
    (folder / "log.txt").write_text(log, encoding="utf-8", errors="backslashreplace")
    run.reason = run.reason.encode(errors="backslashreplace").decode()
    content = texts.content_of(run) | {"files": {name: _sha256(folder / name) for name in sorted(WHOLE)}}
    checked.write(folder / "run.json", texts.sealed(content))
    _move(folder, place)


def _move(folder: Path, place: Path) -> None:
    """Move a sealed folder into place, without what is of use only until the run has ended, and without the drafts of a
    process that died in the middle; it is on the disk then, whatever happens to the power."""
    for path in (folder / "header.json", folder / texts.SUMS, *folder.glob("*.new"), *folder.glob("*.*.[0-9]*")):
        path.unlink(missing_ok=True)
    checked.sync(*(folder / name for name in (*WHOLE, "run.json")), folder)
    folder.replace(place)
    checked.sync(place.parent)


def _save_draws(folder: Path, draws: Mapping[str, np.ndarray]) -> None:
    beside = folder / "draws.npz.new"
    with beside.open("wb") as file:
        np.savez(file, **draws)  # type: ignore[arg-type]
    beside.replace(folder / "draws.npz")


def _sha256(path: Path) -> str:
    return hashlib.sha256(checked.read_bytes(path)).hexdigest()
