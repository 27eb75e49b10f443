"""Many well against SciPy's adaptive quadrature of the published densities, and planted errors of the wells' shares."""

import functools
import itertools
import math
import sys

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
import scipy.stats
import torch

from gwfbench.errors import UserError
from gwfbench.info import Initial, LogDensity
from gwfbench.plugins import registry
from gwfbench.protocol import Judged
from gwfbench.rng import Streams

SEEDS = (3, 5, 8)
DOUBLE = {"dtype": torch.float64}
VARIANTS = ["fab32", "mw5", "mw50"]
DIM = {"fab32": 32, "mw5": 5, "mw50": 50}
WELLS = {"fab32": list(range(0, 32, 2)), "mw5": [0, 1, 2, 3, 4], "mw50": [0, 1, 2, 3, 4]}
WELL = {  # as published: a = -1/2, b = -6, c = 1 with log density -(a x + b x^2 + c x^4); delta = 4 and 2
    "fab32": lambda x: 0.5 * x + 6 * x**2 - x**4,
    "mw5": lambda x: -((x**2 - 4) ** 2),
    "mw50": lambda x: -((x**2 - 2) ** 2),
}
LOG_Z = {"fab32": 164.69568, "mw5": -0.54106, "mw50": 42.81724}


def build(variant, dtype=torch.float64, seeds=SEEDS):
    return registry.parse("task", f"many_well:variant={variant}").build(Streams(seeds, dtype=dtype).fork("task"))


def integral(variant, f, low=-4.0, high=4.0):
    """int f e^p over [low, high], in pieces that each hold one bend."""
    edges = [low, *(x for x in (-2.5, -1.7, -0.8, 0.0, 0.8, 1.7, 2.5) if low < x < high), high]
    parts = itertools.pairwise(edges)
    return sum(
        scipy.integrate.quad(lambda x: f(x) * np.exp(WELL[variant](x)), a, b, epsabs=1e-13, epsrel=1e-13)[0]
        for a, b in parts
    )


def log_density(variant, x):
    wells = WELLS[variant]
    others = [i for i in range(DIM[variant]) if i not in wells]
    return WELL[variant](x[..., wells]).sum(-1) - 0.5 * x[..., others].square().sum(-1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_log_z_is_the_published_one_and_that_of_quadrature(variant):
    value, error = build(variant).truth.log_z
    m = len(WELLS[variant])
    expected = m * math.log(integral(variant, lambda x: 1.0)) + 0.5 * (DIM[variant] - m) * math.log(2 * math.pi)
    torch.testing.assert_close(value, torch.full((3,), expected, **DOUBLE), atol=1e-10, rtol=0)
    assert float((value - LOG_Z[variant]).abs().max()) < 1e-5
    assert torch.equal(error, torch.zeros(3, **DOUBLE))


def test_the_integral_of_the_unequal_well():
    """11784.50927, which makes log Z of fab32."""
    log_z = build("fab32").truth.log_z[0][0]
    assert math.exp(float(log_z) / 16 - 0.5 * math.log(2 * math.pi)) == pytest.approx(11784.50927, abs=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_log_density_and_score(variant, streams):
    instance, d = build(variant), DIM[variant]
    truth, offered = instance.truth, instance.problem[LogDensity]
    x = torch.cat([truth.draw(0, 30, streams), 2 * streams.normal(30, d)], 1).requires_grad_()
    expected = log_density(variant, x)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(offered.log_prob(x), expected)
    torch.testing.assert_close(truth.log_prob(0, x), expected - truth.log_z[0][:, None])
    for score in (offered.score, lambda x: truth.score(0, x)):
        torch.testing.assert_close(score(x.detach()), gradient)
    assert torch.autograd.gradgradcheck(offered.log_prob, x[:, :2].detach().requires_grad_())


@pytest.mark.parametrize("variant", VARIANTS)
def test_moments_by_quadrature(variant):
    mean, covariance = build(variant).truth.moments(0)
    z = integral(variant, lambda x: 1.0)
    first, second = integral(variant, lambda x: x) / z, integral(variant, lambda x: x**2) / z
    expected, variance = torch.zeros(DIM[variant], **DOUBLE), torch.ones(DIM[variant], **DOUBLE)
    expected[WELLS[variant]], variance[WELLS[variant]] = first, second - first**2
    torch.testing.assert_close(mean, expected.expand(3, -1), atol=1e-11, rtol=0)
    torch.testing.assert_close(covariance, variance.diag().expand(3, -1, -1), atol=1e-11, rtol=0)
    assert variant != "fab32" or first == pytest.approx(1.1880, abs=5e-5)


@functools.cache
def pieces(variant):
    """Antiderivatives of e^p by Chebyshev series on 40 pieces of [-4, 4], with the mass before each, and all of it."""
    found, total = [], 0.0
    for a, b in itertools.pairwise(np.linspace(-4, 4, 41)):
        series = np.polynomial.Chebyshev.interpolate(lambda x: np.exp(WELL[variant](x)), 24, domain=[a, b]).integ(
            lbnd=a
        )
        found.append((total, series))
        total += series(b)
    return found, total


def cdf(variant, points):
    found, total = pieces(variant)
    values, place = np.zeros_like(points), np.clip((5 * (points + 4)).astype(int), 0, 39)
    for k in np.unique(place):
        before, series = found[k]
        values[place == k] = (before + series(points[place == k])) / total
    return values


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_have_the_cdf_of_each_coordinate_and_no_correlation(variant, dtype):
    n, d = 50_000, DIM[variant]
    x = build(variant, dtype).truth.draw(0, n, Streams(SEEDS, dtype=dtype).fork("draws"))
    assert x.dtype == dtype
    for points in x.double():
        for i in {0, d - 1, WELLS[variant][-1]}:
            own = (lambda y: cdf(variant, y)) if i in WELLS[variant] else "norm"
            assert scipy.stats.kstest(points[:, i].numpy(), own).pvalue > 1e-6
        assert (torch.corrcoef(points.T) - torch.eye(d)).abs().max() < 6 / n**0.5  # of 1225 pairs


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_inverse_is_that_of_the_cdf(variant):
    """To 1e-6, from one end to the other, and where u is as small as it gets; it increases."""
    module = sys.modules[registry.plugins("task")["many_well"].load().__module__]
    inverse = module._Inverse.of(module._target(variant).well, torch.device("cpu"))
    u = np.concatenate([np.linspace(0.001, 0.999, 200), [1e-9, 1e-6, 1 - 1e-6, 1 - 1e-9]])
    found = inverse(torch.from_numpy(u)).numpy()
    exact = [scipy.optimize.brentq(lambda x, p=p: cdf(variant, np.array([x]))[0] - p, -3.9, 3.9, xtol=1e-13) for p in u]
    np.testing.assert_allclose(found, exact, atol=1e-6)
    ends = inverse(torch.tensor([0.0, 2.0**-53, 0.5, 1 - 2.0**-53], **DOUBLE))
    assert ends.isfinite().all()
    assert (ends.diff() > 0).all()
    assert ends.abs().max() <= 3.5


def evaluate(instance, name, points):
    (metric,) = [each for each in instance.truth.metrics if each.name == name]
    return metric.evaluate(Judged(points, None, instance.truth, 0, Streams(SEEDS)))


def barrier_and_share(variant):
    barrier = scipy.optimize.minimize_scalar(
        WELL[variant], bounds=(-0.5, 0.5), method="bounded", options={"xatol": 1e-12}
    ).x
    return barrier, integral(variant, lambda x: 1.0, barrier) / integral(variant, lambda x: 1.0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_shares_of_the_wells(variant, streams):
    """Metrics on points with known sides: 84.43 % of fab32's wells, half of the others'."""
    instance = build(variant)
    barrier, share = barrier_and_share(variant)
    assert share == pytest.approx(0.8443 if variant == "fab32" else 0.5, abs=5e-5)
    x = instance.truth.draw(0, 1000, streams)
    right = x.clone()
    right[..., WELLS[variant]] = barrier + 1 + 0.5 * streams.uniform(1000, len(WELLS[variant]))
    found = evaluate(instance, "well_weights", right)
    torch.testing.assert_close(found.value, torch.full((3,), 1 - share, **DOUBLE), atol=1e-9, rtol=0)
    assert found.se.max() == pytest.approx(1 / 1000)
    joint = evaluate(instance, "mode_weights", right)
    torch.testing.assert_close(joint.value, torch.full((3,), 1 - share**5, **DOUBLE), atol=1e-9, rtol=0)
    near = right.clone()
    near[..., WELLS[variant]] = barrier - 1e-6  # just left of the barrier
    torch.testing.assert_close(evaluate(instance, "well_weights", near).value, torch.full((3,), share, **DOUBLE))
    all_left = evaluate(instance, "mode_weights", near)
    torch.testing.assert_close(all_left.value, torch.full((3,), 1 - (1 - share) ** 5, **DOUBLE))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["fab32", "mw50"])
def test_exact_draws_have_the_shares_and_their_joint_law(variant):
    n, instance = 60_000, build(variant)
    x = instance.truth.draw(0, n, Streams(SEEDS, **DOUBLE).fork("draws"))
    barrier, share = barrier_and_share(variant)
    counts = (x[..., WELLS[variant]] > barrier).double().sum(1)
    assert ((counts - n * share).abs() < 5 * (n * share * (1 - share)) ** 0.5).all()
    sides = (x[..., WELLS[variant][:5]] > barrier).long() @ 2 ** torch.arange(5)
    expected = [share ** bin(k).count("1") * (1 - share) ** (5 - bin(k).count("1")) for k in range(32)]
    for one in sides:
        observed = torch.bincount(one, minlength=32).numpy()
        assert scipy.stats.chisquare(observed, n * np.array(expected)).pvalue > 1e-6
    floor = sum((p * (1 - p) / (2 * math.pi * n)) ** 0.5 for p in expected)
    assert (evaluate(instance, "mode_weights", x).value < 2 * floor).all()
    floor = (2 * share * (1 - share) / (math.pi * n)) ** 0.5
    assert (evaluate(instance, "well_weights", x).value < 3 * floor).all()


@pytest.mark.slow
def test_the_error_of_well_weights_is_its_spread():
    """A fifth of the points have all their wells on the right: value, and standard error against repetition."""
    seeds, n = tuple(range(200)), 2000
    instance, rng = build("fab32", seeds=seeds), Streams(seeds, **DOUBLE)
    barrier, share = barrier_and_share("fab32")
    x = instance.truth.draw(0, n, rng.fork("draws"))
    wells = x[..., ::2]
    wells[:] = torch.where((rng.fork("moved").uniform(n, 1) < 0.2), barrier + (wells - barrier).abs(), wells)
    found = evaluate(instance, "well_weights", x)
    spread = float(found.value.std())
    assert abs(float(found.value.mean()) - 0.2 * (1 - share)) < 5 * spread / 200**0.5
    assert float(found.se.mean()) == pytest.approx(spread, rel=5 / 400**0.5)


def test_one_density_is_not_another(streams):
    """The order of coordinates: wells and Gaussians alternate in fab32, and come one after the other in mw50."""
    fab, mw = build("fab32").problem[LogDensity], build("mw50").problem[LogDensity]
    for density, dim, wells in ((fab, 32, WELLS["fab32"]), (mw, 50, WELLS["mw50"])):
        points = 3 * torch.eye(dim, **DOUBLE).expand(3, -1, -1)
        gap = density.log_prob(points) - density.log_prob(torch.zeros(3, 1, dim, **DOUBLE))
        gaussian = (gap - -4.5).abs() < 1e-12
        assert [i for i in range(dim) if not gaussian[0, i]] == wells


def test_the_start_is_its_gaussian(streams):
    start = build("mw50").problem[Initial]
    x = start.draw(20_000, streams)
    torch.testing.assert_close(start.log_prob(x), torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(-1))
    assert scipy.stats.kstest(x[2].flatten().numpy(), "norm").pvalue > 1e-6


def test_float32_is_near_float64(streams):
    x = build("fab32").truth.draw(0, 200, streams).float()
    single, double = build("fab32", torch.float32).problem[LogDensity], build("fab32").problem[LogDensity]
    torch.testing.assert_close(single.log_prob(x).double(), double.log_prob(x.double()), atol=1e-3, rtol=0)
    torch.testing.assert_close(single.score(x).double(), double.score(x.double()), atol=1e-4, rtol=0)
    assert build("fab32", torch.float32).truth.log_prob(0, x).dtype == torch.float32


@pytest.mark.parametrize("text", ["variant=mw32", "start=0", "start=inf"])
def test_bad_input_is_told(text):
    with pytest.raises(UserError, match=f"many_well:{text}"):
        registry.parse("task", f"many_well:{text}")
