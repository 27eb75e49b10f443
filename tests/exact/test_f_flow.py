"""MMD-regularised f-divergences: optimality, duality, gradients, KALE, DrMMD and MMD as limits, fixed points, decrease."""

import math

import pytest
import torch

from gwfbench.velocity.envelope import envelope_witness, ratio
from gwfbench.velocity.kernels import gaussian
from gwfbench.velocity.witness import drmmd_witness, kale_witness, mmd_witness

TIGHT = 1e-9
orders = pytest.mark.parametrize("alpha", [1.5, 2.0, 3.0, 7.5])


def clouds(streams, n=30, m=20):
    """Off the origin, unlike in shape, and of three seeds."""
    x = streams.fork("x").normal(n, 2) * 0.8 + 0.6
    y = streams.fork("y").normal(m, 2)
    return x, y + 0.3 * y.square()


def formula(x, y, h=0.9):
    return (-(x[:, :, None] - y[:, None]).square().sum(-1) / (2 * h * h)).exp()


def tsallis(r, alpha):
    return (r**alpha - alpha * r + alpha - 1) / (alpha - 1)


def ratios(witness, m, lam):
    return -lam * m * witness.weights[:, -m:]


def value(x, y, r, lam, alpha):
    """The functional at s = r / m, by its definition, (S,)."""
    m = y.shape[1]
    squared = torch.einsum("si,sij,sj->s", r, formula(y, y), r) / m**2 + formula(x, x).mean((1, 2))
    squared = squared - 2 * (formula(x, y).mean(1) * r).sum(1) / m
    return tsallis(r, alpha).mean(1) + squared / (2 * lam)


def solved(x, y, lam, alpha):
    """Near a minimum the error of the value is of the order of the slope squared."""
    witness = envelope_witness(gaussian(0.9), x, y, lam, alpha, tolerance=1e-6)
    return value(x, y, ratios(witness, y.shape[1], lam), lam, alpha)


@orders
@pytest.mark.parametrize("lam", [1e-2, 1.0])
def test_the_problem_is_solved(alpha, lam, streams):
    x, y = clouds(streams)
    witness = envelope_witness(gaussian(0.9), x, y, lam, alpha, tolerance=TIGHT)
    r = ratios(witness, 20, lam)
    assert (r >= -1e-15).all()
    slope = alpha / (alpha - 1) * (r.clamp_min(0) ** (alpha - 1) - 1) - witness(y)
    inside = r > 1e-12
    assert slope[inside].abs().max() < 1e-6
    assert (slope[~inside] > -1e-6).all()
    # r is a root of its slope, and so less exact than that near 0
    torch.testing.assert_close(ratio(witness(y), alpha) ** alpha, r.clamp_min(0) ** alpha, rtol=1e-5, atol=1e-5)


def test_a_point_of_p_far_from_all_others_has_a_ratio_in_closed_form(streams):
    """There h = -r / (lambda m), so that alpha = 3 gives 3/2 (r^2 - 1) = -5 r."""
    x, y = clouds(streams)
    y[:, 0] = -90.0
    r = ratios(envelope_witness(gaussian(0.9), x, y, 1e-2, 3.0, tolerance=TIGHT), 20, 1e-2)
    torch.testing.assert_close(r[:, 0], torch.full((3,), (math.sqrt(34) - 5) / 3).double(), rtol=1e-6, atol=0)


def test_some_ratios_are_zero_and_the_others_are_those_of_a_problem_without_them(streams):
    x, y = clouds(streams)
    full = ratios(envelope_witness(gaussian(0.9), x[:1] * 0.2, y[:1], 1e-3, 3.0, tolerance=TIGHT), 20, 1e-3)
    kept = full[0] > 1e-9
    assert 3 < int(kept.sum()) < 20
    mean, matrix = formula(y[:1], x[:1] * 0.2).mean(2)[0, kept], formula(y[:1], y[:1])[0][kept][:, kept]
    r = full[0, kept]
    slope = 1.5 * (r.square() - 1) + (matrix @ r / 20 - mean) / 1e-3
    assert slope.abs().max() < 1e-4


@orders
def test_there_is_no_duality_gap(alpha, streams):
    x, y = clouds(streams)
    lam = 0.05
    witness = envelope_witness(gaussian(0.9), x, y, lam, alpha, tolerance=TIGHT)
    z, w = witness.points, witness.weights
    square = torch.einsum("si,sij,sj->s", w, formula(z, z), w)
    conjugate = (1 + (alpha - 1) / alpha * witness(y)).clamp_min(0) ** (alpha / (alpha - 1)) - 1
    dual = witness(x).mean(1) - conjugate.mean(1) - lam * square / 2
    torch.testing.assert_close(solved(x, y, lam, alpha), dual, rtol=1e-7, atol=1e-9)
    assert (dual > 0).all()


@orders
def test_the_velocity_is_down_the_functional(alpha, streams):
    """By differences along a direction, the problem solved anew on both sides: no envelope theorem is assumed."""
    x, y = clouds(streams)
    lam, eps = 0.05, 1e-4
    v = -envelope_witness(gaussian(0.9), x, y, lam, alpha, tolerance=TIGHT).gradient(x)
    for way in (v, streams.fork("way").normal(30, 2)):
        change = (solved(x + eps * way, y, lam, alpha) - solved(x - eps * way, y, lam, alpha)) / (2 * eps)
        torch.testing.assert_close(change, -(v * way).sum(2).mean(1), rtol=1e-4, atol=1e-6)


@orders
def test_the_functional_falls_along_the_flow(alpha, streams):
    x, y = clouds(streams)
    lam, before, witness = 0.05, math.inf, None
    for _ in range(5):
        now = solved(x, y, lam, alpha)
        assert (now < before).all()
        before = now
        witness = envelope_witness(gaussian(0.9), x, y, lam, alpha, witness)
        x = x - 0.1 * lam * witness.gradient(x)


def test_order_two_is_drmmd_where_all_ratios_are_positive(streams):
    x, y = clouds(streams)
    lam = 1.0
    ours = envelope_witness(gaussian(0.9), x, y, lam, 2.0, tolerance=TIGHT)
    assert (ratios(ours, 20, lam) > 0.05).all()
    theirs = drmmd_witness(gaussian(0.9), x, y, 2 * lam).gradient(x) / (1 + 2 * lam)
    torch.testing.assert_close(ours.gradient(x), theirs, rtol=1e-6, atol=1e-8)


def test_order_one_is_kale(streams):
    x, y = clouds(streams)
    kale = kale_witness(gaussian(0.9), x, y, 0.1, tolerance=1e-20).gradient(x)
    off = [
        float((envelope_witness(gaussian(0.9), x, y, 0.1, alpha, tolerance=TIGHT).gradient(x) - kale).abs().max())
        for alpha in (1.1, 1.01)
    ]
    assert off[1] < 0.02 * float(kale.abs().max())
    assert off[0] / off[1] == pytest.approx(10, rel=0.2)


@orders
def test_large_lambda_is_the_mmd_flow_to_first_order(alpha, streams):
    x, y = clouds(streams)
    mmd = mmd_witness(gaussian(0.9), x, y).gradient(x)

    def off(lam):
        return (lam * envelope_witness(gaussian(0.9), x, y, lam, alpha, tolerance=1e-12).gradient(x) - mmd).abs().max()

    assert off(1e3) < 2e-3
    assert float(off(1e2) / off(1e3)) == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("alpha", [1.5, 2.0, 3.0])  # beyond, slopes at ratios of 5 ask for far smaller ones
def test_small_lambda_is_the_divergence_between_laws_on_the_same_points(alpha):
    support = torch.tensor([[0.0, 0.0], [1.5, 0.2], [0.1, 1.7], [-1.6, 0.4], [0.3, -1.4]], dtype=torch.float64)
    q, p = [1, 4, 2, 2, 1], [3, 1, 3, 1, 4]
    x, y = (support.repeat_interleave(torch.tensor(counts), 0)[None] for counts in (q, p))
    exact = (torch.tensor(q).double() / 10) / (torch.tensor(p).double() / 12)
    slope = alpha / (alpha - 1) * (exact ** (alpha - 1) - 1)

    def off(lam):
        witness = envelope_witness(gaussian(0.7), x, y, lam, alpha, tolerance=1e-8)
        return float(((witness(support[None]) - slope) / (1 + slope.abs())).abs().max())

    assert off(1e-5) < 0.02
    assert off(1e-4) / off(1e-5) > 3


@orders
def test_equal_clouds_do_not_move_and_velocities_turn_with_the_points(alpha, streams):
    x, y = clouds(streams)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    assert envelope_witness(gaussian(0.9), x, x[:, order], 0.05, alpha).gradient(x).abs().max() < 1e-10
    turn = torch.linalg.qr(streams.fork("turn").normal(2, 2)).Q[0]
    here = envelope_witness(gaussian(0.9), x, y, 0.05, alpha, tolerance=TIGHT).gradient(x)
    there = envelope_witness(gaussian(0.9), x @ turn + 3, y @ turn + 3, 0.05, alpha, tolerance=TIGHT)
    torch.testing.assert_close(there.gradient(x @ turn + 3), here @ turn, rtol=1e-5, atol=1e-6)


@orders
def test_another_start_has_the_same_end_and_a_lost_seed_is_alone(alpha, streams):
    x, y = clouds(streams)
    exact = envelope_witness(gaussian(0.9), x, y, 0.05, alpha, tolerance=TIGHT)
    far = envelope_witness(gaussian(0.9), x + 1, y - 0.5, 0.05, alpha)
    again = envelope_witness(gaussian(0.9), x, y, 0.05, alpha, far, TIGHT)
    torch.testing.assert_close(again.gradient(x), exact.gradient(x), rtol=1e-5, atol=1e-6)
    x = x.clone()
    x[1, 0, 0] = math.nan
    broken = envelope_witness(gaussian(0.9), x, y, 0.05, alpha, tolerance=TIGHT)
    assert broken.weights[1, 30:].isnan().all()
    torch.testing.assert_close(broken.weights[[0, 2]], exact.weights[[0, 2]], rtol=1e-6, atol=1e-9)
