"""Statistics of boards: known p-values, letters by hand, and simulated boards of which the truth is known."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from gwfbench.report import stats

BOARDS = 500


def board(rng, shifts, seeds, noise="normal", shared=1.0):
    """Values of methods with these mean logarithms: what seeds share, and noise of their own."""
    common = shared * rng.normal(size=seeds)
    draw = {
        "normal": lambda: rng.normal(size=seeds),
        "t3": lambda: rng.standard_t(3, size=seeds) / math.sqrt(3),
        "skew": lambda: rng.exponential(size=seeds) - 1,
    }[noise]
    return {f"m{i}": dict(enumerate(np.exp(shift + common + draw()).tolist())) for i, shift in enumerate(shifts)}


def share(tiers, a, b):
    return bool(set(tiers[a]) & set(tiers[b]))


def test_the_paired_test_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=7), rng.normal(0.5, 1, size=7)
    expected = scipy_stats.ttest_rel(a, b).pvalue
    assert stats.differs(dict(enumerate(a)), dict(enumerate(b))) == pytest.approx(expected, rel=1e-12)


def test_the_paired_test_takes_the_seeds_that_both_have():
    a, b = {0: 1.0, 1: 2.0, 2: 4.0, 9: -5.0}, {2: 1.0, 1: 1.5, 0: 0.5, 7: 100.0}
    assert stats.differs(a, b) == pytest.approx(scipy_stats.ttest_rel([1, 2, 4], [0.5, 1.5, 1]).pvalue)


@pytest.mark.parametrize(
    ("a", "b", "p"),
    [({0: 1.0}, {0: 2.0}, 1.0), ({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}, 1.0), ({0: 1.0, 1: 2.0}, {0: 3.0, 1: 4.0}, 0.0)],
)
def test_where_there_is_no_spread(a, b, p):
    assert stats.differs(a, b) == p


def test_holm():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert stats.holm([]) == []


def test_letters_say_which_pairs_are_told_apart():
    """Letters of a board with overlapping groups are those of its pairs, and no letter is superfluous."""
    rng = np.random.default_rng(3)
    for _ in range(30):
        values = board(rng, [0, 0.3, 1.0, 1.6, 2.5, 5.0], 6)
        letters, apart = stats.tiers(values), stats.told_apart(values)
        for a in values:
            for b in values:
                if a < b:
                    assert share(letters, a, b) != (frozenset((a, b)) in apart)
        groups = [{name for name in letters if letter in letters[name]} for letter in set("".join(letters.values()))]
        assert not any(one < other for one in groups for other in groups)


def test_letters_begin_with_the_best():
    values = board(np.random.default_rng(1), [4, 0, 8], 10)
    assert stats.tiers(values) == {"m1": "a", "m0": "b", "m2": "c"}


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["normal", "t3", "skew"])
@pytest.mark.parametrize("others", [(), (0.5, 1.0, 3.0, 5.0)])
def test_two_identical_methods_share_a_tier(noise, others):
    rng = np.random.default_rng(7)
    together = [share(stats.tiers(board(rng, (1.0, 1.0, *others), 5, noise)), "m0", "m1") for _ in range(BOARDS)]
    assert np.mean(together) >= 0.95


@pytest.mark.parametrize("others", [(), (4.0, 6.0)])
def test_two_standard_deviations_are_seen_with_ten_seeds(others):
    rng = np.random.default_rng(8)
    apart = [not share(stats.tiers(board(rng, (0.0, 2.0, *others), 10)), "m0", "m1") for _ in range(BOARDS)]
    assert np.mean(apart) >= 0.80


def test_what_is_detectable_is_seen_in_four_cases_of_five():
    rng = np.random.default_rng(9)
    factor, logs = stats.detectable(board(rng, [0.0] * 40, 6))
    assert logs
    pairs = [board(rng, (0.0, math.log(factor)), 6) for _ in range(2 * BOARDS)]
    seen = np.mean([bool(stats.told_apart(pair)) for pair in pairs])
    assert seen == pytest.approx(0.8, abs=0.08)


def test_nothing_is_detectable_with_one_seed():
    assert math.isnan(stats.detectable({"a": {0: 1.0}, "b": {0: 2.0}})[0])


def test_a_failed_seed_is_the_worst_on_the_board():
    values = {"good": {0: 1.0, 1: 1.1}, "bad": {0: math.nan, 1: 2.0}, "still": {0: 8.0, 1: 9.0}}
    scaled, logs = stats.on_scale(values)
    assert logs
    assert scaled["bad"][0] == pytest.approx(math.log(9.0))


def test_values_that_are_not_all_positive_stay_as_they_are():
    scaled, logs = stats.on_scale({"a": {0: -1.0, 1: 2.0}, "b": {0: 3.0, 1: math.inf}})
    assert not logs
    assert scaled == {"a": {0: -1.0, 1: 2.0}, "b": {0: 3.0, 1: 3.0}}


@pytest.mark.parametrize(
    ("value", "expected"), [(0.5, 0.0), (2.0, 0.25), (5.0, 1.0), (50.0, 1.0), (math.nan, 1.0), (math.inf, 1.0)]
)
def test_scores_stand_between_exact_and_still(value, expected):
    assert stats.score(value, 1.0, 5.0) == expected
    assert stats.score(-value, -1.0, -5.0) == expected  # higher is better


def test_profiles_by_hand():
    costs = {"a": [1.0, 4.0, math.inf], "b": [2.0, 2.0, math.nan], "c": [8.0, math.inf, 3.0], "d": [math.nan] * 3}
    found = stats.profile(costs, [1, 2, 8])
    assert found.pop("d") == pytest.approx([math.nan] * 3, nan_ok=True)
    assert found == {"a": [1 / 3, 2 / 3, 2 / 3], "b": [1 / 2, 1, 1], "c": [1 / 3, 1 / 3, 2 / 3]}


def test_time_to_target():
    curve = [(1.0, 5.0), (2.0, 0.9), (3.0, 1.5), (4.0, 0.5)]
    assert stats.to_target(curve, 1.0) == 2.0
    assert stats.to_target(curve, 0.1) == math.inf
