"""Every metric of laws that are no clouds: points, planes, few points, far points. A number where there is one, `inf`
where it is infinite, an unknown error where nothing is known of it; never an exception, and never another number."""

import math

import pytest
import torch

from gwfbench import metrics
from gwfbench.metrics.modes import mode_coverage
from gwfbench.protocol import Judged, Truth
from gwfbench.rng import Streams

D, N = 2, 200
MEAN = torch.tensor([0.3, -0.2], dtype=torch.float64)
MODES = mode_coverage(torch.tensor([[[1.0, 0.0], [-1.0, 0.5]]]), torch.tensor([0.4, 0.6]))
EVIDENCE = ("log_z", "elbo", "eubo", "ess_reverse", "ess_forward")  # of densities alone: test_evidence.py
ALL = {name: metric for name, metric in metrics.known().items() if name not in EVIDENCE} | {"mode_coverage": MODES}
NEEDS_DENSITY = ("kl", "objective")
SYMKL = ("symkl", "symkl_debiased", "symkl_jko")
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def normal_log(x):
    return -0.5 * (x.double() - MEAN).square().sum(-1) - 0.5 * D * math.log(2 * math.pi)


def normal_truth(**changed):
    """N(MEAN, I), the limit of a flow with energy KL."""
    parts = {
        "draw": lambda index, n, rng: (MEAN + rng.normal(n, D)).to(rng.dtype),
        "exact": True,
        "log_prob": lambda index, x: normal_log(x).to(x.dtype),
        "score": lambda index, x: (MEAN - x).to(x.dtype),
        "moments": lambda index: (MEAN[None], torch.eye(D, dtype=torch.float64)[None]),
        "energy": lambda index: torch.zeros(1, dtype=torch.float64),
        "integrand": lambda x, log_prob: log_prob - normal_log(x),
    }
    return Truth(**{**parts, **changed})


def evaluate(name, points, log_prob=None, truth=None):
    """With draws of the truth in double precision, so that those of the points alone differ."""
    rng = Streams((0,), dtype=torch.float64)
    log_prob = normal_log(points) + 1 if log_prob is None else log_prob
    return ALL[name].evaluate(Judged(points, log_prob, truth or normal_truth(), 0, rng))


def cloud(n=N, dtype=torch.float64):
    return Streams((4,), dtype=dtype).fork("law").normal(n, D) + 0.5


def place(first, value):
    x = cloud()
    x[0, :first] = value
    return x


FLAT = {
    "one point": torch.full((1, N, D), 0.7, dtype=torch.float64),
    "two points": torch.where(torch.arange(N)[None, :, None] % 3 > 0, 0.7, -1.1).expand(1, N, D).double(),
    "a line": cloud()[..., :1] * torch.tensor([1.0, 0.3], dtype=torch.float64),
    "two draws": cloud(2),
    "ten million away, one point": torch.full((1, N, D), 1e7, dtype=torch.float64),
}
FAR = {
    "one at a million": place(1, 1e6),
    "one at 1e25": place(1, 1e25),
    "ten at 1e12": place(10, 1e12),
    "1e25 times too wide": cloud() * 1e25,
    "two clusters, 2e8 apart": cloud() + torch.where(torch.arange(N) % 2 > 0, 1e8, -1e8)[None, :, None],
}


@PRECISIONS
@pytest.mark.parametrize("law", FLAT)
@pytest.mark.parametrize("name", ALL)
def test_flat_laws(name, law, dtype):
    points = FLAT[law].to(dtype)
    if name == "c2st" and points.shape[1] < 5:
        with pytest.raises(ValueError, match="at least 5 points"):  # its five folds need a point each
            evaluate(name, points)
        return
    if name == "sinkhorn" and law.startswith("ten million"):
        with pytest.raises(ArithmeticError, match="too small next to distances"):
            evaluate(name, points)
        return
    density = torch.full(points.shape[:2], math.inf)
    found = evaluate(name, points, density)
    assert found.value.shape == found.se.shape == (1,)
    value, se = float(found.value), float(found.se)
    if name in (*SYMKL, *NEEDS_DENSITY):
        assert value == math.inf
        assert math.isnan(se)
    else:
        assert math.isfinite(value)
        assert (
            math.isnan(se) or se > 0 or (se == 0 and law != "two draws" and name.startswith(("moments", "bures", "w2")))
        )


@PRECISIONS
@pytest.mark.parametrize("law", FAR)
@pytest.mark.parametrize("name", [name for name in ALL if name not in NEEDS_DENSITY])
def test_far_points_are_judged_right(name, law, dtype):
    """Single precision against double of the same points, which test_far_points.py checks; W2 against the law's size."""
    points = FAR[law].to(dtype)
    if name == "sinkhorn":  # its costs over eps have more digits than a number
        with pytest.raises(ArithmeticError, match=r"too small next to distances|are nan off|did not"):
            evaluate(name, points)
        return
    found = evaluate(name, points)
    if name in SYMKL and law not in ("one at a million", "1e25 times too wide"):
        assert float(found.value) == math.inf  # a variance is 1e-16 and less of the largest: no digit of it is left
        return
    assert found.value.isfinite().all()
    assert not (found.se == 0).any()
    if dtype == torch.float32:
        assert float(found.value) == pytest.approx(float(evaluate(name, points.double()).value), rel=2e-4, abs=2e-5)
    size = float(points.double().square().sum(-1).mean().sqrt())
    if name in ("w2", "bures_w2"):
        assert float(found.value) == pytest.approx(size, rel=0.01)
    if name == "sliced_w2":
        assert float(found.value) == pytest.approx(size / math.sqrt(2), rel=0.2)
    if name == "c2st" and law in ("1e25 times too wide", "two clusters, 2e8 apart"):
        assert float(found.value) > 0.97


@pytest.mark.parametrize("name", ["kl", "objective"])
def test_densities_that_are_no_numbers(name):
    x = cloud()
    own = normal_log(x) + 1

    def value(own=own, **truth):
        found = evaluate(name, x, own, normal_truth(**truth))
        return float(found.value), float(found.se)

    assert value()[0] == pytest.approx(1)
    hole = own.clone()
    hole[0, 3] = math.nan
    assert math.isnan(value(hole)[0])
    hole[0, 3] = math.inf  # the law has a point of its own there
    assert value(hole)[0] == math.inf
    assert math.isnan(value(hole)[1])
    hole[0, 3] = -math.inf  # a point where the law says that it has none
    assert math.isnan(value(hole)[0]) if name == "kl" else value(hole)[0] == math.inf
    if name == "kl":  # one point outside the truth's support
        outside = value(log_prob=lambda index, x: normal_log(x).index_fill(1, torch.tensor([5]), -math.inf))
        assert outside[0] == math.inf
        assert math.isnan(outside[1])


def test_the_same_cloud_has_distance_0_and_no_known_error():
    x = cloud()
    truth = normal_truth(draw=lambda index, n, rng: x[:, :n])
    for name in ("w2", "sliced_w2"):
        found = evaluate(name, x, truth=truth)
        assert float(found.value) < 1e-7
        assert math.isnan(float(found.se)) or float(found.value) > 0


def test_a_truth_of_one_point_is_infinitely_far_by_its_covariance():
    truth = normal_truth(moments=lambda index: (MEAN[None], torch.zeros(1, D, D, dtype=torch.float64)))
    for name in ("symkl", "symkl_debiased", "moments_mean", "moments_covariance"):
        assert float(evaluate(name, cloud(), truth=truth).value) == math.inf
    expected = (cloud()[0] - MEAN).square().sum(1).mean().sqrt()
    assert float(evaluate("bures_w2", cloud(), truth=truth).value) == pytest.approx(float(expected))


def test_modes_far_apart_keep_near_ones_apart():
    """Pairs of modes 1 apart, 2e9 from the next pair: |x|^2 has no digits left for 1."""
    means = torch.tensor([[[0.0], [1.0], [2e9], [2e9 + 1]]], dtype=torch.float64) - 1e9
    points = means.repeat_interleave(torch.tensor([10, 30, 20, 40]), 1)
    judged = Judged(points, None, Truth(None, exact=True), 0, Streams((0,)))
    for scale in (0.0, 0.01):
        found = mode_coverage(means, torch.tensor([0.1, 0.3, 0.2, 0.4], dtype=torch.float64), scale).evaluate(judged)
        assert float(found.value) == pytest.approx(0, abs=1e-12)
