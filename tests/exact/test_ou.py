"""Ornstein-Uhlenbeck against its own equations."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from gwfbench.info import Initial, LogDensity
from gwfbench.plugins import registry
from gwfbench.rng import Streams


def build(text, seeds=(3, 5), dtype=torch.float64):
    return registry.parse("task", text).build(Streams(seeds, dtype=dtype).fork("task"))


def target(instance, d):
    """A and b, read off the score alone: score(x) = A (b - x)."""
    score = instance.problem[LogDensity].score
    zero, eye = torch.zeros(2, 1, d).double(), torch.eye(d).double().expand(2, d, d)
    a = score(zero) - score(eye)
    return a, torch.linalg.solve(a, score(zero).mT)[..., 0]


def test_target_is_as_described():
    a, b = target(build("ou:dim=5"), 5)
    eigenvalues = torch.linalg.eigvalsh(torch.linalg.inv(a))
    torch.testing.assert_close(a, a.mT)
    assert eigenvalues.min() >= 0.5
    assert eigenvalues.max() <= 1.0
    assert b.abs().max() > 0.1


@pytest.mark.parametrize("dim", [1, 2, 8])
def test_moments_solve_the_flow(dim):
    """dm/dt = A (b - m), dC/dt = 2 I - A C - C A (Fokker-Planck's moments), by central differences."""
    instance = build(f"ou:dim={dim},step=0.0001,horizon=0.3")
    a, b = target(instance, dim)
    (m0, c0), (m1, c1), (m2, c2) = (instance.truth.moments(k) for k in (1499, 1500, 1501))
    h = 1e-4
    drift = (a @ (b - m1)[..., None])[..., 0]
    torch.testing.assert_close((m2 - m0) / (2 * h), drift, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close((c2 - c0) / (2 * h), 2 * torch.eye(dim).double() - a @ c1 - c1 @ a, atol=1e-6, rtol=1e-6)


def test_limits_of_the_flow():
    instance = build("ou:dim=4,step=1e-9,horizon=1e-9")
    mean, covariance = instance.truth.moments(0)
    assert mean.abs().max() < 1e-7
    torch.testing.assert_close(covariance, torch.eye(4).double().expand(2, 4, 4), atol=1e-7, rtol=0)
    instance = build("ou:dim=4,step=40,horizon=40")
    a, b = target(instance, 4)
    mean, covariance = instance.truth.moments(0)
    torch.testing.assert_close(mean, b)
    torch.testing.assert_close(covariance, torch.linalg.inv(a))


def test_jko_step_minimises_the_jko_objective():
    """One exact step in 1-D against a numerical minimum of W2^2 / 2a + KL over Gaussians (V.1)."""
    a_step = 0.3
    instance = build("ou:dim=1")
    a, b = (float(part[0].squeeze()) for part in target(instance, 1))
    first, second = (instance.truth.jko((a_step, a_step)).moments(k) for k in (0, 1))
    m0, s0 = float(first[0][0]), math.sqrt(float(first[1][0]))

    def objective(u):
        m, s = u[0], math.exp(u[1])
        return ((m - m0) ** 2 + (s - s0) ** 2) / (2 * a_step) - math.log(s) + a / 2 * (s**2 + (m - b) ** 2)

    found = minimize(objective, [m0, math.log(s0)], tol=1e-14).x
    assert found[0] == pytest.approx(float(second[0][0]), abs=1e-6)
    assert math.exp(found[1]) == pytest.approx(math.sqrt(float(second[1][0])), abs=1e-6)


def test_jko_sequence_converges_to_the_flow_at_first_order():
    instance = build("ou:dim=3,step=0.8,horizon=0.8")
    mean, covariance = instance.truth.moments(0)
    errors = []
    for steps in (8, 16, 32, 64):
        m, c = instance.truth.jko((0.8 / steps,) * steps).moments(steps - 1)
        errors.append([float((m - mean).norm()), float((c - covariance).norm())])
    orders = np.log2(np.array(errors)[:-1] / np.array(errors)[1:])
    assert np.abs(orders[-1] - 1).max() < 0.1


def test_jko_of_unequal_steps_has_its_own_path():
    jko = build("ou:dim=2").truth.jko
    torch.testing.assert_close(jko((0.1, 0.2)).moments(0)[1], jko((0.1, 0.7)).moments(0)[1])
    assert (jko((0.1, 0.2)).moments(1)[1] - jko((0.2, 0.2)).moments(1)[1]).abs().max() > 1e-3


@pytest.mark.parametrize("law", ["flow", "jko"])
def test_log_density_is_the_normal_one_and_draws_follow_it(law, streams):
    instance = registry.parse("task", "ou:dim=3").build(streams.fork("task"))
    truth = instance.truth if law == "flow" else instance.truth.jko((0.05,) * 8)
    mean, covariance = truth.moments(7)
    n = 200_000
    x = truth.draw(7, n, streams.fork("draws"))
    normal = torch.distributions.MultivariateNormal(mean, covariance)
    torch.testing.assert_close(truth.log_prob(7, x[:, :100]), normal.log_prob(x[:, :100].transpose(0, 1)).T)
    some = x[:, :100].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(truth.log_prob(7, some).sum(), some)
    torch.testing.assert_close(truth.score(7, x[:, :100]), gradient)
    se = covariance.diagonal(dim1=-2, dim2=-1).sqrt() / n**0.5
    assert ((x.mean(1) - mean).abs() < 5 * se).all()
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (x - mean[:, None]).mT, upper=False)
    scatter = white @ white.mT / n
    assert ((scatter - torch.eye(3)).abs() < 5 * (2 / n) ** 0.5).all()


def test_energy_is_kl_to_the_target_and_its_integrand_averages_to_it(streams):
    instance = registry.parse("task", "ou:dim=3").build(streams.fork("task"))
    a, b = registry_target(instance)
    mean, covariance = instance.truth.moments(5)
    law = torch.distributions.MultivariateNormal(mean, covariance)
    goal = torch.distributions.MultivariateNormal(b, torch.linalg.inv(a))
    energy = instance.truth.energy(5)
    torch.testing.assert_close(energy, torch.distributions.kl_divergence(law, goal))
    x = instance.truth.draw(5, 100_000, streams.fork("draws"))
    values = instance.truth.integrand(x, instance.truth.log_prob(5, x))
    assert ((values.mean(1) - energy).abs() < 5 * values.std(1) / 100_000**0.5).all()


def registry_target(instance):
    score, d = instance.problem[LogDensity].score, instance.problem.shape[0]
    zero, eye = torch.zeros(3, 1, d).double(), torch.eye(d).double().expand(3, d, d)
    a = score(zero) - score(eye)
    return a, torch.linalg.solve(a, score(zero).mT)[..., 0]


def test_score_is_the_gradient_of_the_log_density(streams):
    problem = registry.parse("task", "ou:dim=3").build(streams.fork("task")).problem
    x = streams.normal(7, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(problem[LogDensity].log_prob(x).sum(), x)
    torch.testing.assert_close(gradient, problem[LogDensity].score(x))
    flat = problem[Initial].log_prob(torch.zeros(3, 1, 3).double())
    torch.testing.assert_close(flat, torch.full((3, 1), -1.5 * math.log(2 * math.pi)).double())


def test_matched_clouds_have_the_truth_s_moments_exactly():
    instance = build("ou:dim=6,cloud=matched")
    mean, covariance = instance.truth.moments(17)
    x = instance.truth.draw(17, 3000, Streams((3, 5), dtype=torch.float64))
    torch.testing.assert_close(x.mean(1), mean)
    torch.testing.assert_close((x - mean[:, None]).mT @ (x - mean[:, None]) / 3000, covariance)


def test_the_same_problem_at_every_precision():
    double, single = build("ou:dim=4"), build("ou:dim=4", dtype=torch.float32)
    torch.testing.assert_close(double.truth.moments(3), single.truth.moments(3), atol=0, rtol=0)
