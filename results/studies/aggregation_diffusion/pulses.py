"""Draws pulses.png: laws of seed 0 on `aggregation_diffusion`, a method a row, at some judged times.

    python results/studies/aggregation_diffusion/pulses.py results/runs OUT.png

The points are those that the runs kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

from gwfbench.plugins import registry
from gwfbench.report import kept_points
from gwfbench.store import folders

TIMES = ("t = 4", "t = 6", "t = 8", "t = 10", "t = 12", "t = 15")
ROWS = (
    ("finite volumes", "exact"),
    ("vjko, ours", "vjko@aggregation_diffusion-quick"),
    ("vjko, FB, ours", "vjko@aggregation_diffusion-fb-quick"),
    ("vjko, the paper's", "vjko@aggregation_diffusion"),
    ("vjko, FB, the paper's", "vjko@aggregation_diffusion-fb"),
    ("jko_icnn", "jko_icnn@aggregation_diffusion-quick"),
)


def main(out: Path, picture: Path) -> None:
    attempts = {run.identity.method: run.attempt for run in folders.attempts(out)[0] if run.identity.seed == 0}
    places = folders.places(out)
    figure = Figure((2 * len(TIMES), 2.1 * len(ROWS)), layout="constrained")
    axes = figure.subplots(len(ROWS), len(TIMES), sharex=True, sharey=True)
    for row, (label, method) in zip(axes, ROWS, strict=True):
        kept = kept_points.read(places[attempts[registry.canonical("method", method)]])
        if kept is None:
            sys.exit(f"{method}: its points are not finite, or not there")
        for panel, t in zip(row, TIMES, strict=True):
            x = kept.laws[kept.times.index(t)]
            panel.scatter(x[:, 0], x[:, 1], s=0.5, alpha=0.3, color="#0072B2", linewidths=0)
            panel.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), aspect="equal")
        row[0].set_ylabel(label)
    for panel, t in zip(axes[0], TIMES, strict=True):
        panel.set_title(t)
    figure.savefig(picture, dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
