"""Denoising diffusion sampler: a diffusion from a normal law with a learnt drift, which makes it end at the target.

    y_0 ~ N(0, sigma^2 I),   y_{k+1} = sqrt(1 - a_k) y_k + 2 sigma^2 l_k f(k, y_k) + sigma sqrt(a_k) e_k
    l_k = 1 - sqrt(1 - a_k),   e_k ~ N(0, I),   k = 0 ... K - 1

(Vargas, Grathwohl and Doucet 2023.) Without f, the law of this process is N(0, sigma^2 I) at each k, exactly, since its
linear part is solved exactly. Let gamma be the unnormalised density of the target, and weight the process without f by
gamma / N(0, sigma^2 I) at its end. Then the weight of a path of the process with f is

    log w = log gamma(y_K) - log N(y_K; 0, sigma^2 I) - sum_k [2 sigma^2 l_k^2 / a_k |f_k|^2
                                                              + 2 sigma l_k / sqrt(a_k) f_k . e_k]

so that E w = Z for any f and any K, and E log w <= log Z. The loss is -E log w, which is the KL divergence of paths up
to log Z:

    E [sum_k 2 sigma^2 l_k^2 / a_k |f_k|^2 + log N(y_K; 0, sigma^2 I) - log gamma(y_K)],   by Adam, through the paths

Network: f = NN_1(k, y) + NN_2(k) * clip(grad log gamma(y)), with two hidden layers of 64, GELU, and 0 at the start. As
in the authors' code ("more stable"), the score inside f is held constant when gradients are taken, so the gradient is
that of the loss only where NN_2 = 0. At the last step the best f is grad log gamma(y) + y / sigma^2.

Schedule: 1 - a_k = exp(-rate c_k), with c_k in proportion to cos^4(pi/2 (u + 0.008) / 1.008), u = (k + 1/2) / K, and
sum 1. So steps get shorter towards the target.

log Z is estimated at each law by the log of the mean w over `evidence` new paths. Its standard error is that of the
mean w, divided by the mean w. Where f is far from the best, few paths carry the mean, and both value and error are too
small.

The authors' code, with its settings for the funnel, has 128 steps, batch 300, 11,000 Adam steps at 5e-3, rate 6.4 *
0.6875 = 4.4, clip 100, cos^4, 2000 paths for log Z, and sigma 1.075. They tune sigma and rate for each target.

This differs here: a_k is an exponential, of which theirs is the first order; u is taken at midpoints; the embedding
gets the time as k / K; sigma comes from P_0; and there are 1000 Adam steps, for a CPU. An Adam step evaluates the score
129 times on each path: 38,700 calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, Positive, at_least, check_fields
from gwfbench.info import Field, Info, Initial, LogDensity
from gwfbench.nn.adam import Adam
from gwfbench.nn.stacked import Stacked, linear_init
from gwfbench.protocol import Drawn, Marginal, Problem, State
from gwfbench.rng import Streams
from gwfbench.velocity.size import coordinate_size

OFFSET = 0.008  # of the schedule
FREQUENCIES = (0.1, 100.0)  # lowest and highest of the time embedding
CHUNK = 16384  # paths at once


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
    "number of Adam steps per law"
    evidence: Annotated[int, at_least(2)] = 2000
    "number of paths per estimate of log Z"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {
        **{"steps": 8, "iterations": 4, "batch": 16, "width": 8, "every": 2, "evidence": 32}
    }
    reference: ClassVar[str] = """@inproceedings{vargas2023denoising,
  title={Denoising Diffusion Samplers}, author={Vargas, Francisco and Grathwohl, Will and Doucet, Arnaud},
  booktitle={ICLR}, year={2023}}"""

    __post_init__ = check_fields

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        sigma = (
            coordinate_size(problem, rng.fork("size"))
            if self.sigma is None
            else torch.full((len(rng.seeds),), self.sigma)
        )
        return self.resume(problem, budget, rng, {"k": 0, "sigma": sigma})

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        (d,), target = problem.shape, problem[LogDensity]
        sigma = torch.as_tensor(state["sigma"]).to(rng.device, rng.dtype)[:, None, None]
        process, drift = Process.of(self.steps, self.rate, sigma), Drift(d, self.width, rng.fork("drift"))
        adam = Adam(drift.parameters, self.lr)
        if "parameters" in state:
            adam.load(state)

        @torch.no_grad()
        def paths(n: int, noise: Streams) -> tuple[Tensor, Tensor]:
            """Ends (S, n, d) of that many paths, and their log w without log gamma, (S, n)."""
            control = drift.at(self.steps, target.score, self.clip)
            parts = [process.run(control, noise, min(CHUNK, n - first), d) for first in range(0, n, CHUNK)]
            return torch.cat([end for end, _ in parts], 1), torch.cat([w for _, w in parts], 1)

        for k in range(int(state["k"]) + 1, self.iterations + 1):
            noise = rng.fork(f"step/{k}")
            control = drift.at(self.steps, target.score, self.clip)
            adam.descend(loss(process, control, target.score, noise, self.batch, d), 1.0)
            if k % self.every == 0 or k == self.iterations:
                end, w = paths(self.evidence, rng.fork(f"evidence/{k}"))
                log_z = log_mean(w + target.log_prob(end))
                kept = {**adam.state(), "k": k, "sigma": sigma[:, 0, 0].clone()}
                yield Drawn(
                    float(k), lambda n, streams: paths(n, streams)[0], state=lambda kept=kept: kept, log_z=log_z
                )


class Control(NamedTuple):
    """f: (k, y) -> (S, n, d)."""

    hidden: Tensor
    gate: Tensor
    layers: tuple[Tensor, ...]
    score: Field
    clip: float

    def __call__(self, k: int, y: Tensor) -> Tensor:
        into, weight, bias, last, end = self.layers
        h = F.gelu(torch.baddbmm(self.hidden[:, k : k + 1], y, into))
        h = F.gelu(torch.baddbmm(bias, h, weight))
        out = torch.baddbmm(end, h, last)
        with torch.no_grad():
            s = self.score(y.detach()).clamp(-self.clip, self.clip)
        return out + self.gate[:, k : k + 1] * s


class Drift:
    """The network of f for S seeds. Its parts that depend on time alone are computed once for all steps."""

    def __init__(self, d: int, width: int, rng: Streams):
        code = [linear_init(rng.fork("code"), *size) for size in ((2 * width, width), (width, width))]
        sizes = ((2 * width, width), (width, width), (width, width))
        gate = [linear_init(rng.fork("gate"), *size) for size in sizes]
        first = rng.fork("state")
        into, hidden = linear_init(first, d + width, width), linear_init(first, width, width)
        zero = torch.zeros_like
        ends = [linear_init(first, width, d) for _ in range(2)]
        phase = zero(into[1])
        layers = [*code, *gate, *((zero(w), zero(b)) for w, b in ends), into, hidden]
        self.parameters = Stacked([phase, *(part for layer in layers for part in layer)])
        self._d, self._width = d, width

    def at(self, steps: int, score: Field, clip: float) -> Control:
        """f at steps 0 ... steps - 1 with the current parameters."""
        phase, *parts = self.parameters.leaves
        c1, c2, g1, g2, g3, gate_end, state_end, into, hidden = zip(parts[::2], parts[1::2], strict=True)
        time = torch.arange(steps, dtype=phase.dtype, device=phase.device)[:, None] / steps
        low, high = FREQUENCIES
        angle = torch.linspace(low, high, self._width, dtype=phase.dtype, device=phase.device) * time + phase
        embedded = torch.cat([angle.sin(), angle.cos()], -1)  # (S, steps, 2 width)
        code = _linear(F.gelu(_linear(embedded, c1)), c2)
        gate = _linear(F.gelu(_linear(F.gelu(_linear(F.gelu(_linear(embedded, g1)), g2)), g3)), gate_end)
        of_state, of_time = into[0].split([self._d, self._width], 1)
        layers = (of_state, *hidden, *state_end)
        return Control(torch.baddbmm(into[1], code, of_time), gate, layers, score, clip)


def _linear(x: Tensor, layer: tuple[Tensor, Tensor]) -> Tensor:
    return torch.baddbmm(layer[1], x, layer[0])


@dataclass(frozen=True)
class Process:
    """The reference process. sigma: (S, 1, 1); stay, push, noise: sqrt(1 - a_k), l_k and sqrt(a_k), K numbers each."""

    sigma: Tensor
    stay: tuple[float, ...]
    push: tuple[float, ...]
    noise: tuple[float, ...]

    @staticmethod
    def of(steps: int, rate: float, sigma: Tensor) -> Process:
        """With the schedule of the module's docstring."""
        phase = [math.pi / 2 * ((k + 0.5) / steps + OFFSET) / (1 + OFFSET) for k in range(steps)]
        total = sum(math.cos(p) ** 4 for p in phase)
        decay = [rate * math.cos(p) ** 4 / total for p in phase]
        return Process(
            sigma,
            tuple(math.exp(-b / 2) for b in decay),
            tuple(-math.expm1(-b / 2) for b in decay),
            tuple(math.sqrt(-math.expm1(-b)) for b in decay),
        )

    def run(self, control: Control, noise: Streams, n: int, d: int) -> tuple[Tensor, Tensor]:
        """Ends of n paths, (S, n, d), and their log w without log gamma, (S, n)."""
        y = self.sigma * noise.normal(n, d)
        cost = torch.zeros_like(y[..., 0])
        for k, (stay, push, root) in enumerate(zip(self.stay, self.push, self.noise, strict=True)):
            e, shift = noise.normal(n, d), 2 * self.sigma * (push / root) * control(k, y)  # in units of sigma sqrt(a_k)
            y = stay * y + (self.sigma * root) * (shift + e)
            cost = cost + (shift * (0.5 * shift + e)).sum(-1)
        return y, -cost - log_normal(y, self.sigma)


def loss(process: Process, control: Control, score: Field, noise: Streams, batch: int, d: int) -> Tensor:
    """A number whose gradient in the parameters is that of -E log w over the batch, summed over seeds.

    f . e is left out, as it and its gradient have mean 0. log gamma has no value here, and its gradient by the score.
    """
    y, cost = process.sigma * noise.normal(batch, d), torch.zeros((), device=noise.device, dtype=noise.dtype)
    for k, (stay, push, root) in enumerate(zip(process.stay, process.push, process.noise, strict=True)):
        shift = 2 * process.sigma * (push / root) * control(k, y)
        y = stay * y + (process.sigma * root) * (shift + noise.normal(batch, d))
        cost = cost + 0.5 * shift.square().sum()
    with torch.no_grad():
        pull = score(y.detach())
    return (cost + log_normal(y, process.sigma).sum() - (pull * y).sum()) / batch


def log_normal(y: Tensor, sigma: Tensor) -> Tensor:
    """log N(y; 0, sigma^2 I), (S, n, d) and (S, 1, 1) -> (S, n)."""
    constant = y.shape[-1] * (sigma.log() + 0.5 * math.log(2 * math.pi))
    return -0.5 * (y / sigma).square().sum(-1) - constant[..., 0]


def log_mean(w: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the mean of exp(w) over the points, (S, n) -> (S,), and its standard error by the delta method."""
    w = w.double()
    n, largest = w.shape[1], w.amax(1, keepdim=True)
    scaled = (w - largest).exp()
    mean = scaled.mean(1)
    return mean.log() + largest[:, 0], scaled.std(1) / (mean * math.sqrt(n))
