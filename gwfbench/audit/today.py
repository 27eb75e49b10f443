"""Whether runs are today's: made by the code, the fields and the versions as they are now."""

from __future__ import annotations

from dataclasses import replace

from gwfbench.drive.job import Job
from gwfbench.errors import UserError
from gwfbench.store.record import Identity, Run


class Today:
    """Code and fields as they are now. What depends on task and method alone is found out once, and not after that."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str, str], tuple[Identity, str] | str] = {}

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
            self._known[which] = _today(*which)
        known = self._known[which]
        if isinstance(known, str):
            return known
        if replace(known[0], seed=seed).key != run_key:
            return "its fields or versions have changed since"
        return "" if known[1] == code else "the code has changed since"


def _today(task: str, method: str, device: str, dtype: str) -> tuple[Identity, str] | str:
    """Identity (of seed 0) and code that the same words give today, or why they give none."""
    words = {"task": task, "method": method, "seeds": [0], "device": device, "dtype": dtype, "budget": {}}
    try:
        job = Job.read(words)
        return job.identity(0), job.code()
    except UserError as error:
        return f"it can't be built any more: {error.got}"
