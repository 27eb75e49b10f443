"""Draws of task `lj13`, and a certificate: many independent chains of HMC, from two starts that have to agree.

    python scripts/lj13_reference.py [once] [twice]     (run from the checkout; no name: both)

Both densities are fluid at their temperature (a pair's depth is 1 or 2), so that chains mix. CHAINS chains, half of
them from the icosahedron, a little too wide, and half from a gas without it, each for STEPS steps of HMC (float32; the
energy is apart from the task's: differences are one matrix product). Only the last state of each is kept: draws are
independent.

Checks, of which none uses the task's code except for the last: chains from both starts have the same means of energy,
trap, nearest distance and largest distance from the centre (within 4 standard errors of the gap); the same means a
third of the run before (within 4); and E[score] = 0 and E[z . grad U] = 36 within 5, by the task's score in float64.

It writes gwfbench/data/lj13/NAME.npz (`z`: 16-bit integers, times `scale` the draws, (CHAINS, 36), in random order) and
NAME.json. Rounding moves a particle by at most half of `scale`, about 1e-4. About two minutes of one core.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gwfbench.metrics.clusters import helmert
from gwfbench.plugins import registry

FOLDER = Path(__file__).parents[1] / "gwfbench" / "data" / "lj13"
DEPTHS = {"once": 1.0, "twice": 2.0}
CHAINS, STEPS, LEAPFROGS, SIZES = 4096, 450, 12, {"once": 0.035, "twice": 0.027}
SEED, N = 20261128, 13
FIRST, SECOND = np.triu_indices(N, 1)
GAPS = torch.zeros(len(FIRST), N, dtype=torch.float64)  # x_i - x_j of all pairs as one product with z
GAPS[range(len(FIRST)), FIRST], GAPS[range(len(SECOND)), SECOND] = 1.0, -1.0
GAPS = GAPS @ helmert(N)


def energy_and_slope(z: Tensor, depth: float) -> tuple[Tensor, Tensor]:
    """U and grad U, z (N - 1, 3, chains) -> (chains,) and like z."""
    gaps = GAPS.to(z)
    gap = (gaps @ z.flatten(1)).unflatten(1, z.shape[1:])
    inverse = gap.square().sum(1).reciprocal()
    cube = inverse**3
    push = (12 * depth * inverse * cube * (1 - cube))[:, None] * gap
    slope = (gaps.T @ push.flatten(1)).unflatten(1, z.shape[1:]) + z
    return depth * (cube * (cube - 2)).sum(0) + 0.5 * z.square().sum((0, 1)), slope


def starts(depth: float, rng: torch.Generator) -> Tensor:
    """Half icosahedra, half gas from which overlaps are pushed out, (N - 1, 3, CHAINS)."""
    golden = (1 + math.sqrt(5)) / 2
    corners = [(0.0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    x = torch.tensor([(0.0, 0.0, 0.0), *(corner[k:] + corner[:k] for corner in corners for k in range(3))]).double()
    x = 1.1 * x / math.hypot(1, golden)
    near = (x[..., None] + 0.05 * torch.randn(N, 3, CHAINS // 2, generator=rng, dtype=torch.float64)).permute(2, 0, 1)
    solid = (helmert(N).T @ near).permute(1, 2, 0)
    gas = 1.5 * torch.randn(N - 1, 3, CHAINS // 2, generator=rng, dtype=torch.float64)
    for _ in range(400):
        gas = gas - (1e-3 * energy_and_slope(gas, depth)[1]).clamp(-0.02, 0.02)
    return torch.cat([solid, gas], -1).float()


def look(z: Tensor, depth: float) -> Tensor:
    """Energy, trap, nearest distance and largest distance from the centre, (4, chains)."""
    z = z.double()
    distance = (GAPS @ z.flatten(1)).unflatten(1, z.shape[1:]).norm(dim=1)
    centre = (helmert(N) @ z.flatten(1)).unflatten(1, z.shape[1:]).norm(dim=1)
    trap = 0.5 * z.square().sum((0, 1))
    return torch.stack([energy_and_slope(z, depth)[0], trap, distance.amin(0), centre.amax(0)])


def apart(one: Tensor, other: Tensor) -> float:
    """The largest gap of means, in standard errors, (k, n) and (k, m)."""
    error = (one.var(1) / one.shape[1] + other.var(1) / other.shape[1]).sqrt()
    return float(((one.mean(1) - other.mean(1)).abs() / error).max())


def run(name: str) -> tuple[Tensor, dict[str, float]]:
    """Last states (CHAINS, 36), float64, and the numbers of the certificate that need the chains."""
    depth, size = DEPTHS[name], SIZES[name]
    rng = torch.Generator().manual_seed(SEED)
    z, accepted, before = starts(depth, rng), 0.0, torch.empty(0)
    at, slope = energy_and_slope(z, depth)
    for step in range(STEPS):
        p = torch.randn(z.shape, generator=rng)
        y, u, grad, kinetic = z, at, slope, 0.5 * p.square().sum((0, 1))
        for _ in range(LEAPFROGS):
            p = p - size / 2 * grad
            y = y + size * p
            u, grad = energy_and_slope(y, depth)
            p = p - size / 2 * grad
        gain = at - u + kinetic - 0.5 * p.square().sum((0, 1))
        good = torch.rand(CHAINS, generator=rng).log() < gain
        z, at, slope = torch.where(good, y, z), torch.where(good, u, at), torch.where(good, grad, slope)
        accepted += float(good.float().mean()) / STEPS
        if step == 2 * STEPS // 3:
            before = look(z, depth)
        if step % 50 == 0:
            print(name, step, look(z, depth).unflatten(1, (2, -1)).mean(-1).T.tolist(), flush=True)
    seen = look(z, depth)
    numbers = {
        "accepted": accepted,
        "starts_apart": apart(seen[:, : CHAINS // 2], seen[:, CHAINS // 2 :]),
        "times_apart": apart(before, seen),
        "energy": float(seen[0].mean()),
        "energy_se": float(seen[0].std()) / CHAINS**0.5,
        "trap": float(seen[1].mean()),
        "trap_se": float(seen[1].std()) / CHAINS**0.5,
    }
    order = torch.randperm(CHAINS, generator=rng)
    return z.double().permute(2, 0, 1).flatten(1)[order], numbers


def certify(name: str) -> bool:
    """Make the draws of one density, write its two files, and say whether every check passed."""
    began = time.perf_counter()
    z, numbers = run(name)
    scale = float(z.abs().max()) / 32767
    whole = (z / scale).round().short()
    task = sys.modules[registry.find("task", "lj13").load().__module__]
    score = task.log_slope(whole.double() * scale, DEPTHS[name])
    virial = -(whole.double() * scale * score).sum(-1)
    root = CHAINS**0.5
    numbers["score_worst"] = float((score.mean(0).abs() / score.std(0)).max()) * root
    numbers["virial"], numbers["virial_se"] = float(virial.mean()), float(virial.std()) / root
    numbers["virial_apart"] = abs(numbers["virial"] - z.shape[1]) / numbers["virial_se"]
    bounds = {"starts_apart": 4, "times_apart": 4, "score_worst": 5, "virial_apart": 5}
    checks = {f"{key} < {bound}": numbers[key] < bound for key, bound in bounds.items()}
    checks["accepted > 0.6"] = numbers["accepted"] > 0.6
    np.savez_compressed(FOLDER / f"{name}.npz", z=whole.numpy(), scale=scale)
    certificate = {
        "density": f"lj13:pairs={name}",
        "chains": CHAINS,
        "steps": STEPS,
        "leapfrogs": LEAPFROGS,
        "size": SIZES[name],
        "seed": SEED,
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "seconds": round(time.perf_counter() - began, 1),
        "numbers": numbers,
        "checks": checks,
        "sha256": hashlib.sha256((FOLDER / f"{name}.npz").read_bytes()).hexdigest(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    (FOLDER / f"{name}.json").write_text(json.dumps(certificate, indent=1) + "\n")
    print(name, numbers, [check for check, good in checks.items() if not good], flush=True)
    return all(checks.values())


if __name__ == "__main__":
    failed = [name for name in sys.argv[1:] or DEPTHS if not certify(name)]
    if failed:
        sys.exit(f"did not pass: {', '.join(failed)}; the reason is in their certificates")
