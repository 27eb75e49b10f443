"""Images as vectors: a method that knows only vectors does on (1, 2, 3) what it does on (6,)."""

import dataclasses
from itertools import islice

import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.drive import shapes as flat
from gwfbench.info import Initial, InteractionEnergy, LogDensity, TargetSamples
from gwfbench.plugins import registry
from gwfbench.protocol import Drawn, Problem
from gwfbench.rng import Streams

SHAPE = (1, 2, 3)
STREAMS = Streams((3, 7), dtype=torch.float64)


def target(x):
    return -0.5 * ((x - torch.arange(6.0, dtype=x.dtype)) / 2).square().sum(-1)


def score(x):
    return -(x - torch.arange(6.0, dtype=x.dtype)) / 4


def problem(shape):
    """A Gaussian on points of that shape, every capability offered."""
    vectors = len(shape) == 1
    back = (lambda x: x) if vectors else (lambda x: x.flatten(2))
    put = (lambda x: x) if vectors else (lambda x: x.unflatten(2, shape))
    infos = (
        Initial(lambda n, rng: put(rng.normal(n, 6)), lambda x: -0.5 * back(x).square().sum(-1)),
        LogDensity(lambda x: target(back(x)), lambda x: put(score(back(x)))),
        TargetSamples(lambda n, rng: put(torch.arange(6.0, dtype=torch.float64) + 2 * rng.normal(n, 6))),
        InteractionEnergy(lambda x: back(x).square().sum(-1)),
    )
    return Problem(shape, (torch.inf,), infos)


def walk(method, shape, state=None):
    """Points, log-determinants or densities, and states of three laws."""
    given = problem(shape)
    x = given[Initial].draw(20, STREAMS.fork("start"))
    for k, law in enumerate(islice(flat.laws(method, given, Budget(), STREAMS.fork("method"), state), 3)):
        noise, density = STREAMS.fork(f"noise/{k}"), None
        if isinstance(law, Drawn):
            y = law.draw(10, noise)
            density = law.log_prob and law.log_prob(y)
        else:
            y = law.push(x, noise)
            density = law.log_det and law.log_det(x)
            if law.inverse is not None:
                torch.testing.assert_close(law.inverse(y), x, rtol=0, atol=1e-6)
            x = y
        yield y, density, law.state and law.state()


@pytest.mark.parametrize("text", ["ula", "mmd_flow", "mmd_flow:carrier=generator", "vjko:map=icnn", "vjko:energy=kl"])
def test_a_method_of_vectors_does_the_same_on_images(text):
    method = registry.parse("method", text)
    method = dataclasses.replace(method, **type(method).smoke)
    whole, seen = list(walk(method, (6,))), list(walk(method, SHAPE))
    assert whole
    state = seen[0][2]
    if state:
        whole, seen = whole + list(walk(method, (6,), state)), seen + list(walk(method, SHAPE, state))
    for (x, density, _), (y, same, _) in zip(whole, seen, strict=True):
        assert y.shape[2:] == SHAPE
        torch.testing.assert_close(y.flatten(2), x, rtol=0, atol=0)
        assert (density is None) == (same is None)
        if density is not None:
            torch.testing.assert_close(same, density, rtol=0, atol=0)


class AsItIs:
    shapes = "any"

    def fit(self, given, budget, rng):
        assert given.shape == SHAPE
        yield Drawn(1.0, given[TargetSamples].draw)


def test_a_method_of_any_shape_sees_images():
    (law,) = flat.laws(AsItIs(), problem(SHAPE), Budget(), STREAMS)
    assert law.draw(4, STREAMS).shape == (2, 4, *SHAPE)


def test_what_is_no_law_passes_through():
    class Wrong:
        def fit(self, given, budget, rng):
            assert given.shape == (6,)
            yield "a law"

    assert list(flat.laws(Wrong(), problem(SHAPE), Budget(), STREAMS)) == ["a law"]
