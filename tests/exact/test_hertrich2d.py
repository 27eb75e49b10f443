"""The three planar densities of Hertrich and Gruhlke 2025 against independent forms."""

import math

import pytest
import torch

from gwfbench.info import Initial, LogDensity
from gwfbench.plugins import registry
from gwfbench.rng import Streams

SHAPES = ("modes", "peaky", "mustache")
GRID = {"modes": (-2.6, 0.6, -1.6, 1.6), "peaky": (-2.6, 0.6, -1.6, 1.6), "mustache": (-4.6, 4.6, -6.0, 460.0)}


def build(shape, seeds=(3, 5)):
    return registry.parse("task", f"hertrich2d:shape={shape}").build(Streams(seeds, dtype=torch.float64).fork("task"))


@pytest.mark.parametrize("shape", ["modes", "peaky"])
def test_the_modes_are_on_a_circle_next_to_the_origin(shape):
    """The density by torch.distributions, from the formula of the authors' text."""
    k = torch.arange(8).double()
    means = torch.stack([torch.cos(2 * math.pi * k / 8) - 1, torch.sin(2 * math.pi * k / 8)], -1)
    scale = {"modes": 0.1, "peaky": math.sqrt(0.005)}[shape]
    parts = torch.distributions.Independent(torch.distributions.Normal(means, scale), 1)
    law = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(8).double()), parts)
    x = torch.randn(2, 500, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = torch.stack([law.log_prob(part) for part in x])
    torch.testing.assert_close(build(shape).problem[LogDensity].log_prob(x), wanted, atol=1e-9, rtol=1e-9)


def test_mustache_is_the_image_of_a_normal_law():
    """Change of variables: the density of draws is the normal one at z, since the map has determinant 1."""
    normal = torch.distributions.MultivariateNormal(
        torch.zeros(2).double(), torch.tensor([[1, 0.9], [0.9, 1]], dtype=torch.float64)
    )
    z = normal.sample((500,))
    x = torch.stack([-z[:, 0], (z[:, 0] ** 2 - 1) ** 2 - z[:, 1]], -1)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda z: torch.stack([-z[0], (z[0] ** 2 - 1) ** 2 - z[1]])))(z)
    torch.testing.assert_close(torch.linalg.det(jacobian).abs(), torch.ones(500).double())
    found = build("mustache").problem[LogDensity].log_prob(x.expand(2, -1, -1))
    torch.testing.assert_close(found[1], normal.log_prob(z))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_score_is_the_gradient(shape):
    density = build(shape).problem[LogDensity]
    x = torch.randn(2, 100, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(density.log_prob(x).sum(), x)
    torch.testing.assert_close(density.score(x), gradient)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_mass_is_one(shape):
    """By the trapezoidal rule; of mustache along x2 at each x1."""
    low, high, bottom, top = GRID[shape]
    first = torch.linspace(low, high, 801, dtype=torch.float64)
    if shape == "mustache":
        second = torch.linspace(-9, 9, 801, dtype=torch.float64) + (first**2 - 1)[:, None] ** 2
    else:
        second = torch.linspace(bottom, top, 801, dtype=torch.float64).expand(801, 801)
    points = torch.stack([first[:, None].expand(801, 801), second], -1).reshape(1, -1, 2).expand(2, -1, -1)
    density = build(shape).problem[LogDensity].log_prob(points)[0].exp().reshape(801, 801)
    along = torch.trapezoid(density, second, dim=1)
    assert float(torch.trapezoid(along, first)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_draws_have_the_moments_and_the_density(shape):
    truth = build(shape).truth
    n = 400_000
    x = truth.draw(0, n, Streams((3, 5), dtype=torch.float64).fork("draws"))
    mean, covariance = truth.moments(0)
    centered = x - mean[:, None]
    assert (centered.mean(1).abs() < 5 * centered.std(1) / n**0.5).all()
    for i, j in ((0, 0), (0, 1), (1, 1)):
        product = centered[..., i] * centered[..., j]
        assert ((product.mean(1) - covariance[:, i, j]).abs() < 5 * product.std(1) / n**0.5).all()
    score = truth.score(0, x)  # E score = 0, E x score' = -I (Stein)
    assert (score.mean(1).abs() < 5 * score.std(1) / n**0.5).all()
    for i in (0, 1):
        for j in (0, 1):
            product = x[..., i] * score[..., j] + float(i == j)
            assert (product.mean(1).abs() < 5 * product.std(1) / n**0.5).all()


def test_p_0_is_the_normal_law_that_start_says():
    task = registry.parse("task", "hertrich2d:start=2").build(Streams((1,), dtype=torch.float64).fork("task"))
    x = torch.tensor([[[0.5, -1.0]]], dtype=torch.float64)
    wanted = -0.5 * 1.25 / 4 - math.log(2 * math.pi * 4)
    assert float(task.problem[Initial].log_prob(x)) == pytest.approx(wanted)
