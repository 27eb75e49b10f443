"""Files that a user names to be read."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def finite(path: Path) -> Path:
    """The path, unless it is a device: /dev/zero never ends. A pipe does.

    Raises:
        OSError: it is a device, or is not there.
    """
    kind = os.stat(path).st_mode
    if stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
        raise OSError(errno.EINVAL, "a device, not a file", str(path))
    return path
