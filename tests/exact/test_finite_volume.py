"""The finite-volume solver against Barenblatt's solution, exact moments, its own conservation laws, finer grids."""

import math

import numpy as np
import pytest

from scripts.finite_volume import Equation, convolution, solve


def cell_means(f, d, n, side, inside=8):
    """Means over n^d cells of [-side, side]^d of f(|x|^2)."""
    x = -side + (np.arange(n * inside) + 0.5) * 2 * side / (n * inside)
    square = sum(a**2 for a in np.meshgrid(*[x] * d, indexing="ij"))
    return f(square).reshape((n, inside) * d).mean(tuple(range(1, 2 * d, 2)))


def barenblatt(t, d, m):
    """t^-alpha (C - k |x|^2 t^(-2 alpha / d))_+^(1 / (m - 1)) solves u_t = Laplacian u^m."""
    alpha = d / (d * (m - 1) + 2)
    k = alpha * (m - 1) / (2 * m * d)
    return lambda square: t**-alpha * np.maximum(0.5 - k * square * t ** (-2 * alpha / d), 0) ** (1 / (m - 1))


@pytest.mark.parametrize(("d", "m", "grids", "least"), [(1, 2.0, (32, 64, 128), 1.8), (2, 2.0, (16, 32, 48), 1.5)])
def test_converges_to_barenblatt(d, m, grids, least):
    """L1 error at t = 2 from t = 1: second order, less what the kink at the front costs."""
    side, errors = 5.0, []
    for n in grids:
        h = 2 * side / n
        start, goal = (cell_means(barenblatt(t, d, m), d, n, side) for t in (1.0, 2.0))
        (found,) = solve(Equation(h, m, 1.0), start, (1.0,))
        errors.append(np.abs(found - goal).sum() / goal.sum())
    orders = np.diff(np.log(errors)) / np.diff(np.log(1 / np.array(grids)))
    assert orders[-1] > least
    assert errors[-1] < 3e-3


def test_weight_is_a_scale_of_time():
    start = cell_means(barenblatt(1.0, 1, 3.0), 1, 40, 5.0)
    (one,) = solve(Equation(0.25, 3.0, 1.0), start, (0.7,))
    (other,) = solve(Equation(0.25, 3.0, 0.1), start, (7.0,))
    np.testing.assert_allclose(one, other, atol=1e-12)


def lopsided(n, h):
    """A density on n x n cells with no symmetry, zero in places."""
    x = (np.arange(n) + 0.5) * h
    rho = np.maximum(np.sin(x)[:, None] + 0.5 * np.cos(2 * x) - 0.3, 0) + 0.7 * np.exp(-((x[:, None] - 2) ** 2) - x**2)
    return rho / rho.sum() / h**2


def attraction(x):
    return -np.exp(-(x**2).sum(-1)) / math.pi


def test_mass_sign_and_energy_are_kept():
    """Mass to rounding, no negative density, energy falling at every time, with all three energies at once."""
    n, h = 24, 0.25
    start = lopsided(n, h)
    x = (np.arange(n) + 0.5) * h
    potential = 0.3 * (x[:, None] - 1) ** 2 + 0.1 * x
    flow = Equation(h, 3.0, 0.5, potential, convolution(attraction, (n, n), h))
    path = [start, *solve(flow, start, tuple(np.linspace(0.05, 2, 25)))]
    assert max(abs(rho.sum() / start.sum() - 1) for rho in path) < 1e-12
    assert min(rho.min() for rho in path) >= 0
    assert (np.diff([flow.energy(rho) for rho in path]) < 0).all()


def test_variation_is_the_derivative_of_the_energy():
    n, h = 8, 0.5
    rho = lopsided(n, h) + 0.01
    flow = Equation(h, 3.0, 0.5, np.arange(64.0).reshape(8, 8) / 64, convolution(attraction, (n, n), h))
    change = np.cos(np.arange(64.0)).reshape(8, 8)
    slope = (flow.energy(rho + 1e-5 * change) - flow.energy(rho - 1e-5 * change)) / 2e-5
    assert slope == pytest.approx(float((flow.variation(rho) * change).sum() * h**2), rel=1e-8)


def test_energy_falls_as_fast_as_the_flow_says():
    """dE/dt = -int rho |grad xi|^2, a smooth density away from walls: to second order in h."""
    gaps = []
    for n in (64, 128):
        h = 8 / n
        x = -4 + (np.arange(n) + 0.5) * h
        rho = np.exp(-0.5 * ((x - 0.4) / 0.7) ** 2) / 0.7 / math.sqrt(2 * math.pi)
        flow = Equation(h, 2.0, 0.4, 0.25 * x**2)
        rate = float((flow.variation(rho) * flow.rate(rho)[0]).sum() * h)
        u = 0.8 * rho * (x - 0.4) / 0.49 - 0.5 * x
        gaps.append(abs(rate + float((rho * u**2).sum() * h)))
    assert gaps[1] < gaps[0] / 3  # minmod flattens the peak, so a little less than 4


def test_convolution_is_the_double_sum():
    rho = lopsided(7, 0.4)[:, :5]
    skewed = convolution(lambda x: np.exp(-(x[..., 0] ** 2) - 0.3 * x[..., 1]), (7, 5), 0.4)(rho)
    for i, j in ((0, 0), (6, 1), (3, 4)):
        total = sum(
            math.exp(-((0.4 * (i - k)) ** 2) - 0.3 * 0.4 * (j - q)) * rho[k, q] * 0.16
            for k in range(7)
            for q in range(5)
        )
        assert skewed[i, j] == pytest.approx(total, rel=1e-12)


def test_quadratic_attraction_shrinks_the_variance_exactly():
    """W = |x|^2 / 2: each point goes to the mean, Var(t) = Var(0) e^-2t, mean unmoved, to second order in h."""
    errors = []
    for n in (80, 160):
        h = 6 / n
        x = -3 + (np.arange(n) + 0.5) * h
        start = np.where((x > -1) & (x < 2), np.cos((x - 0.5) * math.pi / 3) ** 2 * (1 + 0.2 * x), 0)
        start /= start.sum() * h
        flow = Equation(h, interact=convolution(lambda y: 0.5 * (y**2).sum(-1), (n,), h))
        (found,) = solve(flow, start, (0.5,))
        mean = [(rho * x).sum() * h for rho in (start, found)]
        variance = [(rho * x**2).sum() * h - m**2 for rho, m in zip((start, found), mean, strict=True)]
        errors.append([mean[1] - mean[0], variance[1] / variance[0] - math.exp(-1)])
    errors = np.abs(errors)
    assert (errors[-1] < 3e-3).all()
    assert (errors[-1] < errors[-2] / 3).all()


def test_no_mass_passes_the_walls():
    """Pushed to the right by a constant force, everything ends in the last cell."""
    start = np.ones(10)
    (found,) = solve(Equation(1.0, potential=-np.arange(10.0)), start, (40.0,))
    assert found[-1] == pytest.approx(10, rel=1e-3)


def test_axes_are_treated_alike():
    n, h = 12, 0.5
    start = lopsided(n, h)
    flow = Equation(h, 2.0, 0.3, interact=convolution(attraction, (n, n), h))
    (one,), (other,) = solve(flow, start, (0.5,)), solve(flow, start.T, (0.5,))
    np.testing.assert_allclose(one, other.T, atol=1e-13)
    (flipped,) = solve(flow, start[::-1], (0.5,))
    np.testing.assert_allclose(one, flipped[::-1], atol=1e-13)


def test_trouble_is_told():
    with pytest.raises(ArithmeticError, match="negative"):
        solve(Equation(1.0, potential=np.arange(4.0) * 9), np.array([1.0, 0.0, -1.0, 1.0]), (1.0,))
    with pytest.raises(ArithmeticError, match="not finite"):
        solve(Equation(1.0, weight=1.0), np.array([1.0, math.nan, 1.0]), (1.0,))
