"""Denoising diffusion sampler: a diffusion from a normal law with a learnt drift, which makes it end at the target.

    y_0 ~ N(0, sigma^2 I),   y_{k+1} = sqrt(1 - a_k) y_k + 2 l_k b(k, y_k) + sigma sqrt(a_k) e_k
    l_k = 1 - sqrt(1 - a_k),   e_k ~ N(0, I),   k = 0 ... K - 1

(Vargas, Grathwohl and Doucet 2023, where b = sigma^2 f.) Without b, the law of this process is N(0, sigma^2 I) at each
k, exactly, since its linear part is solved exactly. A path has the weight

    log w = log gamma(y_K) - log N(y_K; 0, sigma^2 I) - sum_k [2 l_k^2 / (sigma^2 a_k) |b_k|^2
                                                              + 2 l_k / (sigma sqrt(a_k)) b_k . e_k]

for the unnormalised density gamma of the target, so that E w = Z for any b and any K. The loss is -E log w, by Adam,
through the paths (training/paths.py, with u_k = 2 l_k / (sigma sqrt(a_k)) b_k).

Network: b = NN_1(k, y) + NN_2(k) * clip(grad log gamma(y)) (nn/score_drift.py), in the units of the points, as in the
authors' code. If it gave f, a step of Adam would move the points sigma^2 times as far: a hundredth at sigma = 0.1.
As in their code ("more stable"), the score inside b is held constant when gradients are taken, so the gradient is that
of the loss only where NN_2 = 0. At the last step the best b is sigma^2 grad log gamma(y) + y.

Schedule: 1 - a_k = exp(-rate c_k), with c_k in proportion to cos^4(pi/2 (v + 0.008) / 1.008), v = (k + 1/2) / K, and
sum 1. So steps get shorter towards the target.

log Z is estimated at each law by the log of the mean w over `evidence` new paths. Its standard error is that of the
mean w, divided by the mean w. Where b is far from the best, few paths carry the mean, and both value and error are too
small.

The authors' code, with its settings for the funnel, has 128 steps, batch 300, 11,000 Adam steps at 5e-3, rate 6.4 *
0.6875^2 = 3.0, clip 100, cos^4, 2000 paths for log Z, and sigma 1.075. They tune sigma and rate for each target.

This differs here: a_k is an exponential, of which theirs is the first order; v is taken at midpoints; the embedding
gets the time as k / K; sigma comes from P_0; no gradient is clipped (theirs is at 1, in each parameter); and there are
1000 Adam steps, for a CPU. An Adam step evaluates the score 129 times on each path: 38,700 calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, Positive, at_least, check_fields
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.protocol import Marginal, Problem, State
from gwfbench.rng import Streams
from gwfbench.training.paths import Process, Training, first_state, laws

OFFSET = 0.008  # of the schedule


@dataclass(frozen=True)
class DDS:
    steps: Count = 128
    "number K of steps of a path"
    sigma: Positive | None = None
    """standard deviation of the first law in each coordinate; default: that of a normal law whose coordinates have the
    same median size as those of P_0"""
    rate: Positive = 4.4
    "sum of -log(1 - a_k); without drift, start and end of a path have correlation exp(-rate / 2)"
    iterations: Count = 1000
    "number of Adam steps"
    batch: Count = 300
    "number of paths per Adam step"
    lr: Positive = 5e-3
    "learning rate of Adam"
    width: Count = 64
    "width of the hidden layers, and number of frequencies of the time embedding"
    clip: Positive = 100.0
    "largest size of a coordinate of the score within the network"
    every: Count = 100
    "number of Adam steps per law; fewer where a budget of score calls would end before the first"
    evidence: Annotated[int, at_least(2)] = 2000
    "number of paths per estimate of log Z"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 2
    smoke: ClassVar[Mapping[str, object]] = {
        **{"steps": 8, "iterations": 4, "batch": 16, "width": 8, "every": 2, "evidence": 32}
    }
    reference: ClassVar[str] = """@inproceedings{vargas2023denoising,
  title={Denoising Diffusion Samplers}, author={Vargas, Francisco and Grathwohl, Will and Doucet, Arnaud},
  booktitle={ICLR}, year={2023}}"""

    __post_init__ = check_fields

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        return self.resume(problem, budget, rng, first_state(self.sigma, problem, rng))

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        plan = Training(self.iterations, self.batch, self.lr, self.width, self.clip, self.every, self.evidence)
        return laws(lambda sigma: process(self.steps, self.rate, sigma), plan, problem, budget, rng, state)


def process(steps: int, rate: float, sigma: Tensor) -> Process:
    """The reference process, by the schedule of the module's docstring."""
    phase = [math.pi / 2 * ((k + 0.5) / steps + OFFSET) / (1 + OFFSET) for k in range(steps)]
    total = sum(math.cos(p) ** 4 for p in phase)
    decay = [rate * math.cos(p) ** 4 / total for p in phase]
    noise = tuple(math.sqrt(-math.expm1(-b)) for b in decay)
    return Process(
        sigma,
        stay=tuple(math.exp(-b / 2) for b in decay),
        gain=tuple(2 * (-math.expm1(-b / 2) / root) for b, root in zip(decay, noise, strict=True)),
        noise=noise,
        pinned=False,
    )
