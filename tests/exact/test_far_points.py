"""One point that has run away, and clusters far apart: distances of the others keep their digits, by sums of differences."""

import itertools
import math
import sys
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch

from gwfbench.metrics.kernel import gaussian_mixture, minus_distance, two_sample
from gwfbench.metrics.stein import ksd_statistic
from gwfbench.plugins import registry
from gwfbench.rng import Streams
from gwfbench.velocity import drift
from gwfbench.velocity.blob import repulsion, spacing
from gwfbench.velocity.distances import apart
from gwfbench.velocity.kernels import KERNELS, gradient_sum, gram, kernel_sum
from gwfbench.velocity.pairs import log_kernel, mean_shift, squares
from gwfbench.velocity.sinkhorn import sinkhorn

svgd, ksd_descent = (sys.modules[registry.find("method", name).load().__module__] for name in ("svgd", "ksd_descent"))
N = 60
SINGLE = [
    ("one", 1e5),
    ("one", 1e6),
    ("one", 1e8),
    ("one", 1e25),
    ("two", 1e2),
    ("two", 1e3),
    ("two", 1e4),
    ("two", 1e5),
]
DOUBLE = [("one", 1e8), ("one", 1e12), ("two", 1e8), ("two", 1e10)]
far = pytest.mark.parametrize(
    ("kind", "size", "dtype"),
    [(*each, torch.float32) for each in SINGLE] + [(*each, torch.float64) for each in DOUBLE],
)
SLOPES = {  # -dk / dr over r, r = |x - y| in units of h
    "gaussian": lambda r: np.exp(-(r**2) / 2),
    "imq": lambda r: (1 + r**2) ** -1.5,
    "laplace": lambda r: np.exp(-r) / r,
    "matern32": lambda r: 3 * np.exp(-math.sqrt(3) * r),
    "matern52": lambda r: 5 / 3 * (1 + math.sqrt(5) * r) * np.exp(-math.sqrt(5) * r),
    "riesz": lambda r: 1 / r,
}


def clouds(kind, size, dtype, d=2):
    """Two clouds of unit size: the first with one point far away, or both in two clusters."""
    streams = Streams((0,), dtype=torch.float64)
    x, y = streams.fork("x").normal(N, d), streams.fork("y").normal(N, d) + 0.5
    if kind == "one":
        x[:, 0] = size
    else:
        shift = torch.where(torch.arange(N) % 2 > 0, size, -size)[:, None]
        x, y = x + shift, y + shift
    return x.to(dtype), y.to(dtype)


def gaps(x, y):
    """y_j - x_i in double precision, (n, m, d)."""
    return y[0].double().numpy()[None] - x[0].double().numpy()[:, None]


def near(found, expected, dtype):
    """But for the point that is far."""
    scale = np.abs(expected[1:]).max()
    wide = 2e-5 if dtype == torch.float32 else 1e-6
    np.testing.assert_allclose(found[0, 1:].double().numpy(), expected[1:], rtol=0, atol=wide * scale)


@far
def test_distances_and_kernels(kind, size, dtype):
    x, y = clouds(kind, size, dtype)
    r2 = (gaps(x, y) ** 2).sum(-1)
    found = torch.cat([values for _, values in squares(x, y)], 1)
    end = float(torch.finfo(dtype).max)
    np.testing.assert_allclose(
        found[0].double().numpy(), np.minimum(r2, end), rtol=1e-5 if dtype == torch.float32 else 1e-12
    )
    logs = torch.cat([values for _, values in log_kernel(x, y, 2.0, "laplace")], 1)
    near(logs.exp(), np.exp(-np.sqrt(r2) / 2), dtype)
    near(gram(KERNELS["gaussian"](0.8), x, y), np.exp(-r2 / (2 * 0.64)), dtype)
    weights = torch.linspace(-1, 2, N, dtype=dtype)[None]
    expected = (np.exp(-np.sqrt(r2)) * weights[0].double().numpy()).sum(1, keepdims=True)
    near(kernel_sum(KERNELS["laplace"](1.0), x, y, weights)[..., None], expected, dtype)


@far
@pytest.mark.parametrize("name", KERNELS)
def test_gradients_of_kernels(kind, size, dtype, name):
    x, y = clouds(kind, size, dtype)
    gap, h = gaps(x, y), 1.3
    r = np.sqrt((gap**2).sum(-1)) / h
    weights = torch.full((1, N), 1 / N, dtype=dtype)
    with np.errstate(divide="ignore"):
        expected = np.where(r[..., None] > 0, np.nan_to_num(SLOPES[name](r)[..., None]) * gap, 0).sum(1) / h**2 / N
    near(gradient_sum(KERNELS[name](h), x, y, weights), expected, dtype)


@far
def test_mean_shifts(kind, size, dtype):
    x, y = clouds(kind, size, dtype)
    gap = gaps(x, y)
    logs = -(gap**2).sum(-1) / (2 * 0.49)
    k = np.exp(logs - logs.max(1, keepdims=True))
    shift, log_mass = mean_shift(x, y, 0.7, "gaussian")
    near(shift, (k[..., None] * gap).sum(1) / k.sum(1, keepdims=True), dtype)
    near(log_mass, np.log(k.mean(1, keepdims=True)) + logs.max(1, keepdims=True), dtype)


@far
def test_stein_directions(kind, size, dtype):
    x, _ = clouds(kind, size, dtype)
    score = Streams((1,), dtype=dtype).normal(N, 2)
    gap, h = gaps(x, x), 1.4
    k = np.exp(-(gap**2).sum(-1) / (2 * h * h))
    expected = (k @ score[0].double().numpy() - (k[..., None] * gap).sum(1) / h**2) / N
    near(svgd.stein_direction(x, score, h), expected, dtype)
    distances = np.sort(np.sqrt((gap**2).sum(-1))[~np.eye(N, dtype=bool)])
    median = distances[(len(distances) - 1) // 2] / math.sqrt(2 * math.log(N + 1))
    assert float(svgd.median_bandwidth(x)) == pytest.approx(median, rel=0.03)


@far
def test_a_blob_s_repulsion_and_its_bandwidth(kind, size, dtype):
    """v_i = 1/n sum_j (1 / rho_i + 1 / rho_j) k_ij (x_i - x_j) / h^2."""
    x, _ = clouds(kind, size, dtype)
    gap, h = gaps(x, x), 0.6
    k = np.exp(-(gap**2).sum(-1) / (2 * h * h))
    rho = k.mean(1)
    expected = -((1 / rho[:, None] + 1 / rho) * k)[..., None] * gap
    near(repulsion(x, h)[0], expected.sum(1) / h**2 / N, dtype)
    nearest = np.sqrt(np.where(np.eye(N, dtype=bool), np.inf, (gap**2).sum(-1)).min(1))
    assert float(spacing(x)) == pytest.approx(np.sort(nearest)[(N - 1) // 2], rel=0.05)


def test_a_blob_whose_particles_meet_keeps_a_bandwidth():
    x = Streams((0, 1), dtype=torch.float64).normal(100, 2)
    x[0, :50], x[1] = 0.3, 0.3
    found = spacing(x)
    distances = torch.cdist(x[0], x[0])
    distances[distances == 0] = math.inf
    assert float(found[0]) == pytest.approx(float(distances.amin(1).median()), rel=1e-9)
    assert float(found[1]) == 1
    assert repulsion(x, found)[0].isfinite().all()
    assert repulsion(x, found)[0][1].abs().max() < 1e-14


@pytest.mark.parametrize(("kind", "size"), [case for case in SINGLE if case[1] <= 1e8])
def test_drifting_fields_in_single_precision(kind, size):
    """Against double precision, where these sizes lose nothing."""
    x, y = clouds(kind, size, torch.float32)
    for field in (
        lambda x, y: drift.equation4(x, y, 0.8, "gaussian"),
        lambda x, y: drift.mmd(x, y, 0.8, "laplace"),
        lambda x, y: drift.algorithm2(x, y, 0.8, "laplace"),
        lambda x, y: drift.sinkhorn_proxy(x, y, 0.8),
    ):
        near(field(x, y), field(x.double(), y.double())[0].numpy(), torch.float32)


@pytest.mark.parametrize(("kind", "size"), [("one", 1e3), ("two", 1e2), ("two", 1e3)])
def test_sinkhorn_in_single_precision(kind, size):
    x, y = clouds(kind, size, torch.float32)
    found = sinkhorn(x, y, blur=1.0, tolerance=1e-3)
    expected = sinkhorn(x.double(), y.double(), blur=1.0, tolerance=1e-3)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 1e-6 * max(size, 10)  # where the points themselves end


def test_a_blur_below_what_numbers_can_hold_is_an_error():
    x, y = clouds("two", 1.0, torch.float32)
    with pytest.raises(ArithmeticError, match="a blur of 1e-08 is too small"):
        sinkhorn(x, y, blur=1e-8)


def test_whatever_is_the_default_precision():
    x, y = clouds("two", 1.0, torch.float32)
    expected = sinkhorn(x, y, blur=0.5)
    torch.set_default_dtype(torch.float64)
    try:
        found = sinkhorn(x, y, blur=0.5)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("size", [1e3, 1e4])
def test_ksd_descent_s_loss_and_gradient(size):
    single, _ = clouds("two", size, torch.float32)

    def value(x):
        x = x.clone().requires_grad_()
        found = ksd_descent.squared_ksd(lambda z: -(z - z.detach().round()).square().sum(-1), x, 1.0)
        return found.detach().double(), torch.autograd.grad(found.sum(), x)[0].double()

    for ours, exact in zip(value(single), value(single.double()), strict=True):
        torch.testing.assert_close(ours, exact, rtol=0, atol=2e-3 * float(exact.abs().max()))


def stein_sum(kernel, x, score, h):
    """The mean over i != j of u, term by term, in double precision."""
    x, s = x.double().numpy(), score.double().numpy()
    values = []
    for i, j in itertools.permutations(range(len(x)), 2):
        g, d = x[i] - x[j], x.shape[1]
        r = g @ g / h**2
        if kernel == "rbf":
            k = math.exp(-r / 2) if r < 1400 else 0.0
            values.append(k * (s[i] @ s[j] + (s[i] - s[j]) @ g / h**2 + (d - r) / h**2))
        else:
            q = 1 / (1 + r)
            values.append(math.sqrt(q) * (s[i] @ s[j] + q * (s[i] - s[j]) @ g / h**2 + (d * q - 3 * r * q * q) / h**2))
    return math.fsum(values) / len(values)


@far
@pytest.mark.parametrize("kernel", ["rbf", "imq"])
def test_stein_discrepancies(kind, size, dtype, kernel):
    """Score of a mixture whose modes are where the clusters are; for one point away, of a normal law."""
    if size > 1e12:
        pytest.skip("sums of squares of its score are beyond single precision")
    x, _ = clouds(kind, size, dtype)
    centre = torch.where(x > size / 2, size, -size if kind == "two" else 0.0)
    score = (centre - x if kind == "two" else -x).to(dtype)
    found, se = ksd_statistic(x[0], score[0], 1.7, kernel)
    assert float(found) == pytest.approx(stein_sum(kernel, x[0], score[0], 1.7), rel=1e-5, abs=1e-6)
    assert se > 0


@pytest.mark.parametrize(("kind", "size"), [*DOUBLE, ("one", 1e5), ("one", 1e25), ("two", 1e4)])
def test_two_sample_distances(kind, size):
    x, y = (cloud[0] for cloud in clouds(kind, size, torch.float64))

    def distance(a, b):  # with 60 digits: of one far point the energy distance is a small difference of large numbers
        with localcontext(prec=60):
            rows = [
                [[Decimal(p) - Decimal(q) for p, q in zip(u, v, strict=True)] for v in b.tolist()] for u in a.tolist()
            ]
            return np.array([[sum(g * g for g in gap).sqrt() for gap in row] for row in rows])

    def mixture(r):
        r = r.astype(float)
        return sum(np.exp(-(r**2) / (2 * (c * 1.5) ** 2)) for c in (0.25, 0.5, 1, 2, 4)) / 5

    with localcontext(prec=60):
        distances = distance(x, x), distance(y, y), distance(x, y)
        for kernel, plain, length in ((gaussian_mixture(1.5), mixture, 0.375), (minus_distance, lambda r: -r, None)):
            k = [plain(r) for r in distances]
            within = [(each.sum() - np.trace(each)) / (N * (N - 1)) for each in k[:2]]
            value, _ = two_sample(x, y, kernel, length=length)
            assert float(value) == pytest.approx(float(sum(within) - 2 * k[2].sum() / N**2), rel=1e-6, abs=1e-9)


def test_a_seed_does_not_mind_a_far_one_in_its_batch():
    """Bit by bit; and an ordinary cloud never takes the careful way."""
    x, y = clouds("one", 1e6, torch.float32)
    other, target = clouds("two", 1.0, torch.float32)
    both, goals = torch.cat([other, x]), torch.cat([target, y])
    h, weights = torch.full((2, 1, 1), 0.7), torch.full((1, N), 1 / N)
    for f in (
        lambda x, y, h: mean_shift(x, y, h, "gaussian")[0],
        lambda x, y, h: gradient_sum(KERNELS["gaussian"](h), x, y, weights),
        lambda x, y, h: drift.algorithm2(x, y, h, "laplace"),
        lambda x, y, h: svgd.stein_direction(x, -x, h),
        lambda x, y, h: repulsion(x, h)[0],
        lambda x, y, h: spacing(x),
    ):
        assert torch.equal(f(both, goals, h)[0], f(other, target, h[:1])[0])
    square = 10 * torch.ones(2, 5, 1)
    assert apart(square, square) is None
    square[1, 3] = math.inf
    assert apart(square, square).tolist() == [False, True]
