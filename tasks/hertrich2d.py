"""Three densities in the plane from Hertrich and Gruhlke 2025; the flow of KL(. || pi), judged at its limit.

    modes      pi = 1/8 sum_k N(mu_k, 0.01 I),   mu_k = (cos(pi k / 4) - 1, sin(pi k / 4)), k = 0 ... 7
    peaky      the same with 0.005 I
    mustache   x = (-z1, (z1^2 - 1)^2 - z2),   z ~ N(0, [[1, 0.9], [0.9, 1]]): two tails that curve upwards
               pi(x) = N((x1, x2 - (x1^2 - 1)^2); 0, [[1, 0.9], [0.9, 1]]), as the map has determinant 1

(examples/energies.py of johertrich/neural_JKO_ic @74fe27a; their names are 8mixtures, 8peaky and schnauzbart.) P_0 =
N(0, start^2 I) with start = 1, as there. The circle of modes is not about P_0's mean, so that chains that don't cross
between modes have the wrong share in each; the paper calls them shifted. log Z = 0.

Of mustache, mean and covariance are exact: (0, 2) and [[1, 0.9], [0.9, 57]], by the moments of a normal law up to the
eighth. `mode_weights` and `emc` compare the shares of the eight modes (gwfbench/metrics/modes.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.fields import Positive, check_fields
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.metrics.modes import emc, mode_weights, posterior
from gwfbench.objectives.mixture import Mixture, in_double, normal_start
from gwfbench.protocol import Instance, Problem, Truth
from gwfbench.rng import Streams

MODES = 8
VARIANCES = {"modes": 0.01, "peaky": 0.005}
CORRELATION = 0.9  # of mustache's normal law


@dataclass(frozen=True)
class Hertrich2D:
    shape: Literal["modes", "peaky", "mustache"] = "modes"
    "target law"
    start: Positive = 1.0
    "standard deviation of P_0"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    metrics: ClassVar[tuple[str, ...]] = (
        *("energy_distance", "mode_weights", "emc", "emc_error", "log_z", "elbo", "eubo", "ess_reverse", "ess_forward"),
        *("sliced_w2", "sinkhorn", "sliced_energy", "mmd", "w2", "c2st", "ksd", "kl"),
        *("moments_mean", "moments_covariance", "b2_max", "b2_mean"),
    )
    points: ClassVar[int] = 100_000
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {}
    reference: ClassVar[str] = """@inproceedings{hertrich2025importance,
  title={Importance Corrected Neural {JKO} Sampling}, author={Hertrich, Johannes and Gruhlke, Robert},
  booktitle={ICML}, year={2025}}"""

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, rng: Streams) -> Instance:
        seeds, initial = len(rng.seeds), normal_start(2, self.start)
        if self.shape == "mustache":
            return Instance(Problem((2,), (math.inf,), (initial, LogDensity(_log_prob, _score))), _truth(seeds, rng))
        angles = torch.arange(MODES, device=rng.device, dtype=torch.float64) * (2 * math.pi / MODES)
        means = torch.stack([angles.cos() - 1, angles.sin()], -1).expand(seeds, -1, -1)
        weights = torch.full_like(angles, 1 / MODES)
        law = Mixture(means, weights, math.sqrt(VARIANCES[self.shape]))
        labels, shares = posterior(means, weights, law.scale), weights.expand(seeds, -1)
        problem = Problem((2,), (math.inf,), (initial, law.density()))
        return Instance(problem, law.truth(mode_weights(labels, shares), *emc(labels, shares)))


def _flat(x: Tensor) -> tuple[Tensor, Tensor]:
    """The normal law's coordinates, up to sign."""
    one, two = x.unbind(-1)
    return one, two - (one.square() - 1).square()


def _log_prob(x: Tensor) -> Tensor:
    one, two = _flat(x)
    determinant = 1 - CORRELATION**2
    square = (one.square() - 2 * CORRELATION * one * two + two.square()) / determinant
    return -0.5 * square - math.log(2 * math.pi) - 0.5 * math.log(determinant)


def _score(x: Tensor) -> Tensor:
    one, two = _flat(x)
    determinant = 1 - CORRELATION**2
    along, across = (CORRELATION * two - one) / determinant, (CORRELATION * one - two) / determinant
    return torch.stack([along - across * 4 * x[..., 0] * (x[..., 0].square() - 1), across], -1)


def _truth(seeds: int, rng: Streams) -> Truth:
    mean = torch.tensor([0.0, 2.0], dtype=torch.float64, device=rng.device).expand(seeds, 2)
    covariance = torch.tensor([[1.0, CORRELATION], [CORRELATION, 57.0]], dtype=torch.float64, device=rng.device)
    zero = torch.zeros(seeds, dtype=torch.float64, device=rng.device)

    def draw(index: int, n: int, streams: Streams) -> Tensor:
        one, other = streams.normal(n, 2).unbind(-1)
        two = CORRELATION * one + math.sqrt(1 - CORRELATION**2) * other
        return torch.stack([-one, (one.square() - 1).square() - two], -1)

    return Truth(
        draw,
        exact=True,
        log_prob=lambda index, x: in_double(_log_prob, x),
        score=lambda index, x: in_double(_score, x),
        moments=lambda index: (mean, covariance.expand(seeds, 2, 2)),
        log_z=(zero, zero),
    )
