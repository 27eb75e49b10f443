"""The Brownian path with unknown scales: its density from PyTorch's own parts, its evidence by other integrations."""

import json
import math
import sys
from importlib import resources
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch.distributions import LogNormal, Normal

from gwfbench.info import Initial, LogDensity
from gwfbench.metrics import choose
from gwfbench.plugins import registry
from gwfbench.protocol import Judged, Need
from gwfbench.rng import Streams

brownian = sys.modules[registry.find("task", "brownian").load().__module__]
DOUBLE = torch.float64
Y = torch.tensor(brownian.OBSERVED, dtype=torch.float32).double()
TIMES = torch.arange(1, 31, dtype=DOUBLE)
SEEN = torch.tensor(brownian.SEEN)


def build(text="brownian", seeds=(3, 5, 8), dtype=DOUBLE):
    return registry.parse("task", text).build(Streams(seeds, dtype=dtype).fork("task"))


def model(x):
    """log gamma, term by term; softplus by autograd for the Jacobian."""
    u = x[..., :2]
    s = torch.nn.functional.softplus(u)
    jacobian = torch.log(1 - torch.exp(-s))  # d softplus(u) / du = 1 - e^-s
    first, second, w = s[..., :1], s[..., 1:], x[..., 2:]
    prior = LogNormal(0.0, 2.0).log_prob(s).sum(-1)
    before = torch.cat([torch.zeros_like(w[..., :1]), w[..., :-1]], -1)
    path = Normal(before, first).log_prob(w).sum(-1)
    seen = Normal(torch.cat([w[..., :10], w[..., 20:]], -1), second).log_prob(Y).sum(-1)
    return prior + jacobian.sum(-1) + path + seen


def evidence_given(a, r):
    """log p(y | scales) by SciPy."""
    every = torch.minimum(TIMES[:, None], TIMES)[SEEN][:, SEEN].numpy()
    covariance: Any = math.exp(2 * a) * (every + math.exp(2 * r) * np.eye(20))
    return float(scipy.stats.multivariate_normal.logpdf(Y.numpy(), np.zeros(20), covariance))


def test_density_is_the_gym_s_model(streams):
    density = build().problem[LogDensity]
    x = 2 * streams.normal(50, 32)
    torch.testing.assert_close(density.log_prob(x), model(x))
    assert len(brownian.OBSERVED) == 20
    assert (*range(10), *range(20, 30)) == brownian.SEEN


def test_the_score_is_the_gradient_also_far_away(streams):
    density = build().problem[LogDensity]
    x = 2 * streams.normal(20, 32)
    x[:, 0, 0], x[:, 1, 1], x[:, 2, 0], x[:, 3, 1] = 40.0, 40.0, -16.0, -14.9
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(density.log_prob(x).sum(), x)
    torch.testing.assert_close(density.score(x), gradient)
    assert torch.autograd.gradcheck(density.log_prob, (0.3 * streams.normal(2, 32)).requires_grad_())


def test_log_softplus_is_one_function_on_both_sides_of_its_seam():
    u = torch.tensor([-200.0, -40.0, -15.000001, -14.999999, -3.0, 0.0, 30.0], dtype=DOUBLE)
    exact = [float(v) if v < -30 else float(np.log(np.logaddexp(0, v))) for v in u.tolist()]
    torch.testing.assert_close(brownian._log_softplus(u), torch.tensor(exact, dtype=DOUBLE), rtol=1e-13, atol=0)
    torch.testing.assert_close(brownian._softplus_inverse(brownian._log_softplus(u)), u, rtol=1e-9, atol=1e-12)


def test_the_plane_s_density_is_prior_times_evidence():
    for a, r in ((-2.2, 0.1), (-3.0, -2.0), (0.5, 3.0)):
        prior = scipy.stats.norm.logpdf([a, a + r], 0, 2).sum()
        found = brownian._gaussian().log_p(*torch.tensor([a, r], dtype=DOUBLE))
        assert float(found) == pytest.approx(prior + evidence_given(a, r), rel=1e-12)


@pytest.mark.slow
def test_log_z_by_another_quadrature():
    """SciPy's adaptive rule in other coordinates, s_1 and s_2 themselves on (0, inf)."""
    law = brownian._gaussian()

    def integrand(second, first):
        a, b = math.log(first), math.log(second)
        return math.exp(float(law.log_p(torch.tensor(a).double(), torch.tensor(b - a).double()))) / first / second

    points = (1e-4, 0.03, 0.08, 0.2, 1.0, 50.0)
    total = sum(
        scipy.integrate.dblquad(integrand, low, high, left, right, epsabs=1e-7, epsrel=1e-6)[0]
        for low, high in pairwise(points)
        for left, right in pairwise(points)
    )
    assert math.log(total) == pytest.approx(float(brownian.posterior()[0]), abs=1e-4)


def test_a_wider_and_a_coarser_grid_give_the_same_truth(monkeypatch):
    fine = brownian.posterior()
    for width, ranges in ((1 / 16, brownian.RANGES), (1 / 32, ((-18.0, 14.0), (-22.0, 22.0)))):
        monkeypatch.setattr(brownian, "WIDTH", width)
        monkeypatch.setattr(brownian, "RANGES", ranges)
        for one, other in zip(brownian.posterior.__wrapped__(), fine, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_without_observations_the_evidence_is_one_and_the_law_the_prior(monkeypatch):
    """T of no observation has no eigenvalues: what is left is the prior of (a, r), whose integral is 1."""
    law = brownian._gaussian()
    none = brownian._Gaussian(law.values[:0], law.vectors[:, :0], law.all_seen, law.turned[:0])
    a, r = (torch.linspace(-30, 30, 1201, dtype=DOUBLE) for _ in range(2))
    log_p = none.log_p(a[:, None], r)
    assert float(log_p.logsumexp((0, 1))) + 2 * math.log(0.05) == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_draws_have_the_grid_s_moments_and_obey_the_posterior_s_identities():
    """E[score] = 0 and E[score x'] = -I hold for this posterior alone."""
    n = 40_000
    instance = build(seeds=(1,))
    x = instance.truth.draw(0, n, Streams((1,), dtype=DOUBLE))
    mean, covariance = (part[0] for part in instance.truth.moments(0))
    sd = covariance.diag().sqrt()
    white = (x[0] - mean) / sd
    score = instance.truth.score(0, x)[0] * sd
    products = white[:, :, None] * white[:, None] - covariance / sd / sd[:, None]
    for values in (score, white, score[:, :, None] * white[:, None] + torch.eye(32), products):
        assert (values.mean(0).abs() / (values.std(0) / n**0.5)).max() < 6  # of up to 1024 entries


def test_draws_of_the_plane_obey_its_marginals():
    """Kolmogorov-Smirnov for a and r, whose marginals the grid gives."""
    x = build(seeds=(2,)).truth.draw(0, 20_000, Streams((2,), dtype=DOUBLE))[0]
    log_s = brownian._log_softplus(x[:, :2])
    a, r = brownian._axes()
    log_p = brownian._gaussian().log_p(a[:, None], r)
    p = torch.exp(log_p - log_p.max())
    for values, axis, mass in ((log_s[:, 0], a, p.sum(1)), (log_s[:, 1] - log_s[:, 0], r, p.sum(0))):
        cdf = torch.cumulative_trapezoid(mass, axis)
        cdf = torch.cat([cdf.new_zeros(1), cdf / cdf[-1]]).numpy()
        assert scipy.stats.kstest(values.numpy(), lambda t, cdf=cdf, axis=axis: np.interp(t, axis, cdf)).pvalue > 1e-4


def test_no_cell_s_density_exceeds_its_bound():
    """At random places in all cells that hold a millionth of the mass or more."""
    a, r = brownian._axes()
    mass, bound = brownian._cells()
    cells = torch.nonzero(mass.diff(prepend=mass.new_zeros(1)) > 1e-7 * mass[-1])[:, 0]
    low = torch.stack([a[cells // (len(r) - 1)], r[cells % (len(r) - 1)]])
    rng = np.random.default_rng(0)
    for _ in range(30):
        point = low + brownian.WIDTH * torch.from_numpy(rng.uniform(size=low.shape))
        assert (brownian._gaussian().log_p(*point) < bound[cells]).all()


def test_the_missing_third_is_the_widest(streams):
    """The path's variance is largest between the two blocks of observations, and a Brownian bridge's shape there."""
    covariance = build().truth.moments(0)[1][0]
    variance = covariance.diag()[2:]
    assert 13 <= int(variance.argmax()) <= 16
    assert variance[14] > 3 * max(variance[5], variance[25])


def test_energy_at_the_truth_is_zero(streams):
    truth = build().truth
    x = truth.draw(0, 500, streams)
    log_pi = truth.log_prob(0, x)
    torch.testing.assert_close(truth.integrand(x, log_pi).mean(1), truth.energy(0), atol=1e-12, rtol=0)
    gamma = build().problem[LogDensity].log_prob(x)
    torch.testing.assert_close(gamma - log_pi, truth.log_z[0][:, None].expand(3, 500))
    assert (truth.log_z[1] == 0).all()


def test_p_0_s_density_and_width(streams):
    start = build("brownian:start=3").problem[Initial]
    x = start.draw(20_000, streams)
    assert abs(float(x.std()) - 3) < 5 * 3 / (2 * x.numel()) ** 0.5
    expected = torch.distributions.Normal(0.0, 3.0).log_prob(x).sum(-1)
    torch.testing.assert_close(start.log_prob(x), expected)


@pytest.mark.slow
def test_every_metric_tells_p_0_from_the_posterior(streams):
    instance = build()
    laws = (instance.truth.draw(0, 1024, streams), instance.problem[Initial].draw(1024, streams))
    for metric in choose(brownian.Brownian.metrics, instance.truth.metrics):
        assert not instance.truth.lacks(metric, "none")
        if metric.needs & {Need.FORWARD, Need.ESTIMATE}:
            continue  # tests/exact/test_evidence_runs.py
        logs = (instance.truth.log_prob(0, laws[0]), instance.problem[Initial].log_prob(laws[1]))
        exact, still = (
            metric.evaluate(Judged(x, log, instance.truth, 0, streams.fork("judge")))
            for x, log in zip(laws, logs, strict=True)
        )
        gap = (still.value - exact.value) * (1 if metric.better == "lower" else -1)
        # a few of P_0's points make up ksd_imq: their scores are large
        assert (gap > 3 * (exact.se**2 + still.se**2).sqrt()).all(), metric.name
        assert metric.better == "higher" or (gap > 10 * exact.value.abs() + 10 * exact.se).all(), metric.name


def test_the_certificate_s_witnesses_agree_with_the_quadrature():
    paper = json.loads(resources.files("gwfbench").joinpath("data/brownian/brownian.json").read_text())
    numbers = paper["numbers"]
    assert all(paper["checks"].values())
    exact = float(brownian.posterior()[0])
    assert numbers["log_z"] == pytest.approx(exact, abs=1e-10)
    for method in ("prior", "bridge"):
        assert abs(numbers[f"{method}_value"] - exact) < 4 * numbers[f"{method}_error"] < 0.4
    assert numbers["r_hat_max"] < 1.01


@pytest.mark.slow
def test_log_z_by_plain_importance_sampling_over_the_scales():
    """Scales from the prior, the path integrated out: another route to Z, with an error of its own."""
    rng = np.random.default_rng(7)
    scales = torch.from_numpy(2 * rng.standard_normal((400_000, 2)))
    a, r = scales[:, 0], scales[:, 1] - scales[:, 0]
    prior = torch.distributions.Normal(0.0, 2.0).log_prob(scales).sum(1)
    w = torch.exp(brownian._gaussian().log_p(a, r) - prior)
    relative = float(w.std() / w.mean() / len(w) ** 0.5)
    assert relative < 0.02
    assert abs(float(w.mean().log()) - float(brownian.posterior()[0])) < 5 * relative


@pytest.mark.slow
def test_log_z_by_annealed_importance_sampling_in_all_32_dimensions():
    """From a Gaussian with the truth's mean and 1.2 times its deviations to the task's own density, by HMC moves."""
    instance, n, levels, h = build(seeds=(11,)), 1024, 300, 0.15
    mean, covariance = (part[0] for part in instance.truth.moments(0))
    root = 1.2 * torch.linalg.cholesky(covariance)
    density = instance.problem[LogDensity]
    rng = Streams((11,), dtype=DOUBLE).fork("ais")
    constant = float(root.diagonal().log().sum()) + 16 * math.log(2 * math.pi)

    def tilt(v):
        """log gamma over N(v; 0, I) in v's coordinates, and its gradient."""
        x = mean + v @ root.mT
        return density.log_prob(x) + 0.5 * v.square().sum(-1) + constant, density.score(x) @ root + v

    v = rng.normal(n, 32)
    value, slope = tilt(v)
    log_w = torch.zeros_like(value)
    for k in range(levels):
        t = (k + 1) / levels
        log_w += value / levels
        p = rng.normal(n, 32)
        at, q, new, steep = v, p, value, slope
        for _ in range(4):
            q = q + 0.5 * h * (t * steep - at)
            at = at + h * q
            new, steep = tilt(at)
            q = q + 0.5 * h * (t * steep - at)
        change = t * (new - value) - 0.5 * (at.square() - v.square() + q.square() - p.square()).sum(-1)
        taken = rng.uniform(n).log() < change
        v, slope = (torch.where(taken[..., None], a, b) for a, b in ((at, v), (steep, slope)))
        value = torch.where(taken, new, value)
    w = torch.exp(log_w[0] - log_w.max())
    error = float(w.std() / w.mean() / n**0.5)
    assert error < 0.05
    assert abs(float(w.mean().log() + log_w.max()) - float(brownian.posterior()[0])) < 5 * error
