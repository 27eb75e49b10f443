"""Where numbers were made: versions, machine and commit, with a hash."""

from __future__ import annotations

import ctypes
import json
import platform
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gwfbench.store.fingerprint import VERSIONED
from gwfbench.store.record import digest


@cache
def environment(device: str, threads: int) -> dict[str, Any]:
    """Versions, machine and commit: taken once a session, referenced by hash."""
    import torch

    facts: dict[str, Any] = {
        "python": platform.python_version(),
        **{name: version(name) for name in VERSIONED.values()},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpuinfo("model name") or platform.processor(),
        "processor": _processor(),
        "threads": threads,
        "device": device,
        "commit": _commit(),
    }
    if device.startswith("cuda"):
        number = torch.device(device).index or 0
        facts["device"] = card(number) or torch.cuda.get_device_name(number)
        facts["tf32"] = {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32}
        facts["deterministic"] = torch.are_deterministic_algorithms_enabled()
    return facts


def card(number: int) -> str:
    """The name of a GPU by the number that torch gives it; empty where the driver does not say.

    The driver is asked, not torch: that would take some 400 MB of the GPU for as long as this process lives.
    """
    name = ctypes.create_string_buffer(256)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        device = ctypes.c_int()
        failed = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), number)
        failed = failed or driver.cuDeviceGetName(name, len(name), device)
    except (OSError, AttributeError):
        return ""
    return "" if failed else name.value.decode(errors="replace")


def env_hash(facts: Mapping[str, Any]) -> str:
    return digest(json.dumps(facts, sort_keys=True))


def _processor() -> str:
    """Which kind of processor, and which of its instructions torch uses: these decide how sums are rounded, and one
    model name, such as AMD EPYC, is of several kinds."""
    import torch

    kind = ", ".join(f"{short} {_cpuinfo(name)}" for short, name in (("family", "cpu family"), ("model", "model")))
    return f"{kind}, {torch.backends.cpu.get_cpu_capability()}" if _cpuinfo("model") else platform.machine()


@cache
def _cpuinfo(name: str) -> str:
    """What Linux says of the first processor; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == name), "")


def _commit() -> str:
    """The checkout's commit, "+" added when what runs are made of has changes; empty outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return ""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=False
        ).stdout.strip()

    # not of the whole checkout: an --out in it is no change
    changed = git("status", "--porcelain", "--", "gwfbench", "baselines", "tasks", "pyproject.toml")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
