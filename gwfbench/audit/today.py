"""Whether runs are today's: made by the code, the fields and the versions as they are now."""

from __future__ import annotations

from dataclasses import replace

from gwfbench.drive.job import Job
from gwfbench.errors import UserError
from gwfbench.store.record import Identity, Run


class Today:
    """Code and fields as they are now. What depends on task and method alone is found out once, and not after that."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str, str], tuple[str, Identity] | str] = {}

    def why_stale(self, run: Run) -> str:
        """Why today's code would not make this run again as it is; empty if it would."""
        who = run.identity
        key = who.task, who.method, who.device, who.dtype
        if key not in self._known:
            self._known[key] = _today(who)
        known = self._known[key]
        if isinstance(known, str):
            return known
        if replace(known[1], seed=who.seed) != who:
            return "the plug-in's fields or version have changed"
        return "" if known[0] == run.code else "the code has changed since"


def _today(who: Identity) -> tuple[str, Identity] | str:
    """Code and identity that the same words give today, or why they give none."""
    try:
        job = Job.of(who)
        return job.code(), job.identity(who.seed)
    except UserError as error:
        return f"it can't be built any more: {error.got}"
