"""Draws pulses.png: laws of the runs of `aggregation_diffusion`, row by row, at some judged times.

    python results/studies/aggregation_diffusion/pulses.py results/runs OUT.png

The points are those that the runs of seed 0 kept; the truth's are the control's, `exact`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

TIMES = (4.0, 6.0, 8.0, 10.0, 12.0, 15.0)
ROWS = (
    ("finite volumes", "exact"),
    ("vjko, FB", "vjko-schemeforward_backward-step0.5-iterations300"),
    ("vjko, non-FB", "vjko-step0.5-iterations300"),
    ("jko_icnn", "jko_icnn-step0.5"),
)


def main(runs: Path, out: Path) -> None:
    figure = Figure((2 * len(TIMES), 2.1 * len(ROWS)), layout="constrained")
    axes = figure.subplots(len(ROWS), len(TIMES), sharex=True, sharey=True)
    for row, (label, start) in zip(axes, ROWS, strict=True):
        (folder,) = runs.glob(f"aggregation_diffusion-{start}*-s0-*")
        steps = laws(folder / "points.jsonl")
        with np.load(folder / "draws.npz") as kept:
            for panel, t in zip(row, TIMES, strict=True):
                x = kept[f"t{steps[t]}"]
                panel.scatter(x[:, 0], x[:, 1], s=0.5, alpha=0.3, color="#0072B2", linewidths=0)
                panel.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), aspect="equal")
        row[0].set_ylabel(label)
    for panel, t in zip(axes[0], TIMES, strict=True):
        panel.set_title(f"t = {t:g}")
    figure.savefig(out, dpi=90)


def laws(points: Path) -> dict[float, int]:
    """The step after which each judged law was kept, by its time."""
    rows = [json.loads(line) for line in points.read_text(encoding="utf-8").splitlines()]
    return {row["t"]: row["step"] for row in rows}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
