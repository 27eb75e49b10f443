"""The classifier two-sample test where its answer is known."""

import math

import numpy as np
import pytest
import torch

from gwfbench import metrics
from gwfbench.metrics.classifier import DECAY, accuracy, descent, standardised
from gwfbench.nn.mlp_by_hand import Gradient
from gwfbench.nn.stacked import Stacked
from gwfbench.protocol import Judged, Truth
from gwfbench.rng import Streams

METRIC = metrics.known()["c2st"]
SPREAD = torch.tensor([1.0, 30.0]).double()  # standard deviations: the classifier must not mind the units


def truth(limit=None):
    return Truth(lambda index, n, rng: 2.0 + SPREAD * rng.normal(n, 2).double(), exact=True, limit=limit)


def c2st(shift, n=200, seeds=(0,), limit=None):
    rng = Streams(seeds, dtype=torch.float64)
    points = 2.0 + SPREAD * (shift + rng.fork("x").normal(n, 2))
    return METRIC.evaluate(Judged(points, None, truth(limit), 0, rng))


def test_equal_laws_can_t_be_told_apart():
    """And the mean over 40 seeds is 1/2: the error is one of a seed."""
    found = c2st(0.0, seeds=tuple(range(40)))
    assert found.value.shape == found.se.shape == (40,)
    assert found.n == 200
    assert ((found.value - 0.5).abs() < 5 * found.se).all()
    spread = float(found.value.std())
    assert abs(float(found.value.mean()) - 0.5) < 5 * spread / math.sqrt(40)
    assert 0.5 * spread < float(found.se.mean()) < 2 * spread


def test_its_gradient_is_autograd_s():
    """Of the mean cross-entropy plus a / (2 n) of the weights' squares, biases left out; in float64."""
    rng, shapes = Streams((0, 1), dtype=torch.float64), [(3, 7), (1, 7), (7, 7), (1, 7), (7, 1), (1, 1)]
    network = Stacked([rng.normal(*shape) for shape in shapes])
    x, label = rng.normal(11, 3), rng.uniform(11).round()
    w1, b1, w2, b2, w3, b3 = network.leaves
    logit = ((((x @ w1 + b1).relu() @ w2 + b2).relu() @ w3) + b3).squeeze(-1)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, label, reduction="sum") / 11
    loss = loss + DECAY / 22 * sum(weight.square().sum() for weight in (w1, w2, w3))
    ours = Gradient(network)
    with torch.no_grad():
        descent(x, label, network, ours)
    torch.testing.assert_close(ours.flat, network.gradient(loss), rtol=1e-12, atol=1e-14)


def test_laws_without_overlap_are_told_apart():
    assert float(c2st(20.0).value) > 0.995


def test_a_shifted_gaussian_comes_near_the_bayes_classifier_and_never_above():
    """Accuracy of the best classifier of N(0, I) against N(c, I): Phi(|c| / 2)."""
    found = c2st(torch.tensor([1.2, -0.9]).double(), n=1000)
    best = 0.5 * (1 + math.erf(0.75 / math.sqrt(2)))
    assert best - 0.02 - 5 * float(found.se) < float(found.value) < best + 5 * float(found.se)


def test_the_same_streams_give_the_same_number_and_others_another():
    first, again, other = (c2st(0.3, n=60, seeds=(seed,)) for seed in (0, 0, 7))
    assert torch.equal(first.value, again.value)
    assert not torch.equal(first.value, other.value)


def test_a_seed_s_number_does_not_depend_on_its_company():
    both, alone = c2st(0.3, n=60, seeds=(4, 9)), c2st(0.3, n=60, seeds=(9,))
    assert float(both.value[1]) == float(alone.value)


def test_no_more_points_than_the_truth_has():
    assert c2st(0.0, n=100, limit=40).n == 40


def test_a_coordinate_that_never_changes_is_no_trouble():
    x = Streams((0,)).normal(50, 2) * torch.tensor([1.0, 0.0])
    assert 0.2 < float(accuracy(x, x.flip(1), Streams((0,)))) < 0.8


def test_too_few_points_and_points_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="at least 5 points, got 4"):
        c2st(0.0, n=4)
    with pytest.raises(ValueError, match="NaN"):
        c2st(math.nan, n=20)


@pytest.mark.parametrize("size", [1e3, 1e8, 1e25])
def test_a_law_of_any_width_is_told_apart(size):
    """Of N(0, size^2) a share of 1 / size lies where the truth does."""
    rng = Streams((0,), dtype=torch.float64)
    points = 2.0 + SPREAD * size * rng.fork("x").normal(200, 2)
    assert float(METRIC.evaluate(Judged(points, None, truth(), 0, rng)).value) > 0.97


@pytest.mark.parametrize("size", [1e6, 1e25])
def test_one_far_draw_of_the_truth_hides_nothing(size):
    def with_one_far(index, n, rng):
        y = truth().draw(index, n, rng)
        y[:, 0] = size
        return y

    rng = Streams((0,), dtype=torch.float64)
    points = 2.0 + SPREAD * (torch.tensor([1.2, -0.9]) + rng.fork("x").normal(500, 2))  # a shift of 1.5 sd
    found = METRIC.evaluate(Judged(points, None, Truth(with_one_far, exact=True), 0, rng))
    best = 0.5 * (1 + math.erf(0.75 / math.sqrt(2)))
    assert float(found.value) > best - 0.03 - 3 * float(found.se)


def test_coordinates_are_mapped_one_to_one_and_without_a_jump():
    y = np.random.default_rng(0).normal(size=(501, 1)) * 3 + 1
    line = np.concatenate([-np.logspace(300, 2, 50), np.linspace(-40, 40, 801), np.logspace(2, 300, 50)])[:, None]
    z = standardised(torch.from_numpy(line)[None], torch.from_numpy(y)[None])[0, : len(line), 0].numpy()
    assert (np.diff(z) > 0).all()
    assert np.abs(z).max() < 1000
    inner = np.abs(line[:, 0]) < 20
    unit = 1.4826 * np.median(np.abs(y - np.median(y)))
    np.testing.assert_allclose(z[inner], (line[inner, 0] - np.median(y)) / unit, rtol=1e-5, atol=1e-6)


def test_never_mistaken_is_not_without_error():
    found = c2st(50.0, n=50)
    assert float(found.value) == 1
    assert float(found.se) == pytest.approx(math.sqrt(0.01 * 0.99 * 0.45 / 20))
