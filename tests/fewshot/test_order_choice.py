"""The chosen orders are those of the largest entropy, as scipy computes it."""

import numpy as np
import pytest
from scipy import stats

from rope_gpt2.fewshot.conditions import Condition, expand_grid
from rope_gpt2.fewshot.groups import group_conditions
from rope_gpt2.fewshot.order_choice import METHODS, choose_orders, order_entropies

GENERATOR = np.random.default_rng(0)


def test_the_entropies_are_scipys():
    odds = GENERATOR.standard_normal(50)
    positive = 1 / (1 + np.exp(-odds))
    assert order_entropies(odds, "LocalE") == pytest.approx(stats.entropy([positive, 1 - positive]).mean())
    counts = np.bincount((odds > 0).astype(int), minlength=2)
    assert order_entropies(odds, "GlobalE") == pytest.approx(stats.entropy(counts))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("odds", [[1.0, 2.0], [1e5, 1e5]])
def test_an_order_that_always_says_the_same_has_no_global_entropy(method, odds):
    entropy = order_entropies(np.array(odds), method)
    assert np.isfinite(entropy)
    assert (entropy == 0) == (method == "GlobalE" or odds[0] == 1e5)


@pytest.mark.parametrize("method", METHODS)
def test_the_chosen_orders_have_the_largest_entropy(method):
    conditions = expand_grid([4], seeds=3, orders="all")
    (group,) = group_conditions(conditions)
    odds = GENERATOR.standard_normal((72, 41)) * GENERATOR.uniform(0.5, 3, (72, 1)) + GENERATOR.standard_normal((72, 1))
    accuracies = GENERATOR.random(72)
    choice = next(choice for choice in choose_orders(group, odds, accuracies, "none") if choice.method == method)
    assert (choice.seeds, choice.orders, choice.top) == (3, 24, 4)
    entropies = np.array([order_entropies(line, method) for line in odds]).reshape(3, 24)
    best = np.argsort(-entropies, axis=1, kind="stable")[:, :4]
    kept = np.take_along_axis(accuracies.reshape(3, 24), best, axis=1)
    assert choice.accuracy_mean == pytest.approx(kept.mean())
    assert choice.accuracy_std == pytest.approx(kept.std(ddof=1))
    assert choice.accuracy_all == pytest.approx(accuracies.mean())


def test_entropy_finds_the_orders_that_do_not_decide_alone():
    """Right orders read the review; the others always say positive."""
    sentiments = np.arange(40) % 2
    odds = np.stack([2.0 * sentiments - 1 if order % 6 == 5 else np.full(40, 3.0) for order in range(24)])
    (group,) = group_conditions([Condition(4, 0, order) for order in range(24)])
    for choice in choose_orders(group, odds, ((odds > 0) == sentiments).mean(axis=1), "none"):
        assert choice.accuracy_mean == 1
        assert choice.accuracy_all == pytest.approx((4 + 20 / 2) / 24)


def test_one_order_is_no_choice():
    (group,) = group_conditions(expand_grid([4], seeds=3))
    assert choose_orders(group, np.zeros((3, 5)), np.zeros(3), "none") == []
