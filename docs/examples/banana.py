"""A banana in the plane: a Gaussian bent along a parabola, from N(0, I).

x_1 ~ N(0, s^2),   x_2 = b (x_1^2 - s^2) + N(0, 1/4)
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from gwfbench.fields import Positive, check_fields
from gwfbench.info import Initial, LogDensity, TargetSamples
from gwfbench.protocol import Instance, Problem, Truth
from gwfbench.rng import Streams

WIDTH = 0.5  # standard deviation across the parabola


@dataclass(frozen=True)
class Banana:
    bend: Positive = 0.5
    "curvature b of the parabola"
    scale: Positive = 1.5
    "standard deviation s along it"

    __post_init__ = check_fields

    offers: ClassVar = frozenset({Initial, LogDensity, TargetSamples})
    metrics: ClassVar = ("energy_distance", "sliced_w2", "mmd", "w2")  # the first is the headline
    points: ClassVar = 10_000
    version: ClassVar = 1
    smoke: ClassVar = {}
    reference: ClassVar = ""

    def build(self, rng: Streams) -> Instance:
        s, b = self.scale, self.bend

        def draw(n, streams):
            x, z = streams.normal(n, 2).unbind(-1)
            return torch.stack([s * x, b * s**2 * (x**2 - 1) + WIDTH * z], -1)

        def log_prob(x):
            across = (x[..., 1] - b * (x[..., 0] ** 2 - s**2)) / WIDTH
            return -0.5 * ((x[..., 0] / s) ** 2 + across**2) - math.log(2 * math.pi * s * WIDTH)

        def score(x):
            across = (x[..., 1] - b * (x[..., 0] ** 2 - s**2)) / WIDTH**2
            return torch.stack([2 * b * x[..., 0] * across - x[..., 0] / s**2, -across], -1)

        start = Initial(
            lambda n, streams: streams.normal(n, 2), lambda x: -0.5 * x.square().sum(-1) - math.log(2 * math.pi)
        )
        problem = Problem((2,), (math.inf,), (start, LogDensity(log_prob, score), TargetSamples(draw)))
        truth = Truth(
            draw=lambda index, n, streams: draw(n, streams),
            exact=True,
            log_prob=lambda index, x: log_prob(x),
            score=lambda index, x: score(x),
        )
        return Instance(problem, truth)
