"""Pictures of kept runs in the plane, and of images: one a task, of the lowest seed that all its methods share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from gwfbench.drive.controls import CONTROLS
from gwfbench.errors import UserError
from gwfbench.report import kept_points
from gwfbench.report.figures.plots import Kept, grids, picture
from gwfbench.store import folders
from gwfbench.store.record import Run

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
    places = kept_points.folders(out)
    runs = [run for run in folders.attempts(out)[0] if run.attempt in attempts and run.identity.method not in CONTROLS]
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
        start, truth = kept_points.ends(chosen[0], DRAWS)
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
    found = kept_points.read(folder)
    if found is None or not all(law.shape[1:] == (2,) or law.ndim == 4 for law in found.laws):
        return None
    return Kept(run.identity.method, found.times, found.laws, run.paired)
