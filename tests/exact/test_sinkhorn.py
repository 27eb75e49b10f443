"""Entropic maps and the Sinkhorn divergence's flow: limits, Gaussians in closed form, autograd, POT."""

import math
import sys

import ot
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from gwfbench.errors import UserError
from gwfbench.plugins import registry
from gwfbench.velocity.kernels import rms_distance
from gwfbench.velocity.sinkhorn import sinkhorn, transport

TIGHT = {"tolerance": 1e-10, "rounds": 2000}


def clouds(streams, n, m, d=2):
    return streams.fork("x").normal(n, d), 0.4 * streams.fork("y").normal(m, d).exp() + 0.5


def squared(blur, x):
    return torch.full((len(x), 1, 1), blur**2, dtype=x.dtype)


def costs(x, y):
    return (x[:, :, None] - y[:, None]).square().sum(-1) / 2


def entropic(x, y, blur):
    """OT with KL(P|ab) as entropy from first principles: plain log-domain iterations, differentiable, (S,)."""
    eps, c = blur**2, costs(x, y)
    f, g = torch.zeros_like(c[:, :, 0]), torch.zeros_like(c[:, 0])
    for _ in range(2000):
        f = -eps * (((g[:, None] - c.detach()) / eps).logsumexp(2) - math.log(y.shape[1]))
        g = -eps * (((f[:, :, None] - c.detach()) / eps).logsumexp(1) - math.log(x.shape[1]))
    plan = ((f[:, :, None] + g[:, None] - c.detach()) / eps).exp() / (x.shape[1] * y.shape[1])
    # the envelope theorem: at the optimal plan only the cost depends on the points
    return (plan * c).sum((1, 2)), plan


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m", "blur"), [(30, 30, 0.8), (17, 40, 1.0), (40, 17, 0.8), (1, 5, 0.3)])
def test_the_velocity_is_the_gradient_of_the_debiased_divergence(streams, n, m, blur):
    x, y = clouds(streams, n, m)
    leaf = x.clone().requires_grad_()
    divergence = entropic(leaf, y, blur)[0] - entropic(leaf, leaf, blur)[0] / 2
    (gradient,) = torch.autograd.grad(divergence.sum(), leaf)
    torch.testing.assert_close(sinkhorn(x, y, blur=blur, **TIGHT), -n * gradient, atol=1e-8, rtol=1e-6)


def test_the_value_falls_along_the_velocity_as_fast_as_its_square(streams):
    """d/dt S = -mean |v|^2 for the whole divergence, entropy included, by central differences of POT's value."""
    x, y = clouds(streams, 25, 20)
    x, y, blur, h = x[:1], y[:1], 0.4, 1e-3
    v = sinkhorn(x, y, blur=blur, **TIGHT)

    def value(x):
        def entropic_cost(a, b):
            return float(ot.solve(costs(a, b)[0], reg=blur**2, reg_type="KL", tol=1e-12, max_iter=20_000).value)

        return entropic_cost(x, y) - entropic_cost(x, x) / 2

    slope = (value(x + h * v) - value(x - h * v)) / (2 * h)
    assert slope == pytest.approx(-float(v.square().sum(-1).mean()), rel=1e-4)


def test_the_map_is_pots(streams):
    x, y = clouds(streams, 50, 35)
    for blur in (0.15, 1.0):
        ours = transport(x, y, squared(blur, x), **TIGHT)
        for i in range(3):
            a, b = (torch.full((k,), 1 / k, dtype=torch.float64) for k in (50, 35))
            plan = ot.bregman.sinkhorn_log(a, b, costs(x, y)[i], blur**2, stopThr=1e-12, numItermax=100_000)
            torch.testing.assert_close(ours[i], 50 * plan @ y[i], atol=1e-8, rtol=0)


def test_small_epsilon_gives_the_optimal_assignment(streams):
    x, y = clouds(streams, 25, 25)
    for i, (cost, image) in enumerate(zip(costs(x, y), transport(x, y, squared(0.01, x), 1e-3, 5000), strict=True)):
        _, best = linear_sum_assignment(cost.numpy())
        assert (image - y[i][best]).abs().max() < 1e-2
        assert (transport(x, x, squared(0.01, x))[i] - x[i]).abs().max() < 1e-3


def test_large_epsilon_gives_the_difference_of_means(streams):
    x, y = clouds(streams, 30, 20)
    v = sinkhorn(x, y, blur=100.0, **TIGHT)
    # the plan is uniform to first order in cost / epsilon
    torch.testing.assert_close(v, (y.mean(1) - x.mean(1))[:, None].expand_as(x), atol=20 / 100**2, rtol=0)


def test_nothing_moves_at_the_target_and_a_translation_is_found_exactly(streams):
    x, _ = clouds(streams, 40, 1)
    c = torch.tensor([3.0, -1.0], dtype=torch.float64)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    for blur in (0.7, 2.0):
        assert sinkhorn(x, x[:, order], blur=blur, **TIGHT).abs().max() < 1e-7
        torch.testing.assert_close(sinkhorn(x, x[:, order] + c, blur=blur, **TIGHT), c.expand_as(x), atol=1e-7, rtol=0)


@pytest.mark.slow
def test_a_second_batch_stands_for_q(streams):
    x, y = clouds(streams, 20, 25)
    xx = streams.fork("xx").normal(30, 2)
    two = sinkhorn(x, y, xx, blur=0.5, **TIGHT)
    eps = squared(0.5, x)
    torch.testing.assert_close(two, transport(x, y, eps, **TIGHT) - transport(x, xx, eps, **TIGHT), atol=1e-8, rtol=0)
    # the symmetric solver finds what the general one does
    torch.testing.assert_close(
        sinkhorn(x, y, x.clone(), blur=0.5, **TIGHT), sinkhorn(x, y, blur=0.5, **TIGHT), atol=1e-8, rtol=0
    )
    # the field is anti-symmetric in its two batches
    torch.testing.assert_close(sinkhorn(x, xx, y, blur=0.5, **TIGHT), -two, atol=1e-8, rtol=0)


def test_gaussians_have_the_closed_form(streams):
    """N(0, s^2) to N(c, r^2) with cost |x - y|^2/2 and eps: slope (sqrt(4 s^2 r^2 + eps^2) - eps) / (2 s^2)
    (Janati et al. 2020, with sigma^2 = eps/2 there for cost |x - y|^2)."""
    s, r, c, blur, n = 1.2, 0.7, 0.9, 0.8, 400
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    z = (torch.special.ndtri(u) * 1.0)[None, :, None]
    z = z / z.square().mean().sqrt()
    image = transport(s * z, c + r * z, squared(blur, z), **TIGHT)
    eps = blur**2
    slope = (math.sqrt(4 * s**2 * r**2 + eps**2) - eps) / (2 * s**2)
    middle = z.abs() < 1.5  # quantiles cut the tails
    assert ((image - c - slope * s * z)[middle].abs() < 5e-3).all()


def test_it_turns_and_scales_with_the_space(streams):
    x, y = clouds(streams, 20, 25, 3)
    turn = torch.linalg.qr(streams.fork("turn").normal(3, 3)).Q
    v = sinkhorn(x, y, blur=0.4, **TIGHT)
    torch.testing.assert_close(sinkhorn(x @ turn, y @ turn, blur=0.4, **TIGHT), v @ turn, atol=1e-8, rtol=0)
    torch.testing.assert_close(sinkhorn(7 * x + 3, 7 * y + 3, blur=7 * 0.4, **TIGHT), 7 * v, atol=1e-7, rtol=0)
    torch.testing.assert_close(sinkhorn(x, y, blur=0.4 * x.new_ones(3), **TIGHT), v)
    torch.testing.assert_close(rms_distance(y)[:, 0, 0], costs(y, y).mean((1, 2)).mul(2).sqrt())
    unit = rms_distance(y)[:, 0, 0] / 6**0.5  # vgrow's, at d = 3
    torch.testing.assert_close(unit, y.var(1, correction=0).mean(-1).sqrt())


def test_seeds_of_different_scales_end_by_themselves(streams):
    x, y = clouds(streams, 30, 30)
    size = torch.tensor([1.0, 30.0, 0.1], dtype=torch.float64)[:, None, None]
    together = sinkhorn(size * x, size * y, blur=0.3)
    for i in range(3):
        alone = sinkhorn((size * x)[i : i + 1], (size * y)[i : i + 1], blur=0.3)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("far", [1.0, 30.0])
def test_single_precision_is_enough(streams, far):
    """Modes far apart beside a small blur: costs of 1e4 epsilon."""
    x, y = clouds(streams, 60, 60)
    y = torch.cat([y, y.flip(1) - far], 1)[:, ::2]
    exact = sinkhorn(x, y, blur=0.3, tolerance=1e-4, rounds=2000)
    single = sinkhorn(x.float(), y.float(), blur=0.3, tolerance=1e-3, rounds=2000)
    assert single.isfinite().all()
    assert (single - exact).abs().mean() < 1e-2 * exact.abs().mean()


def test_no_convergence_is_an_error(streams):
    x, y = clouds(streams, 30, 30)
    with pytest.raises(ArithmeticError, match="after 3 rounds"):
        sinkhorn(x, y, blur=0.01, tolerance=1e-12, rounds=3)


def test_impossible_settings_are_refused():
    for words in ("sinkhorn_flow:blur=0", "sinkhorn_flow:tolerance=-1", "sinkhorn_flow:rounds=0"):
        with pytest.raises(UserError):
            registry.parse("method", words)


def test_a_generator_s_halves_are_each_other_s_second_batch(streams, monkeypatch):
    """`self_batch=other` of `sinkhorn_flow`: T_qq goes to the other half, never to the point itself."""
    method = registry.parse("method", "sinkhorn_flow:carrier=generator,self_batch=other,blur=0.3,tolerance=1e-8")
    module, caught = sys.modules[type(method).__module__], []
    monkeypatch.setattr(module, "carry", lambda *args, **_: caught.append(args[3]))
    method.fit(None, None, streams)
    x, y = clouds(streams, 21, 30)
    velocity = caught[0](x, y, streams)
    for mine, other in ((slice(11), slice(11, 21)), (slice(11, 21), slice(11))):
        a, b, e = x[:, mine], x[:, other], squared(0.3, x)
        expected = transport(a, y, e, 1e-8) - transport(a, b, e, 1e-8)
        torch.testing.assert_close(velocity[:, mine], expected, atol=1e-6, rtol=1e-6)
    # at a blur below all gaps T_qq(x) is x for one batch, but another point for two
    for words, moves in (("same", False), ("other", True)):
        few = registry.parse("method", f"sinkhorn_flow:carrier=generator,self_batch={words},blur=0.05")
        few.fit(None, None, streams)
        grid = torch.arange(8.0).double()[None, :, None].expand(3, 8, 2)
        shift = caught[-1](grid, grid + 100.0, streams) - 100.0
        assert bool((shift.abs().amax((1, 2)) > 0.9).all()) is moves


def test_particles_have_no_second_batch():
    with pytest.raises(UserError, match="self_batch=other,carrier=particles"):
        registry.parse("method", "sinkhorn_flow:self_batch=other")
