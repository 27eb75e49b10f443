"""Bayesian logistic regression against slow formulas, identities of its posterior, and its certificates."""

import ast
import dataclasses
import gzip
import hashlib
import json
import sys

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from gwfbench.datasets import certified, logistic, tables
from gwfbench.errors import UserError
from gwfbench.info import Initial, LogDensity
from gwfbench.metrics import choose, known, predictive
from gwfbench.plugins import registry
from gwfbench.protocol import Judged, Truth
from gwfbench.rng import Streams

OFFLINE = ("banana", "german", "diabetis", "image", "splice", "twonorm", "ringnorm", "waveform")
SHAPES = {
    "banana": (5300, 2),
    "german": (1000, 20),
    "diabetis": (768, 8),
    "image": (2086, 18),
    "splice": (2991, 60),
    "twonorm": (7400, 20),
    "ringnorm": (7400, 20),
    "waveform": (5000, 21),
}  # of the paper's Table 5
blr = sys.modules[registry.find("task", "blr").load().__module__]


quick_for_diabetis = pytest.mark.parametrize(
    "data", [pytest.param(name, marks=[pytest.mark.slow] if name != "diabetis" else []) for name in OFFLINE]
)


def build(text="blr:data=diabetis", seeds=(3, 5, 8), dtype=torch.float64):
    return registry.parse("task", text).build(Streams(seeds, dtype=dtype).fork("task"))


def near_the_posterior(streams, d, n=6):
    return 0.3 * streams.fork("x").normal(n, d)


def slow_log_joint(x, rows):
    """log p(w | alpha) + log p(alpha) + log alpha + log p(y | w) by SciPy, one point."""
    w, alpha = x[:-1], np.exp(x[-1])
    prior = scipy.stats.norm(0, alpha**-0.5).logpdf(w).sum() + scipy.stats.gamma(1, scale=1 / 0.01).logpdf(alpha)
    return prior + x[-1] + np.log(scipy.special.expit(rows @ w)).sum()


@pytest.mark.parametrize("data", ["diabetis", "banana"])
def test_log_posterior_is_the_model_s(data, streams):
    instance = build(f"blr:data={data}")
    density, rows = instance.problem[LogDensity], blr.signed_rows(data)[0]
    x = near_the_posterior(streams, instance.problem.shape[0], 2)
    expected = [[slow_log_joint(point, rows) for point in seed] for seed in x.numpy()]
    torch.testing.assert_close(density.log_prob(x), torch.tensor(expected).double())


def test_the_authors_posterior_lacks_what_they_leave_out(streams):
    """Theirs = ours - (k / 2 + 1) log alpha + (0.01 - 100) alpha + const; flat as log alpha -> -inf, so no truth."""
    ours, theirs = build(), build("blr:data=diabetis,posterior=authors")
    x = near_the_posterior(streams, 9)
    gap = theirs.problem[LogDensity].log_prob(x) - ours.problem[LogDensity].log_prob(x)
    rest = gap + 5 * x[..., -1] + (100 - 0.01) * x[..., -1].exp()
    torch.testing.assert_close(rest, rest[:1, :1].expand_as(rest))
    far = torch.cat([x[..., :-1], torch.full_like(x[..., -1:], -60.0)], -1)
    assert theirs.problem[LogDensity].score(far)[..., -1].abs().max() == 0
    assert (theirs.truth.draw, theirs.truth.moments, theirs.truth.exact) == (None, None, False)
    assert theirs.problem[Initial].log_prob is None
    alpha = theirs.problem[Initial].draw(50_000, streams)[..., -1].exp()
    assert abs(float(alpha.mean()) - 0.01) < 5 * 0.01 / 150_000**0.5


def slow_authors(x, rows):
    w, log_alpha = x[:-1], np.clip(x[-1], -8, 8)
    value = np.log(np.maximum(scipy.special.expit(rows @ w), 1e-5)).sum()
    return value - np.exp(log_alpha) * (100 + w @ w / 2)


def test_the_authors_clips_far_out(streams):
    """By NumPy, where log alpha is clipped and where nearly all, or no, rows have less than 1e-5; slope is its own."""
    density, rows = build("blr:data=banana,posterior=authors").problem[LogDensity], blr.signed_rows("banana")[0]
    seed = streams.fork("x")
    x = torch.cat([seed.normal(40, 2) * 10 ** seed.uniform(40, 1).mul(3), 24 * seed.uniform(40, 1) - 12], -1).double()
    assert (x[..., -1].abs() > 8).any()
    assert ((rows @ x[0, :, :-1].numpy().T < -12).mean(0) > 0.3).any()
    expected = torch.tensor([[slow_authors(point, rows) for point in seed] for seed in x.numpy()])
    found = density.log_prob(x)
    torch.testing.assert_close(found - found[:1, :1], expected - expected[:1, :1])
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(density.log_prob(x).sum(), x)
    torch.testing.assert_close(density.score(x), gradient)
    part = density.batch(len(rows) // 2, streams.fork("rows"))
    (gradient,) = torch.autograd.grad(part.log_prob(x).sum(), x)
    torch.testing.assert_close(part.score(x), gradient)


def test_the_jacobian_by_change_of_variables():
    """The density of log alpha at w integrated out in one dimension is that of alpha times alpha: mass 1, same cdf."""
    prior = blr._Prior(1, 0.01, 1.5)
    w = torch.linspace(-200, 200, 200_001, dtype=torch.float64)
    for log_alpha in (-2.0, 1.0, 4.0):
        x = torch.stack([w, torch.full_like(w, log_alpha)], -1)
        found = float(torch.trapezoid(prior.log_prob(x).exp(), w))
        alpha, h = np.exp(log_alpha), 1e-5
        cdf = scipy.stats.expon(scale=100).cdf
        assert found == pytest.approx((cdf(np.exp(log_alpha + h)) - cdf(np.exp(log_alpha - h))) / (2 * h), rel=1e-6)
        assert found == pytest.approx(0.01 * np.exp(-0.01 * alpha) * alpha, rel=1e-9)


@pytest.mark.parametrize("text", ["blr:data=german", "blr:data=diabetis,posterior=authors"])
def test_score_is_the_gradient_and_slices_change_nothing(text, streams, monkeypatch):
    density = build(text).problem[LogDensity]
    x = near_the_posterior(streams, build(text).problem.shape[0], 7).requires_grad_()
    value, score = density.log_prob(x), density.score(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(score, gradient)
    monkeypatch.setattr(logistic, "CHUNK", 2000)  # two or three points a slice
    torch.testing.assert_close(density.log_prob(x), value)
    torch.testing.assert_close(density.score(x), score)
    few = x[:1, :1].detach().requires_grad_()
    assert torch.autograd.gradcheck(density.log_prob, few)
    assert torch.autograd.gradgradcheck(density.log_prob, few)


def test_score_under_torch_func(streams):
    density = build().problem[LogDensity]
    x = near_the_posterior(streams, 9)
    gradient = torch.func.grad(lambda y: density.log_prob(y).sum())(x)
    torch.testing.assert_close(gradient, density.score(x))


def test_batches_are_unbiased_and_exact_when_they_hold_all(streams):
    density = build().problem[LogDensity]
    x = near_the_posterior(streams, 9, 2)
    some = [density.batch(100, streams.fork(f"batch/{i}")) for i in range(300)]
    for name in ("log_prob", "score"):
        values = torch.stack([getattr(batch, name)(x) for batch in some])
        gap = values.mean(0) - getattr(density, name)(x)
        assert (gap.abs() <= 5 * values.std(0) / 300**0.5 + 1e-12).all()
        assert values.std(0)[..., :1].min() > 0
        for rows in (614, 10_000):
            torch.testing.assert_close(getattr(density.batch(rows, streams), name)(x), getattr(density, name)(x))
    taken = some[0]
    y = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(taken.log_prob(y).sum(), y)
    torch.testing.assert_close(taken.score(x), gradient)


def test_batches_hold_no_row_twice_and_differ_by_seed():
    """A batch of all rows but one misses exactly one: its unscaled slope at w = 0 is half the sum of the others."""
    density, rows = build().problem[LogDensity], torch.from_numpy(blr.signed_rows("diabetis")[0])
    size = len(rows)
    found = density.batch(size - 1, Streams((3, 5, 8), dtype=torch.float64)).score(torch.zeros(3, 1, 9).double())
    missed = rows.sum(0) - 2 * (size - 1) / size * found[:, 0, :-1]
    nearest = (missed[:, None] - rows).abs().sum(-1).min(1)
    assert nearest.values.max() < 1e-9
    assert len(set(nearest.indices.tolist())) == 3


def test_a_seed_s_batch_does_not_depend_on_its_company(streams):
    density, x = build().problem[LogDensity], near_the_posterior(streams, 9)
    alone = build(seeds=(5,)).problem[LogDensity].batch(50, Streams((5,), dtype=torch.float64).fork("b"))
    torch.testing.assert_close(density.batch(50, streams.fork("b")).score(x)[1:2], alone.score(x[1:2]))


def test_prior_draws_follow_the_prior(streams):
    start = build().problem[Initial]
    x = start.draw(20_000, streams)
    w, log_alpha = x[..., :-1], x[..., -1]
    assert log_alpha.abs().max() <= 8
    for alpha, scaled in zip(log_alpha.exp(), w * (log_alpha / 2).exp()[..., None], strict=True):
        assert scipy.stats.kstest(alpha.numpy(), scipy.stats.expon(scale=100).cdf).pvalue > 1e-6
        assert scipy.stats.kstest(scaled.flatten().numpy(), scipy.stats.norm.cdf).pvalue > 1e-6
    expected = slow_log_joint(x[0, 0].numpy(), np.zeros((0, 8)))
    assert float(start.log_prob(x)[0, 0]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("data", OFFLINE)
def test_split_is_four_to_one_and_of_the_paper_s_size(data):
    train, test = blr.signed_rows(data)
    size, features = SHAPES[data]
    assert (len(train), len(test)) == (int(0.8 * size), size - int(0.8 * size))
    assert train.shape[1] == test.shape[1] == features
    assert np.isfinite(train).all()
    assert np.isfinite(test).all()


@pytest.mark.parametrize("data", ["diabetis", "waveform"])
def test_data_are_the_same_again(data):
    again = blr.signed_rows.__wrapped__(data)
    assert all(np.array_equal(one, other) for one, other in zip(blr.signed_rows(data), again, strict=True))


def test_split_is_disjoint_and_whole(monkeypatch):
    """With the row's number as its only feature and label +1 throughout, every number comes up once."""
    monkeypatch.setattr(tables, "_waveform", lambda: (np.arange(1, 101.0)[:, None], np.ones(100, bool)))
    train, test = blr.signed_rows.__wrapped__("waveform")
    assert len(train) == 80
    assert sorted([*train[:, 0], *test[:, 0]]) == list(range(1, 101))
    order = np.random.default_rng(42).permutation(100) + 1
    assert np.array_equal(train[:, 0], order[:80])


def test_scales():
    x = np.array([[0.0, 2.0, 7.0], [4.0, 3.0, 7.0], [8.0, 7.0, 7.0]])
    assert np.array_equal(tables._scaled(x, "unit"), [[-1, -1], [0, -0.6], [1, 1]])
    standard = tables._scaled(x, "standard")
    assert np.allclose(standard.mean(0), 0)
    assert np.allclose(standard.std(0), 1)
    assert np.array_equal(tables._scaled(x, "thousandth"), x[:, :2] / 1000)


def test_waveform_s_means_are_breiman_s():
    """Means of the classes are (h_1 + h_2) / 2, (h_1 + h_3) / 2, (h_2 + h_3) / 2: the first minus the others' mean."""
    points, (x, first) = np.arange(1, 22), tables._waveform()
    assert abs(first.mean() - 1 / 3) < 5 * (2 / 9 / 5000) ** 0.5
    h1, h2 = np.maximum(6 - np.abs(points - 11), 0), np.maximum(6 - np.abs(points - 7), 0)
    h3 = np.maximum(6 - np.abs(points - 15), 0)
    variance = 1 + _spread(h1, h2, h3)  # the columns are standardised; h_a and h_b get u and 1 - u
    gap = (x[first].mean(0) - x[~first].mean(0)) * variance**0.5
    assert np.abs(gap - ((h1 + h2) / 4 - h3 / 2)).max() < 5 * (variance.max() * (3 / 5000 + 1.5 / 5000)) ** 0.5


def _spread(*h):
    """Variance of u h_a + (1 - u) h_b over u uniform and the three pairs."""
    pairs = [(h[0], h[1]), (h[0], h[2]), (h[1], h[2])]
    square = sum((a * a + a * b + b * b) / 3 for a, b in pairs) / 3
    return square - (sum((a + b) / 2 for a, b in pairs) / 3) ** 2


def certificates():
    return {name: json.loads(blr.FOLDER.joinpath(f"{name}.json").read_text()) for name in OFFLINE}


@pytest.mark.parametrize("data", OFFLINE)
def test_certificates_pass_and_belong_to_their_files(data):
    paper = certificates()[data]
    assert len(paper["checks"]) >= 19
    for check, passed in paper["checks"].items():
        name, sign, bound = check.split()
        value = paper["numbers"][name]
        holds = {"<": value < float(bound), ">": value > float(bound), ">=": value >= float(bound)}
        holds |= {"==": value == float(bound), "<=": value <= float(bound)}
        assert passed
        assert holds[sign]
    packed = blr.FOLDER.joinpath(f"{data}.npz").read_bytes()
    assert hashlib.sha256(packed).hexdigest() == paper["sha256"]["truth"]
    assert blr.digest(blr.signed_rows(data)[0]) == paper["sha256"]["data"]
    script = (blr.FOLDER / "../../../scripts/blr_reference.py").resolve().read_text()
    (model,) = (node for node in ast.parse(script).body if getattr(node, "name", "") == "log_posterior")
    assert hashlib.sha256(ast.get_source_segment(script, model).encode()).hexdigest() == paper["sha256"]["model"]


@pytest.mark.parametrize("data", OFFLINE)
def test_certificates_say_how_good_the_truth_is(data):
    """What the issue of a truth that is its own control asks for; the bounds are not the script's own words."""
    numbers = certificates()[data]["numbers"]
    assert numbers["r_hat_max"] < 1.01
    assert min(numbers["ess_bulk_min"], numbers["ess_tail_min"], numbers["ess_squares_min"]) >= 400
    assert numbers["k_hat"] < 0.7
    tenth = 100 * 4096  # a tenth of the error of the 4096 points that are judged
    assert min(numbers["is_ess_min"], numbers["is_ess_squares_min"], numbers["worth"]) >= tenth
    assert numbers["variance_error_worst"] < 0.005
    assert numbers["cap_variance_worst"] < 0.005
    assert numbers["cap_loss"] * 4096 < 1  # less than one point of all judged is missing
    assert max(numbers["means_apart"], numbers["squares_apart"]) < 5  # NUTS agrees


def sample(data, n, seeds=(3, 5, 8)):
    instance = build(f"blr:data={data}", seeds=seeds)
    return instance, instance.truth.draw(0, n, Streams(seeds, dtype=torch.float64))


def symkl(one, other):
    """KL(p || q) + KL(q || p) of two normal laws given by mean and covariance."""
    (m, c), (n, e) = one, other
    trace = torch.trace(torch.linalg.solve(c, e) + torch.linalg.solve(e, c)) - 2 * len(m)
    return float(trace + (m - n) @ (torch.linalg.inv(c) + torch.linalg.inv(e)) @ (m - n)) / 2


def plain_moments(x):
    return x.mean(0), torch.cov(x.T, correction=0)


@quick_for_diabetis
def test_exact_draws_are_as_far_from_the_truth_as_independent_ones(data):
    """SymKL of n independent draws is d (d + 3) / (2 n) on average; of draws that the truth is made from it is less.

    At n = 2048. n times one value is chi^2 of d (d + 3) / 2 degrees of freedom for a normal law; 5 standard errors, and
    a twentieth for tails, are allowed. n moments_mean^2 is d on average, and n (moments_covariance |C|)^2 the sum of the
    variances of all products.
    """
    seeds = 40 if data == "diabetis" else 10
    instance, x = sample(data, 2048, tuple(range(seeds)))
    truth, d = tuple(part[0] for part in instance.truth.moments(0)), x.shape[2]
    degrees = d * (d + 3) / 2
    tolerance = 5 * (2 / degrees / seeds) ** 0.5 + 0.05
    values = [symkl(plain_moments(one), truth) for one in x]
    assert np.mean(values) == pytest.approx(degrees / 2048, rel=tolerance)
    between = [symkl(plain_moments(a), plain_moments(b)) for a, b in zip(x[::2], x[1::2], strict=True)]
    # seeds are no pseudo-replicates
    assert np.mean(between) == pytest.approx(2 * degrees / 2048, rel=2**0.5 * tolerance)
    judged = Judged(x, None, instance.truth, 0, Streams(tuple(range(seeds))))
    white = x - truth[0]
    products = (white[..., :, None] * white[..., None, :]).flatten(0, 1).var(0).sum() / truth[1].square().sum()
    for name, expected in (("moments_mean", d), ("moments_covariance", float(products))):
        found = 2048 * known()[name].evaluate(judged).value.square()
        assert abs(float(found.mean()) - expected) < 5 * float(found.std()) / seeds**0.5 + 0.05 * expected


@quick_for_diabetis
def test_draws_obey_the_posterior_s_identities_and_have_the_truth_s_moments(data):
    """E[score] = 0 and E[score x'] = -I hold for our posterior alone. The moments are of the script's own density."""
    instance, x = sample(data, 4096)
    x, d = x.flatten(0, 1), x.shape[2]
    mean, covariance = (part[0] for part in instance.truth.moments(0))
    assert mean.dtype == covariance.dtype == torch.float64
    torch.testing.assert_close(covariance, covariance.mT)
    sd = covariance.diag().sqrt()
    white = (x - mean) / sd
    score = instance.problem[LogDensity].score(x[None])[0] * sd
    products = white[:, :, None] * white[:, None] - covariance / sd / sd[:, None]
    for values in (score, white, score[:, :, None] * white[:, None] + torch.eye(d), products):
        worst = values.mean(0).abs() / (values.std(0) / len(x) ** 0.5)
        assert worst.max() < 6  # of up to 3700 entries


def test_each_seed_s_draws_are_its_own_and_share_no_point_with_the_reference(streams):
    instance = build()
    x, y = instance.truth.draw(0, 4096, streams), instance.truth.reference(0, 4096, streams)
    every = torch.cat([x.flatten(0, 1), y.flatten(0, 1)])
    assert len(every.unique(dim=0)) == len(every) == 6 * 4096
    alone = build(seeds=(5,))
    one = Streams((5,), dtype=torch.float64)
    torch.testing.assert_close(alone.truth.draw(0, 4096, one), x[1:2], rtol=0, atol=0)
    torch.testing.assert_close(alone.truth.reference(0, 4096, one), y[1:2], rtol=0, atol=0)
    few = instance.truth.reference(0, 50, streams)
    assert len(few.flatten(0, 1).unique(dim=0)) == 150
    with pytest.raises(ValueError, match="4096 reference draws are at hand; 4097 were asked for"):
        instance.truth.reference(0, 4097, streams)
    torch.testing.assert_close(instance.truth.score(0, x[:, :5]), instance.problem[LogDensity].score(x[:, :5]))


def test_rejection_is_exact_where_the_weights_are_known():
    """A normal law from a wide Student law, its cap the largest weight: the draws are normal, the share kept is known.

    With y = t^2 / nu the weight's logarithm in one dimension is -nu y / 2 + (nu + 1) / 2 log(1 + y), largest at t = 1.
    """
    nu = 5
    top = -0.5 + (nu + 1) / 2 * np.log1p(1 / nu)
    kept = []

    def log_prob(x):
        kept.append(len(x))
        return -x[:, 0].square() / 2

    law = certified.Rejection(log_prob, torch.zeros(1).double(), torch.eye(1).double(), nu, top)
    x = law.draw(20_000, Streams((1,)))[0, :, 0]
    assert scipy.stats.kstest(x.numpy(), scipy.stats.norm.cdf).pvalue > 1e-4
    # share kept: integral of the normal kernel over that of the Student kernel times the cap
    student = np.exp(-scipy.stats.t(nu).logpdf(0))
    share = np.sqrt(2 * np.pi) / (student * np.exp(top))
    rounds = 20_000 / certified.PROPOSALS / share
    assert abs(len(kept) - rounds) < 1.5


def test_a_distance_comes_first_and_tells_the_prior_from_the_posterior(streams):
    """Accuracy and likelihood are no test of a posterior: they come last, and alone judge what has no truth."""
    instance, theirs = build(), build("blr:data=diabetis,posterior=authors")
    metrics = choose(blr.BLR.metrics, instance.truth.metrics)
    assert [metric.name for metric in metrics[-2:]] == ["log_likelihood", "accuracy"]
    assert not any(instance.truth.lacks(metric, "none") for metric in metrics)
    assert [one.name for one in metrics if not theirs.truth.lacks(one, "none")] == ["log_likelihood", "accuracy"]
    first = metrics[0]
    assert (first.name, first.better) == ("w2", "lower")
    laws = (instance.truth.draw(0, 1024, streams), instance.problem[Initial].draw(1024, streams))
    exact, still = (first.evaluate(Judged(x, None, instance.truth, 0, streams.fork("judge"))) for x in laws)
    assert (still.value - exact.value > 5 * (exact.se**2 + still.se**2).sqrt()).all()


def test_nothing_stored_is_large():
    assert sum(path.stat().st_size for path in blr.FOLDER.iterdir()) < 2e6


def judge(points, test, reward):
    judged = Judged(points, None, Truth(None, exact=False), 0, Streams((0,)))
    return predictive._judge(test, reward, judged)


def test_metrics_by_hand():
    """Two points, w = 1 and w = -2, and test rows y f = 1, -1, -3: p = means of two sigmoids."""
    points = torch.tensor([[[1.0, 9.0], [-2.0, -9.0]]])  # log alpha must not matter
    test = torch.tensor([[1.0], [-1.0], [-3.0]]).double()
    s = scipy.special.expit
    p = np.array([(s(1) + s(-2)) / 2, (s(-1) + s(2)) / 2, (s(-3) + s(6)) / 2])
    found = judge(points, test, predictive._log)
    assert float(found.value) == pytest.approx(np.log(p).mean(), rel=1e-12)
    left = [np.log(s(-2 * test.numpy())).mean(), np.log(s(test.numpy())).mean()]
    assert float(found.se) == pytest.approx(abs(left[0] - left[1]) / 2, rel=1e-12)
    assert float(judge(points, test, predictive._hit).value) == pytest.approx(2 / 3)
    assert found.n == 2
    with pytest.raises(ValueError, match="at least 2 points, got 1"):
        judge(points[:, :1], test, predictive._log)
    certain = torch.full((1, 4, 2), 1e9)
    assert judge(certain, test, predictive._log).value.isfinite().all()


def test_the_metrics_standard_error_is_the_spread_over_repetitions():
    test, values, errors = torch.from_numpy(blr.signed_rows("diabetis")[1]), [], []
    for seed in range(100):
        found = judge(Streams((seed,), dtype=torch.float64).normal(400, 9), test, predictive._log)
        values.append(float(found.value))
        errors.append(float(found.se))
    spread = np.std(values, ddof=1)  # itself known to 7 %; 5 standard errors are 35 %
    assert 0.65 * spread < np.mean(errors) < 1.35 * spread


def test_damaged_files_are_told():
    source = tables._SOURCES["banana"]
    packed = (blr.FOLDER / "banana.dat.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()
    shorter = gzip.compress("\n".join(lines[:-1]).encode())
    narrow = gzip.compress("\n".join([*lines[:-1], "1.0,1.0"]).encode())
    words = gzip.compress("\n".join([*lines[:-1], "1.0,abc,1.0"]).encode())
    for content, what in (
        (packed[:5000], "end-of-stream"),
        (b"no gzip at all", "gzip"),
        (shorter, "5299 rows"),
        (narrow, "row 5300 of the wrong length"),
        (words, "abc"),
    ):
        with pytest.raises(UserError, match=what) as caught:
            tables._read(content, source)
        assert "5300 rows of 3 columns" in caught.value.expected
        assert "install" in caught.value.fix


def test_a_reference_of_other_data_is_refused_and_a_failed_one_is_no_truth(monkeypatch, tmp_path):
    for name in ("diabetis.npz", "diabetis.json", "pima.dat.gz"):
        (tmp_path / name).write_bytes(blr.FOLDER.joinpath(name).read_bytes())
    monkeypatch.setattr(blr, "FOLDER", tmp_path)
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    assert blr.reference("diabetis") is not None
    assert blr.reference("covtype") is None
    paper = json.loads((tmp_path / "diabetis.json").read_text())
    (tmp_path / "diabetis.json").write_text(json.dumps(paper | {"sha256": paper["sha256"] | {"data": "0" * 64}}))
    with pytest.raises(UserError, match="does not fit its data"):
        blr.reference("diabetis")
    (tmp_path / "diabetis.json").write_text(json.dumps(paper | {"checks": {"r_hat_max < 1.01": False}}))
    assert blr.reference("diabetis") is None
    assert not build().truth.exact


def test_covtype_offline_and_with_wrong_columns(monkeypatch, tmp_path):
    import sklearn.datasets

    def offline(**_):
        raise OSError("no route to host")

    monkeypatch.setattr(sklearn.datasets, "fetch_covtype", offline)
    with pytest.raises(UserError, match="no route to host") as caught:
        build(f"blr:data=covtype,data_root={tmp_path}")
    assert "fetch_covtype" in caught.value.fix
    monkeypatch.setattr(sklearn.datasets, "fetch_covtype", lambda **_: (np.ones((9, 5)), np.ones(9)))
    with pytest.raises(UserError, match="5 columns"):
        tables._covtype(None)
    x = np.random.default_rng(0).uniform(-3, 9, (500, 54))
    monkeypatch.setattr(sklearn.datasets, "fetch_covtype", lambda **_: (x, np.arange(500) % 7 + 1))
    rows, positive = tables._covtype(None)
    assert (rows.min(), rows.max()) == (0, 1)
    assert np.array_equal(positive, np.arange(500) % 7 == 1)
    instance = dataclasses.replace(registry.parse("task", "blr:data=covtype"), data_root="x").build(Streams((1,)))
    assert instance.truth.draw is None
    assert instance.problem.shape == (55,)
    blr.signed_rows.cache_clear()
    with pytest.raises(UserError, match="data_root with covtype only"):
        registry.parse("task", "blr:data=banana,data_root=x")
