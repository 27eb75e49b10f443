"""Samples of your own: one half of the points of a file is the target, and metrics compare with the other half.

    x = (row - mean) / deviation, both of the training half, column by column          (scale=standard)

Rows are permuted by NumPy's default_rng(42). Methods get the first half, drawn with replacement. The control `exact`
draws from it too, without replacement. Metrics compare with the second half. So `exact` shows what a method can reach
that knows no more than the training half. P_0 is N(0, start^2 I).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from gwfbench.datasets import own
from gwfbench.fields import Positive, check_fields
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.protocol import Instance, Problem, Truth
from gwfbench.rng import Streams

BUILT_IN = ("iris", "wine")  # of scikit-learn


@dataclass(frozen=True)
class OwnSamples:
    file: str = "iris"
    "file of points, one per row: .csv (with or without names), .npy or .npz; iris, wine: scikit-learn's data sets"
    scale: Literal["standard", "none"] = "standard"
    "scale of the columns; standard: mean 0 and variance 1 in each column of the training half; none: that of the file"
    start: Positive = 1.0
    "standard deviation of P_0"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, TargetSamples})
    metrics: ClassVar[tuple[str, ...]] = ("sliced_w2", "energy_distance", "mmd", "w2", "c2st")
    points: ClassVar[int] = 10_000
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {}
    reference: ClassVar[str] = ""

    __post_init__ = check_fields

    def data_files(self) -> list[Path]:
        return [] if self.file in BUILT_IN else [own.path("own_samples", self.file)]

    def build(self, rng: Streams) -> Instance:
        train, test = (torch.from_numpy(part).to(rng.device) for part in self._halves())
        d = train.shape[1]

        def start(n: int, streams: Streams) -> Tensor:
            return self.start * streams.normal(n, d)

        def log_start(x: Tensor) -> Tensor:
            return -0.5 * (x / self.start).square().sum(-1) - 0.5 * d * math.log(2 * math.pi * self.start**2)

        def samples(n: int, streams: Streams) -> Tensor:
            return train[streams.integers(len(train), n)].to(streams.dtype)

        def draw(part: Tensor, n: int, streams: Streams) -> Tensor:
            order = replace(streams, dtype=torch.float64).uniform(len(part)).argsort(1)
            return part[order[:, :n]].to(streams.dtype)  # without replacement

        truth = Truth(
            lambda index, n, streams: draw(train, n, streams),
            exact=True,
            limit=len(train),
            reference=lambda index, n, streams: draw(test, n, streams),
            points=min(self.points, len(test)),
        )
        return Instance(Problem((d,), (math.inf,), (Initial(start, log_start), TargetSamples(samples))), truth)

    def _halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Training and test points, float64, in units of the task."""
        rows = self._rows()
        rows = rows[np.random.default_rng(42).permutation(len(rows))]
        train, test = np.array_split(rows, 2)
        if self.scale == "none":
            return train, test
        spread = train.std(0)
        spread[spread == 0] = 1.0  # a column that is constant
        return (train - train.mean(0)) / spread, (test - train.mean(0)) / spread

    def _rows(self) -> np.ndarray:
        if self.file in BUILT_IN:
            from sklearn import datasets

            made = {"iris": datasets.load_iris, "wine": datasets.load_wine}[self.file]
            return np.asarray(made(return_X_y=True)[0])
        (path,) = self.data_files()
        return own.table(path)
