"""A grid holds every combination once, and what gives the same prompts is one condition."""

from itertools import permutations, product
from math import factorial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.conditions import DEMONSTRATION_LABELS, MAX_ORDERS, SELECTIONS, Condition, count_orders, expand_grid
from rope_gpt2.fewshot.demonstrations import DemonstrationSampler, Pool
from rope_gpt2.fewshot.examples import LABELS, Example
from rope_gpt2.fewshot.template import DEFAULT_TEMPLATE

TEMPLATES = (DEFAULT_TEMPLATE, "{text}\n{label}\n")
WORDS = (LABELS, ("bad", "good"))
POOL = Pool([Example(row, f"number {row} of {row % 7} and {row % 5} reviews", LABELS[row % 2]) for row in range(1, 31)])


def some(values):
    return st.lists(st.sampled_from(values), min_size=1, max_size=len(values), unique=True)


grids = st.fixed_dictionaries(
    {
        "shots": st.lists(st.integers(0, 4), min_size=1, max_size=3),
        "seeds": st.integers(1, 3),
        "orders": st.one_of(st.integers(1, 30), st.just("all")),
        "demonstration_labels": some(DEMONSTRATION_LABELS),
        "selections": some(SELECTIONS),
        "templates": some(TEMPLATES),
        "label_words": some(WORDS),
    }
)


def combinations(shots, seeds, orders, demonstration_labels, selections, templates, label_words):
    for template, words, selection, labels, count, seed in product(
        templates, label_words, selections, demonstration_labels, shots, range(seeds)
    ):
        for order in range(count_orders(orders, count)):
            yield Condition(count, seed, order, labels, selection, template, words)


@settings(max_examples=60, deadline=None)
@given(grids)
def test_no_two_conditions_are_equal_and_all_are_asked_for(options):
    ours = expand_grid(**options)
    assert len(set(ours)) == len(ours)
    assert set(ours) <= {*combinations(**options), *(Condition(0, template=t, label_words=w) for t, w in product(TEMPLATES, WORDS))}


@settings(max_examples=20, deadline=None)
@given(grids)
def test_every_combination_has_a_condition_with_its_demonstrations(options):
    """Nothing that was asked for is lost among what counts as the same, but for orders of the nearest that only another seed names."""

    def prompt(condition):
        """What a query's prompt is made of, for a query alike to some of the pool."""
        query = Example(1000, "number 3 of 3 and 3 reviews here", "negative")
        return condition.template, condition.label_words, DemonstrationSampler(POOL, condition).sample(query, False)

    ours = {prompt(condition) for condition in expand_grid(**options)}
    asked = [item for item in combinations(**options) if item.selection != "similar" or not (item.order and item.demonstration_seed)]
    assert {prompt(condition) for condition in asked} <= ours <= {prompt(condition) for condition in combinations(**options)}


def test_prompts_without_demonstrations_stand_once_for_each_layout():
    ours = expand_grid([0, 0], 5, "all", DEMONSTRATION_LABELS, SELECTIONS, TEMPLATES, WORDS)
    assert ours == [Condition(0, template=template, label_words=words) for template, words in product(TEMPLATES, WORDS)]


@pytest.mark.parametrize(("labels", "seeds"), [("gold", 1), ("flipped", 1), ("none", 1), ("random", 5)])
def test_the_nearest_demonstrations_stand_once_unless_their_labels_are_drawn(labels, seeds):
    ours = expand_grid([2], 5, 1, [labels], ["similar"])
    assert ours == [Condition(2, seed, 0, labels, "similar") for seed in range(seeds)]


def test_the_orders_of_the_nearest_are_kept():
    assert [condition.order for condition in expand_grid([3], 5, "all", selections=["similar"])] == list(range(6))


@pytest.mark.parametrize("shots", range(9))
def test_there_are_as_many_orders_as_permutations_or_24(shots):
    assert count_orders("all", shots) == min(len(list(permutations(range(shots)))), MAX_ORDERS)
    for asked in (1, 2, 5, 100):
        assert count_orders(asked, shots) == count_orders(str(asked), shots) == min(asked, factorial(shots))


def test_the_number_of_orders_follows_that_of_the_shots():
    ours = expand_grid([0, 1, 2, 16], 2, 5)
    assert {shots: sum(condition.shots == shots for condition in ours) for shots in (0, 1, 2, 16)} == {0: 1, 1: 2, 2: 4, 16: 10}


def test_a_grid_of_shots_seeds_and_controls_has_its_size():
    assert len(expand_grid([0, 1, 2, 4, 8, 16, 32], 10, 1, ["gold", "random", "flipped"])) == 1 + 6 * 10 * 3


def test_label_words_may_be_lists():
    assert expand_grid([0], label_words=[["bad", "good"]]) == [Condition(0, label_words=("bad", "good"))]


def test_the_default_is_one_balanced_draw_under_its_own_labels():
    assert expand_grid([4]) == [Condition(4)]
    assert (Condition(4).demonstration_labels, Condition(4).selection) == ("gold", "balanced")


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: Condition(-1), "shots must be 0 or more, got -1; give how many"),
        (lambda: Condition(4, selection="nearest"), "selection must be one of balanced, random, similar, got 'nearest'; choose one"),
        (lambda: Condition(4, demonstration_labels="wrong"), "labels must be one of gold, random, flipped, none, got 'wrong'; choose one"),
        (lambda: expand_grid([4], seeds=0), "seeds must be at least 1, got 0; give a larger number"),
        (lambda: expand_grid([4], orders=0), "orders must be at least 1, or 'all', got 0; give another number"),
        (lambda: expand_grid([4, -2]), "shots must be 0 or more, got -2"),
    ],
)
def test_what_means_nothing_is_refused(refused, message):
    with pytest.raises(InputError, match=message):
        refused()
