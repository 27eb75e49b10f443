"""DW4: the energy by hand, its symmetries, and log Z, moments and draws against quadrature."""

import math
import sys
from functools import cache

import numpy as np
import pytest
import scipy.stats
import torch

from gwfbench.info import Initial, LogDensity
from gwfbench.metrics import choose
from gwfbench.metrics.clusters import coordinates, pairs, positions
from gwfbench.plugins import registry
from gwfbench.protocol import Judged
from gwfbench.rng import Streams

dw4 = sys.modules[registry.find("task", "dw4").load().__module__]


def pair(r):
    return 0.9 * (r - 4) ** 4 - 4 * (r - 4) ** 2


@cache
def quadrature(cells=120, angles=256):
    """log Z, radii, and the law of one pair's distance on them."""
    r = np.linspace(0.9, 7.1, cells)
    theta = 2 * np.pi * np.arange(angles) / angles
    square = r[:, None, None] ** 2 + r[None, :, None] ** 2 - 2 * r[:, None, None] * r[None, :, None] * np.cos(theta)
    least = pair(4 - math.sqrt(20 / 9))
    coefficients = np.fft.rfft(np.exp(least - pair(np.sqrt(np.maximum(square, 0)))), axis=2).real / angles
    w = r * np.exp(least - pair(r)) * (r[1] - r[0])
    law = np.zeros(cells)
    for k in range(coefficients.shape[2]):
        m = w[:, None] * coefficients[:, :, k]
        law += (1 if k in (0, angles // 2) else 2) * np.einsum("ij,ji->i", m @ m, m)
    return math.log(law.sum() * (2 * np.pi) ** 3 / 4) - 6 * least, r, law / law.sum()


@cache
def draws():
    """(4096 x 3, 6), the task's own."""
    return dw4.draw(4096, Streams((3, 5, 8), dtype=torch.float64)).flatten(0, 1)


def build(seeds=(3, 5, 8), dtype=torch.float64, text="dw4"):
    return registry.parse("task", text).build(Streams(seeds, dtype=dtype).fork("task"))


def test_a_pair_at_rest_and_at_the_barrier():
    at_rest = 4 - math.sqrt(20 / 9)
    for value in (-40 / 9, pair(at_rest), pair(8 - at_rest)):
        assert pytest.approx(value) == dw4.LEAST
    assert pair(at_rest) < min(pair(at_rest - 1e-4), pair(at_rest + 1e-4))


def test_energy_by_hand():
    """A square of side 4: four pairs at the barrier's top, U = 0, and two diagonals."""
    square = torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]]).double()
    z = coordinates(square)[None, None]
    assert float(dw4.log_density(z)) == pytest.approx(-2 * pair(4 * math.sqrt(2)))


def test_score_is_the_gradient(streams):
    density = build().problem[LogDensity]
    x = (2 * streams.normal(50, 6)).requires_grad_()
    (gradient,) = torch.autograd.grad(density.log_prob(x).sum(), x)
    torch.testing.assert_close(density.score(x), gradient)
    low = density.score(x.detach().float())
    torch.testing.assert_close(low.double(), gradient, rtol=1e-3, atol=1e-2)


def test_symmetries(streams):
    x = positions(2 * streams.normal(20, 6), 4)
    value, score = (f(coordinates(x)) for f in (dw4.log_density, dw4.score))
    angle = torch.tensor(0.7).double()
    turn = torch.stack([torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])])
    mirror = torch.diag(torch.tensor([1.0, -1.0]).double())
    for move in (lambda y: y @ turn, lambda y: y @ mirror, lambda y: y[..., [2, 3, 0, 1], :]):
        torch.testing.assert_close(dw4.log_density(coordinates(move(x))), value)
        torch.testing.assert_close(dw4.score(coordinates(move(x))), coordinates(move(positions(score, 4))))
    torch.testing.assert_close(dw4.log_density(coordinates(x + 5)), value)


def test_log_z_and_moments_by_quadrature():
    log_z, r, law = quadrature()
    assert pytest.approx(log_z, abs=1e-10) == dw4.LOG_Z
    assert pytest.approx(law @ r**2, rel=1e-12) == dw4.SQUARE
    truth = build().truth
    assert [float(part[0]) for part in truth.log_z] == [dw4.LOG_Z, 0.0]
    mean, covariance = truth.moments(0)
    assert mean.abs().max() == 0
    # sum of squares of the pair distances is N |z|^2
    assert float(covariance[0].trace()) == pytest.approx(6 * (law @ r**2) / 4)


@pytest.mark.slow
def test_log_z_by_importance_sampling_in_six_dimensions():
    """Independent of the angles' Fourier series and of the volume factor: a Gaussian fitted to wide points, in z."""
    x = 2.15 * Streams((0,), dtype=torch.float64).normal(4_000_000, 6)[0]
    q = -0.5 * (x / 2.15).square().sum(-1) - 3 * math.log(2 * math.pi * 2.15**2)
    w = (dw4.log_density(x) - q - dw4.LOG_Z).exp()
    error = float(w.std()) / len(w) ** 0.5
    assert abs(float(w.mean()) - 1) < 5 * error
    assert error < 0.03


def test_the_table_that_rejection_proposes_from_is_never_exceeded():
    half = (dw4.HIGH - dw4.LOW) / dw4.CELLS / 2
    middle = np.linspace(dw4.LOW + half, dw4.HIGH - half, dw4.CELLS)
    weight = [(middle + side) * np.exp(-pair(middle + side)) for side in (-half, 0.0, half)]
    assert max((weight[0] / weight[1]).max(), (weight[2] / weight[1]).max()) < dw4.SLACK
    outside = np.concatenate([np.linspace(0.001, dw4.LOW, 100), np.linspace(dw4.HIGH, 12, 100)])
    assert np.exp(dw4.LEAST - pair(outside)).max() < 1e-16


@pytest.mark.slow
def test_draws_have_the_law_of_a_pair_distance():
    """Chi^2 of each pair's distances in bins of quadrature; the twelve at most are independent draws."""
    _, r, law = quadrature(240, 512)
    cdf = np.concatenate([[0.0], np.cumsum(0.5 * (law[1:] + law[:-1]))])
    cdf /= cdf[-1]
    distance = pairs(positions(draws(), 4))[1].numpy()
    edges = np.interp(np.arange(1, 40) / 40, cdf, r)
    for column in distance.T:
        counts = np.bincount(np.searchsorted(edges, column), minlength=40)
        assert scipy.stats.chisquare(counts).pvalue > 1e-5


@pytest.mark.slow
def test_draws_obey_the_density_s_identities():
    """E[score] = 0, E[score x'] = -I (its trace is the virial), E[U] by quadrature, moments by symmetry."""
    _, r, law = quadrature()
    x = draws()
    score, energy = dw4.score(x), -dw4.log_density(x)
    products = x[:, :, None] * x[:, None] - dw4.SQUARE / 4 * torch.eye(6)
    for values in (score, x, score[:, :, None] * x[:, None] + torch.eye(6), products, energy - 6 * (law @ pair(r))):
        worst = values.mean(0).abs() / (values.std(0) / len(x) ** 0.5)
        assert worst.max() < 5.5
    # and E[q / pi] = 1 for the Gaussian with the truth's moments: log Z on the draws
    normal = torch.distributions.MultivariateNormal(torch.zeros(6).double(), 0.1 * torch.eye(6).double())
    centre = draws()[:1]  # near one of them
    w = (normal.log_prob(x - centre) + energy + dw4.LOG_Z).exp()
    assert abs(float(w.mean()) - 1) < 5 * float(w.std()) / len(w) ** 0.5 + 1e-9


@pytest.mark.slow
def test_each_seed_s_draws_are_its_own():
    streams = Streams((3, 5, 8), dtype=torch.float64)
    x, alone = dw4.draw(200, streams), dw4.draw(200, Streams((5,), dtype=torch.float64))
    torch.testing.assert_close(alone, x[1:2], rtol=0, atol=0)
    assert len(x.flatten(0, 1).unique(dim=0)) == 600


@pytest.mark.slow
def test_every_metric_judges_and_tells_exact_from_still():
    streams = Streams((3,), dtype=torch.float64)
    instance = build((3,))
    metrics = choose(type(registry.parse("task", "dw4")).metrics, instance.truth.metrics)
    assert not any(instance.truth.lacks(metric, "none") for metric in metrics)
    laws = (draws()[None, :2048], instance.problem[Initial].draw(2048, streams))
    for metric in metrics[:2]:
        exact, still = (metric.evaluate(Judged(x, None, instance.truth, 0, streams.fork("judge"))) for x in laws)
        assert (still.value - exact.value > 5 * (exact.se**2 + still.se**2).sqrt()).all(), metric.name


def test_p0_is_normal(streams):
    start = build(text="dw4:start=3").problem[Initial]
    x = start.draw(4000, streams)
    assert scipy.stats.kstest(x.flatten().numpy() / 3, scipy.stats.norm.cdf).pvalue > 1e-6
    expected = scipy.stats.norm(0, 3).logpdf(x.numpy()).sum(-1)
    torch.testing.assert_close(start.log_prob(x), torch.from_numpy(expected))
