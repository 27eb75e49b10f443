"""IFT flow: gradients by autograd, the projection's conditions, decrease, fixed points, MMD flow as a limit, resampling."""

import math
import sys
from dataclasses import replace

import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.info import Initial, TargetSamples
from gwfbench.plugins import registry
from gwfbench.protocol import Problem
from gwfbench.velocity.kernels import KERNELS, gaussian

ift = sys.modules[registry.find("method", "ift_flow").load().__module__]
both = pytest.mark.parametrize("weights", ["projected", "fisher_rao"])


def method(text):
    return registry.parse("method", text)


def last(laws):
    *_, law = laws
    return law


def clouds(streams, n=30, m=20):
    """Off the origin, unlike in shape, of three seeds, and uneven weights."""
    x = streams.fork("x").normal(n, 2) * 0.8 + 0.6
    y = streams.fork("y").normal(m, 2)
    return x, streams.fork("w").normal(n).softmax(-1), y + 0.3 * y.square()


def half_mmd(x, w, y, h=0.9):
    k = lambda a, b: (-(a[:, :, None] - b[:, None]).square().sum(-1) / (2 * h * h)).exp()  # noqa: E731
    own, cross = torch.einsum("si,sij,sj->s", w, k(x, x), w), torch.einsum("si,sij->s", w, k(x, y)) / y.shape[1]
    return own / 2 - cross + k(y, y).mean((1, 2)) / 2


def test_forces_are_the_first_variation_of_half_the_squared_mmd(streams):
    x, w, y = clouds(streams)
    f = ift.forces(gaussian(0.9), x, w, y)
    at_x, at_w = torch.autograd.grad(half_mmd(x.requires_grad_(), w.requires_grad_(), y).sum(), (x, w))
    torch.testing.assert_close(f(x.detach()), at_w, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(w.detach()[..., None] * f.gradient(x.detach()), at_x, rtol=1e-9, atol=1e-12)


@both
@pytest.mark.parametrize("kernel", ["gaussian", "imq", "laplace", "matern32", "matern52"])
def test_steps_keep_the_mass_and_the_functional_falls(weights, kernel, streams):
    """The projected step at rate 1, where its bound holds; the others are short."""
    x, w, y = clouds(streams)
    k = KERNELS[kernel](0.9)

    def value(x, w):
        f = ift.forces(k, x, w, y)
        return ((w * f(x)).sum(1) - f(y).mean(1)) / 2

    before = value(x, w)
    flow = method(f"ift_flow:cap=30,weights={weights},rate={1 if weights == 'projected' else 0.05},step=0.05")
    other = flow.weighed(k, x, w, y)
    assert (other >= 0).all()
    torch.testing.assert_close(other.sum(1), torch.ones(3).double(), rtol=1e-14, atol=0)
    assert (value(x, other) < before).all()
    for own in ("true", "false"):
        moved = replace(flow, own=own == "true").moved(k, x, w, y)
        assert (value(moved, w) < before).all()


def test_the_multiplicative_step_is_fisher_rao_s_to_first_order(streams):
    """w' = -w (f - E f), which sends the functional down at the rate of the variance of f."""
    x, w, y = clouds(streams)
    f = ift.forces(gaussian(0.9), x, w, y)(x)
    mean = (w * f).sum(1, keepdim=True)
    other = method("ift_flow:cap=30,weights=fisher_rao,rate=1e-6").weighed(gaussian(0.9), x, w, y)
    torch.testing.assert_close((other - w) / 1e-6, -w * (f - mean), rtol=1e-4, atol=1e-8)
    change = half_mmd(x, other, y) - half_mmd(x, w, y)
    torch.testing.assert_close(change / 1e-6, -(w * (f - mean).square()).sum(1), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("cap", [0.04, 0.1, 1.0])
def test_projection_meets_the_conditions_of_a_nearest_point(cap, streams):
    v = 0.3 * streams.fork("v").normal(40)
    w = ift.nearest(v, cap)
    assert (w >= 0).all()
    assert (w <= cap).all()
    torch.testing.assert_close(w.sum(1), torch.ones(3).double(), rtol=1e-13, atol=0)
    gap = v - w  # the same t inside, no more where w = 0, no less where w = cap
    inside = (w > 0) & (w < cap)
    t = torch.where(inside, gap, -math.inf).amax(1, keepdim=True)
    assert inside.any(1).all()
    assert ((gap - t).abs()[inside] < 1e-12).all()
    assert (gap <= t + 1e-12)[w == 0].all()
    assert (gap >= t - 1e-12)[w == cap].all()
    assert (w == 0).any()
    assert (w == cap).any() == (cap < 1)
    torch.testing.assert_close(ift.nearest(w, cap), w, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(ift.nearest(w + 7, cap), w, rtol=0, atol=1e-12)
    torch.testing.assert_close(ift.nearest(v, 1 / 40), torch.full_like(v, 1 / 40), rtol=1e-12, atol=0)


@both
def test_the_target_s_own_points_stand_still(weights, streams):
    _, _, y = clouds(streams)
    flow, w = method(f"ift_flow:weights={weights},batch=20,particles=20"), y.new_full((3, 20), 1 / 20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(flow.moved(gaussian(0.9), y, w, y[:, order]), y, rtol=0, atol=1e-12)
    torch.testing.assert_close(flow.weighed(gaussian(0.9), y, w, y[:, order]), w, rtol=0, atol=1e-12)


@both
def test_steps_turn_with_the_points(weights, streams):
    x, w, y = clouds(streams)
    flow = method(f"ift_flow:weights={weights}")
    turn = torch.linalg.qr(streams.fork("turn").normal(2, 2)).Q[0]
    far = 3.0 * torch.ones(2, dtype=x.dtype)
    here = flow.moved(gaussian(0.9), x, w, y)
    there = flow.moved(gaussian(0.9), x @ turn + far, w, y @ turn + far)
    torch.testing.assert_close(there, here @ turn + far, rtol=1e-8, atol=1e-9)
    same = flow.weighed(gaussian(0.9), x @ turn + far, w, y @ turn + far)
    torch.testing.assert_close(same, flow.weighed(gaussian(0.9), x, w, y), rtol=1e-8, atol=1e-11)


def test_without_a_rate_it_is_the_mmd_flow(streams):
    problem = registry.parse("task", "toy2d").build(streams.fork("task")).problem
    common = "steps=5,batch=30,kernel=imq,bandwidth=0.7,step=0.5"
    ours = last(method(f"ift_flow:particles=40,cap=1,rate=0,wider=1,{common}").fit(problem, Budget(), streams))
    mmd = last(method(f"mmd_flow:points=40,{common}").fit(problem, Budget(), streams))
    for of_x, of_mmd in zip(ours.draw(40, streams), mmd.draw(40, streams), strict=True):
        ordered = [part[part[:, 0].argsort()] for part in (of_x, of_mmd)]
        torch.testing.assert_close(*ordered, rtol=1e-9, atol=1e-10)


@both
def test_mass_crosses_a_gap_that_particles_do_not(weights, streams):
    """Clusters 40 bandwidths apart, half of the particles in each, where p has 0.8 and 0.2."""
    side = lambda n, share: torch.where(torch.arange(n) < share * n, -20.0, 20.0).double()[:, None]  # noqa: E731

    def at(share):
        return lambda n, rng: rng.normal(n, 1) * 0.3 + side(n, share)

    problem = Problem((1,), (math.inf,), (Initial(at(0.5)), TargetSamples(at(0.8))))
    common = "particles=100,batch=100,bandwidth=1,wider=1,kernel=gaussian,steps=100"
    for rate, share in ((1.0, 0.8), (0.0, 0.5)):
        law = last(method(f"ift_flow:{common},weights={weights},rate={rate}").fit(problem, Budget(), streams))
        w = law.state()["w"]
        torch.testing.assert_close(
            ((law.state()["x"][..., 0] < 0) * w).sum(1), w.new_full((3,), share), rtol=0, atol=0.02
        )
        drawn = (law.draw(law.limit, streams) < 0).double().mean((1, 2))
        assert ((drawn - share).abs() < 0.02 + 1 / law.limit).all()


def test_points_are_drawn_by_weight_and_never_twice(streams):
    w = ift.nearest((0.8 * streams.fork("w").normal(50)).softmax(-1), 2 / 50)
    assert ((w * 50 - 2).abs() < 1e-12).any()
    tags = torch.arange(50, dtype=w.dtype).expand(3, 50)[..., None]
    total = torch.zeros_like(w)
    for k in range(400):
        drawn = ift.systematic(tags, w * (1 - 1e-6), 25, 25, streams.fork(str(k)))[..., 0].long()
        counts = torch.zeros_like(w).scatter_add_(1, drawn, torch.ones_like(drawn, dtype=w.dtype))
        assert counts.max() == 1
        total += counts / 400
    share = 25 * w
    error = (share * (1 - share) / 400).clamp_min(0).sqrt().clamp_min(1 / 400)
    assert ((total - share).abs() < 6 * error).all()
    for count in (50, 49):
        drawn = ift.systematic(tags[:, :count], torch.full((3, count), 1 / count), count, count, streams)
        torch.testing.assert_close(drawn.sort(1).values, tags[:, :count].contiguous(), rtol=0, atol=0)
    with pytest.raises(ValueError, match="26 points asked of weights that give 25"):
        ift.systematic(tags, w, 25, 26, streams)


def test_seeds_do_not_know_each_other(streams):
    x, w, y = clouds(streams)
    x[1] = x[1] * 3 + 5
    for weights in ("projected", "fisher_rao"):
        flow = method(f"ift_flow:weights={weights}")
        moved, other = flow.moved(gaussian(0.9), x, w, y), flow.weighed(gaussian(0.9), x, w, y)
        for i in range(3):
            alone = (x[i : i + 1], w[i : i + 1], y[i : i + 1])
            torch.testing.assert_close(moved[i : i + 1], flow.moved(gaussian(0.9), *alone), rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(other[i : i + 1], flow.weighed(gaussian(0.9), *alone), rtol=1e-9, atol=1e-13)
