"""Statistics equal those of scipy and statsmodels, and intervals hold the truth as often as they say."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

from script_vlmeval import stats
from script_vlmeval.errors import UserError
from script_vlmeval.stats import Paired


def clusters_of(n: int, kind: str) -> np.ndarray:
    """plain: each row its own; pairs; uneven: one to nine rows."""
    sizes = {"plain": [1], "pairs": [2], "uneven": [1, 4, 2, 9, 1, 3]}[kind]
    return np.repeat(np.arange(n), np.resize(sizes, n))[:n]


def outcomes(shape: tuple[int, int], clusters: np.ndarray, shares: list[float], alike: float, seed: int = 0) -> np.ndarray:
    """(experiments, n) of codes with these shares; a row takes its cluster's with probability `alike`, else one of its own."""
    rng = np.random.default_rng(seed)
    own = rng.choice(len(shares), shape, p=shares)
    common = rng.choice(len(shares), (shape[0], clusters.max() + 1), p=shares)[:, clusters]
    return np.where(rng.random(shape) < alike, common, own)


def table(n: int = 300, kind: str = "uneven", seed: int = 0) -> Paired:
    """Four configurations: 60, 70, 70 % right, and the last the same as the first."""
    rng, clusters = np.random.default_rng(seed), clusters_of(n, kind)
    easy = rng.normal(size=clusters.max() + 1)[clusters]
    right = np.stack([easy + rng.normal(size=n) < bar for bar in (0.36, 0.74, 0.74)], axis=1)
    return Paired(100.0 * right[:, [0, 1, 2, 0]], clusters)


# references --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "pairs", "uneven"])
def test_the_standard_error_is_that_of_clustered_least_squares(kind: str):
    points, clusters = np.random.default_rng(1).gamma(2, 50, 200), clusters_of(200, kind)
    fit = sm.OLS(points, np.ones(200)).fit(cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": True}, use_t=True)
    assert stats.standard_error(points, clusters) == pytest.approx(fit.bse[0], rel=1e-9)


def test_without_clusters_the_standard_error_is_the_textbooks():
    points = np.random.default_rng(1).normal(size=50)
    assert stats.standard_error(points, np.arange(50)) == pytest.approx(reference.sem(points))
    low, high = reference.t.interval(0.95, 49, points.mean(), reference.sem(points))
    found = stats.mean(points, np.arange(50))
    assert (found.value, found.low, found.high) == pytest.approx((points.mean(), low, high))


@pytest.mark.parametrize(("hits", "n"), [(650, 1000), (990, 1000), (1000, 1000), (0, 1000)])
def test_a_share_of_many_rows_has_wilsons_interval(hits: int, n: int):
    found = stats.share(np.arange(n) < hits, np.arange(n))
    low, high = proportion_confint(hits, n, method="wilson")
    assert (found.low, found.high) == pytest.approx((100 * low, 100 * high), abs=0.02)
    assert 0 <= found.low <= found.value <= found.high <= 100


def test_a_pictures_questions_answered_alike_count_as_one():
    hits = np.random.default_rng(0).random(100) < 0.7
    once, thrice = stats.share(hits, np.arange(100)), stats.share(np.repeat(hits, 3), np.repeat(np.arange(100), 3))
    assert (thrice.value, thrice.low, thrice.high) == pytest.approx((once.value, once.low, once.high))


def test_all_right_is_no_more_certain_than_the_number_of_pictures():
    many, few = (stats.share(np.ones(300), np.arange(300) // size) for size in (1, 10))
    assert (many.high, few.high) == pytest.approx((100, 100))
    assert few.low < many.low < 99


@pytest.mark.parametrize("value", [0.5, 1.0])
def test_points_that_are_all_alike_say_nothing_of_how_much_they_vary(value: float):
    """Other than being right, which so many rows are: a perfect score of points has no interval rather than one of no width."""
    points, rows = np.full(20, 137.5 * value), np.arange(20)
    assert not stats.mean(points, rows).known
    assert math.isnan(stats.standard_error(points, rows))
    assert stats.share(np.full(20, value), rows).known == (value == 1.0)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_exact(won: int, lost: int):
    expected = mcnemar([[5, won], [lost, 7]], exact=True).pvalue
    assert stats.mcnemar(won, lost) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_holm_is_that_of_statsmodels(seed: int):
    ps = list(np.round(np.random.default_rng(seed).random(3 + seed) ** 3, 2))  # also equal ones
    assert stats.holm(ps) == pytest.approx(list(multipletests(ps, method="holm")[1]))


def test_holm_leaves_out_what_is_no_number():
    found = stats.holm([0.01, math.nan, 0.04])
    assert found[::2] == pytest.approx([0.02, 0.04])
    assert math.isnan(found[1])
    assert stats.holm([]) == []


@pytest.mark.parametrize("n", [12, 60, 500])
def test_the_smallest_detectable_difference_is_that_of_a_power_analysis(n: int):
    rng = np.random.default_rng(n)
    found = Paired(rng.normal(50, 10, (n, 2)), np.arange(n)).difference(0, 1)
    error = (found.high - found.low) / 2 / reference.t.ppf(0.975, n - 1)
    effect = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    assert found.detectable == pytest.approx(effect * math.sqrt(n) * error, rel=1e-4)


def test_many_rows_give_the_paired_t_test():
    rng = np.random.default_rng(0)
    points = rng.normal([50.0, 50.25], 10, (20_000, 2))
    found, test = Paired(points, np.arange(20_000)).difference(0, 1), reference.ttest_rel(points[:, 0], points[:, 1])
    assert found.p == pytest.approx(test.pvalue, rel=0.02)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval()), abs=0.002)


# ratios ------------------------------------------------------------------------------------------------------------------


def test_a_ratio_spreads_as_resampled_clusters_do():
    data, rng = table(600), np.random.default_rng(0)
    counts = rng.multinomial(data.clusters, np.full(data.clusters, 1 / data.clusters), 4000)
    sums = np.stack([np.bincount(data.codes, data.points[:, i]) for i in range(2)], axis=1)
    drawn = 100 * (counts @ sums)[:, 1] / (counts @ sums)[:, 0]
    found = data.ratio(1, 0)
    assert found.value == pytest.approx(100 * data.means[1] / data.means[0])
    assert found.stderr == pytest.approx(drawn.std(), rel=0.05)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.25 * found.stderr)
    half = reference.t.ppf(0.975, stats._freedom(data.codes)) * found.stderr
    assert found.high - found.low == pytest.approx(2 * half)


@pytest.mark.parametrize("part", [0, 0.5, 1 / 3])
def test_a_share_that_every_row_has_says_nothing_of_the_next_rows(part: float):
    """Of nothing right above all: the score says that the next may be right."""
    worth = np.random.default_rng(0).choice([0.3, 0.7, 1.0], 20)
    data = Paired(100 * np.stack([part * worth, worth], axis=1), np.arange(20))
    found = data.ratio(0, 1)
    assert found.value == pytest.approx(100 * part)
    assert not found.known
    assert data.estimate(0).known


def test_nothing_has_a_share_of_nothing():
    data = Paired([[100.0, 0.0]] * 20, np.arange(20))
    assert data.ratio(0, 1) is stats.UNKNOWN


def test_a_mean_of_ratios_weighs_benchmarks_alike():
    parts = [stats.Estimate(100, 94, 106, 3), stats.Estimate(90, 82, 98, 4), stats.Estimate(50, 26, 74, 12)]
    found = stats.mean_of_ratios(parts)
    assert (found.value, found.stderr) == pytest.approx((80, 13 / 3))
    assert (found.low, found.high) == pytest.approx((80 - 1.959964 * 13 / 3, 80 + 1.959964 * 13 / 3))
    assert stats.mean_of_ratios([]) is stats.UNKNOWN


def test_a_mean_with_an_unknown_ratio_is_unknown():
    equal = table().ratio(0, 3)
    assert stats.mean_of_ratios([equal, equal]) == stats.Estimate(100, 100, 100, 0)
    for unknown in (stats.UNKNOWN, stats.Estimate(0, math.nan, math.nan, 0.0)):
        assert not stats.mean_of_ratios([equal, unknown]).known


@pytest.mark.parametrize(("n", "right"), [(20, 5), (50, 2), (100, 5)])
def test_a_mean_of_ratios_is_bounded_where_few_rows_are_right(n: int, right: int):
    full = np.arange(n) < right
    pruned = full ^ np.isin(np.arange(n), [0, n - 1])
    ratio = Paired(100.0 * np.stack([pruned, full], axis=1), np.arange(n)).ratio(0, 1)
    found = stats.mean_of_ratios([ratio, ratio])
    assert found.high - found.low < ratio.high - ratio.low < 100 * n / right


# differences -------------------------------------------------------------------------------------------------------------


def test_identical_predictions_differ_by_nothing():
    data = table()
    found = data.difference(0, 3)
    assert (found.value, found.low, found.high, found.stderr, found.p, found.won, found.lost) == (0, 0, 0, 0, 1, 0, 0)
    assert found.mcnemar == 1
    assert found.detectable > 0
    ratio = data.ratio(0, 3)
    assert (ratio.value, ratio.low, ratio.high) == (100, 100, 100)


def test_a_difference_counts_and_is_antisymmetric():
    data = table()
    one, other = data.difference(0, 1), data.difference(1, 0)
    right = data.points > 0
    assert (one.n, one.clusters) == (300, data.clusters)
    assert one.won == other.lost == int((right[:, 0] & ~right[:, 1]).sum())
    assert one.mcnemar == stats.mcnemar(one.won, one.lost)
    assert (one.value, one.low, one.high, one.p) == pytest.approx((-other.value, -other.high, -other.low, other.p))
    assert one.stderr == pytest.approx(stats.standard_error(data.points[:, 0] - data.points[:, 1], data.codes))


def test_p_says_what_the_interval_says():
    for seed in range(40):
        found = table(60, seed=seed).difference(0, 1)
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_other_units_scale_everything_but_p():
    data = table()
    large = Paired(10 * data.points, data.codes, worth=data.worth)
    one, ten = data.difference(0, 1), large.difference(0, 1)
    assert (ten.low, ten.high, ten.p, ten.mcnemar) == pytest.approx((10 * one.low, 10 * one.high, one.p, one.mcnemar))
    assert (ten.won, ten.lost) == (one.won, one.lost)
    assert large.ratio(0, 1).low == pytest.approx(data.ratio(0, 1).low)


def test_rows_worth_a_part_have_no_mcnemar():
    worth = np.random.default_rng(0).choice([0, 0.3, 1.0], (80, 2))
    worth[:, 0] = np.round(worth[:, 0])  # one side alone has parts
    data = Paired(100 * worth, np.arange(80))
    assert data.difference(0, 1).mcnemar is data.difference(1, 0).mcnemar is None
    assert data.difference(0, 1).won == int((worth[:, 0] > worth[:, 1]).sum())


@pytest.mark.parametrize("clusters", [[0, 0, 0], ["a", "a", "a"]])
def test_one_cluster_has_a_figure_and_no_interval(clusters: list):
    data = Paired([[100.0, 0.0], [0.0, 0.0], [100.0, 0.0]], clusters)
    for found in (data.estimate(0), data.difference(0, 1), stats.mean([1.0, 2.0, 6.0], clusters)):
        assert math.isfinite(found.value)
        assert not found.known
        assert math.isnan(found.stderr)
    assert math.isnan(data.difference(0, 1).p)
    assert not data.ratio(0, 1).known


@pytest.mark.filterwarnings("error")
def test_what_is_no_number_stays_in_its_column():
    points = table().points.copy()
    points[3, 1] = math.nan
    data = Paired(points, table().codes)
    assert data.estimate(0) == table().estimate(0)
    assert data.difference(0, 2) == table().difference(0, 2)
    for found in (data.estimate(1), data.difference(0, 1), data.ratio(1, 0), data.ratio(0, 1)):
        assert math.isnan(found.value)
        assert not found.known


def test_no_rows_are_no_error():
    data = Paired(np.empty((0, 2)), [])
    assert not data.estimate(0).known
    assert not data.difference(0, 1).known
    assert not stats.share([], []).known


def test_three_quarters_of_a_row_are_added_each_way():
    """Of 100 rows A has 20 right and B 60, four of them both."""
    both = np.array([[100, 100]] * 4 + [[100, 0]] * 16 + [[0, 100]] * 56 + [[0, 0]] * 24)
    data = Paired(both, np.arange(100))
    won, lost, t = 16.75 / 101.5, 56.75 / 101.5, reference.t.ppf(0.975, 99)
    found, half = data.difference(0, 1), t * math.sqrt((won + lost - (won - lost) ** 2) / 101.5)
    assert (found.low, found.high) == pytest.approx((100 * (won - lost - half), 100 * (won - lost + half)), abs=0.1)
    few = Paired(both[np.r_[:4, 76:100, 19:21]], np.arange(30)).difference(0, 1)  # one row each way: no Wald interval
    assert few.high - few.low > 1.25 * 2 * t * few.stderr
    ratio = data.ratio(0, 1)
    assert (ratio.low + ratio.high) / 2 == pytest.approx(100 + 100 * (20 / 60 - 1) * 100 / 101.5, abs=0.05)


def test_clusters_of_unequal_size_count_as_fewer():
    """Fifty questions about one picture and one about each of ten others: as little as two pictures say."""
    for sizes, freedom in (((50, *[1] * 10), 1.0), ((5, *[1] * 10), 15**2 / 35 - 1), ([3] * 7, 6.0)):
        clusters = np.repeat(np.arange(len(sizes)), sizes)
        points = np.random.default_rng(0).normal(50, 10, len(clusters))
        found = stats.mean(points, clusters)
        assert (found.high - found.value) / found.stderr == pytest.approx(reference.t.ppf(0.975, freedom))


def test_rows_that_cancel_within_pictures_are_no_more_than_there_are():
    """Of 50 pictures 48 have a row that A alone has right and one that B alone has; of one, A has both."""
    apart = np.array([1, -1] * 48 + [1, 1, 0, 0])
    data = Paired(100.0 * np.stack([apart > 0, apart < 0], axis=1), np.arange(100) // 2)
    found = data.difference(0, 1)
    centre = 2 / 101.5
    square = (100 * (100 * (found.stderr / 100) ** 2 + 0.02**2) + 1.5) / 101.5 - centre**2
    half = 100 * reference.t.ppf(0.975, 49) * math.sqrt(square / 101.5)
    assert (found.low, found.high) == pytest.approx((100 * centre - half, 100 * centre + half))


def test_rows_that_all_differ_alike():
    found = Paired([[30.0, 0.0]] * 50, np.arange(50)).difference(0, 1)
    assert found.stderr == 0
    assert 0 < found.low < 30 < found.high


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="3 rows need as many clusters"):
        Paired(np.ones((3, 2)), [0, 1])
    with pytest.raises(UserError, match="Points are rows by configurations"):
        Paired(np.ones((3, 2)), [0, 1, 2], worth=np.ones((3, 1)))
    with pytest.raises(UserError, match="2 means need a square"):
        stats.letters([1.0, 2.0], [[True]])


# letters -----------------------------------------------------------------------------------------------------------------


def test_letters_of_a_chain():
    apart = [[False, False, True], [False, False, False], [True, False, False]]
    assert stats.letters([3.0, 2.0, 1.0], apart) == ["a", "ab", "b"]
    assert stats.letters([1.0, 2.0, 3.0], apart) == ["b", "ab", "a"]
    assert stats.letters([], np.empty((0, 0))) == []
    assert stats.letters([5.0, math.nan], np.zeros((2, 2))) == ["a", "a"]


@given(
    st.integers(1, 9).flatmap(
        lambda n: st.tuples(st.permutations(range(n)), st.lists(st.booleans(), min_size=n * n, max_size=n * n))
    )
)
def test_letters_are_shared_exactly_where_two_cannot_be_told_apart(drawn: tuple[list[int], list[bool]]):
    means, flags = drawn
    n = len(means)
    apart = np.triu(np.array(flags).reshape(n, n), 1)
    apart = apart | apart.T
    found = stats.letters([float(mean) for mean in means], apart)
    assert "a" in found[means.index(max(means))]
    assert all(names and names == "".join(sorted(names)) for names in found)
    for i, j in combinations(range(n), 2):
        assert bool(set(found[i]) & set(found[j])) != apart[i, j]
    groups = [{i for i in range(n) if letter in found[i]} for letter in set("".join(found))]
    assert not any(one < other for one, other in combinations(groups, 2))


# coverage ----------------------------------------------------------------------------------------------------------------

RARE, COMMON, ONE_WAY = [0.02, 0.08, 0.9], [0.15, 0.25, 0.6], [0.0, 0.15, 0.85]  # won, lost, neither


def covered(n: int, kind: str, shares: list[float], alike: float, experiments: int) -> float:
    """In percent of the experiments, how often the interval of a difference holds the true one."""
    clusters = clusters_of(n, kind)
    codes = outcomes((experiments, n), clusters, shares, alike)
    points = np.stack([100.0 * (codes == 0), 100.0 * (codes == 1)], axis=2)
    truth, held = 100 * (shares[0] - shares[1]), 0
    for one in points:
        found = Paired(one, clusters).difference(0, 1)
        held += found.low <= truth <= found.high
    return 100 * held / experiments


def covered_share(n: int, kind: str, p: float, alike: float, experiments: int) -> float:
    clusters = clusters_of(n, kind)
    hits = outcomes((experiments, n), clusters, [1 - p, p], alike)
    found = [stats.share(one, clusters) for one in hits]
    return 100 * sum(one.low <= 100 * p <= one.high for one in found) / experiments


def covered_mean(n: int, kind: str, shares: list[float], alike: float, experiments: int, benchmarks: int = 4) -> float:
    """Of the mean over benchmarks of A in percent of B, that have another half of the rows both right."""
    clusters, both = clusters_of(n, kind), 0.5
    every = [shares[0], shares[1], both, shares[2] - both]
    codes = outcomes((experiments * benchmarks, n), clusters, every, alike)
    points = 100.0 * np.stack([(codes == 0) | (codes == 2), (codes == 1) | (codes == 2)], axis=2)
    truth, held = 100 * (shares[0] + both) / (shares[1] + both), 0
    for some in points.reshape(experiments, benchmarks, n, 2):
        found = stats.mean_of_ratios([Paired(one, clusters).ratio(0, 1) for one in some])
        held += found.low <= truth <= found.high
    return 100 * held / experiments


CASES = [
    (60, "plain", COMMON, 0.0),
    (120, "plain", RARE, 0.0),
    (250, "plain", ONE_WAY, 0.0),
    (120, "pairs", COMMON, 0.7),
    (250, "uneven", RARE, 0.3),
    (500, "uneven", COMMON, 0.7),
    (500, "uneven", ONE_WAY, 0.3),
]


@pytest.mark.parametrize(("n", "kind", "shares", "alike"), CASES)
def test_intervals_hold_the_truth(n: int, kind: str, shares: list[float], alike: float):
    assert 91.5 <= covered(n, kind, shares, alike, 400) <= 98.5


@pytest.mark.parametrize(
    ("n", "kind", "p", "alike"), [(60, "plain", 0.8, 0.0), (120, "plain", 0.97, 0.0), (500, "uneven", 0.7, 0.6)]
)
def test_intervals_of_shares_hold_the_truth(n: int, kind: str, p: float, alike: float):
    assert 91.5 <= covered_share(n, kind, p, alike, 400) <= 98.5


@pytest.mark.parametrize(("n", "kind", "shares", "alike"), CASES[:3])
def test_intervals_of_means_of_ratios_hold_the_truth(n: int, kind: str, shares: list[float], alike: float):
    assert 91.5 <= covered_mean(n, kind, shares, alike, 200) <= 98.5


def test_that_simulation_sees_a_wrong_formula():
    """Clusters that are not looked at make intervals too narrow."""
    clusters = clusters_of(500, "uneven")
    hits = outcomes((400, 500), clusters, [0.3, 0.7], 0.8)
    found = [stats.share(one, np.arange(500)) for one in hits]
    assert sum(one.low <= 70 <= one.high for one in found) / 4 < 88


@pytest.mark.slow
@pytest.mark.parametrize(("n", "kind", "shares", "alike"), CASES)
def test_two_thousand_intervals_hold_the_truth(n: int, kind: str, shares: list[float], alike: float):
    assert 93 <= covered(n, kind, shares, alike, 2000) <= 97


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "kind", "p", "alike"), [(60, "plain", 0.8, 0.0), (250, "uneven", 0.9, 0.3), (500, "uneven", 0.7, 0.6)]
)
def test_two_thousand_intervals_of_shares_hold_the_truth(n: int, kind: str, p: float, alike: float):
    assert 93 <= covered_share(n, kind, p, alike, 2000) <= 97


@pytest.mark.slow
@pytest.mark.parametrize(("n", "kind", "shares", "alike"), CASES)
def test_two_thousand_intervals_of_means_of_ratios_hold_the_truth(n: int, kind: str, shares: list[float], alike: float):
    assert 93 <= covered_mean(n, kind, shares, alike, 2000) <= 97
