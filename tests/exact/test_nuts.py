"""No-U-Turn sampler: its trees against plain loops, its law on exact draws, what it learns, and what it calls."""

import math
import sys
from dataclasses import dataclass, field

import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.drive.meter import Meter, counted
from gwfbench.info import Initial, LogDensity
from gwfbench.plugins import registry
from gwfbench.protocol import Problem
from gwfbench.rng import Streams

nuts = sys.modules[registry.find("method", "nuts").load().__module__]
ONE = Streams((3,), dtype=torch.float64)


def target(log_prob):
    return LogDensity(log_prob, lambda x: torch.func.grad(lambda y: log_prob(y).sum())(x))


def skewed(x):
    """A log-density without symmetries, (S, n, 2) -> (S, n)."""
    u, v = x.unbind(-1)
    return -0.3 * u**4 - 0.5 * (v - 0.4 * u.square() + 0.2 * u) ** 2 + 0.1 * u.sin()


def round_hill(x):
    return -0.5 * x.square().sum(-1)


def funnel(x):
    """v ~ N(0, 1), w | v ~ N(0, e^v)."""
    v, w = x.unbind(-1)
    return -0.5 * v.square() - 0.5 * w.square() * (-v).exp() - 0.5 * v


def row(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


PRECISION = row([2.0, -1.2, 0.3], [-1.2, 1.5, 0.4], [0.3, 0.4, 0.7])  # its correlations: 0.9, -0.8, -0.7
CENTRE = row(1.0, -2.0, 0.5)


def correlated(x):
    return -0.5 * ((x - CENTRE) @ PRECISION * (x - CENTRE)).sum(-1)


@dataclass
class Said:
    """Streams whose momenta are given."""

    momentum: torch.Tensor
    rest: Streams = field(default_factory=lambda: ONE.fork("rest"))

    def normal(self, *_shape):
        return self.momentum

    def uniform(self, *shape):
        return self.rest.uniform(*shape)


def step(density, x, p):
    return nuts.Step(nuts.Place.of(density, x), p)


def pushed(laws, x, rng):
    for k, law in enumerate(laws):
        x = law.push(x, rng.fork(f"noise/{k}"))
    return x


# leapfrog and turning


def test_the_leapfrog_goes_back_where_it_came_from(streams):
    x, p, h = streams.fork("x").normal(20, 2)[:1], streams.fork("p").normal(20, 2)[:1], row(0.3, 0.5)
    density = target(skewed)
    to = nuts.leap(density, step(density, x, p), h)
    half = p + h / 2 * density.score(x)
    torch.testing.assert_close(to.at.x, x + h * half)
    torch.testing.assert_close(to.p, half + h / 2 * density.score(x + h * half))
    for end, size in ((to, -h), (nuts.Step(to.at, -to.p), h)):
        back = nuts.leap(density, end, size)
        torch.testing.assert_close(back.at.x, x, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(back.p.abs(), p.abs(), rtol=1e-11, atol=1e-12)


def test_the_error_of_h_is_of_second_order(streams):
    x, p, density = streams.fork("x").normal(50, 2)[:1], streams.fork("p").normal(50, 2)[:1], target(skewed)
    errors = []
    for steps in (40, 80):
        at = begin = step(density, x, p)
        for _ in range(steps):
            at = nuts.leap(density, at, torch.full((2,), 0.8 / steps, dtype=torch.float64))
        errors.append(float((nuts.energy(at) - nuts.energy(begin)).abs().mean()))
    assert 3.5 < errors[0] / errors[1] < 4.5


@pytest.mark.parametrize("unit", [1.0, 7.0])
def test_a_circle_turns_after_half_a_round(unit):
    """x = (cos t, sin t), p = x': (x(t) - x(0)) . p(0) = sin t, in any unit of length."""
    t = row(0.1, 1.0, 3.1, 3.2, 4.0, 6.2)
    x, p = (unit * torch.stack([t.cos(), t.sin()], -1)[None], torch.stack([-t.sin(), t.cos()], -1)[None])
    first, start = x[:, :1] * 0 + unit * row(1.0, 0.0), p[:, :1] * 0 + row(0.0, 1.0)
    hill = target(round_hill)
    turned = nuts.turned(step(hill, first, start), step(hill, x, p), torch.full((2,), unit, dtype=torch.float64))
    assert turned.tolist() == [False, False, False, True, True, True]


def test_on_a_line_it_turns_where_the_momentum_does():
    """x = sin(t + a), p = cos(t + a): x(t) - x(0) = 2 sin(t/2) p(t/2), and both ends must still go that way."""
    a, t = torch.meshgrid(torch.linspace(-1.5, 1.5, 31).double(), torch.linspace(0.05, 6.2, 60).double(), indexing="ij")
    a, t = a.flatten(), t.flatten()

    def point(s):
        return step(target(round_hill), (s + a).sin()[None, :, None], (s + a).cos()[None, :, None])

    middle = 2 * (t / 2).sin() * (t / 2 + a).cos()
    expected = (middle * a.cos() <= 0) | (middle * (t + a).cos() <= 0)
    assert torch.equal(nuts.turned(point(0), point(t), torch.ones(1).double()), expected)
    assert 0.2 < expected.double().mean() < 0.9


@pytest.mark.parametrize(("h", "calls"), [(0.2, 31), (0.22, 15), (0.4, 15), (0.9, 7)])
def test_a_trajectory_on_a_circle_makes_as_many_steps_as_half_a_round_asks_for(h, calls):
    """2^j - 1 steps, j the first number of doublings at which they span more than pi; with h = 0.9 they span 2 pi."""
    doublings = next(j for j in range(1, 9) if (2**j - 1) * h > math.pi)
    assert calls == 2**doublings - 1
    x, p = row([1.0, 0.0]).expand(1, 50, 2).clone(), row([0.0, 1.0]).expand(1, 50, 2).clone()
    meter, density = Meter(), target(round_hill)
    problem = counted(Problem((2,), (math.inf,), (density,)), meter, 1)
    at = nuts.Place.of(density, x)
    with meter.running():
        moved, rates = nuts.trajectory(problem[LogDensity], at, torch.full((1, 1, 2), h).double(), 8, Said(p))
    assert meter.training.score == meter.training.log_prob == 50 * calls
    torch.testing.assert_close(moved.x.norm(dim=-1), torch.ones(1, 50).double(), rtol=0, atol=h * h / 4)
    assert ((1 - h * h) < rates).all()
    assert (rates <= 1).all()


# trees


def by_hand(density, begin, h, j):
    """All 2^j steps of each chain, and whether an aligned part, or a half with one step more, has turned."""
    at, steps = begin, []
    for _ in range(2**j):
        at = nuts.leap(density, at, h)
        steps.append(at)
    turned = torch.zeros(at.p.shape[1], dtype=torch.bool)
    for level in range(1, j + 1):
        for first in range(0, 2**j, 2**level):
            middle, end = first + 2 ** (level - 1), first + 2**level - 1
            for one, two in ((first, end), (first, middle), (middle - 1, end)):
                turned |= nuts.turned(steps[one], steps[two], h)
    return steps, turned


@pytest.mark.parametrize("j", [0, 1, 2, 3, 4])
def test_a_doubling_is_that_of_a_plain_loop(streams, j):
    n, density = 200, target(skewed)
    x, p = streams.fork("x").normal(n, 2)[:1], streams.fork("p").normal(n, 2)[:1]
    signs = torch.where(streams.fork("signs").uniform(n)[0] < 0.5, 1.0, -1.0)
    h = signs[None, :, None] * row(0.12, 0.2)
    begin = step(density, x, p)
    steps, turned = by_hand(density, begin, h, j)
    start = nuts.energy(begin)
    found = nuts.branch(density, begin, h, start, j, ONE.fork("noise"))
    assert torch.equal(found.whole, ~turned)
    if j > 2:
        assert 0.05 < turned.double().mean() < 0.95
    whole = found.whole
    gaps = torch.stack([start - nuts.energy(one) for one in steps])
    torch.testing.assert_close(found.log_sum[whole], gaps.logsumexp(0)[whole])
    torch.testing.assert_close(found.rates[whole], gaps.clamp_max(0).exp().sum(0)[whole])
    assert (found.steps[whole] == 2**j).all()
    assert (found.steps[~whole] <= 2**j).all()
    for mine, theirs in ((found.first, steps[0]), (found.end, steps[-1])):
        torch.testing.assert_close(mine.at.x[:, whole], theirs.at.x[:, whole])
        torch.testing.assert_close(mine.p[:, whole], theirs.p[:, whole])
    distance = torch.stack([(found.chosen.x - one.at.x).norm(dim=-1)[0] for one in steps]).amin(0)
    assert distance[whole].max() < 1e-12
    torch.testing.assert_close(found.chosen.log_prob, density.log_prob(found.chosen.x))
    torch.testing.assert_close(found.chosen.score, density.score(found.chosen.x))


def test_a_doubling_chooses_by_weight():
    """20,000 equal chains, four steps of unequal weight: shares to 5 standard errors."""
    n, density = 20_000, target(skewed)
    h = row(0.6, 0.4).expand(1, n, 2)
    begin = step(density, row([-1.67, -1.63]).expand(1, n, 2), row([-0.75, -0.68]).expand(1, n, 2))
    steps, turned = by_hand(density, begin, h, 2)
    assert not turned.any()
    found = nuts.branch(density, begin, h, nuts.energy(begin), 2, ONE.fork("noise"))
    weights = torch.stack([-nuts.energy(one)[0] for one in steps]).softmax(0)
    assert weights.max() > 2 * weights.min()
    for weight, one in zip(weights, steps, strict=True):
        share = (found.chosen.x == one.at.x).all(-1).double().mean()
        assert abs(float(share - weight)) < 5 * float(weight * (1 - weight) / n) ** 0.5


def test_chains_that_have_ended_are_not_evaluated(monkeypatch):
    """Calls are the steps made, and of a thousand chains not all make as many."""
    steps, plain = [], nuts.branch

    def watched(*words):
        steps.append(plain(*words))
        return steps[-1]

    monkeypatch.setattr(nuts, "branch", watched)
    meter, density = Meter(), target(funnel)
    problem = counted(Problem((2,), (math.inf,), (density,)), meter, 1)
    x = ONE.fork("x").normal(1000, 2)
    with meter.running():
        nuts.trajectory(problem[LogDensity], nuts.Place.of(density, x), row([[0.4, 0.4]]), 6, ONE.fork("noise"))
    made = sum(int(one.steps.sum()) for one in steps)
    assert meter.training.score == meter.training.log_prob == made
    assert [len(one.steps) for one in steps] == sorted((len(one.steps) for one in steps), reverse=True)
    assert made < 0.7 * 1000 * 63


# the law


@pytest.mark.slow
@pytest.mark.parametrize(("h", "depth"), [(0.3, 6), (0.9, 6), (0.3, 2)])
def test_exact_draws_of_a_gaussian_stay_exact(h, depth):
    """Three trajectories from 20,000 draws: mean, covariance and quartiles to 5 standard errors."""
    n, root, density = 20_000, torch.linalg.cholesky(PRECISION.inverse()), target(correlated)
    at = nuts.Place.of(density, CENTRE + ONE.fork("x").normal(n, 3) @ root.mT)
    first = at.x.clone()
    for k in range(3):
        at, _ = nuts.trajectory(density, at, row([[h, 0.8 * h, h]]), depth, ONE.fork(f"noise/{k}"))
    z = torch.linalg.solve_triangular(root, (at.x - CENTRE).mT, upper=False)[0]
    assert (at.x - first).norm(dim=-1).mean() > 0.3
    assert (z.mean(1).abs() < 5 / n**0.5).all()
    gap = z @ z.mT / n - torch.eye(3)
    assert (gap.abs() < 5 * (1 + torch.eye(3)).sqrt() / n**0.5).all()
    for edge, share in ((-0.67449, 0.25), (0.0, 0.5), (0.67449, 0.75)):
        assert (((z < edge).double().mean(1) - share).abs() < 5 * (share * (1 - share) / n) ** 0.5).all()


@pytest.mark.slow
def test_exact_draws_of_a_funnel_stay_exact():
    """A target whose trajectories diverge, end early and differ in length: the shares in 12 cells of (v, w e^(-v/2))."""
    n, density = 20_000, target(funnel)
    z = ONE.fork("x").normal(n, 2)
    x = torch.stack([z[..., 0], z[..., 1] * (z[..., 0] / 2).exp()], -1)
    at = nuts.Place.of(density, x)
    for k in range(3):
        at, _ = nuts.trajectory(density, at, row([[1.1, 0.9]]), 5, ONE.fork(f"noise/{k}"))
    v, w = (part.contiguous() for part in at.x[0].unbind(-1))
    edges = torch.special.ndtri(torch.linspace(0, 1, 5).double()[1:-1])
    cells = torch.bucketize(v, edges) * 4 + torch.bucketize(w * (-v / 2).exp(), edges)
    shares = torch.bincount(cells, minlength=16).double() / n
    assert ((shares - 1 / 16).abs() < 5 * (15 / 256 / n) ** 0.5).all()


@pytest.mark.slow
def test_it_finds_a_correlated_gaussian_and_learns_its_steps():
    density = target(correlated)
    start = Initial(lambda n, rng: 4 * rng.normal(n, 3))
    problem = Problem((3,), (math.inf,), (start, density))
    laws = list(registry.parse("method", "nuts").fit(problem, Budget(), ONE))
    n = 2000
    x = pushed(laws, start.draw(n, ONE.fork("start")), ONE)
    covariance = PRECISION.inverse()
    root = torch.linalg.cholesky(covariance)
    z = torch.linalg.solve_triangular(root, (x - CENTRE).mT, upper=False)[0]
    assert (z.mean(1).abs() < 5 / n**0.5).all()
    assert ((z @ z.mT / n - torch.eye(3)).abs() < 5 * (1 + torch.eye(3)).sqrt() / n**0.5).all()
    states = [law.state() for law in laws]
    assert len(laws) < 100
    assert all(torch.equal(state["h"], states[29]["h"]) for state in states[29:])
    shape = states[-1]["h"] / states[-1]["h"].mean()
    widths = covariance.diagonal().sqrt()
    torch.testing.assert_close(shape[0, 0], widths / widths.mean(), rtol=0.25, atol=0)  # 256 pilots: 5 x 4.4 %
    _, rates = nuts.trajectory(density, nuts.Place.of(density, x), states[-1]["h"], 8, ONE.fork("rates"))
    assert abs(float(rates.mean()) - 0.8) < 0.05


def test_dual_averaging_is_the_paper_s():
    """Hoffman and Gelman 2014, algorithm 5, written out; gamma = 0.05, t_0 = 10, kappa = 0.75."""
    dual, total, mean = nuts.Dual.start(0.5, torch.zeros(1)), 0.0, math.log(0.5)
    for t, rate in enumerate((0.9, 0.1, 0.7, 0.8, 0.3), 1):
        dual = dual.after(t, row(0.8 - rate)[0])
        total = (1 - 1 / (t + 10)) * total + (0.8 - rate) / (t + 10)
        log_e = math.log(0.5) - t**0.5 / 0.05 * total
        mean = t**-0.75 * log_e + (1 - t**-0.75) * mean
        assert float(dual.log_step) == pytest.approx(log_e, rel=1e-12)
        assert float(dual.mean) == pytest.approx(mean, rel=1e-12)


def test_the_first_step_is_the_largest_that_is_accepted_by_half():
    x, p = ONE.fork("x").normal(400, 2), ONE.fork("p")
    narrow = target(lambda y: -0.5 * (y / row(0.01, 0.03)).square().sum(-1))
    at = nuts.Place.of(narrow, x)
    e = nuts.first_step(narrow, at, p)

    def rate(size):
        q = ONE.fork("p").normal(400, 2)
        begin = nuts.Step(at, q)
        gap = nuts.energy(begin) - nuts.energy(nuts.leap(narrow, begin, size * nuts.spread(x)))
        return float(gap.clamp_max(0).exp().mean())

    assert rate(e) >= 0.5 > rate(2 * e)
    assert math.log2(e).is_integer()


@pytest.mark.slow
def test_chains_that_start_where_it_is_steep_come_home(monkeypatch):
    """One in fifty starts in the neck of a funnel, v = -5, where w is twelve times as narrow as at 0; without short steps,
    some of those stay there."""
    left = {}
    for careful in (16, 0):
        monkeypatch.setattr(nuts, "CAREFUL", careful)

        def draw(n, rng):
            x = rng.normal(n, 2)
            neck = (torch.arange(n) % 50 == 0).double()[:, None]
            return x * (1 - neck + neck * row(0.1, 0.08)) - 5 * neck * row(1.0, 0.0)

        problem = Problem((2,), (math.inf,), (Initial(draw), target(funnel)))
        laws = registry.parse("method", "nuts:laws=30").fit(problem, Budget(), ONE)
        x = pushed(laws, draw(1000, ONE.fork("start")), ONE)
        left[careful] = int((x[..., 0] < -4).sum())
    assert left[16] <= 1, left
    assert left[0] >= 5, left


def test_infinite_and_undefined_densities_are_never_entered():
    """A quarter of the plane with mass; beyond it log pi is -inf or nan."""

    def corner(x):
        u, v = x.unbind(-1)
        return torch.where(u < 0, math.nan, torch.where(v < 0, -math.inf, round_hill(x)))

    density = LogDensity(corner, lambda x: -x)
    at = nuts.Place.of(density, ONE.fork("x").normal(500, 2).abs())
    for k in range(5):
        at, rates = nuts.trajectory(density, at, row([[0.4, 0.4]]), 5, ONE.fork(f"noise/{k}"))
    assert (at.x > 0).all()
    assert rates.isfinite().all()
