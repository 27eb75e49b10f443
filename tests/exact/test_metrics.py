"""Metrics against closed forms, other programs, invariances; standard errors against repetition."""

import math

import numpy as np
import ot
import pytest
import scipy.linalg
import torch
from scipy.optimize import linear_sum_assignment

from gwfbench import metrics
from gwfbench.metrics.density import gaussian_symkl
from gwfbench.metrics.moments import block_sums, jackknife
from gwfbench.metrics.transport import gaussian_w2, sliced_w2_squared
from gwfbench.protocol import Judged, Truth
from gwfbench.rng import Streams

DOUBLE = {"dtype": torch.float64}


def gaussian_truth(mean, root):
    """N(mean, root root') for every seed, (d,) and (d, d)."""

    def draw(index, n, rng):
        return mean + rng.normal(n, len(mean)) @ root.T

    def moments(index):
        return mean[None], (root @ root.T)[None]

    def log_prob(index, x):
        return torch.distributions.MultivariateNormal(mean, root @ root.T).log_prob(x)

    return Truth(draw, exact=True, log_prob=log_prob, moments=moments)


def evaluate(name, points, truth, log_prob=None, seed=0):
    metric = metrics.known()[name]
    cut = None if log_prob is None else log_prob[:, : metric.points]
    return metric.evaluate(Judged(points[:, : metric.points], cut, truth, 0, Streams((seed,), **DOUBLE)))


def random_covariances(streams, d):
    x = streams.fork("covariances").normal(d, d)
    return x @ x.mT + 0.1 * torch.eye(d)


def test_symkl_in_one_dimension():
    """1/2 [s^2/s0^2 + s0^2/s^2 - 2 + (m - m0)^2 (1/s^2 + 1/s0^2)]."""
    m, s, m0, s0 = 0.3, 1.7, -0.4, 0.6
    value = gaussian_symkl(*(torch.tensor(v, dtype=torch.float64) for v in ([m], [[s * s]], [m0], [[s0 * s0]])))
    expected = 0.5 * (s**2 / s0**2 + s0**2 / s**2 - 2 + (m - m0) ** 2 * (1 / s**2 + 1 / s0**2))
    assert float(value) == pytest.approx(expected, rel=1e-12)


def test_symkl_is_the_sum_of_both_kls(streams):
    c, c0 = random_covariances(streams, 4), random_covariances(streams.fork("other"), 4)
    m, m0 = streams.normal(4), streams.normal(4)
    p, q = torch.distributions.MultivariateNormal(m, c), torch.distributions.MultivariateNormal(m0, c0)
    both = torch.distributions.kl_divergence(p, q) + torch.distributions.kl_divergence(q, p)
    torch.testing.assert_close(gaussian_symkl(m, c, m0, c0), both)
    torch.testing.assert_close(gaussian_symkl(m0, c0, m, c), both)
    assert gaussian_symkl(m, c * 0, m0, c0).isinf().all()


def test_gaussian_w2_against_the_trace_formula(streams):
    c, c0 = random_covariances(streams, 4), random_covariances(streams.fork("other"), 4)
    m, m0 = streams.normal(4), streams.normal(4)
    for i, value in enumerate(gaussian_w2(m, c, m0, c0)):
        root = scipy.linalg.sqrtm(c0[i].numpy())
        cross = scipy.linalg.sqrtm(root @ c[i].numpy() @ root).real
        square = float((m[i] - m0[i]).square().sum()) + np.trace(c[i].numpy() + c0[i].numpy() - 2 * cross)
        assert float(value) == pytest.approx(math.sqrt(square), rel=1e-9)
    diagonal = torch.tensor([1.0, 4.0]).double().diag(), torch.tensor([9.0, 0.25]).double().diag()
    zero = torch.zeros(2).double()
    assert float(gaussian_w2(zero, diagonal[0], zero, diagonal[1])) == pytest.approx(math.hypot(2, 1.5), rel=1e-12)
    assert float(gaussian_w2(zero, diagonal[0], zero, diagonal[0])) < 1e-12


def fixed(points):
    """A truth that always draws these points."""
    return Truth(lambda index, n, rng: points[:, :n], exact=True)


def test_w2_is_the_best_assignment(streams):
    x, y = streams.normal(1, 60, 3)[:1, 0], 0.5 + 2 * streams.normal(1, 60, 3)[:1, 0]
    cost = torch.cdist(x[0], y[0]).square().numpy()
    rows, columns = linear_sum_assignment(cost)
    expected = math.sqrt(cost[rows, columns].mean())
    assert float(evaluate("w2", x, fixed(y)).value) == pytest.approx(expected, rel=1e-9)
    shuffled = x[:, torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    assert float(evaluate("w2", shuffled, fixed(y)).value) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["w2", "sliced_w2"])
def test_distances_vanish_on_the_same_points_and_are_sorting_in_one_dimension(name, streams):
    x, y = streams.normal(1, 200, 1)[:1, 0], 0.3 - 2 * streams.normal(1, 200, 1)[:1, 0]
    assert float(evaluate(name, x, fixed(x)).value) < 1e-7
    expected = float((x.sort(1)[0] - y.sort(1)[0]).square().mean().sqrt())
    assert float(evaluate(name, x, fixed(y)).value) == pytest.approx(expected, rel=1e-9)


def test_a_translation_costs_its_length(streams):
    x = streams.normal(1, 300, 4)[:1, 0]
    shift = torch.tensor([1.0, -2.0, 0.5, 3.0]).double()
    assert float(evaluate("w2", x, fixed(x + shift)).value) == pytest.approx(float(shift.norm()), rel=1e-9)
    axes = torch.eye(4).double()  # over orthonormal directions the mean of (theta . c)^2 is |c|^2 / d
    square, _ = sliced_w2_squared(x[0], x[0] + shift, axes)
    assert float(square) == pytest.approx(float(shift.square().sum()) / 4, rel=1e-9)


def test_sliced_w2_is_pot_s(streams):
    x, y = streams.normal(1, 128, 3)[0, 0], 0.4 + 1.5 * streams.normal(1, 128, 3)[0, 0]
    directions = torch.nn.functional.normalize(streams.normal(3, 40)[0], dim=0)
    square, _ = sliced_w2_squared(x, y, directions)
    theirs = ot.sliced_wasserstein_distance(x, y, projections=directions)
    assert float(square.sqrt()) == pytest.approx(float(theirs), rel=1e-9)


def test_sliced_is_at_most_exact(streams):
    x, y = streams.normal(1, 200, 3)[:1, 0], 0.5 + streams.normal(1, 200, 3)[:1, 0]
    assert evaluate("sliced_w2", x, fixed(y)).value < evaluate("w2", x, fixed(y)).value


def test_kl_of_gaussians(streams):
    mean, root = torch.tensor([0.5, -1.0]).double(), torch.tensor([[1.0, 0.0], [0.7, 0.4]]).double()
    truth = gaussian_truth(mean, root)
    law = torch.distributions.MultivariateNormal(mean + 0.2, 1.3 * root @ root.T)
    x = mean + 0.2 + math.sqrt(1.3) * streams.normal(1, 60_000, 2)[:1, 0] @ root.T
    found = evaluate("kl", x, truth, log_prob=law.log_prob(x))
    goal = torch.distributions.MultivariateNormal(mean, root @ root.T)
    expected = float(torch.distributions.kl_divergence(law, goal))
    assert abs(float(found.value) - expected) < 5 * float(found.se)
    assert float(found.se) < 0.03 * expected
    assert float(evaluate("kl", x, truth, log_prob=truth.log_prob(0, x)).value) == 0.0


def test_jackknife_of_a_linear_statistic_is_the_classical_error(streams):
    x = 3 + 2 * streams.normal(50_000, 2)
    value, se = jackknife(block_sums(x), lambda mean, _: mean[..., 0])
    torch.testing.assert_close(value, x[..., 0].mean(1))
    torch.testing.assert_close(se, torch.full((3,), 2 / 50_000**0.5).double(), rtol=0.5, atol=0)
    _, covariance = x, jackknife(block_sums(x), lambda _, c: c[..., 0, 1])[0]
    torch.testing.assert_close(covariance, torch.stack([torch.cov(s.T, correction=0)[0, 1] for s in x]))


def test_jackknife_keeps_its_digits_far_from_the_origin(streams):
    x = streams.normal(5000, 2)
    near, _ = jackknife(block_sums(x), lambda _, c: c[..., 0, 0])
    far, _ = jackknife(block_sums(x + 1e6), lambda _, c: c[..., 0, 0])
    torch.testing.assert_close(near, far, rtol=1e-7, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n"), [("symkl", 2000), ("bures_w2", 2000), ("sliced_w2", 500), ("w2", 200)])
def test_standard_errors_are_the_spread_over_repetitions(name, n):
    """Away from zero, where the delta method holds: mean reported error against the spread of 100 repetitions."""
    mean, root = torch.tensor([0.5, -1.0]).double(), torch.tensor([[1.0, 0.0], [0.7, 0.4]]).double()
    truth = gaussian_truth(mean, root)
    values, errors = [], []
    for seed in range(100):
        x = Streams((seed,), **DOUBLE).fork("x").normal(n, 2) * torch.tensor([1.5, 0.7]).double() + 1.0
        found = evaluate(name, x, truth, seed=seed)
        values.append(float(found.value))
        errors.append(float(found.se))
    spread = np.std(values, ddof=1)  # itself known to 7 %; 5 standard errors are 35 %
    assert 0.65 * spread < np.mean(errors) < 1.35 * spread


def test_too_few_points_for_an_error_have_a_value(streams):
    """The plug-in value: infinite up to d points, which lie in a plane, and finite from d + 1 on."""
    truth = gaussian_truth(torch.zeros(4).double(), torch.eye(4).double())
    for n in (2, 4, 5, 9):
        x = streams.normal(n, 4)[:1]
        found = evaluate("symkl", x, truth)
        covariance = torch.cov(x[0].T, correction=0)
        expected = gaussian_symkl(x[0].mean(0), covariance, torch.zeros(4).double(), torch.eye(4).double())
        assert float(found.value) == (pytest.approx(float(expected)) if n > 4 else math.inf)
        assert found.se.isnan().all()


def test_every_metric_says_where_it_comes_from():
    for name, metric in metrics.known().items():
        assert metric.name == name
        assert "tandard error" in metric.source or "as symkl" in metric.source


# ------------------------------------------------------------------------------------------------ SymKL


def rotated(values, seed=0):
    """A covariance with these eigenvalues, in no special basis."""
    turn = torch.linalg.qr(Streams((seed,), **DOUBLE).normal(len(values), len(values))[0]).Q
    return turn @ torch.as_tensor(values, **DOUBLE).diag() @ turn.T


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e8, 1e12])
@pytest.mark.parametrize("d", [2, 8, 32])
def test_symkl_is_right_up_to_a_condition_of_1e12(condition, d):
    values = torch.logspace(0, -math.log10(condition), d, **DOUBLE)
    c, zero, one = rotated(values), torch.zeros(d, **DOUBLE), torch.eye(d, **DOUBLE)
    expected = 0.5 * float((values + 1 / values - 2).sum())
    for pair in ((zero, c, zero, one), (zero, one, zero, c)):
        assert float(gaussian_symkl(*pair)) == pytest.approx(expected, rel=1e-15 * condition + 1e-10, abs=1e-12)


def test_symkl_does_not_cancel_near_0_and_is_never_negative(streams):
    c = random_covariances(streams, 4)[0]
    m = torch.zeros(4, **DOUBLE)
    assert float(gaussian_symkl(m, c, m, c)) < 1e-25
    assert float(gaussian_symkl(m, c * (1 + 1e-9), m, c)) == pytest.approx(0.5 * 4 * 1e-18, rel=1e-4)
    noise = 1e-10 * streams.fork("noise").normal(200, 4, 4).flatten(0, 1)
    assert (gaussian_symkl(m, c + noise + noise.mT, m, c) >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [2, 4, 16])
def test_laws_in_a_plane_are_infinitely_far(d, dtype):
    """2 to 4 distinct points, planes, a generator's image of fewer dimensions, n <= d points; in any units, off 0 or not."""
    truth = gaussian_truth(torch.zeros(d, **DOUBLE), torch.eye(d, **DOUBLE))
    streams = Streams(tuple(range(5)), **DOUBLE)
    few = [streams.fork(f"few/{k}").normal(k, d) for k in range(2, min(d, 4) + 1)]
    laws = [points.repeat_interleave(200 + torch.arange(points.shape[1]), 1) for points in few]
    plane = streams.fork("plane").normal(5000, d - 1) @ streams.fork("map").normal(d - 1, d)
    laws += [plane, plane + 30, plane * torch.logspace(-4, 4, d, **DOUBLE), streams.fork("n = d").normal(d, d)]
    for points in laws:
        for name in ("symkl", "symkl_debiased"):
            found = evaluate(name, points.to(dtype), truth)
            assert (found.value == math.inf).all()
            assert found.se.isnan().all()


def test_half_a_million_draws_of_few_points_are_infinitely_far():
    truth = gaussian_truth(torch.zeros(4, **DOUBLE), torch.eye(4, **DOUBLE))
    for k in (2, 3, 4):
        streams = Streams((k, k + 10), **DOUBLE)
        which = (streams.fork("which").uniform(500_000) * k).long()
        points = streams.fork("points").normal(k, 4).gather(1, which[..., None].expand(-1, -1, 4))
        assert (evaluate("symkl", points, truth).value == math.inf).all()


@pytest.mark.parametrize(("d", "n", "runs"), [(2, 400, 400), (8, 800, 200), (32, 4000, 60)])
def test_symkl_s_bias_and_what_is_left_of_it(d, n, runs):
    """At equal normal laws E SymKL = d (d + 3) / (2 (n - d - 2)), by E tr C = d (n - 1) / n and Wishart's inverse mean."""
    truth = gaussian_truth(torch.zeros(d, **DOUBLE), torch.eye(d, **DOUBLE))
    x = Streams(tuple(range(runs)), **DOUBLE).normal(n, d)
    plain, less = evaluate("symkl", x, truth), evaluate("symkl_debiased", x, truth)
    error = float(plain.value.std()) / math.sqrt(runs)
    assert abs(float(plain.value.mean()) - d * (d + 3) / (2 * (n - d - 2))) < 5 * error
    assert abs(float(less.value.mean())) < 3 * error
    torch.testing.assert_close(plain.value - less.value, torch.full((runs,), d * (d + 3) / (2 * n), **DOUBLE))
    assert torch.equal(plain.se, less.se)


@pytest.mark.parametrize("n", [7, 99, 130, 5003])
def test_block_sums_are_those_of_their_blocks(streams, n):
    x = 2 + streams.normal(n, 3).float()
    sums = block_sums(x)
    blocks = [part.double() - sums.center[:, None] for part in torch.tensor_split(x, min(50, n // 2), dim=1)]
    torch.testing.assert_close(sums.center, x.double().mean(1))
    torch.testing.assert_close(sums.first, torch.stack([part.sum(1) for part in blocks], 1), atol=1e-9, rtol=0)
    torch.testing.assert_close(sums.second, torch.stack([part.mT @ part for part in blocks], 1))
    assert sums.size.tolist() == [part.shape[1] for part in blocks]
    assert sums.n == n


def test_w2_far_from_the_origin(streams):
    """A shift of everything by 1e8 changes nothing: sd 1 about 1e8 gave 0."""
    x, y = streams.normal(100, 3)[:1], streams.fork("y").normal(100, 3)[:1] + 0.5
    far = evaluate("w2", x + 1e8, fixed(y + 1e8))
    assert float(far.value) == pytest.approx(float(evaluate("w2", x, fixed(y)).value), rel=1e-6)
    assert float(far.se) > 0
