"""Corollary 3.3: the variational form is tight at h = dP/dmu and below KL elsewhere, on Gaussians by quadrature."""

import math

import pytest
import torch
from scipy.stats import norm

from gwfbench.divergences import FLOOR, kl_critic_loss, kl_energy, log_h, squared

N = 200_001
M, S, MU, SIGMA = 0.4, 0.8, 0.1, 1.1  # P = N(M, S^2), mu = N(MU, SIGMA^2), Q = N(0, 1): nothing symmetric


def quantiles(mean, scale):
    """Points whose plain average is the expectation to 1e-5."""
    u = (torch.arange(N).double() + 0.5) / N
    return torch.from_numpy(norm.ppf(u.numpy(), mean, scale))[None]


def log_normal(x, mean, scale):
    return -0.5 * ((x - mean) / scale) ** 2 - math.log(scale * math.sqrt(2 * math.pi))


def best(x):
    return (log_normal(x, M, S) - log_normal(x, MU, SIGMA)).exp()


def kl(m, s, m0, s0):
    return math.log(s0 / s) + (s**2 + (m - m0) ** 2) / (2 * s0**2) - 0.5


Y, Z = quantiles(M, S), quantiles(MU, SIGMA)


def bound(h):
    """1 + E_P[log h mu / Q] - E_mu[h], out of the two halves that critic and map see."""
    energy = kl_energy(h(Y), log_normal(Y, MU, SIGMA), log_normal(Y, 0.0, 1.0))
    return float(energy + 1 - h(Z).mean(1))


def test_tight_at_the_density_ratio():
    assert bound(best) == pytest.approx(kl(M, S, 0.0, 1.0), abs=1e-4)
    assert float(kl_critic_loss(best(Y), best(Z))) == pytest.approx(1 - kl(M, S, MU, SIGMA), abs=1e-4)


@pytest.mark.parametrize("tilt", [-0.5, -0.1, 0.1, 0.5])
def test_below_kl_elsewhere_by_the_known_gap(tilt):
    """With h = e^tilt dP/dmu the gap is e^tilt - 1 - tilt."""
    gap = kl(M, S, 0.0, 1.0) - bound(lambda x: math.exp(tilt) * best(x))
    assert gap == pytest.approx(math.exp(tilt) - 1 - tilt, abs=1e-4)
    shape = bound(lambda x: best(x) * (1 + tilt * x.sin()).clamp_min(0.1))
    assert shape < kl(M, S, 0.0, 1.0)


def test_positive_head():
    raw = torch.tensor([[-2.0, 0.0, 3.0]])
    assert squared(raw).tolist() == [[4.0, 0.0, 9.0]]
    assert log_h(squared(raw))[0, 1] == pytest.approx(math.log(FLOOR))
