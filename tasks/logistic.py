"""Bayesian logistic regression with a known log Z: the posterior of the weights given all rows, and its evidence.

    p(y | w) = sigmoid(y w . f),  y in {-1, 1},  f = (1, features)      w ~ N(0, s^2 I),  s = 1 (credit: s = 10)
    log gamma(w) = sum_i log sigmoid(y_i w . f_i) - |w|^2 / (2 s^2) - (d / 2) log(2 pi s^2)
    Z = integral of gamma = p(y), the evidence

This is the model of the evidence literature. It has no scale parameter and no split into training and test rows, unlike
task `blr`. The intercept comes first and has the same prior as the other weights. P_0 is the prior.

| data | rows | d | features | sources |
|---|---|---|---|---|
| sonar | 208 | 61 | mean 0, variance 1 | Vargas et al. 2023 (DDS); Doucet et al. 2022 |
| ionosphere | 351 | 35 | mean 0, variance 1; the second is constant, so 0, and its weight keeps its prior | the same |
| credit | 1000 | 25 | 24 numbers, variance 1, the mean not taken off | Blessing et al. 2024 (Beyond ELBOs) |

Some variants have the same name elsewhere. Blessing et al.'s code has credit's prior commented out (before February
2025), so that its log Z is that of the likelihood alone: `prior=none` here, with the same P_0. In the code of DDS the
files of sonar and ionosphere carry each other's names; the numbers of features tell which is which.

log Z is the log of the mean weight of an importance sample of about a million points, with a standard error below
0.005. Repeated tempered SMC runs agree (scripts/logistic_reference.py; gwfbench/data/logistic/NAME.json has all
numbers). The truth's draws, moments and `log_prob` are certified in the same way (gwfbench/datasets/certified.py). A
data set whose certificate is not in the package has no truth yet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.datasets import certified, logistic
from gwfbench.datasets.tables import WHOLE, digest, whole
from gwfbench.fields import check_fields, refuse
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.protocol import Instance, Problem, Truth
from gwfbench.rng import Streams

DEVIATION = {"sonar": 1.0, "ionosphere": 1.0, "credit": 10.0}  # s


@dataclass(frozen=True)
class Logistic:
    data: Literal["sonar", "ionosphere", "credit"] = "ionosphere"
    "data set; each comes with the package"
    prior: Literal["yes", "none"] = "yes"
    "prior in the log-density; yes: N(0, s^2 I); none: the likelihood alone, as in published code (credit only)"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    metrics: ClassVar[tuple[str, ...]] = (
        *("sliced_w2", "energy_distance", "mmd", "ksd", "w2", "kl", "symkl", "symkl_debiased"),
        *("log_z", "elbo", "eubo", "ess_reverse", "ess_forward", "sliced_energy", "sinkhorn", "b2_max", "b2_mean"),
        *("moments_mean", "moments_covariance"),
    )
    files: ClassVar[tuple[str, ...]] = ("data/logistic", "data/blr/german.dat.gz")
    points: ClassVar[int] = 4096
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {}
    reference: ClassVar[str] = """@inproceedings{blessing2024beyond,
  title={Beyond {ELBO}s: A large-scale evaluation of variational methods for sampling}, author={Blessing, Denis and Jia,
  Xiaogang and Esslinger, Johannes and Vargas, Francisco and Neumann, Gerhard}, booktitle={ICML}, year={2024}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        refuse(
            self,
            *("prior", "data"),
            when=self.prior == "none" and self.data != "credit",
            expected="prior=none with credit only: without a prior the others' likelihood has no finite integral "
            "that is known",
            fix="write logistic:data=credit,prior=none, or leave out prior",
        )

    def build(self, rng: Streams) -> Instance:
        host = torch.from_numpy(whole(self.data))
        rows, d = host.to(rng.device), host.shape[1]
        normal = _Normal(d, DEVIATION[self.data])
        prior = LogDensity(normal.log_prob, normal.score) if self.prior == "yes" else _FLAT
        start = Initial(lambda n, streams: normal.deviation * streams.normal(n, d), normal.log_prob)
        problem = Problem((d,), (math.inf,), (start, logistic.posterior(prior, rows.to(rng.dtype))))
        precise = logistic.posterior(prior, rows)

        def score(index: int, x: Tensor) -> Tensor:
            return precise.score(x.double()).to(x.dtype)

        found = certified.read(WHOLE, self._name(), self._typed(), lambda: digest(whole(self.data)), _SCRIPT)
        if found is None:
            return Instance(problem, Truth(None, exact=False, score=score))
        log_z, error = (
            torch.full((len(rng.seeds),), found[key].item(), dtype=torch.float64, device=rng.device)
            for key in ("log_z", "log_z_se")
        )

        def log_prob(index: int, x: Tensor) -> Tensor:
            return (precise.log_prob(x.double()) - log_z[:, None]).to(x.dtype)

        known = certified.truth(logistic.posterior(prior, host).log_prob, found, rng)
        truth = Truth(None, exact=True, score=score, log_prob=log_prob, log_z=(log_z, error))
        return Instance(problem, replace(truth, **known))

    def remarks(self) -> list[str]:
        if WHOLE.joinpath(f"{self._name()}.json").is_file():
            return []
        return [f"no metric: {self._typed()} has no certificate yet; {_SCRIPT} {self._name()} makes it"]

    def _name(self) -> str:
        return self.data if self.prior == "yes" else f"{self.data}_none"

    def _typed(self) -> str:
        return f"logistic:data={self.data}" + ("" if self.prior == "yes" else ",prior=none")


_SCRIPT = "scripts/logistic_reference.py"
_FLAT = LogDensity(lambda x: torch.zeros_like(x[..., 0]), torch.zeros_like)  # no prior


@dataclass(frozen=True)
class _Normal:
    """N(0, deviation^2 I) in R^d."""

    d: int
    deviation: float

    def log_prob(self, x: Tensor) -> Tensor:
        return -0.5 * (x / self.deviation).square().sum(-1) - 0.5 * self.d * math.log(2 * math.pi * self.deviation**2)

    def score(self, x: Tensor) -> Tensor:
        return -x / self.deviation**2
