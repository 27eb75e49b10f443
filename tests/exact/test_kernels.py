"""Kernels and their sums, against closed forms, autograd and double sums."""

import math

import pytest
import torch

from gwfbench.rng import Streams
from gwfbench.velocity import blocks, kernels
from gwfbench.velocity.kernels import KERNELS, gradient_sum, gram, kernel_sum, riesz, rms_distance

ROOT3, ROOT5 = math.sqrt(3), math.sqrt(5)
FORMULAS = {  # of u = |x - y| / h
    "gaussian": lambda u: (-u * u / 2).exp(),
    "imq": lambda u: (1 + u * u) ** -0.5,
    "laplace": lambda u: (-u).exp(),
    "matern32": lambda u: (1 + ROOT3 * u) * (-ROOT3 * u).exp(),
    "matern52": lambda u: (1 + ROOT5 * u + 5 * u * u / 3) * (-ROOT5 * u).exp(),
    "riesz": lambda u: -u,
}
every = pytest.mark.parametrize("name", FORMULAS)


def clouds(streams, n=37, m=23, d=3):
    return 0.7 * streams.fork("x").normal(n, d) + 40, streams.fork("y").normal(m, d) + 40.3


def distances(x, y):
    return (x[:, :, None] - y[:, None]).norm(dim=-1)


@every
def test_values_gradients_and_sums(name, streams):
    """A bandwidth of its own for each seed, and weights that change sign."""
    x, y = clouds(streams)
    h = torch.tensor([0.3, 1.1, 2.5], dtype=torch.float64)[:, None, None]
    kernel, weights = KERNELS[name](h), streams.fork("a").normal(23)
    x.requires_grad_()
    values = FORMULAS[name](distances(x, y) / h)
    (gradient,) = torch.autograd.grad((values * weights[:, None]).sum(), x)
    torch.testing.assert_close(gram(kernel, x.detach(), y), values.detach(), rtol=1e-10, atol=1e-12)
    expected = (values.detach() * weights[:, None]).sum(2)
    torch.testing.assert_close(kernel_sum(kernel, x.detach(), y, weights), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient_sum(kernel, x.detach(), y, weights), gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_riesz_exponents(exponent, streams):
    x, y = (cloud.requires_grad_() for cloud in clouds(streams))
    values = -((distances(x, y) / 2) ** exponent)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    ours = gradient_sum(riesz(2.0, exponent), x.detach(), y.detach(), torch.ones(1, 23, dtype=torch.float64))
    torch.testing.assert_close(ours, gradient, rtol=1e-9, atol=1e-11)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_points_give_no_gradient(name, dtype):
    """Also far from 0 and where the kernel has a kink; what is left is rounding, below its root."""
    point = torch.tensor([[[1000.0, -3.0]]], dtype=dtype)
    kernel, rounding = KERNELS[name](0.5), 10 * torch.finfo(dtype).eps ** 0.5
    weights = torch.full((1, 50), 0.02, dtype=dtype)
    assert gradient_sum(kernel, *[point.expand(1, 50, 2)] * 2, weights).abs().max() < rounding
    two = torch.cat([point.expand(1, 25, 2), point.expand(1, 25, 2) + 3], 1)
    other = gradient_sum(kernel, point, point + 3, weights[:, :1] * 25)
    torch.testing.assert_close(gradient_sum(kernel, two, two, weights)[:, :1], other, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("d", [1, 2, 64, 3072])
def test_squared_distances_are_positive_in_float32(d):
    rng = Streams((0,))
    x = rng.normal(300, d) + rng.normal(1, d)
    for _, s, _ in kernels._distances(kernels._Centred(x, x)):
        assert s.min() > 0
        assert s.diagonal(dim1=1, dim2=2).max() < 20 * (d + 2) ** 0.5 * 2**-23 * x.square().sum(2).max()


@every
def test_blocks_do_not_matter(name, streams, monkeypatch):
    x, y = clouds(streams)
    weights = streams.fork("a").normal(23)
    once = [f(KERNELS[name](1.3), x, y, weights) for f in (kernel_sum, gradient_sum)]
    for block in (1, 3 * 23 * 5):
        monkeypatch.setattr(blocks, "BLOCK", block)
        for f, whole in zip((kernel_sum, gradient_sum), once, strict=True):
            torch.testing.assert_close(f(KERNELS[name](1.3), x, y, weights), whole, rtol=1e-10, atol=1e-12)


def test_laplace_mean_shift_is_the_gradient_of_a_matern_kernel(streams):
    """METHODS G1.10: sum_j exp(-r / sigma) (y_j - x) = grad of sigma^2 Matern-3/2 with length sqrt(3) sigma."""
    x, y = clouds(streams)
    sigma, weights = 0.7, streams.fork("a").normal(23)
    k = (-distances(x, y) / sigma).exp() * weights[:, None]
    shift = k @ y - k.sum(2, keepdim=True) * x
    ours = sigma**2 * gradient_sum(KERNELS["matern32"](ROOT3 * sigma), x, y, weights)
    torch.testing.assert_close(ours, shift, rtol=1e-9, atol=1e-11)


def test_moved_points_give_the_same(streams):
    x, y = clouds(streams)
    for name, weights in zip(KERNELS, streams.fork("a").normal(len(KERNELS), 23).unbind(1), strict=True):
        kernel = KERNELS[name](0.8)
        there = gradient_sum(kernel, x - 90, y - 90, weights)
        torch.testing.assert_close(there, gradient_sum(kernel, x, y, weights), rtol=1e-8, atol=1e-10)


def test_rms_distance_is_the_double_sum(streams):
    _, y = clouds(streams)
    expected = distances(y, y).square().mean((1, 2)).sqrt()
    torch.testing.assert_close(rms_distance(y)[:, 0, 0], expected, rtol=1e-10, atol=0)
