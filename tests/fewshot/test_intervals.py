"""Intervals are those of the formulas, hold the truth about 95 times in 100, and tests agree with scipy's and with simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.intervals import (
    FEW,
    crossed_interval,
    direction,
    paired_comparison,
    smallest_detectable_difference,
    variance_components,
    wilson_interval,
)

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


def wilson(right: int, n: int) -> tuple[float, float]:
    """Wilson 1927, in closed form."""
    centre = (right + Z**2 / 2) / (n + Z**2)
    half = Z / (n + Z**2) * math.sqrt(right * (n - right) / n + Z**2 / 4)
    return centre - half, centre + half


def chance(generator, draws, n, of_queries, of_draws, mean=1.0):
    """[draws, n] probabilities to be right: in logits a mean, plus an effect of the query, plus one of the draw."""
    queries, seeds = generator.standard_normal(n), generator.standard_normal((draws, 1))
    return 1 / (1 + np.exp(-(mean + of_queries * queries + of_draws * seeds)))


tables = st.tuples(st.integers(1, 5), st.integers(2, 12), st.integers(0, 2**32 - 1)).map(
    lambda shape: np.random.default_rng(shape[2]).random(shape[:2]) < 0.6
)


@pytest.mark.parametrize(("right", "n"), [(0, 7), (7, 7), (1, 2), (50, 60), (800, 872)])
def test_the_interval_of_a_fraction_is_wilsons(right, n):
    assert wilson_interval(right, n) == pytest.approx(wilson(right, n), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(tables)
def test_the_crossed_interval_holds_the_mean(right):
    low, high = crossed_interval(right)
    assert 0 <= low <= right.mean() + 1e-12
    assert right.mean() - 1e-12 <= high <= 1


@settings(max_examples=20, deadline=None)
@given(tables, st.randoms(use_true_random=False))
def test_the_crossed_interval_does_not_depend_on_the_order_of_draws_and_queries(right, random):
    draws, queries = (random.sample(range(size), size) for size in right.shape)
    assert crossed_interval(right[draws][:, queries]) == pytest.approx(crossed_interval(right))


def test_one_draw_gives_wilsons_interval_over_queries():
    assert crossed_interval(np.array([[True] * 30 + [False] * 10])) == pytest.approx(wilson(30, 40))


def test_draws_that_differ_widen_the_interval():
    same, different = [[True, False] * 20] * 4, [[True] * 40, [False] * 40] * 2
    widths = [high - low for low, high in (crossed_interval(np.array(right)) for right in (same, different))]
    assert widths[1] > 2 * widths[0]


@pytest.mark.parametrize(("of_queries", "of_draws"), [(1.0, 0.5), (0.2, 1.0), (2.0, 0.1), (0.0, 0.0)])
def test_the_crossed_interval_holds_the_truth(of_queries, of_draws):
    """Queries and draws drawn anew 300 times."""
    generator = np.random.default_rng(0)
    truth = chance(generator, 200, 20_000, 0, math.hypot(of_queries, of_draws)).mean()  # the two effects' sum is one normal effect
    held = 0
    for _ in range(300):
        probabilities = chance(generator, 5, 60, of_queries, of_draws)
        low, high = crossed_interval(generator.random((5, 60)) < probabilities)
        held += low <= truth <= high
    assert held / 300 >= 0.92


def test_single_conditions_are_compared_by_mcnemars_exact_test():
    """Against the sum of the binomial probabilities, by hand: 2 of 10 discordant queries."""
    a, b = np.array([1] * 5 + [0] * 12 + [1] * 2 + [0] * 8, bool), np.array([1] * 5 + [0] * 12 + [0] * 2 + [1] * 8, bool)
    ours = paired_comparison(a, b, "a - b")
    assert ours.p_value == pytest.approx(2 * sum(math.comb(10, k) for k in range(3)) / 2**10)
    assert (ours.difference, ours.n, ours.draws) == (pytest.approx(-6 / 27), 27, 1)


def test_the_interval_of_single_conditions_is_scipys_bootstrap_over_queries():
    generator = np.random.default_rng(1)
    a, b = generator.random((2, 400)) < np.array([[0.7], [0.6]])
    ours = paired_comparison(a, b, "a - b").ci95
    theirs = stats.bootstrap((a.astype(float) - b,), np.mean, method="percentile", n_resamples=9_999, rng=2).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.006)


@settings(max_examples=30, deadline=None)
@given(tables, st.integers(0, 2**32 - 1))
def test_swapping_what_is_compared_swaps_the_sign(right, seed):
    other = np.random.default_rng(seed).random(right.shape) < 0.5
    ours, theirs = paired_comparison(right, other, "a - b"), paired_comparison(other, right, "b - a")
    assert ours.difference == pytest.approx(-theirs.difference)
    assert ours.p_value == pytest.approx(theirs.p_value)
    assert ours.ci95 == pytest.approx((-theirs.ci95[1], -theirs.ci95[0]), abs=1.01 / right.shape[1])  # resamples differ
    assert ours.ci95[0] <= ours.difference <= ours.ci95[1]


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(st.integers(2, 5), st.integers(20, 60), st.integers(0, 2**32 - 1)).map(
        lambda shape: np.random.default_rng(shape[2]).random(shape[:2]) < 0.4
    ),
    st.integers(0, 2**32 - 1),
)
def test_with_several_draws_the_test_and_the_interval_agree(right, seed):
    other = np.random.default_rng(seed).random(right.shape) < 0.2
    comparison = paired_comparison(right, other, "a - b")
    low, high = comparison.ci95
    differing = np.count_nonzero(right.sum(axis=0) - other.sum(axis=0))
    if abs(comparison.p_value - 0.05) > 1e-6 and differing >= FEW and comparison.p_value > 2 * 0.5**differing:
        assert (low <= 0 <= high) == (comparison.p_value > 0.05)


def test_without_an_effect_of_queries_the_comparison_of_draws_is_the_paired_t_test():
    """Where all queries of a draw are alike, draws are all that varies."""
    values = np.random.default_rng(3).random((2, 6, 1)).repeat(50, axis=2)
    ours, theirs = paired_comparison(*values, "a - b"), stats.ttest_rel(*values.mean(axis=2))
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-4)
    assert ours.ci95 == pytest.approx(tuple(theirs.confidence_interval()), rel=1e-4)


@pytest.mark.parametrize("draws", [1, 5])
def test_conditions_alike_are_seldom_told_apart(draws):
    generator = np.random.default_rng(4)
    told = 0
    for _ in range(300):
        a, b = (generator.random((draws, 80)) < chance(generator, draws, 80, 1.0, 0.5 * (draws > 1), mean=0.0) for _ in range(2))
        told += paired_comparison(a, b, "a - b").p_value < 0.05
    assert told / 300 <= 0.08


def test_a_single_draw_stands_against_each_of_the_others():
    generator = np.random.default_rng(5)
    many, one = generator.random((4, 50)) < 0.7, generator.random((1, 50)) < 0.6
    assert paired_comparison(many, one, "a - b") == paired_comparison(many, one.repeat(4, axis=0), "a - b")


@pytest.mark.parametrize("shape", [(40,), (3, 40)])
def test_where_nothing_differs_the_interval_tells_how_little_n_rows_can_exclude(shape):
    right = np.ones(shape, bool)
    comparison = paired_comparison(right, right, "a - b")
    assert (comparison.difference, comparison.p_value) == (0, 1)
    assert comparison.ci95 == pytest.approx((-wilson(0, 40)[1], wilson(0, 40)[1]))
    assert comparison.smallest_detectable > 0


@pytest.mark.parametrize("n", [1, 2, 5, 6, 40])
@pytest.mark.parametrize("gain", [1, 1 / 3, 0.1], ids=["all", "a third", "a tenth"])
def test_several_draws_that_all_agree_say_no_more_than_the_exact_test_of_so_many_queries(n, gain):
    comparison = paired_comparison(np.full((3, n), gain), np.zeros((3, n)), "a - b")
    low, high = comparison.ci95
    assert comparison.p_value == pytest.approx(stats.binomtest(n, n).pvalue)
    assert low < comparison.difference <= high
    assert high - low > 1 / (n + 4)
    assert direction(comparison.ci95, comparison.p_value) == ("better" if n > 5 and low > 0 else "not shown")


def test_two_queries_that_nearly_agree_show_nothing():
    comparison = paired_comparison(np.array([[1, 0.99]] * 3), np.zeros((3, 2)), "a - b")
    assert comparison.p_value == 0.5


@pytest.mark.parametrize("share", [1 / 3, 0.1, 0.7])
def test_draws_alike_leave_an_interval_of_some_width(share):
    low, high = crossed_interval(np.full((3, 7), share, np.float32))
    assert (low, high) == pytest.approx(wilson(round(7 * share), 7))


def test_an_interval_and_an_exact_test_that_part_show_nothing():
    """4 of 872 queries that differ, all of them for one side: the bootstrap's interval leaves out 0, McNemar's p is 0.125."""
    a, b = np.arange(872) < 504, np.arange(872) < 500
    comparison = paired_comparison(a, b, "a - b")
    assert comparison.ci95[0] > 0
    assert comparison.p_value == 0.125
    assert direction(comparison.ci95, comparison.p_value) == "not shown"


@pytest.mark.parametrize(("a", "b"), [((5,), (6,)), ((2, 5), (3, 5)), ((0,), (0,))])
def test_what_cannot_be_paired_is_refused(a, b):
    with pytest.raises(InputError, match="same queries"):
        paired_comparison(np.ones(a, bool), np.ones(b, bool), "a - b")


@pytest.mark.parametrize(("n", "discordant"), [(200, 0.3), (872, 0.1), (872, 0.4)])
def test_the_smallest_detectable_difference_is_shown_in_eighty_of_a_hundred_runs(n, discordant):
    difference = smallest_detectable_difference(n, discordant)
    wins, losses = (discordant + difference) / 2, (discordant - difference) / 2
    counts = np.random.default_rng(0).multinomial(n, [wins, losses, 1 - wins - losses], size=1000)
    shown = np.mean([stats.binomtest(int(won), int(won + lost)).pvalue < 0.05 for won, lost, _ in counts])
    assert 0.7 <= shown <= 0.85  # the exact test is a little conservative


def test_more_queries_show_smaller_differences():
    differences = [smallest_detectable_difference(n, 0.2) for n in (10, 100, 1_000, 10_000)]
    assert differences == sorted(differences, reverse=True)
    assert differences[3] == pytest.approx(differences[1] / 10, rel=0.05)


@pytest.mark.parametrize(("n", "discordant"), [(1, 0.0), (1, 1.0), (3, 0.5), (872, 0.0), (10**6, 1.0)])
def test_the_smallest_detectable_difference_is_a_difference(n, discordant):
    assert 0 < smallest_detectable_difference(n, discordant) <= 1


def test_variance_components_are_found_again():
    generator = np.random.default_rng(0)
    sizes = {"seeds": 0.3, "orders": 0.2, "templates": 0.4, "residual": 0.1}
    found = [
        variance_components(
            sizes["seeds"] * generator.standard_normal((8, 1, 1))
            + sizes["orders"] * generator.standard_normal((8, 5, 1))
            + sizes["templates"] * generator.standard_normal((1, 1, 6))
            + sizes["residual"] * generator.standard_normal((8, 5, 6))
        )
        for _ in range(400)
    ]
    for name, size in sizes.items():
        assert np.mean([getattr(components, name) for components in found]) == pytest.approx(size**2, rel=0.1)


def test_one_level_has_no_variance_to_tell():
    table = np.random.default_rng(1).random((5, 1, 1))
    ours = variance_components(table)
    assert ours.seeds == pytest.approx(table.var(ddof=1)) == pytest.approx(ours.total)
    assert ours.orders is ours.templates is ours.residual is None


def test_orders_alone_have_the_variance_within_seeds():
    table = np.random.default_rng(2).random((4, 6, 1))
    ours = variance_components(table)
    assert ours.orders == pytest.approx(table.var(axis=1, ddof=1).mean())
    assert (ours.templates, ours.residual) == (None, None)


# Where almost all queries are alike.


@pytest.mark.parametrize("draws", [2, 10])
@pytest.mark.parametrize("wrong", [1, 2, 5])
def test_an_interval_of_few_errors_is_not_narrower_than_that_of_one_draw(draws, wrong):
    """Their variance is hardly known: one error more made the interval narrower."""
    right = np.ones((draws, 100))
    right[:, :wrong] = 0
    least, most = wilson_interval(100 - wrong, 100)
    low, high = crossed_interval(right)
    assert low <= least < most <= high


@pytest.mark.parametrize("differing", [1, 3, 5])
def test_a_few_queries_that_differ_show_nothing_however_often_they_are_repeated(differing):
    ours = np.ones((1, 872), dtype=bool)
    theirs = ours.copy()
    theirs[0, :differing] = False
    alone, repeated = (paired_comparison(np.repeat(ours, draws, 0), np.repeat(theirs, draws, 0), "x") for draws in (1, 5))
    assert direction(alone.ci95, alone.p_value) == direction(repeated.ci95, repeated.p_value) == "not shown"
    assert repeated.p_value >= 2 * 0.5**differing
    assert repeated.smallest_detectable >= smallest_detectable_difference(872, 0.0)


@pytest.mark.parametrize("n", [40, 100, 872])
@pytest.mark.parametrize("discordant", [0.0, 0.005])
def test_the_smallest_difference_is_shown_with_its_power_where_hardly_any_query_differs(n, discordant):
    """All of it on one side, drawn anew many times and put to the exact test itself."""
    share = smallest_detectable_difference(n, discordant)
    drawn = np.random.default_rng(0).binomial(n, share, 4000)
    shown = np.mean([stats.binomtest(int(wins), int(wins)).pvalue < 0.05 if wins else False for wins in drawn])
    assert shown == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("n", [1, 5])
def test_so_few_queries_cannot_show_any_difference(n):
    assert smallest_detectable_difference(n, 1.0) == 1.0
    assert smallest_detectable_difference(6, 1.0) < 1.0
