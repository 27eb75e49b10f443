"""Points of any shape as vectors: what a method sees of images that knows only vectors.

A method whose class variable `shapes` is "any" gets points as the task has them, (c, h, w) for images. Every other one
gets them flat, (d,), and what it yields is put back into shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.info import Draw, Encoder, Field, Info, Initial, InteractionEnergy, LogDensity, TargetSamples
from gwfbench.protocol import Drawn, Marginal, Method, Problem, Pushed, Resumable, State, setting
from gwfbench.rng import Streams


def laws(
    method: Method, problem: Problem, budget: Budget, rng: Streams, state: State | None = None
) -> Iterator[Marginal]:
    """The laws of `fit`, or of `resume` from a state, in the problem's own shape."""
    shape = problem.shape
    plain = len(shape) == 1 or setting(method, "shapes") == "any"
    if not plain:
        infos = tuple(_flat(info, shape) for info in problem.infos)
        problem = replace(problem, shape=(math.prod(shape),), infos=infos)
    if state is None:
        found = iter(method.fit(problem, budget, rng))
    else:
        assert isinstance(method, Resumable)
        found = iter(method.resume(problem, budget, rng, state))
    return found if plain else (_shaped(law, shape) for law in found)


def _flat(info: Info, shape: tuple[int, ...]) -> Info:
    match info:
        case Initial():
            return Initial(_vectors(info.draw), info.log_prob and _of_vectors(info.log_prob, shape))
        case TargetSamples():
            return TargetSamples(_vectors(info.draw))
        case LogDensity():
            return _flat_density(info, shape)
        case InteractionEnergy():
            return InteractionEnergy(_of_vectors(info.kernel, shape))
        case Encoder():
            maps = info.maps
            return Encoder(lambda x: maps(x.unflatten(2, shape)))
        case _:
            return info


def _flat_density(info: LogDensity, shape: tuple[int, ...]) -> LogDensity:
    batch = info.batch
    rows = batch and (lambda n, rng: _flat_density(batch(n, rng), shape))
    return LogDensity(_of_vectors(info.log_prob, shape), _of_vectors(info.score, shape), rows)


def _shaped(law: Marginal, shape: tuple[int, ...]) -> Marginal:
    match law:
        case Drawn():
            draw, density = law.draw, law.log_prob
            points = lambda n, rng: draw(n, rng).unflatten(2, shape)  # noqa: E731
            return replace(law, draw=points, log_prob=density and (lambda x: density(x.flatten(2))))
        case Pushed():
            push, volume, back = law.push, law.log_det, law.inverse
            return replace(
                law,
                push=lambda x, noise: push(x.flatten(2), noise).unflatten(2, shape),
                log_det=volume and (lambda x: volume(x.flatten(2))),
                inverse=back and (lambda y: back(y.flatten(2)).unflatten(2, shape)),
            )
        case _:  # no law: the runner says so
            return law


def _vectors(draw: Draw) -> Draw:
    return lambda n, rng: draw(n, rng).flatten(2)


def _of_vectors(function: Field, shape: tuple[int, ...]) -> Field:
    """Of vectors; a value a point stays as it is, a vector a point is made flat."""

    def at(x: Tensor) -> Tensor:
        value = function(x.unflatten(2, shape))
        return value if value.ndim == 2 else value.flatten(2)

    return at
