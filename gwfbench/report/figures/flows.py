"""Pictures of flows in the plane, from the points that runs kept: the field, the paths, the last law.

One figure per task, of the lowest seed that all its methods share; one row per method:

    field   arrows from kept points of one judged law to the next: the mean velocity between the two, so that the
            figure shows how the law moved and not what a method says of itself
    paths   of single particles through all judged laws, from grey to the method's colour
    law     the last one over draws of the truth

A method whose successive laws have no particles in common (a generator) shows three of its laws instead.

Of images, a grid of the last law's for each method, next to one of test images.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gwfbench.drive.controls import CONTROLS
from gwfbench.errors import UserError
from gwfbench.plugins import registry
from gwfbench.report import kept_points
from gwfbench.report.figures.style import looks
from gwfbench.report.names import labels, require_known
from gwfbench.store import folders
from gwfbench.store.record import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWS = 2000  # of P_0 and of the truth
ARROWS = 400
PATHS = 80
SHOWN = 1500  # points of a law
WRAP = 44  # characters per line of a name
SIDE = 8  # images per row and per column of a grid


@dataclass(frozen=True)
class Kept:
    """Kept points of one run.

    Args:
        method: as figures name it.
        colour: of its points, as #RRGGBB.
        times: of the judged laws, as they are to be written.
        points: of each judged law, (n, 2), or images (n, c, h, w).
        paired: the i-th point of one law is where the i-th point of the law before went.
    """

    method: str
    colour: str
    times: Sequence[str]
    points: Sequence[np.ndarray]
    paired: bool


def draw(out: Path, attempts: set[str], folder: Path, texts: Mapping[str, str] | None = None) -> Iterator[str]:
    """Write the pictures of these attempts; a message for each, and for each task that has none.

    Args:
        texts: names of the user's own (`names.labels`).

    Raises:
        UserError: there is no matplotlib, nothing to draw, or a label is of no method.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        fix = "pip install matplotlib"
        raise UserError("report pictures without matplotlib", "matplotlib", fix) from None
    places = folders.places(out)
    runs = [run for run in folders.attempts(out)[0] if run.attempt in attempts and run.identity.method not in CONTROLS]
    if not runs:
        raise UserError("report pictures: no runs of a method", "at least one", "choose methods, not only controls")
    require_known(texts or {}, (registry.short(run.identity.method) for run in runs))
    for task in dict.fromkeys(run.identity.task for run in runs):
        yield _draw_task(task, [run for run in runs if run.identity.task == task], places, folder, texts or {})


def _draw_task(
    task: str, runs: Sequence[Run], places: Mapping[str, Path], folder: Path, texts: Mapping[str, str]
) -> str:  # fmt: skip
    """Draw the runs of the lowest seed that all methods share; a message."""
    methods = list(dict.fromkeys(run.identity.method for run in runs))
    seeds = [{run.identity.seed for run in runs if run.identity.method == method} for method in methods]
    shared = set.intersection(*seeds)
    if not shared:
        return f"no picture of {task}: its methods share no seed"
    chosen = [run for run in runs if run.identity.seed == min(shared)]
    chosen.sort(key=lambda run: methods.index(run.identity.method))
    short = {method: registry.short(method) for method in methods}
    names, style = labels(short.values(), texts), looks((name, "method") for name in short.values())
    shown = {method: (names[name], style[name].colour) for method, name in short.items()}
    found = (_kept(run, places[run.attempt], *shown[run.identity.method]) for run in chosen)
    kept = [one for one in found if one is not None]
    start, truth = kept_points.ends(chosen[0], DRAWS)
    in_plane = start.shape[1:] == (2,)
    if not kept or not (in_plane or start.ndim == 4):
        return f"no picture of {task}: its points are neither in the plane nor images, or none were kept"
    path = folder / f"{re.sub(r'[^A-Za-z0-9_.]+', '-', task)}.png"
    title = f"{task}, seed {min(shared)}"
    if in_plane:
        picture(title, start, truth, kept, path)
    else:
        real = {} if truth is None else {"test images": truth}
        grids(title, real | {f"{run.method}, {run.times[-1]}": run.points[-1] for run in kept}, path)
    return f"wrote {path}"


def _kept(run: Run, folder: Path, name: str, colour: str) -> Kept | None:
    found = kept_points.read(folder)
    if found is None or not all(law.shape[1:] == (2,) or law.ndim == 4 for law in found.laws):
        return None
    return Kept(name, colour, found.times, found.laws, run.paired)


def picture(title: str, start: np.ndarray, truth: np.ndarray | None, runs: Sequence[Kept], path: Path) -> None:
    """Write one figure; the file's ending says the format (png, pdf, svg).

    Args:
        start: draws of P_0, (n, 2).
        truth: draws of the truth, (n, 2); None where there are none.

    Raises:
        ValueError: there is no run, or its points are not in the plane.
    """
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    if not runs or any(cloud.ndim != 2 or cloud.shape[1] != 2 for run in runs for cloud in run.points):
        raise ValueError("pictures are of at least one run with points (n, 2)")
    figure = Figure(figsize=(10.5, 3.5 * len(runs) + 0.4), layout="constrained")
    figure.suptitle(title)
    axes: Any = figure.subplots(len(runs), 3, squeeze=False)
    box = _box([start[:SHOWN], *([] if truth is None else [truth]), *(run.points[-1] for run in runs)])
    for row, run in zip(axes, runs, strict=True):
        panels = _particles(row, run, truth) if run.paired else _laws(row, run, truth)
        for ax, text in zip(row, panels, strict=True):
            ax.set_title(text, fontsize=9)
            ax.set_aspect("equal")
            ax.set_xlim(box[0])
            ax.set_ylim(box[1])
            ax.tick_params(labelsize=7)
        row[0].set_ylabel(_wrapped(run.method), fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def grids(title: str, images: Mapping[str, np.ndarray], path: Path) -> None:
    """Write one figure with a grid of the first 8 x 8 images under each name.

    Args:
        images: (n, c, h, w) with c 1 or 3, in [-1, 1]; what lies beyond is cut off.

    Raises:
        ValueError: there are none, or they are not images.
    """
    from matplotlib.figure import Figure

    if not images or any(law.ndim != 4 or law.shape[1] not in (1, 3) or not len(law) for law in images.values()):
        raise ValueError("grids are of at least one set of images (n, c, h, w) with c = 1 or 3")
    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    names = {name: _wrapped(name) for name in images}
    room = 0.16 * max(name.count("\n") + 1 for name in names.values())
    figure = Figure(figsize=(3.2 * columns, (3.25 + room) * rows + 0.5), layout="constrained")
    figure.suptitle(title)
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(images) :]:
        ax.remove()
    for ax, (name, law) in zip(axes.flat, images.items(), strict=False):
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.imshow(grid(law), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(names[name], fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def grid(images: np.ndarray) -> np.ndarray:
    """The first 8 x 8 images (n, c, h, w) side by side, a white line between two, (H, W, 3) in [0, 1]."""
    images = images[: SIDE * SIDE, :3]
    h, w = images.shape[2:]
    line, rows = max(1, h // 16), -(-len(images) // SIDE)
    canvas = np.ones((rows * (h + line) - line, SIDE * (w + line) - line, 3))
    for k, image in enumerate(images):
        top, left = k // SIDE * (h + line), k % SIDE * (w + line)
        canvas[top : top + h, left : left + w] = (image.clip(-1, 1).transpose(1, 2, 0) + 1) / 2
    return canvas


def _wrapped(name: str) -> str:
    """A method's name with its fields, in lines that a panel is wide enough for."""
    return "\n".join(textwrap.wrap(re.sub(r",\s*", ", ", name), WRAP))


def _particles(row: Sequence[Axes], run: Kept, truth: np.ndarray | None) -> tuple[str, str, str]:
    colour = run.colour
    first, after = _liveliest(run)
    x, y = run.points[first][:ARROWS], run.points[after][:ARROWS]
    _truth(row[0], truth)
    row[0].quiver(*x.T, *(y - x).T, angles="xy", scale_units="xy", scale=1, width=0.003, color=colour)
    _truth(row[1], truth)
    paths = np.stack([cloud[:PATHS] for cloud in run.points])  # (T, n, 2)
    row[1].plot(paths[..., 0], paths[..., 1], color=colour, linewidth=0.6, alpha=0.6)
    row[1].scatter(*paths[0].T, s=6, color="#999999", zorder=3, label=run.times[0])
    row[1].scatter(*paths[-1].T, s=6, color=colour, zorder=3, label=run.times[-1])
    row[1].legend(fontsize=7, loc="upper right")
    _law(row[2], run.points[-1], truth, colour)
    return (
        f"moves from {run.times[first]} to {run.times[after]}",
        f"paths of {paths.shape[1]} particles",
        f"law at {run.times[-1]}",
    )


def _laws(row: Sequence[Axes], run: Kept, truth: np.ndarray | None) -> tuple[str, ...]:
    last = len(run.points) - 1
    chosen = (0, last // 2, last)
    for ax, i in zip(row, chosen, strict=True):
        _law(ax, run.points[i], truth, run.colour)
    return tuple(f"law at {run.times[i]}" for i in chosen)


def _liveliest(run: Kept) -> tuple[int, int]:
    """The two successive laws between which points moved farthest, on the whole."""
    if len(run.points) == 1:
        return 0, 0
    moved = [float(np.abs(b - a).mean()) for a, b in zip(run.points, run.points[1:], strict=False)]
    first = int(np.argmax(moved))
    return first, first + 1


def _truth(ax: Axes, truth: np.ndarray | None) -> None:
    if truth is not None:
        ax.scatter(*truth[:SHOWN].T, s=3, color="black", alpha=0.15, linewidths=0, label="truth")


def _law(ax: Axes, points: np.ndarray, truth: np.ndarray | None, colour: str) -> None:
    _truth(ax, truth)
    ax.scatter(*points[:SHOWN].T, s=3, color=colour, alpha=0.6, linewidths=0)


def _box(clouds: Sequence[np.ndarray]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Limits that hold nearly all of the clouds: a stray point must not make the rest a dot."""
    low = np.min([np.nanquantile(cloud, 0.002, axis=0, method="higher") for cloud in clouds], axis=0)
    high = np.max([np.nanquantile(cloud, 0.998, axis=0, method="lower") for cloud in clouds], axis=0)
    pad = 0.06 * float(max(high - low)) + 1e-9
    return (float(low[0] - pad), float(high[0] + pad)), (float(low[1] - pad), float(high[1] + pad))
