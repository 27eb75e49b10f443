"""Bayesian logistic regression on a table of your own: the posterior of the weights w given its rows.

    p(y | w) = sigmoid(y w . f),  y in {-1, 1},  f = (1, features)      w ~ N(0, s^2 I),  s = `deviation`
    log p(w) = sum_i log sigmoid(y_i w . f_i) - |w|^2 / (2 s^2) + const

The last column is the class: two different numbers, of which the larger is y = 1. Features get mean 0 and variance 1
on the training part. Rows are permuted by NumPy's default_rng(42), the first int(0.8 N) for training; the others give
the predictive log-likelihood and accuracy. P_0 is the prior.

No draws of this posterior are known, so there is no distance to the truth and no `exact`. It is judged on the test
part, and by KSD, which needs the score alone and is 0 on average for draws of the truth. `blr` and `logistic` have data
sets whose posteriors are certified.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from gwfbench.datasets import logistic, own
from gwfbench.errors import require
from gwfbench.fields import Positive, check_fields
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.metrics import predictive
from gwfbench.metrics.stein import ksd_statistic
from gwfbench.protocol import Estimate, Instance, Judged, Metric, Problem, Truth
from gwfbench.rng import Streams

BUILT_IN = "breast_cancer"  # of scikit-learn
STEPS, TOLERANCE = 100, 1e-8  # of Newton's method


@dataclass(frozen=True)
class OwnLogistic:
    file: str = BUILT_IN
    """file of rows, each with features and, last, the class: .csv (with or without names), .npy or .npz;
    breast_cancer: scikit-learn's data set"""
    deviation: Positive = 1.0
    "standard deviation s of the prior of each weight"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    metrics: ClassVar[tuple[str, ...]] = ("ksd_laplace", "log_likelihood", "accuracy")
    points: ClassVar[int] = 4096
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {}
    reference: ClassVar[str] = ""

    __post_init__ = check_fields

    def data_files(self) -> list[Path]:
        return [] if self.file == BUILT_IN else [own.path("own_logistic", self.file)]

    def build(self, rng: Streams) -> Instance:
        train, test = (torch.from_numpy(part).to(rng.device) for part in self._signed())
        d, s = train.shape[1], self.deviation

        def log_prior(x: Tensor) -> Tensor:
            return -0.5 * (x / s).square().sum(-1) - 0.5 * d * math.log(2 * math.pi * s**2)

        prior = LogDensity(log_prior, lambda x: -x / s**2)
        start = Initial(lambda n, streams: s * streams.normal(n, d), log_prior)
        precise = logistic.posterior(prior, train)
        spread = laplace(precise, d, rng.device).diagonal().sum()
        ksd = Metric(
            "ksd_laplace", partial(_ksd, precise, float((2 * spread).sqrt())), 4096,
            "KSD^2 by the U-statistic, Gaussian kernel, as ksd (Liu, Lee and Jordan 2016; Fan et al. 2022, F.1); its "
            "bandwidth the root of 2 tr C, the typical distance of two points under Laplace's approximation N(m, C)",
        )  # fmt: skip
        truth = Truth(None, exact=False, score=None, metrics=(ksd, *predictive.metrics(test)))
        problem = Problem((d,), (math.inf,), (start, logistic.posterior(prior, train.to(rng.dtype))))
        return Instance(problem, truth)

    def _signed(self) -> tuple[np.ndarray, np.ndarray]:
        """y f of the training and of the test rows, float64."""
        rows = self._rows()
        rows = rows[np.random.default_rng(42).permutation(len(rows))]
        features, classes = rows[:, :-1], np.unique(rows[:, -1])
        require(
            len(classes) == 2 and features.shape[1] > 0, f"own_logistic:file={self.file}: {len(classes)} different "
            f"numbers in the last column of {rows.shape[1]}", "features, and two classes in the last column",
            "put the class last, as 0 and 1",
        )  # fmt: skip
        count = int(0.8 * len(rows))
        mean, spread = features[:count].mean(0), features[:count].std(0)
        spread[spread == 0] = 1.0
        f = np.concatenate([np.ones((len(rows), 1)), (features - mean) / spread], 1)
        signed = np.where(rows[:, -1:] == classes[1], 1.0, -1.0) * f
        return signed[:count], signed[count:]

    def _rows(self) -> np.ndarray:
        if self.file == BUILT_IN:
            from sklearn import datasets

            features, classes = datasets.load_breast_cancer(return_X_y=True)
            return np.column_stack([features, classes])
        (path,) = self.data_files()
        return own.table(path)


def laplace(law: LogDensity, d: int, device: torch.device) -> Tensor:
    """Laplace's covariance of a log-concave law, (d, d) float64: minus the inverse Hessian at its mode.

    The mode is found by Newton's method, whose step is halved until the log-density has risen.
    """
    w = torch.zeros(1, 1, d, dtype=torch.float64, device=device)

    def hessian(at: Tensor) -> Tensor:
        return torch.func.jacrev(lambda x: law.score(x[None, None])[0, 0])(at[0, 0])  # pyright: ignore[reportReturnType]

    for _ in range(STEPS):
        step = torch.linalg.solve(-hessian(w), law.score(w)[0, 0])
        while law.log_prob(w + step) < law.log_prob(w) and step.norm() > TOLERANCE:
            step = step / 2
        w = w + step
        if step.norm() <= TOLERANCE:
            break
    return torch.linalg.inv(-hessian(w))


def _ksd(law: LogDensity, bandwidth: float, judged: Judged) -> Estimate:
    x = judged.points
    found = [ksd_statistic(one, score, bandwidth) for one, score in zip(x, law.score(x.double()), strict=True)]
    return Estimate(torch.stack([value for value, _ in found]), torch.stack([se for _, se in found]), x.shape[1])
