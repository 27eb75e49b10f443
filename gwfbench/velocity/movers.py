"""What a velocity field moves: particles, or the law of a generator.

A velocity is estimated from samples alone: v(x; q, p) at points x of q, from them and fresh points y of the target p.

    particles    x <- x + h v(x; q, p), one cloud from P_0, for t = h, 2h, ...
    generator    x = G(z), z ~ N(0, I); one Adam step on the mean square of G(z) - stop(G(z) + h v(G(z); q, p)), whose
                 gradient is that of -2h v . G(z) (Deng et al. 2026, equation 1 and Algorithm 1)

The same field with both carriers says what is the field's doing and what the network's. On a manifold v is tangent,
x + h v becomes exp_x(h v), G ends with the projection, and the square is that of the geodesic distance: at x the
gradient of |log_x exp_x(h v)|^2 is the same -2h v.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor

from gwfbench.errors import require
from gwfbench.info import Field, Initial, TargetSamples
from gwfbench.nn.adam import Adam
from gwfbench.nn.silu import SiLU
from gwfbench.protocol import Drawn, Marginal, Problem
from gwfbench.rng import Streams

Carrier = Literal["particles", "generator"]
Velocity = Callable[[Tensor, Tensor, Streams], Tensor]  # x (S, n, d) of q, y (S, m, d) of p, noise -> v at x (S, n, d)


def _as_it_is(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Manifold:
    """Where points live; the default is the whole space."""

    exponential: Callable[[Tensor, Tensor], Tensor] = torch.add  # x and v tangent there, (S, n, d) -> exp_x(v)
    project: Field = _as_it_is  # any points (S, n, d) -> points of the manifold


@dataclass(frozen=True)
class Network:
    """z (latent) -> `depth` times width -> d, SiLU; defaults are the notebook's of Deng et al. 2026."""

    latent: int = 32
    width: int = 256
    depth: int = 3
    lr: float = 1e-3


class Carried(Protocol):
    """The fields of a method whose field is carried.

    step: h.    points: particles; or generated points a step.    batch: fresh target points a step.
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


def require_positive(method: Carried, *names: str) -> None:
    """Raise `UserError` unless each of these fields is none, or a finite number above 0."""
    head = type(method).__module__.rpartition(".")[2]  # its name, without the registry among what rows depend on
    for name in names:
        value = getattr(method, name)
        good = value is None or 0 < value < math.inf
        require(good, f"{head}:{name}={value}", "a positive number", f"leave {name} out for its default")


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
    """Laws after each step of a method's velocity field.

    Args:
        velocity: called once a step, without gradients, with noise of that step.
        step, steps: in place of the method's, which may be none.
        manifold: on which P_0 and the target live.
    """
    step, steps = step or method.step, steps or method.steps
    assert step is not None and steps is not None, "a method without a default says it here"  # noqa: PT018
    points, batch = method.points, method.batch
    flat = FlatShape(problem.shape)
    move = _particles if method.carrier == "particles" else _generator
    target, noise = problem[TargetSamples].draw, rng.fork("steps")

    def at(k: int, x: Tensor) -> Tensor:
        here = noise.fork(str(k))
        with torch.no_grad():
            y = flat(target(batch, here.fork("target")))
            return step * velocity(x, y, here.fork("velocity"))

    return move(problem, flat, rng, at, step, steps, points, network, manifold)


def first(x: Tensor, n: int, _rng: Streams) -> Tensor:
    """The first n of the particles x (S, N, ...): what `Drawn.draw` is of a law with a limit.

    Raises:
        ValueError: there are fewer; repeating some would spoil every two-sample metric.
    """
    if n > x.shape[1]:
        raise ValueError(f"{n} points asked of {x.shape[1]} particles")
    return x[:, :n]


Move = Callable[[int, Tensor], Tensor]  # number of the step, x (S, n, d) -> h v


@dataclass(frozen=True)
class FlatShape:
    """Points of any shape as vectors: (S, n, ...) -> (S, n, d), and back."""

    shape: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(2)

    def back(self, x: Tensor) -> Tensor:
        return x.unflatten(2, self.shape)


def _particles(
    problem: Problem,
    flat: FlatShape,
    rng: Streams,
    at: Move,
    step: float,
    steps: int,
    points: int,
    _: Network,
    manifold: Manifold,
) -> Iterator[Marginal]:
    x = flat(problem[Initial].draw(points, rng.fork("particles")))
    for k in range(1, steps + 1):
        x = manifold.exponential(x, at(k, x))
        yield Drawn(k * step, partial(first, flat.back(x)), limit=points)


def _generator(
    problem: Problem,
    flat: FlatShape,
    rng: Streams,
    at: Move,
    step: float,
    steps: int,
    points: int,
    network: Network,
    manifold: Manifold,
) -> Iterator[Marginal]:
    d = torch.Size(problem.shape).numel()
    net = SiLU((network.latent, *[network.width] * network.depth, d), rng.fork("generator"))
    adam, latent = Adam(net.parameters, network.lr), rng.fork("latent")

    def draw(n: int, noise: Streams) -> Tensor:
        return flat.back(manifold.project(net(noise.normal(n, network.latent), frozen=True)))

    for k in range(1, steps + 1):
        x = manifold.project(net(latent.normal(points, network.latent)))
        move = at(k, x.detach())
        # summed over seeds, mean over points and coordinates; equals the gradient of |x - stop(x + move)|^2
        adam.descend(-2 * (x * move).sum() / (points * d), 1.0)
        yield Drawn(k * step, draw)
