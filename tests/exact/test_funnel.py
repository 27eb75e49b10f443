"""The funnel against its factors written otherwise, quadrature, and the laws of its draws."""

import math

import pytest
import scipy.integrate
import scipy.stats
import torch

from gwfbench.errors import UserError
from gwfbench.info import Initial, LogDensity
from gwfbench.plugins import registry
from gwfbench.rng import Streams

SEEDS = (3, 5, 8)


def build(text="funnel", dtype=torch.float64):
    return registry.parse("task", text).build(Streams(SEEDS, dtype=dtype).fork("task"))


def by_factors(x):
    first = torch.distributions.Normal(0.0, 3.0).log_prob(x[..., 0])
    return first + torch.distributions.Normal(0.0, (x[..., :1] / 2).exp()).log_prob(x[..., 1:]).sum(-1)


@pytest.mark.parametrize("text", ["funnel", "funnel:dim=2", "funnel:dim=31"])
def test_log_density_and_score(text, streams):
    instance = build(text)
    d, offered, truth = instance.problem.shape[0], instance.problem[LogDensity], instance.truth
    x = torch.cat([truth.draw(0, 50, streams), 2 * streams.normal(50, d)], 1).requires_grad_()
    expected = by_factors(x)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    for log_prob, score in (
        (offered.log_prob, offered.score),
        (lambda x: truth.log_prob(0, x), lambda x: truth.score(0, x)),
    ):
        torch.testing.assert_close(log_prob(x), expected)
        torch.testing.assert_close(score(x.detach()), gradient)
    assert torch.autograd.gradgradcheck(offered.log_prob, x[:, :3].detach().requires_grad_())


def test_mass_and_moments_by_quadrature():
    """In the plane, over x_0 and x_1 = e^{x_0 / 2} z by the trapezoidal rule, to rounding; covariance to e^-18."""
    truth = build("funnel:dim=2").truth
    y, z = torch.arange(-40, 50, 0.5).double(), torch.arange(-12, 12, 0.25).double()
    grid = torch.cartesian_prod(y, z)
    x = torch.stack([grid[:, 0], (grid[:, 0] / 2).exp() * grid[:, 1]], 1).expand(3, -1, -1)
    weights = (truth.log_prob(0, x) + grid[:, 0] / 2).exp() * 0.5 * 0.25
    torch.testing.assert_close(weights.sum(1), torch.ones(3).double(), rtol=1e-12, atol=0)
    mean, covariance = truth.moments(0)
    torch.testing.assert_close((weights[..., None] * x).sum(1), mean, atol=1e-10, rtol=0)
    torch.testing.assert_close((weights[..., None] * x).mT @ x, covariance, atol=1e-9, rtol=1e-9)


def test_log_z_is_that_of_a_normalised_density(streams):
    instance = build()
    x = instance.truth.draw(0, 20, streams)
    value, error = instance.truth.log_z
    torch.testing.assert_close(instance.problem[LogDensity].log_prob(x) - value[:, None], instance.truth.log_prob(0, x))
    assert torch.equal(value, torch.zeros(3).double())
    assert torch.equal(error, torch.zeros(3).double())


@pytest.mark.slow
def test_draws_have_the_laws_of_the_factors():
    """Kolmogorov and Smirnov on x_0 / 3 and on x_i e^{-x_0 / 2}, and no correlation between the two's squares."""
    n = 100_000
    x = build().truth.draw(0, n, Streams(SEEDS, dtype=torch.float64).fork("draws"))
    first, others = x[..., 0] / 3, x[..., 1:] * (-x[..., :1] / 2).exp()
    for part in (*first, *others[..., 0], *others[..., -1], *others.mean(-1) * 3):
        assert scipy.stats.kstest(part.numpy(), "norm").pvalue > 1e-6
    for a, b in zip(first, others, strict=True):
        assert abs(torch.corrcoef(torch.stack([a, b.square().sum(-1)]))[0, 1]) < 5 / n**0.5


@pytest.mark.slow
def test_draws_are_not_clipped():
    """As many beyond 30 as the density has there, which a clip to [-30, 30] would put on the edge."""
    n = 100_000
    x = build().truth.draw(0, n, Streams(SEEDS, dtype=torch.float64).fork("draws"))
    share, _ = scipy.integrate.quad(
        lambda y: scipy.stats.norm.pdf(y, scale=3) * 2 * scipy.stats.norm.sf(30 * math.exp(-y / 2)),
        -30,
        40,
        epsabs=1e-12,
    )
    counts = (x[..., 1:].abs() > 30).sum(1).double()
    assert ((counts - n * share).abs() < 5 * (n * share * (1 - share)) ** 0.5).all()
    assert x.abs().max() > 100


def test_finite_in_single_precision_where_the_factor_is_large():
    """At x_0 = -60, e^{-x_0} is 1e26, and the others are as small as the law has them."""
    z = torch.linspace(-2, 3, 27).view(3, 1, 9)
    x = torch.cat([torch.full((3, 1, 1), -60.0), math.exp(-30) * z], -1)
    single, double = build(dtype=torch.float32).problem[LogDensity], build().problem[LogDensity]
    torch.testing.assert_close(single.log_prob(x).double(), double.log_prob(x.double()), rtol=1e-5, atol=0)
    torch.testing.assert_close(single.score(x).double(), double.score(x.double()), rtol=1e-4, atol=0)


def test_the_start_is_the_unit_gaussian(streams):
    start = build().problem[Initial]
    x = start.draw(100_000, streams)
    torch.testing.assert_close(start.log_prob(x), torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(-1))
    assert scipy.stats.kstest(x[0].flatten().numpy(), "norm").pvalue > 1e-6
    assert build("funnel:start=2.5").problem[Initial].draw(1000, streams).std() > 2


@pytest.mark.parametrize("text", ["dim=1", "dim=1001", "start=0", "start=nan"])
def test_bad_input_is_told(text):
    with pytest.raises(UserError, match=f"funnel:{text}"):
        registry.parse("task", f"funnel:{text}")
