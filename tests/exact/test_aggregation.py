"""The aggregation tasks: limits against their stationarity conditions, energies by quadrature, the reference run."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate
from scipy.stats import chi2, kstest, semicircular

from gwfbench import metrics
from gwfbench.errors import UserError
from gwfbench.info import Initial, InteractionEnergy, InternalEnergy
from gwfbench.plugins import registry
from gwfbench.protocol import Judged
from gwfbench.rng import Streams
from scripts.finite_volume import Equation, convolution, solve

CASES = ["ring", "semicircle"]
MASSES = [9, 1]


def build(text, streams):
    return registry.parse("task", text).build(streams.fork("task"))


def judge(instance, name, points, index=0):
    (metric,) = metrics.choose([name], instance.truth.metrics)
    return metric.evaluate(Judged(points[:, : metric.points], None, instance.truth, index, Streams((3, 5, 8))))


def circle(radius, n):
    angle = 2 * math.pi * (torch.arange(n).double() + 0.5) / n
    return radius * torch.stack([angle.cos(), angle.sin()], -1)


def field(kernel, x, atoms):
    """grad(W * mu)(x) by autograd, mu uniform on the atoms; (n, d) each."""
    x = x.clone().requires_grad_()
    value = kernel((x[:, None] - atoms).flatten(0, 1)[None]).unflatten(1, (len(x), -1)).mean(-1).sum()
    return torch.autograd.grad(value, x)[0]


def test_ring_is_stationary_attracting_and_not_of_radius_one_half(streams):
    """grad(W * rho) vanishes on the ring, points in from outside and out from inside; on a ring of 1/2 it pushes out."""
    kernel = build("aggregation", streams).problem[InteractionEnergy].kernel
    ring = circle(1 / math.sqrt(3), 64)
    here = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    assert field(kernel, here / math.sqrt(3), ring).norm() < 1e-12
    for radius in (0.2, 0.5, 0.7, 1.5):
        outward = (field(kernel, radius * here, ring) * here).sum()
        torch.testing.assert_close(outward, torch.tensor(radius * (radius**2 - 1 / 3), dtype=torch.float64))
    assert (field(kernel, here / 2, circle(0.5, 64)) * here).sum() < -0.1


def test_ring_is_where_particles_go(streams):
    """Particles of N(0, I/4) in mirrored pairs follow the flow to radius 1/sqrt(3) and to the limit's energy."""
    instance = build("aggregation", streams)
    kernel = instance.problem[InteractionEnergy].kernel
    x = instance.problem[Initial].draw(40, streams.fork("x"))[0]
    x = torch.cat([x, -x, x.flip(1) * torch.tensor([1.0, -1.0]), x.flip(1) * torch.tensor([-1.0, 1.0])])
    for _ in range(300):
        x = x - 0.1 * field(kernel, x, x)
    assert (x.norm(dim=1) - 1 / math.sqrt(3)).abs().max() < 1e-3
    full = kernel((x[:, None] - x).flatten(0, 1)[None]).mean()
    assert float(0.5 * full) == pytest.approx(-1 / 12, abs=1e-6)


def test_energy_of_the_ring_by_moments_and_three_points_are_as_good(streams):
    instance = build("aggregation", streams)
    kernel, truth = instance.problem[InteractionEnergy].kernel, instance.truth
    for atoms in (circle(1 / math.sqrt(3), 3), circle(1 / math.sqrt(3), 50)):
        energy = 0.5 * kernel((atoms[:, None] - atoms).flatten(0, 1)[None]).mean()
        torch.testing.assert_close(energy, truth.energy(0)[0])
    x = streams.normal(30, 2)[0] * torch.tensor([1.0, 0.4])
    x = x - x.mean(0)
    c, s = x.T @ x / 30, x.square().sum(1).mean()
    cubes = (x.square().sum(1, keepdim=True) * x).mean(0)
    assert cubes.norm() > 0.01  # third moments drop out because the mean is 0
    formula = 0.5 * (x.square().sum(1).square().mean() / 2 + s**2 / 2 + c.square().sum() - s)
    torch.testing.assert_close(0.5 * kernel((x[:, None] - x).flatten(0, 1)[None]).mean(), formula)


def test_semicircle_is_stationary_and_its_energy_is_known(streams):
    """W * rho is 3/4 + log(2)/2 at every point of the support and more beyond it; half of it is F."""
    truth = build("aggregation:case=semicircle", streams).truth

    def potential(x):
        smooth = integrate.quad(lambda y: 0.5 * (x - y) ** 2 * semicircular.pdf(y, scale=2**0.5), -(2**0.5), 2**0.5)[0]
        steps = [(-(2**0.5), min(x, 2**0.5)), (min(x, 2**0.5), 2**0.5)]
        return smooth - sum(
            integrate.quad(lambda y: math.log(abs(x - y)) * semicircular.pdf(y, scale=2**0.5), *ends, limit=200)[0]
            for ends in steps
            if ends[1] > ends[0]
        )

    for x in (-1.3, -0.2, 0.0, 0.9):
        assert potential(x) == pytest.approx(0.75 + 0.5 * math.log(2), abs=1e-7)
    assert potential(1.6) > 0.75 + 0.5 * math.log(2) + 1e-3
    assert float(truth.energy(0)[1]) == pytest.approx(0.5 * potential(0.4), abs=1e-7)


def test_semicircle_density_and_draws(streams):
    truth = build("aggregation:case=semicircle", streams).truth
    x = truth.draw(0, 20_000, streams.fork("x"))
    assert kstest(x[0, :, 0].numpy(), semicircular(scale=2**0.5).cdf).pvalue > 1e-6
    expected = torch.from_numpy(semicircular.logpdf(x[..., 0].numpy(), scale=2**0.5))
    torch.testing.assert_close(truth.log_prob(0, x), expected)
    assert (truth.log_prob(0, torch.tensor([[[1.42], [-9.0]]])) == -math.inf).all()
    single = truth.draw(0, 20_000, Streams((1,)))
    assert truth.log_prob(0, single).isfinite().all()


@pytest.mark.parametrize("case", CASES)
def test_limits_have_their_moments_and_starts_their_densities(case, streams):
    instance = build(f"aggregation:case={case}", streams)
    mean, covariance = instance.truth.moments(0)
    n = 20_000
    x = instance.truth.draw(0, n, streams.fork("x"))
    products = (x[..., :, None] * x[..., None, :]).flatten(2)
    assert (x.mean(1).abs() <= 5 * x.std(1) / n**0.5).all()
    assert ((products.mean(1) - covariance.flatten(1)).abs() <= 5 * products.std(1) / n**0.5 + 1e-12).all()
    assert not mean.any()
    start = instance.problem[Initial]
    deviation, d = (0.5, 2) if case == "ring" else (1.0, 1)
    y = start.draw(n, streams.fork("y"))
    assert y.shape == (3, n, d)
    normal = torch.distributions.Normal(0.0, deviation)
    torch.testing.assert_close(start.log_prob(y), normal.log_prob(y).sum(-1))
    assert ((y.square().mean(1) - deviation**2).abs() < 5 * deviation**2 * (2 / n) ** 0.5).all()


@pytest.mark.parametrize("case", CASES)
def test_energy_gap_is_the_double_sum_and_its_error_is_honest(case, streams):
    instance = build(f"aggregation:case={case}", streams)
    kernel, energy = instance.problem[InteractionEnergy].kernel, instance.truth.energy(0)
    x = 0.3 + 1.1 * instance.problem[Initial].draw(150, streams.fork("x"))
    pairs = [float(kernel(x[:1, i : i + 1] - x[:1, j : j + 1])) for i in range(30) for j in range(30) if i != j]
    value = judge(instance, "energy_gap", x[:1, :30]).value[0]
    assert float(value) == pytest.approx(0.5 * np.mean(pairs) - float(energy[0]), abs=1e-10)
    torch.testing.assert_close(judge(instance, "energy_gap", x).value, judge(instance, "energy_gap", x.flip(1)).value)
    many = Streams(tuple(range(300)), dtype=torch.float64)  # the s.d. over repetitions against the mean se
    y = instance.problem[Initial].draw(100, many)
    estimate = judge(build(f"aggregation:case={case}", many), "energy_gap", y)
    assert float(estimate.value.std() / estimate.se.mean()) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("case", CASES)
def test_the_truth_is_at_the_floor_and_the_start_is_not(case, streams):
    instance = build(f"aggregation:case={case}", streams)
    exact = instance.truth.draw(0, 1500, streams.fork("x"))
    still = instance.problem[Initial].draw(1500, streams.fork("y"))
    at_limit, at_start = judge(instance, "energy_gap", exact), judge(instance, "energy_gap", still)
    assert (at_limit.value.abs() < 5 * at_limit.se).all()
    assert (at_start.value > 5 * at_start.se).all()
    assert (judge(instance, "radial_w2", exact).value < 0.05).all()
    assert (judge(instance, "radial_w2", still).value > 0.2).all()
    with pytest.raises(ValueError, match="2 points"):
        judge(instance, "energy_gap", exact[:, :1])


def test_radial_w2_of_scaled_limits(streams):
    """A ring of radius r is |r - R| away; the semicircle scaled by c, |c - 1| / sqrt(2)."""
    ring, line = (build(f"aggregation:case={case}", streams) for case in CASES)
    assert float(judge(ring, "radial_w2", circle(0.5, 90)[None]).value) == pytest.approx(1 / math.sqrt(3) - 0.5)
    u = (torch.arange(20_000).double() + 0.5) / 20_000
    x = torch.from_numpy(semicircular.ppf(u.numpy(), scale=2**0.5))[None, :, None]
    assert float(judge(line, "radial_w2", 1.2 * x).value) == pytest.approx(0.2 / math.sqrt(2), rel=1e-3)
    some = Streams(tuple(range(200)), dtype=torch.float64)
    estimate = judge(build("aggregation", some), "radial_w2", 0.5 * some.normal(400, 2))
    assert float(estimate.value.std() / estimate.se.mean()) == pytest.approx(1, abs=0.25)


def test_particles_on_one_place_have_finite_energy_and_no_force(streams):
    kernel = build("aggregation:case=semicircle", streams).problem[InteractionEnergy].kernel
    x = torch.zeros(1, 2, 1).requires_grad_()
    value = kernel(x)
    assert value.isfinite().all()
    assert not torch.autograd.grad(value.sum(), x)[0].any()


@pytest.mark.parametrize("text", ["aggregation:case=disc", "aggregation_diffusion:mass=2"])
def test_bad_fields_are_told(text):
    with pytest.raises(UserError, match="write"):
        registry.parse("task", text)


@pytest.fixture(scope="module", params=MASSES)
def diffusion(request):
    streams = Streams((3, 5, 8), dtype=torch.float64)
    return request.param, build(f"aggregation_diffusion:mass={request.param}", streams)


def grid(step):
    """Points of a grid over the reference's square that are not centres of its cells, (1, n, 2)."""
    x = torch.arange(-3.6, 3.6, step).double() + 0.37 * step
    return torch.cartesian_prod(x, x)[None]


def test_density_is_normalised_and_has_the_moments(diffusion):
    _, instance = diffusion
    x = grid(1 / 80)
    for index in range(len(instance.problem.times)):
        p = instance.truth.log_prob(index, x).exp()[0]
        assert float(p.sum()) / 80**2 == pytest.approx(1, abs=2e-4)
        mean, covariance = instance.truth.moments(index)
        second = (p[:, None] * x[0]).T @ x[0] / 80**2
        torch.testing.assert_close(second, covariance[0], rtol=3e-4, atol=3e-4)
        assert mean.shape == (3, 2)
        assert not mean.any()


def test_draws_follow_the_density(diffusion):
    """Chi-square over squares of side 1/4 that hold 20 draws or more, probabilities by a fine quadrature."""
    _, instance = diffusion
    n = 20_000
    for index in (1, len(instance.problem.times) - 1):
        x = instance.truth.draw(index, n, Streams((3,), dtype=torch.float32).fork("x"))
        assert x.dtype == torch.float32
        assert instance.truth.log_prob(index, x[:1]).isfinite().all()
        edges = np.arange(-3.75, 3.76, 0.25)
        counts = np.histogram2d(*x[0].numpy().T, bins=[edges, edges])[0]
        fine = torch.arange(-3.75, 3.75, 0.25 / 16).double() + 0.25 / 32
        p = instance.truth.log_prob(index, torch.cartesian_prod(fine, fine)[None]).exp()[0]
        expected = n * p.reshape(30, 16, 30, 16).mean((1, 3)).numpy() / 16
        big = expected >= 20
        statistic = ((counts - expected)[big] ** 2 / expected[big]).sum()
        assert chi2.sf(statistic, big.sum()) > 1e-6
        assert abs(counts[~big].sum() - expected[~big].sum()) < 5 * max(expected[~big].sum(), 1) ** 0.5 + 1


def peaks(instance, index):
    """Local maxima of the density above a twentieth of its largest value, on a grid of step 1/8."""
    x = torch.arange(-3.5, 3.5, 0.125).double() + 0.0625
    p = instance.truth.log_prob(index, torch.cartesian_prod(x, x)[None]).exp().reshape(1, 1, len(x), len(x))
    top = torch.nn.functional.max_pool2d(p, 3, 1, 1)
    places = ((p == top) & (p > p.max() / 20)).nonzero()[:, 2:]
    return x[places]


def test_four_pulses_then_one(diffusion):
    _, instance = diffusion
    for index in range(3, 6):
        found = peaks(instance, index)
        assert found.sign().tolist() == [[-1, -1], [-1, 1], [1, -1], [1, 1]]
        assert (found.abs() > 0.6).all()
    assert (peaks(instance, len(instance.problem.times) - 1).abs() < 0.1).all()


def test_energy_falls_and_is_that_of_the_density(diffusion):
    """The solver's energy against the task's own kernel and weight, on a grid of step 1/8."""
    mass, instance = diffusion
    energies = torch.stack([instance.truth.energy(k) for k in range(len(instance.problem.times))])
    assert (energies.diff(dim=0) < 0).all()
    kernel, internal = instance.problem[InteractionEnergy].kernel, instance.problem[InternalEnergy]
    assert (internal.m, internal.weight) == (3.0, pytest.approx(0.1 * mass**2))
    h = 0.125
    x = torch.arange(-3.5, 3.5, h).double() + h / 2
    cells = torch.cartesian_prod(x, x)
    for index in (0, 4, len(energies) - 1):
        p = instance.truth.log_prob(index, cells[None]).exp()[0]
        held = p > 1e-9
        p, at = p[held] / p.sum() / h**2, cells[held]
        w = torch.stack([kernel((at - one)[None])[0] @ p for one in at]) * h**2
        energy = (0.5 * (w * p).sum() + internal.weight / 2 * (p**3).sum()) * h**2
        assert float(energy) == pytest.approx(float(energies[index, 0]), rel=0.02)


def test_the_reference_is_certified_by_its_grids(diffusion):
    """Distances between grids fall; a still coarser one, on the whole square and by FFT, comes as near as it should."""
    mass, instance = diffusion
    from importlib import resources

    with resources.files("gwfbench").joinpath("data/aggregation_diffusion.npz").open("rb") as file:
        kept = dict(np.load(file))
    coarse, fine = kept[f"l1_{mass}"]
    assert (fine < 0.6 * coarse).all()
    assert fine.max() < 0.06
    assert kept[f"w2_{mass}"][1].max() < 0.02
    density = kept[f"density_{mass}"]
    assert (density >= 0).all()
    assert density[:, -4:].max() == 0  # nothing comes near the outer walls
    np.testing.assert_allclose(density, density.transpose(0, 2, 1), atol=1e-5)
    n, side = 42, 3.5
    h = 2 * side / n
    x = np.abs(-side + (np.arange(n) + 0.5) * h)
    start = np.outer(x < 3, x < 3) / 36
    interact = convolution(lambda y: -mass / math.pi * np.exp(-(y**2).sum(-1)), (n, n), h)
    last = instance.problem.times[2]
    (found,) = solve(Equation(h, 3.0, 0.1 * mass**2, interact=interact), start, (last,))
    centres = torch.from_numpy(-side + (np.arange(n) + 0.5) * h)
    p = instance.truth.log_prob(2, torch.cartesian_prod(centres, centres)[None]).exp().reshape(n, n).numpy()
    assert np.abs(found - p).sum() * h**2 < 4 * coarse[2]


def test_start_is_the_square(diffusion):
    _, instance = diffusion
    start = instance.problem[Initial]
    x = start.draw(5000, Streams((3, 5, 8), dtype=torch.float64))
    assert float(x.abs().max()) <= 3
    assert kstest(x[1, :, 1].numpy(), lambda v: (v + 3) / 6).pvalue > 1e-6
    inside = torch.tensor([[[0.0, 2.9], [-3.1, 0.0], [1.0, 3.01]]]).double()
    assert start.log_prob(inside).exp().flatten().tolist() == pytest.approx([1 / 36, 0, 0])
