"""GMM-40: the stored means against the programs that draw them and numbers printed elsewhere, and the law of each."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from gwfbench.errors import UserError
from gwfbench.info import Initial, LogDensity
from gwfbench.plugins import registry
from gwfbench.protocol import Judged
from gwfbench.rng import Streams

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import gmm40_means  # noqa: E402

sys.path.remove(str(ROOT / "scripts"))

SEEDS = (3, 5, 8)
CASES = [("fab", 2), ("fab", 50), ("jax", 2), ("jax", 50)]
SCALES = {"fab": torch.nn.functional.softplus(torch.tensor(1.0, dtype=torch.float64)).item(), "jax": 1.0}


def build(variant, dim, dtype=torch.float64):
    return registry.parse("task", f"gmm40:variant={variant},dim={dim}").build(Streams(SEEDS, dtype=dtype).fork("task"))


def stored(variant, dim):
    with np.load(ROOT / "gwfbench/data/gmm40.npz") as found:
        return found[f"{variant}_{dim}"]


@pytest.mark.parametrize(("variant", "dim"), CASES)
def test_the_program_gives_the_stored_means(variant, dim, tmp_path, monkeypatch):
    again = getattr(gmm40_means, variant)(dim)
    assert again.shape == (40, dim)
    assert again.dtype == np.float32
    assert np.array_equal(again, stored(variant, dim))
    monkeypatch.setattr(sys, "argv", ["gmm40_means.py", "--out", str(tmp_path / "means.npz")])
    gmm40_means.main()
    with np.load(tmp_path / "means.npz") as written:
        assert sorted(written) == sorted(f"{name}_{d}" for name, d in CASES)
        assert np.array_equal(written[f"{variant}_{dim}"], again)


def test_means_as_they_are_printed_elsewhere():
    """fab: the list in the code of a third project; jax: JAX 0.4.28, and neural_JKO_ic's file for d = 50."""
    fab = [[-0.2995, 21.4577], [-32.9218, -29.4376], [-15.4062, 10.7263]]
    np.testing.assert_allclose(stored("fab", 2)[:3], fab, atol=6e-5)
    np.testing.assert_allclose(stored("jax", 2)[:2], [[-15.758228, 18.116531], [-34.80889, 21.225481]], atol=6e-6)
    jax50 = [[8.719435, -6.0695076, -33.8233, 7.312832], [29.158888, -7.8930664, -8.992777, -9.916248]]
    np.testing.assert_allclose(stored("jax", 50)[:2, :4], jax50, atol=6e-6)


@pytest.mark.parametrize(
    ("key", "counter", "bits"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_known_answers(key, counter, bits):
    """Those that the generator's authors publish with it (Random123, kat_vectors)."""
    first, second = gmm40_means.threefry(key, *(np.array([word], np.uint32) for word in counter))
    assert (int(first[0]), int(second[0])) == bits


@pytest.mark.parametrize(("variant", "dim"), CASES)
def test_log_density_score_and_moments(variant, dim, streams):
    instance, s = build(variant, dim), SCALES[variant]
    truth, offered = instance.truth, instance.problem[LogDensity]
    means = torch.from_numpy(stored(variant, dim)).double()
    parts = torch.distributions.Independent(torch.distributions.Normal(means, s), 1)
    law = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(40).double()), parts)
    x = torch.cat([truth.draw(0, 40, streams), 40 * streams.normal(40, dim)], 1).requires_grad_()
    expected = law.log_prob(x)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    for log_prob, score in (
        (offered.log_prob, offered.score),
        (lambda x: truth.log_prob(0, x), lambda x: truth.score(0, x)),
    ):
        torch.testing.assert_close(log_prob(x), expected)
        torch.testing.assert_close(score(x.detach()), gradient)
    mean, covariance = truth.moments(0)
    torch.testing.assert_close(mean, law.mean.expand(3, -1))
    torch.testing.assert_close(covariance.diagonal(dim1=1, dim2=2), law.variance.expand(3, -1))
    torch.testing.assert_close(covariance[0], torch.cov(means.T, correction=0) + s**2 * torch.eye(dim).double())
    assert [float(part.abs().max()) for part in truth.log_z] == [0, 0]


@pytest.mark.parametrize("variant", ["fab", "jax"])
def test_mass_by_quadrature_and_no_cut_far_away(variant):
    truth = build(variant, 2).truth
    line = torch.arange(-55, 55, 0.4, dtype=torch.float64)
    mass = truth.log_prob(0, torch.cartesian_prod(line, line).expand(3, -1, -1)).exp().sum(1) * 0.4**2
    torch.testing.assert_close(mass, torch.ones(3).double(), atol=1e-8, rtol=0)
    far = torch.full((3, 1, 2), 400.0).double()
    assert (truth.log_prob(0, far) < -1e4).all()
    assert truth.log_prob(0, far).isfinite().all()


@pytest.mark.parametrize(("variant", "dim"), CASES)
def test_draws_choose_modes_evenly_and_have_the_width(variant, dim):
    n, instance = 20_000, build(variant, dim)
    means = torch.from_numpy(stored(variant, dim)).double()
    x = instance.truth.draw(0, n, Streams(SEEDS, dtype=torch.float64).fork("draws"))
    direction = torch.nn.functional.normalize(torch.linspace(-1, 2, dim).double(), dim=0)
    for points in x:
        if dim == 50:  # in the plane some modes overlap
            component = torch.cdist(points, means).argmin(1)
            assert scipy.stats.chisquare(torch.bincount(component, minlength=40).numpy()).pvalue > 1e-6
            inside = (points - means[component]) / SCALES[variant]
            assert scipy.stats.kstest(inside.flatten().numpy(), "norm").pvalue > 1e-6
        cdf = torch.special.ndtr(((points @ direction)[:, None] - means @ direction) / SCALES[variant]).mean(1)
        assert scipy.stats.kstest(cdf.numpy(), "uniform").pvalue > 1e-6


def test_mode_weights_see_a_lost_mode():
    instance = build("jax", 50)
    metric = instance.truth.metrics[0]
    x = instance.truth.draw(0, 20_000, Streams(SEEDS, dtype=torch.float64).fork("draws"))

    def value(points):
        return metric.evaluate(Judged(points, None, instance.truth, 0, Streams(SEEDS))).value

    floor = 40 * math.sqrt(0.025 * 0.975 / (2 * math.pi * 20_000))  # the mean for exact draws, modes far apart
    assert (value(x) < 2 * floor).all()
    lost = torch.from_numpy(stored("jax", 50)).double()
    component = torch.cdist(x, lost.expand(3, -1, -1)).argmin(2)
    elsewhere = x + torch.where(component < 10, 1.0, 0.0)[..., None] * (lost[(component + 20) % 40] - lost[component])
    assert (value(elsewhere) > 0.25 - 2 * floor).all()


def test_the_start_is_as_wide_as_the_box(streams):
    start = build("fab", 2).problem[Initial]
    x = start.draw(50_000, streams)
    torch.testing.assert_close(start.log_prob(x), torch.distributions.Normal(0.0, 40.0).log_prob(x).sum(-1))
    assert scipy.stats.kstest(x[0].flatten().numpy() / 40, "norm").pvalue > 1e-6


def test_float32_is_near_float64_at_the_start_and_in_the_modes():
    """In d = 50, |x|^2 is 1e5: what it costs in float32."""
    single, double = build("jax", 50, torch.float32), build("jax", 50)
    start, inside = single.problem[Initial].draw(500, Streams(SEEDS)), single.truth.draw(0, 500, Streams(SEEDS))
    for x, tolerance in ((start, 0.02), (inside, 1e-3)):
        exact = double.problem[LogDensity].log_prob(x.double())
        torch.testing.assert_close(single.problem[LogDensity].log_prob(x).double(), exact, atol=tolerance, rtol=0)
    score = double.problem[LogDensity].score(inside.double())
    torch.testing.assert_close(single.problem[LogDensity].score(inside).double(), score, atol=1e-3, rtol=0)


@pytest.mark.parametrize("text", ["variant=torch", "dim=3", "start=0"])
def test_bad_input_is_told(text):
    with pytest.raises(UserError, match=f"gmm40:{text}"):
        registry.parse("task", f"gmm40:{text}")
