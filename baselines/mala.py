"""Metropolis-adjusted Langevin algorithm: independent chains from P_0, whose steps leave the target invariant.

    y = x + b(x) + sqrt(2 h) xi,   b = h s min(1, sqrt(d) / |sqrt(h / 2) s|),   s = grad log pi,   xi ~ N(0, I)
    x <- y with probability min(1, r),   log r = log pi(y) - log pi(x) + log q(x | y) - log q(y | x)
    log q(x | y) - log q(y | x) = (|xi|^2 - |xi'|^2) / 2,   xi' = (x - y - b(y)) / sqrt(2 h)

(Roberts and Tweedie 1996.) The drift b is their truncated one: it is never longer than the noise, and equals h s
wherever pi has its mass. With h s itself, chains that start far out, where s is large, leap across pi, are rejected,
and never move again; more than a quarter of them did so on blr:data=twonorm.

Judged points. Each judged point is a chain of its own, pushed with fresh noise. A law is `inner` steps, so that pi and
s at a point are evaluated once per law and once per step.

Step size. h is learnt on pilot chains, which also start from P_0 and advance step by step. After their j-th regular
step, log h grows by 2 j^(-1/2) (accepted share - `accept`). With `scaled`, h is a vector proportional to the pilots'
variance in each coordinate, updated after each law. After `warmup` laws h is frozen. No judged chain influences h, so
each of its steps is exactly reversible, also while h changes.

Warm-up. Every second step of the warm-up is special: in turn, one with all of h s and one with 10 h. The first kind
brings home chains that the tails of P_0 start hundreds of standard deviations away. On `blr` that is one chain of 4096,
but enough to spoil a variance. (Some seeds of P_0 start a chain a thousand deviations away. It is not home in time, and
`symkl` shows it.) The second kind takes chains over to other modes.

Length. After the freeze, the pilots continue until they have forgotten where they were at the end of the warm-up: in
each coordinate, the correlation over the pilots between then and now is below `forget`. If that took m laws, there are
3 m laws after the warm-up. So the number of steps depends on the target: about 110 on a posterior with one mode, and
all that `laws` allows where chains hardly cross between modes. This test can't see a mode that no pilot has found.

The limit is the target, but the time is not that of the flow. Where a task is judged at finite times, the last law is
compared with the flow at the last of them, although the chains do not stop at that time. Chains do not cross between
distant modes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, Interior, Natural, Positive, Share, at_least, check_fields
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.protocol import Marginal, Problem, Pushed, State
from gwfbench.rng import Streams
from gwfbench.training.pilots import largest_correlation

Push = Callable[[Tensor, Streams], Tensor]
AFTER = 3  # 0.3 after m laws is 0.3^3 = 0.03 after 3 m, if it decays at one rate


@dataclass(frozen=True)
class MALA:
    laws: Count = 200
    "largest number of laws, each of `inner` steps"
    inner: Count = 10
    "number of steps per law"
    step: Positive = 0.01
    "initial step size h, in flow time"
    accept: Interior = 0.574
    "acceptance rate that h is tuned to; 0.574 is optimal in high dimension (Roberts and Rosenthal 1998)"
    warmup: Natural = 8
    "number of laws after which h is frozen; 0: h keeps its initial value"
    forget: Share = 0.3
    """largest correlation at which pilots count as having forgotten their start, with noise 1 / sqrt(pilots);
    0: always `laws` laws"""
    pilots: Annotated[int, at_least(2)] = 256
    "number of chains on which h and the number of laws are tuned"
    scaled: bool = True
    "whether h of each coordinate is proportional to the pilots' variance in it; false: the same h in all coordinates"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "looped"  # each has a length of its own
    version: ClassVar[int] = 3
    smoke: ClassVar[Mapping[str, object]] = {"laws": 3, "inner": 2, "warmup": 2, "pilots": 32}
    reference: ClassVar[str] = """@article{roberts1996exponential,
  title={Exponential convergence of {L}angevin distributions and their discrete approximations}, author={Roberts, Gareth
  O. and Tweedie, Richard L.}, journal={Bernoulli}, volume={2}, number={4}, pages={341--363}, year={1996}}
@article{roberts1998optimal,
  title={Optimal scaling of discrete approximations to {L}angevin diffusions}, author={Roberts, Gareth O. and Rosenthal,
  Jeffrey S.}, journal={Journal of the Royal Statistical Society B}, volume={60}, pages={255--268}, year={1998}}"""

    __post_init__ = check_fields

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        x = problem[Initial].draw(self.pilots, rng.fork("pilots"))
        h = torch.full_like(x[:, :1], self.step)
        return self.resume(problem, budget, rng, {"k": 0, "x": x, "h": h, "mark": x, "until": self.laws})

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        x, h, mark = (torch.as_tensor(state[name]).to(rng.device, rng.dtype) for name in ("x", "h", "mark"))
        target, k, until = problem[LogDensity], int(state["k"]), int(state["until"])
        while k < until:
            k, noise = k + 1, rng.fork(f"pilots/{k + 1}")
            with torch.no_grad():
                if k <= self.warmup:
                    x, h = self._learn(target, x, h, k, noise)
                    mark = x
                elif until == self.laws:
                    x = _law(target, h, self.inner, even)(x, noise)
                    if largest_correlation(mark, x) < self.forget:
                        until = min(self.laws, self.warmup + AFTER * (k - self.warmup))
            kept = {"k": k, "x": x, "h": h, "mark": mark, "until": until}
            nominal = k * self.inner * self.step  # time has no meaning here, but must grow
            yield Pushed(
                nominal,
                _law(target, h, self.inner, warming if k <= self.warmup else even),
                state=lambda kept=kept: kept,
            )

    def _learn(self, target: LogDensity, x: Tensor, h: Tensor, k: int, noise: Streams) -> tuple[Tensor, Tensor]:
        """The pilots (S, n, d) and h (S, 1, d) after the k-th law."""
        at = Place.of(target, x)
        for i in range(self.inner):
            at, accepted = step(target, at, h, noise, warming(i))
            if i % 2 == 0:
                j = (k - 1) * -(self.inner // -2) + i // 2 + 1
                share = accepted.to(x.dtype).mean(1)[:, None, None]
                h = h * (2 * j**-0.5 * (share - self.accept)).exp()
        return at.x, _in_proportion(h, at.x.var(1, keepdim=True)) if self.scaled else h


@dataclass(frozen=True)
class Place:
    """Where chains are, (S, n, d), and what the target says there: log pi, (S, n), and its gradient."""

    x: Tensor
    log_prob: Tensor
    score: Tensor

    @staticmethod
    def of(target: LogDensity, x: Tensor) -> Place:
        return Place(x, target.log_prob(x), target.score(x))


@dataclass(frozen=True)
class Gait:
    """A step of `length` times h, whose drift is at most `cap` times as long as its noise."""

    length: float = 1.0
    cap: float = 1.0


def step(target: LogDensity, at: Place, h: Tensor, noise: Streams, gait: Gait = Gait()) -> tuple[Place, Tensor]:
    """One step of all chains, and which were accepted, (S, n).

    Args:
        h: (S, 1, 1), or (S, 1, d), one per coordinate.
    """
    h, xi = gait.length * h, noise.normal(*at.x.shape[1:])
    to = Place.of(target, at.x + drift(at.score, h, gait.cap) + (2 * h).sqrt() * xi)
    log_ratio = to.log_prob - at.log_prob + proposal_log_ratio(at, to, xi, h, gait.cap)
    accepted = noise.uniform(at.x.shape[1]).log() < log_ratio  # nan, far out where log pi overflows, is a rejection
    keep = accepted[..., None]
    moved = Place(
        torch.where(keep, to.x, at.x),
        torch.where(accepted, to.log_prob, at.log_prob),
        torch.where(keep, to.score, at.score),
    )
    return moved, accepted


def drift(score: Tensor, h: Tensor, cap: float = 1.0) -> Tensor:
    """b, (S, n, d): h s, shortened to `cap` times the typical length of the noise, both in units of sqrt(2 h)."""
    way = (h / 2).sqrt() * score
    longest = cap * math.sqrt(score.shape[-1])
    return (2 * h).sqrt() * way * (longest / way.norm(dim=-1, keepdim=True)).clamp_max(1.0)


def proposal_log_ratio(at: Place, to: Place, xi: Tensor, h: Tensor, cap: float = 1.0) -> Tensor:
    """log q(x | y) - log q(y | x), (S, n), of a proposal y made from x with the noise xi."""
    back = (at.x - to.x - drift(to.score, h, cap)) / (2 * h).sqrt()
    return 0.5 * (xi.square() - back.square()).sum(-1)


def _in_proportion(h: Tensor, variance: Tensor) -> Tensor:
    """h (S, 1, d) with the same geometric mean, in proportion to the variance (S, 1, d) within a factor of 1e6."""
    logs = variance.clamp(1e-30, 1e30).log()
    logs = (logs - logs.mean(-1, keepdim=True)).clamp(-7, 7)
    return (h.log().mean(-1, keepdim=True) + logs - logs.mean(-1, keepdim=True)).exp()


def even(_i: int) -> Gait:
    """Each step of a law after the warm-up."""
    return Gait()


def warming(i: int) -> Gait:
    """The i-th step of a law of the warm-up."""
    return (Gait(), Gait(cap=math.inf), Gait(), Gait(length=10.0))[i % 4]


def _law(target: LogDensity, h: Tensor, inner: int, gait: Callable[[int], Gait]) -> Push:
    """`inner` steps, the i-th of them as `gait(i)` says."""

    def push(x: Tensor, noise: Streams) -> Tensor:
        at = Place.of(target, x)
        for i in range(inner):
            at, _ = step(target, at, h, noise, gait(i))
        return at.x

    return push
