"""Nothing that is held out stands in training: no part of it, and no run of eight words."""

import itertools
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.examples import Example
from rope_gpt2.fewshot.splits import SHARED_RUN, drop_overlap, drop_same_texts, hold_out

# Few words and long reviews, so that parts and shared runs abound.
reviews = st.lists(st.sampled_from(["a", "B", "b", "cc"]), min_size=1, max_size=14).map(" ".join)
sets = st.lists(reviews, min_size=1, max_size=12).map(
    lambda texts: [Example(row, text, "positive") for row, text in enumerate(texts, start=1)]
)


def padded(text: str) -> str:
    return f" {' '.join(text.lower().split())} "


def share_text(training: str, evaluated: str) -> bool:
    """By strings: is the first a part of the second, or one of its runs of eight words?"""
    words = training.lower().split()
    runs = (" ".join(words[start : start + SHARED_RUN]) for start in range(len(words) - SHARED_RUN + 1))
    return any(padded(part) in padded(evaluated) for part in (training, *runs))


@settings(max_examples=60, deadline=None)
@given(training=sets, evaluated=sets)
def test_an_example_is_dropped_if_and_only_if_it_shares_text_with_an_evaluated_one(training, evaluated):
    theirs = [example for example in training if not any(share_text(example.review, other.review) for other in evaluated)]
    assert drop_overlap(training, evaluated) == theirs


@settings(max_examples=30, deadline=None)
@given(examples=sets, seed=st.integers(0, 5))
def test_nothing_held_out_stands_in_training(examples, seed):
    if sum(len(example.review.split()) >= 3 for example in examples) < 4:
        return
    training, held_out = hold_out(examples, count=2, seed=seed, min_words=3)
    assert len(held_out) == 2
    assert all(len(example.review.split()) >= 3 for example in held_out)
    assert not any(share_text(example.review, other.review) for example, other in itertools.product(training, held_out))


def test_demo_reviews_are_split_into_parts_in_the_order_of_the_file(examples):
    training, held_out = hold_out(examples, count=40, seed=0)
    assert len(held_out) == 40
    assert not {example.row for example in training} & {example.row for example in held_out}
    for part in (training, held_out):
        assert part == sorted(part, key=lambda example: example.row)
    assert len(training) == len(examples) - 40  # no two demo reviews share a run of eight words


def test_what_is_held_out_is_a_function_of_the_seed(examples):
    assert hold_out(examples, 40, seed=1) == hold_out(examples, 40, seed=1)
    assert hold_out(examples, 40, seed=1)[1] != hold_out(examples, 40, seed=2)[1]


def test_case_and_white_space_do_not_hide_a_shared_text():
    evaluated = [Example(1, "One two three four", "positive")]
    assert drop_overlap([Example(1, "TWO \n three", "negative")], evaluated) == []
    assert drop_same_texts([Example(1, "one  TWO three\tfour", "negative")], evaluated) == []


def test_a_part_inside_a_word_is_no_shared_text():
    kept = [Example(1, "art", "negative")]
    assert drop_overlap(kept, [Example(1, "a smart film", "positive")]) == kept


@pytest.mark.parametrize("before", [0, 1, 5])
@pytest.mark.parametrize("after", [0, 1, 5])
@pytest.mark.parametrize(("shared", "is_dropped"), [(7, False), (8, True), (9, True)])
def test_a_run_of_eight_words_is_found_wherever_it_stands(before, after, shared, is_dropped):
    def around(side: str) -> str:
        words = [f"{side}{number}" for number in range(before)] + [f"word{number}" for number in range(shared)]
        return " ".join(words + [f"{side}{number}" for number in range(after)])

    evaluated = [Example(1, "first " + around("theirs") + " last", "positive")]
    # Alone, the run would be a part of the evaluated review, however short.
    training = [Example(1, around("ours") if before or after else around("ours") + " more", "positive")]
    assert (drop_overlap(training, evaluated) == []) == is_dropped


def test_dropping_same_texts_leaves_parts():
    evaluated = [Example(1, "one two three", "positive")]
    parts = [Example(1, "one two", "positive"), Example(2, "one two three four", "positive")]
    assert drop_same_texts(parts, evaluated) == parts


@pytest.mark.parametrize("count", [-1, 0, 3, 100])
def test_a_count_that_leaves_too_little_is_refused(count):
    examples = [Example(row, f"{row} b c d e f g h", "positive") for row in range(1, 5)] + [Example(5, "short", "negative")]
    with pytest.raises(InputError, match=f"holdout must lie between 1 and 2, .* got {count}; choose a smaller one or give"):
        hold_out(examples, count, seed=0)


def test_memory_grows_no_faster_than_the_reviews():
    """A review of a film fan may have a thousand words: all of its parts at once would fill the memory."""

    def peak(length: int) -> int:
        evaluated = [Example(1, " ".join(map(str, range(length))), "positive")]
        tracemalloc.start()
        drop_overlap([], evaluated)
        _, bytes_at_most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return bytes_at_most

    assert peak(240) < 8 * peak(60)  # four times the words


def test_where_no_review_is_long_enough_the_sentence_says_so():
    with pytest.raises(InputError, match=r"^no review can be held out: 1 of 3 have 8 words or more, 2 are needed; give more reviews"):
        hold_out([Example(row, text, "positive") for row, text in enumerate(("fine", "good " * 9, "dull"), start=1)], 1, 0, 8)
