"""Radon-Wasserstein flows: direct sums, closed forms on Gaussians, the rate of KL, fixed points, symmetries, limits."""

import math

import numpy as np
import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.info import Initial, LogDensity
from gwfbench.plugins import registry
from gwfbench.protocol import Problem
from gwfbench.rng import Streams
from gwfbench.velocity.radon import frames, on_lines

variants = pytest.mark.parametrize(("variant", "width"), [("kdrw", 2.0), ("rrw", 1.0)])
FLOOR = 0.02


def method(text):
    return registry.parse("method", text)


def last(laws):
    *_, law = laws
    return law


def skewed(x):
    """A log-density without symmetries, (S, n, 2) -> (S, n)."""
    u, v = x.unbind(-1)
    return -0.3 * u**4 - 0.5 * (v - 0.4 * u.square() + 0.2 * u) ** 2 + 0.1 * u.sin()


def score(x):
    return torch.func.grad(lambda y: skewed(y).sum())(x)


def cloud(streams, n=60):
    x = streams.fork("cloud").normal(n, 2)
    return 0.7 * x + 0.2 * x.square() + torch.tensor([0.3, -2.0], dtype=x.dtype)


def direct(r, at, slope, h):
    """w by its formula, of points r (n,), at any places (m,)."""
    gap = at[:, None] - r
    k = (-gap.square() / (2 * h * h)).exp()
    return (k @ slope + (gap * k).sum(1) / h**2) / (FLOOR + k.sum(1))


def smoothed(f, at, h):
    """(k*f)(r) / int k at places (m,), by the trapezoidal rule over 8 h."""
    u = torch.linspace(-8, 8, 1601, dtype=at.dtype)
    weights = (-u.square() / 2).exp()
    values = f((at[:, None] - h * u).flatten()).view(len(at), -1)
    return values @ weights / weights.sum()


def expected(r, slope, h, variant):
    w = lambda at: direct(r, at, slope, h)  # noqa: E731
    return w(r) if variant == "kdrw" else smoothed(w, r, h)


@variants
def test_velocities_on_lines_are_the_formula_s_to_second_order_in_the_grid(variant, width, streams):
    x, theta = cloud(streams), frames(streams.fork("lines"), 3, 2)
    s = score(x)
    errors = []
    for cells in (10, 80):
        h, w = on_lines(x, s, theta, width, variant, FLOOR, cells)
        gap = 0.0
        for seed in range(3):
            for line in range(3):
                r, slope = x[seed] @ theta[seed, line], s[seed] @ theta[seed, line]
                wide = width * 60**-0.2 * float(r.std(correction=0))
                assert float(h[seed, line]) == pytest.approx(wide, rel=1e-12)
                exact = expected(r, slope, wide, variant)
                gap = max(gap, float((w[seed, line] - exact).abs().max() / exact.abs().max()))
        errors.append(gap)
    assert errors[0] < 0.02
    assert errors[1] < 5e-4
    assert errors[0] / errors[1] > 25  # second order: 64


@variants
def test_velocity_of_a_gaussian_is_linear(variant, width):
    """From N(m, s^2) to N(b, 1 / a): w = -a (m - b) + (1 - a s^2) (r - m) / (s^2 + h^2), of points at its quantiles."""
    n, m, s, b, a = 4000, 1.3, 2.0, -0.4, 3.0
    levels = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    x = (m + s * math.sqrt(2) * torch.erfinv(2 * levels - 1))[None, :, None]
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    h, w = on_lines(x, -a * (x - b), one, width, variant, 0.0, 40)
    exact = -a * (m - b) + (1 - a * s * s) * (x[0, :, 0] - m) / (s * s + float(h) ** 2)
    middle = slice(n // 5, -n // 5)  # beyond, quantiles end
    assert (w[0, 0] - exact)[middle].abs().max() < 5e-3 * exact[middle].abs().max()


def skewed_line(n):
    """Quantiles of 0.7 N(-1, 0.25) + 0.3 N(2, 1), (1, n, 1), its log-density and its score."""
    grid = np.linspace(-8, 10, 400_001)
    parts = lambda x: (0.7 * (-((x + 1) ** 2) * 2).exp() / 0.5, 0.3 * (-((x - 2) ** 2) / 2).exp())  # noqa: E731
    density = sum(parts(torch.from_numpy(grid))).numpy()
    levels = (np.arange(n) + 0.5) / n
    cdf = np.cumsum(density) / density.sum()
    x = torch.from_numpy(np.interp(levels, cdf, grid))[None, :, None]

    def slope(x):
        a, b = parts(x)
        return (-4 * (x + 1) * a - (x - 2) * b) / (a + b)

    return x, lambda x: torch.log(sum(parts(x))), slope


@variants
@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_target_is_at_rest_for_any_bandwidth(variant, width, factor):
    gaps = []
    for n in (500, 4000):
        x, _, slope = skewed_line(n)
        s = slope(x)
        width_of = factor * width * (n / 500) ** 0.2  # the same h
        _, w = on_lines(x, s, torch.ones(1, 1, 1, dtype=x.dtype), width_of, variant, 0.0, 40)
        gaps.append(float(w[0, 0].square().mean().sqrt() / s.square().mean().sqrt()))
    assert gaps[1] < 0.02
    assert gaps[1] < 0.6 * gaps[0]  # and the more so, the more points


def test_kl_falls_at_the_rate_of_the_regularised_geometry():
    """1-D: the entropy's change is the mean log of how spacings stretch; the rate is 1/n int w^2 (floor + sum k) / int k."""
    x, _, _ = skewed_line(600)
    log_pi = lambda y: -0.5 * 1.5 * (y - 0.7).square() - 0.05 * y**4  # noqa: E731
    slope = lambda y: -1.5 * (y - 0.7) - 0.2 * y**3  # noqa: E731
    r, n, tau = x[0, :, 0], x.shape[1], 1e-5
    h, v = on_lines(x, slope(x), torch.ones(1, 1, 1, dtype=x.dtype), 1.0, "rrw", FLOOR, 80)
    h = float(h)
    moved = r + tau * v[0, 0]
    stretched = (moved.diff() / r.diff()).log()
    change = -(log_pi(moved) - log_pi(r)).mean() - stretched.sum() / n
    at = torch.linspace(float(r.min()) - 8 * h, float(r.max()) + 8 * h, 6001, dtype=r.dtype)
    mass = (-(at[:, None] - r).square() / (2 * h * h)).exp().sum(1) + FLOOR
    rate = torch.trapezoid(direct(r, at, slope(r), h).square() * mass, at) / n / (h * math.sqrt(2 * math.pi))
    assert rate > 0
    assert float(change / tau) == pytest.approx(-float(rate), rel=0.02)


def test_the_authors_scheme_is_one_line_a_step_with_one_time_step(streams):
    target = LogDensity(skewed, score)
    problem = Problem((2,), (math.inf,), (Initial(lambda n, rng: cloud(rng, n)), target))
    steps = "steps=2,step=0.05,lines=1,own=false,last=1,reach=inf,cells=100"
    for variant in ("kdrw", "rrw"):
        ours = last(method(f"radon_flow:particles=40,variant={variant},{steps}").fit(problem, Budget(), streams))
        x = problem[Initial].draw(40, streams.fork("particles"))
        for k in (1, 2):
            theta = frames(streams.fork(f"lines/{k}"), 1, 2)[:, 0]
            s = score(x)
            x = x.clone()
            for seed in range(3):
                r, slope = x[seed] @ theta[seed], s[seed] @ theta[seed]
                h = (2 if variant == "kdrw" else 1) * 40**-0.2 * float(r.std(correction=0))
                x[seed] += 0.05 * torch.outer(expected(r, slope, h, variant), theta[seed])
        torch.testing.assert_close(ours.draw(40, streams), x, rtol=0, atol=2e-4)


def test_moves_turn_with_the_points_and_do_not_care_for_units(streams):
    flow = method("radon_flow:lines=3")
    x, theta = cloud(streams), frames(streams.fork("lines"), 3, 2)
    s = score(x)
    here = flow.move(x, s, theta, 0.5)
    turn = frames(streams.fork("turn"), 2, 2)[0]
    torch.testing.assert_close(flow.move(x @ turn, s @ turn, theta @ turn, 0.5), here @ turn, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(flow.move(50 * x + 7, s / 50, theta, 0.5), 50 * here, rtol=1e-9, atol=1e-9)
    limited = method("radon_flow:lines=1,reach=0.01").move(x, s, theta[:, :1], 1e3)
    h = on_lines(x, s, theta[:, :1], 1.0, "rrw").h
    torch.testing.assert_close(limited.norm(dim=-1).amax(1), 0.01 * h[:, 0, 0], rtol=1e-12, atol=0)


def test_more_lines_than_dimensions_are_averaged(streams):
    flow = method("radon_flow:lines=4")
    x, s, theta = cloud(streams), score(cloud(streams)), frames(streams.fork("lines"), 4, 2)
    halves = [flow.move(x, s, part, 0.5) for part in theta.split(2, 1)]
    torch.testing.assert_close(flow.move(x, s, theta, 0.5), (halves[0] + halves[1]) / 2, rtol=1e-12, atol=1e-14)


def test_frames_are_orthogonal_and_uniform():
    theta = frames(Streams((0, 1), dtype=torch.float64), 7, 3)
    assert theta.shape == (2, 7, 3)
    for part in theta.split(3, 1):
        eye = torch.eye(part.shape[1], dtype=theta.dtype).expand(2, -1, -1)
        torch.testing.assert_close(part @ part.mT, eye, rtol=0, atol=1e-12)
    many = frames(Streams(tuple(range(300)), dtype=torch.float64), 3, 3)
    # E theta = 0, E theta theta^T = I / 3, and fourth moments 1 / 5: each of 900 dependent vectors, 6 standard errors
    for moment, mean in ((many, 0.0), (many.square(), 1 / 3), (many.pow(4), 1 / 5)):
        assert (moment.mean((0, 1)) - mean).abs().max() < 6 * float(moment.std()) / math.sqrt(300)


def test_seeds_do_not_know_each_other_nor_does_one_that_is_lost(streams):
    x, theta = cloud(streams), frames(streams.fork("lines"), 2, 2)
    x[1, 0] += 1e4  # its grid is longer
    s = score(x)
    together = on_lines(x, s, theta, 1.0, "rrw").w
    for i in range(3):
        alone = on_lines(x[i : i + 1], s[i : i + 1], theta[i : i + 1], 1.0, "rrw").w
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-10, atol=1e-12)
    s[1, 3] = math.nan
    x[2, 3] = math.inf
    broken = on_lines(x, s, theta, 1.0, "rrw").w
    torch.testing.assert_close(broken[:1], together[:1], rtol=1e-10, atol=1e-12)
    assert broken[1:].isnan().any(-1).all()


def test_one_particle_far_off_does_not_make_the_grid_long(streams):
    """Bandwidths follow the spread: the range is below sqrt(2 n) standard deviations."""
    x = cloud(streams, 1000)
    x[:, 0] += 1e8
    theta = frames(streams.fork("lines"), 2, 2)
    h, w = on_lines(x, -x, theta, 1.0, "kdrw")
    assert w.isfinite().all()
    spans = (theta @ x.mT).amax(-1) - (theta @ x.mT).amin(-1)
    assert (spans / h[..., 0] <= math.sqrt(2 * 1000) * 1000**0.2).all()


def test_particles_at_one_place_stay_finite(streams):
    x = torch.full((3, 20, 2), 1.5, dtype=torch.float64)
    moved = method("radon_flow:").move(x, -x, frames(streams, 2, 2), 1.0)
    assert moved.isfinite().all()
    assert moved.abs().max() < 1e-6


@pytest.mark.parametrize("variant", ["kdrw", "rrw"])
def test_particles_find_a_gaussian_in_ten_dimensions(variant, streams):
    """Its covariance too, which SVGD's particles are too close for."""
    instance = registry.parse("task", "gaussian:dim=10,condition=10").build(streams.fork("task"))
    flow = method(f"radon_flow:particles=400,steps=300,variant={variant},step={4 if variant == 'rrw' else 1}")
    x = last(flow.fit(instance.problem, Budget(), streams)).draw(400, streams)
    mean, covariance = instance.truth.moments(0)
    own = (x - x.mean(1, keepdim=True)).mT @ (x - x.mean(1, keepdim=True)) / 400
    root = torch.linalg.cholesky(covariance)
    gap = torch.linalg.solve_triangular(root, (x.mean(1) - mean)[..., None], upper=False)
    assert gap.norm(dim=(1, 2)).max() < 0.05
    white = torch.linalg.solve_triangular(root, torch.linalg.solve_triangular(root, own, upper=False).mT, upper=False)
    eigenvalues = torch.linalg.eigvalsh(white)
    assert eigenvalues.min() > 0.8
    assert eigenvalues.max() < 1.15
