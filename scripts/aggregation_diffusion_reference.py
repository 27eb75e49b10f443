"""Make gwfbench/data/aggregation_diffusion.npz, the truth of the task `aggregation_diffusion`.

    python scripts/aggregation_diffusion_reference.py        about half an hour on two cores

The equation is in tasks/aggregation_diffusion.py; the solver is gwfbench/finite_volume.py. By symmetry only the
quarter [0, 3.5]^2 is solved, with no flux at its walls: the inner two are axes of symmetry, the outer two stay empty.
Three grids (8, 16, 32 cells a unit) show the order. Kept for each mass: the finest densities (float32), their energies, and the L1 distances between neighbouring grids.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from gwfbench.finite_volume import Array, Equation, solve

TIMES = {9: (2.0, 4.0, 6.0, 8.0, 10.0, 11.0, 12.0, 15.0), 1: (20.0, 40.0, 60.0, 80.0, 100.0, 120.0, 135.0, 150.0)}
GRIDS = (8, 16, 32)
SIDE = 3.5
OUT = Path(__file__).parents[1] / "gwfbench" / "data" / "aggregation_diffusion.npz"


def equation(mass: int, cells: int) -> Equation:
    """The flow on the quarter. The kernel is a product over axes, so W * rho is two small matrix products."""
    x = (np.arange(round(SIDE * cells)) + 0.5) / cells
    mirrored = np.exp(-((x[:, None] - x) ** 2)) + np.exp(-((x[:, None] + x) ** 2))
    factor = mirrored / (cells * np.sqrt(np.pi))
    return Equation(1 / cells, m=3.0, weight=0.1 * mass**2, interact=lambda rho: -mass * (factor @ rho @ factor))


def run(job: tuple[int, int]) -> tuple[Array, Array]:
    """Densities (times, n, n) and energies (times,) for one mass and one grid."""
    mass, cells = job
    flow = equation(mass, cells)
    start = np.zeros((round(SIDE * cells),) * 2)
    start[: 3 * cells, : 3 * cells] = 1 / 36
    found = solve(flow, start, TIMES[mass])
    return np.stack(found), np.array([4 * flow.energy(rho) for rho in found])  # four quarters


def halved(rho: Array) -> Array:
    """Means over 2 x 2 cells of (times, n, n)."""
    t, n, _ = rho.shape
    return rho.reshape(t, n // 2, 2, n // 2, 2).mean((2, 4))


def main() -> None:
    jobs = [(mass, cells) for cells in reversed(GRIDS) for mass in TIMES]  # the longest first
    with ProcessPoolExecutor(2) as pool:
        results = dict(zip(jobs, pool.map(run, jobs), strict=True))
    kept: dict[str, object] = {"solver": "gwfbench.finite_volume, courant 0.9", "grids": GRIDS, "side": SIDE}
    for mass, times in TIMES.items():
        densities = [results[mass, cells][0] for cells in GRIDS]
        gaps = [
            4 * np.abs(halved(fine) - coarse).sum((1, 2)) / cells**2
            for coarse, fine, cells in zip(densities, densities[1:], GRIDS, strict=False)
        ]
        kept |= {
            f"times_{mass}": times,
            f"density_{mass}": densities[-1].astype(np.float32),
            f"energy_{mass}": results[mass, GRIDS[-1]][1],
            f"energy_coarse_{mass}": results[mass, GRIDS[-2]][1],
            f"l1_{mass}": np.stack(gaps),  # (2, times): 8 to 16, 16 to 32 cells a unit
        }
    OUT.parent.mkdir(exist_ok=True)
    np.savez_compressed(OUT, **kept)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
