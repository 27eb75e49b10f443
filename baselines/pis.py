"""Path integral sampler: Brownian motion from 0 with a learnt drift, which makes it end at the target.

    y_0 = 0,   y_{k+1} = y_k + b(k, y_k) / K + sigma / sqrt(K) e_k,   e_k ~ N(0, I),   k = 0 ... K - 1

(Zhang and Chen 2022, with sigma = 1; Föllmer's process, as K grows, where b is best.) Without b, y_K has the law
N(0, sigma^2 I), exactly. A path has the weight

    log w = log gamma(y_K) - log N(y_K; 0, sigma^2 I) - sum_k [|b_k|^2 / (2 K sigma^2) + b_k . e_k / (sigma sqrt(K))]

for the unnormalised density gamma of the target, so that E w = Z for any b and any K. The loss is -E log w, by Adam,
through the paths (training/paths.py, with u_k = b_k / (sigma sqrt(K))).

Network: b = NN_1(k, y) + NN_2(k) * clip(grad log gamma(y)) (nn/score_drift.py), as `dds` has. The two differ in their
process alone: this one starts at a point, so that at k = 0 the best b is the same for all paths. At the last step the
best b is sigma^2 grad log gamma(y) + y.

sigma decides much: where the target is wider than N(0, sigma^2 I), the best b grows as a path goes out, and so do the
weights. By default it is the size of P_0's coordinates.

log Z is estimated at each law by the log of the mean w over `evidence` new paths. Its standard error is that of the
mean w, divided by the mean w. Where b is far from the best, few paths carry the mean, and both value and error are too
small.

In the code of Vargas et al. 2023, with which their published values of this method were made, K steps have a length of
0.05 each and a noise s of their own, so that sigma = s sqrt(0.05 K). Their network gives b / (0.05 K) and sees the time
0.05 k; here it gives b and sees k / K. They clip the gradient of each parameter at 1.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class PIS:
    steps: Count = 128
    "number K of steps of a path"
    sigma: Positive | None = None
    """standard deviation, in each coordinate, of the end of a path without drift; default: that of a normal law whose
    coordinates have the same median size as those of P_0"""
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
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {
        **{"steps": 8, "iterations": 4, "batch": 16, "width": 8, "every": 2, "evidence": 32}
    }
    reference: ClassVar[str] = """@inproceedings{zhang2022path,
  title={Path Integral Sampler: a stochastic control approach for sampling}, author={Zhang, Qinsheng and Chen, Yongxin},
  booktitle={ICLR}, year={2022}}"""

    __post_init__ = check_fields

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        return self.resume(problem, budget, rng, first_state(self.sigma, problem, rng))

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        plan = Training(self.iterations, self.batch, self.lr, self.width, self.clip, self.every, self.evidence)
        return laws(lambda sigma: process(self.steps, sigma), plan, problem, budget, rng, state)


def process(steps: int, sigma: Tensor) -> Process:
    """Brownian motion from 0, whose end has the standard deviation sigma, (S, 1, 1)."""
    root = steps**-0.5
    return Process(sigma, stay=(1.0,) * steps, gain=(root,) * steps, noise=(root,) * steps, pinned=True)
