"""What data files hold, as a hash: neither their names nor where they lie count, and nothing is read twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path


def contents(files: Iterable[Path]) -> str:
    """Hash of the contents of these files, in this order.

    A file is read again if its size, its inode or its time of change (which no program can set back) is another.

    Raises:
        OSError: one can't be read.
    """
    hashed = hashlib.sha256()
    for file in files:
        found = file.stat()
        hashed.update(_content(file.absolute(), found.st_size, found.st_ino, found.st_ctime_ns))
    return hashed.hexdigest()


@cache
def _content(file: Path, *_stamp: int) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()
