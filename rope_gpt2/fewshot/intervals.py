"""Right and wrong → intervals, paired tests, and what so many queries could have shown.

Let D be draws (seeds, or the orders of a single seed), n queries.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from rope_gpt2.errors import InputError

ALPHA, POWER = 0.05, 0.8
RESAMPLES = 9_999
SMALLEST_P = 1e-15  # below it quantiles lose their digits
ROUNDING = 1e-6  # of float32, relative to the numbers
FEW = 10  # queries that are not like all the others: too few to estimate a variance from


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two results on the same queries.

    Attributes:
        name: "gold - random": whose accuracy less whose.
        difference: of the accuracies, in [-1, 1].
        ci95: its 95 % interval.
        p_value: two-sided, for no difference.
        n: number of queries.
        draws: number of paired draws (seeds, or orders of a single seed), 1 for single conditions.
        smallest_detectable: difference that a comparison like this one would have shown in 80 % of cases (two-sided, alpha 0.05); 1 where
            the queries are too few to show any.
    """

    name: str
    difference: float
    ci95: tuple[float, float]
    p_value: float
    n: int
    draws: int
    smallest_detectable: float


@lru_cache(maxsize=65_536)
def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a fraction of n (Wilson 1927), in [0, 1]."""
    interval = stats.binomtest(right, n).proportion_ci(1 - ALPHA, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True, slots=True)
class _Spread:
    """Mean of a [D, n] table and the variance of this mean by each factor."""

    mean: float
    of_queries: float
    of_draws: float
    draws: int

    @classmethod
    def of(cls, values: NDArray) -> "_Spread":
        draws, n = values.shape
        by_query, by_draw = values.mean(axis=0, dtype=np.float64), values.mean(axis=1, dtype=np.float64)
        of_queries = float(by_query.var(ddof=1)) / n if n > 1 else 0.0
        return cls(float(by_draw.mean()), of_queries, float(by_draw.var(ddof=1)) / draws if draws > 1 else 0.0, draws)

    def varies(self) -> bool:
        """Whether queries or draws differ by more than rounding: the mean of n equal numbers is not always that number."""
        return self.half_width(ALPHA) > ROUNDING * abs(self.mean)

    def half_width(self, alpha: float) -> float:
        """Of the interval that leaves out a share alpha."""
        draws = stats.t.ppf(1 - alpha / 2, self.draws - 1) * math.sqrt(self.of_draws) if self.of_draws else 0.0
        return math.hypot(stats.norm.ppf(1 - alpha / 2) * math.sqrt(self.of_queries), draws)

    def p_value(self) -> float:
        """The share alpha at which the interval just reaches 0, so that test and interval agree."""
        distance = abs(self.mean)
        if self.half_width(SMALLEST_P) <= distance:
            return SMALLEST_P
        if self.half_width(1.0) >= distance:  # not 0 to the bit where SciPy's quantile of one half is not
            return 1.0
        return float(optimize.brentq(lambda alpha: self.half_width(alpha) - distance, SMALLEST_P, 1.0, xtol=1e-16))


def crossed_interval(right: NDArray) -> tuple[float, float]:
    """95 % interval of an accuracy over queries and draws both.

    The interval treats queries and draws as two crossed random factors: the variance of the mean is that of the queries' means
    over n plus that of the draws' means over D (an upper bound in expectation; Owen 2007, "The pigeonhole bootstrap"), with a t
    quantile of D - 1 degrees of freedom for the part of the draws. A single draw gives the Wilson interval over queries alone, and no
    interval is narrower than Wilson's where fewer than `FEW` queries are ever told wrongly, or rightly: their variance is hardly known.

    Args:
        right: [D, n] in [0, 1]: right or wrong, or the mean over a seed's orders.

    Returns:
        Lower and upper limit, in [0, 1].
    """
    draws, n = right.shape
    spread = _Spread.of(right)
    half = spread.half_width(ALPHA)
    low, high = max(0.0, spread.mean - half), min(1.0, spread.mean + half)
    by_query = right.mean(axis=0, dtype=np.float64)
    if draws == 1 or not spread.varies():  # all right or all wrong, say: no variance to go by
        return wilson_interval(round(spread.mean * n), n)
    if min(np.count_nonzero(by_query < 1 - ROUNDING), np.count_nonzero(by_query > ROUNDING)) < FEW:
        least, most = wilson_interval(round(spread.mean * n), n)
        return min(low, least), max(high, most)
    return low, high


def paired_comparison(right_a: NDArray, right_b: NDArray, name: str) -> Comparison:
    """Accuracy of a less that of b on the same queries.

    Single conditions: McNemar's exact test (1947: the binomial test on the queries that only one of them has right), and the percentile
    bootstrap over queries. Several draws: the interval of `crossed_interval` on the differences, paired by draw and query, and the
    test that belongs to it; but no p-value is below 2 / 2^m, that of the exact sign test on the m queries that differ, and where m is
    less than `FEW` no interval is narrower than one of n queries that do not differ: a few have no spread to go by. A test over queries
    alone (a bootstrap, or sign flips, of the means over draws) would speak of these very draws, and call a lucky set of demonstrations
    a property of the model.

    Args:
        right_a, right_b: [n], [1, n] or [D, n], bool or in [0, 1]; a single draw stands against each of the other's.
        name: says what is compared.

    Raises:
        InputError: for other shapes.
    """
    a, b = np.atleast_2d(right_a), np.atleast_2d(right_b)
    if a.shape[1] != b.shape[1] or not a.shape[1] or (1 < len(a) != len(b) > 1):
        raise InputError(f"{name}: a paired comparison needs the same queries and draws, got {a.shape} and {b.shape}; score both alike")
    if len(a) == len(b) == 1 and _is_binary(a) and _is_binary(b):
        return _compare_single(a[0] > b[0], b[0] > a[0], name)
    difference = np.subtract(a, b, dtype=np.float32)
    draws, n = difference.shape
    spread = _Spread.of(difference)
    if n == 1 or not spread.varies():  # nothing varies: by how much it could is all that n tells
        half, p_value = wilson_interval(0, n)[1], 1.0 if abs(spread.mean) < ROUNDING else SMALLEST_P
    else:
        half, p_value = spread.half_width(ALPHA), spread.p_value()
    differing = int(np.count_nonzero(np.abs(difference.mean(axis=0, dtype=np.float64)) > ROUNDING))
    p_value = min(1.0, max(p_value, 2 * 0.5**differing))
    if differing < FEW:
        half = max(half, wilson_interval(0, n)[1])
    interval = max(-1.0, spread.mean - half), min(1.0, spread.mean + half)
    # the half width is a quantile of 1 - alpha / 2; power adds its own quantile to it
    detectable = float(half * (1 + stats.norm.ppf(POWER) / stats.norm.ppf(1 - ALPHA / 2)))
    if differing < FEW:
        detectable = max(detectable, smallest_detectable_difference(n, 0.0))
    return Comparison(name, spread.mean, interval, p_value, n, draws, min(1.0, detectable))


def direction(ci95: tuple[float, float], p_value: float) -> str:
    """What a comparison shows: "better" or "worse" where its p-value is below 0.05 and its interval leaves out 0, else "not shown".

    An exact test and a bootstrap interval are two methods, which part where few queries differ: what one of them alone shows is not shown.

    >>> direction((0.1, 0.9), 0.01), direction((-0.9, -0.1), 0.01), direction((0.1, 0.9), 0.125)
    ('better', 'worse', 'not shown')
    """
    low, high = ci95
    if p_value >= ALPHA or low <= 0 <= high:
        return "not shown"
    return "better" if low > 0 else "worse"


def could_be_shown(smallest_detectable: float) -> str:
    """The smallest difference that could have been shown, in words.

    >>> could_be_shown(0.042), could_be_shown(1.0)
    ('4.2 points could have been shown', 'so few queries cannot show any')
    """
    return f"{100 * smallest_detectable:.1f} points could have been shown" if smallest_detectable < 1 else "so few queries cannot show any"


def draws_in_words(seeds: int, draws: int) -> str:
    """How many draws of demonstrations stand behind a comparison: seeds, or one of them in several orders.

    >>> draws_in_words(5, 5), draws_in_words(1, 24), draws_in_words(1, 1)
    ('5 draws of demonstrations', 'one draw of demonstrations in 24 orders', 'one draw of demonstrations')
    """
    if seeds > 1:
        return f"{draws} draws of demonstrations"
    return "one draw of demonstrations" + (f" in {draws} orders" if draws > 1 else "")


def _compare_single(only_a: NDArray[np.bool_], only_b: NDArray[np.bool_], name: str) -> Comparison:
    n, wins, losses = len(only_a), int(only_a.sum()), int(only_b.sum())
    p_value = float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    if max(wins, losses) == n or wins + losses == 0:  # nothing varies: the bootstrap's interval would have no width
        half, middle = wilson_interval(0, n)[1], (wins - losses) / n
        interval = max(-1.0, middle - half), min(1.0, middle + half)
    else:
        # To draw n queries anew is to draw how often each of the three outcomes comes: no resample of n rows needs to be held.
        shares = np.array([wins, losses, n - wins - losses]) / n
        counts = np.random.default_rng(0).multinomial(n, shares, size=RESAMPLES)
        low, high = np.quantile((counts[:, 0] - counts[:, 1]) / n, (ALPHA / 2, 1 - ALPHA / 2))
        interval = float(low), float(high)
    detectable = smallest_detectable_difference(n, (wins + losses) / n)
    return Comparison(name, (wins - losses) / n, interval, p_value, n, 1, detectable)


def _is_binary(right: NDArray) -> bool:
    return right.dtype == np.bool_ or bool(((right == 0) | (right == 1)).all())


def smallest_detectable_difference(n: int, discordant: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """Smallest difference of two accuracies on the same n queries that McNemar's test shows with this power.

    Solves sqrt(n) δ = z_(1-alpha/2) sqrt(ψ) + z_power sqrt(ψ - δ²) for δ (Connor 1987), ψ being `discordant`. Where ψ is
    so small that not even all of it on one side would be shown with this power, the answer is the smallest ψ that would be: δ = ψ
    above. It is 1 where not even n queries that all speak for one side have a p-value below alpha.

    Args:
        n: number of queries.
        discordant: fraction of queries that exactly one of the two has right.
        alpha: two-sided level.
        power: probability to show it.

    >>> round(smallest_detectable_difference(872, 0.2), 3), round(smallest_detectable_difference(100, 0.2), 3)
    (0.042, 0.124)
    """
    if n < 1 or not 0 <= discordant <= 1:
        raise InputError(f"a difference needs n of at least 1 and a discordant share in [0, 1], got {n} and {discordant}; check both")
    level, reach = float(stats.norm.ppf(1 - alpha / 2)), float(stats.norm.ppf(power))
    if 2 * 0.5**n >= alpha:
        return 1.0
    share = max(discordant, min(1.0, (level + reach) ** 2 / (n + reach**2)))
    root = max(0.0, n + reach**2 - level**2)
    return min(1.0, math.sqrt(share) * (level * math.sqrt(n) + reach * math.sqrt(root)) / (n + reach**2))


@dataclass(frozen=True, slots=True)
class Components:
    """Variance of the accuracies of one setting's cells, in accuracy squared; None where one level alone was run.

    Attributes:
        total: over all cells (n - 1 in the denominator).
        seeds: between seeds; holds that of orders, too, where each seed has one order.
        orders: between orders of a seed; holds the residual, too, where there is one layout.
        templates: between layouts (template and label words).
        residual: what the three do not explain: layouts that suit one draw and not another.
    """

    total: float
    seeds: float | None
    orders: float | None
    templates: float | None
    residual: float | None


def variance_components(accuracies: NDArray) -> Components:
    """Variance by where it comes from: orders nested in seeds, layouts crossed with both, all of them random effects.

    Mean squares of the balanced analysis of variance set equal to their expectations (Searle, Casella & McCulloch 1992),
    estimates below 0 set to 0. All cells share their queries, so the sampling of queries is no part of any of these.

    Args:
        accuracies: [S, O, T] seeds × orders × layouts, in [0, 1].
    """
    seeds, orders, layouts = accuracies.shape
    mean, by_seed, by_layout = accuracies.mean(), accuracies.mean(axis=(1, 2)), accuracies.mean(axis=(0, 1))
    by_order = accuracies.mean(axis=2)  # (S, O)

    def mean_square(deviations: NDArray, copies: int, freedom: int) -> float:
        return copies * float((deviations**2).sum()) / freedom if freedom else 0.0

    residual = mean_square(accuracies - by_order[:, :, None] - by_layout + mean, 1, (seeds * orders - 1) * (layouts - 1))
    of_orders = mean_square(by_order - by_seed[:, None], layouts, seeds * (orders - 1))
    of_seeds = mean_square(by_seed - mean, orders * layouts, seeds - 1)
    of_layouts = mean_square(by_layout - mean, seeds * orders, layouts - 1)
    below_seeds = of_orders if orders > 1 else residual

    def estimate(difference: float, copies: int, levels: int) -> float | None:
        return max(0.0, difference / copies) if levels > 1 else None

    return Components(
        total=float(accuracies.var(ddof=1)) if accuracies.size > 1 else 0.0,
        seeds=estimate(of_seeds - below_seeds, orders * layouts, seeds),
        orders=estimate(of_orders - residual, layouts, orders),
        templates=estimate(of_layouts - residual, seeds * orders, layouts),
        residual=residual if layouts > 1 and seeds * orders > 1 else None,
    )
