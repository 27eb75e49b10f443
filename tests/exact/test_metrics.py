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
from gwfbench.metrics.moments import jackknife
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
    value, se = jackknife(x, lambda mean, _: mean[..., 0])
    torch.testing.assert_close(value, x[..., 0].mean(1))
    torch.testing.assert_close(se, torch.full((3,), 2 / 50_000**0.5).double(), rtol=0.5, atol=0)
    _, covariance = x, jackknife(x, lambda _, c: c[..., 0, 1])[0]
    torch.testing.assert_close(covariance, torch.stack([torch.cov(s.T, correction=0)[0, 1] for s in x]))


def test_jackknife_keeps_its_digits_far_from_the_origin(streams):
    x = streams.normal(5000, 2)
    near, _ = jackknife(x, lambda _, c: c[..., 0, 0])
    far, _ = jackknife(x + 1e6, lambda _, c: c[..., 0, 0])
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
