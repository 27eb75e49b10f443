"""mode_weights, emc and emc_error: counts by hand, the exact expectation by enumeration, errors against repetition."""

import itertools
import math

import pytest
import torch

from gwfbench.metrics.modes import emc, expected_emc, mode_weights, posterior
from gwfbench.protocol import Judged, Truth
from gwfbench.rng import Streams

DOUBLE = {"dtype": torch.float64}
SHARES = torch.tensor([[0.2, 0.5, 0.3]], **DOUBLE)


def first_coordinate(x, rng):
    return x[..., 0].long()


def judged(points, seeds=(0,)):
    return Judged(points, None, Truth(None, exact=True), 0, Streams(seeds, **DOUBLE))


def of_counts(*counts):
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))[None, :, None].double()


def all_three(labels=first_coordinate, shares=SHARES):
    return (mode_weights(labels, shares), *emc(labels, shares))


def test_counts_by_hand():
    weights, entropy, error = (metric.evaluate(judged(of_counts(1, 4, 5))) for metric in all_three())
    assert float(weights.value) == pytest.approx(0.2)  # 1/2 (0.1 + 0.1 + 0.2)
    h = -sum(p * math.log(p, 3) for p in (0.1, 0.4, 0.5))
    assert float(entropy.value) == pytest.approx(h)
    assert float(error.value) == pytest.approx(abs(h - float(expected_emc(SHARES, 10))))


def test_an_empty_mode_and_all_in_one():
    weights, entropy, _ = (metric.evaluate(judged(of_counts(0, 10, 0))) for metric in all_three())
    assert float(weights.value) == pytest.approx(0.5)
    assert float(entropy.value) == 0
    assert float(weights.se) >= 0.1  # one point of ten
    assert float(entropy.se) > 0


@pytest.mark.parametrize("n", [1, 4, 7])
def test_the_expected_entropy_by_enumeration(n):
    """Over all 3^n sequences of labels."""
    total = 0.0
    for labels in itertools.product(range(3), repeat=n):
        chance = math.prod(float(SHARES[0, k]) for k in labels)
        parts = [labels.count(k) / n for k in range(3)]
        total -= chance * sum(p * math.log(p, 3) for p in parts if p)
    assert float(expected_emc(SHARES, n)) == pytest.approx(total, abs=1e-12)


def test_the_expected_entropy_of_many_points_is_the_law_s_own_less_a_half_k_over_n():
    """H - (K - 1) / (2 n log K) + O(1 / n^2) (Miller 1955)."""
    n = 100_000
    h = float(-(SHARES * SHARES.log()).sum()) / math.log(3)
    assert float(expected_emc(SHARES, n)) == pytest.approx(h - 2 / (2 * n * math.log(3)), abs=1e-9)


@pytest.mark.parametrize("shares", [[0.25] * 4, [0.7, 0.2, 0.1], [1e-5, 1 - 1e-5]])
def test_exact_draws_have_the_expected_entropy(shares):
    seeds, n = tuple(range(400)), 2000
    shares = torch.tensor(shares, **DOUBLE).expand(400, -1)
    ends = shares.cumsum(1)
    x = (Streams(seeds, **DOUBLE).uniform(n)[..., None] > ends[:, None, :-1]).sum(-1)[..., None].double()
    weights, entropy, error = (metric.evaluate(judged(x, seeds)) for metric in all_three(shares=shares))
    expected = expected_emc(shares, n)
    gap = entropy.value - expected
    assert abs(float(gap.mean())) < 5 * float(gap.std()) / 20 + 1e-12
    torch.testing.assert_close(error.value, gap.abs())
    floor = float((shares[0] * (1 - shares[0]) / (2 * math.pi * n)).sqrt().sum())
    if shares.min() > 0.01:
        assert float(weights.value.mean()) == pytest.approx(floor, rel=0.15)


def test_standard_errors_are_the_spread_over_repetitions():
    """Away from the target: 400 clouds, whose spread is known to 3.5 %."""
    seeds = tuple(range(400))
    x = (Streams(seeds, **DOUBLE).uniform(1000)[..., None] > torch.tensor([0.5, 0.6], **DOUBLE)).sum(-1)[..., None]
    for metric in all_three(shares=SHARES.expand(400, 3)):
        found = metric.evaluate(judged(x.double(), seeds))
        assert float(found.se.mean()) == pytest.approx(float(found.value.std()), rel=0.18)
        covered = float(((found.value - found.value.mean()).abs() < 2 * found.se).double().mean())
        assert abs(covered - 0.9545) < 5 * math.sqrt(0.9545 * 0.0455 / 400)


def test_labels_drawn_from_the_posterior_have_the_target_s_shares_where_modes_overlap():
    """Two components at distance 1.5 s, where a fifth of the draws are nearer to the other mean."""
    means, shares = torch.tensor([[[0.0, 0.0], [1.5, 0.0]]], **DOUBLE), torch.tensor([0.8, 0.2], **DOUBLE)
    rng, n = Streams((0,), **DOUBLE), 200_000
    own = (rng.fork("component").uniform(n) > 0.8).long()
    x = rng.fork("x").normal(n, 2) + means[0][own[0]]
    labels = posterior(means, shares, 1.0)(x, rng.fork("labels"))
    assert labels.shape == (1, n)
    error = math.sqrt(0.8 * 0.2 / n)
    assert abs(float(labels.double().mean()) - 0.2) < 5 * error
    nearest = (x[..., 0] > 0.75).double()
    assert abs(float(nearest.mean()) - 0.2) > 50 * error
    assert float((labels == own).double().mean()) > 0.7
    again = posterior(means, shares, 1.0)(x, rng.fork("labels"))
    assert torch.equal(labels, again)


def test_what_is_no_distribution_is_refused():
    for shares in ([0.5, 0.6], [1.0, 0.0], [math.nan, 1.0]):
        with pytest.raises(ValueError, match="positive and sum to 1"):
            mode_weights(first_coordinate, torch.tensor([shares]))
    with pytest.raises(ValueError, match="two of them"):
        emc(first_coordinate, torch.ones(1, 1))
