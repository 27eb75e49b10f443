"""By which code, and where, numbers were made: hashes of source and environment."""

from __future__ import annotations

import ast
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from gwfbench.record import digest


def code_hash(*modules: str) -> str:
    """Hash of the source of these modules and of every module of their packages that they import, directly or not."""
    texts: dict[str, str] = {}
    todo = [module for module in modules if module]
    while todo:
        module = todo.pop()
        if module not in texts:
            texts[module], imported = _source(module)
            todo += imported
    return digest(json.dumps(texts, sort_keys=True))


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
    return digest(json.dumps(facts, sort_keys=True))


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
