"""Logistic regression with evidence: slow formulas, the data, identities of the posterior, certificates, log Z."""

import ast
import hashlib
import json
import math
from functools import cache

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from gwfbench.datasets import tables
from gwfbench.errors import UserError
from gwfbench.info import Initial, LogDensity
from gwfbench.metrics import choose
from gwfbench.plugins import registry
from gwfbench.protocol import Judged
from gwfbench.rng import Streams

ALL = ("logistic:data=sonar", "logistic:data=ionosphere", "logistic:data=credit", "logistic:data=credit,prior=none")
FILES = dict(zip(ALL, ("sonar", "ionosphere", "credit", "credit_none"), strict=True))
every = pytest.mark.parametrize("text", ALL)
CERTIFIED = [text for text in ALL if tables.WHOLE.joinpath(f"{FILES[text]}.json").is_file()]
certified = pytest.mark.parametrize("text", CERTIFIED)


AIS = ((ALL[0], -108.378, 0.012), (ALL[1], -111.596, 0.007))


def build(text, seeds=(3, 5, 8), dtype=torch.float64):
    return registry.parse("task", text).build(Streams(seeds, dtype=dtype).fork("task"))


@cache
def draws(text):
    """4096 of three seeds, which take half a minute of sonar."""
    return build(text).truth.draw(0, 4096, Streams((3, 5, 8), dtype=torch.float64))


def certificate(text):
    return json.loads(tables.WHOLE.joinpath(f"{FILES[text]}.json").read_text())


@pytest.mark.parametrize(("data", "shape", "share"), [
    ("sonar", (208, 61), 111 / 208), ("ionosphere", (351, 35), 225 / 351), ("credit", (1000, 25), 0.3),
])  # fmt: skip
def test_rows_are_those_of_the_literature(data, shape, share):
    rows = tables.whole(data)
    assert rows.shape == shape
    features = rows[:, 1:] * rows[:, :1]
    assert np.abs(rows[:, 0]).tolist() == [1.0] * shape[0]
    assert (rows[:, 0] > 0).mean() == pytest.approx(share)
    spread = features.std(0)
    assert np.where(spread < 1e-12)[0].tolist() == ([1] if data == "ionosphere" else [])
    assert spread[spread > 0.5] == pytest.approx(np.ones((spread > 0.5).sum()))
    assert (np.abs(features.mean(0)).max() < 1e-12) == (data != "credit")


def test_credit_s_columns_are_those_of_uci_s_numeric_file():
    """Its first rows, and two whose amounts end in 50: 1050 is 10 and 6850 is 68, halves to the even number."""
    first = np.array([
        [1, 6, 4, 12, 5, 5, 3, 4, 1, 67, 3, 2, 1, 2, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1],
        [2, 48, 2, 60, 1, 3, 2, 2, 1, 22, 3, 1, 1, 1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1],
        [4, 12, 4, 21, 1, 4, 3, 3, 1, 49, 3, 1, 2, 1, 1, 0, 0, 1, 0, 0, 1, 0, 1, 0],
        [1, 42, 2, 79, 1, 4, 3, 4, 2, 45, 3, 1, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    ])  # fmt: skip
    halves = np.array([
        [2, 15, 1, 68, 2, 1, 3, 2, 2, 34, 3, 1, 2, 2, 1, 1, 0, 1, 0, 0, 1, 0, 0, 0],
        [2, 6, 3, 10, 1, 1, 3, 1, 2, 35, 2, 2, 1, 2, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0],
    ])  # fmt: skip
    x, _ = tables._read(tables.FOLDER.joinpath("german.dat.gz").read_bytes(), tables._WHOLE["credit"])
    x = tables._numeric(x)
    assert x[:4].tolist() == first.tolist()
    assert all((x == row).all(1).sum() == 1 for row in halves)


@every
def test_log_density_is_the_model_s(text, streams):
    density, d = build(text).problem[LogDensity], build(text).problem.shape[0]
    x = 0.3 * streams.normal(2, d)
    rows = tables.whole(text.partition("data=")[2].partition(",")[0])
    s = 10.0 if "credit" in text else 1.0
    expected = [
        [
            np.log(scipy.special.expit(rows @ w)).sum()
            + (0 if "none" in text else scipy.stats.norm(0, s).logpdf(w).sum())
            for w in seed
        ]
        for seed in x.numpy()
    ]
    torch.testing.assert_close(density.log_prob(x), torch.tensor(expected).double())
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(density.log_prob(x).sum(), x)
    torch.testing.assert_close(density.score(x), gradient)


@every
def test_p0_is_the_prior(text, streams):
    start, s = build(text).problem[Initial], 10.0 if "credit" in text else 1.0
    x = start.draw(4000, streams)
    assert scipy.stats.kstest(x.flatten().numpy() / s, scipy.stats.norm.cdf).pvalue > 1e-6
    expected = scipy.stats.norm(0, s).logpdf(x[:, :3].numpy()).sum(-1)
    torch.testing.assert_close(start.log_prob(x[:, :3]), torch.from_numpy(expected))


def test_batches_are_unbiased(streams):
    density = build(ALL[1]).problem[LogDensity]
    x = 0.3 * streams.normal(2, 35)
    some = torch.stack([density.batch(60, streams.fork(f"batch/{i}")).score(x) for i in range(300)])
    gap = (some.mean(0) - density.score(x)).abs()
    assert (gap <= 5 * some.std(0) / 300**0.5 + 1e-12).all()


@certified
def test_certificates_pass_and_belong_to_their_files(text):
    paper = certificate(text)
    assert len(paper["checks"]) >= 21
    for check, passed in paper["checks"].items():
        name, sign, bound = check.split()
        value, limit = paper["numbers"][name], float(bound)
        holds = {
            "<": value < limit,
            ">": value > limit,
            ">=": value >= limit,
            "==": value == limit,
            "<=": value <= limit,
        }
        assert passed
        assert holds[sign]
    assert paper["posterior"] == text
    packed = tables.WHOLE.joinpath(f"{FILES[text]}.npz").read_bytes()
    assert hashlib.sha256(packed).hexdigest() == paper["sha256"]["truth"]
    data = text.partition("data=")[2].partition(",")[0]
    assert tables.digest(tables.whole(data)) == paper["sha256"]["data"]
    script = (tables.WHOLE / "../../../scripts/logistic_reference.py").resolve().read_text()
    (model,) = (node for node in ast.parse(script).body if getattr(node, "name", "") == "log_posterior")
    assert hashlib.sha256(ast.get_source_segment(script, model).encode()).hexdigest() == paper["sha256"]["model"]


@certified
def test_log_z_is_certified_by_two_methods(text):
    numbers = certificate(text)["numbers"]
    value, error = (float(part[0]) for part in build(text).truth.log_z)
    assert (value, error) == (numbers["log_z"], numbers["log_z_se"])
    assert 0 < error < 0.005
    repeats = np.array(certificate(text)["smc"]["log_z"])
    assert len(repeats) >= 8
    mean = repeats.max() + math.log(np.exp(repeats - repeats.max()).mean())
    assert abs(mean - value) < 5 * math.hypot(error, repeats.std(ddof=1) / len(repeats) ** 0.5)


@pytest.mark.parametrize(("text", "value", "error"), [(text, *known) for text, *known in AIS if text in CERTIFIED])
def test_log_z_agrees_with_annealed_importance_sampling_elsewhere(text, value, error):
    """A 128-particle numpy AIS by another hand, two runs; its error is of those two runs."""
    found = build(text).truth.log_z
    assert abs(float(found[0][0]) - value) < 5 * math.hypot(error, float(found[1][0]))


@pytest.mark.slow
@certified
def test_log_z_from_the_task_s_own_density_and_draws(text):
    """E_pi[q / gamma] = 1 / Z for any normalised q: a narrower normal law about the mean, on draws of the truth."""
    instance = build(text)
    x = draws(text)
    mean, covariance = (part[0] for part in instance.truth.moments(0))
    q = torch.distributions.MultivariateNormal(mean, 0.7 * covariance)
    w = (q.log_prob(x) - instance.truth.log_prob(0, x)).exp().flatten()
    assert abs(float(w.mean()) - 1) < 5 * float(w.std()) / len(w) ** 0.5 + 0.005
    assert float(w.std()) / len(w) ** 0.5 < 0.1


@pytest.mark.slow
@certified
def test_draws_obey_the_posterior_s_identities_and_have_the_truth_s_moments(text):
    """E[score] = 0 and E[score x'] = -I hold for our posterior alone. The moments are of the script's own density."""
    instance = build(text)
    x = draws(text).flatten(0, 1)
    mean, covariance = (part[0] for part in instance.truth.moments(0))
    sd, d = covariance.diag().sqrt(), x.shape[1]
    white = (x - mean) / sd
    score = instance.problem[LogDensity].score(x[None])[0] * sd
    products = white[:, :, None] * white[:, None] - covariance / sd / sd[:, None]
    for values in (score, white, score[:, :, None] * white[:, None] + torch.eye(d), products):
        worst = values.mean(0).abs() / (values.std(0) / len(x) ** 0.5)
        assert worst.max() < 6  # of up to 3700 entries


@pytest.mark.slow
def test_the_weight_of_a_constant_feature_keeps_its_prior():
    x = draws("logistic:data=ionosphere")[..., 2]
    assert scipy.stats.kstest(x.flatten().numpy(), scipy.stats.norm.cdf).pvalue > 1e-6


@pytest.mark.slow
def test_every_metric_but_the_density_s_judges_and_the_first_tells_exact_from_still(streams):
    instance = build("logistic:data=ionosphere")
    metrics = choose(type(registry.parse("task", "logistic")).metrics, instance.truth.metrics)
    assert not any(instance.truth.lacks(metric, "none") for metric in metrics)
    laws = (instance.truth.draw(0, 1024, streams), instance.problem[Initial].draw(1024, streams))
    exact, still = (metrics[0].evaluate(Judged(x, None, instance.truth, 0, streams.fork("judge"))) for x in laws)
    assert (still.value - exact.value > 5 * (exact.se**2 + still.se**2).sqrt()).all()


def test_a_prior_is_left_out_of_credit_alone():
    with pytest.raises(UserError, match="prior=none,data=sonar") as caught:
        registry.parse("task", "logistic:data=sonar,prior=none")
    assert "logistic:data=credit,prior=none" in caught.value.fix


def test_the_default_has_a_truth_and_a_set_without_certificate_has_none_and_says_so(monkeypatch, tmp_path):
    assert "logistic:data=ionosphere" in CERTIFIED
    task = registry.parse("task", "logistic")
    assert task.data == "ionosphere"
    assert task.remarks() == []
    monkeypatch.setitem(type(task).build.__globals__, "WHOLE", tmp_path)
    assert "no certificate yet" in task.remarks()[0]
    truth = build("logistic").truth
    assert (truth.draw, truth.log_z, truth.exact) == (None, None, False)


def test_nothing_stored_is_large():
    assert sum(path.stat().st_size for path in tables.WHOLE.iterdir()) < 3e5
