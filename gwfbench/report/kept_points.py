"""Draws that runs have kept of their laws, and draws of P_0 and of the truth to show with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gwfbench.audit import status
from gwfbench.info import Initial
from gwfbench.plugins.registry import name_of
from gwfbench.rng import Streams
from gwfbench.store import folders
from gwfbench.store.record import Run


@dataclass(frozen=True)
class Draws:
    """What one run has kept: points of each judged law, (n, d) or images (n, c, h, w)."""

    run: Run
    times: list[str]  # of the laws, in words
    laws: list[np.ndarray]


def read(folder: Path, most: int | None = None) -> Draws | None:
    """The kept laws of one attempt; None if there are none, or they are not finite.

    Args:
        most: largest number of laws, spread evenly over all; None: all.
    """
    try:
        run = folders.read(folder)
        with np.load(folder / "draws.npz", allow_pickle=False) as file:
            steps = sorted(int(name[1:]) for name in file.files if name[0] == "t")
            places = np.linspace(0, len(steps) - 1, min(most or len(steps), len(steps))).round().astype(int)
            steps = [steps[i] for i in places]
            laws = [file[f"t{step}"] for step in steps]
    except (OSError, ValueError):
        return None
    if not laws or not all(np.isfinite(law).all() for law in laws):
        return None
    times = {row.step: row.t for row in run.rows}
    return Draws(run, [f"step {step}" if times.get(step) is None else f"t = {times[step]:.3g}" for step in steps], laws)


def ends(run: Run, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Draws of P_0, and of the truth at the last judged time; None where it can't be drawn.

    Raises:
        UserError: the task can't be built any more.
    """
    job = status.job_of(run)
    streams = Streams((run.identity.seed,))
    with torch.no_grad():
        instance = job.task.build(streams.fork(f"task/{name_of(job.task)}"))
        start = instance.problem[Initial].draw(count, streams.fork("picture/start"))[0].numpy()
        truth, last = instance.truth, len(instance.problem.times) - 1
        if truth.draw is None:
            return start, None
        draw = truth.reference or truth.draw
        return start, draw(last, min(count, truth.limit or count), streams.fork("picture/metric/truth"))[0].numpy()
