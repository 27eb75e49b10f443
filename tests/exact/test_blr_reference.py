"""The formulas by which scripts/blr_reference.py makes and judges the truth of task `blr`."""

import math

import numpy as np
import pytest
import scipy.stats

from scripts import blr_reference as script


class Known:
    """Proposals from N(0, 4) in each of d dimensions for N(0, 1), whose weights are known; `same`: all weights 1."""

    def __init__(self, d, same=False):
        self.block, self.d, self.same = script.BLOCK, d, same

    def blocks(self, rows, count, seed):
        rng = np.random.default_rng(seed)
        for _ in range(count // self.block):
            x = rng.standard_normal((self.block, self.d)) * (1 if self.same else 2)
            yield x, np.zeros(self.block) if self.same else -0.375 * (x**2).sum(1)


def found(law, low=-50.0, size=4):
    zero, one = np.zeros(law.d), np.ones(law.d)
    return script.weigh(law, None, low, size, zero, one)


def test_equal_weights_are_worth_their_number():
    """Effective sizes of coordinates and squares are n, and nothing is lost to a cap that is never reached."""
    sample = found(Known(5, same=True))
    n = script.PARTS * 4 * script.BLOCK
    numbers, mean, covariance = script.judge(sample, -50.0, 0.0)
    assert numbers["is_ess_share"] == pytest.approx(1)
    assert numbers["is_ess_min"] == pytest.approx(n, rel=1e-9)
    assert numbers["is_ess_squares_min"] == pytest.approx(n, rel=1e-9)
    assert numbers["worth"] == pytest.approx(n, rel=5 * (2 / (15 * 20)) ** 0.5)  # of 15 chi^2 with 20 degrees
    assert numbers["variance_error_worst"] == pytest.approx((2 / n) ** 0.5, rel=0.05)
    assert (numbers["accepted"], numbers["cap_loss"], numbers["cap_symkl"]) == (1, 0, pytest.approx(0, abs=1e-12))
    assert np.abs(mean).max() < 5 / n**0.5
    assert np.abs(covariance - np.eye(5)).max() < 5 * (2 / n) ** 0.5


def test_unequal_weights_are_worth_less_and_give_the_law_s_moments():
    """For N(0, 1) from N(0, 4), in one dimension: E w^2 / (E w)^2 = 4 / sqrt(7), and the share kept is 1 / 2.

    With v = w^2 a multiple of N(0, 4 / 7): n / ess of x is E_v[x^2] 4 / sqrt(7), of x^2 it is E_v[(x^2 - 1)^2] / 2 times
    the same; E_v x^2 = 4 / 7, E_v x^4 = 3 (4 / 7)^2.
    """
    sample = found(Known(1), size=16)
    n = script.PARTS * 16 * script.BLOCK
    numbers, mean, covariance = script.judge(sample, -50.0, 0.0)
    factor, s = 4 / math.sqrt(7), 4 / 7
    assert numbers["is_ess_share"] == pytest.approx(1 / factor, rel=0.01)
    assert numbers["is_ess_min"] == pytest.approx(n / factor / s, rel=0.02)
    assert numbers["is_ess_squares_min"] == pytest.approx(n / factor * 2 / (3 * s**2 - 2 * s + 1), rel=0.03)
    assert numbers["accepted"] == pytest.approx(0.5, rel=0.01)
    assert float(mean[0]) == pytest.approx(0, abs=5 * (factor * s / n) ** 0.5)
    assert float(covariance[0, 0]) == pytest.approx(1, rel=0.01)


def test_the_cap_takes_what_is_allowed_and_its_effect_is_told():
    """Capping the weights of N(0, 1) from N(0, 4) makes a law whose density is flat near 0; by quadrature."""
    law = Known(1)
    sample = found(law, size=16)
    cap = script.log_cap(sample["log_weights"], 0.05)
    w = np.exp(sample["log_weights"])
    assert np.maximum(w - math.exp(cap), 0).sum() <= 0.05 * w.sum()
    lower = math.exp(cap) * (1 - 1e-3)
    assert np.maximum(w - lower, 0).sum() > 0.05 * w.sum()
    numbers, _, _ = script.judge(sample, -50.0, cap)
    x = np.linspace(-12, 12, 200_001)
    q = scipy.stats.norm(0, 2).pdf(x)
    full, capped = q * np.exp(-0.375 * x**2), q * np.minimum(np.exp(-0.375 * x**2), math.exp(cap))
    variance = (capped @ x**2) / capped.sum()
    assert numbers["cap_loss"] == pytest.approx(1 - capped.sum() / full.sum(), rel=0.02)
    assert numbers["cap_variance_worst"] == pytest.approx(variance - 1, rel=0.05)
    assert numbers["cap_symkl"] == pytest.approx((variance + 1 / variance - 2) / 2, rel=0.1)


def test_symkl_is_that_of_normal_laws():
    one, other = (np.array([1.0]), np.array([[4.0]])), (np.array([0.0]), np.array([[1.0]]))
    kl = 0.5 * (4 + 1 - 1 - math.log(4)), 0.5 * (0.25 + 0.25 - 1 + math.log(4))
    assert script.symkl(one, other) == pytest.approx(sum(kl))


def test_the_proposal_has_the_covariance_that_is_asked_for():
    """A Student law's covariance is degrees / (degrees - 2) times its scale."""
    covariance = np.array([[2.0, 0.5], [0.5, 1.0]])
    law = script.Student.like(np.zeros(2), covariance, 10, 1.3)
    assert law.root @ law.root.T * 10 / 8 == pytest.approx(1.69 * covariance)


@pytest.mark.parametrize(
    ("check", "good"),
    [("a < 1", False), ("a <= 1", True), ("a == 1", True), ("a > 1", False), ("a >= 1", True), ("a < 1.1", True)],
)
def test_checks_are_read_as_they_are_written(check, good):
    assert script.holds(check, {"a": 1.0}) is good
