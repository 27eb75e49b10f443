"""b^2, sliced energy and Sinkhorn's divergence against closed forms and other programs; errors against repetition."""

import math

import numpy as np
import ot
import pytest
import torch
from scipy.special import erf, gamma

from gwfbench import metrics
from gwfbench.metrics.entropic import sinkhorn_divergence
from gwfbench.metrics.sliced_energy import sliced_energy_statistic
from gwfbench.protocol import Judged, Truth
from gwfbench.rng import Streams

DOUBLE = {"dtype": torch.float64}
MEAN = torch.tensor([0.5, -1.0, 3.0], **DOUBLE)
ROOT = torch.tensor([[1.0, 0.0, 0.0], [0.7, 0.4, 0.0], [-0.3, 0.2, 2.0]], **DOUBLE)


def truth(moments=True, seeds=1):
    covariance = ROOT @ ROOT.T
    return Truth(
        lambda index, n, rng: MEAN + rng.normal(n, 3).double() @ ROOT.T,
        exact=True,
        moments=(lambda index: (MEAN.expand(seeds, 3), covariance.expand(seeds, 3, 3))) if moments else None,
    )


def evaluate(name, points, known, seeds=(0,)):
    metric = metrics.known()[name]
    return metric.evaluate(Judged(points[:, : metric.points], None, known, 0, Streams(seeds, **DOUBLE)))


def off(n, seeds=(0,)):
    """Draws of a law whose second coordinate is shifted by 0.3, and whose third is 1.2 times as wide."""
    x = MEAN + Streams(seeds, **DOUBLE).fork("law").normal(n, 3) @ ROOT.T
    return MEAN + torch.tensor([1.0, 1.0, 1.2], **DOUBLE) * (x - MEAN) + torch.tensor([0.0, 0.3, 0.0], **DOUBLE)


def exact_b2():
    """Of the law above: Var x^2 = 4 m^2 s^2 + 2 s^4 for a normal law."""
    variance = (ROOT @ ROOT.T).diagonal()
    mean = MEAN + torch.tensor([0.0, 0.3, 0.0], **DOUBLE)
    wide = variance * torch.tensor([1.0, 1.0, 1.44], **DOUBLE)
    first = (mean - MEAN).square() / variance
    second = (wide + mean.square() - variance - MEAN.square()).square() / (
        4 * MEAN.square() * variance + 2 * variance.square()
    )
    return torch.cat([first, second])


@pytest.mark.parametrize("moments", [True, False])
def test_b2_of_gaussians(moments):
    x, goal = off(200_000), exact_b2()
    for name, value in (("b2_max", goal.max()), ("b2_mean", goal.mean())):
        found = evaluate(name, x, truth(moments))
        assert abs(float(found.value - value)) < 5 * float(found.se) + 0.03 * float(value)  # Var x^2 is known to 1 %
        assert float(found.se) < 0.05 * float(value)


def test_b2_of_points_by_hand():
    x = torch.tensor([[[1.0], [2.0], [6.0]]], **DOUBLE)
    y = torch.tensor([[[0.0], [2.0]]], **DOUBLE)
    known = Truth(lambda index, n, rng: y, exact=True, limit=2)
    # means 3 and 41/3; of the truth 1 and 2, variances 1 and 4
    first, second = 4.0, (41 / 3 - 2) ** 2 / 4
    assert float(evaluate("b2_max", x, known).value) == pytest.approx(max(first, second))
    assert float(evaluate("b2_mean", x, known).value) == pytest.approx((first + second) / 2)


def test_b2_of_exact_draws_is_1_over_n_for_each_f():
    seeds = tuple(range(60))
    x = MEAN + Streams(seeds, **DOUBLE).normal(500, 3) @ ROOT.T
    found = evaluate("b2_mean", x, truth(seeds=60), seeds)
    error = float(found.value.std()) / math.sqrt(60)
    assert abs(float(found.value.mean()) - 1 / 500) < 5 * error
    assert (found.se > 0).all()


def test_b2_keeps_its_digits_far_from_the_origin():
    """About 1e6, where x^2 has mean 1e12 and deviation 2e6."""
    far = torch.full((3,), 1e6, **DOUBLE)
    known = truth()
    moved = Truth(
        lambda index, n, rng: known.draw(index, n, rng) + far,
        exact=True,
        moments=lambda index: (known.moments(0)[0] + far, known.moments(0)[1]),
    )
    found, plain = evaluate("b2_max", off(20_000) + far, moved), evaluate("b2_max", off(20_000), known)
    assert float(plain.value) == pytest.approx(float(exact_b2().max()), rel=0.2)
    assert float(found.value) == pytest.approx(0.09 / float((ROOT @ ROOT.T)[1, 1]), rel=0.1)  # that of the mean


def test_b2_of_a_truth_of_one_point_is_infinite():
    known = Truth(lambda index, n, rng: torch.ones(1, n, 2, **DOUBLE), exact=True)
    found = evaluate("b2_max", Streams((0,), **DOUBLE).normal(50, 2), known)
    assert found.value.isinf().all()
    assert found.se.isnan().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["b2_max", "b2_mean", "sliced_energy", "sinkhorn"])
def test_standard_errors_are_the_spread_over_repetitions(name):
    """Away from zero: 100 clouds, whose spread is known to 7 %; and the interval of 2 errors covers 95 % of values."""
    seeds = tuple(range(100))
    n = {"sinkhorn": 80, "sliced_energy": 200}.get(name, 2000)
    found = evaluate(name, off(n, seeds) + 1.0, truth(seeds=100), seeds)
    spread = float(found.value.std())
    assert 0.65 * spread < float(found.se.mean()) < 1.35 * spread
    covered = float(((found.value - found.value.mean()).abs() < 2 * found.se).double().mean())
    assert abs(covered - 0.9545) < 5 * math.sqrt(0.9545 * 0.0455 / 100)


# ------------------------------------------------------------------------------------------------ sliced energy


def absolute(mean, deviation):
    """E|z| of N(mean, deviation^2)."""
    a = mean / deviation
    return deviation * math.sqrt(2 / math.pi) * math.exp(-a * a / 2) + mean * erf(a / math.sqrt(2))


def test_energy_distance_of_gaussians_on_a_line():
    rng, n = Streams((0,), **DOUBLE), 4096
    known = Truth(lambda index, count, streams: 0.7 * streams.normal(count, 1), exact=True)
    found = evaluate("sliced_energy", 0.4 + 1.5 * rng.normal(n, 1), known)
    goal = 2 * absolute(0.4, math.hypot(1.5, 0.7)) - (1.5 + 0.7) * 2 / math.sqrt(math.pi)
    assert abs(float(found.value) - goal) < 5 * float(found.se)
    assert float(found.se) < 0.1 * goal


def test_sliced_energy_is_the_mean_of_one_dimensional_ones_by_hand():
    rng = Streams((0,), **DOUBLE)
    x, y = rng.fork("x").normal(30, 3)[0], 0.5 + 2 * rng.fork("y").normal(40, 3)[0]
    lines = torch.nn.functional.normalize(rng.fork("lines").normal(3, 7)[0], dim=0)
    values = []
    for u in lines.T:
        a, b = x @ u, y @ u
        cross = (a[:, None] - b).abs().mean()
        own = [(c[:, None] - c).abs().sum() / (len(c) * (len(c) - 1)) for c in (a, b)]
        values.append(float(2 * cross - own[0] - own[1]))
    assert float(sliced_energy_statistic(x, y, lines)[0]) == pytest.approx(np.mean(values), rel=1e-12)


@pytest.mark.parametrize("d", [2, 5])
def test_sliced_energy_is_c_d_times_the_energy_distance(d):
    rng = Streams((0,), **DOUBLE)
    x, y = rng.fork("x").normal(100, d)[0], 0.5 + 2 * rng.fork("y").normal(100, d)[0]
    lines = torch.nn.functional.normalize(rng.fork("lines").normal(d, 20_000)[0], dim=0)
    value = float(sliced_energy_statistic(x, y, lines)[0])
    known = Truth(lambda index, n, streams: y[None, :n], exact=True)
    distance = float(evaluate("energy_distance", x[None], known).value)
    factor = gamma(d / 2) / (math.sqrt(math.pi) * gamma((d + 1) / 2))
    assert value == pytest.approx(factor * distance, rel=0.02)
    assert factor == pytest.approx(2 / math.pi) or d != 2


@pytest.mark.slow
def test_sliced_energy_of_equal_laws_has_mean_0():
    seeds = tuple(range(200))
    x = MEAN + Streams(seeds, **DOUBLE).normal(200, 3) @ ROOT.T
    found = evaluate("sliced_energy", x, truth(seeds=200), seeds)
    spread = float(found.value.std())
    assert abs(float(found.value.mean())) < 5 * spread / math.sqrt(200)
    assert 0.8 * spread < float(found.se.mean()) < 3 * spread  # too large here, never too small


# ------------------------------------------------------------------------------------------------ Sinkhorn


def test_sinkhorn_is_that_of_a_plain_solver():
    """OT in POT's logarithms, with the plan's divergence from the product."""
    rng = Streams((0, 1), **DOUBLE)
    x, y = rng.fork("x").normal(40, 2), 0.5 + 1.5 * rng.fork("y").normal(50, 2)
    epsilon = torch.tensor([0.5, 2.0], **DOUBLE)

    def transport(a, b, eps):
        p, q = np.full(len(a), 1 / len(a)), np.full(len(b), 1 / len(b))
        cost = torch.cdist(a, b).square().numpy()
        plan = ot.sinkhorn(p, q, cost, eps, method="sinkhorn_log", stopThr=1e-8, numItermax=3000, warn=False)
        return (plan * cost).sum() + eps * (plan * np.log(plan / np.outer(p, q))).sum()

    found, _ = sinkhorn_divergence(x, y, epsilon)
    for value, a, b, eps in zip(found, x, y, epsilon.tolist(), strict=True):
        goal = transport(a, b, eps) - (transport(a, a, eps) + transport(b, b, eps)) / 2
        assert float(value) == pytest.approx(goal, rel=1e-4)


def test_sinkhorn_of_a_translation_is_its_square():
    """Whatever eps is: the plan moves with the points."""
    x = Streams((0,), **DOUBLE).normal(200, 3)
    shift = torch.tensor([1.0, -2.0, 0.5], **DOUBLE)
    for eps in (0.2, 2.0):
        value, _ = sinkhorn_divergence(x, x + shift, torch.tensor([eps], **DOUBLE))
        assert float(value) == pytest.approx(float(shift.square().sum()), rel=1e-3)
        same, _ = sinkhorn_divergence(x, x.clone(), torch.tensor([eps], **DOUBLE))
        assert abs(float(same)) < 1e-3


def test_sinkhorn_in_other_units():
    x, known = off(300), truth()
    scaled = Truth(lambda index, n, rng: 1000 * known.draw(index, n, rng), exact=True)
    one, other = evaluate("sinkhorn", x, known), evaluate("sinkhorn", 1000 * x, scaled)
    assert float(other.value) == pytest.approx(1e6 * float(one.value), rel=1e-6)
