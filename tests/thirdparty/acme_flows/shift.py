"""A Gaussian that moves: the flow of KL(. || N(b, I)) from N(0, I), whose law is N((1 - e^-t) b, I) at time t."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from gwfbench.fields import Positive, between, check_fields
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.protocol import Instance, Problem, Truth
from gwfbench.rng import Streams


@dataclass(frozen=True)
class Shift:
    dim: Annotated[int, between(1, 100)] = 2
    "dimension d"
    horizon: Positive = 0.5
    "judged time"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    metrics: ClassVar[tuple[str, ...]] = ("symkl", "bures_w2")
    points: ClassVar[int] = 20_000
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {}
    reference: ClassVar[str] = """@misc{acme2026shift, title={An example}}"""

    __post_init__ = check_fields

    def build(self, rng: Streams) -> Instance:
        b = (2 + rng.fork("b").host().normal(self.dim)).to(rng.device)  # (S, d)
        mean = (1 - math.exp(-self.horizon)) * b

        def log_normal(x: Tensor, m: Tensor) -> Tensor:
            return -0.5 * ((x - m.to(x.dtype)[:, None]).square().sum(-1) + self.dim * math.log(2 * math.pi))

        start = Initial(lambda n, streams: streams.normal(n, self.dim), lambda x: log_normal(x, torch.zeros_like(b)))
        target = LogDensity(lambda x: log_normal(x, b), lambda x: b.to(x.dtype)[:, None] - x)
        truth = Truth(
            draw=lambda index, n, streams: mean.to(streams.dtype)[:, None] + streams.normal(n, self.dim),
            exact=True,
            log_prob=lambda index, x: log_normal(x, mean),
            score=lambda index, x: mean.to(x.dtype)[:, None] - x,
            moments=lambda index: (mean, torch.eye(self.dim).to(mean).expand(len(b), -1, -1)),
        )
        return Instance(Problem((self.dim,), (self.horizon,), (start, target)), truth)
