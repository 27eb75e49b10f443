"""No-U-Turn sampler: independent chains from P_0 by Hamiltonian trajectories that end where they would turn back.

    H(x, p) = -log pi(x) + |p|^2 / 2,   p ~ N(0, I)
    leapfrog of size h: p <- p + h/2 s(x),   x <- x + h p,   p <- p + h/2 s(x),   s = grad log pi
    doubling: in a random direction of time, as many steps again as the trajectory has
    turned: (x_last - x_first) / h . p <= 0 for the p of one of the two ends

(Hoffman and Gelman 2014.) h has one number per coordinate: it is also the scale of a diagonal mass matrix, and p is in
units of 1 / h. A trajectory ends when

- it has turned;
- one of the halves, quarters, ... of its last doubling has turned (those steps are thrown away);
- H is off by 1000; or
- it has had `depth` doublings.

A part also counts as turned if one half of it, with the first step of the other half, has turned, as in Stan since
version 2.21. Otherwise trajectories that go once all the way round a Gaussian would go on.

The next point is a point of the trajectory. Within a doubling it is x_i with probability e^(-H_i) / sum e^(-H). The
point of the new half replaces the point of the old half with probability min(1, ratio of the two halves' sums)
(Betancourt 2017, appendix A.3). So each step leaves the target invariant exactly.

Judged points. As in `mala`, each judged point is a chain of its own, pushed with fresh noise; a law is one trajectory.
All chains make their i-th step together, and those that have ended are left out of the calls of the oracles. So a chain
costs one score and one log-density per leapfrog step that it makes, and one of each per law at its start.

Learning. h is learnt on pilot chains, which also start from P_0. h is e times the pilots' standard deviation in each
coordinate, computed again after each law, and log e follows the acceptance rate by dual averaging (Hoffman and Gelman
2014, section 3.2). That rate is the mean of min(1, e^(H_0 - H)) over all steps that a trajectory tried. The first e is
the largest of 1, 1/2, 1/4, ... with which half of the pilots accept a step. After `warmup` laws h is frozen; until then
trajectories have at most 6 doublings. No judged chain influences h.

Warm-up. P_0 may start chains where pi is so much steeper than at its mode that each step of size h fails: on
blr:data=diabetis 4 % of them, which would never leave. Therefore every second one of the first 16 laws has steps of
h / 8, from which nothing is learnt.

Length. After the freeze, the pilots continue until they have forgotten where they were at the end of the warm-up: in
each coordinate, the correlation over the pilots between then and now is below `forget`. If that took m laws, there are
3 m laws after the warm-up. This test can't see a mode that no pilot has found, and chains do not cross between distant
modes. The limit is the target, but the time is not that of the flow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, Interior, Share, at_least, between, check_fields
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.protocol import Marginal, Problem, Pushed, State
from gwfbench.rng import Streams
from gwfbench.training.pilots import largest_correlation, spread

AFTER = 3  # 0.3 after m laws is 0.3^3 = 0.03 after 3 m, if it decays at one rate
SHALLOW = 6  # most doublings in the warm-up, where steps may be far too small
CAREFUL, SHORTER = 16, 8  # laws of which every second one has shorter steps, and how much shorter they are
DIVERGED = 1000.0  # error of H at which a trajectory ends
CHUNK = 2**22  # numbers in the points of the chains that move at once


@dataclass(frozen=True)
class NUTS:
    laws: Count = 100
    "largest number of laws, each of one trajectory"
    warmup: Count = 30
    "number of laws after which step sizes are frozen"
    accept: Interior = 0.8
    "acceptance rate that step sizes are tuned to"
    depth: Annotated[int, between(1, 12)] = 8
    "largest number of doublings of a trajectory, which then has 2^depth - 1 leapfrog steps"
    forget: Share = 0.3
    """largest correlation at which pilots count as having forgotten their start, with noise 1 / sqrt(pilots);
    0: always `laws` laws"""
    pilots: Annotated[int, at_least(2)] = 256
    "number of chains on which step sizes and the number of laws are tuned"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "looped"  # each has trajectories and a length of its own
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"laws": 4, "warmup": 2, "depth": 3, "pilots": 32}
    reference: ClassVar[str] = """@article{hoffman2014no,
  title={The {N}o-{U}-{T}urn sampler: adaptively setting path lengths in {H}amiltonian {M}onte {C}arlo}, author={
  Hoffman, Matthew D. and Gelman, Andrew}, journal={Journal of Machine Learning Research}, volume={15},
  pages={1593--1623}, year={2014}}
@article{betancourt2017conceptual,
  title={A conceptual introduction to {H}amiltonian {M}onte {C}arlo}, author={Betancourt, Michael},
  journal={arXiv preprint arXiv:1701.02434}, year={2017}}"""

    __post_init__ = check_fields

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        x = problem[Initial].draw(self.pilots, rng.fork("pilots"))
        with torch.no_grad():
            step = first_step(problem[LogDensity], Place.of(problem[LogDensity], x), rng.fork("first"))
        dual = Dual.start(step, x)
        state = {"k": 0, "until": self.laws, "x": x, "h": step * spread(x), "mark": x, **vars(dual)}
        return self.resume(problem, budget, rng, state)

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        x, h, mark = (torch.as_tensor(state[name]).to(rng.device, rng.dtype) for name in ("x", "h", "mark"))
        dual = Dual(*(torch.as_tensor(state[part.name]).to(rng.device) for part in fields(Dual)))
        target, k, until = problem[LogDensity], int(state["k"]), int(state["until"])
        while k < until:
            k += 1
            learns = k <= self.warmup
            careful = learns and k <= CAREFUL and k % 2 == 0
            doublings, size = min(self.depth, SHALLOW) if learns else self.depth, h / SHORTER if careful else h
            push = _law(target, size, doublings)
            with torch.no_grad():
                if learns or until == self.laws:
                    place, rate = trajectory(target, Place.of(target, x), size, doublings, rng.fork(f"pilots/{k}"))
                    x = place.x
                    if learns:
                        if not careful:
                            dual = dual.after(k - min(k, CAREFUL) // 2, self.accept - rate.mean())
                        e = dual.mean if k == self.warmup else dual.log_step
                        h, mark = e.exp().to(x.dtype) * spread(x), x
                    elif largest_correlation(mark, x) < self.forget:
                        until = min(self.laws, self.warmup + AFTER * (k - self.warmup))
            kept = {"k": k, "until": until, "x": x, "h": h, "mark": mark, **vars(dual)}
            yield Pushed(float(k), push, state=lambda kept=kept: kept)


@dataclass(frozen=True)
class Dual:
    """Dual averaging of log e, with the constants of Hoffman and Gelman: gamma = 0.05, t_0 = 10, kappa = 0.75.

    Args:
        centre: mu, the value towards which log e is pulled: log of the first e.
        log_step, mean: log e, and its weighted mean.
        lack: weighted mean of how far the acceptance rate was below its goal.
    """

    centre: Tensor
    log_step: Tensor
    mean: Tensor
    lack: Tensor

    @staticmethod
    def start(step: float, like: Tensor) -> Dual:
        log_step = torch.full((), math.log(step), dtype=torch.float64, device=like.device)
        return Dual(log_step, log_step, log_step, torch.zeros_like(log_step))

    def after(self, t: int, lack: Tensor) -> Dual:
        """After the t-th law, whose acceptance rate was this far below its goal."""
        mean_lack = self.lack + (lack.double() - self.lack) / (t + 10)
        log_step = self.centre - math.sqrt(t) / 0.05 * mean_lack
        return Dual(self.centre, log_step, self.mean + t**-0.75 * (log_step - self.mean), mean_lack)


@dataclass(frozen=True)
class Place:
    """Where chains are, (1, n, d), and what the target says there: log pi (1, n) and its gradient."""

    x: Tensor
    log_prob: Tensor
    score: Tensor

    @staticmethod
    def of(target: LogDensity, x: Tensor) -> Place:
        return Place(x, target.log_prob(x), target.score(x))

    def take(self, index: Tensor) -> Place:
        return Place(self.x[:, index], self.log_prob[:, index], self.score[:, index])

    def put(self, index: Tensor, place: Place) -> None:
        """Overwrite these chains, in place."""
        self.x[:, index], self.log_prob[:, index], self.score[:, index] = place.x, place.log_prob, place.score

    def copy(self) -> Place:
        return Place(self.x.clone(), self.log_prob.clone(), self.score.clone())


@dataclass(frozen=True)
class Step:
    """Chains on their way: places and momenta (1, n, d)."""

    at: Place
    p: Tensor

    def take(self, index: Tensor) -> Step:
        return Step(self.at.take(index), self.p[:, index])

    def put(self, index: Tensor, step: Step) -> None:
        """Overwrite these chains, in place."""
        self.at.put(index, step.at)
        self.p[:, index] = step.p

    def copy(self) -> Step:
        return Step(self.at.copy(), self.p.clone())

    def where(self, here: Tensor, other: Step) -> Step:
        """These steps where `here`, (n,), is true, and the others elsewhere."""
        wide, one, two = here[:, None], self.at, other.at
        log_prob = one.log_prob.where(here, two.log_prob)
        at = Place(one.x.where(wide, two.x), log_prob, one.score.where(wide, two.score))
        return Step(at, self.p.where(wide, other.p))


@dataclass(frozen=True)
class Branch:
    """A doubling of n chains.

    Args:
        first, end: its first and its last step.
        chosen: one of its places.
        log_sum: log of the sum of e^(H_0 - H) over its steps, (n,).
        whole: whether none of its parts has turned or diverged, (n,).
        rates, steps: sum of min(1, e^(H_0 - H)), and number of steps, (n,).
    """

    first: Step
    end: Step
    chosen: Place
    log_sum: Tensor
    whole: Tensor
    rates: Tensor
    steps: Tensor


def leap(target: LogDensity, step: Step, h: Tensor) -> Step:
    """One leapfrog step; h may be negative, to go back in time."""
    p = step.p + h / 2 * step.at.score
    to = Place.of(target, step.at.x + h * p)
    return Step(to, p + h / 2 * to.score)


def energy(step: Step) -> Tensor:
    """H, (n,), float64."""
    return (0.5 * step.p.double().square().sum(-1) - step.at.log_prob.double())[0]


def turned(one: Step, two: Step, h: Tensor) -> Tensor:
    """Whether the way from one step to a later one has turned, (n,); to an earlier one, if h is negative."""
    way = (two.at.x - one.at.x) / h
    return ((way * one.p).sum(-1) <= 0)[0] | ((way * two.p).sum(-1) <= 0)[0]


def trajectory(target: LogDensity, at: Place, h: Tensor, depth: int, noise: Streams) -> tuple[Place, Tensor]:
    """The next points of all chains, and their acceptance rates, (n,).

    Args:
        at: n chains of one seed.
        h: step sizes, (1, 1, d).
        depth: most doublings.
    """
    n, d = at.x.shape[1:]
    begin = Step(at, noise.normal(n, d))
    chosen, earliest, latest, start = at.copy(), begin.copy(), begin.copy(), energy(begin)
    log_sum, rates, steps = torch.zeros_like(start), torch.zeros_like(start), torch.zeros_like(start)
    going = torch.arange(n, device=at.x.device)
    for j in range(depth):
        later = noise.uniform(len(going))[0] < 0.5
        log_u = noise.uniform(len(going))[0].double().log()
        back, front = earliest.take(going), latest.take(going)
        near, far, signed = front.where(later, back), back.where(later, front), torch.where(later[:, None], h, -h)
        new = branch(target, near, signed, start[going], j, noise)
        rates[going] += new.rates
        steps[going] += new.steps
        take = new.whole & (log_u < new.log_sum - log_sum[going])
        chosen.put(going[take], new.chosen.take(take))
        log_sum[going] = torch.logaddexp(log_sum[going], new.log_sum)
        earliest.put(going[~later], new.end.take(~later))
        latest.put(going[later], new.end.take(later))
        ended = turned(far, new.end, signed) | turned(far, new.first, signed) | turned(near, new.end, signed)
        going = going[new.whole & ~ended]
        if not len(going):
            break
    return chosen, rates / steps


def branch(target: LogDensity, near: Step, h: Tensor, start: Tensor, j: int, noise: Streams) -> Branch:
    """2^j steps of all chains, fewer where a part turns: each aligned 2, 4, ..., 2^j of them.

    Args:
        near: the step before.
        h: step sizes with the sign of the direction, (1, n, d).
        start: H_0, (n,).
    """
    end, first, chosen = near.copy(), near, near.at.copy()
    log_sum, rates, steps = torch.full_like(start, -math.inf), torch.zeros_like(start), torch.zeros_like(start)
    on = torch.arange(len(start), device=start.device)
    firsts: dict[int, Step] = {}  # by level: the first step of the part of 2^level steps in which we are,
    lasts: dict[int, Step] = {}  # and the last one of its first half
    for i in range(2**j):
        to = leap(target, end.take(on), h[:, on])
        log_w = (start[on] - energy(to)).nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf)
        rates[on] += log_w.clamp_max(0).exp()
        steps[on] += 1
        total = torch.logaddexp(log_sum[on], log_w)
        log_sum[on] = total
        take = noise.uniform(len(on))[0].double().log() < log_w - total
        chosen.put(on[take], to.at.take(take))
        end.put(on, to)
        kept = end.copy()
        first = kept if i == 0 else first
        firsts.update({level: kept for level in range(j + 1) if i % 2**level == 0})
        bad = log_w < -DIVERGED
        for level in range(1, j + 1):
            if (i + 1) % 2**level == 0:
                bad = bad | turned(firsts[level].take(on), to, h[:, on])
                if level > 1:
                    bad = bad | turned(firsts[level].take(on), firsts[level - 1].take(on), h[:, on])
                    bad = bad | turned(lasts[level].take(on), to, h[:, on])
            elif (i + 1) % 2 ** (level - 1) == 0:
                lasts[level] = kept
        on = on[~bad]
        if not len(on):
            break
    whole = torch.zeros_like(start, dtype=torch.bool)
    whole[on] = True
    return Branch(first, end, chosen, log_sum, whole, rates, steps)


def first_step(target: LogDensity, at: Place, noise: Streams) -> float:
    """The largest of 1, 1/2, 1/4, ... 2^-60 at which a leapfrog step is accepted at a rate of a half or more."""
    begin, wide, e = Step(at, noise.normal(*at.x.shape[1:])), spread(at.x), 1.0
    while e > 2.0**-60:
        gap = energy(begin) - energy(leap(target, begin, e * wide))
        if gap.clamp_max(0).exp().nan_to_num(nan=0.0).mean() >= 0.5:
            break
        e /= 2
    return e


def _law(target: LogDensity, h: Tensor, depth: int) -> Callable[[Tensor, Streams], Tensor]:
    """One trajectory of each chain, some chains at a time."""

    def push(x: Tensor, noise: Streams) -> Tensor:
        rows = max(1, CHUNK // x.shape[-1])
        return torch.cat(
            [trajectory(target, Place.of(target, part), h, depth, noise)[0].x for part in x.split(rows, 1)], 1
        )

    return push
