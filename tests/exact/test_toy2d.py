"""The shapes against their own densities: mass, score, draws, moments, symmetries, and other ways to compute them."""

import functools
import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch

from gwfbench.errors import UserError
from gwfbench.info import Initial, LogDensity, TargetSamples
from gwfbench.plugins import registry
from gwfbench.rng import Streams

PI = math.pi
real = functools.partial(torch.tensor, dtype=torch.float64)
BOX = {  # a box that holds all mass but 1e-9, cells a side for the chi-square, Gauss-Legendre nodes a cell
    "eight_gaussians": (-1.65, 1.65, -1.65, 1.65, 12, 12),
    "25_gaussians": (-6.6, 6.6, -6.6, 6.6, 15, 24),
    "circles": (-9.4, 9.4, -9.4, 9.4, 16, 16),
    "three_rings": (-0.44, 0.44, -1.94, 0.44, 14, 20),
    "moons": (-8, 9, -6.5, 6, 14, 10),
    "checkerboard": (-1.35, 1.35, -1.35, 1.35, 13, 12),
    "swiss_roll": (-1.2, 1.2, -1.2, 1.2, 16, 12),
    "spiral": (-2.85, 2.85, -2.85, 2.85, 17, 14),
    "two_moons": (-5, 5, -5, 5, 14, 12),
}
every_shape = pytest.mark.parametrize("shape", BOX)


def build(shape, seeds=(3, 5), dtype=torch.float64, **fields):
    text = "".join(f",{key}={value}" for key, value in fields.items())
    return registry.parse("task", f"toy2d:shape={shape}{text}").build(Streams(seeds, dtype=dtype).fork("task"))


def density(shape, x, **fields):
    """At (n, 2)."""
    return build(shape, **fields).truth.log_prob(0, x[None])[0].exp()


@functools.cache
def plane(shape):
    """Edges along both axes; nodes (m, 2), their weights, and the density there, cell by cell."""
    left, right, low, high, cells, order = BOX[shape]
    x, w = np.polynomial.legendre.leggauss(order)
    axes, edges = [], []
    for a, b in ((left, right), (low, high)):
        edge = np.linspace(a, b, cells + 1)
        half = (b - a) / cells / 2
        axes.append(
            (torch.from_numpy((edge[:-1, None] + half * (1 + x)).ravel()), torch.from_numpy(np.tile(half * w, cells)))
        )
        edges.append(edge)
    nodes = torch.cartesian_prod(axes[0][0], axes[1][0])
    weights = torch.outer(axes[0][1], axes[1][1]).flatten()
    mass = weights * density(shape, nodes)
    return edges, nodes, mass


@pytest.mark.slow
@every_shape
def test_density_integrates_to_one(shape):
    assert float(plane(shape)[2].sum()) == pytest.approx(1, abs=1e-6)


@every_shape
def test_moments_are_the_density_s(shape):
    _, nodes, mass = plane(shape)
    mean, covariance = build(shape).truth.moments(0)
    first = mass @ nodes
    second = (nodes - first).T @ (mass[:, None] * (nodes - first))
    torch.testing.assert_close(mean, first.expand(2, 2), atol=2e-5, rtol=0)
    torch.testing.assert_close(covariance, second.expand(2, 2, 2), atol=2e-4, rtol=1e-5)
    assert mean.dtype == covariance.dtype == torch.float64


@every_shape
def test_draws_follow_the_density(shape):
    """Chi-square over cells of the plane with at least 5 expected points, the rest in one; p-values above 5 sigma."""
    edges, _, mass = plane(shape)
    cells, order = BOX[shape][4:]
    expected = mass.view(cells, order, cells, order).sum((1, 3)).numpy().ravel()
    instance, n = build(shape), 100_000
    for draw in (lambda rng: instance.truth.draw(0, n, rng), lambda rng: instance.problem[TargetSamples].draw(n, rng)):
        for x in draw(Streams((3, 5), dtype=torch.float64).fork("draws")):
            counts = np.histogram2d(*x.T.numpy(), bins=edges)[0].ravel()
            kept = expected * n >= 5
            found = np.append(counts[kept], n - counts[kept].sum())
            law = np.append(expected[kept], max(1 - expected[kept].sum(), 1e-12))
            statistic = ((found - n * law) ** 2 / (n * law))[: None if law[-1] * n >= 5 else -1].sum()
            assert kept.sum() >= 8
            assert scipy.stats.chi2.sf(statistic, kept.sum()) > 2 * scipy.stats.norm.sf(5)


@every_shape
@pytest.mark.parametrize("noise", [None, 0.5])
def test_score_is_the_gradient_of_the_log_density(shape, noise, streams):
    if noise and shape == "two_moons":
        pytest.skip("it has no noise to set")
    instance = build(shape, seeds=(3, 5, 8), noise=noise)
    near = instance.truth.draw(0, 100, streams.fork("near")) + 0.1 * streams.fork("off").normal(100, 2)
    x = torch.cat([near, 3 * streams.normal(100, 2)], 1).requires_grad_()
    for log_prob, score in (
        (instance.problem[LogDensity].log_prob, instance.problem[LogDensity].score),
        (lambda x: instance.truth.log_prob(0, x), lambda x: instance.truth.score(0, x)),
    ):
        (gradient,) = torch.autograd.grad(log_prob(x).sum(), x)
        torch.testing.assert_close(score(x.detach()), gradient, rtol=1e-8, atol=1e-8)


@every_shape
def test_finite_far_away_in_single_precision(shape):
    instance = build(shape, seeds=(3,), dtype=torch.float32)
    info = instance.problem[LogDensity]
    angle = torch.linspace(0, 2 * PI, 50)
    x = torch.cat([r * torch.stack([angle.cos(), angle.sin()], 1) for r in (0.0, 1e-6, 1.0, 8.0, 50.0)])[None]
    exact = build(shape, seeds=(3,)).truth
    y = x.clone().requires_grad_()
    values = info.log_prob(y)
    (gradient,) = torch.autograd.grad(values.sum(), y)
    assert values.dtype == gradient.dtype == torch.float32
    assert gradient.isfinite().all()
    torch.testing.assert_close(values.detach().double(), exact.log_prob(0, x.double()), rtol=1e-5, atol=1e-3)
    scale = 1 + exact.score(0, x.double()).norm(dim=-1, keepdim=True)
    for found in (gradient, info.score(x)):
        assert ((found.double() - exact.score(0, x.double())) / scale).abs().max() < 3e-3


def test_chunks_change_nothing():
    """More points than one chunk holds, with and without gradients."""
    instance = build("spiral", seeds=(3,), noise=0.02)
    info, x = instance.problem[LogDensity], instance.truth.draw(0, 1100, Streams((3,), dtype=torch.float64))
    y = x.clone().requires_grad_()
    few = torch.cat([info.log_prob(part) for part in x.split(100, 1)], 1)
    torch.testing.assert_close(info.log_prob(x), few)
    (gradient,) = torch.autograd.grad(info.log_prob(y).sum(), y)
    torch.testing.assert_close(gradient, info.score(x))


def test_parameters_are_the_sources():
    """The tails and peaks of each law, read off the density: log p at two points gives the deviation."""
    at = real([[1.0, 0.0], [1.1, 0.0]])  # of std 0.1
    ratio = lambda shape, a, b: float(density(shape, real([a, b]))[[1, 0]].log().diff())  # noqa: E731
    assert density("eight_gaussians", at)[0].item() == pytest.approx(1 / 8 / (2 * PI * 0.01), rel=1e-6)
    assert density("25_gaussians", 6 * at[:1])[0].item() == pytest.approx(1 / 25 / (2 * PI * 0.005), rel=1e-6)
    assert ratio("eight_gaussians", [1.0, 0.0], [1.1, 0.0]) == pytest.approx(0.5, rel=1e-6)
    assert ratio("25_gaussians", [-6.0, 3.0], [-6.1, 3.0]) == pytest.approx(1, rel=1e-6)
    task = registry.parse("task", "toy2d")
    assert (task.shape, task.noise, task.start, task.points) == ("eight_gaussians", None, 1.0, 100_000)
    for shape, variance in {  # traces: radius^2 and spacing, plus 2 s^2
        "eight_gaussians": 1 + 2 * 0.01,
        "25_gaussians": 2 * 9 * 2 + 2 * 0.005,
        "circles": (16 + 64) / 2 + 2 * 0.04,
        "three_rings": 0.09 + 0.75**2 * 2 / 3 + 2 * 0.0004,
        "checkerboard": 2 / 3 + 2 * 0.0025,
        "moons": 2 * 0.36 + 9 * (1 / 2 + 1 / 2 - (2 / PI) ** 2 + 1 / 4 + (2 / PI - 1 / 4) ** 2),
    }.items():
        assert float(build(shape).truth.moments(0)[1][0].trace()) == pytest.approx(variance, rel=1e-9), shape
    mean = build("swiss_roll").truth.moments(0)[0][
        0
    ]  # int t cos t = [t sin t + cos t], int t sin t = [sin t - t cos t]
    torch.testing.assert_close(mean, real([4 * PI, 0.0]) / (4 * PI) / (4.5 * PI))
    mean = build("spiral").truth.moments(0)[0][0]
    torch.testing.assert_close(mean, real([0.0, -2.5 / (4 * PI)]))


@pytest.mark.parametrize("shape", ["circles", "three_rings"])
def test_circles_are_a_sum_over_many_points_of_them(shape):
    """Bessel's formula against the trapezoidal rule, which is exact to rounding for periodic integrands."""
    centres, radii, s = {
        "circles": ([(0, 0), (0, 0)], [4, 8], 0.2),
        "three_rings": ([(0, 0), (0, -0.75), (0, -1.5)], [0.3] * 3, 0.02),
    }[shape]
    x = real([[0.1, 0.0], [0.21, -0.2], [0.3, -1.3], [4.1, 0.3], [-3.0, 7.1], [12.0, 1.0]])
    angle = torch.arange(8000).double() * (2 * PI / 8000)
    unit = torch.stack([angle.cos(), angle.sin()], 1)
    logs = [-0.5 * torch.cdist(x, r * unit + real(c)).square() / s**2 for c, r in zip(centres, radii, strict=True)]
    expected = torch.cat(logs, 1).logsumexp(1) - math.log(8000 * len(radii) * 2 * PI * s * s)
    torch.testing.assert_close(build(shape).truth.log_prob(0, x[None])[0], expected, rtol=1e-9, atol=1e-8)


def curve(shape, u):
    """The noise-free curves, written again from the sources."""
    if shape == "moons":
        return [
            (3 * math.cos(PI * u) - 1, 3 * math.sin(PI * u) - 1),
            (2 - 3 * math.cos(PI * u), 0.5 - 3 * math.sin(PI * u)),
        ]
    t = 0.5 * PI + 4 * PI * u if shape == "swiss_roll" else 4 * PI * u
    scale = 1 / (4.5 * PI) if shape == "swiss_roll" else 2.5 / (4 * PI)
    return [(scale * t * math.cos(t), scale * t * math.sin(t))]


@pytest.mark.parametrize(("shape", "s"), [("moons", 0.6), ("swiss_roll", 0.03), ("spiral", 0.05)])
def test_curves_are_their_integrals(shape, s):
    """Against SciPy's adaptive rule over slices, on the curve, beside it, between windings, far out."""
    for x in [(0.0, 0.0), (0.05, 0.11), (-0.4, 0.2), (1.02, 0.1), (2.4, -0.1), (-5.0, 5.0)]:

        def exponent(u, x=x):
            return np.logaddexp.reduce([-((x[0] - a) ** 2 + (x[1] - b) ** 2) / (2 * s * s) for a, b in curve(shape, u)])

        slices = np.linspace(0, 1, 401)
        top = max(exponent(u) for u in slices)
        value = sum(
            scipy.integrate.quad(lambda u: math.exp(exponent(u) - top), a, b, epsabs=1e-13, epsrel=1e-11)[0]  # noqa: B023
            for a, b in itertools.pairwise(slices)
            if max(exponent(a), exponent(b), exponent((a + b) / 2)) > top - 60
        )
        expected = math.log(value) + top - math.log(len(curve(shape, 0)) * 2 * PI * s * s)
        found = build(shape, seeds=(3,)).truth.log_prob(0, real([[x]]))
        assert float(found) == pytest.approx(expected, rel=1e-10, abs=1e-9)


def test_checkerboard_s_cells_and_edges():
    """By hand at a corner of four cells, at a cell's middle and outside; the wide-noise limit is one Gaussian."""
    phi = scipy.special.ndtr
    found = density("checkerboard", real([[0.0, 0.0], [0.25, 0.25], [0.25, -0.25], [-1.1, -0.75]]))
    inside = 2 * phi(5) - 1
    for value, expected in zip(
        found,
        [0.25, 0.5 * inside**2 + 0.5 * phi(-5) ** 2 * 2, inside * phi(-5) * 2, 0.5 * phi(-2) * inside],
        strict=True,
    ):
        assert value.item() == pytest.approx(expected, rel=1e-3)
    wide = build("checkerboard", noise=10)
    mean, covariance = wide.truth.moments(0)
    x = real([[[3.0, -7.0], [0.0, 0.0], [12.0, 5.0]]]).expand(2, 3, 2)
    gaussian = torch.distributions.MultivariateNormal(mean[0], covariance[0]).log_prob(x)
    torch.testing.assert_close(wide.truth.log_prob(0, x), gaussian, rtol=0, atol=1e-5)


def test_two_moons_is_the_published_energy():
    truth = build("two_moons").truth
    x = real([[[2.0, 0.0], [-1.3, 0.9], [0.2, -2.4]]]).expand(2, 3, 2)

    def u(a, b):
        return 0.5 * ((math.hypot(a, b) - 2) / 0.4) ** 2 - math.log(
            math.exp(-0.5 * ((a - 2) / 0.6) ** 2) + math.exp(-0.5 * ((a + 2) / 0.6) ** 2)
        )

    area, _ = scipy.integrate.dblquad(lambda b, a: math.exp(-u(a, b)), -5, 5, -5, 5, epsabs=1e-9, epsrel=1e-9)
    expected = [-u(*point) - math.log(area) for point in x[0].tolist()]
    torch.testing.assert_close(truth.log_prob(0, x)[0], real(expected), atol=1e-8, rtol=0)


def turned(angle):
    return real([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


@pytest.mark.parametrize(
    ("shape", "matrix", "centre"),
    [
        ("eight_gaussians", turned(PI / 4), (0, 0)),
        ("eight_gaussians", [[0, 1], [1, 0]], (0, 0)),
        ("25_gaussians", turned(PI / 2), (0, 0)),
        ("circles", turned(0.7), (0, 0)),
        ("three_rings", [[-1, 0], [0, 1]], (0, 0)),
        ("three_rings", [[1, 0], [0, -1]], (0, -0.75)),
        ("moons", turned(PI), (0.5, -0.25)),
        ("checkerboard", [[0, 1], [1, 0]], (0, 0)),
        ("checkerboard", turned(PI), (0, 0)),
        ("two_moons", [[-1, 0], [0, 1]], (0, 0)),
        ("two_moons", [[1, 0], [0, -1]], (0, 0)),
    ],
)
def test_symmetries(shape, matrix, centre, streams):
    x = streams.normal(50, 2)[0]
    centre, matrix = real(centre), torch.as_tensor(matrix).double()
    torch.testing.assert_close(
        density(shape, x), density(shape, centre + (x - centre) @ matrix.T), rtol=1e-8, atol=1e-12
    )


@every_shape
def test_repeated_draws_are_fresh_and_a_seed_s_do_not_depend_on_its_company(shape):
    among, alone = build(shape, (2, 7, 11)), build(shape, (7,))
    both = Streams((2, 7, 11), dtype=torch.float64).fork("x"), Streams((7,), dtype=torch.float64).fork("x")
    first = [instance.truth.draw(0, 40, rng) for instance, rng in zip((among, alone), both, strict=True)]
    again = [instance.truth.draw(0, 40, rng) for instance, rng in zip((among, alone), both, strict=True)]
    assert torch.equal(first[0][1:2], first[1])
    assert torch.equal(again[0][1:2], again[1])
    assert not torch.allclose(first[1], again[1])
    assert not torch.allclose(first[0][0], first[0][1])


def test_the_flow_s_energy_is_kl_and_zero_at_its_limit(streams):
    instance = build("moons", seeds=(3, 5, 8), start=2.0)
    x = instance.truth.draw(0, 1000, streams)
    assert torch.equal(instance.truth.energy(0), torch.zeros(3).double())
    assert instance.truth.integrand(x, instance.truth.log_prob(0, x)).abs().max() < 1e-12
    x = instance.problem[Initial].draw(20_000, streams)
    normal = torch.distributions.Normal(0.0, 2.0).log_prob(x).sum(-1)
    torch.testing.assert_close(instance.problem[Initial].log_prob(x), normal)
    values = instance.truth.integrand(x, normal)
    torch.testing.assert_close(values, normal - instance.truth.log_prob(0, x))
    assert (values.mean(1) > 1).all()
    assert ((x.std(1) - 2).abs() < 5 * 2 / 40_000**0.5).all()
    assert instance.problem.times == (math.inf,)


@pytest.mark.parametrize(
    "text",
    [
        "toy2d:shape=moon",
        "toy2d:noise=0",
        "toy2d:noise=nan",
        "toy2d:shape=three_rings,noise=-0.1",
        "toy2d:shape=spiral,noise=1e-4",
        "toy2d:shape=two_moons,noise=0.1",
        "toy2d:start=0",
        "toy2d:start=inf",
    ],
)
def test_bad_fields_are_refused(text):
    with pytest.raises(UserError, match="fix:"):
        registry.parse("task", text)
