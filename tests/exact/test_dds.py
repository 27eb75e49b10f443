"""The denoising diffusion sampler's process: its law, its rate, exact weights."""

import math
import sys
from itertools import pairwise

import pytest
import torch

from gwfbench.info import LogDensity
from gwfbench.plugins import registry
from gwfbench.training.paths import log_mean, log_normal

SIGMA = torch.tensor([0.8, 1.3, 2.0]).double()[:, None, None]  # of three seeds
MEAN, LOG_Z = torch.tensor([0.7, -1.9]).double(), 1.7


def process(steps, rate=4.4, sigma=SIGMA):
    return sys.modules[registry.find("method", "dds").load().__module__].process(steps, rate, sigma)


def normal(scale):
    """A target N(MEAN, scale^2 I) whose log Z is LOG_Z; scale (S, 1, 1)."""

    def log_prob(x):
        return LOG_Z + log_normal(x - MEAN, scale)

    return LogDensity(log_prob, lambda x: (MEAN - x) / scale**2)


def left(process):
    """Product of sqrt(1 - a_j) over the steps j >= k, for k = 0 ... K."""
    products = [1.0]
    for stay in reversed(process.stay):
        products.insert(0, stay * products[0])
    return products


@pytest.mark.parametrize("steps", [1, 7, 128])
def test_the_reference_keeps_its_law_and_forgets_at_the_rate(steps):
    made = process(steps)
    for stay, gain, noise in zip(made.stay, made.gain, made.noise, strict=True):
        assert abs(stay**2 + noise**2 - 1) < 1e-15  # the variance sigma^2 stays, exactly
        assert abs(gain * noise - 2 * (1 - stay)) < 1e-15
        assert 0 < noise < 1
    assert abs(math.prod(made.stay) - math.exp(-2.2)) < 1e-14
    assert all(a > b for a, b in pairwise(made.noise))


def at_start(rest, scale, streams, n):
    """log E[gamma / N(0, sigma^2 I) | y_0] - LOG_Z of a normal target, at the y_0 that `run` draws first, (S, n)."""
    y = SIGMA * streams.normal(n, 2)
    root = ((rest[0] * scale) ** 2 + (1 - rest[0] ** 2) * SIGMA**2).sqrt()
    return log_normal(y - rest[0] * MEAN, root) - log_normal(y, SIGMA)


@pytest.mark.parametrize("steps", [1, 5])
def test_the_exact_control_gives_every_path_the_weight_z(streams, steps):
    """For N(m, sigma^2 I) the best step is a shift by a_k c_{k+1} m, which b can make: then nothing but y_0 varies."""
    made, target = process(steps), normal(SIGMA)
    rest = left(made)

    def control(k, y):
        shift = made.noise[k] ** 2 * rest[k + 1] * MEAN
        return (shift / (2 * (1 - made.stay[k]))).expand_as(y)

    y, w = made.run(control, streams.fork("run"), 50, 2)
    expected = LOG_Z + at_start(rest, SIGMA, streams.fork("run"), 50)
    torch.testing.assert_close(w + target.log_prob(y), expected, rtol=1e-12, atol=1e-12)
    made = process(steps, rate=200.0)  # y_0 is forgotten
    rest = left(made)
    y, w = made.run(control, streams, 50, 2)
    torch.testing.assert_close(
        w + target.log_prob(y), torch.full((3, 50), LOG_Z, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )


def test_with_the_control_of_continuous_time_the_weights_vary_less_by_each_step(streams):
    """For another variance b = sigma^2 grad log E[gamma / N(0, sigma^2) | y_k] is best only as K grows: var log w is O(1 / K)."""
    scale, spread = 0.6 * SIGMA, []
    for steps in (32, 128):
        made, noise = process(steps), streams.fork(str(steps))
        rest = left(made)

        def control(k, y, rest=rest):
            variance = (rest[k] * scale) ** 2 + (1 - rest[k] ** 2) * SIGMA**2
            return y - SIGMA**2 * (y - rest[k] * MEAN) / variance

        y, w = made.run(control, noise.fork("run"), 4000, 2)
        log_w = w + normal(scale).log_prob(y) - at_start(rest, scale, noise.fork("run"), 4000)
        spread.append(log_w.var(1))
        value, se = log_mean(log_w)
        assert bool((((value - LOG_Z) / se).abs() < 5).all())
    ratio = spread[0] / spread[1]
    assert bool(((ratio > 3) & (ratio < 6)).all()), ratio  # 4 as K grows
    assert bool((spread[1] < 0.05).all()), spread
