"""Objectives of adversarial flows: values, generators' velocities, kernels and penalties against closed forms."""

import math

import pytest
import torch
from scipy.stats import norm

from gwfbench.errors import UserError
from gwfbench.nn.silu import SiLU
from gwfbench.objectives import variational
from gwfbench.objectives.adversarial import SCALAR, reversed_
from gwfbench.objectives.embedding import FIXED, Mixture, Relation, embedded, mmd_squared
from gwfbench.objectives.penalties import at_both, jacobian_norm
from gwfbench.rng import Streams
from gwfbench.velocity import kernels

N = 200_001
M, S, MU, SIGMA = 0.4, 0.8, 0.1, 1.1  # q = N(M, S^2), p = N(MU, SIGMA^2): nothing symmetric, and r < 2
LEVELS = (torch.arange(N).double() + 0.5) / N
X = torch.from_numpy(norm.ppf(LEVELS.numpy(), M, S))[None]  # plain averages over X and Y are expectations, to 1e-5
Y = torch.from_numpy(norm.ppf(LEVELS.numpy(), MU, SIGMA))[None]
GRID = torch.linspace(-14, 14, 400_001, dtype=torch.float64)


def log_normal(x, mean, scale):
    return -0.5 * ((x - mean) / scale) ** 2 - math.log(scale * math.sqrt(2 * math.pi))


def log_r(x):
    return log_normal(x, M, S) - log_normal(x, MU, SIGMA)


def r(x):
    return log_r(x).exp()


def integral(f):
    """int p f(q/p), by the trapezoidal rule: exact to 1e-12 for these functions."""
    return float(torch.trapezoid(log_normal(GRID, MU, SIGMA).exp() * f(r(GRID)), GRID))


def kl(m, s, m0, s0):
    return math.log(s0 / s) + (s**2 + (m - m0) ** 2) / (2 * s0**2) - 0.5


def entropy(t):
    return torch.xlogy(t, t)


KL = kl(M, S, MU, SIGMA)
CHI2 = integral(lambda t: (t - 1) ** 2)
JS2 = integral(lambda t: entropy(t) - (1 + t) * torch.log((1 + t) / 2))
CROSS = (MU - SIGMA / S * M) / (1 - SIGMA / S)  # where the monotone map from q to p stands still; it spreads
W1 = float((X - Y).abs().mean())

# best D, F, w(r)
CASES = {
    "kl": (lambda x: -1 - log_r(x), KL, lambda t: 1 + 0 * t),
    "kl_centered": (lambda x: -log_r(x), KL, lambda t: 1 + 0 * t),
    "kl_dv": (lambda x: 0.7 - log_r(x), KL, lambda t: 1 + 0 * t),
    "chi2": (lambda x: 2 * (1 - r(x)), CHI2, lambda t: 2 * t),
    "chi2_tight": (lambda x: 3 - 0.6 * r(x), CHI2, lambda t: 2 * t),
    "js": (lambda x: -log_r(x), JS2, lambda t: 1 / (1 + t)),
    "shannon": (lambda x: -log_r(x), JS2, lambda t: t / (1 + t)),
    "hinge": (lambda x: (1 - r(x)).sign(), integral(lambda t: (1 - t).abs()), None),
    "wasserstein1": (lambda x: (x - CROSS).abs(), W1, None),
    "chi": (lambda x: 2 * (1 - r(x)), CHI2, lambda t: 2 * t),
    "softplus": (
        lambda x: (2 / r(x) - 1).log(),
        integral(lambda t: entropy(t) + entropy(2 - t)),
        lambda t: 2 / (2 - t),
    ),
}
BACK = {
    "kl": (lambda x: -1 + log_r(x), kl(MU, SIGMA, M, S), lambda t: 1 / t),
    "kl_centered": (log_r, kl(MU, SIGMA, M, S), lambda t: 1 / t),
    "kl_dv": (log_r, kl(MU, SIGMA, M, S), lambda t: 1 / t),
}


def test_every_objective_has_a_case():
    assert CASES.keys() == SCALAR.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_at_the_best_critic_the_value_is_the_divergence_and_below_it_elsewhere(name):
    best, divergence, _ = CASES[name]
    objective = SCALAR[name]
    assert objective.value(best(Y), best(X)).item() == pytest.approx(divergence, abs=3e-4)
    for bump in (torch.sin, torch.tanh, lambda x: (x - 0.3).clamp(-1, 1).square()):
        for size in (-0.3, 0.2):
            if name == "wasserstein1":  # it stays within slopes of 1
                other = lambda x, bump=bump, size=size: (1 - abs(size) * 2) * best(x) + size * bump(x)  # noqa: E731
            else:
                other = lambda x, bump=bump, size=size: best(x) + size * bump(x)  # noqa: E731
            value = objective.value(other(Y), other(X)).item()
            assert value < divergence - 1e-4, (size, value)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[2]])
def test_the_generator_follows_its_flow(name):
    best, _, weight = CASES[name]
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(SCALAR[name].generator_loss(best(Y), best(x)).sum(), x)
    check_velocity(-N * gradient, weight)


def check_velocity(velocity, weight):
    leaf = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(-log_r(leaf).sum(), leaf)
    expected = weight(r(X)) * slope
    inner = slice(N // 1000, -(N // 1000))  # beyond, the moments' small errors are multiplied
    assert torch.allclose(velocity[:, inner], expected[:, inner], rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("name", BACK)
def test_reversed(name):
    best, divergence, weight = BACK[name]
    objective = reversed_(name)
    # KL(p|q) has a log-ratio that grows where quantiles are coarse: both sides are integrals to 1e-4
    assert objective.value(best(Y), best(X)).item() == pytest.approx(divergence, abs=2e-2)
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective.generator_loss(best(Y), best(x)).sum(), x)
    velocity = -N * gradient
    if name == "kl_dv":  # E_q e^{-D} = 1 in the limit
        velocity = velocity * (-best(X)).exp().mean()
    check_velocity(velocity, weight)


@pytest.mark.parametrize("name", ["chi2", "chi2_tight"])
def test_reversed_chi2(name):
    """chi2(p|q) is finite only if p is the narrower: the laws change places."""
    objective = reversed_(name)
    u = lambda x: r(x)  # noqa: E731 - p/q when q is N(MU, SIGMA^2)
    best = (lambda x: 2 * (1 - u(x))) if name == "chi2" else (lambda x: 3 - 0.6 * u(x))
    assert objective.value(best(X), best(Y)).item() == pytest.approx(CHI2, abs=3e-4)
    y = Y.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective.generator_loss(best(X), best(y)).sum(), y)
    leaf = Y.clone().requires_grad_()
    (slope,) = torch.autograd.grad(log_r(leaf).sum(), leaf)  # of log(p/q)
    inner = slice(N // 1000, -(N // 1000))
    assert torch.allclose(-N * gradient[:, inner], (2 * u(Y) ** 2 * slope)[:, inner], rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["shannon", "js", "wasserstein1", "mmd"])
def test_what_has_no_other_direction_is_refused(name):
    with pytest.raises(UserError, match="reverse"):
        reversed_(name)


def test_the_donsker_varadhan_bound_is_never_the_lower_one(streams):
    log_ratio = streams.normal(500).double()
    for shift in (-1.0, 0.0, 0.4):
        real, fake = log_ratio + shift, streams.normal(300)
        for plain in ("kl", "kl_centered"):
            gap = SCALAR["kl_dv"].value(real, fake) - SCALAR[plain].value(real, fake)
            assert (gap >= 0).all()
            assert (gap > 1e-6).all()
        s = (-real).logsumexp(1, keepdim=True) - math.log(500)  # e^{s - 1} - s of equation 11, at the best shift
        assert torch.allclose(
            SCALAR["kl_dv"].value(real, fake), SCALAR["kl_centered"].value(real + s, fake + s), atol=1e-12
        )


@pytest.mark.parametrize(("name", "energy", "head"), [
    ("kl_centered", variational.KL, lambda d: (-d).exp()),
    ("kl_dv", variational.KL_DV, lambda d: -d),
    ("js", variational.JS, lambda d: d),
])  # fmt: skip
def test_vwgf_is_sjko_with_its_critic_reparametrised(streams, name, energy, head):
    """Proposition 3.1 of Caucheteux et al.: values and gradients of both players, on Gaussians."""
    tau, x, y = 0.3, streams.normal(40, 2), 0.5 + 1.3 * streams.normal(50, 2)
    critic, objective = SiLU((2, 16, 16, 1), streams), SCALAR[name]
    a = streams.normal(2, 2).requires_grad_()
    image = x @ a + 0.2
    cost = (image - x).square().sum(-1).mean(1) / (2 * tau)
    on_y, on_x = critic(y)[..., 0], critic(image)[..., 0]
    vwgf = cost + energy.bound(head(on_x), head(on_y))
    sjko = cost + objective.value(on_y, on_x)
    assert torch.allclose(vwgf, sjko, atol=1e-12)
    parameters = [a, *critic.parameters.leaves]
    for one, other in zip(
        torch.autograd.grad(vwgf.sum(), parameters, retain_graph=True),
        torch.autograd.grad(sjko.sum(), parameters, retain_graph=True),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-12)
    (one,) = torch.autograd.grad((cost + energy.map_loss(head(on_x))).sum(), a, retain_graph=True)
    (other,) = torch.autograd.grad((cost + objective.generator_loss(on_y, on_x)).sum(), a)
    assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize(("name", "kernel"), [
    ("rbf", kernels.gaussian(10.0)), ("imq", kernels.imq(1.0)), ("riesz", kernels.riesz(1.0)),
])  # fmt: skip
def test_mmd_is_that_of_the_kernels_module(streams, name, kernel):
    real, fake = streams.normal(7, 3), 1 + streams.normal(7, 3)
    off = 1 - torch.eye(7, dtype=torch.float64)
    rr, ff, rf = (kernels.gram(kernel, a, b) for a, b in ((real, real), (fake, fake), (real, fake)))
    within = ((rr * off).sum((1, 2)) / 42, (ff * off).sum((1, 2)) / 42)
    value = within[0] + within[1] - 2 * rf.mean((1, 2))
    assert torch.allclose(mmd_squared(FIXED[name], real, fake), value, atol=1e-6)
    for objective, critic in (("mmd", -value), ("immd", within[0] - within[1])):
        made = embedded(objective, FIXED[name])
        assert torch.allclose(made.critic_loss(real, fake), critic, atol=1e-6)
        assert torch.allclose(made.generator_loss(real, fake), value, atol=1e-6)
    z = streams.normal(7, 3)
    paired = embedded("ckmmd", FIXED[name])
    on_real, on_fake = (paired.head(part, z) for part in (real, fake))
    k = lambda a: kernels.gram(kernel, z, a).diagonal(dim1=1, dim2=2).mean(1)  # noqa: E731
    assert torch.allclose(paired.critic_loss(on_real, on_fake), k(fake) - k(real), atol=1e-6)
    assert torch.allclose(paired.generator_loss(on_real, on_fake), -k(fake), atol=1e-6)


def test_the_energy_distance_in_closed_form():
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of Gaussians on a line, within 5 standard errors of 64 estimates."""
    rng = Streams(tuple(range(64)), dtype=torch.float64)
    value = mmd_squared(FIXED["riesz"], 1.5 * rng.normal(200, 1), 0.7 + rng.normal(200, 1))

    def mean_distance(m, s):
        return s * math.sqrt(2 / math.pi) * math.exp(-(m**2) / (2 * s**2)) + m * math.erf(m / (s * math.sqrt(2)))

    expected = (
        2 * mean_distance(0.7, math.sqrt(3.25)) - mean_distance(0, 1.5 * math.sqrt(2)) - mean_distance(0, math.sqrt(2))
    )
    assert abs(value.mean() - expected) < 5 * value.std() / 8


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("aligned", [False, True])
def test_fixed_kernels_by_definition(streams, name, aligned):
    x, y = streams.normal(5, 3), streams.normal(5, 3)
    s = (x[:, :, None] - y[:, None]).square().sum(-1)
    dot = (x[:, :, None] * y[:, None]).sum(-1)
    norms = x.norm(dim=-1)[:, :, None] + y.norm(dim=-1)[:, None]
    expected = {
        "linear": dot, "rbf": (-s / 200).exp(), "riesz": -s.sqrt(), "riesz_psd": norms - s.sqrt(),
        "imq": (1 + s) ** -0.5, "rq": 1 / (1 + s / 2),
        "mix_rq": (1 + s / 0.2) ** -0.1 + 1 / (1 + s / 2) + (1 + s / 20) ** -10.0,
    }[name]  # fmt: skip
    expected = expected.diagonal(dim1=1, dim2=2) if aligned else expected
    assert torch.allclose(FIXED[name](Relation(x, y, aligned)), expected, atol=1e-5)


def mixture(streams):
    made = Mixture(streams)
    made.parameters.flat.copy_(streams.normal(7).flatten())
    return made


@pytest.mark.parametrize("aligned", [False, True])
def test_the_mixture_by_definition_and_its_slopes(streams, aligned):
    made = mixture(streams)
    x, y = ((3 * streams.normal(4, 2)).requires_grad_() for _ in range(2))
    gap = x[:, :, None] - y[:, None]
    s, taxi = gap.square().sum(-1), gap.abs().sum(-1)
    t = s.sqrt()
    a, b = math.sqrt(3) * t / 10, math.sqrt(5) * t / 10
    parts = [
        (-s / 200).exp(), sum((-s / (2 * 4.0**k)).exp() for k in range(5)), (-taxi / 100).exp(), (-t / 10).exp(),
        (1 + a) * (-a).exp(), (1 + b + b**2 / 3) * (-b).exp(),
        x.norm(dim=-1)[:, :, None] + y.norm(dim=-1)[:, None] - t,
    ]  # fmt: skip
    weights = made.parameters.leaves[0].softmax(-1)
    expected = sum(weights[:, i, None, None] * part for i, part in enumerate(parts))
    value = made(Relation(x, y, aligned))
    assert torch.allclose(value, expected.diagonal(dim1=1, dim2=2) if aligned else expected, atol=1e-5)
    assert torch.autograd.gradcheck(
        lambda x, y, _: made(Relation(x, y, aligned)), (x, y, made.parameters.leaves[0]), atol=1e-7
    )


@pytest.mark.parametrize("name", ["none", "real", "interpolated", "wgan", "r3gan"])
def test_penalties_by_hand(streams, name):
    critic = SiLU((2, 8, 3), streams)
    real, fake, u = streams.normal(4, 2), 2 + streams.normal(4, 2), streams.uniform(4)

    def norms(points, scale=1.0):
        """Squared gradient norms of scale x the sum of outputs, by finite differences, (S, n)."""
        total, h = 0.0, 1e-6
        for i in range(2):
            e = torch.zeros(2, dtype=torch.float64)
            e[i] = h
            total = total + (scale * (critic(points + e) - critic(points - e)).sum(-1) / (2 * h)) ** 2
        return total

    between = u[..., None] * real + (1 - u[..., None]) * fake
    expected = {
        "none": lambda: torch.zeros(3, dtype=torch.float64),
        "real": lambda: norms(real).mean(1),
        "interpolated": lambda: norms(between).mean(1),
        "wgan": lambda: (norms(between).sqrt() - 1).square().mean(1),
        "r3gan": lambda: (norms(real, 1 / 3).mean(1) + norms(fake, 1 / 3).mean(1)) / 2,
    }[name]()
    on_real, on_fake, penalty = at_both(critic, real, fake, name, lambda: u)
    assert torch.allclose(on_real, critic(real), atol=1e-12)
    assert torch.allclose(on_fake, critic(fake), atol=1e-12)
    assert torch.allclose(penalty + 0 * expected, expected, atol=1e-7)
    if name != "none":  # the critic can descend it
        assert all(g.isfinite().all() for g in torch.autograd.grad(penalty.sum(), critic.parameters.leaves[:-1]))


def test_the_jacobian_by_random_directions_is_unbiased():
    rng = Streams((2,), dtype=torch.float64)
    critic, x = SiLU((2, 8, 3), rng), rng.normal(1, 2)
    whole = torch.autograd.functional.jacobian(lambda x: critic(x)[0, 0], x).square().sum()
    estimates = torch.stack([jacobian_norm(critic, x, rng)[0] for _ in range(400)]).detach()
    assert abs(estimates.mean() - whole) < 5 * estimates.std() / 20
    assert estimates.std() > 0
