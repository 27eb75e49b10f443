"""Attempts of today's code that nothing has run, for the speed of everything that reads them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from gwfbench import metrics
from gwfbench.drive.controls import Control
from gwfbench.runs.order import Order
from gwfbench.store import fingerprint
from gwfbench.store.folders import Attempt
from gwfbench.store.record import Row, Run

METRICS = ("symkl", "kl", "bures_w2", "sliced_w2", "w2")
LAWS = 10


def write(out: Path, tasks: Iterable[str], methods: Iterable[str], seeds: int) -> int:
    """An attempt of 50 rows for every run of this order; how many."""
    rng = np.random.default_rng(0)
    known = {name: metrics.known()[name] for name in METRICS}
    codes = {name: fingerprint.metric_code(metric) for name, metric in known.items()}
    count = 0
    for job in Order.read(tasks, methods, seeds).jobs():
        who = job.contestant
        role = ("floor" if who.floor else "control") if isinstance(who, Control) else "method"
        for seed in job.seeds:
            run = Run(job.identity(seed), (), job.code(), "0" * 16, f"2026-01-01T00:00:00.{count:06d}+00:00")
            attempt = Attempt(out, run)
            for step in range(1, LAWS + 1):
                points = [
                    Row(step, 0.05 * step, name, metric.version, metric.better, metric.law, role, rng.lognormal(),
                          0.1, 4096, 1.0 * step, 10 * step, 0, 0, 0.1, 2.0, metric_code=codes[name])
                    for name, metric in known.items()
                ]  # fmt: skip
                run.rows += points
                attempt.judged(step, points, np.ones((10, 2), np.float32))
            attempt.finish(run, "")
            count += 1
    return count
