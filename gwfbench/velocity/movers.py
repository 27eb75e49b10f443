"""What a velocity field moves: particles, or the law of a generator. Fields see points as vectors, images flat.

A velocity is estimated from samples alone: v(x; q, p) at points x of q, from them and fresh points y of the target p.

    particles    x <- x + h v(x; q, p), one cloud from P_0, for t = h, 2h, ...
    generator    x = G(z), z ~ N(0, I); one Adam step on the mean square of G(z) - stop(G(z) + h v(G(z); q, p)), whose
                 gradient is that of -2h v . G(z) (Deng et al. 2026, equation 1 and Algorithm 1)

The same field with both carriers separates the effect of the field from that of the network. So that fields can be
compared on generators, all methods train theirs by the same number of Adam steps, GENERATOR_STEPS, unless another
number is given.

A generator's field may also be one among features of the points (velocity/features.py).

On a manifold v is tangent, x + h v becomes exp_x(h v), G ends with the projection, and the square is that of the
geodesic distance: at x the gradient of |log_x exp_x(h v)|^2 is the same -2h v.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor

from gwfbench.info import Draw, Field, Initial, TargetSamples
from gwfbench.nn import networks
from gwfbench.nn.adam import Adam
from gwfbench.protocol import Drawn, Marginal, Problem, State
from gwfbench.rng import Streams
from gwfbench.velocity import features
from gwfbench.velocity.features import Maps, Velocity

Carrier = Literal["particles", "generator"]
GENERATOR_STEPS = 500  # of Adam, where a method's `steps` is none
LATENT = 32  # least dimension of a generator's noise, where it is none
IMAGE_LATENT = 128  # of the noise of a network for images, where it is none
POINTS = 1024  # generated and target points per step, or particles, where a method's `points` and `batch` are none
IMAGE_POINTS, IMAGE_BATCH = 128, 256  # the same of a generator of images
AT_ONCE = 2**20  # numbers of images that are generated at once for a judge


@dataclass(frozen=True)
class Manifold:
    """Where points live; the default is the whole space."""

    exponential: Callable[[Tensor, Tensor], Tensor] = torch.add  # x and v tangent there, (S, n, d) -> exp_x(v)
    project: Field = torch.positive  # any points (S, n, d) -> points of the manifold; here they all are


@dataclass(frozen=True)
class Network:
    """z (latent) -> a point; of vectors `depth` times width with SiLU, whose defaults are the notebook's of Deng et al.

    Args:
        latent: None: for images 128; for vectors 32, the notebook's, but d where that is more: from fewer coordinates
            the law would be singular.
        width, depth: None: 256 and 3 for an mlp; the kind's own for images (nn/networks.py).
        kind: of nn/networks.py.
        maps: features among which its field is; None: the points themselves.
    """

    latent: int | None = None
    width: int | None = 256
    depth: int | None = 3
    lr: float = 1e-3
    kind: networks.Kind = "mlp"
    maps: Maps | None = None

    def size(self, shape: tuple[int, ...]) -> int:
        """Of the noise, for points of this shape."""
        return self.latent or (IMAGE_LATENT if len(shape) > 1 else max(LATENT, *shape))

    def generator(self, shape: tuple[int, ...], rng: Streams) -> networks.Network:
        """With weights at their start."""
        plain = self.kind == "mlp" or (self.kind == "auto" and len(shape) == 1)
        width, depth = (self.width or 256, self.depth or 3) if plain else (self.width, self.depth)
        return networks.generator(self.kind, shape, self.size(shape), width, depth, rng)


class Learnt(Protocol):
    """What a velocity field learns alongside, and a resumed run must have again."""

    def state(self) -> dict[str, Tensor | int]: ...
    def load(self, state: Mapping[str, Tensor | int | float]) -> None: ...


@dataclass(frozen=True)
class Memory:
    """What makes a run one that can be resumed.

    Args:
        state: of the law to go on from; None: from the start.
        learnt: by the velocity.
    """

    state: State | None = None
    learnt: Learnt | None = None

    def below(self, prefix: str) -> dict[str, Tensor | int | float]:
        """The part of the state whose names begin so."""
        state = self.state or {}
        return {name.removeprefix(prefix): part for name, part in state.items() if name.startswith(prefix)}


class Carried(Protocol):
    """Fields of a method whose velocity field is carried.

    step: h.    points: particles; or generated points per step.    batch: fresh target points per step. None: `POINTS`,
    and for a generator of images fewer, as in the paper's batches of 64.
    """

    @property
    def carrier(self) -> Carrier: ...
    @property
    def step(self) -> float | None: ...
    @property
    def steps(self) -> int | None: ...
    @property
    def points(self) -> int | None: ...
    @property
    def batch(self) -> int | None: ...


@dataclass(frozen=True)
class Flow:
    """A velocity field with all that its steps need.

    Args:
        velocity: called once per step, without gradients, with noise of that step; once per stage where there are maps.
        step, steps: step size h, and number of steps.
        points: particles; or generated points per step.
        batch: fresh target points per step.
        manifold: where P_0 and the target live.
        memory: None: laws have no states.
    """

    problem: Problem
    rng: Streams
    velocity: Velocity
    step: float
    steps: int
    points: int
    batch: int
    manifold: Manifold
    memory: Memory | None = None

    @property
    def state(self) -> State | None:
        """Of the law to go on from."""
        return self.memory and self.memory.state

    def target(self, k: int) -> tuple[Tensor, Streams]:
        """Fresh points of step k, (S, m, ...), and noise for the velocity there."""
        noise = self.rng.fork(f"steps/{k}")
        return self.problem[TargetSamples].draw(self.batch, noise.fork("target")), noise.fork("velocity")

    @torch.no_grad()
    def shift(self, k: int, x: Tensor) -> Tensor:
        """h v(x) of step k, (S, n, d)."""
        y, noise = self.target(k)
        return self.step * self.velocity(x, y.flatten(2), noise)

    def loss(self, k: int, x: Tensor, maps: Maps | None) -> Tensor:
        """Of generated points (S, n, ...) in step k, less what has no gradient: |x - stop(x + h v)|^2, there or among
        features; summed over seeds, mean over points and coordinates."""
        if maps is not None:
            y, noise = self.target(k)
            return self.step * features.loss(maps, self.velocity, x, y, noise)
        x = x.flatten(2)
        move = self.shift(k, x.detach())
        return -2 * (x * move).sum() / math.prod(x.shape[1:])

    def particles(self) -> Iterator[Marginal]:
        """Laws of one cloud from P_0, or from where a state was left."""
        shape, start, state = self.problem.shape, 0, self.state
        if state is None:
            x = self.problem[Initial].draw(self.points, self.rng.fork("particles")).flatten(2)
        else:
            x, start = torch.as_tensor(state["x"]), int(state["k"])
        for k in range(start + 1, self.steps + 1):
            x = self.manifold.exponential(x, self.shift(k, x))
            yield self._law(k, partial(first, x.unflatten(2, shape)), lambda x=x: {"x": x}, limit=self.points)

    def generator(self, network: Network) -> Iterator[Marginal]:
        """Laws of a network's images of N(0, I)."""
        shape, size = self.problem.shape, network.size(self.problem.shape)
        net = network.generator(shape, self.rng.fork("generator"))
        adam, latent, start = Adam(net.parameters, network.lr), self.rng.fork("latent"), 0
        together = AT_ONCE // math.prod((len(self.rng.seeds), *shape)) if len(shape) > 1 else None

        def onto(x: Tensor) -> Tensor:
            return self.manifold.project(x.flatten(2)).unflatten(2, shape)

        def draw(n: int, noise: Streams) -> Tensor:
            z = noise.normal(n, size)
            return torch.cat([onto(net(part, frozen=True)) for part in z.split(max(1, together or n), 1)], 1)

        def own() -> State:
            return {**adam.state(), **{f"buffers/{name}": part.clone() for name, part in net.buffers.items()}}

        if self.memory is not None and self.memory.state is not None:
            adam.load(self.memory.state)
            net.load_buffers(self.memory.below("buffers/"))
            start = int(self.memory.state["k"])
            for _ in range(start):
                latent.normal(self.points, size)
        for k in range(start + 1, self.steps + 1):
            x = onto(net(latent.normal(self.points, size)))
            adam.descend(self.loss(k, x, network.maps), 1.0)
            yield self._law(k, draw, own)

    def _law(self, k: int, draw: Draw, own: Callable[[], State], limit: int | None = None) -> Drawn:
        memory = self.memory

        def state() -> State:
            learnt = memory.learnt.state() if memory and memory.learnt else {}
            return {"k": k, **own(), **{f"learnt/{name}": part for name, part in learnt.items()}}

        return Drawn(k * self.step, draw, limit=limit, state=state if memory else None)


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
    memory: Memory | None = None,
) -> Iterator[Marginal]:
    """Laws after each step of a method's velocity field, with the method's carrier.

    Args:
        problem: of points of any shape; the velocity sees them as vectors.
        step: in place of the method's, which may be None.
        steps: of particles, where the method's is None.
        network: of the generator.
        memory: None: laws have no states.

    Raises:
        ValueError: neither the method nor the call has a step, or a number of steps.
    """
    step = step or method.step
    if step is None:
        raise ValueError("a method without a default for step passes it here")
    count = number(method, steps)
    if memory and memory.state and memory.learnt:
        memory.learnt.load(memory.below("learnt/"))
    few = method.carrier == "generator" and len(problem.shape) > 1
    points, batch = method.points or (IMAGE_POINTS if few else POINTS), method.batch or (IMAGE_BATCH if few else POINTS)
    flow = Flow(problem, rng, velocity, step, count, points, batch, manifold, memory)
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
