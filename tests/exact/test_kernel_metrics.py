"""MMD, energy distance and the U-statistic beneath them, against double loops, closed forms and repetition."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from gwfbench import metrics
from gwfbench.metrics import kernel as kernel_metrics
from gwfbench.metrics.kernel import gaussian_mixture, minus_distance, two_sample, u_statistic, variance
from gwfbench.protocol import Judged, Truth
from gwfbench.rng import Streams

DOUBLE = {"dtype": torch.float64}
KERNELS = pytest.mark.parametrize("kernel", [gaussian_mixture(1.3), minus_distance], ids=["mmd", "energy"])


def gaussian_truth(mean, root, limit=None):
    def draw(index, n, rng):
        assert limit is None or n <= limit
        return mean + rng.normal(n, len(mean)) @ root.T

    return Truth(draw, exact=True, limit=limit)


def evaluate(name, points, truth, seeds=(0,)):
    return metrics.known()[name].evaluate(Judged(points, None, truth, 0, Streams(seeds, **DOUBLE)))


def gaussian_clouds(seed, n, d, shift=0.0):
    streams = Streams((seed,), **DOUBLE)
    return shift + 1.2 * streams.fork("x").normal(n, d)[0], streams.fork("y").normal(n, d)[0]


def mean_kernel(x, y, median):
    r = sum((a - b) ** 2 for a, b in zip(x.tolist(), y.tolist(), strict=True))
    return sum(math.exp(-r / (2 * (c * median) ** 2)) for c in (0.25, 0.5, 1, 2, 4)) / 5


def test_mmd_and_energy_distance_are_their_double_loops():
    x, y = gaussian_clouds(3, 23, 3, 0.4)
    kernels = {
        gaussian_mixture(1.3): lambda a, b: mean_kernel(a, b, 1.3),
        minus_distance: lambda a, b: -math.dist(a, b),
    }
    for kernel, plain in kernels.items():
        within = [plain(a, b) for cloud in (x, y) for a, b in itertools.permutations(cloud, 2)]
        cross = [plain(a, b) for a in x for b in y]
        expected = sum(within) / (23 * 22) - 2 * sum(cross) / 23**2
        assert float(two_sample(x, y, kernel)[0]) == pytest.approx(expected, rel=1e-10)


@KERNELS
def test_order_and_blocks_do_not_matter_and_the_two_clouds_are_equal(kernel):
    x, y = gaussian_clouds(4, 101, 2, 0.3)
    value, se = two_sample(x, y, kernel)
    shuffled = x[torch.randperm(101, generator=torch.Generator().manual_seed(0))]
    for other in (
        two_sample(x, y, kernel, size=17),
        two_sample(x, y, kernel, size=100),
        two_sample(y, x, kernel),
        two_sample(x + 50.0, y + 50.0, kernel),
    ):
        torch.testing.assert_close(other, (value, se), rtol=1e-8, atol=0)
    torch.testing.assert_close(two_sample(shuffled, y, kernel)[0], value, rtol=1e-10, atol=0)  # the pairing


def test_scales_of_the_energy_distance():
    x, y = gaussian_clouds(4, 60, 3, 0.3)
    for once, thrice in zip(two_sample(x, y, minus_distance), two_sample(3 * x, 3 * y, minus_distance), strict=True):
        assert float(thrice) == pytest.approx(3 * float(once), rel=1e-9)


@KERNELS
def test_zero_mean_and_honest_errors_at_equal_laws(kernel):
    """The clipped estimate is 10 to 30 % too large at the null, never too small."""
    found = []
    for seed in range(200):
        streams = Streams((seed,), **DOUBLE)
        found.append(two_sample(streams.fork("x").normal(60, 2)[0], streams.fork("y").normal(60, 2)[0], kernel))
    values, errors = np.array([[float(value), float(se)] for value, se in found]).T
    spread = values.std(ddof=1)  # known to 5 %, so 5 standard errors are 25 %
    assert abs(values.mean()) < 5 * spread / math.sqrt(200)
    assert values.min() < 0 < values.max()
    assert 0.75 * spread < errors.mean() < 1.55 * spread


@KERNELS
@pytest.mark.parametrize("shift", [0.2, 1.0])
def test_errors_are_the_spread_away_from_equal_laws(kernel, shift):
    found = [two_sample(*gaussian_clouds(seed, 60, 2, shift), kernel) for seed in range(200)]
    values, errors = np.array([[float(value), float(se)] for value, se in found]).T
    assert 0.75 * values.std(ddof=1) < errors.mean() < 1.35 * values.std(ddof=1)


def gaussian_mmd(mean, covariance, mean0, covariance0, median):
    """E k under Gaussians: det(I + C / h^2)^{-1/2} exp(-m' (C + h^2 I)^{-1} m / 2), m and C those of x - y."""

    def expected(m, c):
        total = 0.0
        for h in (median / 4, median / 2, median, 2 * median, 4 * median):
            wide = c + h**2 * np.eye(len(m))
            total += math.exp(-0.5 * m @ np.linalg.solve(wide, m)) / math.sqrt(np.linalg.det(wide / h**2)) / 5
        return total

    zero = 0 * mean
    same = expected(zero, 2 * covariance) + expected(zero, 2 * covariance0)
    return same - 2 * expected(mean - mean0, covariance + covariance0)


def test_mmd_of_gaussians():
    mean, root = torch.tensor([0.5, -1.0]).double(), torch.tensor([[1.0, 0.0], [0.7, 0.4]]).double()
    root0 = torch.tensor([[0.8, 0.3], [0.0, 1.1]]).double()
    streams = Streams((0,), **DOUBLE)
    x = mean + streams.fork("x").normal(1500, 2)[0] @ root.T
    y = streams.fork("y").normal(1500, 2)[0] @ root0.T
    value, se = two_sample(x, y, gaussian_mixture(1.5))
    covariances = [(r @ r.T).numpy() for r in (root, root0)]
    expected = gaussian_mmd(mean.numpy(), covariances[0], np.zeros(2), covariances[1], 1.5)
    assert abs(float(value) - expected) < 5 * float(se)
    assert float(se) < 0.15 * expected


def test_energy_distance_in_one_dimension_is_twice_the_squared_distance_of_distribution_functions():
    grid = np.linspace(-12, 12, 200_001)
    gap = norm.cdf(grid, 0.7, 1.5) - norm.cdf(grid)
    expected = 2 * float((gap**2).sum()) * (grid[1] - grid[0])
    streams = Streams((0,), **DOUBLE)
    x, y = 0.7 + 1.5 * streams.fork("x").normal(2000, 1)[0], streams.fork("y").normal(2000, 1)[0]
    value, se = two_sample(x, y, minus_distance)
    assert abs(float(value) - expected) < 5 * float(se)
    assert float(se) < 0.15 * expected


def test_the_variance_is_its_sums_over_different_points():
    x = Streams((0,), **DOUBLE).normal(9, 1)[0, :, 0]
    u = (x[:, None] + 0.3).mul(x + 0.3) + torch.outer(x**2, x**2)
    u.fill_diagonal_(0.0)
    value, se = u_statistic(lambda rows, columns: u[rows, columns].contiguous(), 9, x.device, size=4)
    mean = np.mean([float(u[i, j]) for i, j in itertools.permutations(range(9), 2)])
    shared = np.mean([float(u[i, j] * u[i, k]) for i, j, k in itertools.permutations(range(9), 3)])
    apart = np.mean([float(u[i, j] * u[k, m]) for i, j, k, m in itertools.permutations(range(9), 4)])
    square = np.mean([float(u[i, j] ** 2) for i, j in itertools.permutations(range(9), 2)])
    expected = (4 * 7 * (shared - apart) + 2 * (square - apart)) / (9 * 8)
    assert float(value) == pytest.approx(mean, rel=1e-12)
    assert float(se) == pytest.approx(math.sqrt(expected), rel=1e-10)


def test_the_variance_at_full_size():
    """u = a_i a_j with a = 1 +- 1/2: zeta_1 = 1/4, zeta_2 = (5/4)^2 - 1; n^4 is more than an int64 holds."""
    n = 100_000
    a = torch.ones(n).double() + 0.5 * (-1.0) ** torch.arange(n)
    rows, squares = a * (a.sum() - a), a.square().sum() ** 2 - (a**4).sum()
    expected = (4 * (n - 2) * 0.25 + 2 * (1.25**2 - 1)) / (n * (n - 1))
    assert float(variance(rows, squares, n)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["mmd", "energy_distance"])
def test_metrics_see_fresh_draws_and_honour_the_limit(name):
    mean, root = torch.tensor([0.5, -1.0]).double(), torch.tensor([[1.0, 0.0], [0.7, 0.4]]).double()
    noise = Streams((4, 9), **DOUBLE).fork("law").normal(400, 2)
    found = evaluate(name, mean + noise @ root.T, gaussian_truth(mean, root, limit=300), (4, 9))
    assert (found.value.shape, found.se.shape, found.n) == ((2,), (2,), 300)
    assert (found.value.abs() < 5 * found.se).all()
    moved = evaluate(name, mean + 1.0 + noise @ root.T, gaussian_truth(mean, root), (4, 9))
    assert moved.n == 400
    assert (moved.value > 5 * moved.se).all()
    alone = evaluate(name, mean + noise[1:] @ root.T, gaussian_truth(mean, root, limit=300), (9,))
    torch.testing.assert_close(alone.value[0], found.value[1])


def test_points_of_any_shape():
    truth = Truth(lambda index, n, rng: rng.normal(n, 1, 2, 3), exact=True)
    x = Streams((4,), **DOUBLE).fork("law").normal(50, 1, 2, 3)
    assert evaluate("mmd", x, truth).value.shape == (1,)


def test_what_can_t_be_had_is_refused():
    one = torch.ones(1, 50, 2).double()
    with pytest.raises(ArithmeticError, match="no bandwidth"):
        evaluate("mmd", one, Truth(lambda index, n, rng: torch.ones(1, n, 2).double(), exact=True))
    with pytest.raises(ValueError, match="at least 2 points, got 1"):
        two_sample(one[0, :1], one[0, :1], minus_distance)


@KERNELS
def test_three_points_have_a_value_and_no_known_error(kernel):
    x, y = gaussian_clouds(3, 3, 2, 0.4)
    value, se = two_sample(x, y, kernel)
    assert value.isfinite()
    assert se.isnan()


@pytest.mark.parametrize("name", ["mmd", "energy"])
@pytest.mark.parametrize("d", [1, 2, 64])
@pytest.mark.parametrize(
    ("law", "tolerance"), [("equal", 1e-4), ("shifted", 1e-4), ("wide", 1e-4), ("far from 0", 1e-4), ("itself", 5e-3)]
)
def test_short_floats_change_nothing_that_counts(name, d, law, tolerance, monkeypatch):
    """In units of the standard error. Where x is y, distances that are 0 come out as those of rounding, on one side."""
    streams, median = Streams((0,), **DOUBLE), 1.3 * math.sqrt(d)
    x, y = streams.fork("x").normal(1500, d)[0], streams.fork("y").normal(1500, d)[0]
    made = {"equal": (x, y), "shifted": (x + 0.3, y), "wide": (2 * x, y), "far from 0": (x + 1e4, y + 1e4),
            "itself": (y.flip(0), y)}  # fmt: skip
    kernel, length = {"mmd": (gaussian_mixture(median), median / 4), "energy": (minus_distance, None)}[name]
    precise, kinds = kernel_metrics._precise, []
    monkeypatch.setattr(kernel_metrics, "_precise", lambda *given: kinds.append(precise(*given)) or kinds[-1])
    value, se = two_sample(*made[law], kernel, length=length)
    monkeypatch.setattr(kernel_metrics, "_precise", lambda *given: torch.float64)
    exact, error = two_sample(*made[law], kernel, length=length)
    assert kinds == [torch.float32]
    assert abs(float(value - exact)) < tolerance * float(error)
    assert float(se) == pytest.approx(float(error), rel=1e-4)
