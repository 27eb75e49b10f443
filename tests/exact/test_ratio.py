"""f-divergence flows: weights against autograd of f', the flow of Gaussians in closed form, the critic against log p/q."""

import math

import pytest
import torch

from gwfbench.velocity.ratio import WEIGHTS, Critic, velocity

GENERATORS = {
    "kl": lambda r: r * r.log(),
    "reverse_kl": lambda r: -r.log(),
    "js": lambda r: r * r.log() - (1 + r) * ((1 + r) / 2).log(),
    "logd": lambda r: (1 + r) * ((1 + r) / 2).log() - r + 1,
    "jeffreys": lambda r: (r - 1) * r.log(),
    "chi2": lambda r: (r - 1).square(),
}


class Gaussian:
    def __init__(self, mean, scale):
        self.mean, self.scale = torch.tensor(mean, dtype=torch.float64), scale

    def log_prob(self, x):
        d = len(self.mean)
        return -((x - self.mean) / self.scale).square().sum(-1) / 2 - d * math.log(self.scale * math.sqrt(2 * math.pi))

    def score(self, x):
        return (self.mean - x) / self.scale**2


Q, P = Gaussian([0.3, -0.2], 1.3), Gaussian([1.0, 0.5], 0.9)


def log_ratio(x):
    return P.log_prob(x) - Q.log_prob(x)


def test_every_divergence_has_a_generator_here():
    assert set(GENERATORS) == set(WEIGHTS)
    one = torch.ones((), dtype=torch.float64)
    assert all(abs(f(one)) < 1e-12 for f in GENERATORS.values())


@pytest.mark.parametrize("divergence", WEIGHTS)
def test_the_velocity_is_minus_the_gradient_of_the_first_variation(streams, divergence):
    """v = -grad f'(r), r = q/p, with f' by autograd, and = w(r) (grad log p - grad log q)."""
    x = streams.normal(200, 2).requires_grad_()
    r = (-log_ratio(x)).exp()
    (slope,) = torch.autograd.grad(GENERATORS[divergence](r).sum(), r, create_graph=True)
    (gradient,) = torch.autograd.grad(slope.sum(), x)
    v = velocity(log_ratio, x.detach(), divergence, clip=math.inf)
    torch.testing.assert_close(v, -gradient)
    weight = WEIGHTS[divergence](log_ratio(x.detach()))[..., None]
    torch.testing.assert_close(v, weight * (P.score(x) - Q.score(x)).detach())


@pytest.mark.parametrize("divergence", WEIGHTS)
def test_the_velocity_descends_its_divergence(divergence):
    """Moving q along u changes F(q) = int p f(q/p) by -int q v u; here q is narrower than p, on a line, by quadrature."""
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)[None, :, None]
    cell = float(grid[0, 1, 0] - grid[0, 0, 0])
    p = Gaussian([0.4], 1.3)

    def q(shift):
        law = Gaussian([-0.5], 0.9)
        law.mean = law.mean + shift
        return law.log_prob(grid)

    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = (p.log_prob(grid).exp() * GENERATORS[divergence]((q(shift) - p.log_prob(grid)).exp())).nansum() * cell
    (slope,) = torch.autograd.grad(value, shift)
    v = velocity(lambda x: p.log_prob(x) - Gaussian([-0.5], 0.9).log_prob(x), grid, divergence, clip=math.inf)
    work = (q(0.0).exp() * v[..., 0]).sum() * cell
    assert float(work) == pytest.approx(-float(slope), rel=1e-6)
    assert work > 0.1  # to the right, where p is


def test_with_the_true_ratio_the_kl_flow_of_a_gaussian_is_ornstein_uhlenbecks(streams):
    """q_t stays Gaussian, m' = (m_p - m)/s_p^2 and s' = s (1/s^2 - 1/s_p^2), so m_t = m_p + e^{-t/s_p^2} (m - m_p)."""
    x = Q.mean + Q.scale * streams.whitened(512, 2, block=512)
    h, steps = 0.004, 250
    for _ in range(steps):
        q = Gaussian([0.0, 0.0], float(x.var((0, 1), correction=0).mean().sqrt()))
        q.mean = x.mean((0, 1))
        x = x + h * velocity(lambda x, q=q: P.log_prob(x) - q.log_prob(x), x, "kl", clip=3.0)
    decay = math.exp(-h * steps / P.scale**2)
    torch.testing.assert_close(x.mean(1), (P.mean + decay * (Q.mean - P.mean)).expand(3, 2), atol=2e-3, rtol=0)
    variance = P.scale**2 + decay**2 * (Q.scale**2 - P.scale**2)
    torch.testing.assert_close(x.var(1, correction=0), torch.full_like(x[:, 0], variance), atol=5e-3, rtol=0)


def test_the_clip_holds_the_weight_and_not_the_gradient():
    x = torch.tensor([[[-30.0, 0.0], [0.9, 0.4]]], dtype=torch.float64)
    free, held = (velocity(log_ratio, x, "chi2", clip) for clip in (math.inf, 1.0))
    gradient = velocity(log_ratio, x, "kl", 1.0)
    torch.testing.assert_close(gradient, P.score(x) - Q.score(x))
    torch.testing.assert_close(held[0, 0], 2 * math.e * gradient[0, 0])
    assert free[0, 0].norm() > 1e10 * held[0, 0].norm()
    torch.testing.assert_close(held[0, 1], free[0, 1])


@pytest.mark.slow
def test_a_trained_critic_is_near_the_true_ratio(streams):
    critic = Critic(2, streams.fork("critic"), width=16, lr=5e-3, updates=1)
    for k in range(400):
        here = streams.fork(str(k))
        x = Q.mean + Q.scale * here.fork("x").normal(512, 2)
        v = critic(x, P.mean + P.scale * here.fork("y").normal(512, 2), here)
    error = critic.log_ratio(x).detach() - log_ratio(x)
    near = (x - Q.mean).norm(dim=-1) < 2 * Q.scale
    truth = (P.score(x) - Q.score(x)).detach()
    for seed in range(3):
        assert error[seed][near[seed]].square().mean().sqrt() < 0.15
        away = (v - truth)[seed][near[seed]].square().sum(-1).mean().sqrt()
        assert away < 0.25 * truth[seed][near[seed]].square().sum(-1).mean().sqrt()


def test_a_critics_step_is_down_the_logistic_loss(streams):
    """The first step against torch's own Adam and binary cross entropy."""
    critic = Critic(2, streams.fork("critic"), width=8, depth=1, lr=1e-2, updates=1)
    leaves = [leaf.detach().clone().requires_grad_() for leaf in critic._net.parameters.leaves]
    x, y = streams.fork("x").normal(20, 2), 1 + streams.fork("y").normal(30, 2)

    def value(z):
        return torch.baddbmm(leaves[3], torch.nn.functional.silu(torch.baddbmm(leaves[1], z, leaves[0])), leaves[2])

    logits, adam = torch.nn.functional.binary_cross_entropy_with_logits, torch.optim.Adam(leaves, lr=1e-2)
    for seed in range(3):
        zero, one = value(x)[seed], value(y)[seed]
        (logits(zero, torch.zeros_like(zero)) + logits(one, torch.ones_like(one))).backward()
    adam.step()
    with torch.no_grad():
        critic(x, y, streams)  # trains with gradients off around it
    for ours, theirs in zip(critic._net.parameters.leaves, leaves, strict=True):
        torch.testing.assert_close(ours.detach(), theirs.detach(), atol=1e-8, rtol=1e-6)
