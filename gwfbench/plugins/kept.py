"""What was found out about files, kept in the user's cache: finding it out again takes a hundred times as long.

A table is the file `gwfbench/<name>-<place>.json` in `$XDG_CACHE_HOME` or `~/.cache`: a hash of what follows, then its
entries by key. They hold for one version of Python and for one text of the modules that make them; with another it
begins anew. What can't be read, or has changed since it was written, is found out again; what can't be written is not
kept.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MOST = 5000  # entries; of more, those that this process has not asked for are forgotten
SETTLED = 2.0  # seconds after its last change in which a file may change again without a new time stamp


class Table:
    """Entries that are plain values, by key.

    Args:
        makers: files of the modules whose code makes the entries.
    """

    def __init__(self, name: str, *makers: str):
        self._name, self._makers, self._owner = name, makers, os.getpid()
        self._known: dict[str, Any] | None = None
        self._asked: set[str] = set()
        self._new = False

    def get(self, key: str, make: Callable[[], Any], keep: bool = True) -> Any:
        """The entry of this key, made if there is none.

        Args:
            keep: whether it holds for later processes too.
        """
        if self._known is None:
            self._known = self._read()
            atexit.register(self._write)
        if key in self._known:
            self._asked.add(key)
            return self._known[key]
        made = make()
        if keep:
            self._known[key], self._new = made, True
            self._asked.add(key)
        return made

    def _path(self) -> Path:
        place = hashlib.sha256(f"{sys.version} {self._makers}".encode()).hexdigest()[:8]
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        return Path(home, "gwfbench", f"{self._name}-{place}.json")

    def _salt(self) -> str:
        return hashlib.sha256(b"".join(Path(file).read_bytes() for file in self._makers)).hexdigest()

    def _read(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError, RecursionError):
            seal, _, text = self._path().read_bytes().partition(b"\n")
            if seal.decode() == _seal(self._salt(), text):
                return json.loads(text)
        return {}

    def _write(self) -> None:
        """Keep what is new; of two processes that end at once, what the second has."""
        if not self._new or os.getpid() != self._owner:
            return
        known = self._known or {}
        kept = known if len(known) <= MOST else {key: known[key] for key in self._asked}
        path = self._path()
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        with contextlib.suppress(OSError, ValueError):
            path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(kept).encode()
            draft.write_bytes(_seal(self._salt(), text).encode() + b"\n" + text)
            draft.replace(path)
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def _seal(salt: str, text: bytes) -> str:
    return hashlib.sha256(salt.encode() + text).hexdigest()


def stamp(path: Path) -> tuple[str, bool]:
    """A file as it is now, without reading it, and whether any change of it will show in that.

    No program can set the time of change back.
    """
    found = path.stat()
    settled = time.time() - max(found.st_mtime, found.st_ctime) > SETTLED
    return f"{path} {found.st_size} {found.st_ino} {found.st_mtime_ns} {found.st_ctime_ns}", settled
