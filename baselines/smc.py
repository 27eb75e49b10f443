"""Tempered sequential Monte Carlo: particles are weighted, resampled and moved along a path from P_0 to the target.

    gamma_l = p_0^(1 - l) gamma^l,   0 = l_0 < l_1 < ... < l_T = 1,   p_0 the density of P_0, exp(log_prob) = gamma
    weigh       w_i = (gamma / p_0)(x_i)^(l_t - l_(t-1))
    resample    particle i gets about n w_i / sum w of the n places
    move        by a few steps of Hamiltonian Monte Carlo, which leave gamma_(l_t) invariant
    log Z       = sum over t of log (mean of w)

(Del Moral, Doucet and Jasra 2006.) This is the bar for methods that know the density: it needs no training, finds modes
in their proportions where P_0 covers them, and gives log Z with its standard error.

Temperatures. The next l is the largest at which the conditional effective sample size of the new weights is `ess` of
the particles (Zhou, Johansen and Aston 2016). That size is (sum W w)^2 / sum W w^2, with W the weights before them; l
is found by bisection. `temperatures` fixes the number of temperatures instead: l_t = (t / T)^power.

Moves. A move has at most `leapfrogs` steps, of size e times the particles' standard deviation in each coordinate, and a
total length of about `length` such deviations. Each trajectory has an e of its own, within 30 % of the common one,
because some would return to their start otherwise. leapfrogs=1 is MALA. After each move log e grows by (accepted share
- `accept`). So the particles tune the moves that they make, and the temperatures too: this biases log Z by O(1 / n).
With `tuned=false` and `temperatures` nothing is tuned on them, and the mean of exp(log_z) is Z exactly.

Annealed importance sampling (Neal 2001) is the setting resample=never, in its plain form with `temperatures` and
tuned=false. Particles are then resampled once, at the end, because a law here has points without weights.

Standard error of log Z: from the families of particles that have one ancestor in P_0 (Lee and Whiteley 2018;
gwfbench/training/resampling.py). It is nan where few families are left and the estimate of the variance is not
positive; take more particles then. It does not see moves that mix too slowly: on `brownian` log Z is off by 3.0 with 4
moves per law, at a standard error of 0.2, and by 0.15 with 16, at 0.08 (medians of five seeds, results/sampling).

Where log gamma is not finite, gamma counts as 0. Only the last law counts: those before it are of gamma_l, and have no
log Z. After l = 1 there are `after` further laws, that is rounds of moves, so that fewer points are equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.errors import require
from gwfbench.fields import Count, Interior, Natural, Positive, at_least, check_fields, refuse
from gwfbench.info import Field, Info, Initial, LogDensity
from gwfbench.protocol import Drawn, Marginal, Problem, State
from gwfbench.rng import Streams
from gwfbench.training.pilots import spread
from gwfbench.training.resampling import RESAMPLING, relative_variance, systematic
from gwfbench.velocity.median import SAMPLE
from gwfbench.velocity.movers import first

JITTER = 0.3  # half the relative width of the step sizes of one move
HALVINGS = 60  # of the bisection


@dataclass(frozen=True)
class SMC:
    particles: Annotated[int, at_least(2)] = 4096
    "number n of particles; a law has no more points than these"
    ess: Interior = 0.5
    "effective sample size of each temperature's weights, as a share of the particles, which sets the next temperature"
    temperatures: Count | None = None
    "number T of temperatures; default: as many as `ess` asks for"
    power: Positive = 1.0
    "exponent of the fixed temperatures (t / T)^power; used only if `temperatures` is given"
    resample: Literal["systematic", "multinomial", "never"] = "systematic"
    "resampling of the particles after each temperature's weights; never: annealed importance sampling"
    moves: Count = 16
    "number of moves per law"
    after: Natural = 4
    "number of further laws at the target, each of `moves` moves"
    leapfrogs: Count = 8
    "largest number of leapfrog steps per move; 1: the moves are MALA's"
    length: Positive = 1.5
    "length of a trajectory, in standard deviations of the particles"
    step: Positive = 0.3
    "initial step size e, in standard deviations of the particles"
    accept: Interior | None = None
    "acceptance rate that e is tuned to; default: 0.8, and 0.574 if leapfrogs=1"
    tuned: bool = True
    "whether moves follow the particles' acceptance and spread; false: e stays, and the spread is P_0's"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "looped"  # each has temperatures of its own
    version: ClassVar[int] = 2
    smoke: ClassVar[Mapping[str, object]] = {
        "particles": 64,
        "temperatures": 3,
        "leapfrogs": 2,
        "after": 1,
        "moves": 16,
    }
    reference: ClassVar[str] = """@article{delmoral2006sequential,
  title={Sequential {M}onte {C}arlo samplers}, author={Del Moral, Pierre and Doucet, Arnaud and Jasra, Ajay},
  journal={Journal of the Royal Statistical Society B}, volume={68}, number={3}, pages={411--436}, year={2006}}
@article{lee2018variance,
  title={Variance estimation in the particle filter}, author={Lee, Anthony and Whiteley, Nick}, journal={Biometrika},
  volume={105}, number={3}, pages={609--625}, year={2018}}
@article{neal2001annealed,
  title={Annealed importance sampling}, author={Neal, Radford M.}, journal={Statistics and Computing}, volume={11},
  pages={125--139}, year={2001}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        refuse(
            self, "power", when=self.power != 1 and self.temperatures is None, expected="power next to temperatures",
            fix="write temperatures=NUMBER too, or leave power out",
        )  # fmt: skip
        refuse(self, "accept", when=self.accept is not None and not self.tuned, expected="accept with tuned=true")

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        x = problem[Initial].draw(self.particles, rng.fork("particles"))
        s, n = x.shape[:2]
        exact = torch.zeros(s, 1, dtype=torch.float64, device=x.device)
        at = Place.of(_ends(problem), x)
        start = Cloud(
            at, exact, exact.expand(s, n) - math.log(n), torch.arange(n, device=x.device).expand(s, n), exact, exact,
            exact + math.nan, torch.full_like(x[:, :1, :1], self.step),
        )  # fmt: skip
        return self.resume(problem, budget, rng, {"k": 0, "left": self.after, **start.state()})

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        ends, k, left = _ends(problem), int(state["k"]), int(state["left"])
        cloud = Cloud.of(state, rng.device)
        wide = spread(problem[Initial].draw(SAMPLE, rng.fork("spread")))
        arrived = _arrived(cloud)
        while not arrived or left:
            k, left, noise = k + 1, left - arrived, rng.fork(f"law/{k + 1}")
            with torch.no_grad():
                if not arrived:
                    cloud = self._heat(cloud, k, noise.fork("resampling"))
                    arrived = _arrived(cloud)
                cloud = self._move(cloud, ends, wide, noise.fork("moves"))
            kept = {"k": k, "left": left, **cloud.state()}
            yield Drawn(
                float(k), partial(first, cloud.at.x), limit=self.particles, state=lambda kept=kept: kept,
                log_z=cloud.evidence() if arrived else None,
            )  # fmt: skip

    def _heat(self, cloud: Cloud, k: int, noise: Streams) -> Cloud:
        """Weights of the next temperature, and the particles resampled by them."""
        slope = cloud.at.slope()
        if self.temperatures is None:
            to = next_temperature(cloud.log_weights, slope, cloud.heat, self.ess)
        else:
            to = torch.full_like(cloud.heat, (k / self.temperatures) ** self.power)
        log_w = cloud.log_weights + _times(to - cloud.heat, slope)
        grown = log_w.logsumexp(1, keepdim=True)
        _require_weight(grown, noise)
        going, log_w = cloud.heat < 1, log_w - grown
        error = torch.where(going, relative_variance(log_w.exp(), cloud.family, cloud.pairs), cloud.error)
        cloud = replace(cloud, heat=to, log_weights=log_w, log_z=cloud.log_z + grown, error=error)
        if self.resample == "never" and not _arrived(cloud):
            return cloud
        how = systematic if self.resample == "never" else RESAMPLING[self.resample]
        chosen, log_c = how(log_w.exp(), noise)
        return cloud.chosen(torch.where(going, chosen, cloud.places()), torch.where(going, log_c, 0.0))

    def _move(self, cloud: Cloud, ends: Ends, wide: Tensor, noise: Streams) -> Cloud:
        """`moves` moves of all particles at their temperature; `wide` is P_0's standard deviation."""
        at, e, goal = cloud.at, cloud.step, self.accept or (0.574 if self.leapfrogs == 1 else 0.8)
        if self.tuned:
            wide = spread(at.x, cloud.log_weights.exp())
        for _ in range(self.moves):
            leaps = 1 if self.leapfrogs == 1 else min(self.leapfrogs, math.ceil(self.length / float(e.min())))
            at, accepted = move(ends, at, cloud.heat, e * wide, leaps, noise)
            if self.tuned:
                share = accepted.to(e.dtype).mean(1)[:, None, None]
                e = (e * (share - goal).exp()).clamp_max(self.length)
        return replace(cloud, at=at, step=e)


@dataclass(frozen=True)
class Ends:
    """Both ends of the path: log-densities, -inf where they are not finite, and scores."""

    start: LogDensity
    target: LogDensity


@dataclass(frozen=True)
class Place:
    """Places of the particles, (S, n, d), with log-densities (S, n) and scores of both ends of the path there."""

    x: Tensor
    log_start: Tensor
    log_target: Tensor
    score_start: Tensor
    score_target: Tensor

    @staticmethod
    def of(ends: Ends, x: Tensor) -> Place:
        start, target = ends.start, ends.target
        return Place(x, start.log_prob(x), target.log_prob(x), start.score(x), target.score(x))

    def slope(self) -> Tensor:
        """log (gamma / p_0), (S, n), float64: what a temperature multiplies; -inf where gamma is 0."""
        return (self.log_target.double() - self.log_start.double()).nan_to_num(
            nan=-math.inf, posinf=math.inf, neginf=-math.inf
        )

    def log_prob(self, heat: Tensor) -> Tensor:
        """log gamma_l, (S, n), l = heat (S, 1) > 0; float64, or particles far down would not feel small changes."""
        return _times(1 - heat, self.log_start.double()) + heat * self.log_target.double()

    def score(self, heat: Tensor) -> Tensor:
        heat = heat[..., None].to(self.x.dtype)
        return _times(1 - heat, self.score_start) + heat * self.score_target


@dataclass(frozen=True)
class Cloud:
    """Particles and all that is known of them, S seeds first; (S, 1) and float64 if not said otherwise.

    Args:
        heat: the temperature l.
        log_weights: (S, n), normalised.
        family: (S, n), each particle's ancestor among the draws of P_0.
        log_z: log of the estimate of the integral of gamma_l.
        pairs: log of the product of c_t.
        error: relative variance of exp(log_z).
        step: e, (S, 1, 1), in the particles' precision.
    """

    at: Place
    heat: Tensor
    log_weights: Tensor
    family: Tensor
    log_z: Tensor
    pairs: Tensor
    error: Tensor
    step: Tensor

    def state(self) -> State:
        return {**vars(self.at), **{name: part for name, part in vars(self).items() if name != "at"}}

    @staticmethod
    def of(state: State, device: torch.device) -> Cloud:
        place, own = (
            {name: torch.as_tensor(state[name]).to(device) for name in cls.__dataclass_fields__ if name != "at"}
            for cls in (Place, Cloud)
        )
        return Cloud(Place(**place), **own)

    def places(self) -> Tensor:
        return torch.arange(self.family.shape[1], device=self.family.device).expand_as(self.family)

    def chosen(self, index: Tensor, log_c: Tensor) -> Cloud:
        """These particles (S, n), with equal weights."""
        at, n = self.at, index.shape[1]
        wide = index[..., None].expand_as(at.x)
        moved = Place(
            at.x.gather(1, wide), at.log_start.gather(1, index), at.log_target.gather(1, index),
            at.score_start.gather(1, wide), at.score_target.gather(1, wide),
        )  # fmt: skip
        equal = torch.full_like(self.log_weights, -math.log(n))
        family = self.family.gather(1, index)
        return replace(self, at=moved, log_weights=equal, family=family, pairs=self.pairs + log_c)

    def evidence(self) -> tuple[Tensor, Tensor]:
        """log Z and its standard error, (S,) each."""
        return self.log_z[:, 0], self.error[:, 0].where(self.error[:, 0] > 0, math.nan).sqrt()


def next_temperature(log_weights: Tensor, slope: Tensor, heat: Tensor, ess: float) -> Tensor:
    """The largest temperature up to 1 whose conditional effective sample size is `ess` or more, (S, 1).

    Particles at which gamma is 0 are left out: they lose their weight at any temperature.
    """

    def enough(by: Tensor) -> Tensor:
        log_w = _times(by, slope)
        one, two = ((log_weights + power * log_w).logsumexp(1, keepdim=True) for power in (1, 2))
        return 2 * one - two - alive >= math.log(ess)

    alive = log_weights.where(slope > -math.inf, -math.inf).logsumexp(1, keepdim=True)
    low, high = torch.zeros_like(heat), 1 - heat
    whole = enough(high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        good = enough(middle)
        low, high = low.where(~good, middle), high.where(good, middle)
    one = torch.ones_like(heat)
    return one.where(whole, torch.maximum(heat + low, heat.nextafter(one)))


def move(ends: Ends, at: Place, heat: Tensor, h: Tensor, leaps: int, noise: Streams) -> tuple[Place, Tensor]:
    """One step of Hamiltonian Monte Carlo, and which were accepted, (S, n); it leaves gamma_l invariant.

    Args:
        h: step sizes, (S, 1, d), one per coordinate: the momentum p is in units of 1 / h.
    """
    n, d = at.x.shape[1:]
    h = h * (1 + JITTER * (2 * noise.uniform(n, 1) - 1))
    p = start = noise.normal(n, d)
    to = at
    for _ in range(leaps):
        p = p + h / 2 * to.score(heat)
        x = to.x + h * p
        to = replace(to, x=x, score_start=ends.start.score(x), score_target=ends.target.score(x))
        p = p + h / 2 * to.score(heat)
    to = replace(to, log_start=ends.start.log_prob(to.x), log_target=ends.target.log_prob(to.x))
    kinetic = 0.5 * (start.double().square() - p.double().square()).sum(-1)
    log_ratio = to.log_prob(heat) - at.log_prob(heat) + kinetic
    accepted = noise.uniform(n).double().log() < log_ratio  # nan, far out where log gamma overflows, is a rejection
    wide = accepted[..., None]
    moved = Place(
        to.x.where(wide, at.x), to.log_start.where(accepted, at.log_start),
        to.log_target.where(accepted, at.log_target), to.score_start.where(wide, at.score_start),
        to.score_target.where(wide, at.score_target),
    )  # fmt: skip
    return moved, accepted


def _ends(problem: Problem) -> Ends:
    start, target = problem[Initial].log_prob, problem[LogDensity]
    require(
        start is not None,
        "smc on a task whose P_0 has no density",
        "a log_prob in Initial, as particles are weighted against it",
        "take mala or nuts, or give the task's Initial a log_prob",
    )
    assert start is not None
    return Ends(
        LogDensity(_or_nothing(start), _gradient(start)), LogDensity(_or_nothing(target.log_prob), target.score)
    )


def _or_nothing(log_prob: Field) -> Field:
    """The log-density, -inf where it is not finite."""

    def field(x: Tensor) -> Tensor:
        value = log_prob(x)
        return value.where(value.isfinite(), -math.inf)

    return field


def _gradient(log_prob: Field) -> Field:
    """The score of P_0, which has none of its own."""

    def field(x: Tensor) -> Tensor:
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            value = log_prob(y)
            return torch.autograd.grad(value.sum(), y)[0] if value.requires_grad else torch.zeros_like(x)

    return field


def _times(factor: Tensor, values: Tensor) -> Tensor:
    """factor * values, 0 where the factor is 0, whatever the value."""
    return torch.where(factor == 0, 0.0, factor * values)


def _arrived(cloud: Cloud) -> bool:
    return bool((cloud.heat >= 1).all())


def _require_weight(grown: Tensor, noise: Streams) -> None:
    """Refuse to go on where all weights of a seed are 0."""
    for seed, value in zip(noise.seeds, grown[:, 0].tolist(), strict=True):
        require(
            value > -math.inf,
            f"smc: seed {seed} has no particle at which the target's log_prob is finite",
            "some, as particles that start where it is not finite have weight 0",
            "take more particles, or a P_0 inside the target's support",
        )
