"""The objective, and the errors of mean and covariance, in closed form."""

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from gwfbench import metrics
from gwfbench.plugins import registry
from gwfbench.protocol import Judged, Truth
from gwfbench.rng import Streams

DOUBLE = {"dtype": torch.float64}
MEAN = torch.tensor([0.5, -1.0, 2.0]).double()
ROOT = torch.tensor([[1.0, 0.0, 0.0], [0.7, 0.4, 0.0], [-0.2, 0.1, 3.0]]).double()


def evaluate(name, points, truth, log_prob=None, index=0):
    return metrics.known()[name].evaluate(Judged(points, log_prob, truth, index, Streams((0,), **DOUBLE)))


def ou(seeds=(0, 1)):
    streams = Streams(seeds, **DOUBLE)
    return registry.parse("task", "ou:dim=3").build(streams.fork("task/ou")), streams.fork("eval")


def test_exact_draws_have_the_true_energy():
    instance, rng = ou()
    for index in (0, 17):
        x = instance.truth.draw(index, 20_000, rng)
        found = evaluate("objective", x, instance.truth, instance.truth.log_prob(index, x), index)
        assert (found.value < 5 * found.se).all()
        assert (found.se < 0.02).all()


def test_a_shifted_gaussian_has_the_difference_of_its_kl_to_the_target():
    """F = KL(. || pi): the gap is |KL(law || pi) - KL(rho_t || pi)|, whichever is larger."""
    instance, rng = ou(seeds=(0,))
    truth, last = instance.truth, 17
    mean, covariance = truth.moments(last)
    law0 = MultivariateNormal(mean[0], covariance[0])
    far = truth.moments(len(instance.problem.times) - 1)
    assert torch.equal(far[0], mean)
    target = _target(instance)
    torch.testing.assert_close(truth.energy(last)[0], kl_divergence(law0, target))
    for law in (MultivariateNormal(mean[0] + 0.7, 0.5 * covariance[0]), target):  # above and below the truth's energy
        x = law.loc + rng.fork(f"{float(law.loc[0])}").normal(40_000, 3) @ law.scale_tril.mT
        found = evaluate("objective", x, truth, law.log_prob(x), last)
        expected = float((kl_divergence(law, target) - truth.energy(last)).abs())
        assert abs(float(found.value) - expected) < 5 * float(found.se) + 1e-12
        assert expected > 20 * float(found.se)


def _target(instance):
    """The OU flow's limit: score(x) = A (b - x) gives A and b."""
    score = next(info.score for info in instance.problem.infos if type(info).__name__ == "LogDensity")
    at = score(torch.cat([torch.zeros(1, 1, 3), torch.eye(3)[None]], 1).double())[0]
    a = at[0] - at[1:]
    return MultivariateNormal(torch.linalg.solve(a, at[0]), precision_matrix=a)


@pytest.mark.parametrize("bad", [-math.inf, math.inf, math.nan])
def test_one_point_without_a_log_density_makes_the_value_infinite(bad):
    """Under an internal energy exp(-inf) = 0 would pass unseen."""
    truth = Truth(None, True, energy=lambda index: torch.tensor([1.0]), integrand=lambda x, log_rho: log_rho.exp())
    log_prob = torch.zeros(1, 10)
    assert float(evaluate("objective", torch.zeros(1, 10, 2), truth, log_prob).value) == 0.0
    log_prob[0, 3] = bad
    found = evaluate("objective", torch.zeros(1, 10, 2), truth, log_prob)
    assert not found.value.isfinite().any()
    assert not found.se.isfinite().any()
    outside = replace(truth, integrand=lambda x, log_rho: log_rho + math.inf)
    assert not evaluate("objective", torch.zeros(1, 10, 2), outside, torch.zeros(1, 10)).value.isfinite().any()


def gaussian(mean, covariance):
    return Truth(None, True, moments=lambda index: (mean[None], covariance[None]))


def cloud(mean, covariance):
    """400 points whose mean and covariance are these exactly."""
    return mean + Streams((3,), **DOUBLE).whitened(400, 3) @ torch.linalg.cholesky(covariance).mT


def test_moments_of_an_exact_cloud_have_no_error():
    x, truth = cloud(MEAN, ROOT @ ROOT.mT), gaussian(MEAN, ROOT @ ROOT.mT)
    assert float(evaluate("moments_mean", x, truth).value) < 1e-12
    assert float(evaluate("moments_covariance", x, truth).value) < 1e-12


def test_moments_mean_is_the_shift_in_standard_deviations():
    """A shift by C0^1/2 c has length |c|, in any coordinates, and does not touch the covariance."""
    c, covariance = torch.tensor([0.3, -0.4, 1.2]).double(), ROOT @ ROOT.mT
    x, truth = cloud(MEAN, covariance) + ROOT @ c, gaussian(MEAN, covariance)
    assert float(evaluate("moments_mean", x, truth).value) == pytest.approx(float(c.norm()), rel=1e-10)
    assert float(evaluate("moments_covariance", x, truth).value) < 1e-12
    turn = torch.tensor([[0.0, 5.0, 0.0], [0.1, 0.0, 0.0], [1.0, 0.0, -2.0]]).double()
    turned = gaussian(turn @ MEAN, turn @ covariance @ turn.mT)
    assert float(evaluate("moments_mean", x @ turn.mT, turned).value) == pytest.approx(float(c.norm()), rel=1e-10)


def test_moments_covariance_is_the_relative_frobenius_error():
    covariance = ROOT @ ROOT.mT
    other = covariance + torch.tensor([3.0, 0.0, 4.0]).double().diag()
    truth = gaussian(MEAN, covariance)
    found = evaluate("moments_covariance", cloud(MEAN, other), truth)
    assert float(found.value) == pytest.approx(5 / float((covariance * covariance).sum().sqrt()), rel=1e-10)
    assert float(evaluate("moments_covariance", cloud(MEAN, 4 * covariance), truth).value) == pytest.approx(
        3, rel=1e-10
    )
    assert float(evaluate("moments_mean", cloud(MEAN, other), truth).value) < 1e-12


def test_a_flat_truth_gives_no_number():
    flat = torch.tensor([1.0, 1.0, 0.0]).double().diag()
    assert evaluate("moments_mean", cloud(MEAN, ROOT @ ROOT.mT), gaussian(MEAN, flat)).value.isinf().all()


@pytest.mark.parametrize("name", ["moments_mean", "moments_covariance"])
def test_standard_errors_of_moments_are_the_spread_over_repetitions(name):
    """Away from zero; the spread of 100 repetitions is known to 7 %, 5 standard errors are 35 %."""
    rng = Streams(tuple(range(100)), **DOUBLE)
    truth = Truth(None, True, moments=lambda index: (MEAN.expand(100, 3), (ROOT @ ROOT.mT).expand(100, 3, 3)))
    x = MEAN + 1.0 + 1.3 * rng.normal(1000, 3) @ ROOT.mT
    found = evaluate(name, x, truth)
    assert 0.65 * found.value.std() < found.se.mean() < 1.35 * found.value.std()
