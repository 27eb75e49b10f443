"""Whether runs are today's: made by the code, the fields and the versions as they are now.

That is told by source. To build tasks and methods takes torch, so in a process that has not loaded it what came of it
is kept in the user's cache until something changes that it could depend on.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from gwfbench.errors import UserError
from gwfbench.plugins import kept, registry
from gwfbench.store import command_cache, fingerprint
from gwfbench.store.record import Identity, Run, digest

_KEPT = kept.Table("today", __file__)
OURS = "gwfbench"
_SPARES = "torch" not in sys.modules  # whether this process can do without


class Today:
    """Code and fields as they are now. What depends on task and method alone is found out once, and not after that."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str, str], tuple[Identity, str] | str] = {}
        self._made_from = cache(command_cache.code)

    def why_stale(self, run: Run) -> str:
        """Why today's code would not give this run as it is; empty if it would."""
        who = run.identity
        return self.why_stale_row(who.task, who.method, who.seed, who.device, who.dtype, who.key, run.code)

    def why_stale_row(
        self, task: str, method: str, seed: int, device: str, dtype: str, run_key: str, code: str
    ) -> str:  # fmt: skip
        """The same from a row of the results table."""
        which = task, method, device, dtype
        if which not in self._known:
            self._known[which] = self._today(*which)
        known = self._known[which]
        if isinstance(known, str):
            return known
        if replace(known[0], seed=seed).key != run_key:
            return "its fields or versions have changed since"
        return "" if known[1] == code else "the code has changed since"

    def _today(self, task: str, method: str, device: str, dtype: str) -> tuple[Identity, str] | str:
        """Identity (of seed 0) and code that the same words give today, or why they give none."""
        words = {"task": task, "method": method, "seeds": [0], "device": device, "dtype": dtype, "budget": {}}
        try:
            if not _SPARES:
                found = _built(words)
                return Identity(**found["identity"]), found["code"]
            named = [registry.find("task", registry.head(task))]
            if not registry.is_control(registry.head(method)):
                named.append(registry.find("method", registry.head(method)))
            made_from = (
                "" if _reads_files(named) else self._made_from(tuple(one for one in named if one.origin != OURS))
            )
            key = digest(json.dumps([words, made_from]))
            found = _KEPT.get(key, lambda: _built(words), keep=bool(made_from))
        except UserError as error:
            return f"it can't be built any more: {error.got}"
        return Identity(**found["identity"]), found["code"]


def _reads_files(plugins: list[registry.Plugin]) -> bool:
    """Whether these may read files of the user's own, which are seen only when they are built."""
    modules = {one.module for one in plugins}
    modules |= {name for name in fingerprint.closure(*modules) if name.partition(".")[0] != OURS}
    return any("data_files" in fingerprint.read(name).text for name in modules)


def _built(words: dict[str, Any]) -> dict[str, Any]:
    from gwfbench.drive.job import Job

    job = Job.read(words)
    return {"identity": asdict(job.identity(0)), "code": job.code()}


def metric_codes() -> dict[str, str]:
    """The code of each metric that any task may be judged by, by its name."""

    def make() -> dict[str, str]:
        from gwfbench.metrics import known

        return {name: fingerprint.metric_code(metric) for name, metric in known().items()}

    made_from = command_cache.code() if _SPARES else ""
    return _KEPT.get(f"metrics {made_from}", make, keep=bool(made_from))
