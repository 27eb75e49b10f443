"""DW4: four particles in the plane, where the energy of each pair is a double well of its distance.

    U(x) = sum_{i < j} a (|x_i - x_j| - 4)^4 + b (|x_i - x_j| - 4)^2,   a = 0.9,  b = -4        pi(x) = exp(-U(x)) / Z

Each pair counts once, at temperature 1 (Koehler et al. 2020, section 5.3, in the units of bgflow; the same numbers in
Midgley et al. 2023 and Akhound-Sadegh et al. 2024). A pair is at rest at 4 - (20 / 9)^(1/2) = 2.509 and at 5.491, and U
is unchanged by rotations, reflections and permutations.

It is also unchanged by translations, so that exp(-U) has no integral over R^8, the space that published code takes.
Here a point is z in R^6, coordinates of the mean-free subspace in an orthonormal basis (gwfbench/metrics/clusters.py);
density, score, moments and Z are all with respect to its volume. P_0 = N(0, start^2 I) in z.

Truth, all of it exact:

* draws by rejection. Particle 1 is at the origin, the others are around it at distances from r exp(-V(r)) and uniform
  angles, V one pair's energy. This is kept with probability exp(-V) / max exp(-V) of the other three pairs; then the
  mean is taken off.
* log Z by quadrature. With W(r) = r exp(-V(r)) and A_k(r, s) the k-th Fourier coefficient, in the angle, of exp(-V) of
  the distance of two particles at r and s from particle 1, Z = (2 pi)^3 / 4 sum_k tr (W A_k)^3; the diagonal of the
  same sum is the law of one pair distance. The factor 1 / 4 is the volume: dz = N^{-D/2} du for positions u relative to
  particle 1. Three grids give the same 14 digits; tests/exact/test_dw4.py computes it again.
* moments by symmetry: mean 0 and covariance E|x_1 - x_2|^2 / 4 I.

The file of reference draws that the literature shares (`test_split_DW4.npy` in the repository jarridrb/DEM, from MCMC)
has E|x_1 - x_2|^2 = 17.57 where the law has 18.18.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gwfbench.datasets import certified
from gwfbench.fields import Positive, check_fields
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.metrics.clusters import cluster_metrics, coordinates, pairs, positions, push
from gwfbench.protocol import Instance, Problem, Truth
from gwfbench.rng import Streams

N, D = 4, 2  # particles, dimensions
A, B, OFFSET = 0.9, -4.0, 4.0
LEAST = -(B**2) / (4 * A)  # of V
LOG_Z = 29.6672322329043  # of exp(-U) on the mean-free subspace
SQUARE = 18.18308853456367  # E|x_1 - x_2|^2
LOW, HIGH, CELLS = 1.0, 7.0, 2**14  # of the radii that rejection proposes: exp(-V) is below 1e-17 of its most elsewhere
PROPOSALS = 2**16  # of one round of rejection
SLACK = 1.02  # most that W may exceed its value in the middle of a cell
CHUNK = 16384  # points that the truth takes to float64 at once


@dataclass(frozen=True)
class DW4:
    start: Positive = 2.0
    "standard deviation of P_0; at the default, pairs of P_0 are about as far apart as the target's"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    metrics: ClassVar[tuple[str, ...]] = (
        *("energy_tv", "distance_tv", "virial", "aligned_w2", "sliced_w2", "energy_distance", "mmd", "ksd", "w2", "kl"),
        *("log_z", "elbo", "eubo", "ess_reverse", "ess_forward", "moments_covariance"),
    )
    points: ClassVar[int] = 4096
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {}
    reference: ClassVar[str] = """@inproceedings{kohler2020equivariant,
  title={Equivariant flows: Exact likelihood generative learning for symmetric densities},
  author={K{\\"o}hler, Jonas and Klein, Leon and No{\\'e}, Frank}, booktitle={ICML}, year={2020}}"""

    __post_init__ = check_fields

    def build(self, rng: Streams) -> Instance:
        d, start = D * (N - 1), self.start

        def log_initial(x: Tensor) -> Tensor:
            return -0.5 * x.square().sum(-1) / start**2 - 0.5 * d * math.log(2 * math.pi * start**2)

        initial = Initial(lambda n, streams: start * streams.normal(n, d), log_initial)
        problem = Problem((d,), (math.inf,), (initial, LogDensity(log_density, score)))
        zeros = torch.zeros(len(rng.seeds), dtype=torch.float64, device=rng.device)
        identity = torch.eye(d, dtype=torch.float64, device=rng.device).expand(len(rng.seeds), d, d)

        def log_prob(index: int, x: Tensor) -> Tensor:
            parts = [(log_density(part.double()) - LOG_Z).to(x.dtype) for part in x.split(CHUNK, 1)]
            return torch.cat(parts, 1)

        truth = Truth(
            draw=lambda index, n, streams: draw(n, streams).to(streams.device, streams.dtype),
            exact=True,
            limit=certified.POOL,
            reference=certified.pool(draw, rng),
            log_prob=log_prob,
            score=lambda index, x: torch.cat([score(part.double()).to(x.dtype) for part in x.split(CHUNK, 1)], 1),
            moments=lambda index: (zeros[:, None].expand(-1, d), SQUARE / 4 * identity),
            metrics=cluster_metrics(lambda z: -log_density(z), score, N, 512),
            log_z=(zeros + LOG_Z, zeros),
        )
        return Instance(problem, truth)


def _pair(distance: Tensor) -> Tensor:
    """V, the energy of a pair."""
    t = (distance - OFFSET).square()
    return A * t * t + B * t


def log_density(z: Tensor) -> Tensor:
    """-U, (S, n, 6) -> (S, n)."""
    return -_pair(pairs(positions(z, N))[1]).sum(-1)


def score(z: Tensor) -> Tensor:
    gap, distance = pairs(positions(z, N))
    t = distance - OFFSET
    slope = 4 * A * t**3 + 2 * B * t
    return coordinates(push(gap, -slope / distance.clamp_min(torch.finfo(z.dtype).tiny), N))


def draw(n: int, rng: Streams) -> Tensor:
    """(S, n, 6), float64 on the CPU; a seed's draws depend on its own stream alone."""
    keys = rng.host().integers(2**62, 1)[:, 0].tolist()
    return torch.stack([_draw(n, Streams((key,), dtype=torch.float64)) for key in keys])


def _draw(n: int, rng: Streams) -> Tensor:
    width = (HIGH - LOW) / CELLS
    middle = LOW + width * (torch.arange(CELLS, dtype=torch.float64) + 0.5)
    table = (middle * (LEAST - _pair(middle)).exp()).cumsum(0)

    def uniform(count: int) -> Tensor:
        return rng.uniform(count)[0]

    def radius(count: int) -> tuple[Tensor, Tensor]:
        """Distances from particle 1 by the table, and how much more W is there, at most SLACK."""
        middles = middle[torch.searchsorted(table, uniform(count) * table[-1]).clamp_max(CELLS - 1)]
        r = middles + width * (uniform(count) - 0.5)
        return r, r / middles * (_pair(middles) - _pair(r)).exp()

    def factor(square: Tensor) -> Tensor:
        return (LEAST - _pair(square.sqrt())).exp()

    kept, count = list[Tensor](), 0
    while count < n:
        # particle 2 on the first axis, 3 around 1
        (r2, more), (r3, even_more) = radius(PROPOSALS), radius(PROPOSALS)
        angle = 2 * math.pi * uniform(PROPOSALS)
        good = uniform(PROPOSALS) < factor(r2**2 + r3**2 - 2 * r2 * r3 * angle.cos()) * more * even_more / SLACK**2
        second, third = torch.polar(r2[good], torch.zeros_like(r2[good])), torch.polar(r3[good], angle[good])
        r4, more = radius(len(second))
        fourth = torch.polar(r4, 2 * math.pi * uniform(len(second)))
        both = factor((second - fourth).abs().square()) * factor((third - fourth).abs().square())
        good = uniform(len(second)) < both * more / SLACK
        x = torch.stack([torch.zeros_like(fourth), second, third, fourth], 1)[good]
        turn = torch.polar(torch.ones(len(x), 1, dtype=torch.float64), 2 * math.pi * uniform(len(x))[:, None])
        kept.append(coordinates(torch.view_as_real(turn * x)))
        count += len(x)
    return torch.cat(kept)[:n]
