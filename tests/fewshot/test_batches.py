"""Prompts are grouped by what they share, none is lost or doubled, and padding stands on the left."""

import math
from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from rope_gpt2.fewshot.batches import collate_prompts, group_prompts
from rope_gpt2.fewshot.demonstrations import Condition
from rope_gpt2.fewshot.examples import Example
from rope_gpt2.fewshot.prompts import Prompt

PAD = 99
ids = st.lists(st.integers(0, 9), min_size=1, max_size=6).map(tuple)
kinds = st.sampled_from([(shots, seed, prefix) for shots in (0, 4) for seed in (0, 1) for prefix in ((), (1, 2), (1, 3))])


def make_prompt(row, kind, query_ids) -> Prompt:
    shots, seed, prefix_ids = kind
    return Prompt(Example(row, f"review {row}", "negative"), Condition(shots, seed), prefix_ids, query_ids)


prompt_lists = st.lists(st.tuples(kinds, ids), max_size=20).map(
    lambda drawn: [make_prompt(row, kind, query_ids) for row, (kind, query_ids) in enumerate(drawn, start=1)]
)


def kind_of(prompt):
    return prompt.condition, prompt.prefix_ids


@settings(max_examples=50, deadline=None)
@given(prompts=prompt_lists, batch_size=st.integers(1, 5))
def test_groups_share_condition_and_prefix_and_hold_every_prompt_once(prompts, batch_size):
    groups = group_prompts(prompts, batch_size)
    assert sorted(prompt.query.row for group in groups for prompt in group) == [prompt.query.row for prompt in prompts]
    assert all(len({kind_of(prompt) for prompt in group}) == 1 for group in groups)
    assert all(1 <= len(group) <= batch_size for group in groups)
    assert len(groups) == sum(math.ceil(count / batch_size) for count in Counter(map(kind_of, prompts)).values())


@settings(max_examples=30, deadline=None)
@given(prompts=prompt_lists, batch_size=st.integers(1, 5), data=st.data())
def test_groups_do_not_depend_on_the_order_of_the_prompts(prompts, batch_size, data):
    assert group_prompts(data.draw(st.permutations(prompts)), batch_size) == group_prompts(prompts, batch_size)


@settings(max_examples=30, deadline=None)
@given(prompts=prompt_lists, batch_size=st.integers(1, 5))
def test_groups_of_one_prefix_follow_one_another_and_go_from_long_to_short(prompts, batch_size):
    """So the demonstrations are encoded once, and padding is short."""
    groups = group_prompts(prompts, batch_size)
    changes = sum(kind_of(left[0]) != kind_of(right[0]) for left, right in pairwise(groups))
    assert changes == max(0, len(set(map(kind_of, prompts))) - 1)
    for left, right in pairwise(groups):
        if kind_of(left[0]) == kind_of(right[0]):
            assert min(len(prompt.query_ids) for prompt in left) >= max(len(prompt.query_ids) for prompt in right)


@settings(max_examples=30, deadline=None)
@given(queries=st.lists(ids, min_size=1, max_size=6), prefix=st.sampled_from([(), (1, 2, 3)]))
def test_a_batch_is_padded_on_the_left(queries, prefix):
    prompts = [make_prompt(row, (4, 0, prefix), query_ids) for row, query_ids in enumerate(queries, start=1)]
    batch = collate_prompts(prompts, PAD)
    assert batch.prefix_ids.tolist() == list(prefix)
    assert batch.prompts == tuple(prompts)
    assert batch.query_ids.shape == batch.query_mask.shape == (len(queries), max(map(len, queries)))
    for prompt, row, mask in zip(prompts, batch.query_ids.tolist(), batch.query_mask.tolist(), strict=True):
        padding = len(row) - len(prompt.query_ids)
        assert row == [PAD] * padding + list(prompt.query_ids)
        assert mask == [0] * padding + [1] * len(prompt.query_ids)
