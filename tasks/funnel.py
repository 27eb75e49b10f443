"""Neal's funnel: one coordinate sets the scale of all others; the flow of KL(. || pi), judged at its limit.

    x_0 ~ N(0, 3^2),   x_i | x_0 ~ N(0, e^{x_0}),   i = 1 ... d - 1,   P_0 = N(0, start^2 I)
    log pi(x) = log N(x_0; 0, 9) - (d - 1) (x_0 + log 2 pi) / 2 - e^{-x_0} sum_i x_i^2 / 2
    grad_0 log pi = -x_0 / 9 - (d - 1) / 2 + e^{-x_0} sum_i x_i^2 / 2,   grad_i log pi = -e^{-x_0} x_i
    mean 0,   covariance diag(9, e^{4.5}, ..., e^{4.5}),   log Z = 0

(Neal 2003, section 8, with d = 10.) 3 is the standard deviation of x_0, and e^{x_0} the variance of the others. P_0
with start = 1 is that of SMC in Blessing et al. 2024 ("Beyond ELBOs"). Their code clips the draws that it compares with
to [-30, 30] (sample_bounds in their settings of this target); here nothing is clipped, so that the draws have the
density.

The tails are heavy: E x_i^2 = e^{4.5} = 90, to which mostly draws with x_0 about 9 contribute, one in a thousand, and E
x_i^4 = 3 e^{18}. Wasserstein distances and moments of 1e5 points therefore depend mostly on the few furthest points,
that is on luck, and are not among the metrics. The truth has its moments all the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from gwfbench.fields import Positive, between, check_fields
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.objectives.mixture import in_double, normal_start
from gwfbench.protocol import Instance, Problem, Truth
from gwfbench.rng import Streams

SPREAD = 3.0  # standard deviation of x_0


@dataclass(frozen=True)
class Funnel:
    dim: Annotated[int, between(2, 1000)] = 10
    "dimension d"
    start: Positive = 1.0
    "standard deviation of P_0"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    metrics: ClassVar[tuple[str, ...]] = (
        *("energy_distance", "log_z", "elbo", "eubo", "ess_reverse", "ess_forward"),
        *("sliced_energy", "mmd", "ksd", "c2st", "kl"),
    )
    points: ClassVar[int] = 100_000
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {}
    reference: ClassVar[str] = """@article{neal2003slice,
  title={Slice sampling}, author={Neal, Radford M.}, journal={The Annals of Statistics}, volume={31}, number={3},
  pages={705--767}, year={2003}}
@inproceedings{blessing2024beyond, title={Beyond {ELBO}s: A Large-Scale Evaluation of Variational Methods for Sampling},
  author={Blessing, Denis and Jia, Xiaogang and Esslinger, Johannes and Vargas, Francisco and Neumann, Gerhard},
  booktitle={ICML}, year={2024}}"""

    __post_init__ = check_fields

    def build(self, rng: Streams) -> Instance:
        d, seeds = self.dim, len(rng.seeds)
        mean = torch.zeros(seeds, d, dtype=torch.float64, device=rng.device)
        variance = torch.full_like(mean, math.exp(SPREAD**2 / 2))
        variance[:, 0] = SPREAD**2
        truth = Truth(
            draw=lambda index, n, streams: _draw(d, n, streams),
            exact=True,
            log_prob=lambda index, x: in_double(_log_prob, x),
            score=lambda index, x: in_double(_score, x),
            moments=lambda index: (mean, variance.diag_embed()),
            log_z=(mean[:, 0], mean[:, 0]),
        )
        return Instance(Problem((d,), (math.inf,), (normal_start(d, self.start), LogDensity(_log_prob, _score))), truth)


def _draw(d: int, n: int, rng: Streams) -> Tensor:
    x = rng.normal(n, d)
    mouth = SPREAD * x[..., :1]
    return torch.cat([mouth, (mouth / 2).exp() * x[..., 1:]], -1)


def _log_prob(x: Tensor) -> Tensor:
    mouth, d = x[..., 0], x.shape[-1]
    constant = math.log(SPREAD) + 0.5 * d * math.log(2 * math.pi)
    return -0.5 * ((mouth / SPREAD).square() + (d - 1) * mouth + _squares(x)) - constant


def _score(x: Tensor) -> Tensor:
    mouth, d = x[..., 0], x.shape[-1]
    first = 0.5 * (_squares(x) - (d - 1)) - mouth / SPREAD**2
    return torch.cat([first[..., None], -(-x[..., :1]).exp() * x[..., 1:]], -1)


def _squares(x: Tensor) -> Tensor:
    """e^{-x_0} sum_i x_i^2, of the scaled coordinates, which overflow later than the factor."""
    return ((-x[..., :1] / 2).exp() * x[..., 1:]).square().sum(-1)
