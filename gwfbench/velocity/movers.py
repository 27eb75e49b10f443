"""What a velocity field moves: particles, or the law of a generator. Points are vectors.

A velocity is estimated from samples alone: v(x; q, p) at points x of q, from them and fresh points y of the target p.

    particles    x <- x + h v(x; q, p), one cloud from P_0, for t = h, 2h, ...
    generator    x = G(z), z ~ N(0, I); one Adam step on the mean square of G(z) - stop(G(z) + h v(G(z); q, p)), whose
                 gradient is that of -2h v . G(z) (Deng et al. 2026, equation 1 and Algorithm 1)

The same field with both carriers tells the effect of the field from that of the network. So that fields can be compared
on generators, all methods train theirs by the same number of Adam steps, GENERATOR_STEPS, unless told otherwise.

On a manifold v is tangent, x + h v becomes exp_x(h v), G ends with the projection, and the square is that of the
geodesic distance: at x the gradient of |log_x exp_x(h v)|^2 is the same -2h v.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor

from gwfbench.info import Field, Initial, TargetSamples
from gwfbench.nn.adam import Adam
from gwfbench.nn.silu import SiLU
from gwfbench.protocol import Drawn, Marginal, Problem
from gwfbench.rng import Streams

Carrier = Literal["particles", "generator"]
GENERATOR_STEPS = 500  # of Adam, where a method's `steps` is none
LATENT = 32  # least dimension of a generator's noise, where it is none
Velocity = Callable[[Tensor, Tensor, Streams], Tensor]  # x (S, n, d) of q, y (S, m, d) of p, noise -> v at x (S, n, d)


@dataclass(frozen=True)
class Manifold:
    """Where points live; the default is the whole space."""

    exponential: Callable[[Tensor, Tensor], Tensor] = torch.add  # x and v tangent there, (S, n, d) -> exp_x(v)
    project: Field = torch.positive  # any points (S, n, d) -> points of the manifold; here they all are


@dataclass(frozen=True)
class Network:
    """z (latent) -> `depth` times width -> d, SiLU; defaults are the notebook's of Deng et al. 2026.

    Args:
        latent: None: 32, the notebook's, but d where that is more: from fewer coordinates the law would be singular.
    """

    latent: int | None = None
    width: int = 256
    depth: int = 3
    lr: float = 1e-3


class Carried(Protocol):
    """Fields of a method whose velocity field is carried.

    step: h.    points: particles; or generated points per step.    batch: fresh target points per step.
    """

    @property
    def carrier(self) -> Carrier: ...
    @property
    def step(self) -> float | None: ...
    @property
    def steps(self) -> int | None: ...
    @property
    def points(self) -> int: ...
    @property
    def batch(self) -> int: ...


@dataclass(frozen=True)
class Flow:
    """A velocity field with all that its steps need.

    Args:
        velocity: called once per step, without gradients, with noise of that step.
        step, steps: step size h, and number of steps.
        points: particles; or generated points per step.
        batch: fresh target points per step.
        manifold: where P_0 and the target live.
    """

    problem: Problem
    rng: Streams
    velocity: Velocity
    step: float
    steps: int
    points: int
    batch: int
    manifold: Manifold

    @torch.no_grad()
    def shift(self, k: int, x: Tensor) -> Tensor:
        """h v(x) of step k."""
        noise = self.rng.fork(f"steps/{k}")
        y = self.problem[TargetSamples].draw(self.batch, noise.fork("target"))
        return self.step * self.velocity(x, y, noise.fork("velocity"))

    def particles(self) -> Iterator[Marginal]:
        """Laws of one cloud from P_0."""
        x = self.problem[Initial].draw(self.points, self.rng.fork("particles"))
        for k in range(1, self.steps + 1):
            x = self.manifold.exponential(x, self.shift(k, x))
            yield Drawn(k * self.step, partial(first, x), limit=self.points)

    def generator(self, network: Network) -> Iterator[Marginal]:
        """Laws of a network's images of N(0, I)."""
        (d,) = self.problem.shape
        size = network.latent or max(LATENT, d)
        net = SiLU((size, *[network.width] * network.depth, d), self.rng.fork("generator"))
        adam, latent = Adam(net.parameters, network.lr), self.rng.fork("latent")

        def draw(n: int, noise: Streams) -> Tensor:
            return self.manifold.project(net(noise.normal(n, size), frozen=True))

        for k in range(1, self.steps + 1):
            x = self.manifold.project(net(latent.normal(self.points, size)))
            move = self.shift(k, x.detach())
            # summed over seeds, mean over points and coordinates; equals the gradient of |x - stop(x + move)|^2
            adam.descend(-2 * (x * move).sum() / (self.points * d), 1.0)
            yield Drawn(k * self.step, draw)


def carry(
    method: Carried,
    problem: Problem,
    rng: Streams,
    velocity: Velocity,
    *,
    step: float | None = None,
    steps: int | None = None,
    network: Network = Network(),
    manifold: Manifold = Manifold(),
) -> Iterator[Marginal]:
    """Laws after each step of a method's velocity field, with the method's carrier.

    Args:
        problem: of vectors.
        step: in place of the method's, which may be None.
        steps: of particles, where the method's is None.
        network: of the generator.

    Raises:
        ValueError: neither the method nor the call has a step, or a number of steps.
    """
    step = step or method.step
    if step is None:
        raise ValueError("a method without a default for step passes it here")
    flow = Flow(problem, rng, velocity, step, number(method, steps), method.points, method.batch, manifold)
    return flow.particles() if method.carrier == "particles" else flow.generator(network)


def number(method: Carried, particles: int | None = None) -> int:
    """Of steps: the method's own; where that is None, `particles`, or GENERATOR_STEPS with a generator.

    Raises:
        ValueError: there is none.
    """
    steps = method.steps or (particles if method.carrier == "particles" else GENERATOR_STEPS)
    if steps is None:
        raise ValueError("a method without a default for steps passes it here")
    return steps


def first(x: Tensor, n: int, _rng: Streams) -> Tensor:
    """The first n of the particles x (S, N, ...): what `Drawn.draw` is of a law with a limit.

    Raises:
        ValueError: there are fewer; repeating some would spoil every two-sample metric.
    """
    if n > x.shape[1]:
        raise ValueError(f"{n} points asked of {x.shape[1]} particles")
    return x[:, :n]
