"""The ill-conditioned Gaussian against PyTorch's own."""

import math

import pytest
import scipy.stats
import torch

from gwfbench.errors import UserError
from gwfbench.info import Initial, LogDensity, TargetSamples
from gwfbench.plugins import registry
from gwfbench.rng import Streams

DOUBLE = {"dtype": torch.float64}


def build(text, seeds=(3, 5, 8), dtype=torch.float64):
    return registry.parse("task", text).build(Streams(seeds, dtype=dtype).fork("task"))


def law_of(instance):
    """The target from its score alone, affine in x: score(x) = A (b - x), C = A^-1."""
    score, d = instance.problem[LogDensity].score, instance.problem.shape[0]
    zero, eye = torch.zeros(3, 1, d, **DOUBLE), torch.eye(d, **DOUBLE).expand(3, d, d)
    a = score(zero) - score(eye)
    torch.testing.assert_close(a, a.mT)
    return torch.distributions.MultivariateNormal(torch.linalg.solve(a, score(zero).mT)[..., 0], torch.linalg.inv(a))


@pytest.mark.parametrize(("dim", "condition"), [(2, 10.0), (5, 1000.0), (8, 1.0), (3, 1e6)])
def test_eigenvalues_are_log_spaced_from_one_down(dim, condition):
    _, covariance = build(f"gaussian:dim={dim},condition={condition}").truth.moments(0)
    expected = torch.logspace(-math.log10(condition), 0, dim, **DOUBLE).expand(3, dim)
    torch.testing.assert_close(torch.linalg.eigvalsh(covariance), expected, rtol=1e-7, atol=0)


def test_one_dimension_has_variance_one():
    truth = build("gaussian:dim=1").truth
    assert torch.equal(truth.moments(0)[1], torch.ones(3, 1, 1, **DOUBLE))


def test_the_basis_is_haar():
    """The widest axis in 2-D has a uniform angle over the seeds."""
    _, covariance = build("gaussian", tuple(range(2000))).truth.moments(0)
    axis = torch.linalg.eigh(covariance)[1][:, :, -1]
    angle = torch.atan2(axis[:, 1], axis[:, 0]) % math.pi
    assert scipy.stats.kstest(angle.numpy() / math.pi, "uniform").pvalue > 1e-6


@pytest.mark.parametrize("text", ["gaussian", "gaussian:dim=1", "gaussian:dim=6,condition=500", "gaussian:dim=128"])
def test_density_score_and_moments_are_those_of_one_normal_law(text):
    instance = build(text)
    law, truth, offered = law_of(instance), instance.truth, instance.problem[LogDensity]
    d = instance.problem.shape[0]
    torch.testing.assert_close(truth.moments(0)[0], law.loc)
    torch.testing.assert_close(truth.moments(0)[1], law.covariance_matrix)
    x = (2 * Streams((3, 5, 8), **DOUBLE).normal(30, d)).requires_grad_()
    expected = law.log_prob(x.transpose(0, 1)).T
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(truth.log_prob(0, x), expected)
    torch.testing.assert_close(truth.score(0, x), gradient)
    (own,) = torch.autograd.grad(offered.log_prob(x).sum(), x)
    torch.testing.assert_close(own, offered.score(x))
    torch.testing.assert_close(own, gradient)
    constant = (offered.log_prob(x) - truth.log_prob(0, x)).detach()
    torch.testing.assert_close(constant, constant[:, :1].expand_as(constant))


def test_draws_follow_the_density():
    instance, n = build("gaussian:dim=3,condition=100"), 100_000
    law = law_of(instance)
    for draw in (lambda rng: instance.truth.draw(0, n, rng), lambda rng: instance.problem[TargetSamples].draw(n, rng)):
        x = draw(Streams((3, 5, 8), **DOUBLE))
        white = torch.linalg.solve_triangular(law.scale_tril, (x - law.loc[:, None]).mT, upper=False)
        assert (white.mean(-1).abs() < 5 / n**0.5).all()
        identity = torch.eye(3, **DOUBLE)
        assert ((white @ white.mT / n - identity).abs() < 5 * ((1 + identity) / n).sqrt()).all()
        for row in white.flatten(0, 1):
            assert scipy.stats.kstest(row.numpy(), "norm").pvalue > 1e-6


def test_energy_is_zero_and_its_integrand_averages_to_kl(streams):
    instance = build("gaussian:dim=3")
    law = law_of(instance)
    assert torch.equal(instance.truth.energy(0), torch.zeros(3, **DOUBLE))
    start = torch.distributions.MultivariateNormal(torch.zeros(3, **DOUBLE), torch.eye(3, **DOUBLE))
    x = instance.problem[Initial].draw(100_000, streams)
    log_start = instance.problem[Initial].log_prob(x)
    torch.testing.assert_close(log_start, start.log_prob(x))
    values = instance.truth.integrand(x, log_start)
    expected = torch.distributions.kl_divergence(start.expand((3,)), law)
    assert ((values.mean(1) - expected).abs() < 5 * values.std(1) / 100_000**0.5).all()
    at_target = instance.truth.integrand(x, instance.truth.log_prob(0, x))
    assert torch.equal(at_target, torch.zeros_like(at_target))


def test_float32_is_right_along_the_narrowest_axis():
    single, double = (build("gaussian:dim=8,condition=1e6", dtype=dtype) for dtype in (torch.float32, torch.float64))
    x = single.truth.draw(0, 2000, Streams((3, 5, 8)))
    exact = double.problem[LogDensity].log_prob(x.double())
    torch.testing.assert_close(single.problem[LogDensity].log_prob(x).double(), exact, atol=2e-2, rtol=0)
    torch.testing.assert_close(single.truth.log_prob(0, x), double.truth.log_prob(0, x.double()).float())
    torch.testing.assert_close(double.truth.moments(0), single.truth.moments(0), atol=0, rtol=0)


@pytest.mark.parametrize("text", ["dim=0", "dim=1001", "condition=0.5", "condition=1e+07", "condition=nan"])
def test_bad_input_is_told(text):
    with pytest.raises(UserError, match="gaussian:"):
        registry.parse("task", f"gaussian:{text}")
