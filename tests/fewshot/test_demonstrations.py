"""Demonstrations are drawn by their own seed, nested, balanced, shared by all queries, and never hold the query."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.demonstrations import SELECTIONS, Condition, DemonstrationSampler
from rope_gpt2.fewshot.examples import LABELS, Example

STRANGER = Example(10_000, "A review from elsewhere.", "positive")


def make_pool(size: int) -> list[Example]:
    return [Example(row, f"review number {row}", LABELS[row % 2]) for row in range(1, size + 1)]


def draw(pool, shots, seed, selection="balanced", query=STRANGER, from_pool=False):
    return DemonstrationSampler(pool, Condition(shots, seed, selection)).sample(query, from_pool)


conditions = st.builds(Condition, st.integers(0, 16), st.integers(0, 1000), st.sampled_from(SELECTIONS))


@settings(max_examples=30, deadline=None)
@given(conditions)
def test_a_draw_is_a_function_of_its_condition(condition):
    pool = make_pool(40)
    ours, theirs = (DemonstrationSampler(pool, condition).sample(STRANGER, False) for _ in range(2))
    assert ours == theirs
    assert len(ours) == len(set(ours)) == condition.shots
    assert set(ours) <= set(pool)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(SELECTIONS), st.integers(0, 15), st.integers(1, 15))
def test_fewer_shots_are_among_more_shots_of_the_same_seed(seed, selection, fewer, extra):
    pool = make_pool(64)
    assert set(draw(pool, fewer, seed, selection)) <= set(draw(pool, fewer + extra, seed, selection))


@pytest.mark.parametrize("selection", SELECTIONS)
def test_other_seeds_draw_others(selection):
    pool = make_pool(64)
    assert len({frozenset(draw(pool, 4, seed, selection)) for seed in range(20)}) > 15


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 16), st.integers(0, 1000))
def test_balanced_draws_have_equal_label_counts_or_one_odd(shots, seed):
    counts = Counter(example.sentiment for example in draw(make_pool(64), shots, seed))
    assert abs(counts["negative"] - counts["positive"]) == shots % 2


def test_the_odd_demonstration_goes_to_either_label():
    assert {draw(make_pool(8), 1, seed)[0].sentiment for seed in range(20)} == set(LABELS)


def test_balanced_draws_come_from_a_pool_of_any_balance():
    pool = [Example(row, f"review {row}", "positive" if row <= 5 else "negative") for row in range(1, 100)]
    assert Counter(example.sentiment for example in draw(pool, 8, 0)) == {"negative": 4, "positive": 4}


def test_random_draws_follow_the_labels_of_the_pool():
    pool = [Example(row, f"review {row}", "positive" if row % 10 == 0 else "negative") for row in range(1, 201)]
    drawn = [example.sentiment for seed in range(100) for example in draw(pool, 8, seed, "random")]
    assert 0.05 < drawn.count("positive") / len(drawn) < 0.15


def test_the_order_is_shuffled():
    """Neither by label nor by row, and either label may stand last."""
    draws = [draw(make_pool(64), 8, seed) for seed in range(100)]
    changes = [sum(left.sentiment != right.sentiment for left, right in pairwise(demonstrations)) for demonstrations in draws]
    assert changes.count(1) < 20  # two blocks of one label each: 3 in 100 by chance
    assert sum(list(demonstrations) == sorted(demonstrations, key=lambda example: example.row) for demonstrations in draws) < 5
    assert 25 < sum(demonstrations[-1].sentiment == "positive" for demonstrations in draws) < 75


def test_no_shots_need_no_pool():
    assert draw([], 0, 0) == ()


@settings(max_examples=30, deadline=None)
@given(st.builds(Condition, st.integers(1, 9), st.integers(0, 1000), st.sampled_from(SELECTIONS)), st.booleans())
def test_a_query_is_never_among_its_own_demonstrations_and_their_number_is_kept(condition, from_pool):
    pool = make_pool(20)
    sampler = DemonstrationSampler(pool, condition)
    counts = Counter(example.sentiment for example in sampler.sample(STRANGER, False))
    for query in pool:
        ours = sampler.sample(query if from_pool else Example(STRANGER.row, query.review, query.sentiment), from_pool)
        assert query.review not in {example.review for example in ours}
        assert len(ours) == len(set(ours)) == condition.shots
        if condition.selection == "balanced":
            assert Counter(example.sentiment for example in ours) == counts


def test_a_row_of_another_file_excludes_nothing():
    pool = make_pool(20)
    shared = draw(pool, 8, 0)
    assert draw(pool, 8, 0, query=Example(shared[0].row, "Another file's text.", "positive"), from_pool=False) == shared
    assert shared[0] not in draw(pool, 8, 0, query=Example(shared[0].row, "Cleaned text.", "positive"), from_pool=True)


def test_a_query_that_differs_in_white_space_alone_is_the_same_text():
    pool = make_pool(20)
    twin = draw(pool, 8, 0)[0]
    query = Example(STRANGER.row, twin.review.replace(" ", "  ") + "\n", twin.sentiment)
    assert twin not in draw(pool, 8, 0, query=query)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_other_queries_share_one_tuple(selection):
    pool = make_pool(20)
    sampler = DemonstrationSampler(pool, Condition(6, 0, selection))
    shared = sampler.sample(STRANGER, False)
    ours = [sampler.sample(query, True) for query in pool]
    assert sum(demonstrations is shared for demonstrations in ours) == len(pool) - 6


@pytest.mark.parametrize(
    ("selection", "size", "shots"), [("balanced", 8, 8), ("balanced", 4, 3), ("random", 8, 8), ("random", 0, 1), ("balanced", 1, 1)]
)
def test_a_pool_with_no_example_to_spare_is_refused(selection, size, shots):
    with pytest.raises(InputError, match=rf"^{shots} shots \({selection}\) need \d+ examples.*larger pool or fewer shots"):
        DemonstrationSampler(make_pool(size), Condition(shots, 1, selection))


@pytest.mark.parametrize(("selection", "size", "shots"), [("balanced", 10, 8), ("random", 9, 8)])
def test_a_pool_with_one_example_to_spare_is_enough(selection, size, shots):
    pool = make_pool(size)
    assert all(len(draw(pool, shots, 0, selection, query=query, from_pool=True)) == shots for query in pool)


def test_a_text_that_stands_twice_in_a_small_pool_does_not_lessen_the_shots():
    """Either the pool is refused, or the prompt has the shots that its condition says."""
    pool = [*make_pool(4), Example(5, "review number 1", "positive")]
    refused = None
    try:
        ours = draw(pool, 4, 0, "random", query=pool[0], from_pool=True)
    except InputError as error:
        refused = str(error)
    assert "larger pool or fewer shots" in refused if refused else len(ours) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0), "shots must be 0 or more, got -1; give how many"),
        ((4, 0, "similar"), "selection must be one of balanced, random, got 'similar'; choose one"),
    ],
)
def test_a_condition_that_means_nothing_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Condition(*arguments)
