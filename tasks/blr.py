"""Bayesian logistic regression: the posterior of weights w and their precision alpha, on nine benchmark data sets.

    x = (w, log alpha),   rows (f_i, y_i) with y_i in {-1, 1}
    alpha ~ Gamma(1, rate b),  b = 0.01     p(w | alpha) = N(0, I / alpha),  w in R^k     p(y | w) = sigmoid(y w . f)
    log p(x | data) = sum_i log sigmoid(y_i w . f_i)                                                (posterior=derived)
                      - alpha |w|^2 / 2 + (k / 2) log alpha - b alpha + log alpha + const

The last log alpha is the Jacobian of alpha -> log alpha. Fan et al. 2022 (section 5.3, F.4, Tables 2, 5, 6) take the
model of Gershman et al. 2012 as Liu and Wang 2016 have it: no intercept, a split of 4:1, and quality by the posterior
predictive law on the test part with at most 4096 draws of x. P_0 is the prior. The log alpha of its draws is clipped to
[-8, 8]; this affects one draw in 300 000 and is therefore left out of its density.

posterior=authors is the density of their code, without (k / 2) log alpha and the Jacobian, and with rate b = 100:

    log p(x) = sum_i log max(sigmoid(y_i w . f_i), 1e-5) - alpha |w|^2 / 2 - 100 alpha,   log alpha clipped to [-8, 8]

It tends to a constant as log alpha -> -inf, so it is not a probability law and has no truth. A row whose probability is
below 1e-5 does not pull on w, and alpha has no slope outside the clip.
The clip of P_0 affects 3.3 % of its draws here, so its density is not offered.

Data: gwfbench/data/blr/README.md gives, for each set, its source, how it was prepared to match the paper's, and the
remaining differences. All seeds share one split: rows permuted by NumPy's default_rng(42), the first int(0.8 N) for
training.

Truth: independent draws by rejection from a Student law, and moments by importance sampling from it that are as good as
those of at least 400,000 independent draws. Both passed the checks in the set's certificate, among others against a
NUTS run (scripts/blr_reference.py). Each seed gets its own draws, and metrics compare with other draws than `exact`
gives. There is no truth for covtype, which scikit-learn downloads, and for posterior=authors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from gwfbench.datasets import certified, logistic
from gwfbench.datasets.tables import FOLDER, digest, signed_rows
from gwfbench.fields import check_fields, refuse
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.metrics import predictive
from gwfbench.protocol import Instance, Problem, Truth
from gwfbench.rng import Streams

CLIP = 8.0  # of log alpha in P_0's draws, and in the authors' density
FLOOR = 1e-5  # of a row's probability in the authors' density


@dataclass(frozen=True)
class BLR:
    data: Literal["banana", "german", "diabetis", "image", "splice", "twonorm", "ringnorm", "waveform", "covtype"] = (
        "german"
    )
    "data set; scikit-learn downloads covtype"
    posterior: Literal["derived", "authors"] = "derived"
    "log-density; derived: the model's posterior; authors: that of Fan et al.'s code (improper, no truth)"
    data_root: str | None = None
    "scikit-learn's data folder, for covtype only; default: its own"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    metrics: ClassVar[tuple[str, ...]] = (
        *("w2", "sliced_w2", "energy_distance", "mmd", "ksd", "symkl", "symkl_debiased"),
        *("moments_mean", "moments_covariance", "log_likelihood", "accuracy"),
    )
    files: ClassVar[tuple[str, ...]] = ("data/blr",)
    points: ClassVar[int] = 4096
    version: ClassVar[int] = 2
    smoke: ClassVar[Mapping[str, object]] = {"data": "diabetis"}
    reference: ClassVar[str] = """@inproceedings{fan2022variational,
  title={Variational {W}asserstein gradient flow}, author={Fan, Jiaojiao and Zhang, Qinsheng and Taghvaei, Amirhossein
  and Chen, Yongxin}, booktitle={ICML}, year={2022}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        refuse(
            self,
            *("data_root", "data"),
            when=self.data_root is not None and self.data != "covtype",
            expected="a data_root with covtype only; the other sets come with the package",
        )

    def build(self, rng: Streams) -> Instance:
        derived = self.posterior == "derived"
        train, test = (torch.from_numpy(part).to(rng.device) for part in signed_rows(self.data, self.data_root))
        k = train.shape[1]
        law = _Prior(k, 0.01, 0.5 * k + 1) if derived else _Prior(k, 100.0, 0.0, CLIP)
        floor = 0.0 if derived else FLOOR
        start, prior = Initial(law.draw, law.log_prob if derived else None), LogDensity(law.log_prob, law.score)
        problem = Problem((k + 1,), (math.inf,), (start, logistic.posterior(prior, train.to(rng.dtype), floor=floor)))
        precise = logistic.posterior(prior, train, floor=floor)

        def score(index: int, x: Tensor) -> Tensor:
            return precise.score(x.double()).to(x.dtype)

        unknown = Truth(None, exact=False, score=score, metrics=predictive.metrics(test))
        found = reference(self.data) if derived else None
        if found is None:
            return Instance(problem, unknown)
        return Instance(
            problem, replace(unknown, **certified.truth(logistic.posterior(prior, train.cpu()).log_prob, found, rng))
        )


@dataclass(frozen=True)
class _Prior:
    """log p(w, log alpha) = power log alpha - alpha (rate + |w|^2 / 2) + constant; power k / 2 + 1 is the true one."""

    k: int
    rate: float
    power: float
    clip: float = math.inf  # of log alpha

    def draw(self, n: int, rng: Streams) -> Tensor:
        alpha = -torch.log1p(-rng.uniform(n, 1)) / self.rate
        log_alpha = alpha.log().clamp(-CLIP, CLIP)
        return torch.cat([rng.normal(n, self.k) * torch.exp(-log_alpha / 2), log_alpha], -1)

    def log_prob(self, x: Tensor) -> Tensor:
        constant = math.log(self.rate) - 0.5 * self.k * math.log(2 * math.pi)
        log_alpha = x[..., -1].clamp(-self.clip, self.clip)
        return self.power * log_alpha - log_alpha.exp() * (self.rate + 0.5 * x[..., :-1].square().sum(-1)) + constant

    def score(self, x: Tensor) -> Tensor:
        w, log_alpha = x[..., :-1], x[..., -1:].clamp(-self.clip, self.clip)
        alpha, inside = log_alpha.exp(), x[..., -1:].abs() <= self.clip
        slope = self.power - alpha * (self.rate + 0.5 * w.square().sum(-1, keepdim=True))
        return torch.cat([-alpha * w, inside * slope], -1)


def reference(name: str) -> dict[str, np.ndarray] | None:
    """mean and covariance of the set's posterior, and location, root, degrees and log_cap of its draws, all float64.

    None where there is no certificate, or one that did not pass.

    Raises:
        UserError: the certificate is of another truth or of other data.
    """
    return certified.read(
        *(FOLDER, name, f"blr:data={name}"), lambda: digest(signed_rows(name)[0]), "scripts/blr_reference.py"
    )
