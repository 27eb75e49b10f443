"""Von Mises-Fisher mixtures against quadrature and Bessel functions; two points against their closed forms."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from gwfbench.errors import UserError
from gwfbench.info import Initial
from gwfbench.plugins import registry
from gwfbench.protocol import Judged
from gwfbench.rng import Streams

SEEDS = (3, 5)


def build(text, seeds=SEEDS):
    return registry.parse("task", text).build(Streams(seeds, dtype=torch.float64).fork("task"))


def draws(truth, n=40_000):
    return truth.draw(0, n, Streams(SEEDS, dtype=torch.float64).fork("x"))


@pytest.mark.parametrize("kappa", [0.3, 5.0, 50.0])
def test_the_density_integrates_to_one(kappa):
    """Gauss-Legendre in height, equal angles around: exact for these smooth integrands."""
    truth = build(f"sphere:components=4,concentration={kappa}").truth
    z, w = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(120))
    angle = torch.arange(240).double() * (2 * math.pi / 240)
    r = (1 - z * z).sqrt()[:, None]
    x = (
        torch.stack([r * angle.cos(), r * angle.sin(), z[:, None].expand(-1, 240)], -1)
        .reshape(1, -1, 3)
        .expand(2, -1, 3)
    )
    mass = truth.log_prob(0, x).exp() * (w[:, None] * (2 * math.pi / 240)).expand(-1, 240).reshape(-1)
    torch.testing.assert_close(mass.sum(1), torch.ones(2).double(), rtol=0, atol=1e-10)
    mean, covariance = truth.moments(0)
    first = (mass[..., None] * x).sum(1)
    torch.testing.assert_close(first, mean, rtol=0, atol=1e-10)
    second = (mass[..., None] * x).mT @ x - mean[:, :, None] * mean[:, None]
    torch.testing.assert_close(second, covariance, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dim", [2, 4, 9])
@pytest.mark.parametrize("kappa", [0.1, 3.0, 200.0])
def test_the_constant_in_other_dimensions(dim, kappa):
    """C times the area of S^{d-2} times the integral over the angle to mu is 1."""
    truth = build(f"sphere:components=1,concentration={kappa},dim={dim}").truth
    mu = truth.moments(0)[0][0]
    mu = mu / mu.norm()
    side = torch.linalg.qr(torch.cat([mu[:, None], torch.eye(dim).double()], 1))[0][:, 1]
    area = 2 * math.pi ** ((dim - 1) / 2) / math.gamma((dim - 1) / 2)

    def slice_at(angle):
        x = (math.cos(angle) * mu + math.sin(angle) * side).expand(2, 1, dim)
        return area * math.sin(angle) ** (dim - 2) * float(truth.log_prob(0, x)[0, 0].exp())

    assert scipy.integrate.quad(slice_at, 0, math.pi, points=[0.1, 0.5], limit=200)[0] == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("text", ["sphere", "sphere:concentration=2", "sphere:dim=2", "sphere:dim=5,concentration=20"])
def test_draws_have_the_closed_moments(text):
    truth = build(text).truth
    x = draws(truth)
    assert (x.norm(dim=-1) - 1).abs().max() < 1e-12
    mean, covariance = truth.moments(0)
    assert ((x.mean(1) - mean).abs() < 5 * x.std(1) / 200).all()
    centred = x - mean[:, None]
    pairs = centred[..., :, None] * centred[..., None, :]
    assert ((pairs.mean(1) - covariance).abs() < 6 * pairs.std(1) / 200).all()


@pytest.mark.parametrize("dim", [2, 3, 6])
def test_heights_have_their_law(dim):
    """The angle to mu against its density by quadrature, Kolmogorov-Smirnov at 1e-7."""
    kappa = 4.0
    truth = build(f"sphere:components=1,concentration={kappa},dim={dim}").truth
    mean = truth.moments(0)[0]
    t = (draws(truth) * (mean / mean.norm(dim=1, keepdim=True))[:, None]).sum(-1)
    angle = np.linspace(0, math.pi, 4001)
    density = np.sin(angle) ** (dim - 2) * np.exp(kappa * (np.cos(angle) - 1))
    cdf = scipy.integrate.cumulative_simpson(density, x=angle, initial=0)
    for seed in t.clamp(-1, 1).arccos().numpy():
        assert scipy.stats.kstest(seed, lambda a: np.interp(a, angle, cdf / cdf[-1])).pvalue > 1e-7


def test_shares_and_coverage():
    truth = build("sphere:concentration=500,components=3").truth
    coverage, off = truth.metrics
    judged = Judged(draws(truth), None, truth, 0, Streams(SEEDS))
    estimate = coverage.evaluate(judged)
    assert (estimate.value < 5 * estimate.se + 0.01).all()
    assert (off.evaluate(judged).value == 0).all()
    moved = Judged(1.1 * judged.points, None, truth, 0, Streams(SEEDS))
    torch.testing.assert_close(off.evaluate(moved).value, torch.full((2,), 0.1).double(), rtol=1e-4, atol=0)


def test_the_sphere_starts_uniform():
    x = build("sphere").problem[Initial].draw(40_000, Streams(SEEDS, dtype=torch.float64).fork("x"))
    assert (x.mean(1).abs() < 5 / math.sqrt(3 * 40_000)).all()
    for seed in x[..., 0].numpy():  # Archimedes: heights are uniform
        assert scipy.stats.kstest(seed, "uniform", (-1, 2)).pvalue > 1e-7


@pytest.mark.parametrize("dim", [1, 3])
def test_two_points(dim):
    text = f"two_points:dim={dim},share=0.3,noise=0.2,distance=1.5"
    truth = build(text).truth
    x = draws(truth)
    mean, covariance = truth.moments(0)
    assert ((x.mean(1) - mean).abs() < 5 * x.std(1) / 200).all()
    centred = x - mean[:, None]
    pairs = centred[..., :, None] * centred[..., None, :]
    assert ((pairs.mean(1) - covariance).abs() < 6 * pairs.std(1) / 200 + 1e-12).all()
    axis = torch.zeros(dim).double()
    axis[0] = 1.5
    parts = torch.distributions.MultivariateNormal(torch.stack([axis, -axis]), 0.04 * torch.eye(dim).double())
    law = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.tensor([0.3, 0.7]).double()), parts
    )
    torch.testing.assert_close(truth.log_prob(0, x), law.log_prob(x))


def test_where_two_points_start():
    rng = Streams(SEEDS, dtype=torch.float64).fork("x")
    assert (build("two_points").problem[Initial].draw(100, rng) == 0).all()
    x = build("two_points:start_share=0.8,start=0.1").problem[Initial].draw(10_000, rng)
    assert ((x[..., 0] > 0).double().mean(1) - 0.8).abs().max() < 5 * 0.004
    assert (x.abs().mean(1)[:, 0] - 2).abs().max() < 5e-3
    assert (x[..., 1].std(1) - 0.1).abs().max() < 5e-3


@pytest.mark.parametrize(
    "text",
    [
        *("sphere:dim=1", "sphere:concentration=0", "sphere:components=0", "two_points:share=1", "two_points:noise=0"),
        *("two_points:start=-1", "two_points:start_share=2", "two_points:dim=0"),
    ],
)
def test_mistakes_are_told(text):
    with pytest.raises(UserError):
        registry.parse("task", text)
