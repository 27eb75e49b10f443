"""Make gwfbench/data/aggregation_diffusion.npz, the truth of the task `aggregation_diffusion`.

    python scripts/aggregation_diffusion_reference.py        one minute of one core at full speed

The equation is in tasks/aggregation_diffusion.py; the solver is scripts/finite_volume.py. By symmetry only the
quarter [0, 3.5]^2 is solved, with no flux at its walls: the inner two are axes of symmetry, the outer two stay empty.
Three grids (8, 16, 32 cells a unit) show the order. Kept for each mass: the finest densities (float32), their energies,
and the distances between neighbouring grids: L1 of the densities, W2 of the marginals. No time is judged where four
pulses are just becoming one (mass 9: 11.5, mass 1: 120 to 140): an error of the merging time is large there.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from finite_volume import Array, Equation, solve

TIMES = {9: (2.0, 4.0, 6.0, 8.0, 10.0, 11.0, 12.0, 15.0), 1: (20.0, 40.0, 60.0, 80.0, 100.0, 110.0, 150.0)}
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


def gaps(coarse: Array, fine: Array, cells: int) -> tuple[list[float], list[float]]:
    """L1 distances and W2 of the marginals between a grid of so many cells a unit and one twice as fine."""
    l1 = [4 * float(np.abs(a - b).sum()) / cells**2 for a, b in zip(coarse, halved(fine), strict=True)]
    u = (np.arange(10_000) + 0.5) / 10_000
    quantiles = []
    for densities in (coarse, fine):
        edges = np.linspace(0, SIDE, densities.shape[1] + 1)
        cumulative = np.pad(densities.sum(2).cumsum(1), ((0, 0), (1, 0)))
        quantiles.append(np.stack([np.interp(u, row / row[-1], edges) for row in cumulative]))
    return l1, np.sqrt(np.square(quantiles[0] - quantiles[1]).mean(1)).tolist()


def main() -> None:
    jobs = [(mass, cells) for cells in reversed(GRIDS) for mass in TIMES]  # the longest first
    with ProcessPoolExecutor(2) as pool:
        results = dict(zip(jobs, pool.map(run, jobs), strict=True))
    kept: dict[str, object] = {"solver": "scripts/finite_volume.py, courant 0.9", "grids": GRIDS, "side": SIDE}
    for mass, times in TIMES.items():
        densities = [results[mass, cells][0] for cells in GRIDS]
        errors = [gaps(*pair) for pair in zip(densities, densities[1:], GRIDS, strict=False)]
        kept |= {
            f"times_{mass}": times,
            f"density_{mass}": densities[-1].astype(np.float32),
            f"energy_{mass}": results[mass, GRIDS[-1]][1],
            f"energy_coarse_{mass}": results[mass, GRIDS[-2]][1],
            f"l1_{mass}": np.array([l1 for l1, _ in errors]),  # (2, times): 8 to 16, 16 to 32 cells a unit
            f"w2_{mass}": np.array([w2 for _, w2 in errors]),
        }
    OUT.parent.mkdir(exist_ok=True)
    np.savez_compressed(OUT, **kept)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
