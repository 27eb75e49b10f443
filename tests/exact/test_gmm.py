"""Gaussian mixtures and mode coverage against distributions written otherwise, quadrature, and known counts."""

import dataclasses
import math

import pytest
import scipy.stats
import torch

from gwfbench.errors import UserError
from gwfbench.info import Initial, LogDensity, TargetSamples
from gwfbench.metrics.modes import mode_coverage
from gwfbench.plugins import registry
from gwfbench.protocol import Judged
from gwfbench.rng import Streams

DOUBLE = {"dtype": torch.float64}


def build(text, seeds=(3, 5, 8), dtype=torch.float64):
    return registry.parse("task", text).build(Streams(seeds, dtype=dtype).fork("task"))


def means_of(text, seeds=(3, 5, 8)):
    """The means (S, K, d), read off the score of the same mixture with narrow components: x + s^2 score(x) = mu_k."""
    s = 1e-4
    instance = dataclasses.replace(registry.parse("task", text), scale=s).build(Streams(seeds, **DOUBLE).fork("task"))
    x = instance.truth.draw(0, 300, Streams(seeds, **DOUBLE).fork("means"))
    nearest = x + s**2 * instance.problem[LogDensity].score(x)
    return torch.stack([distinct(one) for one in nearest])


def distinct(rows, apart=1e-6):
    """Of rows that are as good as equal the first; rounding would part two that differ in the last bit."""
    return rows[(torch.cdist(rows, rows, p=torch.inf) < apart).int().argmax(1).unique()]


def mixture(means, s=1.0):
    """The same law from PyTorch's own parts, batch shape (S,)."""
    parts = torch.distributions.Independent(torch.distributions.Normal(means, s), 1)
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(means.shape[:2])), parts)


TABLE_4 = [(2, 5), (4, 5), (8, 5), (15, 3), (17, 3), (24, 3), (32, 3), (64, 2), (128, 1.5)]
BETWEEN = [(1, 5), (3, 5), (14, 5), (16, 3), (63, 3), (65, 2), (127, 2), (200, 1.5)]


@pytest.mark.parametrize(("dim", "length"), TABLE_4 + BETWEEN)
def test_the_means_fill_the_box_of_table_4(dim, length):
    means = means_of(f"gmm:dim={dim}", (3, 5))
    assert means.shape == (2, 10, dim)
    assert means.abs().max() <= length
    count = means.numel()
    assert means.abs().max() > length * (1 - 14 / count)  # false positive: e^-14
    assert abs(means.mean()) < 5 * length / math.sqrt(3 * count)


def test_the_text_s_box_is_asked_for_by_its_half_width():
    torch.testing.assert_close(means_of("gmm:dim=2,spread=2.5"), means_of("gmm:dim=2") / 2, atol=1e-8, rtol=0)


@pytest.mark.parametrize("text", ["gmm", "gmm:dim=8", "gmm:dim=128", "gmm:dim=3,components=4,scale=0.7"])
def test_log_density_and_score(text):
    instance = build(text)
    s = 0.7 if "0.7" in text else 1.0
    law, truth, d = mixture(means_of(text), s), instance.truth, instance.problem.shape[0]
    x = torch.cat([truth.draw(0, 40, Streams((3, 5, 8), **DOUBLE)), 4 * Streams((3, 5, 8), **DOUBLE).normal(40, d)], 1)
    x.requires_grad_()
    expected = law.log_prob(x.transpose(0, 1)).T
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    offered = instance.problem[LogDensity]
    torch.testing.assert_close(truth.log_prob(0, x), expected, atol=1e-6, rtol=1e-8)
    torch.testing.assert_close(truth.score(0, x), gradient, atol=1e-6, rtol=1e-8)
    torch.testing.assert_close(offered.score(x), gradient, atol=1e-6, rtol=1e-8)
    (own,) = torch.autograd.grad(offered.log_prob(x).sum(), x)
    torch.testing.assert_close(own, offered.score(x))
    constant = math.log(law.mixture_distribution.probs.shape[1]) + 0.5 * d * math.log(2 * math.pi * s**2)
    torch.testing.assert_close(offered.log_prob(x) - truth.log_prob(0, x), torch.full_like(expected, constant))


def test_the_log_density_is_twice_differentiable():
    log_prob = build("gmm:components=3", (3,)).problem[LogDensity].log_prob
    x = Streams((3,), **DOUBLE).normal(4, 2).requires_grad_()
    assert torch.autograd.gradcheck(log_prob, x)
    assert torch.autograd.gradgradcheck(log_prob, x)


def test_mass_and_moments_by_quadrature():
    """The trapezoidal rule on a box that holds all: converges faster than any power."""
    truth = build("gmm").truth
    line = torch.arange(-14, 14, 0.2, **DOUBLE)
    x = torch.cartesian_prod(line, line).expand(3, -1, -1)
    weights = truth.log_prob(0, x).exp() * 0.04
    mean = (weights[..., None] * x).sum(1)
    second = (weights[..., None] * x).mT @ x
    torch.testing.assert_close(weights.sum(1), torch.ones(3, **DOUBLE), atol=1e-10, rtol=0)
    torch.testing.assert_close(truth.moments(0)[0], mean, atol=1e-10, rtol=0)
    torch.testing.assert_close(truth.moments(0)[1], second - mean[:, :, None] * mean[:, None], atol=1e-9, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 17])
def test_draws_have_the_moments_and_the_density(dim):
    """Total covariance from the means; each axis and a diagonal direction by Kolmogorov and Smirnov."""
    text, n = f"gmm:dim={dim},scale=0.8", 100_000
    truth, means = build(text).truth, means_of(text)
    mean, covariance = truth.moments(0)
    between = torch.stack([torch.cov(one.T, correction=0) for one in means])
    torch.testing.assert_close(mean, means.mean(1), atol=1e-8, rtol=0)
    torch.testing.assert_close(covariance, 0.64 * torch.eye(dim, **DOUBLE) + between, atol=1e-7, rtol=0)

    x = truth.draw(0, n, Streams((3, 5, 8), **DOUBLE).fork("draws"))
    centered = x - mean[:, None]
    assert (centered.mean(1).abs() < 5 * (covariance.diagonal(dim1=-2, dim2=-1) / n).sqrt()).all()
    fourth = centered.square().mT @ centered.square() / n
    se = ((fourth - covariance.square()) / n).sqrt()
    assert ((centered.mT @ centered / n - covariance).abs() < 5.5 * se).all()  # 5.5: 867 entries in dimension 17

    directions = torch.nn.functional.normalize(torch.stack([torch.eye(dim)[0], torch.linspace(-1, 2, dim)]), dim=1)
    for direction in directions.double():
        for points, centres in zip(x @ direction, means @ direction, strict=True):
            cdf = torch.special.ndtr((points[:, None] - centres) / 0.8).mean(1)
            assert scipy.stats.kstest(cdf.numpy(), "uniform").pvalue > 1e-6


def test_draws_choose_components_evenly():
    means = means_of("gmm:dim=8,spread=40")
    x = build("gmm:dim=8,spread=40").truth.draw(0, 50_000, Streams((3, 5, 8), **DOUBLE))
    for points, centres in zip(x, means, strict=True):
        counts = torch.bincount(torch.cdist(points, centres).argmin(1), minlength=10)
        assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-6


def test_energy_is_zero_and_its_integrand_averages_to_kl(streams):
    """KL(N(0, 9 I) || pi) by quadrature, against the mean under N(0, 9 I); and 0 exactly under pi itself."""
    truth = build("gmm").truth
    assert torch.equal(truth.energy(0), torch.zeros(3, **DOUBLE))
    law = torch.distributions.MultivariateNormal(torch.zeros(2, **DOUBLE), 9 * torch.eye(2, **DOUBLE))
    line = torch.arange(-32, 32, 0.4, **DOUBLE)
    grid = torch.cartesian_prod(line, line)
    log_p = law.log_prob(grid).expand(3, -1)
    gap = log_p - mixture(means_of("gmm")).log_prob(grid[:, None]).T
    expected = (log_p.exp() * gap).sum(1) * 0.16
    x = 3 * streams.normal(100_000, 2)
    values = truth.integrand(x, law.log_prob(x))
    assert ((values.mean(1) - expected).abs() < 5 * values.std(1) / 100_000**0.5).all()
    assert torch.equal(truth.integrand(x, truth.log_prob(0, x)), torch.zeros(3, 100_000, **DOUBLE))


def test_the_start_is_the_wide_gaussian(streams):
    start = build("gmm:dim=3").problem[Initial]
    law = torch.distributions.MultivariateNormal(torch.zeros(3, **DOUBLE), 16 * torch.eye(3, **DOUBLE))
    x = start.draw(100_000, streams)
    torch.testing.assert_close(start.log_prob(x[:, :50]), law.log_prob(x[:, :50]))
    assert scipy.stats.kstest(x.flatten().numpy() / 4, "norm").pvalue > 1e-6


def test_one_point_s_box_and_one_component_are_gaussian():
    x = Streams((3, 5, 8), **DOUBLE).normal(20, 2)
    flat = build("gmm:spread=0,scale=2").truth.log_prob(0, x)
    torch.testing.assert_close(flat, -x.square().sum(-1) / 8 - math.log(8 * math.pi))
    single = build("gmm:components=1").truth
    torch.testing.assert_close(single.score(0, x), single.moments(0)[0][:, None] - x)


def test_float32_keeps_its_digits_far_from_the_origin():
    """Means of length 6500: the textbook expansion of |x - mu|^2 would be off by about 1."""
    text = "gmm:dim=128,spread=1000"
    single, double = build(text, dtype=torch.float32), build(text)
    x = single.problem[TargetSamples].draw(2000, Streams((3, 5, 8)))
    exact = double.problem[LogDensity].log_prob(x.double())
    torch.testing.assert_close(single.problem[LogDensity].log_prob(x).double(), exact, atol=1e-3, rtol=0)
    score = double.problem[LogDensity].score(x.double())
    torch.testing.assert_close(single.problem[LogDensity].score(x).double(), score, atol=5e-3, rtol=0)
    assert single.truth.log_prob(0, x).dtype == torch.float32


@pytest.mark.slow
def test_no_field_makes_a_tensor_larger_than_its_points(largest):
    """(S, n, K, d) would be ten times as large; the truth's float64 only ever holds a part of the points."""
    n, d = 80_000, 128
    instance = build("gmm:dim=128", (3,), torch.float32)
    offered, truth = instance.problem[LogDensity], instance.truth
    with largest() as seen:
        x = truth.draw(0, n, Streams((3,)))
    gathering = n * 8  # bytes of one column of indices
    assert seen.bytes <= n * d * 4 + gathering
    for field in (offered.log_prob, offered.score, lambda x: truth.log_prob(0, x), lambda x: truth.score(0, x)):
        with largest() as seen:
            assert field(x).isfinite().all()
        assert seen.bytes <= n * d * 4


def test_the_same_problem_at_every_precision():
    double, single = build("gmm:dim=5").truth, build("gmm:dim=5", dtype=torch.float32).truth
    torch.testing.assert_close(double.moments(0), single.moments(0), atol=0, rtol=0)


@pytest.mark.parametrize(
    "text",
    ["dim=0", "dim=1001", "components=0", "spread=-1", "spread=inf", "spread=nan", "scale=0", "scale=nan", "start=-4"],
)
def test_bad_input_is_told(text):
    with pytest.raises(UserError, match=f"gmm:{text}"):
        registry.parse("task", f"gmm:{text}")


def coverage(points, means, shares, scale=0.0):
    metric = mode_coverage(means, shares, scale)
    return metric.evaluate(Judged(points, None, build("gmm").truth, 0, Streams((0,))))


SHARES = torch.tensor([0.5, 0.3, 0.2], **DOUBLE)
CENTRES = torch.tensor([[[0.0, 0.0], [30.0, 0.0], [0.0, -50.0]]], **DOUBLE)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_missing_mode_is_worth_its_share(scale):
    at = torch.cat([CENTRES[:, :1].expand(-1, 500, -1), CENTRES[:, 1:2].expand(-1, 300, -1)], 1)
    assert float(coverage(at, CENTRES, SHARES, scale).value) == pytest.approx(0.2, rel=1e-12)
    both = torch.cat([at, CENTRES[:, 2:].expand(-1, 200, -1)], 1)
    assert float(coverage(both, CENTRES, SHARES, scale).value) == pytest.approx(0.0, abs=1e-12)
    collapsed = coverage(at[:, :500], CENTRES, SHARES, scale)
    assert float(collapsed.value) == pytest.approx(0.5, rel=1e-12)
    assert float(collapsed.se) == pytest.approx(
        1 / 500
    )  # the share of one point: none elsewhere is not never elsewhere


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_mode_coverage_knows_no_order_and_no_batches(scale, streams):
    x, means = 5 * streams.normal(40_000, 2), 6 * streams.fork("means").normal(3, 2)
    found = coverage(x, means, SHARES, scale)
    shuffled = x[:, torch.randperm(40_000, generator=torch.Generator().manual_seed(0))]
    order = [2, 0, 1]
    again = coverage(shuffled, means[:, order], SHARES[order], scale)
    torch.testing.assert_close(again.value, found.value)
    torch.testing.assert_close(again.se, found.se)
    alone = coverage(x[1:2], means[1:2], SHARES, scale)
    torch.testing.assert_close(alone.value, found.value[1:2])
    if scale == 0:
        counts = torch.stack(
            [torch.bincount(torch.cdist(a, b).argmin(1), minlength=3) for a, b in zip(x, means, strict=True)]
        )
        torch.testing.assert_close(found.value, 0.5 * (counts / 40_000 - SHARES).abs().sum(1))


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 64])
def test_mode_coverage_of_exact_draws_is_the_floor(dim):
    """Overlapping modes too: E value = sum_k sqrt(Var(r_k) / (2 pi n)), from responsibilities written otherwise."""
    seeds, n = tuple(range(40)), 800
    text = f"gmm:dim={dim}"
    instance, law = build(text, seeds), mixture(means_of(text, seeds))
    x = instance.truth.draw(0, n, Streams(seeds, **DOUBLE).fork("draws"))
    (metric,) = instance.truth.metrics
    found = metric.evaluate(Judged(x, None, instance.truth, 0, Streams(seeds)))
    joint = law.component_distribution.log_prob(x.transpose(0, 1)[:, :, None])  # (n, S, K)
    r = joint.softmax(-1)
    torch.testing.assert_close(found.value, 0.5 * (r.mean(0) - 0.1).abs().sum(-1), atol=1e-8, rtol=0)
    floor = (r.var(0) / (2 * math.pi * n)).sqrt().sum(-1)
    assert abs(float((found.value - floor).mean())) < 5 * float((found.value - floor).std()) / 40**0.5
    assert (metric.name, metric.better) == ("mode_coverage", "lower")


def test_mode_coverage_of_a_law_with_a_known_distance():
    """Weights (0.2, 0.6, 0.2) for (0.5, 0.3, 0.2): 0.3; its standard error against repetition."""
    seeds, n = tuple(range(200)), 3000
    rng = Streams(seeds, **DOUBLE)
    component = torch.bucketize(rng.uniform(n), torch.tensor([0.2, 0.8], **DOUBLE))
    x = CENTRES[0][component] + 2 * rng.normal(n, 2)
    found = coverage(x, CENTRES.expand(200, -1, -1), SHARES, 2.0)
    spread = float(found.value.std())
    assert abs(float(found.value.mean()) - 0.3) < 5 * spread / 200**0.5
    assert float(found.se.mean()) == pytest.approx(spread, rel=5 / 400**0.5)


def test_shares_of_an_unequal_overlapping_mixture_are_its_weights(streams):
    component = torch.bucketize(streams.uniform(40_000), SHARES.cumsum(0)[:2])
    x = CENTRES[0][component] / 20 + 2 * streams.normal(40_000, 2)
    found = coverage(x, CENTRES.expand(3, -1, -1) / 20, SHARES, 2.0)
    assert (found.value < 6 * found.se).all()
    assert found.se.max() < 0.003


def test_mode_coverage_refuses_what_does_not_fit(streams):
    x = streams.normal(10, 2)
    for shares in (SHARES + 0.1, torch.tensor([1.0, 0.5, -0.5]), torch.tensor([1.0, 0.0, 0.0])):
        with pytest.raises(ValueError, match="shares"):
            mode_coverage(CENTRES, shares)
    with pytest.raises(ValueError, match="scale"):
        mode_coverage(CENTRES, SHARES, -1.0)
    with pytest.raises(ValueError, match="need points"):
        coverage(streams.normal(10, 3), CENTRES.expand(3, -1, -1), SHARES)
    with pytest.raises(ValueError, match="need points"):
        coverage(x[:, :1], CENTRES.expand(3, -1, -1), SHARES)
