"""Coordinates and metrics of clusters of alike particles."""

import itertools

import numpy as np
import pytest
import torch

from gwfbench.metrics import clusters
from gwfbench.metrics.clusters import aligned, cluster_metrics, coordinates, helmert, pairs, positions, push
from gwfbench.protocol import Judged, Truth
from gwfbench.rng import Streams


def cloud(n, count, d, seed=0, spread=1.0):
    z = Streams((seed,), dtype=torch.float64).normal(n, (count - 1) * d)[0]
    return positions(spread * z, count)


def rotation(d, seed=0, reflect=False):
    q, _ = torch.linalg.qr(Streams((seed,), dtype=torch.float64).normal(d, d)[0])
    q[:, 0] *= torch.det(q).sign() * (-1 if reflect else 1)
    return q


@pytest.mark.parametrize("count", [2, 4, 13])
def test_the_basis_is_orthonormal_and_mean_free(count):
    h = helmert(count)
    torch.testing.assert_close(h.T @ h, torch.eye(count - 1, dtype=torch.float64))
    torch.testing.assert_close(h.sum(0), torch.zeros(count - 1, dtype=torch.float64))


def test_coordinates_keep_lengths_and_lose_the_mean_alone():
    x = Streams((3,), dtype=torch.float64).normal(5, 7, 3)[0]
    centred = x - x.mean(1, keepdim=True)
    z = coordinates(x)
    assert z.shape == (5, 18)
    torch.testing.assert_close(positions(z, 7), centred)
    torch.testing.assert_close(z.square().sum(-1), centred.square().sum((1, 2)))
    torch.testing.assert_close(coordinates(x + 9.0), z)


def test_pushes_are_the_gradient_of_a_sum_over_pairs():
    x = cloud(4, 5, 3).requires_grad_()
    gap, distance = pairs(x)
    assert gap.shape == (4, 10, 3)
    torch.testing.assert_close(distance, gap.norm(dim=-1))
    (gradient,) = torch.autograd.grad((distance**3).sum(), x)
    torch.testing.assert_close(push(gap, 3 * distance, 5), gradient)


@pytest.mark.parametrize(("count", "d"), [(4, 2), (3, 3), (13, 3)])
@pytest.mark.parametrize("reflect", [False, True])
def test_a_turned_and_renamed_cluster_is_no_distance_away(count, d, reflect):
    x = cloud(6, count, d)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    cost = aligned(x, x[:, order] @ rotation(d, 2, reflect))
    assert cost.diagonal().max() < 1e-10
    assert cost.min(1).indices.tolist() == list(range(6))


def test_in_the_plane_the_cost_is_the_least_over_all_angles():
    """Against a fine grid of angles, both orientations and all permutations."""
    x, y = cloud(3, 4, 2, 1), cloud(4, 4, 2, 2)
    angles = torch.linspace(0, 2 * torch.pi, 2001, dtype=torch.float64)
    turns = torch.stack(
        [torch.stack([angles.cos(), -angles.sin()], -1), torch.stack([angles.sin(), angles.cos()], -1)], -2
    )
    turns = torch.cat([turns, turns @ torch.diag(torch.tensor([1.0, -1.0]).double())])
    best = torch.full((3, 4), torch.inf, dtype=torch.float64)
    for order in itertools.permutations(range(4)):
        moved = y[:, order] @ turns[:, None]  # (T, m, N, D)
        gap = (x[:, None, None] - moved).square().sum((-2, -1))
        best = torch.minimum(best, gap.min(1).values)
    cost = aligned(x, y)
    assert (cost <= best + 1e-12).all()
    assert (best - cost).max() < 1e-4  # of the grid


def test_the_closed_form_in_the_plane_is_the_sum_of_singular_values():
    m = Streams((1,), dtype=torch.float64).normal(50, 2, 2)[0]
    torch.testing.assert_close(clusters._nuclear(m), torch.linalg.svdvals(m).sum(-1))


def test_turns_are_never_below_the_minimum_and_near_it():
    x, y = cloud(20, 4, 3, 1), cloud(20, 4, 3, 2)
    squares = x.square().sum((1, 2))[:, None] + y.square().sum((1, 2))
    exact, found = aligned(x, y), squares - 2 * clusters._by_turns(x, y)
    assert (found >= exact - 1e-10).all()
    assert float(found.mean()) < 1.05 * float(exact.mean())


def gaussian_truth(spread=1.0):
    def draw(index, n, streams):
        return spread * streams.normal(n, 6)

    return Truth(draw, exact=True)


def judge(name, points, truth, seed=0):
    metrics = {metric.name: metric for metric in cluster_metrics(lambda z: z.square().sum(-1), lambda z: -2 * z, 4, 64)}
    return metrics[name].evaluate(Judged(points, None, truth, 0, Streams((seed,), dtype=torch.float64).fork("judge")))


@pytest.mark.parametrize("name", ["energy_tv", "distance_tv", "aligned_w2"])
def test_metrics_are_blind_to_symmetries_and_see_a_change_of_size(name):
    x = Streams((7,), dtype=torch.float64).normal(64 if name == "aligned_w2" else 2000, 6)
    turned = coordinates(positions(x, 4)[..., [2, 0, 3, 1], :] @ rotation(2, 3, reflect=True))
    first, same, wider = (judge(name, points, gaussian_truth()) for points in (x, turned, 2.5 * x))
    torch.testing.assert_close(first.value, same.value, rtol=0, atol=2e-3 if name != "aligned_w2" else 1e-9)
    assert float(wider.value - first.value) > 5 * float((wider.se**2 + first.se**2).sqrt())


def test_the_histograms_distance_is_that_of_the_laws():
    """Energies |z|^2 are chi^2 of 6 degrees; of N(0, 4) four times that. TV by quadrature over the same bins."""
    import scipy.stats

    law = scipy.stats.chi2(6)
    edges = law.ppf(np.arange(1, clusters.BINS) / clusters.BINS)
    q = np.diff(np.concatenate([[0.0], law.cdf(edges / 4), [1.0]]))
    expected = 0.5 * np.abs(q - 1 / clusters.BINS).sum()
    found = [
        judge("energy_tv", 2 * Streams((s,), dtype=torch.float64).normal(4096, 6), gaussian_truth(), s)
        for s in range(20)
    ]
    values = np.array([float(one.value) for one in found])
    assert abs(values.mean() - expected) < 5 * values.std(ddof=1) / 20**0.5 + 0.002  # + what two clouds' noise adds
    assert 0.5 < np.mean([float(one.se) for one in found]) / values.std(ddof=1) < 2


def test_the_virial_is_that_of_the_scale_and_its_error_is_the_spread():
    """U = |z|^2 and z of N(0, s^2 I): z . grad U / d is 2 s^2 on average, so the law itself has s^2 = 1/2."""
    spread = 1.3 * 0.5**0.5
    found = [judge("virial", spread * Streams((s,), dtype=torch.float64).normal(1000, 6), None, s) for s in range(40)]
    values = np.array([float(one.value) for one in found])
    assert abs(values.mean() - 0.69) < 5 * values.std(ddof=1) / 40**0.5
    assert np.mean([float(one.se) for one in found]) == pytest.approx(values.std(ddof=1), rel=5 / 80**0.5)
    exact = judge("virial", 0.5**0.5 * Streams((1,), dtype=torch.float64).normal(4000, 6), None)
    assert float(exact.value) < 5 * float(exact.se)


def test_the_floor_is_what_the_module_says():
    found = [
        judge("energy_tv", Streams((s,), dtype=torch.float64).normal(4096, 6), gaussian_truth(), s) for s in range(20)
    ]
    floor = (clusters.BINS / (np.pi * 4096)) ** 0.5
    assert np.mean([float(one.value) for one in found]) == pytest.approx(floor, rel=0.1)


def test_points_without_an_energy_are_in_the_last_bin():
    """Half of the points at nan: they are all in the last bin, so the distance is near 1/2."""
    x = Streams((7,), dtype=torch.float64).normal(2000, 6)
    x[:, ::2] = torch.nan
    for name in ("energy_tv", "distance_tv"):
        assert float(judge(name, x, gaussian_truth()).value) == pytest.approx(0.49, abs=0.05)
