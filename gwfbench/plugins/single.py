"""Single files as plug-ins: where they are listed, and the package that they are modules of; metrics among them.

`gwfbench.metrics` asks by way of `gwfbench/elsewhere.py`.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from gwfbench import elsewhere

FILES = "GWFBENCH_PLUGINS"  # paths, separated as those of PATH
HOME = "gwfbench_plugins"  # the package that single files are modules of, and so may import their neighbours from


def listed() -> list[Path]:
    """The files of the environment variable."""
    return [Path(part) for part in os.environ.get(FILES, "").split(os.pathsep) if part]


def at_home(paths: Iterable[Path]) -> list[str]:
    """Make the package whose modules single files are; the folders that it looks in."""
    home = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(HOME, None, is_package=True))
    folders = [*dict.fromkeys(str(path.parent) for path in paths)]
    home.__path__[:] = folders
    sys.modules[HOME] = home
    return folders


def metric_modules() -> list[str]:
    """Modules of plug-ins that have metrics: entry points `gwfbench.metrics`, and single files with a `Metric(...)`."""
    paths = listed()
    if paths:
        at_home(paths)
    return [*_entry_modules(), *(f"{HOME}.{path.stem}" for path in paths if has_metrics(path))]


@cache
def _entry_modules() -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry.module for entry in importlib.metadata.entry_points(group="gwfbench.metrics")))


def has_metrics(path: Path) -> bool:
    """Whether a file assigns a `Metric(...)` to a name; False for one that can't be parsed."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError):
        return False
    values = [line.value for line in body if isinstance(line, ast.Assign | ast.AnnAssign)]
    called = [value.func for value in values if isinstance(value, ast.Call)]
    return any((one.attr if isinstance(one, ast.Attribute) else getattr(one, "id", "")) == "Metric" for one in called)


elsewhere.METRICS.append(metric_modules)
