"""The Ornstein-Uhlenbeck processes of Mokrov et al.: their targets, and the flow against its own equations."""

import math
import zlib

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.datasets import make_spd_matrix

from gwfbench.info import LogDensity
from gwfbench.plugins import registry
from gwfbench.rng import Streams

SEEDS = (0, 7)


def build(text, seeds=SEEDS, dtype=torch.float64):
    return registry.parse("task", text).build(Streams(seeds, dtype=dtype).fork("task"))


def target(instance, d):
    """A and b, read off the score alone: score(x) = A (b - x)."""
    score = instance.problem[LogDensity].score
    count = len(score(torch.zeros(len(SEEDS), 1, d).double()))
    zero, eye = torch.zeros(count, 1, d).double(), torch.eye(d).double().expand(count, d, d)
    a = score(zero) - score(eye)
    return a, torch.linalg.solve(a, score(zero).mT)[..., 0]


@pytest.mark.parametrize("dim", [1, 2, 8, 12])
def test_targets_are_those_of_their_experiments(dim):
    """Their code: NumPy's global generator is seeded, make_spd_matrix draws from it, and then b."""
    a, b = target(build(f"ou_mokrov:dim={dim}"), dim)
    for i, number in enumerate(SEEDS):
        state = np.random.RandomState(zlib.crc32(f"abacaba@{dim}@{number}numpy".encode()))
        covariance = torch.from_numpy(make_spd_matrix(dim, random_state=state))
        torch.testing.assert_close(torch.linalg.inv(a[i]), covariance, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(b[i], torch.from_numpy(state.randn(dim)), atol=1e-9, rtol=1e-9)


def test_a_seed_s_target_depends_on_it_alone():
    one, both = build("ou_mokrov:dim=3", (7,)), build("ou_mokrov:dim=3", SEEDS)
    for mine, theirs in zip(one.truth.moments(4), both.truth.moments(4), strict=True):
        torch.testing.assert_close(mine[0], theirs[1], atol=0, rtol=0)
    assert (both.truth.moments(4)[1][0] - both.truth.moments(4)[1][1]).abs().max() > 0.01


@pytest.mark.parametrize("dim", [1, 2, 8])
def test_moments_solve_the_flow(dim):
    """dm/dt = A (b - m), dC/dt = 2 I - A C - C A (Fokker-Planck's moments), by central differences."""
    h = 1e-4
    instance = build(f"ou_mokrov:dim={dim},step={h},horizon=0.3")
    a, b = target(instance, dim)
    (m0, c0), (m1, c1), (m2, c2) = (instance.truth.moments(k) for k in (1499, 1500, 1501))
    torch.testing.assert_close((m2 - m0) / (2 * h), (a @ (b - m1)[..., None])[..., 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close((c2 - c0) / (2 * h), 2 * torch.eye(dim).double() - a @ c1 - c1 @ a, atol=1e-5, rtol=1e-5)


def test_limits_of_the_flow():
    mean, covariance = build("ou_mokrov:dim=4,step=1e-10,horizon=1e-10").truth.moments(0)
    assert mean.abs().max() < 1e-6
    torch.testing.assert_close(covariance, torch.eye(4).double().expand(2, 4, 4), atol=1e-6, rtol=0)
    instance = build("ou_mokrov:dim=4,step=200,horizon=200")
    a, b = target(instance, 4)
    mean, covariance = instance.truth.moments(0)
    torch.testing.assert_close(mean, b, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(covariance, torch.linalg.inv(a), atol=1e-9, rtol=1e-9)


def test_jko_step_minimises_the_jko_objective():
    """One exact step in 1-D against a numerical minimum of W2^2 / 2a + KL over Gaussians."""
    step = 0.3
    instance = build("ou_mokrov:dim=1")
    a, b = (float(part[0].squeeze()) for part in target(instance, 1))
    first, second = (instance.truth.jko((step, step)).moments(k) for k in (0, 1))
    m0, s0 = float(first[0][0]), math.sqrt(float(first[1][0]))

    def objective(u):
        m, s = u[0], math.exp(u[1])
        return ((m - m0) ** 2 + (s - s0) ** 2) / (2 * step) - math.log(s) + a / 2 * (s**2 + (m - b) ** 2)

    found = minimize(objective, [m0, math.log(s0)], tol=1e-14).x
    assert found[0] == pytest.approx(float(second[0][0]), abs=1e-6)
    assert math.exp(found[1]) == pytest.approx(math.sqrt(float(second[1][0])), abs=1e-6)


@pytest.mark.parametrize("law", ["flow", "jko"])
def test_log_density_is_the_normal_one_and_draws_follow_it(law, streams):
    instance = registry.parse("task", "ou_mokrov:dim=3").build(streams.fork("task"))
    truth = instance.truth if law == "flow" else instance.truth.jko((0.05,) * 8)
    mean, covariance = truth.moments(5)
    n = 200_000
    x = truth.draw(5, n, streams.fork("draws"))
    normal = torch.distributions.MultivariateNormal(mean, covariance)
    torch.testing.assert_close(truth.log_prob(5, x[:, :100]), normal.log_prob(x[:, :100].transpose(0, 1)).T)
    some = x[:, :100].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(truth.log_prob(5, some).sum(), some)
    torch.testing.assert_close(truth.score(5, x[:, :100]), gradient)
    se = covariance.diagonal(dim1=-2, dim2=-1).sqrt() / n**0.5
    assert ((x.mean(1) - mean).abs() < 5 * se).all()
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (x - mean[:, None]).mT, upper=False)
    assert ((white @ white.mT / n - torch.eye(3)).abs() < 5 * (2 / n) ** 0.5).all()


def test_energy_is_kl_to_the_target():
    instance = build("ou_mokrov:dim=3")
    a, b = target(instance, 3)
    law = torch.distributions.MultivariateNormal(*instance.truth.moments(5))
    goal = torch.distributions.MultivariateNormal(b, torch.linalg.inv(a))
    torch.testing.assert_close(instance.truth.energy(5), torch.distributions.kl_divergence(law, goal))
