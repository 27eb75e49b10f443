"""Flows by samples and one Stein step: the same points, the same steps, another solver."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import ot
import torch
from peers_case import Case, Found, Sides, built
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.info import Initial, LogDensity, TargetSamples
from gwfbench.plugins import registry
from gwfbench.protocol import Problem
from gwfbench.rng import Streams
from gwfbench.velocity.median import median_bandwidth
from gwfbench.velocity.sinkhorn import sinkhorn
from gwfbench.velocity.sliced import directions, sliced

Velocity = Callable[[Tensor, Tensor, Streams], Tensor]  # x (n, d), y (m, d), noise -> (n, d)
TIGHT, MANY = 1e-10, 100_000  # of the plans that fields are compared with


# ------------------------------------------------------------------------------------------------------ whole flows


def descend(problem: Problem, rng: Streams, velocity: Velocity, step: float, steps: int, points: int) -> Tensor:
    """Particles by another velocity, with the draws of our carrier (gwfbench/velocity/movers.py)."""
    x = problem[Initial].draw(points, rng.fork("particles"))[0]
    for k in range(1, steps + 1):
        noise = rng.fork(f"steps/{k}")
        y = problem[TargetSamples].draw(points, noise.fork("target"))[0]
        x = x + step * velocity(x, y, noise.fork("velocity"))
    return x


def own(problem: Problem, rng: Streams, method: str, points: int) -> Tensor:
    """The last law of one of our methods, (n, d)."""
    law = deque(registry.parse("method", method).fit(problem, Budget(), rng), maxlen=1).pop()
    return law.draw(points, rng)[0]


def w2(x: Tensor, y: Tensor) -> float:
    x, y = x.double(), y.double()
    weights = torch.full((len(x),), 1 / len(x), dtype=torch.float64)
    return float(ot.emd2(weights, weights, torch.cdist(x, y).square())) ** 0.5


def flow(shape: str, method: str, velocity: Velocity, step: float, steps: int, points: int) -> Callable[[int], Sides]:
    def at(seed: int) -> Sides:
        instance, rng = built(f"toy2d:shape={shape}", seed)
        problem, draw = instance.problem, instance.truth.draw
        assert draw is not None
        one, two = (draw(0, points, rng.fork(name))[0] for name in ("judge", "exact"))
        text = f"{method},step={step},steps={steps},points={points},batch={points}"
        return Sides(
            lambda: descend(problem, rng, velocity, step, steps, points),
            lambda: own(problem, rng, text, points),
            lambda theirs, ours: {"W2": Found("error", w2(theirs, one), w2(ours, one), w2(two, one))},
        )

    return at


# --------------------------------------------------------------------------------------------------- Sinkhorn fields


@cache
def by_geomloss(blur: float, scaling: float) -> Velocity:
    """-n times the gradient of geomloss's divergence."""
    from geomloss import SamplesLoss

    loss = SamplesLoss("sinkhorn", p=2, blur=blur, scaling=scaling, debias=True, backend="tensorized")

    def velocity(x: Tensor, y: Tensor, _noise: Streams) -> Tensor:
        x = x.detach().requires_grad_()
        return -len(x) * torch.autograd.grad(loss(x, y), x)[0]

    return velocity


@cache
def by_ott(blur: float, threshold: float) -> Velocity:
    """The same of OTT's, whose cost is |x - y|^2."""
    import jax
    import jax.numpy as jnp
    from ott.tools.sinkhorn_divergence import sinkdiv

    def value(x: Any, y: Any) -> Any:
        return sinkdiv(x, y, epsilon=2 * blur**2, solve_kwargs={"threshold": threshold})[0] / 2

    gradient = jax.jit(jax.grad(value))

    def velocity(x: Tensor, y: Tensor, _noise: Streams) -> Tensor:
        found = gradient(jnp.asarray(x.numpy()), jnp.asarray(y.numpy()))
        return -len(x) * torch.from_numpy(jax.device_get(found).copy())

    return velocity


def by_pot(blur: float, threshold: float) -> Velocity:
    """Both entropic maps by POT."""

    def image(x: Tensor, y: Tensor) -> Tensor:
        a, b = (x.new_full((len(part),), 1 / len(part)) for part in (x, y))
        cost = ot.dist(x, y) / 2
        plan = ot.sinkhorn(a, b, cost, blur**2, method="sinkhorn_log", stopThr=threshold, numItermax=1000, warn=False)
        return plan @ y / plan.sum(1, keepdim=True)

    return lambda x, y, _noise: image(x, y) - image(x, x)


@cache
def tight(shape: str, blur: float, points: int, seed: int) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
    """Target points (1, n, d), clouds to move there, and the field at each, by plans to ten digits, (n, d)."""
    instance, rng = built(f"toy2d:shape={shape}", seed)
    start, target = instance.problem[Initial], instance.problem[TargetSamples]
    x, y, end = start.draw(points, rng.fork("x")), target.draw(points, rng), target.draw(points, rng.fork("end"))
    clouds = {"at the start": x, "near the end": 0.1 * x + 0.9 * end}
    true = [sinkhorn(one.double(), y.double(), blur=blur, tolerance=TIGHT, rounds=MANY)[0] for one in clouds.values()]
    return y, clouds, true


def fields(shape: str, velocity: Velocity, blur: float, points: int, tolerance: float) -> Callable[[int], Sides]:
    """Two fields, of P_0 and of points that have gone nine tenths of the way, against plans to ten digits."""

    def at(seed: int) -> Sides:
        y, clouds, true = tight(shape, blur, points, seed)

        def judge(theirs: list[Tensor], ours: list[Tensor]) -> dict[str, Found]:
            off = [[float((v - one).norm() / one.norm()) for v, one in zip(each, true, strict=True)]
                   for each in (theirs, ours)]  # fmt: skip
            return {
                f"error of the field {where}": Found("error", *both) for where, *both in zip(clouds, *off, strict=True)
            }

        return Sides(
            lambda: [velocity(x[0], y[0], Streams((seed,))) for x in clouds.values()],
            lambda: [sinkhorn(x, y, blur=blur, tolerance=tolerance)[0] for x in clouds.values()],
            judge,
        )

    return at


# ------------------------------------------------------------------------------------------------------------ sliced


def by_pot_sliced(lines: int) -> Velocity:
    """-n times the gradient of half POT's squared distance, on our lines."""

    def velocity(x: Tensor, y: Tensor, noise: Streams) -> Tensor:
        theta = directions(noise.fork("directions"), lines, x.shape[1])[0]
        x = x.detach().requires_grad_()
        half = ot.sliced_wasserstein_distance(x, y, projections=theta.T).square() / 2
        return -len(x) * torch.autograd.grad(half, x)[0]

    return velocity


def sliced_gap(points: int, lines: int) -> float:
    """Relative difference of the two sliced fields; for a test."""
    rng = Streams((0,))
    x, y = rng.normal(points, 2), 1 + rng.normal(points, 2)
    theirs = by_pot_sliced(lines)(x[0], y[0], rng)
    ours = sliced(x, y, directions(rng.fork("directions"), lines, 2))[0]
    return float((theirs - ours).norm() / ours.norm())


# ------------------------------------------------------------------------------------------------------------- Stein


def stein(task: str, points: int) -> Callable[[int], Sides]:
    """One step's direction of SVGD by BlackJAX, with our bandwidth; each side has the score in its own library."""
    import blackjax
    import jax
    import jax.numpy as jnp
    import optax
    from peers_samplers import in_jax

    log_density = in_jax(task)
    module = sys.modules[type(registry.parse("method", "svgd")).__module__]
    make = blackjax.vi.svgd.build_kernel(optax.sgd(1.0))
    kernel = blackjax.vi.svgd.rbf_kernel
    step = jax.jit(lambda state: make(state, jax.grad(log_density), kernel).particles)
    state = partial(blackjax.vi.svgd.init, optimizer=optax.sgd(1.0))

    def at(seed: int) -> Sides:
        instance, rng = built(task, seed)
        x, target = instance.problem[Initial].draw(points, rng), instance.problem[LogDensity]
        h = median_bandwidth(x)
        here = jnp.asarray(x[0].numpy())
        begin = state(here, {"length_scale": 2 * float(h) ** 2})
        size = math.sqrt(x[0].numel())
        return Sides(
            lambda: torch.from_numpy(jax.device_get(step(begin) - here).copy()),
            lambda: module.stein_direction(x, target.score(x), h)[0],
            lambda theirs, ours: {
                "size of the step": Found("value", float(theirs.norm()) / size, float(ours.norm()) / size)
            },
        )

    return at


# ------------------------------------------------------------------------------------------------------------- cases


def cases() -> list[Case]:
    eight, rings = "eight Gaussians", "three rings"
    found = []
    for shape, title, blur in (("eight_gaussians", eight, 0.1), ("three_rings", rings, 0.05)):

        def start(points: int, steps: int, shape: str = shape, blur: float = blur) -> Any:
            return flow(shape, f"sinkhorn_flow:blur={blur}", by_geomloss(blur, 0.5), 0.3, steps, points)

        found.append(Case(
            f"sinkhorn-{shape}", "geomloss", f"Sinkhorn flow, {title}",
            f"512 particles, 30 steps of 0.3, epsilon {blur}^2", "SamplesLoss (default), autograd", "sinkhorn_flow",
            partial(start, 512, 30), partial(start, 64, 3), ("geomloss",),
        ))  # fmt: skip
    solvers = [
        ("geomloss", "geomloss", "SamplesLoss (default: scaling 0.5)", lambda: by_geomloss(0.1, 0.5), "geomloss"),
        ("geomloss-fine", "geomloss", "SamplesLoss, scaling 0.99", lambda: by_geomloss(0.1, 0.99), "geomloss"),
        ("pot", "POT", "sinkhorn_log (default: stopThr 1e-9)", lambda: by_pot(0.1, 1e-9), "ot"),
        ("pot-loose", "POT", "sinkhorn_log, stopThr 1e-4", lambda: by_pot(0.1, 1e-4), "ot"),
        ("ott", "ott-jax", "sinkdiv (default: threshold 1e-3), jit, grad", lambda: by_ott(0.1, 1e-3), "ott"),
        ("ott-tight", "ott-jax", "sinkdiv (default: threshold 1e-3), jit, grad", lambda: by_ott(0.1, 1e-3), "ott"),
    ]
    for name, peer, call, make, module in solvers:
        tolerance = 1e-3 if name == "ott-tight" else 1e-2  # the default

        def two(points: int, make: Callable[[], Velocity] = make, tolerance: float = tolerance) -> Any:
            return fields("eight_gaussians", make(), 0.1, points, tolerance)

        found.append(Case(
            f"field-{name}", peer, f"two Sinkhorn fields, {eight}", "512 points, epsilon 0.1^2", call,
            "velocity.sinkhorn" + ", tolerance 1e-3" * (tolerance < 1e-2), partial(two, 512), partial(two, 64),
            (module,),
        ))  # fmt: skip
    for shape, title in (("eight_gaussians", eight), ("three_rings", rings)):

        def lines(points: int, steps: int, shape: str = shape) -> Any:
            return flow(shape, "sliced_flow:lines=64", by_pot_sliced(64), 1.0, steps, points)

        found.append(Case(
            f"sliced-{shape}", "POT", f"sliced flow, {title}", "1024 particles, 100 steps of 1, 64 lines",
            "sliced_wasserstein_distance, autograd", "sliced_flow", partial(lines, 1024, 100), partial(lines, 64, 3),
            ("ot",),
        ))  # fmt: skip
    found.append(Case(
        "svgd", "blackjax", "one SVGD step, ionosphere, d = 35", "1024 particles, our bandwidth", "svgd, jit",
        "svgd", partial(stein, "logistic", 1024), partial(stein, "logistic", 32), ("blackjax",),
    ))  # fmt: skip
    return found
