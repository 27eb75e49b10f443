"""Drifting from a density: smoothed scores in closed form, the field in loops, one Adam step, a mixture it learns."""

import math
import sys

import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.errors import UserError
from gwfbench.info import Initial, LogDensity
from gwfbench.plugins import registry
from gwfbench.protocol import Problem
from gwfbench.rng import Streams

H = torch.tensor([0.3, 0.7, 1.1]).double()[:, None, None]  # of three seeds
MEAN = torch.tensor([0.4, -1.2]).double()
COVARIANCE = torch.tensor([[1.0, 0.3], [0.3, 0.5]]).double()
estimators = pytest.mark.parametrize("estimator", ["sampling", "score"])


def module():
    return sys.modules[registry.find("method", "drift_density").load().__module__]


def normal_score(x, covariance):
    return -torch.linalg.solve(covariance, (x - MEAN).mT).mT


NORMAL = LogDensity(
    lambda x: 0.5 * ((x - MEAN) * normal_score(x, COVARIANCE)).sum(-1) + 3.0, lambda x: normal_score(x, COVARIANCE)
)


def problem(target=NORMAL, d=2, size=1.5):
    return Problem((d,), (math.inf,), (Initial(lambda n, rng: size * rng.normal(n, d)), target))


@estimators
def test_the_attraction_is_the_smoothed_score_of_a_normal_law(streams, estimator):
    """k * N(m, C) = N(m, C + h^2 I); over independent estimates, whose bias is far below their error."""
    x = streams.fork("x").normal(3, 2)
    many = x.repeat_interleave(64, 1)
    found = module().attraction(NORMAL, many, H, 512, estimator, streams.fork("draws")).unflatten(1, (3, 64))
    eye = torch.eye(2).double()
    exact = torch.stack(
        [h**2 * normal_score(part, COVARIANCE + h**2 * eye) for part, h in zip(x, H.flatten(), strict=True)]
    )
    se = found.std(2) / 8
    assert bool(((found.mean(2) - exact).abs() < 5 * se + 1e-3).all())
    assert se.max() < 0.05
    assert exact.abs().max() > 0.3


def test_a_constant_score_is_found_exactly_and_a_flat_density_by_both(streams):
    slope = torch.tensor([2.0, -0.7]).double()
    tilted = LogDensity(lambda x: x @ slope, lambda x: slope.expand_as(x))
    flat = LogDensity(lambda x: 0 * x.sum(-1) + 5, torch.zeros_like)
    x, attraction = streams.fork("x").normal(7, 2), module().attraction
    found = attraction(tilted, x, H, 4, "score", streams.fork("draws"))
    torch.testing.assert_close(found, (H**2 * slope).expand_as(x))
    for estimator in ("sampling", "score"):  # draws in pairs have mean 0
        found = attraction(flat, x, H, 4, estimator, streams.fork("draws"))
        torch.testing.assert_close(found, torch.zeros_like(x), rtol=0, atol=1e-15)


@estimators
def test_the_field_in_loops(streams, estimator):
    """Self-normalised weights of the very draws; each half has the other as its sample of q."""
    n, draws = 7, 6
    x = streams.fork("x").normal(n, 2)
    found = module().velocity(NORMAL, x, H, draws, estimator, streams.fork("noise"))
    e = streams.fork("noise").fork("around").normal(n, draws // 2, 2)
    for s in range(3):
        h = float(H[s])
        for i in range(n):
            there = torch.cat([x[s, i] + h * e[s, i], x[s, i] - h * e[s, i]])[None]
            w = NORMAL.log_prob(there)[0].exp()[:, None]
            pulls = there[0] - x[s, i] if estimator == "sampling" else h**2 * NORMAL.score(there)[0]
            to_p = (w * pulls).sum(0) / w.sum()
            others = x[s, 4:] if i < 4 else x[s, :4]
            k = (-0.5 * (others - x[s, i]).square().sum(-1) / h**2).exp()[:, None]
            to_q = (k * (others - x[s, i])).sum(0) / k.sum()
            torch.testing.assert_close(found[s, i], to_p - to_q, rtol=1e-9, atol=1e-10)


def test_a_step_is_down_the_loss():
    """Two Adam steps on |G - stop(G + V)|^2 in units of the size, by autograd and torch's own Adam."""
    streams = Streams((3,), dtype=torch.float64)
    words = "steps=2,every=2,points=16,draws=4,width=8,depth=1,latent=3,lr=0.01,unit=0.8,first=1,last=0.5,step=0.9"
    (law,) = registry.parse("method", f"drift_density:{words}").fit(problem(), Budget(), streams)
    dds = sys.modules[module().coordinate_size.__module__]
    size = float(dds.coordinate_size(problem(), streams.fork("size")))
    net = module().SiLU((3, 8, 2), streams.fork("generator"))
    module().end_at_zero(net)
    leaves = [leaf.detach().clone().requires_grad_() for leaf in net.parameters.leaves]
    adam = torch.optim.Adam(leaves, lr=0.01)

    def images(z):
        h = torch.nn.functional.silu(z @ leaves[0] + leaves[1])
        return size * (z[..., :2] + h @ leaves[2] + leaves[3])

    for k, h in ((1, 0.8), (2, 0.4)):
        noise = streams.fork(f"step/{k}")
        x = images(noise.normal(16, 3))
        length = torch.full((1, 1, 1), h).double()
        move = 0.9 * module().velocity(NORMAL, x.detach(), length, 4, "sampling", noise)
        adam.zero_grad()
        ((x - (x + move).detach()) / size).square().mean().backward()
        adam.step()
    z = streams.fork("judge").normal(10, 3)
    torch.testing.assert_close(law.draw(10, streams.fork("judge")), images(z).detach(), rtol=1e-9, atol=1e-9)


def test_bandwidths_fall_geometrically_in_units_of_the_spread(streams):
    method = registry.parse("method", "drift_density:steps=5,first=2,last=0.125")
    x = torch.tensor([0.5, 2.0]).double() * streams.normal(400, 2)
    unit = ((x[..., 0].var(1) + x[..., 1].var(1)) / 2).sqrt()
    for k, share in ((1, 2.0), (2, 1.0), (3, 0.5), (5, 0.125)):
        torch.testing.assert_close(method._bandwidth(k, x)[:, 0, 0], share * unit)
    silverman = registry.parse("method", "drift_density")
    torch.testing.assert_close(silverman._bandwidth(1000, x)[:, 0, 0], 400 ** (-1 / 6) * unit)


def test_impossible_settings_are_refused():
    for words in ("draws=3", "draws=0", "last=2", "estimator=curvature", "points=3"):
        with pytest.raises(UserError, match=words):
            registry.parse("method", f"drift_density:{words}")
    few = registry.parse("method", "drift_density:latent=2,steps=1")
    with pytest.raises(UserError, match="latent=2"):
        next(few.fit(problem(d=3), Budget(), Streams((1,))))


@pytest.mark.slow
def test_it_learns_a_mixture_of_unequal_weights():
    """0.7 N(-2, 0.5^2) + 0.3 N((2, 1), 0.5^2): the weights are right though the start has half its points on each side."""
    centres, weights = torch.tensor([[-2.0, 0.0], [2.0, 1.0]]).double(), torch.tensor([0.7, 0.3]).double()

    def log_prob(x):
        return (weights.log() - 2 * (x[:, :, None] - centres).square().sum(-1)).logsumexp(-1)

    target = LogDensity(log_prob, lambda x: torch.func.grad(lambda y: log_prob(y).sum())(x))
    streams = Streams((1,), dtype=torch.float64)
    words = "steps=300,points=256,draws=64,width=64,every=300,lr=0.003"
    (law,) = registry.parse("method", f"drift_density:{words}").fit(problem(target), Budget(), streams)
    x = law.draw(4000, streams.fork("judge"))[0]
    left = x[:, 0] < 0
    assert abs(float(left.double().mean()) - 0.7) < 0.08
    for side, centre in ((left, centres[0]), (~left, centres[1])):
        # medians, because a continuous generator has a few points on the way between the modes
        assert (x[side].median(0).values - centre).abs().max() < 0.2
        assert ((x[side] - centre).abs().median(0).values / 0.6745 - 0.5).abs().max() < 0.15


@pytest.mark.slow
def test_by_scores_it_learns_a_normal_law():
    streams = Streams((1,), dtype=torch.float64)
    words = "estimator=score,steps=300,points=256,draws=16,width=64,every=300,lr=0.003"
    (law,) = registry.parse("method", f"drift_density:{words}").fit(problem(), Budget(), streams)
    x = law.draw(4000, streams.fork("judge"))[0]
    assert (x.mean(0) - MEAN).abs().max() < 0.15
    assert (x.T.cov() - COVARIANCE).abs().max() < 0.2
