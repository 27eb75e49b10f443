"""Spherical mixtures of unequal weights, and the tasks made of them, against distributions written otherwise."""

import math

import pytest
import scipy.stats
import torch

from gwfbench.errors import UserError
from gwfbench.info import Initial, LogDensity
from gwfbench.objectives.mixture import Mixture, fine_uniform, in_double, normal_start
from gwfbench.plugins import registry
from gwfbench.protocol import Judged
from gwfbench.rng import Streams

SEEDS = (3, 5, 8)
DOUBLE = {"dtype": torch.float64}
WEIGHTS = torch.tensor([0.6, 0.1, 0.3], **DOUBLE)


def law(dim, spread=3.0, scale=0.7):
    """Three components, other means for each seed."""
    return Mixture(spread * Streams(SEEDS, **DOUBLE).fork("means").normal(3, dim), WEIGHTS, scale)


def normal(at, scale):
    return torch.distributions.Normal(torch.tensor(at, **DOUBLE), torch.tensor(scale, **DOUBLE))


def otherwise(mixture):
    """The same law from PyTorch's own parts, batch shape (S,)."""
    parts = torch.distributions.Independent(torch.distributions.Normal(mixture.means, mixture.scale), 1)
    weights = mixture.weights.expand(mixture.means.shape[:2])
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), parts)


@pytest.mark.parametrize("dim", [1, 2, 50])
def test_log_density_and_score(dim, streams):
    mixture = law(dim)
    x = torch.cat([mixture.draw(40, streams), 4 * streams.normal(40, dim)], 1).requires_grad_()
    expected = otherwise(mixture).log_prob(x.transpose(0, 1)).T
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(mixture.log_prob(x), expected)
    torch.testing.assert_close(mixture.score(x.detach()), gradient)
    (own,) = torch.autograd.grad(mixture.log_prob(x).sum(), x)
    torch.testing.assert_close(own, gradient)


def test_the_log_density_is_twice_differentiable(streams):
    x = streams.normal(4, 2).requires_grad_()
    assert torch.autograd.gradcheck(law(2).log_prob, x)
    assert torch.autograd.gradgradcheck(law(2).log_prob, x)


def test_mass_and_moments_by_quadrature():
    mixture = law(2)
    line = torch.arange(-16, 16, 0.2, **DOUBLE)
    x = torch.cartesian_prod(line, line).expand(3, -1, -1)
    weights = mixture.log_prob(x).exp() * 0.04
    mean = (weights[..., None] * x).sum(1)
    second = (weights[..., None] * x).mT @ x
    torch.testing.assert_close(weights.sum(1), torch.ones(3).double(), atol=1e-10, rtol=0)
    torch.testing.assert_close(mixture.moments()[0], mean, atol=1e-9, rtol=0)
    torch.testing.assert_close(mixture.moments()[1], second - mean[:, :, None] * mean[:, None], atol=1e-8, rtol=0)


def test_draws_have_the_weights_and_the_law_of_each_axis():
    n, mixture = 60_000, law(2, spread=20.0)
    x = mixture.draw(n, Streams(SEEDS, **DOUBLE).fork("draws"))
    for points, means in zip(x, mixture.means, strict=True):
        counts = torch.bincount(torch.cdist(points, means).argmin(1), minlength=3)
        assert scipy.stats.chisquare(counts.numpy(), (n * WEIGHTS).numpy()).pvalue > 1e-6
        for axis in range(2):
            cdf = torch.special.ndtr((points[:, axis, None] - means[:, axis]) / 0.7) @ WEIGHTS
            assert scipy.stats.kstest(cdf.numpy(), "uniform").pvalue > 1e-6


def test_one_component_is_gaussian(streams):
    one = Mixture(torch.full((3, 1, 4), 2.0, **DOUBLE), torch.ones(1, **DOUBLE), 1.5)
    x = streams.normal(20, 4)
    torch.testing.assert_close(one.log_prob(x), normal(2.0, 1.5).log_prob(x).sum(-1))
    torch.testing.assert_close(one.score(x), (2 - x) / 2.25)


def test_float32_keeps_its_digits_far_from_the_origin(streams):
    """Means of length 7000: the textbook expansion of |x - mu|^2 would be off by about 1."""
    mixture = law(50, spread=1000.0)
    x = mixture.draw(500, streams).float()
    torch.testing.assert_close(mixture.log_prob(x).double(), mixture.log_prob(x.double()), atol=1e-3, rtol=0)
    torch.testing.assert_close(mixture.score(x).double(), mixture.score(x.double()), atol=5e-3, rtol=0)
    truth = mixture.truth()
    assert truth.log_prob(0, x).dtype == torch.float32
    torch.testing.assert_close(truth.score(0, x), mixture.score(x.double()).float(), atol=0, rtol=0)


def test_fine_uniforms_are_finer_than_float32():
    u = fine_uniform(Streams(SEEDS), 50_000)
    assert u.dtype == torch.float64
    assert ((u >= 0) & (u < 1)).all()
    assert scipy.stats.kstest(u[0].numpy(), "uniform").pvalue > 1e-6
    assert (u * 2**24 % 1 != 0).double().mean() > 0.999
    torch.testing.assert_close(u, fine_uniform(Streams(SEEDS, **DOUBLE), 50_000), rtol=0, atol=0)


def test_in_double_is_the_field_at_any_number_of_points(streams):
    x = streams.normal(40_000, 2).float()
    torch.testing.assert_close(
        in_double(lambda y: y.sin().sum(-1), x), x.double().sin().sum(-1).float(), rtol=0, atol=0
    )


def test_the_start_is_its_gaussian(streams):
    start = normal_start(5, 2.5)
    x = start.draw(50_000, streams)
    torch.testing.assert_close(start.log_prob(x), normal(0.0, 2.5).log_prob(x).sum(-1))
    assert scipy.stats.kstest(x[1].flatten().numpy() / 2.5, "norm").pvalue > 1e-6


# ------------------------------------------------------------------------------------------------------ two_mode


def two_mode(text=""):
    return registry.parse("task", f"two_mode:{text}" if text else "two_mode").build(Streams(SEEDS, **DOUBLE))


@pytest.mark.parametrize(
    ("text", "dim", "low", "high", "weight", "variance"),
    [
        ("", 10, -1.0, 1.0, 2 / 3, 0.05),
        ("dim=3,separation=0.5,weight=0.2,variance=0.3", 3, -0.5, 0.5, 0.2, 0.3),
        ("dim=4,separation=0.6,centered=true", 4, -0.4, 0.8, 2 / 3, 0.05),
        ("dim=4,weight=0.25,centered=true", 4, -1.5, 0.5, 0.25, 0.05),
    ],
)
def test_two_mode_is_its_two_gaussians(text, dim, low, high, weight, variance, streams):
    instance = two_mode(text)
    truth, offered = instance.truth, instance.problem[LogDensity]
    x = torch.cat([truth.draw(0, 30, streams), streams.normal(30, dim)], 1).requires_grad_()
    sides = [normal(at, variance**0.5).log_prob(x).sum(-1) for at in (low, high)]
    expected = torch.logaddexp(sides[0] + math.log(weight), sides[1] + math.log(1 - weight))
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(offered.log_prob(x), expected)
    torch.testing.assert_close(truth.log_prob(0, x), expected)
    torch.testing.assert_close(offered.score(x.detach()), gradient)
    mean, covariance = truth.moments(0)
    middle, between = weight * low + (1 - weight) * high, weight * (1 - weight) * (high - low) ** 2
    torch.testing.assert_close(mean, torch.full((3, dim), middle, **DOUBLE))
    torch.testing.assert_close(covariance[1], variance * torch.eye(dim).double() + between)
    assert "centered" not in text or abs(middle) < 1e-12
    assert torch.equal(truth.log_z[0], torch.zeros(3).double())


def test_two_mode_starts_as_wide_as_its_modes_are_apart(streams):
    """By default the mean square of a coordinate is that of the target, with the modes at -a and a."""
    for text, scale in (("dim=4,separation=3", math.sqrt(9.05)), ("start=0.4", 0.4)):
        instance = two_mode(text)
        x = instance.problem[Initial].draw(1000, streams)
        torch.testing.assert_close(instance.problem[Initial].log_prob(x), normal(0.0, scale).log_prob(x).sum(-1))
    truth = two_mode("dim=4,separation=3").truth
    mean, covariance = truth.moments(0)
    torch.testing.assert_close(covariance[0, 0, 0] + mean[0, 0] ** 2, torch.tensor(9.05, **DOUBLE))


def coverage(instance, points):
    metric = instance.truth.metrics[0]
    return metric.evaluate(Judged(points, None, instance.truth, 0, Streams(SEEDS)))


def test_two_mode_s_mode_weights_are_the_error_of_the_first_weight(streams):
    instance = two_mode("weight=0.7")
    x = instance.truth.draw(0, 20_000, streams)
    found = coverage(instance, x)
    assert (found.value < 5 * (0.7 * 0.3 / 20_000) ** 0.5).all()
    signs = x.mean(-1).sign()
    torch.testing.assert_close(found.value, ((signs < 0).double().mean(1) - 0.7).abs())
    first = torch.where((signs > 0)[..., None], -x, x)  # all in the first mode
    torch.testing.assert_close(coverage(instance, first).value, torch.full((3,), 0.3, **DOUBLE))


# --------------------------------------------------------------------------------------------------------- gmm_d


def drawn(text):
    return registry.parse("task", text).build(Streams(SEEDS, **DOUBLE).fork("task"))


def test_gmm_d_draws_means_of_its_own_for_each_seed():
    """Read off the truth: uniform in [-1, 1]^d, not shared, the same for a seed alone and at each precision."""
    for dim in (10, 200):
        instance = drawn(f"gmm_d:dim={dim}")
        x = instance.truth.draw(0, 400, Streams(SEEDS, **DOUBLE).fork("draws"))
        means = [nearest(one, dim) for one in x]
        for found in means:
            assert found.shape == (10, dim)
            assert scipy.stats.kstest(found.flatten().numpy(), "uniform", (-1, 2)).pvalue > 1e-6
        assert (torch.cdist(means[0], means[1]) > 0.3).all()
        expected = Mixture(torch.stack(means), torch.full((10,), 0.1, **DOUBLE), 0.1)
        torch.testing.assert_close(instance.truth.moments(0)[0], expected.moments()[0], atol=0.1, rtol=0)
    single = registry.parse("task", "gmm_d").build(Streams(SEEDS[1:2]).fork("task")).truth
    torch.testing.assert_close(single.moments(0)[1], drawn("gmm_d").truth.moments(0)[1][1:2], rtol=0, atol=0)


def nearest(points, dim):
    """Averages of the clusters that the points form, whose deviation is 0.1 in each coordinate."""
    left, found = points, []
    while len(left):
        near = (left - left[0]).norm(dim=1) < 0.15 * 1.5 * (2 * dim) ** 0.5
        found.append(left[near].mean(0))
        left = left[~near]
    return torch.stack(found)


def published(folder, monkeypatch):
    """A file of five planted sets for d = 10 whose hashes the task knows."""
    import hashlib
    import sys

    import numpy as np

    rng = np.random.default_rng(0)
    sets = {f"means{k}_10": rng.uniform(-1, 1, (10, 10)).astype(np.float32) for k in range(1, 6)}
    np.savez(folder / "mixture_means.npz", **sets)
    known = [hashlib.sha256(each.tobytes()).hexdigest()[:16] for each in sets.values()]
    module = sys.modules[registry.plugins("task")["gmm_d"].load().__module__]
    monkeypatch.setitem(module.PUBLISHED, 10, known)
    return sets


def test_gmm_d_takes_the_published_set_that_is_asked_for(tmp_path, monkeypatch, streams):
    sets = published(tmp_path, monkeypatch)
    for k in (1, 4):
        task = registry.parse("task", f"gmm_d:repetition={k},data_root={tmp_path}")
        assert task.data_files() == [tmp_path / "mixture_means.npz"]
        means = torch.from_numpy(sets[f"means{k}_10"]).double().expand(3, -1, -1)
        truth, expected = task.build(streams).truth, otherwise(Mixture(means, torch.full((10,), 0.1, **DOUBLE), 0.1))
        x = truth.draw(0, 50, streams)
        torch.testing.assert_close(truth.log_prob(0, x), expected.log_prob(x.transpose(0, 1)).T)
        assert coverage(task.build(streams), x.repeat(1, 40, 1)).value.max() < 0.5


def test_gmm_d_refuses_other_files(tmp_path, monkeypatch, streams):
    import numpy as np

    text = f"gmm_d:repetition=2,data_root={tmp_path}"
    with pytest.raises(UserError, match=r"no file mixture_means\.npz(.|\n)*fix:"):
        registry.parse("task", text).data_files()
    sets = published(tmp_path, monkeypatch)
    registry.parse("task", text).build(streams)
    np.savez(tmp_path / "mixture_means.npz", **(sets | {"means2_10": sets["means3_10"]}))
    with pytest.raises(UserError, match=r"means2_10 of mixture_means\.npz, shape(.|\n)*published values"):
        registry.parse("task", text).build(streams)
    np.savez(tmp_path / "mixture_means.npz", means1_10=sets["means1_10"])
    with pytest.raises(UserError, match=r"can't be read"):
        registry.parse("task", text).build(streams)
    (tmp_path / "mixture_means.npz").write_bytes(b"not an archive")
    with pytest.raises(UserError, match=r"can't be read"):
        registry.parse("task", text).build(streams)


@pytest.mark.parametrize(
    "text",
    [
        "gmm_d:dim=11",
        "gmm_d:repetition=0,data_root=x",
        "gmm_d:repetition=6,data_root=x",
        "gmm_d:repetition=1",
        "gmm_d:data_root=x",
        "two_mode:dim=0",
        "two_mode:weight=1",
        "two_mode:weight=0",
        "two_mode:separation=0",
        "two_mode:variance=-1",
    ],
)
def test_bad_input_is_told(text):
    with pytest.raises(UserError, match="fix:"):
        registry.parse("task", text)
