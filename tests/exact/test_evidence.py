"""Evidence metrics against closed forms of Gaussians, and their standard errors against repetition."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from gwfbench import metrics
from gwfbench.protocol import OF_LAW, Judged, Need, Truth
from gwfbench.rng import Streams

DOUBLE = {"dtype": torch.float64}
MEAN = torch.tensor([0.5, -1.0], **DOUBLE)
ROOT = torch.tensor([[1.0, 0.0], [0.7, 0.4]], **DOUBLE)
TARGET = MultivariateNormal(MEAN, ROOT @ ROOT.T)
LAW = MultivariateNormal(
    MEAN + torch.tensor([0.2, -0.1], **DOUBLE), 1.3 * ROOT @ ROOT.T
)  # wide: its weights are bounded
LOG_Z = 2.7
NAMES = ("log_z", "elbo", "eubo", "ess_reverse", "ess_forward")


def truth(seeds=1, error=0.0):
    """N(MEAN, ROOT ROOT'), for a gamma of integral e^2.7."""
    return Truth(
        lambda index, n, rng: MEAN + rng.normal(n, 2) @ ROOT.T,
        exact=True,
        log_prob=lambda index, x: TARGET.log_prob(x.double()).to(x.dtype),
        log_z=(torch.full((seeds,), LOG_Z, **DOUBLE), torch.full((seeds,), error, **DOUBLE)),
    )


def judged(law=LAW, n=4000, seeds=(0,), error=0.0, log_z=None, dtype=torch.float64):
    rng, known = Streams(seeds, dtype=torch.float64), truth(len(seeds), error)
    x = (law.loc + rng.fork("law").normal(n, 2) @ law.scale_tril.T).to(dtype)
    y = known.draw(0, n, rng.fork("truth")).to(dtype)
    log_q = lambda points: law.log_prob(points.double()).to(dtype)  # noqa: E731
    return Judged(x, log_q(x), known, 0, rng.fork("metric"), forward=(y, log_q(y)), log_z=log_z)


def evaluate(name, *args, **kwargs):
    return metrics.known()[name].evaluate(judged(*args, **kwargs))


def expected():
    """E_pi[pi / q] of Gaussians: (2 C^-1 - C_q^-1) is the precision of the integrand pi^2 / q."""
    p, q = TARGET.precision_matrix, LAW.precision_matrix
    a, b = 2 * p - q, 2 * p @ TARGET.loc - q @ LAW.loc
    constant = 2 * TARGET.loc @ p @ TARGET.loc - LAW.loc @ q @ LAW.loc - b @ torch.linalg.solve(a, b)
    log = torch.logdet(p) - 0.5 * torch.logdet(q) - 0.5 * torch.logdet(a) - 0.5 * constant
    ess = float((-log).exp())
    return {
        "log_z": 0.0,
        "elbo": LOG_Z - float(kl_divergence(LAW, TARGET)),
        "eubo": LOG_Z + float(kl_divergence(TARGET, LAW)),
        "ess_reverse": ess,
        "ess_forward": ess,
    }


@pytest.mark.parametrize("name", NAMES)
def test_gaussians_have_the_closed_form(name):
    found, goal = evaluate(name, n=50_000), expected()[name]
    assert abs(float(found.value) - goal) < 5 * float(found.se)
    assert 0 < float(found.se) < 0.01
    far = 1.0 if name.startswith("ess") else LOG_Z
    assert name == "log_z" or abs(goal - far) > 10 * float(found.se)  # it is not the value of the truth


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_itself_has_no_error(name):
    found = evaluate(name, TARGET)
    goal = {"log_z": 0.0, "elbo": LOG_Z, "eubo": LOG_Z}.get(name, 1.0)
    assert float(found.value) == pytest.approx(goal, abs=1e-12)
    assert float(found.se) < 1e-12


@pytest.mark.parametrize("name", ["log_z", "elbo", "eubo"])
def test_the_truth_s_error_is_added_in_quadrature(name):
    plain, more = evaluate(name), evaluate(name, error=0.3)
    assert float(more.value) == float(plain.value)
    assert float(more.se) == pytest.approx(math.hypot(float(plain.se), 0.3))


@pytest.mark.parametrize("name", NAMES)
def test_standard_errors_are_the_spread_over_repetitions(name):
    """400 clouds: the spread is known to 3.5 %, five of which are 18 %; and the interval of 2 errors covers 95 %."""
    runs = 400
    found = evaluate(name, n=1000, seeds=tuple(range(runs)))
    if name == "log_z":  # its sign is lost in the absolute value: the root mean square is the spread
        spread, goal = float(found.value.square().mean().sqrt()), 0.0
    else:
        spread, goal = float(found.value.std()), expected()[name]
    assert float(found.se.mean()) == pytest.approx(spread, rel=0.18)
    covered = float(((found.value - goal).abs() < 2 * found.se).double().mean())
    assert abs(covered - 0.9545) < 5 * math.sqrt(0.9545 * 0.0455 / runs)


def test_the_gap_of_the_elbo_is_kl():
    one = judged()
    kl = metrics.known()["kl"].evaluate(one)
    elbo = metrics.known()["elbo"].evaluate(one)
    torch.testing.assert_close(LOG_Z - elbo.value, kl.value)


def test_the_law_s_own_estimate_of_log_z_comes_first():
    own = torch.tensor([LOG_Z - 0.4], **DOUBLE), torch.tensor([0.1], **DOUBLE)
    found = evaluate("log_z", log_z=own, error=0.2)
    assert float(found.value) == pytest.approx(0.4)
    assert float(found.se) == pytest.approx(math.hypot(0.1, 0.2))
    unknown = evaluate("log_z", log_z=(own[0], torch.full((1,), math.nan, **DOUBLE)))
    assert float(unknown.value) == pytest.approx(0.4)
    assert math.isnan(float(unknown.se))


def test_a_constant_of_gamma_moves_the_bounds_alone():
    """gamma times e^1000, far beyond the floats."""
    base, moved = judged(), judged()
    shift = torch.full((1,), 1000.0, **DOUBLE)
    object.__setattr__(moved.truth, "log_z", (moved.truth.log_z[0] + shift, moved.truth.log_z[1]))
    for name in NAMES:
        one, other = (metrics.known()[name].evaluate(each) for each in (base, moved))
        gap = 1000.0 if name in ("elbo", "eubo") else 0.0
        assert float(other.value - one.value) == pytest.approx(gap, abs=1e-9)


def test_forward_ess_sees_a_lost_mode_and_reverse_does_not():
    """Half of the target, 40 deviations away, is where the law's density is e^-800: the reverse share is 1."""
    x = Streams((0,), **DOUBLE).normal(4000, 1)
    y = torch.cat([x[:, :2000], x[:, 2000:] + 40], 1)
    normal = torch.distributions.Normal(torch.zeros((), **DOUBLE), 1.0)

    def log_prob(index, z):
        return torch.logaddexp(normal.log_prob(z), normal.log_prob(z - 40))[..., 0] - math.log(2)

    zero = torch.zeros(1, **DOUBLE)
    known = Truth(None, exact=True, log_prob=log_prob, log_z=(zero, zero))
    law = Judged(x, normal.log_prob(x)[..., 0], known, 0, Streams((0,)), forward=(y, normal.log_prob(y)[..., 0]))
    assert float(metrics.known()["ess_reverse"].evaluate(law).value) == pytest.approx(1)
    assert float(metrics.known()["ess_forward"].evaluate(law).value) < 1e-300
    assert float(metrics.known()["eubo"].evaluate(law).value) == pytest.approx(400 - math.log(2), rel=0.2)
    assert float(metrics.known()["log_z"].evaluate(law).value) == pytest.approx(math.log(2))


@pytest.mark.parametrize("name", NAMES)
def test_float32_moves_nothing_beyond_its_rounding(name):
    short, long = evaluate(name, dtype=torch.float32), evaluate(name)
    assert abs(float(short.value - long.value)) < 0.02 * float(long.se) + 1e-6
    exact = evaluate(name, TARGET, dtype=torch.float32)
    goal = {"log_z": 0.0, "elbo": LOG_Z, "eubo": LOG_Z}.get(name, 1.0)
    assert abs(float(exact.value) - goal) <= max(5 * float(exact.se), 1e-9)


def replaced(**changed):
    base = judged(n=50)
    for name, value in changed.items():
        object.__setattr__(base, name, value)
    return base


@pytest.mark.parametrize("hole", [-math.inf, math.inf, math.nan])
def test_densities_that_are_no_numbers(hole):
    base = judged(n=50)
    log_q, (y, forward) = base.log_prob.clone(), base.forward
    log_q[0, 3] = hole
    forward = forward.clone()
    forward[0, 3] = hole
    law = replaced(log_prob=log_q, forward=(y, forward))
    found = {name: metrics.known()[name].evaluate(law) for name in NAMES}
    values = {name: float(one.value) for name, one in found.items()}
    if math.isnan(hole):
        assert all(map(math.isnan, values.values()))
    elif hole > 0:  # a point of its own: it weighs nothing
        assert values["elbo"] == -math.inf
        assert values["eubo"] == -math.inf
        assert math.isfinite(values["log_z"])
        assert values["ess_forward"] == 0
    else:  # a point where the law says that it has none; a draw of the truth that it can't give
        assert all(math.isnan(values[name]) for name in ("elbo", "log_z", "ess_reverse"))
        assert values["eubo"] == math.inf
        assert values["ess_forward"] == 0
    assert all(one.se.isnan().all() for name, one in found.items() if not math.isfinite(values[name]))


def test_a_law_off_the_target_s_support_has_share_0():
    law = replaced(log_prob=torch.full((1, 50), math.inf, **DOUBLE))
    assert float(metrics.known()["ess_reverse"].evaluate(law).value) == 0
    assert float(metrics.known()["log_z"].evaluate(law).value) == math.inf
    assert float(metrics.known()["elbo"].evaluate(law).value) == -math.inf


def test_what_is_needed_of_laws_is_not_asked_of_the_truth():
    for name in NAMES:
        metric = metrics.known()[name]
        assert metric.needs & OF_LAW
        assert not truth().lacks(metric, "none")
        assert "log_z" in Truth(None, exact=True).lacks(metric, "none")
    assert Need.FORWARD in metrics.known()["eubo"].needs
