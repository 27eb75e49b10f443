"""JKO-Flow: its limit is the GAN, its losses are what they are called, its steps are proximal."""

import importlib
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from gwfbench.budget import Budget
from gwfbench.errors import UserError
from gwfbench.info import Initial, TargetSamples
from gwfbench.nn import networks
from gwfbench.nn.adam import Adam
from gwfbench.plugins import registry
from gwfbench.protocol import Problem
from gwfbench.rng import Streams
from gwfbench.training.jko_step import batches

SMALL = "iterations=7,batch=16,pool=64,width=4,critic_width=4"
LOSSES = ("js", "nonsaturating", "hinge")


def jko_flow(words):
    return registry.parse("method", f"jko_flow:{words}")


def stripes(n, rng):
    """Images whose left half is bright, with some noise."""
    bright = torch.ones(1, 8, 8).double()
    bright[..., 4:] = -1
    return bright + 0.1 * rng.normal(n, 1, 8, 8)


def problem_of(kind):
    if kind == "vectors":
        return registry.parse("task", "toy2d:shape=moons").build(Streams((0,), dtype=torch.float64)).problem
    infos = (Initial(lambda n, rng: rng.normal(n, 1, 8, 8)), TargetSamples(stripes))
    return Problem((1, 8, 8), (math.inf,), infos)


def method_streams(*seeds):
    return Streams(seeds, dtype=torch.float64).fork("method")


def gan(problem, loss, critic_steps, lr, rng):
    """A GAN as one writes it, with generator T and latent law P_0; its noise is the method's."""
    images = len(problem.shape) == 3
    t = networks.transport("unet" if images else "mlp", problem.shape, 4, None, rng.fork("map"))
    d = networks.critic("resnet" if images else "mlp", problem.shape, 1, 4, None, rng.fork("critic"), spectral=images)
    t_adam, d_adam = Adam(t.parameters, lr, (0.0, 0.9)), Adam(d.parameters, lr, (0.0, 0.9))
    noise = rng.fork("step/0")
    latent = batches(problem[Initial].draw(64, rng.fork("pool")), 16, noise.fork("shuffle"))
    real = iter(problem[TargetSamples].draw(7 * critic_steps * 16, noise.fork("real/0")).split(16, 1))
    bce = F.binary_cross_entropy_with_logits
    for j in range(7):
        now = 1.0 if images else 0.5 * (1 + math.cos(math.pi * j / 7))
        z = next(latent)
        for _ in range(critic_steps):
            on_fake, on_real = d(torch.cat([t(z).detach(), next(real)], 1)).chunk(2, 1)
            if loss == "hinge":
                value = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
            else:
                value = bce(on_real, torch.ones_like(on_real)) + bce(on_fake, torch.zeros_like(on_fake))
            d_adam.descend(value, now)
        on_fake = d(t(z), frozen=True)
        value = {
            "hinge": lambda raw: -raw.mean(),
            "nonsaturating": lambda raw: bce(raw, torch.ones_like(raw)),
            "js": lambda raw: -bce(raw, torch.zeros_like(raw)),  # the saturating one of Goodfellow et al. 2014
        }[loss](on_fake)
        t_adam.descend(value, now)
    return t


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["vectors", "images"])
def test_one_step_without_cost_is_a_gan(kind, loss):
    problem, critic_steps = problem_of(kind), 5
    x = problem[Initial].draw(50, Streams((9,), dtype=torch.float64))
    (law,) = jko_flow(f"step=inf,steps=1,loss={loss},lr=0.01,{SMALL}").fit(problem, Budget(), method_streams(0))
    assert law.t == 1
    ours = law.push(x, method_streams(1))
    theirs = gan(problem, loss, critic_steps, 0.01, method_streams(0))(x, frozen=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert (ours - x).abs().max() > 0.01
    (law,) = jko_flow(f"step=1,steps=1,loss={loss},lr=0.01,{SMALL}").fit(problem, Budget(), method_streams(0))
    assert (law.push(x, method_streams(1)) - theirs).abs().max() > 1e-5, "the cost counts"


@pytest.mark.parametrize("kind", ["vectors", "images"])
def test_a_short_step_hardly_moves(kind):
    problem = problem_of(kind)
    x = problem[Initial].draw(200, Streams((9,), dtype=torch.float64))
    moved = []
    for step in ("inf", "0.01"):
        size = "iterations=25,batch=32,pool=640,width=4,critic_width=4,critic_steps=1"
        words = f"step={step},steps=1,{size},critic={'dcgan' if kind == 'images' else 'mlp'},lr=0.01,decay=cosine"
        (law,) = jko_flow(words).fit(problem, Budget(), method_streams(0))
        moved.append((law.push(x, method_streams(1)) - x).flatten(2).norm(dim=-1).mean().item())
    assert moved[1] < 0.15 * moved[0]


# Losses at the best critic, P = N(0, 1) and Q = N(0.7, 1.4^2) on the line by quadrature


def densities():
    y = torch.linspace(-14, 16, 30_001, dtype=torch.float64)
    log_p = -0.5 * y**2 - 0.5 * math.log(2 * math.pi)
    log_q = -0.5 * ((y - 0.7) / 1.4) ** 2 - 0.5 * math.log(2 * math.pi) - math.log(1.4)
    return y, log_p, log_q


def expectation(values, log_density, y):
    return torch.trapezoid(values * log_density.exp(), y)


def critic_value(loss, d, log_p, log_q, y):
    """The critic's loss, its means replaced by integrals: it is additive in points of P and Q."""
    value, _ = importlib.import_module("gwfbench.baselines.jko_flow").LOSSES[loss]
    zero = torch.zeros(1, 1, dtype=torch.float64)
    base = value(zero, zero)
    on_p = value(d[:, None], zero) - base / 2  # a seed a point
    on_q = value(zero, d[:, None]) - base / 2
    return expectation(on_p, log_p, y) + expectation(on_q, log_q, y)


@pytest.mark.parametrize("loss", LOSSES)
def test_critic_loss_at_its_best_is_minus_the_divergence(loss):
    y, log_p, log_q = (part[::20] for part in densities())
    p, q = log_p.exp(), log_q.exp()
    mixed = ((p + q) / 2).log()
    twice_js = expectation(log_p - mixed, log_p, y) + expectation(log_q - mixed, log_q, y)
    twice_tv = torch.trapezoid((p - q).abs(), y)
    best = (log_q - log_p).sign() if loss == "hinge" else log_q - log_p
    value = critic_value(loss, best, log_p, log_q, y)
    expected = 2 - twice_tv if loss == "hinge" else -twice_js
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-4 if loss == "hinge" else 1e-9)
    for other in (best + 0.1 * y.sin(), 0.8 * best, best + 0.2):
        assert critic_value(loss, other, log_p, log_q, y) > value + 1e-4


@pytest.mark.parametrize("loss", ["js", "nonsaturating"])
def test_map_loss_descends_the_first_variation(loss):
    """Its slope at y is that of dF/dP: of log(2 r / (1 + r)) for 2 JS, of log((1 + r) / 2) for 2 KL((P + Q)/2 | Q)."""
    y = densities()[0][None, 10_000:20_000:50].clone().requires_grad_()
    log_r = -0.5 * y**2 + 0.5 * ((y - 0.7) / 1.4) ** 2 + math.log(1.4)
    _, map_value = importlib.import_module("gwfbench.baselines.jko_flow").LOSSES[loss]
    (ours,) = torch.autograd.grad(map_value(-log_r).sum() * y.shape[1], y, retain_graph=True)
    variation = log_r - F.softplus(log_r) if loss == "js" else F.softplus(log_r)
    (exact,) = torch.autograd.grad(variation.sum(), y)
    torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vectors", "images"])
def test_goes_on_from_each_state_with_the_same_numbers(kind):
    problem = problem_of(kind)
    if kind == "vectors":
        problem = registry.parse("task", "toy2d").build(Streams((3, 7), dtype=torch.float64)).problem
    method = jko_flow(f"steps=3,lr=0.01,critic_steps=1,{SMALL}")
    x = problem[Initial].draw(20, Streams((3, 7), dtype=torch.float64))
    points, states, cloud = [], [], x
    for law in method.fit(problem, Budget(), method_streams(3, 7)):
        cloud = law.push(cloud, method_streams(1))
        points.append(cloud)
        states.append(law.state())
    assert [state["k"] for state in states] == [1, 2, 3]
    assert any(name.startswith("buffers/") for name in states[0]) == (kind == "images")
    for done, state in enumerate(states, 1):
        cloud = points[done - 1]
        rest = list(method.resume(problem, Budget(), method_streams(3, 7), state))
        assert len(rest) == 0 or done < 3
        for law, expected in zip(
            method.resume(problem, Budget(), method_streams(3, 7), state), points[done:], strict=True
        ):
            cloud = law.push(cloud, method_streams(1))
            assert torch.equal(cloud, expected)
    assert not torch.equal(states[0]["pool"], states[1]["pool"])


def test_times_of_the_laws():
    problem = problem_of("vectors")
    for words, problem_, times in (
        ("step=0.5,steps=2", problem, [0.5, 1.0]),
        ("step=inf,steps=2", problem, [1.0, 2.0]),
        ("step=0.5", replace(problem, times=(0.6, 1.0)), [0.3, 0.6, 1.0]),
        ("step=inf", replace(problem, times=(0.6, 1.0)), [0.6, 1.0]),
    ):
        laws = jko_flow(f"{words},iterations=1,batch=16,pool=64,width=4").fit(problem_, Budget(), method_streams(0))
        assert [law.t for law in laws] == pytest.approx(times)


@pytest.mark.parametrize(
    "words", ["step=0", "lr=0", "beta1=1", "iterations=0", "pool=10,batch=11", "network=dcgan", "critic=unet"]
)
def test_what_can_not_be_is_refused(words):
    with pytest.raises(
        UserError, match=words.split("=")[0] if words[:2] != "ne" and words[:2] != "cr" else "points of"
    ):
        list(jko_flow(words).fit(problem_of("vectors"), Budget(), method_streams(0)))


def test_reaches_a_stripe():
    """From noise: the mean image is right to 0.1, where P_0 is off by 1."""
    problem = problem_of("images")
    words = "step=20,steps=2,iterations=40,batch=16,width=4,critic=dcgan,critic_width=8,critic_steps=1,lr=0.01,pool=512"
    x = problem[Initial].draw(100, Streams((9,), dtype=torch.float64))
    for law in jko_flow(words).fit(problem, Budget(), method_streams(0)):
        x = law.push(x, method_streams(1))
    off = (x.mean(1) - stripes(1, Streams((1,), dtype=torch.float64))[:, 0]).abs().mean()
    assert off < 0.3


@pytest.mark.parametrize(
    ("words", "size"), [("", 112), ("pool=64,", 64), ("pool=4096,", 112), ("iterations=2,pool=64,", 32)]
)
def test_no_particle_is_pushed_that_no_step_uses(words, size):
    """At most iterations x batch of them: 7 x 16 by default here."""
    drawn, problem = [], problem_of("vectors")
    initial = problem[Initial].draw
    counted = Initial(lambda n, rng: drawn.append(n) or initial(n, rng))
    others = tuple(info for info in problem.infos if not isinstance(info, Initial))
    iterations = "" if "iterations" in words else "iterations=7,"
    method = jko_flow(f"{words}{iterations}batch=16,width=4,critic_width=4,critic_steps=1")
    next(iter(method.fit(replace(problem, infos=(counted, *others)), Budget(), method_streams(0))))
    assert drawn == [size]
