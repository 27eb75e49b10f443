"""Parts of a JKO step on a pool of particles: maps and critics in the pool's coordinates, forward moves, batches."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gwfbench.fields import refuse
from gwfbench.info import Field, Initial, InternalEnergy, LogDensity
from gwfbench.nn.icnn import DenseICNN
from gwfbench.nn.mlp import MLP, ResidualLinear, ResidualMLP
from gwfbench.objectives.variational import TOP, Energy, Head, force, pair_energy
from gwfbench.protocol import I, Problem, Pushed, State
from gwfbench.rng import Streams
from gwfbench.training.proposals import Box, Ellipsoid, Gaussian, Proposal, Student

CHUNK = 65536  # points moved at once
HESSIANS = 8192  # at once
LIMIT = 5.0  # flow time at which a JKO method stops, unless told otherwise, where only the limit is judged
JUMP = 30.0  # sizes of the cloud: the farthest that a forward step may move a point


MAPS = ("linear", "prelu", "icnn")  # by their number in a state
Network = ResidualLinear | ResidualMLP | DenseICNN


def network(
    kind: str, d: int, width: int, depth: int, rng: Streams, strong: float, prelu: Literal["hidden", "all"]
) -> Network:
    """The network under T, one of `MAPS`: strong is for icnn, prelu for prelu."""
    if kind == "icnn":
        return DenseICNN(d, width, depth, rng, strong=strong)
    return ResidualLinear(d, width, depth, rng) if kind == "linear" else ResidualMLP(d, width, depth, rng, prelu)


@dataclass(frozen=True)
class Frame:
    """Coordinates u = (x - center) / size."""

    center: Tensor  # (S, 1, d)
    size: Tensor  # (S, 1, 1)

    @staticmethod
    def of(mu: Gaussian | Student) -> Frame:
        """In which the mean is 0 and the mean variance (or scatter) of a coordinate 1."""
        square = mu.root.square().sum((1, 2), keepdim=True) / mu.root.shape[-1]
        return Frame(mu.mean, square.sqrt())

    def to(self, x: Tensor) -> Tensor:
        return (x - self.center) / self.size

    def back(self, u: Tensor) -> Tensor:
        return self.center + self.size * u


@dataclass(frozen=True)
class Transport:
    """T, a network in the coordinates of a frame; None: in those of the points."""

    net: Network
    frame: Frame | None

    @staticmethod
    def of(net: Network, mu: Gaussian | Student | None) -> Transport:
        """In coordinates in which mu has size one; None: in those of the points."""
        return Transport(net, None if mu is None else Frame.of(mu))

    def __call__(self, x: Tensor) -> Tensor:
        return self.net(x) if self.frame is None else self.frame.back(self.net(self.frame.to(x)))

    def dropped(self, x: Tensor, share: float, noise: Streams, first: int) -> Tensor:
        """T(x) with dropout from that hidden layer on, of a ResidualMLP."""
        assert isinstance(self.net, ResidualMLP)
        if self.frame is None:
            return self.net.dropped(x, share, noise, first)
        return self.frame.back(self.net.dropped(self.frame.to(x), share, noise, first))

    @property
    def log_det(self) -> Field | None:
        """log |det grad T| where it has a formula: the frame's sizes cancel."""
        net, to = self.net, (lambda x: x) if self.frame is None else self.frame.to
        if isinstance(net, ResidualLinear):
            return lambda x: net.log_det(to(x))
        if isinstance(net, DenseICNN):
            return lambda x: torch.cat([net.log_det(part, True) for part in to(x).split(HESSIANS, 1)], 1)
        return None

    @property
    def inverse(self) -> Field | None:
        """T^-1 of a convex function's gradient, and of a linear map."""
        net, frame = self.net, self.frame
        if isinstance(net, ResidualMLP):
            return None
        if frame is None:
            return net.inverse
        return lambda y: frame.back(torch.cat([net.inverse(part) for part in frame.to(y).split(HESSIANS, 1)], 1))

    def kept(self) -> Transport:
        """A copy that does not change when training goes on, if it has an inverse; else itself."""
        return self if isinstance(self.net, ResidualMLP) else Transport(copy.deepcopy(self.net), self.frame)


@dataclass(frozen=True)
class Critic:
    """h: a network with one output, in some coordinates (None: those of the points), behind its head.

    `radial`: the mean square of the coordinates is an input of the network too.
    """

    net: MLP
    head: Field
    white: Field | None
    radial: bool = False

    def __call__(self, y: Tensor, frozen: bool = False) -> Tensor:
        """h at y, (S, n, d) -> (S, n); `frozen` cuts the parameters from the gradient."""
        u = y if self.white is None else self.white(y)
        if self.radial:
            u = torch.cat([u, u.square().mean(-1, keepdim=True)], -1)
        return self.head(self.net(u, frozen).squeeze(-1))

    def at_both(self, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """h at y and at z, in one pass."""
        h = self(torch.cat([y, z], 1))
        return h[:, : y.shape[1]], h[:, y.shape[1] :]


@dataclass(frozen=True)
class Functional:
    """An energy by its critic, seen from one JKO step.

    Args:
        bound: its row of the table in objectives/variational.py.
        head: h from the critic's output.
        proposal: fitted to P_k; the critic sees its coordinates if `white`.
        radial: as `Critic`.
        target: the target Q, of kl: A_h has log mu - log Q outside; None: nothing is outside.
    """

    bound: Energy
    head: Head
    proposal: Proposal
    white: bool
    radial: bool
    target: LogDensity | None

    def critic(self, net: MLP) -> Critic:
        return Critic(net, self.head.value, self.proposal.white if self.white else None, self.radial)

    def critic_loss(self, net: MLP) -> Callable[[Tensor, Tensor], Tensor]:
        """What the critic descends, (y, z) -> (S,)."""
        h = self.critic(net)
        return lambda y, z: self.bound.critic_loss(*h.at_both(y, z))

    def variation(self, net: MLP) -> Field:
        """dF/dP by the critic with its parameters frozen."""
        h, mu, target = self.critic(net), self.proposal, self.target
        if target is None:
            return lambda y: self.bound.rate(h(y, frozen=True))
        assert not isinstance(mu, Box | Ellipsoid)
        return lambda y: self.bound.rate(h(y, frozen=True)) + mu.log_prob(y) - target.log_prob(y)

    def variation_at(self, log_p: Field) -> Field:
        """dF/dP at a law with that log-density."""
        proposal, target = self.proposal, self.target
        if target is not None:
            return lambda y: log_p(y) - target.log_prob(y)
        assert isinstance(proposal, Box | Ellipsoid)
        return lambda y: self.bound.rate((log_p(y) + proposal.log_volume[:, None]).exp().to(y.dtype))


@dataclass(frozen=True)
class Shift:
    """The forward step x - a grad(W * P)(x), with particles for P.

    A point that it takes farther than `JUMP` times P's median distance to its mean goes to infinity instead: there the
    slope of the velocity times a is far beyond 2, and the step follows no flow. The runner then marks that seed as
    diverged. (In float32 pairs are at least 6e-8 apart near 1, or 0: the jumps of a singular force have an upper end.)
    """

    a: float
    kernel: Field
    particles: Tensor  # (S, m, d)

    def __call__(self, x: Tensor) -> Tensor:
        move = self.a * force(self.kernel, x, self.particles)
        size = (self.particles - self.particles.mean(1, keepdim=True)).norm(dim=-1).median(1)[0]
        lost = move.norm(dim=-1, keepdim=True) > JUMP * size[:, None, None]
        return torch.where(lost, math.inf, x - move)


def step_loss(
    a: float, now: Field | None, before: Field | None, kernel: Field | None, partners: int, scheme: str
) -> Callable[[Tensor, Tensor], Tensor]:
    """What the map descends, (x, its image y) -> (S,): transport cost and energy.

    Args:
        now: dF/dP at T#P_k, its critic frozen; None: there is nothing but the interaction.
        before: dF/dP at P_k, for a Crank-Nicolson step.
        kernel, partners: of the interaction's pair term, as `pair_energy`; None: it has none.
        scheme: "crank_nicolson" takes the slope of dF/dP(P_k) at x, "section_b" its value at y, any other neither.
    """

    def mean(change: Field | None, y: Tensor, others: Tensor, share: float) -> Tensor:
        """Of dF/dP at y, (S,), the interaction's by pairs of y with others, times share."""
        total = torch.zeros((), device=y.device) if change is None else change(y).mean(1)
        return total if kernel is None else total + share * pair_energy(kernel, y, others, partners)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        cost = (x - y).square().sum(-1).mean(1) / (2 * a)
        energy = mean(now, y, y, 0.5)
        if scheme == "crank_nicolson":
            leaf = x.detach().requires_grad_()
            old = mean(before, leaf, leaf, 0.5).sum() * x.shape[1]  # the pair term's slope is the whole force
            (slope,) = torch.autograd.grad(old, leaf) if old.requires_grad else (torch.zeros_like(x),)
            energy = 0.5 * energy + 0.5 * (slope * y).sum(-1).mean(1)
        elif scheme == "section_b":
            energy = 0.5 * energy + 0.5 * mean(before, y, x, 1.0)
        return cost + energy

    return loss


def offered(problem: Problem, info: type[I]) -> I | None:
    """What the problem offers of that type, if it does; the problem notes that it was asked for."""
    return problem[info] if any(isinstance(each, info) for each in problem.infos) else None


def best_log_h(problem: Problem, cloud: Tensor, region: Ellipsoid | Box) -> float:
    """log of the largest h = dP/dU at P_0, U uniform on the region; from below, by the cloud (S, n, d) drawn from P_0.

    A law within a set of volume V has a density of 1 / V or more somewhere; where P_0's density is known, it is looked
    up at the cloud and at its centre.
    """
    highest = -Ellipsoid.around(cloud, 1.0).log_volume
    log_p = problem[Initial].log_prob
    if log_p is not None:
        x = torch.cat([cloud[:, :CHUNK], cloud.mean(1, keepdim=True)], 1)
        highest = torch.maximum(highest, log_p(x).double().amax(1))
    return float((highest + region.log_volume).max())


def require_reach(method: Any, problem: Problem, cloud: Tensor, region: Ellipsoid | Box) -> None:
    """Raise unless a critic of the internal energy can have its best values at P_0, and its constants are floats.

    Args:
        method: with fields box, volume and head.
        cloud: (S, n, d), drawn from P_0.
    """
    m = problem[InternalEnergy].m
    top, most = best_log_h(problem, cloud, region), math.log(torch.finfo(cloud.dtype).max)
    limit = min(most / m, TOP if method.head == "exp1" else math.inf)
    constant = float(((m - 1) * region.log_volume).abs().max())
    name = "box" if method.box else "volume"
    fix = "leave box out" if method.box else "take a smaller volume, or a task of fewer dimensions"
    words = f"e^{limit:.3g} at P_0; here it reaches e^{top:.3g}, as little of the region holds mass of P_0"
    words = f"a region on which the critic's best h is at most {words}"
    refuse(method, name, "head", when=not top <= limit, expected=words, fix=fix)
    words = f"a region with a volume V for which V^(m - 1) is between e^-{most:.3g} and e^{most:.3g}"
    refuse(method, name, when=not constant < most, expected=words, fix=fix)


def on_rows(target: LogDensity, rows: int | None, rng: Streams) -> LogDensity:
    """The target, on fresh rows of the data at each call if a number of rows is given."""
    batch = target.batch
    if rows is None or batch is None:
        return target
    return LogDensity(lambda y: batch(rows, rng).log_prob(y), lambda y: batch(rows, rng).score(y))


def move(pool: Tensor, push: Callable[[Tensor], Tensor]) -> None:
    """Push all points of the pool (S, n, d), in place."""
    with torch.no_grad():
        for part in pool.split(CHUNK, 1):
            part.copy_(push(part))


def batches(pool: Tensor, size: int, rng: Streams) -> Iterator[Tensor]:
    """Batches (S, size, d) without end: the pool's consecutive blocks, in a new random order at each pass.

    Blocks stay whole: independent draws need no shuffling, and moment-matched blocks keep their moments.
    """
    blocks = pool.unflatten(1, (-1, size))
    seeds = torch.arange(len(pool), device=pool.device)
    while True:
        for column in rng.uniform(blocks.shape[1]).argsort(1).unbind(1):
            yield blocks[seeds, column]


def pushed(t: float, maps: Sequence[Shift | Transport], state: Callable[[], State]) -> Pushed:
    """The law at t to which the maps, one after the other, push the one before.

    It has a density where a lone transport has one: that of a forward step can't be had (Fan et al. 2022, Section D).
    """

    def push(x: Tensor, _noise: Streams) -> Tensor:
        for each in maps:
            x = each(x)
        return x

    last = maps[-1]
    if len(maps) > 1 or isinstance(last, Shift):
        return Pushed(t, push, state=state)
    kept = last.kept()
    return Pushed(t, push, kept.log_det, kept.inverse, state)


def gaussian(problem: Problem, rng: Streams) -> bool:
    """Whether P_0 and the target are, for all seeds, as far as log-densities between points of P_0 tell."""
    start, log_q = problem[Initial], problem[LogDensity].log_prob
    x, y = start.draw(64, rng.fork("from")), start.draw(64, rng.fork("to"))
    return start.log_prob is not None and quadratic(start.log_prob, x, y) and quadratic(log_q, x, y)


def quadratic(log_density: Field, x: Tensor, y: Tensor) -> bool:
    """Whether a function is, on every line from x_i to y_i, (S, n, d): third differences are 0 to 1e-4 of its size."""
    with torch.no_grad():
        f = log_density(torch.cat([x + (y - x) * (i / 3) for i in range(4)], 1)).unflatten(1, (4, -1))
    third = f[:, 0] - 3 * f[:, 1] + 3 * f[:, 2] - f[:, 3]
    return bool((third.abs() <= 1e-4 * f.abs().amax((1, 2))[:, None]).all())
