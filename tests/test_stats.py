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
    [
        ({0: 1.0}, {0: 2.0}, 1.0),
        ({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}, 1.0),
        ({0: 1.0, 1: 2.0}, {0: 3.0, 1: 4.0}, 1 / 2),
        ({0: 0.1, 1: 0.2, 2: 0.7}, {0: 0.4, 1: 0.5, 2: 1.0}, 1 / 4),  # equal but for rounding
        (dict.fromkeys(range(6), 1.0), dict.fromkeys(range(6), 2.0), 1 / 32),
    ],
)
def test_no_spread_is_no_evidence_but_that_of_the_signs(a, b, p):
    assert stats.differs(a, b) == p


@pytest.mark.parametrize("unit", [1 / 200, 0.25, 3.0])
def test_the_unit_of_counts_is_found_and_other_values_have_none(unit):
    counts = np.random.default_rng(0).integers(100, 160, size=12)
    assert math.gcd(*np.diff(np.unique(counts)).tolist()) == 1
    assert stats.resolution((unit * counts).tolist()) == pytest.approx(unit)
    assert stats.resolution((unit * counts).astype(np.float32).tolist()) == pytest.approx(unit, rel=1e-3)
    assert stats.resolution([0.3, 0.1 + 0.2, math.nan]) == stats.resolution([]) == 0.0
    assert stats.resolution(np.random.default_rng(0).normal(size=12).tolist()) < 0.02


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("methods", [2, 8])
def test_whole_counts_are_told_apart_by_mistake_on_one_board_in_twenty(seeds, methods):
    """Accuracy on 200 fixed rows, of methods that are equal but for a noise of 0.7 rows."""
    rng = np.random.default_rng(20 + seeds)
    boards = np.round(170 + 0.7 * rng.normal(size=(400, methods, seeds))) / 200
    wrong = [
        bool(stats.told_apart({f"m{i}": dict(enumerate(one)) for i, one in enumerate(b.tolist())})) for b in boards
    ]
    assert np.mean(wrong) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400) - 0.02


@pytest.mark.parametrize("noise", ["normal", "lognormal"])
@pytest.mark.parametrize("seeds", [3, 5, 7, 10])
def test_intervals_hold_the_median_as_often_as_they_say(noise, seeds):
    rng = np.random.default_rng(seeds)
    draws = np.sort(rng.normal(size=(2000, seeds)))
    logs = noise == "lognormal"
    ends = [stats.interval((np.exp(x) if logs else x).tolist(), logs) for x in draws]
    held = np.mean([low <= (1.0 if logs else 0.0) <= high for low, high in ends])
    assert held >= 0.95 - 5 * math.sqrt(0.95 * 0.05 / 2000)


def test_the_interval_of_three_to_five_seeds_is_that_of_the_mean_of_logarithms():
    for count in (3, 4, 5):
        values = sorted(np.random.default_rng(count).lognormal(size=count).tolist())
        logs = np.log(values)
        half = scipy_stats.t.ppf(0.975, count - 1) * scipy_stats.sem(logs)
        assert stats.interval(values, True) == pytest.approx(tuple(np.exp([logs.mean() - half, logs.mean() + half])))
        half = scipy_stats.t.ppf(0.975, count - 1) * scipy_stats.sem(values)
        assert stats.interval(values) == pytest.approx((np.mean(values) - half, np.mean(values) + half))


@pytest.mark.parametrize(("count", "inward"), [(6, 0), (8, 0), (9, 1), (11, 1), (12, 2), (10_000, 4901)])
def test_the_interval_of_six_seeds_or_more_is_between_two_of_the_values(count, inward):
    values = np.sort(np.random.default_rng(0).normal(size=count)).tolist()
    assert stats.interval(values) == stats.interval(values, True) == (values[inward], values[-1 - inward])
    held = 1 - 2 * scipy_stats.binom.cdf(inward, count, 0.5)
    assert held >= 0.95 > 1 - 2 * scipy_stats.binom.cdf(inward + 1, count, 0.5)


def test_one_seed_has_no_interval_and_two_have_their_range():
    assert all(math.isnan(end) for end in stats.interval([1.0]))
    assert stats.interval([1.0, 3.0], True) == (1.0, 3.0)
    assert stats.interval([2.0] * 7) == stats.interval([2.0] * 3, True) == (2.0, 2.0)


def test_what_is_infinite_leaves_no_end_to_the_interval():
    inf = math.inf
    assert stats.interval([1.0, 2.0, inf], True) == (0.0, inf)
    assert stats.interval([-1.0, 2.0, inf]) == (-inf, inf)
    assert stats.interval([1.0, inf]) == (1.0, inf)
    assert stats.interval([inf] * 4, True) == (inf, inf)
    assert stats.interval([1.0, 2.0, 3.0, 4.0, 5.0, inf], True) == (1.0, inf)


@pytest.mark.parametrize("seed", range(200))
def test_what_is_printed_of_the_median_lies_in_what_is_printed_of_its_interval(seed):
    rng = np.random.default_rng(seed)
    values = sorted((rng.choice([1, 1e-7, 1e9]) * rng.standard_t(1.5, size=rng.integers(2, 12)) ** 2).tolist())
    low, high = stats.interval(values, True)
    middle = float(np.median(values))
    assert low <= middle <= high
    shown = [float(text) for text in (*stats.outwards(low, high), stats.rounded(middle))]
    assert shown[0] <= shown[2] <= shown[1]
    assert shown[0] <= low
    assert high <= shown[1]


def test_digits_are_those_of_the_shortest_decimal():
    assert stats.outwards(0.1, 0.1) == ("0.1", "0.1")
    assert stats.outwards(0.14749, 0.1471) == ("0.147", "0.148")
    assert stats.outwards(-0.14749, -0.1471) == ("-0.148", "-0.147")
    assert [stats.rounded(x) for x in (1.2549e-5, 123456.0, -0.0, math.inf, -math.inf)] == [
        *("1.25e-05", "1.23e+05", "0", "inf", "-inf"),
    ]  # fmt: skip


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


@pytest.mark.parametrize("methods", [2, 4])
def test_what_is_detectable_is_seen_in_four_cases_of_five(methods):
    """With the spread that is known, for two methods among others which are equal to the first."""
    rng = np.random.default_rng(9)
    gap = stats._needed(6, math.comb(methods, 2)) * math.sqrt(2 * scipy_stats.chi2.median(5) / 5)
    boards = [board(rng, (gap, *[0.0] * (methods - 1)), 6, shared=3.0) for _ in range(BOARDS)]
    seen = np.mean([frozenset(("m0", "m1")) in stats.told_apart(one) for one in boards])
    assert seen == pytest.approx(0.8, abs=0.06)


def test_the_detectable_difference_is_made_from_the_spread_of_differences():
    rng = np.random.default_rng(9)
    found = [stats.detectable(board(rng, (0.0, 0.0), 6)) for _ in range(BOARDS)]
    assert all(logs for _, logs in found)
    expected = stats._needed(6, 1) * math.sqrt(2 * scipy_stats.chi2.median(5) / 5)  # in the middle
    assert np.median(np.log([factor for factor, _ in found])) == pytest.approx(expected, rel=0.1)
    some = {"a": {0: 1.0, 1: 2.0}, "b": {0: 2.0, 1: 4.0}}
    assert math.isnan(stats.detectable(some)[0]), "no spread is no evidence"


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
