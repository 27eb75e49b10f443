"""The answer to a `run` whose runs are all finished, kept under --out with all that it was made from.

To import torch takes seconds, to compare files does not. The same words get the kept answer if nothing has changed
since: no source or data file of gwfbench, its tasks and its methods (by content), no version of a library, no variable
GWFBENCH_..., no file under --out (by size, inode and time of change, which no program can set back). Of plug-ins from
elsewhere that the words name, this holds for all that `store/fingerprint.py` follows, data files included, and for the
whole environment where one of these files reads it. None is kept with data files of one's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from gwfbench.plugins import discovery, single
from gwfbench.store import checked, fingerprint, locks
from gwfbench.store.fingerprint import VERSIONED
from gwfbench.store.record import digest, to_json

FOLDER = ".answers"


@dataclass(frozen=True)
class Answer:
    """What a command said at its end.

    made_from: hash of the code and the libraries.    files: hash of what is under --out.
    """

    made_from: str
    files: str
    runs: int
    out: str
    err: str
    failed: bool


def code(plugins: Iterable[discovery.Plugin] = ()) -> str:
    """Hash of all that rows and tables of these plug-ins are made by; empty where that can't be told."""
    try:
        foreign = list(_foreign(sorted({one.module for one in plugins if one.origin != "gwfbench"})))
    except (ImportError, OSError, ValueError, SyntaxError, RecursionError):  # reported when they are loaded
        return ""
    hashed = hashlib.sha256()
    folders = [Path(__file__).parents[1]]
    for name in ("gwfbench.tasks", "gwfbench.baselines"):  # in a checkout they are next to gwfbench/
        found = importlib.util.find_spec(name)
        folders += map(Path, (found and found.submodule_search_locations) or ())
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix not in (".pyc", ".md"):
                hashed.update(f"{folder.name}/{path.relative_to(folder)} {path.stat().st_size}\n".encode())
                hashed.update(path.read_bytes())
    versions = [importlib.metadata.version(library) for library in (*VERSIONED.values(), "rich", "tabulate")]
    ours = sorted((name, value) for name, value in os.environ.items() if name.startswith("GWFBENCH_"))
    hashed.update(json.dumps([sys.executable, platform.python_version(), versions, ours, foreign]).encode())
    return hashed.hexdigest()


def _foreign(modules: list[str]) -> Iterator[tuple[Any, ...]]:
    """All that plug-ins from elsewhere can be made of: which there are, and the files of these modules and behind them.

    Raises:
        ImportError, OSError, ValueError, SyntaxError, RecursionError: not all of it can be read.
    """
    for kind in discovery.CAPABILITY:
        for entry in importlib.metadata.entry_points(group=f"gwfbench.{kind}s"):
            yield kind, entry.name, entry.value, *((entry.dist.name, entry.dist.version) if entry.dist else ())
    for part in filter(None, os.environ.get(single.FILES, "").split(os.pathsep)):
        yield part, hashlib.sha256(Path(part).read_bytes()).hexdigest()
    for name in single.metric_modules():
        yield name, fingerprint.code_hash(name)
    if modules:
        yield (fingerprint.code_hash(*modules),)
    for name in sorted(fingerprint.closure(*modules)):
        found = fingerprint.read(name)
        yield name, str(found.file), digest(found.text), sorted(fingerprint.data(name).items())
        if name.partition(".")[0] != "gwfbench" and ("environ" in found.text or "getenv" in found.text):
            yield tuple(sorted(os.environ.items()))


def files(out: Path) -> str:
    """Hash of what is under --out; empty if something is being written there, or can't be looked at."""
    seen = []
    try:
        for path in sorted(out.iterdir()) if out.is_dir() else ():
            if path.name.startswith(locks.PARTIAL):
                return ""
            if path.name not in (FOLDER, locks.FOLDER):
                inside = sorted(os.scandir(path), key=lambda entry: entry.name) if path.is_dir() else []
                seen += [(one.name, *_stamp(one.stat())) for one in (path, *inside)]
    except OSError:  # a link to nothing, or a folder that has gone meanwhile
        return ""
    return digest(json.dumps(seen)) if seen else ""


def find(words: Mapping[str, Any], made_from: str, out: Path) -> Answer | None:
    """The kept answer to these words, if it still is one."""
    try:
        kept = checked.checked(Answer, checked.unsealed(checked.from_json(checked.read_text(_place(words, out)))))
        return kept if made_from and (kept.made_from, kept.files) == (made_from, files(out)) else None
    except (OSError, ValueError):
        return None


def keep(words: Mapping[str, Any], answer: Answer, out: Path) -> None:
    """Keep an answer, if the folder can be written: to do without it costs time only."""
    path = _place(words, out)
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        checked.write(path, to_json(checked.sealed(asdict(answer))) + "\n")


class _Tee:
    """A stream that also keeps what goes through it."""

    def __init__(self, stream: IO[str]):
        self._stream, self.parts = stream, list[str]()

    def write(self, text: str) -> int:
        count = self._stream.write(text)  # click tries with bytes whether a stream takes them
        self.parts.append(text)
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def heard() -> Iterator[tuple[list[str], list[str]]]:
    """What the block writes to standard output and error, which get it too."""
    out, err = _Tee(sys.stdout), _Tee(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):  # type: ignore[type-var]
        yield out.parts, err.parts


def _place(words: Mapping[str, Any], out: Path) -> Path:
    """Where the answer to these words has its place: tables are as wide as the terminal."""
    encoding = (sys.stdout.encoding or "").lower()
    look = shutil.get_terminal_size().columns, sys.stdout.isatty(), sys.stderr.isatty(), encoding
    return out / FOLDER / f"{digest(json.dumps([dict(words), look], sort_keys=True, default=str))}.json"


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    # a folder's own time changes with each claim and answer; its names are listed anyway
    return (found.st_mode, 0) if found.st_mode & 0o040000 else (found.st_size, found.st_ino, found.st_ctime_ns)
