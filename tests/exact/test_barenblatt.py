"""Barenblatt against the porous medium equation, its own constants by quadrature, and the paper's formula."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize

from gwfbench.errors import UserError
from gwfbench.info import Initial, InternalEnergy
from gwfbench.plugins import registry
from gwfbench.protocol import Judged
from gwfbench.rng import Streams

SEEDS = (3, 5)
CASES = [(1, 2.0), (1, 3.0), (2, 1.5), (3, 2.0), (6, 2.0), (5, 1.2)]
cases = pytest.mark.parametrize(("dim", "m"), CASES)


def build(text, seeds=SEEDS, dtype=torch.float64):
    return registry.parse("task", f"barenblatt:{text}").build(Streams(seeds, dtype=dtype).fork("task"))


def front(truth, index):
    """The support's radius: where log_prob ends, by bisection."""
    low, high, x = 0.0, 100.0, torch.zeros(1, 1, truth.moments(0)[0].shape[1]).double()
    for _ in range(60):
        x[0, 0, 0] = middle = (low + high) / 2
        low, high = (middle, high) if truth.log_prob(index, x).isfinite().all() else (low, middle)
    return low


def radial(values, edge, dim, nodes=100):
    """Integral over the ball of radius `edge` of values(x), x = (r, 0, ...), by Gauss-Legendre in r = edge sin(angle)."""
    node, weight = np.polynomial.legendre.leggauss(nodes)
    angle = torch.as_tensor(node + 1) * math.pi / 4
    x = torch.zeros(1, nodes, dim).double()
    x[0, :, 0] = r = edge * angle.sin()
    shell = 2 * math.pi ** (dim / 2) / math.gamma(dim / 2) * r ** (dim - 1) * edge * angle.cos() * math.pi / 4
    return float((values(x)[0] * shell * torch.as_tensor(weight)).sum())


def paper(x, t, m, c):
    """Fan et al. 2022, section 5.4, with t the age."""
    n = x.shape[-1]
    alpha = n / (n * (m - 1) + 2)
    beta = (m - 1) * alpha / (2 * m * n)
    inside = c - beta * x.square().sum(-1) * t ** (-2 * alpha / n)
    return t**-alpha * inside.clamp_min(0.0) ** (1 / (m - 1))


def residual(truth, dim, m, h, reach):
    """p_t - Laplacian(p^m) at time index 1 by central differences, relative to p_t's size, at random points inside."""
    radius = front(truth, 1)
    g = Streams((1,), dtype=torch.float64).normal(40, dim)
    x = reach * radius * torch.linspace(0.05, 1, 40).double()[:, None] * g / g.norm(dim=-1, keepdim=True)
    rate = (truth.log_prob(2, x).exp() - truth.log_prob(0, x).exp()) / (2 * h)
    e = 1e-3 * radius
    power = [(m * truth.log_prob(1, x + shift)).exp() for shift in (0.0, *(e * torch.eye(dim)), *(-e * torch.eye(dim)))]
    laplacian = (sum(power[1:]) - 2 * dim * power[0]) / e**2
    return float((rate - laplacian).abs().max() / rate.abs().max())


@cases
@pytest.mark.parametrize("convention", ["unit", "authors,radius=0.5"])
def test_solves_the_porous_medium_equation(dim, m, convention):
    """In the authors' convention too: the truth moves as the flow of F does."""
    h = 1e-7
    truth = build(f"dim={dim},m={m},t0=0.002,step={h},steps=3,convention={convention}").truth
    assert residual(truth, dim, m, h, reach=0.9) < 1e-4


@pytest.mark.parametrize(("dim", "m"), [*CASES, (16, 2.0), (64, 2.0), (64, 1.3)])
def test_mass_second_moment_and_energy_by_quadrature(dim, m):
    truth = build(f"dim={dim},m={m},t0=0.01").truth
    edge = front(truth, 7)

    def p(x):
        return truth.log_prob(7, x).exp()

    assert radial(p, edge, dim) == pytest.approx(1, rel=1e-9)
    second = radial(lambda x: x.square().sum(-1) * p(x), edge, dim)
    mean, covariance = truth.moments(7)
    assert (mean == 0).all()
    torch.testing.assert_close(covariance, second / dim * torch.eye(dim).double().expand(2, dim, dim))
    energy = radial(lambda x: p(x) ** m / (m - 1), edge, dim)
    assert truth.energy(7).tolist() == pytest.approx([energy] * 2, rel=1e-9)


def test_front_in_one_dimension():
    """n = 1, m = 2: p = (R^2 - x^2)_+ / (12 t), so that 4 R^3 / 3 = 12 t."""
    truth = build("dim=1,t0=0.5,step=0.25").truth
    assert front(truth, 1) == pytest.approx((9 * 1.0) ** (1 / 3), rel=1e-12)
    x = torch.tensor([[[0.3]], [[-1.1]]]).double()
    expected = ((9.0 ** (2 / 3) - x[..., 0] ** 2) / 12).log()
    torch.testing.assert_close(truth.log_prob(1, x), expected)


@pytest.mark.parametrize(("dim", "radius", "mass"), [(3, 0.4, 0.858), (6, 0.6, 0.678)])
def test_the_authors_profile_is_normalised_and_its_clock_corrected(dim, radius, mass):
    """Start: the paper's u with its front at the radius, over its mass M; at flow time s: u(t0 + s / M) / M (m = 2)."""
    t0, beta = 1e-3, 1 / (4 * (dim + 2))
    c = beta * radius**2 * t0 ** (-2 / (dim + 2))
    total = radial(lambda x: paper(x, t0, 2, c), radius, dim)
    assert total == pytest.approx(mass, abs=5e-4)
    instance = build(f"dim={dim},convention=authors")
    x = 0.3 * radius * Streams((1,), dtype=torch.float64).normal(50, dim)
    start = instance.problem[Initial].log_prob(x).exp()
    torch.testing.assert_close(start, paper(x, t0, 2, c) / total, rtol=1e-9, atol=1e-12)
    for index in (0, 49):
        age = t0 + instance.problem.times[index] / total
        found = instance.truth.log_prob(index, x).exp()
        torch.testing.assert_close(found, paper(x, age, 2, c) / total, rtol=1e-9, atol=1e-12)
        theirs = paper(x, t0 + instance.problem.times[index], 2, c) / total
        assert (found - theirs).abs().max() > 0.005 * theirs.max()


def test_the_authors_radius_of_mass_one_is_the_unit_convention():
    unit = build("dim=4,m=1.7")
    start = build("dim=4,m=1.7,step=1e-12,steps=1").truth
    other = build(f"dim=4,m=1.7,convention=authors,radius={front(start, 0)!r}")
    torch.testing.assert_close(other.truth.moments(9), unit.truth.moments(9), rtol=1e-6, atol=0)


def test_near_m_1_it_is_the_heat_kernel():
    """The gap to N(0, 2 t I) falls as m - 1."""
    x = Streams((1,), dtype=torch.float64).normal(50, 3)
    heat = torch.distributions.Normal(torch.zeros(3).double(), 1.0).log_prob(x).sum(-1)  # age 0.5
    gaps = [
        float((build(f"dim=3,m={m},t0=0.25,step=0.25").truth.log_prob(0, x) - heat).abs().max()) for m in (1.01, 1.001)
    ]
    assert gaps[1] < 0.05
    assert 8 < gaps[0] / gaps[1] < 12


@cases
def test_score_is_the_gradient_and_the_outside_has_none(dim, m):
    truth = build(f"dim={dim},m={m},t0=0.02").truth
    x = truth.draw(4, 50, Streams(SEEDS, dtype=torch.float64)).requires_grad_()
    (gradient,) = torch.autograd.grad(truth.log_prob(4, x).sum(), x)
    torch.testing.assert_close(truth.score(4, x.detach()), gradient)
    far = torch.full((2, 1, dim), 50.0).double()
    assert (truth.log_prob(4, far) == -math.inf).all()
    assert truth.score(4, far).isnan().all()


@cases
def test_energy_falls_as_fast_as_it_must(dim, m):
    """dF/dt = -E |grad(m/(m - 1) p^{m-1})|^2, by central differences."""
    h = 1e-6
    instance = build(f"dim={dim},m={m},t0=0.02,step={h},steps=3")
    truth = instance.truth
    rate = float(truth.energy(2)[0] - truth.energy(0)[0]) / (2 * h)
    x = truth.draw(1, 20_000, Streams((1,), dtype=torch.float64))
    pressure = (m - 1) * truth.log_prob(1, x)
    speed = m / (m - 1) * (m - 1) * pressure.exp()[..., None] * truth.score(1, x)
    loss = speed.square().sum(-1)
    assert abs(rate + float(loss.mean())) < 5 * float(loss.std()) / 20_000**0.5
    later = [float(build(f"dim={dim},m={m}").truth.energy(index)[0]) for index in range(50)]
    assert (np.diff(later) < 0).all()
    assert instance.problem[InternalEnergy].m == m


def test_integrand_averages_to_the_energy():
    for dim, m in CASES:
        truth = build(f"dim={dim},m={m}").truth
        x = truth.draw(5, 20_000, Streams(SEEDS, dtype=torch.float64))
        values = truth.integrand(x, truth.log_prob(5, x))
        assert ((values.mean(1) - truth.energy(5)).abs() < 5 * values.std(1) / 20_000**0.5).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", [1.05, 1.5, 2.0, 3.7, 20.0])
@pytest.mark.parametrize("dim", [1, 2, 3, 64])
def test_draws_follow_the_radial_law_and_every_direction(dim, m, dtype):
    """Squared radius Beta(n/2, q + 1); one coordinate Beta(q + (n + 1)/2, same) on [-R, R], as it is for this law."""
    truth, n = build(f"dim={dim},m={m}", dtype=dtype).truth, 10_000
    q, edge = 1 / (m - 1), front(truth, 3)
    x = truth.draw(3, n, Streams(SEEDS, dtype=dtype).fork("x"))
    assert x.dtype == dtype
    assert x.is_contiguous()
    assert truth.log_prob(3, x).isfinite().all()
    for seed in x.double().numpy() / edge:
        assert stats.kstest((seed**2).sum(1), stats.beta(dim / 2, q + 1).cdf).pvalue > 1e-6  # 5 standard errors
        for coordinate in (0, dim // 2, dim - 1):
            marginal = stats.beta(q + (dim + 1) / 2, q + (dim + 1) / 2)
            assert stats.kstest((seed[:, coordinate] + 1) / 2, marginal.cdf).pvalue > 1e-6
        if dim == 3:  # radius and direction independent, coordinates uncorrelated
            r2, cosine = (seed**2).sum(1), seed[:, 0] * seed[:, 1] / (seed**2).sum(1)
            assert abs(np.corrcoef(r2, cosine)[0, 1]) < 5 / n**0.5
            assert abs(np.corrcoef(r2, (seed[:, 2] ** 2) / r2)[0, 1]) < 5 / n**0.5


def test_a_seed_s_draws_are_its_own_and_go_on():
    truth, alone = build("dim=5").truth, build("dim=5", seeds=(5,)).truth
    both, one = Streams(SEEDS, dtype=torch.float64), Streams((5,), dtype=torch.float64)
    seen = torch.zeros(1, 100, 5).double()
    for _ in range(2):  # the second call gives new numbers
        x, y = truth.draw(2, 100, both), alone.draw(2, 100, one)
        torch.testing.assert_close(x[1:], y, rtol=1e-12, atol=0)
        assert not torch.allclose(x[0], x[1])
        assert not torch.allclose(y, seen)
        seen = y


@pytest.mark.parametrize("dim", [1, 3, 64, 1000])
def test_rounding_leaves_no_draw_outside(dim):
    """Uniforms at their upper end put every point on the front, but for rounding."""
    truth, normals = build(f"dim={dim},m=100", dtype=torch.float32).truth, Streams(SEEDS)
    last = 1 - torch.finfo(torch.float32).eps / 2
    extreme = SimpleNamespace(normal=normals.normal, uniform=lambda *shape: torch.full((2, *shape), last))
    x = truth.draw(3, 500, extreme)
    assert truth.log_prob(3, x).isfinite().all()
    assert x.norm(dim=-1).max() > 0.99999 * front(truth, 3)


@cases
def test_jko_step_minimises_the_jko_objective(dim, m):
    """Among radial maps r -> r exp(c0 + c1 r^2 + c2 r^4) of P_0, the best is the exact step's stretch (V.1)."""
    a = 0.01
    instance = build(f"dim={dim},m={m},t0=0.02,step=1e-12,steps=1")
    start, truth = instance.truth, instance.truth.jko((a, 2 * a))
    edge = front(start, 0)
    nodes, weights = np.polynomial.legendre.leggauss(100)
    r = edge * (nodes + 1) / 2
    x = torch.zeros(1, 100, dim).double()
    x[0, :, 0] = torch.as_tensor(r)
    p = start.log_prob(0, x)[0].exp().numpy()
    mass = p * r ** (dim - 1) * weights
    mass /= mass.sum()

    def objective(c):
        s = (r / edge) ** 2
        stretch = np.exp(c[0] + c[1] * s + c[2] * s**2)
        det = stretch**dim * (1 + 2 * c[1] * s + 4 * c[2] * s**2)
        return (mass * ((stretch - 1) ** 2 * r**2 / (2 * a) + (p / det) ** (m - 1) / (m - 1))).sum()

    found = minimize(objective, [0.0, 0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-15}).x
    assert found == pytest.approx([math.log(front(truth, 0) / edge), 0, 0], abs=2e-6)


def test_jko_sequence_converges_to_the_flow_at_first_order_from_behind():
    truth = build("dim=3,m=1.6,step=0.02,steps=1").truth
    goal = front(truth, 0)
    lags = [goal - front(truth.jko((0.02 / steps,) * steps), steps - 1) for steps in (64, 128, 256)]
    assert min(lags) > 0
    assert np.log2(lags[1] / lags[2]) == pytest.approx(1, abs=0.1)


def evaluate(name, truth, index, points, log_prob):
    (metric,) = (metric for metric in truth.metrics if metric.name == name)
    return metric.evaluate(Judged(points, log_prob, truth, index, Streams(SEEDS, dtype=torch.float64)))


@pytest.mark.parametrize(("judged", "index"), [(0, 40), (40, 0), (7, 7)])
def test_jsd_by_quadrature_whichever_support_is_the_wider(judged, index):
    truth = build("dim=3").truth

    def mixture(x):
        p, q = truth.log_prob(judged, x).exp(), truth.log_prob(index, x).exp()
        return sum(torch.xlogy(v, 2 * v / (p + q)) / 2 for v in (p, q))

    expected = radial(mixture, front(truth, max(judged, index)), 3, nodes=200)
    x = truth.draw(judged, 60_000, Streams(SEEDS, dtype=torch.float64))
    found = evaluate("jsd", truth, index, x, truth.log_prob(judged, x))
    assert ((found.value - expected).abs() <= 5 * found.se + 1e-12).all()
    assert (found.se < 0.01).all()


def test_jsd_and_outside_where_the_supports_part():
    truth = build("dim=2").truth
    x = truth.draw(0, 1000, Streams(SEEDS, dtype=torch.float64))
    density = truth.log_prob(0, x)
    far = evaluate("jsd", truth, 0, x + 100.0, density)
    torch.testing.assert_close(far.value, torch.full((2,), math.log(2)).double())
    some = torch.cat([x[:, :900], x[:, 900:] + 100.0], 1)
    share = evaluate("outside", truth, 0, some, density)
    torch.testing.assert_close(share.value, torch.full((2,), 0.1).double())
    torch.testing.assert_close(share.se, torch.full((2,), (0.09 / 1000) ** 0.5).double())
    assert (evaluate("outside", truth, 0, x, density).value == 0).all()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("dim=0", "from 1 to 1000"),
        ("m=1", "from 1.001 to 100"),
        ("m=0.5", "from 1.001 to 100"),
        ("m=nan", "from 1.001 to 100"),
        ("t0=0", "positive"),
        ("t0=-1e-3", "positive"),
        ("t0=inf", "positive"),
        ("step=0", "positive"),
        ("steps=0", "at least 1"),
        ("radius=0.4", "no radius"),
        ("convention=authors,radius=0", "positive"),
        ("convention=authors,dim=4", "a radius"),
        ("convention=authors,dim=900,radius=90", "float64"),
        ("convention=theirs", "one of unit, authors"),
    ],
)
def test_bad_input_is_told(text, word):
    with pytest.raises(UserError, match=word):
        registry.parse("task", f"barenblatt:{text}")
