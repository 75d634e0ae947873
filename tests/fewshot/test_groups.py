"""A group holds each seed and order of its setting once, and draws are paired by seed."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_gpt2.fewshot.conditions import Condition, expand_grid
from rope_gpt2.fewshot.groups import group_conditions, join_words, paired_draws, setting_of


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.sets(st.sampled_from(["gold", "random", "flipped", "none"]), min_size=1),
    st.sets(st.sampled_from(["balanced", "random", "similar"]), min_size=1),
)
def test_every_condition_is_in_one_group_with_its_own_setting(seeds, orders, labels, selections):
    conditions = expand_grid([0, 1, 4], seeds, orders, sorted(labels), sorted(selections))
    groups = group_conditions(conditions)
    assert sorted(index for group in groups for index in group.indices) == list(range(len(conditions)))
    assert all(setting_of(conditions[index]) == group.setting for group in groups for index in group.indices)
    assert len({group.setting for group in groups}) == len(groups)


def test_seeds_and_orders_are_ascending():
    conditions = [Condition(4, seed, order) for order in (1, 0) for seed in (7, 3)]
    (group,) = group_conditions(conditions)
    assert [[(conditions[i].demonstration_seed, conditions[i].order) for i in orders] for orders in group.members] == [
        [(3, 0), (3, 1)],
        [(7, 0), (7, 1)],
    ]


def test_draws_are_paired_by_seed_and_a_single_condition_stands_against_all():
    conditions = expand_grid([0, 4], seeds=3, orders=2, demonstration_labels=["gold", "flipped"])
    right = np.random.default_rng(0).random((len(conditions), 20)) < 0.5
    zero, gold, flipped = group_conditions(conditions)
    a, b = paired_draws(gold, right, flipped, right)
    for seed in range(3):
        for draws, labels in ((a, "gold"), (b, "flipped")):
            of_seed = [i for i, c in enumerate(conditions) if (c.shots, c.demonstration_seed, c.demonstration_labels) == (4, seed, labels)]
            np.testing.assert_allclose(draws[seed], right[of_seed].mean(axis=0))
    assert [len(draws) for draws in paired_draws(gold, right, zero, right)] == [3, 1]


def test_orders_of_a_single_seed_are_paired_by_order_and_averaged_against_several_seeds():
    right = np.random.default_rng(0).random((9, 20)) < 0.5
    (orders,) = group_conditions([Condition(4, 0, order) for order in range(6)])
    (seeds,) = group_conditions([Condition(4, seed) for seed in range(3)])
    a, b = paired_draws(orders, right[:6], orders, right[:6])
    np.testing.assert_array_equal(a, b)
    assert len(a) == 6
    a, b = paired_draws(orders, right[:6], seeds, right[6:])
    np.testing.assert_allclose(a, right[:6].mean(axis=0, keepdims=True))
    assert len(b) == 3


words = st.lists(st.text("a/\\\\", max_size=4), min_size=2, max_size=2)


@given(words, words)
def test_label_words_are_joined_alike_only_where_they_are_the_same(ours, theirs):
    assert (join_words(ours) == join_words(theirs)) == (ours == theirs)


def test_label_words_with_a_slash_stay_in_groups_of_their_own():
    groups = group_conditions([Condition(4, label_words=words) for words in (("a/b", "c"), ("a", "b/c"))])
    assert [group.indices for group in groups] == [[0], [1]]
    assert len({group.setting for group in groups}) == 2
