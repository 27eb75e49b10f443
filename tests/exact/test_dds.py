"""The denoising diffusion sampler: exact weights, unbiased Z, reference process, gradient, network, a learnt log Z."""

import math
import sys
from itertools import pairwise

import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.info import Initial, LogDensity
from gwfbench.plugins import registry
from gwfbench.protocol import Problem
from gwfbench.rng import Streams
from gwfbench.velocity.size import coordinate_size

SIGMA = torch.tensor([0.8, 1.3, 2.0]).double()[:, None, None]  # of three seeds
MEAN, LOG_Z = torch.tensor([0.7, -1.9]).double(), 1.7


def module():
    return sys.modules[registry.find("method", "dds").load().__module__]


def process(steps, rate=4.4, sigma=SIGMA):
    return module().Process.of(steps, rate, sigma)


def normal(scale):
    """A target N(MEAN, scale^2 I) whose log Z is LOG_Z; scale (S, 1, 1)."""

    def log_prob(x):
        return LOG_Z + module().log_normal(x - MEAN, scale)

    return LogDensity(log_prob, lambda x: (MEAN - x) / scale**2)


def skewed(x):
    u, v = x.unbind(-1)
    return -0.3 * u**4 - 0.5 * (v - 0.4 * u.square() + 0.2 * u) ** 2 + 0.1 * u.sin()


def skewed_score(x):
    return torch.func.grad(lambda y: skewed(y).sum())(x)


def left(process):
    """Product of sqrt(1 - a_j) over the steps j >= k, for k = 0 ... K."""
    products = [1.0]
    for stay in reversed(process.stay):
        products.insert(0, stay * products[0])
    return products


@pytest.mark.parametrize("steps", [1, 7, 128])
def test_the_reference_keeps_its_law_and_forgets_at_the_rate(steps):
    made = process(steps)
    for stay, push, noise in zip(made.stay, made.push, made.noise, strict=True):
        assert abs(stay**2 + noise**2 - 1) < 1e-15  # the variance sigma^2 stays, exactly
        assert abs(push - (1 - stay)) < 1e-15
        assert 0 < noise < 1
    assert abs(math.prod(made.stay) - math.exp(-2.2)) < 1e-14
    assert all(a > b for a, b in pairwise(made.noise))


def at_start(rest, scale, streams, n):
    """log E[gamma / N(0, sigma^2 I) | y_0] - LOG_Z of a normal target, at the y_0 that `run` draws first, (S, n)."""
    y, log_normal = SIGMA * streams.normal(n, 2), module().log_normal
    root = ((rest[0] * scale) ** 2 + (1 - rest[0] ** 2) * SIGMA**2).sqrt()
    return log_normal(y - rest[0] * MEAN, root) - log_normal(y, SIGMA)


@pytest.mark.parametrize("steps", [1, 5])
def test_the_exact_control_gives_every_path_the_weight_z(streams, steps):
    """For N(m, sigma^2 I) the best step is a shift by a_k c_{k+1} m, which f can make: then nothing but y_0 varies."""
    made, target = process(steps), normal(SIGMA)
    rest = left(made)

    def control(k, y):
        shift = made.noise[k] ** 2 * rest[k + 1] * MEAN
        return (shift / (2 * SIGMA**2 * made.push[k])).expand_as(y)

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
    """For another variance f = grad log E[gamma / N(0, sigma^2) | y_k] is best only as K grows: var log w is O(1 / K)."""
    scale, spread = 0.6 * SIGMA, []
    for steps in (32, 128):
        made, noise = process(steps), streams.fork(str(steps))
        rest = left(made)

        def control(k, y, rest=rest):
            variance = (rest[k] * scale) ** 2 + (1 - rest[k] ** 2) * SIGMA**2
            return y / SIGMA**2 - (y - rest[k] * MEAN) / variance

        y, w = made.run(control, noise.fork("run"), 4000, 2)
        log_w = w + normal(scale).log_prob(y) - at_start(rest, scale, noise.fork("run"), 4000)
        spread.append(log_w.var(1))
        value, se = module().log_mean(log_w)
        assert bool((((value - LOG_Z) / se).abs() < 5).all())
    ratio = spread[0] / spread[1]
    assert bool(((ratio > 3) & (ratio < 6)).all()), ratio  # 4 as K grows
    assert bool((spread[1] < 0.05).all()), spread


@pytest.mark.parametrize("size", [0.0, 0.4])
def test_z_is_unbiased_with_any_control(streams, size):
    made, target = process(4), normal(0.8 * SIGMA)
    y, w = made.run(lambda k, y: size * (y.sin() + 0.3 * k), streams, 40_000, 2)
    weights = (w + target.log_prob(y)).exp()
    gap = weights.mean(1) - math.exp(LOG_Z)
    se = weights.std(1) / 200
    assert bool((gap.abs() < 5 * se).all())
    assert bool((se < 0.1 * math.exp(LOG_Z)).all())
    value, error = module().log_mean(weights.log())
    torch.testing.assert_close(value, weights.mean(1).log())
    torch.testing.assert_close(error, se / weights.mean(1))


def test_log_mean_of_far_exponents():
    value, se = module().log_mean(torch.tensor([[-5000.0, -5000.0 + math.log(3)]], dtype=torch.float64))
    torch.testing.assert_close(value, torch.tensor([-5000.0 + math.log(2)], dtype=torch.float64))
    torch.testing.assert_close(se, torch.tensor([0.5]).double())  # sd of {1, 3} is sqrt 2, by the mean 2 and sqrt 2


def moved(drift, streams, gate):
    """The network's parameters off their start; `gate`: NN_2 too."""
    names = drift.parameters.leaves
    with torch.no_grad():
        for i, leaf in enumerate(names):
            if gate or i not in (11, 12):
                leaf += 0.2 * streams.fork(f"leaf/{i}").normal(*leaf.shape[1:])
    return drift


def test_the_network_is_its_formula(streams):
    drift = moved(module().Drift(2, 4, streams.fork("net")), streams, gate=True)
    y, clip = 3 * streams.fork("y").normal(6, 2), 1.5
    control = drift.at(5, skewed_score, clip)
    phase, *parts = drift.parameters.leaves
    layers = list(zip(parts[::2], parts[1::2], strict=True))
    gelu = torch.nn.functional.gelu
    for k in range(5):
        angle = torch.linspace(0.1, 100, 4, dtype=torch.float64) * k / 5 + phase
        embedded = torch.cat([angle.sin(), angle.cos()], -1)

        def through(x, chosen):
            for i, (weight, bias) in enumerate(chosen):
                x = (x if i == 0 else gelu(x)) @ weight + bias
            return x

        code = through(embedded, layers[:2]).expand(3, 6, 4)
        gate = through(embedded, layers[2:6])
        state = through(torch.cat([y, code], -1), [layers[7], layers[8], layers[6]])
        s = skewed_score(y)
        assert s.abs().max() > clip
        torch.testing.assert_close(control(k, y), state + gate * s.clamp(-clip, clip), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gate", [False, True])
def test_the_gradient_is_that_of_the_loss(streams, gate):
    """Against autograd of the docstring's loss through log gamma; where NN_2 = 0, against differences of it too."""
    dds, made = module(), process(6)
    drift = moved(dds.Drift(2, 4, streams.fork("net")), streams, gate)

    def value():
        control, noise = drift.at(6, skewed_score, 100.0), streams.fork("noise")
        y, cost = SIGMA * noise.normal(30, 2), 0.0
        for k in range(6):
            a, f = made.noise[k] ** 2, control(k, y)
            l = 1 - math.sqrt(1 - a)  # noqa: E741
            cost = cost + (2 * SIGMA[..., 0] ** 2 * l**2 / a) * f.square().sum(-1)
            y = math.sqrt(1 - a) * y + 2 * SIGMA**2 * l * f + SIGMA * math.sqrt(a) * noise.normal(30, 2)
        return (cost + dds.log_normal(y, SIGMA) - skewed(y)).mean(1).sum()

    control = drift.at(6, skewed_score, 100.0)
    found = drift.parameters.gradient(dds.loss(made, control, skewed_score, streams.fork("noise"), 30, 2))
    expected = drift.parameters.gradient(value())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    if gate:
        return
    way, h = streams.fork("way").normal(found.numel() // 3).flatten(), 1e-6
    with torch.no_grad():
        drift.parameters.flat += h * way
        above = value()
        drift.parameters.flat -= 2 * h * way
        slope = (above - value()) / (2 * h)
    torch.testing.assert_close(slope, (found * way).sum(), rtol=1e-6, atol=1e-4)


def test_it_starts_as_the_reference(streams):
    control = module().Drift(3, 8, streams).at(4, lambda x: 100 * x, 100.0)
    y = streams.fork("y").normal(5, 3)
    assert all(bool((control(k, y) == 0).all()) for k in range(4))


def test_sigma_is_the_size_of_p0():
    streams = Streams((1, 2), dtype=torch.float64)

    def draw(n, rng):
        x = 2.5 * rng.normal(n, 3)
        return torch.where(rng.uniform(n, 1) < 1e-3, 1e6 * x, x)  # a heavy tail

    found = coordinate_size(Problem((3,), (math.inf,), (Initial(draw),)), streams)
    # the median of 12,288 sizes has a standard error of 1.2 %
    assert bool(((found / 2.5 - 1).abs() < 0.06).all())


@pytest.mark.slow
def test_trained_it_knows_log_z():
    """N(m, s^2 I) off centre, which the reference does not know: at the start the ELBO is 3 nats and more too low."""
    streams = Streams((3, 5), dtype=torch.float64)
    scale = torch.tensor(0.6).double()[None, None, None]
    problem = Problem((2,), (math.inf,), (Initial(lambda n, rng: rng.normal(n, 2)), normal(scale)))
    method = registry.parse(
        "method", "dds:steps=16,batch=64,width=16,iterations=150,every=150,evidence=2000,sigma=1,lr=0.01"
    )
    (law,) = method.fit(problem, Budget(), streams.fork("method"))
    value, se = law.log_z
    assert bool(((value - LOG_Z).abs() < 5 * se).all())
    assert bool((se < 0.03).all())
    x = law.draw(4000, streams.fork("judge"))
    assert (x.mean(1) - MEAN).abs().max() < 0.15
    assert (x.std(1) - 0.6).abs().max() < 0.15
