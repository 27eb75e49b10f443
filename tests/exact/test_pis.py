"""The path integral sampler's process: its law, exact weights."""

import sys

import pytest
import torch

from gwfbench.plugins import registry
from gwfbench.training.paths import log_mean, log_normal

SIGMA = torch.tensor([0.8, 1.3, 2.0]).double()[:, None, None]  # of three seeds
MEAN, LOG_Z = torch.tensor([0.7, -1.9]).double(), 1.7


def process(steps):
    return sys.modules[registry.find("method", "pis").load().__module__].process(steps, SIGMA)


@pytest.mark.parametrize("steps", [1, 7, 128])
def test_without_drift_it_is_brownian_motion_from_0(streams, steps):
    made = process(steps)
    assert made.pinned
    assert made.stay == (1.0,) * steps
    assert abs(sum(root**2 for root in made.noise) - 1) < 1e-12  # so that the end has the variance sigma^2
    assert made.gain == made.noise  # gain b / sigma sigma noise = b / K
    y, w = made.run(lambda k, y: torch.zeros_like(y), streams, 20_000, 2)
    assert bool(((y.std(1) / SIGMA[:, 0] - 1).abs() < 0.03).all())  # six standard errors
    torch.testing.assert_close(w, -log_normal(y, SIGMA), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 5])
def test_the_exact_control_gives_every_path_the_weight_z(streams, steps):
    """For N(m, sigma^2 I) the best b is the constant m, for any K."""
    made = process(steps)
    y, w = made.run(lambda k, y: MEAN.expand_as(y), streams, 50, 2)
    log_w = w + LOG_Z + log_normal(y - MEAN, SIGMA)
    torch.testing.assert_close(log_w, torch.full((3, 50), LOG_Z, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_with_the_control_of_continuous_time_the_weights_vary_less_by_each_step(streams):
    """For another variance b = sigma^2 grad log E[gamma / N(0, sigma^2) | y_k] is best only as K grows: var log w is O(1 / K)."""
    scale, spread = 0.6 * SIGMA, []
    for steps in (32, 128):

        def control(k, y, steps=steps):
            past = k / steps  # E[g(y_K) | y_k] for g = N(m, s^2) / N(0, sigma^2), with y_K ~ N(y_k, (1 - past) sigma^2)
            precision = 1 / scale**2 - 1 / SIGMA**2  # of g, a Gaussian around `top`
            top = MEAN / scale**2 / precision
            return SIGMA**2 * (top - y) / (1 / precision + (1 - past) * SIGMA**2)

        y, w = process(steps).run(control, streams.fork(str(steps)), 4000, 2)
        log_w = w + LOG_Z + log_normal(y - MEAN, scale)
        spread.append(log_w.var(1))
        value, se = log_mean(log_w)
        assert bool((((value - LOG_Z) / se).abs() < 5).all())
    ratio = spread[0] / spread[1]
    assert bool(((ratio > 3) & (ratio < 6)).all()), ratio  # 4 as K grows
    assert bool((spread[1] < 0.05).all()), spread
