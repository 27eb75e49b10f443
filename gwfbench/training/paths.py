"""Diffusions with a learnt drift b, and the weights of their paths.

    y_{k+1} = stay_k y_k + sigma noise_k (u_k + e_k),   u_k = gain_k b(k, y_k) / sigma,   e_k ~ N(0, I),   k = 0 ... K-1

Without b the process is Gaussian and ends at N(0, sigma^2 I), exactly. Let gamma be the unnormalised density of the
target, and weight that process by gamma / N(0, sigma^2 I) at its end. Then the weight of a path of the process with b
is

    log w = log gamma(y_K) - log N(y_K; 0, sigma^2 I) - sum_k [|u_k|^2 / 2 + u_k . e_k]

so that E w = Z for any b and any K, and E log w <= log Z. The loss is -E log w, which is the KL divergence of paths up
to log Z: E [sum_k |u_k|^2 / 2 + log N(y_K; 0, sigma^2 I) - log gamma(y_K)], by Adam, through the paths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.info import Field, LogDensity
from gwfbench.nn.adam import Adam
from gwfbench.nn.score_drift import Drift
from gwfbench.protocol import Drawn, Problem, State
from gwfbench.rng import Streams
from gwfbench.velocity.size import coordinate_size

CHUNK = 16384  # paths at once


@dataclass(frozen=True)
class Process:
    """The process without b.

    Args:
        sigma: (S, 1, 1).
        stay, gain, noise: K numbers each.
        pinned: it starts at 0; else at N(0, sigma^2 I).
    """

    sigma: Tensor
    stay: tuple[float, ...]
    gain: tuple[float, ...]
    noise: tuple[float, ...]
    pinned: bool

    def start(self, noise: Streams, n: int, d: int) -> Tensor:
        """Starts of n paths, (S, n, d)."""
        if self.pinned:
            return self.sigma.new_zeros(len(self.sigma), n, d)
        return self.sigma * noise.normal(n, d)

    def run(self, control: Callable[[int, Tensor], Tensor], noise: Streams, n: int, d: int) -> tuple[Tensor, Tensor]:
        """Ends of n paths, (S, n, d), and their log w without log gamma, (S, n)."""
        y = self.start(noise, n, d)
        cost, inverse = torch.zeros_like(y[..., 0]), 1 / self.sigma
        for k, (stay, gain, root) in enumerate(zip(self.stay, self.gain, self.noise, strict=True)):
            e, u = noise.normal(n, d), inverse * gain * control(k, y)
            y = stay * y + (self.sigma * root) * (u + e)
            cost = cost + (u * (0.5 * u + e)).sum(-1)
        return y, -cost - log_normal(y, self.sigma)

    def loss(
        self, control: Callable[[int, Tensor], Tensor], score: Field, noise: Streams, batch: int, d: int
    ) -> Tensor:
        """A number whose gradient in the parameters is that of -E log w over the batch, summed over seeds.

        u . e is left out, as it and its gradient have mean 0. log gamma has no value here, and its gradient by the
        score.
        """
        y, cost = self.start(noise, batch, d), torch.zeros((), device=noise.device, dtype=noise.dtype)
        inverse = 1 / self.sigma
        for k, (stay, gain, root) in enumerate(zip(self.stay, self.gain, self.noise, strict=True)):
            u = inverse * gain * control(k, y)
            y = stay * y + (self.sigma * root) * (u + noise.normal(batch, d))
            cost = cost + 0.5 * u.square().sum()
        with torch.no_grad():
            pull = score(y.detach())
        return (cost + log_normal(y, self.sigma).sum() - (pull * y).sum()) / batch


def first_state(sigma: float | None, problem: Problem, rng: Streams) -> State:
    """Before the first Adam step. sigma: by default that of a normal law whose coordinates have P_0's median size."""
    if sigma is None:
        return {"k": 0, "sigma": coordinate_size(problem, rng.fork("size"))}
    return {"k": 0, "sigma": torch.full((len(rng.seeds),), sigma)}


@dataclass(frozen=True)
class Training:
    """How b is trained, and log Z estimated: fields of the methods, which say what they are."""

    iterations: int
    batch: int
    lr: float
    width: int
    clip: float
    every: int
    evidence: int


def laws(
    process: Callable[[Tensor], Process], plan: Training, problem: Problem, budget: Budget, rng: Streams, state: State
) -> Iterator[Drawn]:
    """The law of the paths' ends after each `plan.every` Adam steps, with log Z by the mean w over new paths.

    Args:
        process: of sigma, (S, 1, 1).
        budget: where its score calls would end before the first law, laws come more often.
        state: `first_state`, or that of a law.
    """
    (d,), target = problem.shape, problem[LogDensity]
    sigma = torch.as_tensor(state["sigma"]).to(rng.device, rng.dtype)[:, None, None]
    made, drift = process(sigma), Drift(d, plan.width, rng.fork("drift"))
    steps, adam, every = len(made.stay), Adam(drift.parameters, plan.lr), plan.every
    if budget.score_calls is not None:
        first = (budget.score_calls - plan.evidence * steps) // (plan.batch * (steps + 1))
        every = max(1, min(every, int(first)))
    if "parameters" in state:
        adam.load(state)

    @torch.no_grad()
    def paths(n: int, noise: Streams) -> tuple[Tensor, Tensor]:
        """Ends (S, n, d) of that many paths, and their log w without log gamma, (S, n)."""
        control = drift.at(steps, target.score, plan.clip)
        parts = [made.run(control, noise, min(CHUNK, n - first), d) for first in range(0, n, CHUNK)]
        return torch.cat([end for end, _ in parts], 1), torch.cat([w for _, w in parts], 1)

    for k in range(int(state["k"]) + 1, plan.iterations + 1):
        control = drift.at(steps, target.score, plan.clip)
        adam.descend(made.loss(control, target.score, rng.fork(f"step/{k}"), plan.batch, d), 1.0)
        if k % every == 0 or k == plan.iterations:
            end, w = paths(plan.evidence, rng.fork(f"evidence/{k}"))
            log_z = log_mean(w + target.log_prob(end))
            kept = {**adam.state(), "k": k, "sigma": sigma[:, 0, 0].clone()}
            yield Drawn(float(k), lambda n, streams: paths(n, streams)[0], state=lambda kept=kept: kept, log_z=log_z)


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
