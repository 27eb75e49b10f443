"""The blob method: its energy against autograd, what its flow keeps and lets fall, Barenblatt's spreading."""

import itertools
import math
import sys

import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.info import InternalEnergy
from gwfbench.plugins import registry
from gwfbench.rng import Streams
from gwfbench.velocity.blob import repulsion, spacing

PARTICLES = registry.find("method", "porous_particles").load()
OURS = sys.modules[PARTICLES.__module__]


def cloud(streams, n=15, d=2):
    x = streams.fork("cloud").normal(n, d)
    return 0.7 * x + 0.2 * x.square() + 0.3


def density(x, h):
    squares = (x[:, :, None] - x[:, None]).square().sum(-1)
    return ((-squares / (2 * h**2)).exp() / (2 * math.pi * h**2) ** (x.shape[2] / 2)).mean(-1)


def energy(x, h, m):
    rho = density(x, h)
    return (rho.log() if m == 1 else rho ** (m - 1) / (m - 1)).mean(1)


@pytest.mark.parametrize("m", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_velocity_is_down_the_smoothed_energy(streams, m, d):
    x, h = cloud(streams, d=d), torch.tensor([0.4, 0.6, 0.9]).double()[:, None, None]
    expected = -x.shape[1] * torch.func.grad(lambda y: energy(y, h, m).sum())(x)
    v, power = repulsion(x, h, m)
    torch.testing.assert_close(v, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(power, density(x, h) ** (m - 1), rtol=1e-9, atol=0)
    assert v.mean(1).abs().max() < 1e-9 * v.abs().max()


def test_one_term_alone_is_the_slope_of_the_density_with_the_particles_held(streams):
    x, h = cloud(streams), 0.6

    def log_rho(y):
        squares = (y[:, :, None] - x[:, None]).square().sum(-1)
        return (-squares / (2 * h**2)).logsumexp(-1).sum()

    torch.testing.assert_close(repulsion(x, h, both=False)[0], -torch.func.grad(log_rho)(x), rtol=1e-9, atol=1e-10)


def test_two_particles_repel_as_their_interaction_energy_says():
    """m = 2: F = (k(0) + k(r)) / 2, so that x' = -2 dF/dx = r k(r) / h^2 for the right one."""
    r, h = 0.7, 0.5
    v, _ = repulsion(torch.tensor([[[0.0], [r]]]).double(), h, 2.0)
    k = math.exp(-(r**2) / (2 * h**2)) / math.sqrt(2 * math.pi) / h
    torch.testing.assert_close(v, torch.tensor([[[-1.0], [1.0]]]).double() * r * k / h**2)


def test_spacing_is_the_median_distance_to_the_nearest(streams):
    x = torch.tensor([0.0, 1.0, 3.0, 6.0, 10.0]).double()[None, :, None]  # 1, 1, 2, 3, 4
    torch.testing.assert_close(spacing(x), torch.full((1, 1, 1), 2.0).double())


def test_attraction_is_the_mean_slope_of_the_kernel(streams):
    x = cloud(streams)
    expected = x.shape[1] * torch.func.grad(
        lambda y: 0.5 * (-(-(y[:, :, None] - y[:, None]).square().sum(-1)).exp()).mean((1, 2)).sum()
    )(x)
    ours = OURS.attraction(x, lambda y: -(-y.square().sum(-1)).exp())
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


def run(text, method, seed=3):
    streams = Streams((seed,), dtype=torch.float64)
    instance = registry.parse("task", text).build(streams.fork("task"))
    laws = registry.parse("method", f"porous_particles:{method}").fit(instance.problem, Budget(), streams)
    return instance, [law.draw(law.limit, streams) for law in laws]


@pytest.mark.slow
def test_the_centre_of_mass_stays_and_the_variance_grows_as_barenblatt_s():
    """The growth of E|x - mean|^2 from the first judged time to the last, whose error from P_0's draw is small."""
    instance, path = run("barenblatt:dim=2,step=0.005,steps=5", "particles=400")
    middle = path[0].mean(1)
    for x in path:
        torch.testing.assert_close(x.mean(1), middle, rtol=0, atol=1e-12)
    growth = path[-1].var(1).sum() / path[0].var(1).sum()
    exact = [instance.truth.moments(i)[1][0].trace() for i in (0, 4)]
    assert abs(float(growth / (exact[1] / exact[0])) - 1) < 0.03  # the bias of h; there is no noise after P_0


@pytest.mark.slow
def test_the_bias_falls_with_the_number_of_particles():
    """In three dimensions, where it is large: relative variance at the end, over that at the start, against the truth."""
    gaps = []
    for n in (100, 800):
        instance, path = run("barenblatt:dim=3,step=0.004,steps=5", f"particles={n}", seed=5)
        exact = instance.truth.moments(4)[1][0].trace() / instance.truth.moments(0)[1][0].trace()
        gaps.append(1 - float(path[-1].var(1).sum() / path[0].var(1).sum() / exact))
    assert 0 < gaps[1] < 0.75 * gaps[0], gaps


def test_the_energy_falls_along_the_flow(streams):
    x, h = cloud(Streams((3,), dtype=torch.float64), n=40), torch.full((1, 1, 1), 0.5).double()
    internal = InternalEnergy(3.0, 0.7)

    def wells(y):
        return -0.8 * (-y.square().sum(-1)).exp()

    def total(y):
        pairs = wells((y[:, :, None] - y[:, None]).flatten(1, 2)).mean() / 2
        return float(0.7 * energy(y, h, 3.0) + pairs)

    values = [total(x)]
    for _ in range(5):
        x = PARTICLES()._over(lambda y: OURS.velocity(y, h, internal, wells), x, 0.5, internal, 0.2)
        values.append(total(x))
    assert all(after < before for before, after in itertools.pairwise(values)), values


def test_the_midpoint_steps_are_of_second_order():
    streams = Streams((3,), dtype=torch.float64)
    x, h, internal = cloud(streams), torch.full((1, 1, 1), 0.6).double(), InternalEnergy(2.0)
    ends = []
    for cfl in (0.4, 0.2, 0.1, 0.0125):
        field = lambda y: OURS.velocity(y, h, internal, None)  # noqa: E731
        ends.append(PARTICLES(cfl=cfl)._over(field, x, 0.6, internal, 4.0))
    errors = [float((end - ends[-1]).abs().max()) for end in ends[:-1]]
    assert errors[1] < errors[0] / 3, errors
    assert errors[2] < errors[1] / 3, errors


def test_particles_attract_where_the_task_says_so():
    """In aggregation-diffusion the square's particles draw together: their variance falls from 3."""
    _, path = run("aggregation_diffusion", "particles=50,step=2")
    assert 0.05 < float(path[-1].var(1).mean()) < 2.6
