"""The log-Gaussian Cox process: density by PyTorch's own parts, sampler where the law is known, certificates."""

import ast
import dataclasses
import hashlib
import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.spatial
import scipy.stats
import torch

from gwfbench.errors import UserError
from gwfbench.info import Initial, LogDensity
from gwfbench.metrics import choose, known
from gwfbench.plugins import registry
from gwfbench.protocol import Judged, Need
from gwfbench.rng import Streams

lgcp = sys.modules[registry.find("task", "lgcp").load().__module__]
DOUBLE = torch.float64
CERTIFIED = ("8_pines126", "16_pines126", "30_pines126", "32_pines126", "40_pines126", "40_dds127")
SCRIPT = Path(__file__).parents[2] / "scripts" / "evidence_reference.py"


def build(text="lgcp:grid=16", seeds=(3, 5, 8), dtype=DOUBLE):
    return registry.parse("task", text).build(Streams(seeds, dtype=dtype).fork("task"))


def near_the_prior(streams, n=6):
    return 3 + streams.fork("x").normal(n, 256)


def certificate(name):
    return json.loads(lgcp.FOLDER.joinpath(f"{name}.json").read_text())


# ------------------------------------------------------------------------------------------------ data


@pytest.mark.parametrize("grid", [8, 16, 30, 32, 40])
def test_every_point_is_in_one_bin(grid):
    assert lgcp.counts(grid, "pines126").sum() == 126
    places = lgcp.places("pines126")
    assert places.min() > 0
    assert places.max() < 1
    row, column = (np.floor(places[5] * grid)).astype(int)
    inside = (np.floor(places * grid) == [row, column]).all(1).sum()
    assert lgcp.counts(grid, "pines126")[row, column] == inside > 0  # rows go by x


def test_the_two_data_sets_differ_as_is_known():
    """127 points, the first twice, none outside, two on each side's ends; 63 of 1600 bins differ."""
    places = lgcp.places("dds127")
    assert places.shape == (127, 2)
    assert (places[0] == places[1]).all()
    assert len(np.unique(places, axis=0)) == 126
    assert (places.min(0), places.max(0)) == (pytest.approx([0, 0]), pytest.approx([1, 1]))
    one, other = lgcp.counts(40, "pines126"), lgcp.counts(40, "dds127")
    assert (one.sum(), other.sum()) == (126, 127)
    assert (one != other).sum() == 63
    with pytest.raises(UserError, match="dds127") as caught:
        registry.parse("task", "lgcp:grid=16,data=dds127")
    assert "grid=40" in caught.value.expected


# ------------------------------------------------------------------------------------------------ the density


def slow_log_gamma(x, grid=16, data="pines126"):
    """A normalised prior, so that without data log Z = 0, and the Poisson law of the counts but for what has no x."""
    place = np.stack(np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij"), -1).reshape(-1, 2) / grid
    apart = scipy.spatial.distance.cdist(place, place)
    mean, kernel = math.log(126) - 1.91 / 2, torch.from_numpy(1.91 * np.exp(-33 * apart))
    prior = torch.distributions.MultivariateNormal(torch.full((grid**2,), mean, dtype=DOUBLE), kernel)
    y = torch.from_numpy(lgcp.counts(grid, data)).flatten()
    likelihood = torch.distributions.Poisson(x.exp() / grid**2).log_prob(y).sum(-1)
    return prior.log_prob(x), likelihood + (torch.lgamma(y + 1) + 2 * y * math.log(grid)).sum()


def test_density_and_p_0_are_the_model_s(streams):
    problem, x = build().problem, near_the_prior(streams)
    prior, likelihood = slow_log_gamma(x)
    torch.testing.assert_close(problem[LogDensity].log_prob(x), prior + likelihood)
    torch.testing.assert_close(problem[Initial].log_prob(x), prior)


def test_white_coordinates_have_the_same_law(streams):
    latent, white = build(), build("lgcp:grid=16,coordinates=white")
    z = streams.normal(6, 256)
    cox = lgcp._cox(16, "pines126")
    x = cox.mu + z @ cox.root.mT
    log_det = cox.root.diagonal().log().sum()
    for there, here in (
        (white.problem[LogDensity], latent.problem[LogDensity]),
        (white.problem[Initial], latent.problem[Initial]),
    ):
        torch.testing.assert_close(there.log_prob(z), here.log_prob(x) + log_det)
    torch.testing.assert_close(white.problem[LogDensity].score(z), latent.problem[LogDensity].score(x) @ cox.root)
    torch.testing.assert_close(white.truth.log_z, latent.truth.log_z)
    drawn, same = (truth.draw(0, 40, streams.fork("draw")) for truth in (white.truth, latent.truth))
    torch.testing.assert_close(cox.mu + drawn @ cox.root.mT, same)
    (m, c), (mean, covariance) = white.truth.moments(0), latent.truth.moments(0)
    torch.testing.assert_close(cox.mu + m @ cox.root.mT, mean)
    torch.testing.assert_close(cox.root @ c @ cox.root.mT, covariance)


@pytest.mark.parametrize("text", ["lgcp:grid=16", "lgcp:grid=16,coordinates=white"])
def test_score_is_the_gradient(text, streams):
    density = build(text).problem[LogDensity]
    x = near_the_prior(streams).requires_grad_()
    value, score = density.log_prob(x), density.score(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(score, gradient)


def test_prior_draws_have_the_prior_s_covariance(streams):
    x = build().problem[Initial].draw(4000, streams).flatten(0, 1)
    cox = lgcp._cox(16, "pines126")
    assert ((x.mean(0) - cox.mu).abs() / (1.91 / len(x)) ** 0.5).max() < 5.5
    error = ((cox.kernel.square() + 1.91**2) / len(x)).sqrt()
    assert ((torch.cov(x.T) - cox.kernel).abs() / error).max() < 6.5  # of 32896 entries


# ------------------------------------------------------------------------------------------------ the sampler


def test_the_posterior_s_coordinates_are_exact_for_every_weight(streams):
    """log gamma(m + B v) + |v|^2 / 2 - tilt(v) is one constant, whatever w is; tilt's slope is its gradient."""
    density = build().problem[LogDensity]
    for seed in (1, 2):
        w = 0.05 + Streams((seed,), dtype=DOUBLE).uniform(256)[0]
        law = lgcp._Posterior(lgcp._cox(16, "pines126"), w)
        v = streams.fork(str(seed)).normal(4, 256)[0].requires_grad_()
        value, slope = law.tilt(v)
        (gradient,) = torch.autograd.grad(value.sum(), v)
        torch.testing.assert_close(slope, gradient)
        x = law.mean + v @ law.spread.mT
        rest = density.log_prob(x[None])[0] + 0.5 * v.square().sum(1) - value
        torch.testing.assert_close(rest, rest[:1].expand_as(rest))
        inverse = torch.linalg.inv(law.spread @ law.spread.mT)
        torch.testing.assert_close(inverse, torch.linalg.inv(law.cox.kernel) + torch.diag(w))


def test_draws_of_one_bin_have_the_law_that_quadrature_gives():
    """x ~ N(mu, 1.91), y = 2 points in one bin of area 1 and another, empty one far away; a wrong weight on purpose."""
    kernel = torch.tensor([[1.91, 0.0], [0.0, 1.91]], dtype=DOUBLE)
    cox = lgcp._Cox(torch.tensor([2.0, 0.0], dtype=DOUBLE), kernel, mu=0.7)
    law = lgcp._Posterior(cox, torch.tensor([1.5, 0.6], dtype=DOUBLE))
    x = law.draw(20_000, False, Streams((1,)))[0].numpy()
    axis = np.linspace(-9, 7, 4001)
    for column, y in ((0, 2.0), (1, 0.0)):
        p = np.exp(-((axis - 0.7) ** 2) / 2 / 1.91 + y * axis - np.exp(axis) / 2)
        cdf = scipy.integrate.cumulative_trapezoid(p, axis, initial=0)
        assert scipy.stats.kstest(x[:, column], lambda t, cdf=cdf: np.interp(t, axis, cdf / cdf[-1])).pvalue > 1e-4


@pytest.mark.slow
def test_draws_have_the_long_run_s_moments_and_obey_the_posterior_s_identities():
    """E[score] = 0 and E[score x'] = -I hold for this posterior alone; the moments are the script's."""
    instance, seeds = build(seeds=(1, 2)), (1, 2)
    x = instance.truth.draw(0, 2048, Streams(seeds, dtype=DOUBLE)).flatten(0, 1)
    mean, covariance = (part[0] for part in instance.truth.moments(0))
    sd = covariance.diag().sqrt()
    white = (x - mean) / sd
    score = instance.truth.score(0, x[None])[0] * sd
    one = torch.ones(len(x), 1, dtype=DOUBLE)
    pairs = (
        (score, one, 0),
        (white, one, 0),
        (score, white, -torch.eye(256)),
        (white, white, covariance / sd / sd[:, None]),
    )
    for left, right, expected in pairs:
        average, square = left.mT @ right / len(x), left.square().mT @ right.square() / len(x)
        error = ((square - average.square()) / len(x)).sqrt()
        assert ((average - expected).abs() / error).max() < 6.5  # of up to 65536 entries


@pytest.mark.slow
def test_draws_give_log_z_by_the_bridge_and_those_of_the_gaussian_would_not():
    """Moments and identities hold for the best Gaussian approximation too; the bridge's equation does not."""
    instance, n = build(seeds=(4,)), 2048
    cox = lgcp._cox(16, "pines126")
    law = lgcp._Posterior(cox, torch.from_numpy(lgcp.reference(16, "pines126")["weight"]).double())
    gaussian = torch.distributions.MultivariateNormal(law.mean, law.spread @ law.spread.mT)
    density, one = instance.problem[LogDensity], Streams((4,), dtype=DOUBLE)
    log_z = float(instance.truth.log_z[0][0])

    def value(x):
        return density.log_prob(x)[0] - gaussian.log_prob(x[0])

    start = law.mean + one.normal(n, 256) @ law.spread.mT
    theirs, ours = value(start), value(instance.truth.draw(0, n, one))
    assert float(ours.mean()) > log_z > float(theirs.mean())

    def gap(under_posterior):
        """Mean of sigmoid(log Z - l) under the posterior less that of sigmoid(l - log Z) under the Gaussian; 0."""
        there, here = torch.sigmoid(log_z - under_posterior), torch.sigmoid(theirs - log_z)
        return float(there.mean() - here.mean()), float(((there.var() + here.var()) / n).sqrt())

    found, error = gap(ours)
    assert abs(found) < 5 * error < 0.1
    assert abs(gap(theirs)[0]) > 20 * error


def test_each_seed_s_draws_are_its_own_and_share_no_point_with_the_reference(streams, monkeypatch):
    monkeypatch.setitem(lgcp.LIMITS, 16, 64)
    instance = build()
    x, y = instance.truth.draw(0, 60, streams), instance.truth.reference(0, 60, streams)
    every = torch.cat([x.flatten(0, 1), y.flatten(0, 1)])
    assert len(every.unique(dim=0)) == len(every) == 360
    alone = build(seeds=(5,))
    one = Streams((5,), dtype=DOUBLE)
    torch.testing.assert_close(alone.truth.draw(0, 60, one), x[1:2], rtol=0, atol=0)
    torch.testing.assert_close(alone.truth.reference(0, 60, one), y[1:2], rtol=0, atol=0)


@pytest.mark.slow
def test_every_metric_tells_the_prior_from_the_posterior(streams):
    instance = build()
    laws = (instance.truth.draw(0, 1024, streams), instance.problem[Initial].draw(1024, streams))
    logs = (instance.truth.log_prob(0, laws[0]), instance.problem[Initial].log_prob(laws[1]))
    for metric in choose(lgcp.LGCP.metrics, instance.truth.metrics):
        assert not instance.truth.lacks(metric, "none")
        if metric.needs & {Need.FORWARD, Need.ESTIMATE}:
            continue  # tests/exact/test_evidence_runs.py
        exact, still = (
            metric.evaluate(Judged(x, log, instance.truth, 0, streams.fork("judge")))
            for x, log in zip(laws, logs, strict=True)
        )
        gap = (still.value - exact.value) * (1 if metric.better == "lower" else -1)
        assert (gap > 5 * (exact.se**2 + still.se**2).sqrt()).all(), metric.name


# ------------------------------------------------------------------------------------------------ certificates


@pytest.mark.parametrize("name", CERTIFIED)
def test_certificates_pass_and_belong_to_their_files(name):
    paper = certificate(name)
    grid, data = int(name.split("_")[0]), name.split("_")[1]
    for check, passed in paper["checks"].items():
        what, sign, bound = check.split()
        value = paper["numbers"][what]
        assert passed
        assert {"<": value < float(bound), ">": value > float(bound), ">=": value >= float(bound)}[sign]
    assert hashlib.sha256(lgcp.FOLDER.joinpath(f"{name}.npz").read_bytes()).hexdigest() == paper["sha256"]["truth"]
    assert lgcp.digest(lgcp.counts(grid, data)) == paper["sha256"]["data"]
    text = SCRIPT.read_text()
    parts = [
        node for node in ast.parse(text).body if getattr(node, "name", "") in ("cox_model", "cox_prior", "cox_gaussian")
    ]
    source = "".join(ast.get_source_segment(text, node) or "" for node in parts)
    assert hashlib.sha256(source.encode()).hexdigest() == paper["sha256"]["model"]


@pytest.mark.parametrize("name", CERTIFIED)
def test_certificates_say_how_good_the_truth_is(name):
    """The bounds are not the script's own words; two methods agree, and so do their repetitions."""
    numbers = certificate(name)["numbers"]
    assert numbers["r_hat_max"] < (1.01 if name in CERTIFIED[:2] else 1.05)
    assert min(numbers["ess_bulk_min"], numbers["ess_tail_min"]) >= 400
    assert numbers["log_z_error"] < 0.05
    gap = abs(numbers["laplace_value"] - numbers["bridge_value"])
    assert gap < 4 * math.hypot(numbers["laplace_error"], numbers["bridge_error"])
    assert numbers["settled_worst"] < 5.5
    assert numbers["forgotten"] < 1e-3
    found = lgcp.reference(int(name.split("_")[0]), name.split("_")[1])
    assert float(found["log_z"]) == numbers["log_z"] == numbers["bridge_value"]


@pytest.mark.parametrize(
    ("name", "theirs", "error"),
    [
        ("40_pines126", 501.806, 0.1),
        ("32_pines126", 503.394, 0.1),
        ("30_pines126", 497.621, 0.07),
        ("40_dds127", 512.42, 0.1),
    ],
)
def test_published_values_of_log_z(name, theirs, error):
    """fab-jax (long SMC) for 40 and 32, Heng et al. for 30, our notes' own short AIS for dds127."""
    numbers = certificate(name)["numbers"]
    assert abs(numbers["log_z"] - theirs) < 4 * math.hypot(error, numbers["log_z_error"])


@pytest.mark.slow
def test_log_z_by_annealed_importance_sampling_from_the_prior():
    """By the task's own density in white coordinates, with HMC moves; the certificate's sampler has no part in it."""
    instance, n, levels = build("lgcp:grid=16,coordinates=white", seeds=(11,)), 128, 200
    density, start = instance.problem[LogDensity], instance.problem[Initial]
    rng = Streams((11,), dtype=DOUBLE).fork("ais")
    z = start.draw(n, rng)

    def likelihood(z):
        return density.log_prob(z) - start.log_prob(z), density.score(z) + z

    value, slope = likelihood(z)
    log_w = torch.zeros_like(value)
    times = torch.linspace(0, 1, levels + 1, dtype=DOUBLE).pow(4).tolist()
    for low, t in pairwise(times):
        log_w += (t - low) * value
        p = rng.normal(n, 256)
        at, q, new, steep = z, p, value, slope
        for _ in range(4):
            q = q + 0.15 * (t * steep - at)
            at = at + 0.3 * q
            new, steep = likelihood(at)
            q = q + 0.15 * (t * steep - at)
        gain = t * (new - value) - 0.5 * (at.square() - z.square() + q.square() - p.square()).sum(-1)
        taken = rng.uniform(n).log() < gain
        z, slope = (torch.where(taken[..., None], one, old) for one, old in ((at, z), (steep, slope)))
        value = torch.where(taken, new, value)
    w = torch.exp(log_w[0] - log_w.max())
    error = float(w.std() / w.mean() / n**0.5)
    assert error < 0.3
    log_z, se = (float(part[0]) for part in instance.truth.log_z)
    assert abs(float(w.mean().log() + log_w.max()) - log_z) < 5 * math.hypot(error, se)


def test_larger_grids_have_draws_and_log_z_but_no_moments():
    instance = build("lgcp:grid=30", seeds=(1,))
    assert instance.truth.moments is None
    assert instance.truth.limit == 1024
    assert instance.truth.log_z is not None
    assert instance.truth.lacks(known()["moments_mean"], "none")
    x = instance.truth.draw(0, 64, Streams((1,), dtype=DOUBLE))
    found = lgcp.reference(30, "pines126")
    error = np.sqrt(found["variance"] / 64)
    assert (np.abs(x[0].mean(0).numpy() - found["mean"]) / error).max() < 5.5  # of 900
    ratio = x[0].var(0).numpy() / found["variance"]
    assert abs(ratio.mean() - 1) < 0.1


def test_a_reference_of_other_data_is_refused_and_a_failed_or_missing_one_is_no_truth(monkeypatch, tmp_path):
    for name in ("16_pines126.npz", "16_pines126.json", "finpines.csv"):
        (tmp_path / name).write_bytes(lgcp.FOLDER.joinpath(name).read_bytes())
    monkeypatch.setattr(lgcp, "FOLDER", tmp_path)
    assert set(lgcp.reference(16, "pines126")) >= {"weight", "log_z", "log_z_error", "mean", "covariance"}
    paper: dict[str, Any] = certificate("16_pines126")
    (tmp_path / "16_pines126.json").write_text(json.dumps(paper | {"sha256": paper["sha256"] | {"data": "0" * 64}}))
    with pytest.raises(UserError, match="does not fit its data"):
        lgcp.reference(16, "pines126")
    (tmp_path / "16_pines126.json").write_text(json.dumps(paper | {"checks": {"r_hat_max < 1.01": False}}))
    assert lgcp.reference(16, "pines126") is None
    truth = build().truth
    assert (truth.exact, truth.draw, truth.log_z, truth.moments) == (False, None, None, None)
    (tmp_path / "16_pines126.json").unlink()
    assert lgcp.reference(16, "pines126") is None


def test_nothing_stored_is_large():
    assert sum(path.stat().st_size for path in lgcp.FOLDER.iterdir()) < 1e6


def test_fields_are_two_copies_of_one_law():
    task = registry.parse("task", "lgcp:grid=16")
    assert dataclasses.asdict(task) == {"grid": 16, "data": "pines126", "coordinates": "latent"}
