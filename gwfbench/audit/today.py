"""Whether runs are today's: made by the code, the fields and the versions as they are now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch

from gwfbench.drive.controls import CONTROLS
from gwfbench.drive.job import Job
from gwfbench.errors import UserError
from gwfbench.plugins import registry
from gwfbench.store.record import Identity, Run


def is_stale(run: Run) -> bool:
    """Whether today's code, fields or versions are not those that made the run, or its plug-in is gone."""
    return staleness()(run)


def staleness() -> Callable[[Run], bool]:
    """`is_stale` for many runs: what depends on task and method alone is found out once, and not after that."""

    @cache
    def today(task: str, method: str, device: str, dtype: str) -> tuple[str, Identity] | None:
        try:
            contestant = CONTROLS[method] if method in CONTROLS else registry.parse("method", method)
            job = Job(registry.parse("task", task), contestant, (0,), device, getattr(torch, dtype))
            return job.code(), job.identity(0)
        except UserError:
            return None

    def stale(run: Run) -> bool:
        who = run.identity
        found = today(who.task, who.method, who.device, who.dtype)
        return found is None or found[0] != run.code or replace(found[1], seed=who.seed) != who

    return stale
