"""Two modes of unequal weight: how the error of the weights grows with separation and dimension.

    pi(x) = w N(x; -a 1, v I) + (1 - w) N(x; a 1, v I),   1 = (1, ..., 1) in R^d,   P_0 = N(0, start^2 I),   log Z = 0

Grenioux, Noble and Gabrie 2025 propose to judge samplers by the weight of the modes of such a law as the modes part and
d grows. The numbers are those of the same authors' code: w = 2/3, v = 0.05, a = 1, and modes that are not moved
(sde_sampler_lrds, sde_sampler/distr/gauss.py, TwoModes). In another code of theirs (slips,
experiments/two_modes_utils.py) all is also moved by a / 3, which makes the mean 0: centered=true. Their ill-conditioned
covariances are not offered. The default dimension and P_0 are ours: start = sqrt(a^2 + v), the root mean square of a
coordinate under pi (not centred), so that P_0 reaches both modes at each separation.

The modes are 2 a sqrt(d) apart; in units of their own width that is 2 a sqrt(d / v), 28 with the defaults.
`mode_weights` is |share of the points in the first mode - w|; a point's mode is drawn by its posterior probability
(gwfbench/metrics/modes.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from gwfbench.fields import Interior, Positive, between, check_fields
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.metrics.modes import emc, mode_weights, posterior
from gwfbench.objectives.mixture import Mixture, normal_start
from gwfbench.protocol import Instance, Problem
from gwfbench.rng import Streams


@dataclass(frozen=True)
class TwoMode:
    dim: Annotated[int, between(1, 1000)] = 10
    "dimension d"
    separation: Positive = 1.0
    "half distance a between the modes, in each coordinate"
    weight: Interior = 2 / 3
    "weight w of the mode at -a"
    variance: Positive = 0.05
    "variance v of both modes, in each coordinate"
    centered: bool = False
    "whether the target is moved so that its mean is 0"
    start: Positive | None = None
    "standard deviation of P_0; default: sqrt(a^2 + v)"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    metrics: ClassVar[tuple[str, ...]] = (
        *("mode_weights", "energy_distance", "emc", "emc_error", "log_z", "elbo", "eubo", "ess_reverse", "ess_forward"),
        *("sliced_w2", "sinkhorn", "sliced_energy", "mmd", "w2", "c2st", "ksd", "kl"),
        *("moments_mean", "moments_covariance", "b2_max", "b2_mean"),
    )
    points: ClassVar[int] = 100_000
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {}
    reference: ClassVar[str] = """@article{grenioux2025improving,
  title={Improving the evaluation of samplers on multi-modal targets}, author={Grenioux, Louis and Noble, Maxence and
  Gabri{\\'e}, Marylou}, journal={arXiv preprint arXiv:2504.08916}, year={2025}}"""

    __post_init__ = check_fields

    def build(self, rng: Streams) -> Instance:
        a, w = self.separation, self.weight
        sides = torch.tensor([-a, a], dtype=torch.float64, device=rng.device)
        if self.centered:
            sides = sides + (2 * w - 1) * a
        means = sides[:, None].expand(len(rng.seeds), 2, self.dim)
        law = Mixture(means, torch.tensor([w, 1 - w], dtype=torch.float64, device=rng.device), math.sqrt(self.variance))
        start = math.sqrt(a**2 + self.variance) if self.start is None else self.start
        problem = Problem((self.dim,), (math.inf,), (normal_start(self.dim, start), law.density()))
        labels, shares = posterior(means, law.weights, law.scale), law.weights.expand(len(rng.seeds), -1)
        return Instance(problem, law.truth(mode_weights(labels, shares), *emc(labels, shares)))
