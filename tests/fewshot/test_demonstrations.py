"""Demonstrations are drawn by their own seed, nested, balanced or nearest, shared by all queries, and never hold the query."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise, permutations

import numpy as np
import pytest
from drawing import STRANGER, draw, make_pool, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.conditions import DEMONSTRATION_LABELS, SELECTIONS, Condition, count_orders
from rope_gpt2.fewshot.demonstrations import DemonstrationSampler, Pool, make_samplers, permutation
from rope_gpt2.fewshot.examples import LABELS, Example
from rope_gpt2.fewshot.scores import Demonstration

DRAWN = ("balanced", "random")  # by a seed; the others depend on the query


def conditions(fewest, most):
    labels, selections = st.sampled_from(DEMONSTRATION_LABELS), st.sampled_from(SELECTIONS)
    return st.builds(Condition, st.integers(fewest, most), st.integers(0, 1000), demonstration_labels=labels, selection=selections)


@settings(max_examples=30, deadline=None)
@given(conditions(0, 16))
def test_a_draw_is_a_function_of_its_condition(condition):
    pool = make_pool(40)
    ours, theirs = (DemonstrationSampler(Pool(pool), condition).sample(STRANGER, False) for _ in range(2))
    assert ours == theirs
    assert len(ours) == len(set(rows(ours))) == condition.shots
    assert {(item.row, item.review, item.sentiment) for item in ours} <= {(item.row, item.review, item.sentiment) for item in pool}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(SELECTIONS), st.integers(0, 15), st.integers(1, 15))
def test_fewer_shots_are_among_more_shots_of_the_same_seed(seed, selection, fewer, extra):
    pool = make_pool(64)
    assert set(draw(pool, fewer, seed, selection)) <= set(draw(pool, fewer + extra, seed, selection))


@pytest.mark.parametrize("selection", DRAWN)
def test_other_seeds_draw_others(selection):
    pool = make_pool(64)
    assert len({frozenset(draw(pool, 4, seed, selection)) for seed in range(20)}) > 15


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 16), st.integers(0, 1000))
def test_balanced_draws_have_equal_label_counts_or_one_odd(shots, seed):
    counts = Counter(item.sentiment for item in draw(make_pool(64), shots, seed))
    assert abs(counts["negative"] - counts["positive"]) == shots % 2


def test_the_odd_demonstration_goes_to_either_label():
    assert {draw(make_pool(8), 1, seed)[0].sentiment for seed in range(20)} == set(LABELS)


def test_balanced_draws_come_from_a_pool_of_any_balance():
    pool = [Example(row, f"review {row}", "positive" if row <= 5 else "negative") for row in range(1, 100)]
    assert Counter(item.sentiment for item in draw(pool, 8, 0)) == {"negative": 4, "positive": 4}


def test_random_draws_follow_the_labels_of_the_pool():
    pool = [Example(row, f"review {row}", "positive" if row % 10 == 0 else "negative") for row in range(1, 201)]
    drawn = [item.sentiment for seed in range(100) for item in draw(pool, 8, seed, "random")]
    assert 0.05 < drawn.count("positive") / len(drawn) < 0.15


def test_no_shots_need_no_pool():
    assert draw([], 0, 0) == ()


# Orders.


def test_the_first_order_is_shuffled():
    """Neither by label nor by row, and either label may stand last."""
    draws = [draw(make_pool(64), 8, seed) for seed in range(100)]
    changes = [sum(left.sentiment != right.sentiment for left, right in pairwise(demonstrations)) for demonstrations in draws]
    assert changes.count(1) < 20  # two blocks of one label each: 3 in 100 by chance
    assert sum(rows(demonstrations) == sorted(rows(demonstrations)) for demonstrations in draws) < 5
    assert 25 < sum(demonstrations[-1].sentiment == "positive" for demonstrations in draws) < 75


@settings(max_examples=30, deadline=None)
@given(conditions(0, 6), st.booleans())
def test_orders_are_different_permutations_of_the_same_examples(condition, is_neighbour):
    pool = Pool(make_pool(20))
    query = pool.examples[3] if is_neighbour else STRANGER
    count = count_orders("all", condition.shots)
    ours = [DemonstrationSampler(pool, replace(condition, order=order)).sample(query, is_neighbour) for order in range(count)]
    assert len({tuple(rows(demonstrations)) for demonstrations in ours}) == count
    assert len({frozenset(demonstrations) for demonstrations in ours}) == 1  # labels too stay with their examples


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 4), st.integers(0, 1000))
def test_all_numbers_name_all_permutations(count, seed):
    total = count_orders("all", count)
    ours = [tuple(permutation(count, order, seed)) for order in range(total)]
    assert set(ours) == set(permutations(range(count)))
    assert ours[0] == tuple(range(count))


@settings(max_examples=20, deadline=None)
@given(st.integers(5, 40), st.integers(0, 23), st.integers(0, 1000))
def test_an_order_does_not_depend_on_how_many_are_scored(count, order, seed):
    assert permutation(count, order, seed) == permutation(count, order, seed)
    assert sorted(permutation(count, order, seed)) == list(range(count))


# Labels.


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 8), st.integers(0, 1000), st.sampled_from(SELECTIONS))
def test_controls_show_other_labels_on_the_same_examples_in_the_same_order(shots, seed, selection):
    gold, flipped, none, random = (
        draw(make_pool(40), shots, seed, selection, demonstration_labels=labels) for labels in ("gold", "flipped", "none", "random")
    )
    assert rows(gold) == rows(flipped) == rows(none) == rows(random)
    for item, other, silent, drawn in zip(gold, flipped, none, random, strict=True):
        assert item.sentiment == other.sentiment == silent.sentiment == drawn.sentiment
        assert item.shown == item.sentiment
        assert {item.shown, other.shown} == set(LABELS)
        assert silent.shown is None
        assert drawn.shown in LABELS


def test_random_labels_are_each_drawn_anew():
    shown = [item for seed in range(100) for item in draw(make_pool(64), 8, seed, demonstration_labels="random")]
    assert 0.45 < np.mean([item.shown == item.sentiment for item in shown]) < 0.55
    assert 0.45 < np.mean([item.shown == "positive" for item in shown]) < 0.55
    first = [draw(make_pool(64), 8, seed, demonstration_labels="random") for seed in range(2)]
    labels = [{item.row: item.shown for item in demonstrations} for demonstrations in first]
    assert all(len(set(some.values())) == 2 for some in labels)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(SELECTIONS))
def test_a_random_label_stays_with_its_example_over_orders_and_shots(seed, selection):
    shown: dict[int, str | None] = {}
    for shots in (1, 2, 4, 8):
        for order in range(2 if shots > 1 else 1):
            for item in draw(make_pool(40), shots, seed, selection, demonstration_labels="random", order=order):
                assert shown.setdefault(item.row, item.shown) == item.shown


# A query and its own demonstrations.


@settings(max_examples=30, deadline=None)
@given(conditions(1, 9), st.booleans())
def test_a_query_is_never_among_its_own_demonstrations_and_their_number_is_kept(condition, from_pool):
    pool = make_pool(20)
    sampler = DemonstrationSampler(Pool(pool), condition)
    counts = Counter(item.sentiment for item in sampler.sample(STRANGER, False))
    for query in pool:
        ours = sampler.sample(query if from_pool else Example(STRANGER.row, query.review, query.sentiment), from_pool)
        assert query.review not in {item.review for item in ours}
        assert len(ours) == len(set(rows(ours))) == condition.shots
        if condition.selection == "balanced":
            assert Counter(item.sentiment for item in ours) == counts


def test_a_row_of_another_file_excludes_nothing():
    pool = make_pool(20)
    shared = draw(pool, 8, 0)
    assert draw(pool, 8, 0, query=Example(shared[0].row, "Another file's text.", "positive"), from_pool=False) == shared
    assert shared[0] not in draw(pool, 8, 0, query=Example(shared[0].row, "Cleaned text.", "positive"), from_pool=True)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_query_that_differs_in_white_space_alone_is_the_same_text(selection):
    pool = make_pool(20)
    twin = draw(pool, 8, 0, selection, query=pool[4])[0]
    query = Example(STRANGER.row, twin.review.replace(" ", "  ") + "\n", twin.sentiment)
    assert twin.row not in rows(draw(pool, 8, 0, selection, query=query))


@pytest.mark.parametrize("selection", DRAWN)
def test_other_queries_share_one_tuple(selection):
    pool = make_pool(20)
    sampler = DemonstrationSampler(Pool(pool), Condition(6, 0, selection=selection))
    shared = sampler.sample(STRANGER, False)
    assert sampler.shared is shared
    ours = [sampler.sample(query, True) for query in pool]
    assert sum(demonstrations is shared for demonstrations in ours) == len(pool) - 6


# Pools.


@pytest.mark.parametrize(
    ("selection", "size", "shots"),
    [("balanced", 8, 8), ("balanced", 4, 3), ("random", 8, 8), ("random", 0, 1), ("balanced", 1, 1), ("similar", 8, 8), ("similar", 0, 1)],
)
def test_a_pool_with_no_example_to_spare_is_refused(selection, size, shots):
    with pytest.raises(InputError, match=rf"^{shots} shots \({selection}\) need \d+ examples.*larger pool or fewer shots"):
        DemonstrationSampler(Pool(make_pool(size)), Condition(shots, 1, selection=selection))


@pytest.mark.parametrize(("selection", "size", "shots"), [("balanced", 10, 8), ("random", 9, 8), ("similar", 9, 8)])
def test_a_pool_with_one_example_to_spare_is_enough(selection, size, shots):
    pool = make_pool(size)
    assert all(len(draw(pool, shots, 0, selection, query=query, from_pool=True)) == shots for query in pool)


@pytest.mark.parametrize("selection", ["balanced", "random", "similar"])
def test_a_pool_of_just_the_shots_is_enough_for_queries_that_are_not_in_it(selection):
    pool, condition = make_pool(4), Condition(4, 0, selection=selection)
    (sampler,) = make_samplers(Pool(pool), [condition], [STRANGER], from_pool=False)
    assert {shown.row for shown in sampler.sample(STRANGER, False)} == {example.row for example in pool}
    for queries, from_pool in (([STRANGER, pool[0]], False), (pool, True)):
        with pytest.raises(InputError, match="larger pool or fewer shots"):
            make_samplers(Pool(pool), [condition], queries, from_pool)


@pytest.mark.parametrize("selection", ["random", "similar"])
def test_a_text_that_stands_twice_in_a_small_pool_does_not_lessen_the_shots(selection):
    """Either the pool is refused, or the prompt has the shots that its condition says."""
    pool = [*make_pool(4), Example(5, "review number 1", "positive")]
    refused = None
    try:
        ours = draw(pool, 4, 0, selection, query=pool[0], from_pool=True)
    except InputError as error:
        refused = str(error)
    assert "larger pool or fewer shots" in refused if refused else len(ours) == 4


def test_a_text_that_stands_often_in_a_large_pool_does_not_lessen_the_shots():
    copies = [Example(row, "the same text", "positive") for row in range(100, 140)]
    pool = make_pool(40) + copies
    ours = draw(pool, 4, 0, "similar", query=Example(1, "the same  text", "positive"))
    assert len(ours) == 4
    assert "the same text" not in {item.review for item in ours}


def test_a_demonstration_is_its_example_with_what_is_shown():
    (ours,) = draw([Example(7, "Dull.", "negative"), Example(8, "Dull.", "negative")], 1, 0, "random", demonstration_labels="flipped")
    assert ours in [Demonstration(row, "Dull.", "negative", "positive") for row in (7, 8)]
