"""Table 1: each variational value is below its divergence for any critic, and equal to it at the known best, by quadrature."""

import math

import pytest
import torch
from scipy.stats import norm

from gwfbench.nn.adam import Adam
from gwfbench.nn.mlp import MLP
from gwfbench.objectives import variational
from gwfbench.objectives.variational import (
    JS,
    KL,
    KL_DV,
    KNEE,
    LEAST,
    exp_minus_one,
    force,
    log_h,
    pair_energy,
    plain,
    squared,
)
from gwfbench.rng import Streams
from gwfbench.training.jko_step import Critic

N = 200_001
M, S, MU, SIGMA = 0.4, 0.8, 0.1, 1.1  # P = N(M, S^2), mu or Q = N(MU, SIGMA^2): nothing symmetric
OFF, SIDE = -0.3, 12.0  # the box is [OFF - SIDE / 2, OFF + SIDE / 2]; P beyond it is 1e-12


def levels():
    return (torch.arange(N).double() + 0.5) / N


def quantiles(mean, scale):
    """Points whose plain average is the expectation to 1e-5."""
    return torch.from_numpy(norm.ppf(levels().numpy(), mean, scale))[None]


def log_normal(x, mean, scale):
    return -0.5 * ((x - mean) / scale) ** 2 - math.log(scale * math.sqrt(2 * math.pi))


def log_ratio(x):
    """log dP/dmu."""
    return log_normal(x, M, S) - log_normal(x, MU, SIGMA)


def kl(m, s, m0, s0):
    return math.log(s0 / s) + (s**2 + (m - m0) ** 2) / (2 * s0**2) - 0.5


def twice_js():
    """E_P log 2P/(P+Q) + E_Q log 2Q/(P+Q)."""
    over = torch.log(2 / (1 + torch.exp(-log_ratio(Y)))).mean() + torch.log(2 / (1 + torch.exp(log_ratio(Z)))).mean()
    return float(over)


def power_integral(m):
    """int N(M, S^2)^m."""
    return (2 * math.pi * S**2) ** ((1 - m) / 2) / math.sqrt(m)


Y, Z = quantiles(M, S), quantiles(MU, SIGMA)
U = OFF + SIDE * (levels()[None] - 0.5)
VOLUME = torch.tensor([SIDE], dtype=torch.float64)


def cases():
    """Name, energy, points of Gamma, the best critic, F."""
    divergence = kl(M, S, MU, SIGMA)
    yield "kl", KL, Z, lambda x: log_ratio(x).exp(), divergence
    yield "kl_dv", KL_DV, Z, lambda x: log_ratio(x) + 0.7, divergence  # a constant does not matter
    yield "js", JS, Z, lambda x: -log_ratio(x), twice_js()  # h = 1/(1 + e^-D) = Q/(P + Q)
    for m, weight in ((1.5, 1.0), (2.0, 0.3), (3.0, 8.1)):
        energy = variational.entropy(m, weight, VOLUME.log())
        yield (
            f"entropy {m}",
            energy,
            U,
            lambda x: log_normal(x, M, S).exp() * SIDE,
            weight / (m - 1) * power_integral(m),
        )


CASES = {name: case for name, *case in cases()}


@pytest.mark.parametrize("name", CASES)
def test_tight_at_the_best_critic(name):
    energy, gamma, best, value = CASES[name]
    found = float(energy.bound(best(Y), best(gamma)))
    assert found == pytest.approx(value, rel=1e-4, abs=1e-4)
    assert float(energy.critic_loss(best(Y), best(gamma))) == pytest.approx(-found / float(energy.scale))


@pytest.mark.parametrize("name", CASES)
def test_below_elsewhere(name):
    """By a margin of second order in the change, whatever its sign."""
    energy, gamma, best, value = CASES[name]
    gaps = []
    for size in (0.05, 0.1, -0.1, 0.4):

        def other(x, size=size):
            wave = size * torch.sin(2 * x + 0.3)
            return best(x) + wave if name in ("kl_dv", "js") else best(x) * wave.exp()

        gaps.append(value - float(energy.bound(other(Y), other(gamma))))
    assert min(gaps) > 1e-4
    assert gaps[1] / gaps[0] == pytest.approx(4, rel=0.15)
    assert gaps[3] > gaps[1]


@pytest.mark.parametrize("tilt", [-0.5, -0.1, 0.1, 0.5])
def test_kl_falls_short_by_the_known_gap(tilt):
    """With h = e^tilt dP/dmu the gap is e^tilt - 1 - tilt; Donsker-Varadhan's is 0, being the best over all multiples."""
    h_y, h_z = ((log_ratio(x) + tilt).exp() for x in (Y, Z))
    assert kl(M, S, MU, SIGMA) - float(KL.bound(h_y, h_z)) == pytest.approx(math.exp(tilt) - 1 - tilt, abs=1e-4)
    dv = float(KL_DV.bound(h_y.log(), h_z.log()))
    assert dv == pytest.approx(kl(M, S, MU, SIGMA), abs=1e-4)
    for bend in (0.2, 1.0):  # for any critic at all
        h_y, h_z = ((log_ratio(x) * bend + x.sin()).exp() for x in (Y, Z))
        assert float(KL_DV.bound(h_y.log(), h_z.log())) >= float(KL.bound(h_y, h_z))


@pytest.mark.parametrize("name", CASES)
def test_the_map_descends_the_first_variation(name):
    """d/dt F((id + t v)#P) at t = 0, by central differences of F in closed form, is the map loss's derivative at the best h.

    v(x) = 1 + x/2 moves N(M, S^2) to N(M + t (1 + M/2), S^2 (1 + t/2)^2).
    """
    energy, _, best, _ = CASES[name]
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(energy.map_loss(best(Y + t * (1 + Y / 2))).sum(), t)

    def exact(t):
        m, s = M + t * (1 + M / 2), S * (1 + t / 2)
        if name == "js":
            y = quantiles(m, s)
            both = [log_normal(x, m, s) - log_normal(x, MU, SIGMA) for x in (y, Z)]
            halves = [torch.log(2 / (1 + torch.exp(-both[0]))).mean(), torch.log(2 / (1 + torch.exp(both[1]))).mean()]
            return float(sum(halves))
        if name.startswith("kl"):
            return kl(m, s, MU, SIGMA)
        return CASES[name][3] * (s / S) ** (1 - float(name.split()[1]))

    assert float(found) == pytest.approx((exact(1e-4) - exact(-1e-4)) / 2e-4, rel=2e-4, abs=2e-5)


def test_heads():
    raw = torch.tensor([[-2.0, 0.0, 3.0]], dtype=torch.float64)
    assert squared(raw).tolist()[0][2] == pytest.approx(9.0)
    assert plain(raw) is raw
    assert float(exp_minus_one(raw)[0, 1]) == pytest.approx(math.exp(10) - 1)
    assert float(log_h(torch.zeros(1, 1))) == pytest.approx(math.log(LEAST))


def test_the_squared_head_has_a_tail_in_place_of_its_zero():
    """log h = 2 log raw above the knee, its tangent there below: one slope at the knee, and nowhere a steeper one."""
    raw = torch.tensor([[-2.0, -0.4, KNEE - 1e-9, KNEE + 1e-9, 0.5, 1.7]], dtype=torch.float64, requires_grad=True)
    h = squared(raw)
    expected = [2 * math.log(KNEE) + 2 * (r / KNEE - 1) if r < KNEE else 2 * math.log(r) for r in raw[0].tolist()]
    torch.testing.assert_close(h.log()[0], torch.tensor(expected, dtype=torch.float64))
    (slope,) = torch.autograd.grad(log_h(h).sum(), raw)
    assert slope[0].tolist() == pytest.approx([2 / KNEE] * 4 + [2 / 0.5, 2 / 1.7])


@pytest.mark.slow
def test_a_critic_below_zero_at_some_points_comes_back():
    """Three seeds whose start is negative at half of P's points, at half, and everywhere: all learn dP/dmu."""
    raw = MLP((1, 16, 16, 1), Streams((0, 1, 2), dtype=torch.float64), prelu="hidden")
    critic, adam = Critic(raw, squared, None), Adam(raw.parameters, 5e-3)
    y, z = (points[0, ::800, None].expand(3, -1, 1) for points in (Y, Z))
    with torch.no_grad():
        raw.layers()[-1][1].sub_(raw(y).median(1, keepdim=True)[0] + torch.tensor([0.0, 0.0, 2.0]).view(3, 1, 1))
    for _ in range(400):
        adam.descend(KL.critic_loss(*critic.at_both(y, z)).sum(), 1.0)
    found = KL.bound(*critic.at_both(y, z)).detach()
    assert found.tolist() == pytest.approx([kl(M, S, MU, SIGMA)] * 3, abs=0.01)


def test_entropy_of_a_uniform_law_on_part_of_the_box():
    """P uniform on a quarter of the box: h = 4 there and 0 else, F = w/(m-1) (4/O)^{m-1}; h = 0 has no steep slope."""
    for m in (1.5, 2.0, 3.0):
        energy = variational.entropy(m, 2.0, torch.tensor([8.0], dtype=torch.float64).log())
        h_y = torch.full((1, 100), 4.0, dtype=torch.float64)
        h_z = torch.cat([torch.full((1, 50), 4.0), torch.zeros(1, 150)], 1).double().requires_grad_()
        bound = energy.bound(h_y, h_z)
        assert float(bound.detach()) == pytest.approx(2 / (m - 1) * 0.5 ** (m - 1))
        assert torch.autograd.grad(bound.sum(), h_z)[0].isfinite().all()
        low = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.grad(energy.map_loss(low).sum(), low)[0].isfinite().all()


def quartic(x):
    square = x.square().sum(-1)
    return 0.25 * square.square() - 0.5 * square


def test_pairs_are_unbiased_and_their_sum_is_the_whole():
    x = torch.randn(2, 40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    every = quartic((x[:, :, None] - x[:, None]).flatten(1, 2)).unflatten(1, (40, 40))
    whole = every.sum((1, 2)) / (40 * 39)  # W(0) = 0
    torch.testing.assert_close(pair_energy(quartic, x, x, 39), whole)
    torch.testing.assert_close(pair_energy(quartic, x, x, 1000), whole)
    y = 2 * x + 1
    others = quartic((x[:, :, None] - y[:, None]).flatten(1, 2)).unflatten(1, (40, 40))
    left_out = others.diagonal(dim1=1, dim2=2).sum(1)  # a point with its own image
    torch.testing.assert_close(pair_energy(quartic, x, y, 39), (others.sum((1, 2)) - left_out) / (40 * 39))


def test_force_is_the_gradient_of_the_convolution(monkeypatch):
    """grad W(z) = (|z|^2 - 1) z for the quartic kernel; blocks do not matter."""
    generator = torch.Generator().manual_seed(2)
    x, y = (torch.randn(2, n, 3, dtype=torch.float64, generator=generator) for n in (11, 7))
    z = x[:, :, None] - y[:, None]
    exact = ((z.square().sum(-1, keepdim=True) - 1) * z).mean(2)
    torch.testing.assert_close(force(quartic, x, y), exact)
    monkeypatch.setattr(variational, "PAIRS", 30)
    with torch.no_grad():
        torch.testing.assert_close(force(quartic, x, y), exact)
