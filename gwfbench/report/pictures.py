"""Pictures of kept runs in the plane, and of images: one a task, of the lowest seed that all its methods share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from gwfbench import standing, store
from gwfbench.controls import CONTROLS
from gwfbench.errors import UserError
from gwfbench.info import Initial
from gwfbench.record import Run
from gwfbench.registry import name_of
from gwfbench.report.plots import Kept, grids, picture
from gwfbench.rng import Streams

DRAWS = 2000


def draw(out: Path, attempts: set[str], folder: Path) -> Iterator[str]:
    """Write the pictures of these attempts; a line for each, and for each task that has none.

    Raises:
        UserError: there is no matplotlib, or nothing to draw.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError("--plot without matplotlib", "the extra `report`", "pip install 'gwfbench[report]'") from None
    places = {path.name[-8:]: path for path in out.iterdir()}  # names end in -<attempt>
    runs = [run for run in store.attempts(out)[0] if run.attempt in attempts and run.identity.method not in CONTROLS]
    if not runs:
        raise UserError("--plot", "runs of at least one method", "leave the controls to the leaderboard")
    for task in dict.fromkeys(run.identity.task for run in runs):
        mine = [run for run in runs if run.identity.task == task]
        methods = list(dict.fromkeys(run.identity.method for run in mine))
        seeds = [{run.identity.seed for run in mine if run.identity.method == method} for method in methods]
        shared = set.intersection(*seeds)
        if not shared:
            yield f"no picture of {task}: its methods share no seed"
            continue
        chosen = [run for run in mine if run.identity.seed == min(shared)]
        kept = [one for run in chosen if (one := _kept(run, places[run.attempt])) is not None]
        kept.sort(key=lambda one: methods.index(one.method))
        start, truth = _ends(chosen[0])
        flat = start.shape[1:] == (2,)
        if not kept or not (flat or start.ndim == 4):
            yield f"no picture of {task}: its points are neither in the plane nor images, or none were kept"
            continue
        path = folder / f"{re.sub(r'[^A-Za-z0-9_.]+', '-', task)}.png"
        title = f"{task}, seed {min(shared)}"
        if flat:
            picture(title, start, truth, kept, path)
        else:
            real = {} if truth is None else {"test images": truth}
            grids(title, real | {f"{one.method}, {one.times[-1]}": one.points[-1] for one in kept}, path)
        yield f"wrote {path}"


def _kept(run: Run, folder: Path) -> Kept | None:
    with np.load(folder / "draws.npz", allow_pickle=False) as file:
        steps = sorted(int(name[1:]) for name in file.files if name[0] == "t")
        points = [file[f"t{step}"] for step in steps]
    drawn = bool(points) and all(cloud.shape[1:] == (2,) or cloud.ndim == 4 for cloud in points)
    if not drawn or not all(np.isfinite(cloud).all() for cloud in points):
        return None
    times = {point.step: point.t for point in run.points}
    names = [f"step {step}" if times.get(step) is None else f"t = {times[step]:g}" for step in steps]
    return Kept(run.identity.method, names, points, run.paired)


def _ends(run: Run) -> tuple[np.ndarray, np.ndarray | None]:
    """Draws of P_0 and of the truth at the last judged time, (n, d) or (n, c, h, w)."""
    job = standing.job_of(run)
    streams = Streams((run.identity.seed,))
    with torch.no_grad():
        instance = job.task.build(streams.fork(f"task/{name_of(job.task)}"))
        start = instance.problem[Initial].draw(DRAWS, streams.fork("picture/start"))[0].numpy()
        truth, last = instance.truth, len(instance.problem.times) - 1
        if truth.draw is None:
            return start, None
        # of a truth that has draws for metrics alone (images: the test part), those
        streams = streams.fork("picture/metric/truth")
        return start, truth.draw(last, min(DRAWS, truth.limit or DRAWS), streams)[0].numpy()
