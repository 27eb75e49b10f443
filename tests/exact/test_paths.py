"""Path samplers: unbiased Z with any drift, the gradient of the loss, the network, where they start."""

import math
import sys

import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.info import Initial, LogDensity
from gwfbench.nn.score_drift import Drift
from gwfbench.plugins import registry
from gwfbench.protocol import Problem
from gwfbench.rng import Streams
from gwfbench.training.paths import first_state, log_mean, log_normal
from gwfbench.velocity.size import coordinate_size

SIGMA = torch.tensor([0.8, 1.3, 2.0]).double()[:, None, None]  # of three seeds
MEAN, LOG_Z = torch.tensor([0.7, -1.9]).double(), 1.7


def process(name, steps):
    module = sys.modules[registry.find("method", name).load().__module__]
    return module.process(steps, *{"dds": (4.4,), "pis": ()}[name], SIGMA)


def log_prob(x):
    """Of LOG_Z N(MEAN, (0.8 sigma)^2 I)."""
    return LOG_Z + log_normal(x - MEAN, 0.8 * SIGMA)


def skewed(x):
    u, v = x.unbind(-1)
    return -0.3 * u**4 - 0.5 * (v - 0.4 * u.square() + 0.2 * u) ** 2 + 0.1 * u.sin()


def skewed_score(x):
    return torch.func.grad(lambda y: skewed(y).sum())(x)


@pytest.mark.parametrize("name", ["dds", "pis"])
@pytest.mark.parametrize("size", [0.0, 0.4])
def test_z_is_unbiased_with_any_control(streams, size, name):
    made = process(name, 4)
    y, w = made.run(lambda k, y: size * (y.sin() + 0.3 * k), streams, 40_000, 2)
    weights = (w + log_prob(y)).exp()
    gap = weights.mean(1) - math.exp(LOG_Z)
    se = weights.std(1) / 200
    assert bool((gap.abs() < 5 * se).all())
    assert bool((se < 0.1 * math.exp(LOG_Z)).all())
    value, error = log_mean(weights.log())
    torch.testing.assert_close(value, weights.mean(1).log())
    torch.testing.assert_close(error, se / weights.mean(1))


def test_log_mean_of_far_exponents():
    value, se = log_mean(torch.tensor([[-5000.0, -5000.0 + math.log(3)]], dtype=torch.float64))
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
    drift = moved(Drift(2, 4, streams.fork("net")), streams, gate=True)
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
@pytest.mark.parametrize("name", ["dds", "pis"])
def test_the_gradient_is_that_of_the_loss(streams, gate, name):
    """Against autograd of the docstrings' loss through log gamma; where NN_2 = 0, against differences of it too."""
    made = process(name, 6)
    drift = moved(Drift(2, 4, streams.fork("net")), streams, gate)

    def value():
        control, noise = drift.at(6, skewed_score, 100.0), streams.fork("noise")
        y = SIGMA * noise.normal(30, 2) if name == "dds" else torch.zeros(3, 30, 2, dtype=torch.float64)
        cost = 0.0
        for k in range(6):
            b = control(k, y)
            if name == "dds":
                a = made.noise[k] ** 2
                l = 1 - math.sqrt(1 - a)  # noqa: E741
                cost = cost + (2 * l**2 / a / SIGMA[..., 0] ** 2) * b.square().sum(-1)
                y = math.sqrt(1 - a) * y + 2 * l * b + SIGMA * math.sqrt(a) * noise.normal(30, 2)
            else:
                cost = cost + b.square().sum(-1) / (12 * SIGMA[..., 0] ** 2)
                y = y + b / 6 + SIGMA / math.sqrt(6) * noise.normal(30, 2)
        return (cost + log_normal(y, SIGMA) - skewed(y)).mean(1).sum()

    control = drift.at(6, skewed_score, 100.0)
    found = drift.parameters.gradient(made.loss(control, skewed_score, streams.fork("noise"), 30, 2))
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


def test_where_the_target_has_no_score_the_network_goes_without(streams):
    drift = moved(Drift(2, 4, streams.fork("net")), streams, gate=True)
    y = streams.fork("y").normal(6, 2)
    without = drift.at(5, torch.zeros_like, 100.0)(3, y)
    assert torch.equal(drift.at(5, lambda x: torch.full_like(x, math.nan), 100.0)(3, y), without)


def test_it_starts_as_the_reference(streams):
    control = Drift(3, 8, streams).at(4, lambda x: 100 * x, 100.0)
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
    problem = Problem((3,), (math.inf,), (Initial(draw), LogDensity(log_prob, skewed_score)))
    assert torch.equal(
        torch.as_tensor(first_state(None, problem, streams)["sigma"]), coordinate_size(problem, streams.fork("size"))
    )
    assert torch.equal(torch.as_tensor(first_state(0.3, problem, streams)["sigma"]), torch.full((2,), 0.3))


@pytest.mark.parametrize("name", ["dds", "pis"])
@pytest.mark.parametrize("calls", [3000, 10_000, None])
def test_a_small_budget_of_score_calls_gets_a_law(streams, name, calls):
    made, seen = 0, []

    def counted(x):
        nonlocal made
        made += x.shape[1]
        return skewed_score(x)

    problem = Problem((2,), (math.inf,), (Initial(lambda n, rng: rng.normal(n, 2)), LogDensity(skewed, counted)))
    method = registry.parse("method", f"{name}:steps=8,batch=10,width=8,iterations=100,every=50,evidence=100")
    for law in method.fit(problem, Budget(score_calls=calls), streams):
        seen.append((int(law.t), made))
    first, used = seen[0]
    assert first == {3000: 24, 10_000: 50, None: 50}[calls]
    assert used == first * 90 + 800  # 8 steps and the end of 10 paths; 8 steps of 100
    assert calls is None or used <= calls


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dds", "pis"])
def test_trained_it_knows_log_z(name):
    """N(m, s^2 I) off centre, which the reference does not know: at the start the ELBO is 3 nats and more too low."""
    streams = Streams((3, 5), dtype=torch.float64)
    scale = torch.tensor(0.6).double()[None, None, None]
    normal = LogDensity(lambda x: LOG_Z + log_normal(x - MEAN, scale), lambda x: (MEAN - x) / scale**2)
    problem = Problem((2,), (math.inf,), (Initial(lambda n, rng: rng.normal(n, 2)), normal))
    method = registry.parse(
        "method", f"{name}:steps=16,batch=64,width=16,iterations=150,every=150,evidence=2000,sigma=1,lr=0.01"
    )
    (law,) = method.fit(problem, Budget(), streams.fork("method"))
    value, se = law.log_z
    assert bool(((value - LOG_Z).abs() < 5 * se).all())
    assert bool((se < 0.03).all())
    x = law.draw(4000, streams.fork("judge"))
    assert (x.mean(1) - MEAN).abs().max() < 0.15
    assert (x.std(1) - 0.6).abs().max() < 0.15
