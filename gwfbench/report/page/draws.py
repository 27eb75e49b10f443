"""Kept draws for the page: laws in the plane, thinned and packed, and grids of images as PNG.

Of each method one run, of the lowest seed that all the methods of its task share. Coordinates are packed as 16 bits of
a box three times as wide as the part that is shown; points beyond the box are put on its edge, where they are not seen.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gwfbench.errors import UserError
from gwfbench.report import kept_points
from gwfbench.report.figures.flows import grid
from gwfbench.report.kept_points import Draws
from gwfbench.report.table import contestants
from gwfbench.store import folders

POINTS = 512  # of a law, at most
LEAST = 64  # of a law, however many runs there are
LAWS = 24  # of a run, at most
BYTES = 4_000_000  # of packed clouds on a page, about
SEEN = 1000  # points of the truth from which the box is taken
WIDE = 65535


@dataclass(frozen=True)
class Cloud:
    """Laws of one run in the plane: each (n, 2) as base64 of little-endian 16-bit numbers."""

    method: str
    seed: int
    paired: bool  # the i-th point of one law is where the i-th of the law before went
    times: list[str]
    laws: list[str]


@dataclass(frozen=True)
class Plane:
    """Clouds of one task; `box` is what 0 and 65535 stand for, `shown` the part to be drawn: x0, x1, y0, y1."""

    task: str
    box: list[float]
    shown: list[float]
    truth: str  # as a law; empty where there are no draws
    clouds: list[Cloud]


@dataclass(frozen=True)
class Grid:
    """Images of one law, as a data URI of a PNG."""

    task: str
    name: str
    what: str
    source: str


@dataclass(frozen=True)
class Views:
    """All that can be shown, and notes on what can't."""

    planes: list[Plane]
    grids: list[Grid]
    notes: list[str]


def views(rows: pd.DataFrame, out: Path | None) -> Views:
    """Views of the runs of these rows whose draws are kept under `out`; None: there are only rows, without draws."""
    if out is None:
        return Views([], [], ["This page was made from a CSV of rows, which has no draws."])
    rows = contestants(rows)
    planes: list[tuple[str, np.ndarray | None, dict[str, Draws]]] = []
    grids: list[Grid] = []
    notes: list[str] = []
    places = folders.places(out)
    methods = rows[rows["role"] == "method"]
    for task, part in methods.groupby("task", sort=False):
        kept = {name: draws for name, draws in _chosen(part, places).items() if draws}
        if not kept:
            notes.append(f"{task}: no draws of its runs were kept.")
            continue
        shapes = {draws.laws[0].ndim if draws.laws[0].shape[1:] != (2,) else 2 for draws in kept.values()}
        if shapes == {2}:
            planes.append((str(task), _truth(kept, notes), kept))
        elif shapes == {4}:
            grids += _grids(str(task), _truth(kept, notes), kept)
        else:
            notes.append(f"{task}: its points are neither in the plane nor images.")
    laws = sum(min(LAWS, len(draws.laws)) for _, _, kept in planes for draws in kept.values())
    count = max(LEAST, min(POINTS, BYTES // (6 * max(1, laws))))
    return Views([_plane(task, truth, kept, count) for task, truth, kept in planes], grids, notes)


def _chosen(rows: pd.DataFrame, places: dict[str, Path]) -> dict[str, Draws | None]:
    """One run per contestant: of the lowest seed that all share, or of its own lowest where they share none."""
    runs = rows[["method", "seed", "attempt"]].drop_duplicates()
    runs = runs[runs["attempt"].isin(list(places))]
    if not len(runs):
        return {}
    seeds = {method: set(column) for method, column in runs.groupby("method", sort=False)["seed"]}
    shared = set.intersection(*seeds.values())
    found = {}
    for method, own in seeds.items():
        seed = min(shared or own)
        attempt = runs[(runs["method"] == method) & (runs["seed"] == seed)]["attempt"].iloc[-1]
        found[method] = kept_points.read(places[attempt], LAWS)
    return found


def _truth(kept: Mapping[str, Draws], notes: list[str]) -> np.ndarray | None:
    run = next(iter(kept.values())).run
    try:
        return kept_points.ends(run, SEEN)[1]
    except UserError as error:
        notes.append(f"{run.identity.task}: its truth is not drawn: {error.got}.")
        return None


def _plane(task: str, truth: np.ndarray | None, kept: Mapping[str, Draws], count: int) -> Plane:
    clouds = [draws.laws[-1] for draws in kept.values()] + ([] if truth is None else [truth])
    low = np.min([np.quantile(cloud, 0.005, axis=0) for cloud in clouds], axis=0)
    high = np.max([np.quantile(cloud, 0.995, axis=0) for cloud in clouds], axis=0)
    middle, half = (low + high) / 2, 0.54 * float(max(high - low)) + 1e-9
    low, high = middle - 3 * half, middle + 3 * half

    def pack(law: np.ndarray) -> str:
        unit = (law[:count] - low) / (high - low)
        return base64.b64encode((unit.clip(0, 1) * WIDE).round().astype("<u2").tobytes()).decode()

    made = [_cloud(name, draws, [pack(law) for law in draws.laws]) for name, draws in kept.items()]
    edges = [[float(m - size), float(m + size)] for size in (3 * half, half) for m in middle]
    return Plane(task, edges[0] + edges[1], edges[2] + edges[3], "" if truth is None else pack(truth), made)


def _cloud(name: str, draws: Draws, packed: list[str]) -> Cloud:
    return Cloud(name, draws.run.identity.seed, draws.run.paired, draws.times, packed)


def _grids(task: str, truth: np.ndarray | None, kept: Mapping[str, Draws]) -> list[Grid]:
    made = [] if truth is None else [Grid(task, "truth", "draws of the truth", _png(truth))]
    for name, draws in kept.items():
        what = f"seed {draws.run.identity.seed}, {draws.times[-1]}"
        made.append(Grid(task, name, what, _png(draws.laws[-1])))
    return made


def _png(images: np.ndarray) -> str:
    from matplotlib.image import imsave

    file: Any = io.BytesIO()
    imsave(file, grid(images), format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
