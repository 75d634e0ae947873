"""Prompts are grouped by what they begin with, none is lost or doubled, and padding stands on the right."""

import random
from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_gpt2.fewshot.batches import Group, Item, collate_prompts, group_prompts
from rope_gpt2.fewshot.examples import Example
from rope_gpt2.fewshot.prompts import Prompt

LABEL_IDS = ((7,), (8, 9))
ids = st.lists(st.integers(0, 9), min_size=1, max_size=6).map(tuple)
prefixes = st.sampled_from([(), (1, 2), (1, 3), (1, 2, 4, 4)])
tokens = st.integers(1, 40)


def make_prompt(row, prefix_ids, query_ids) -> Prompt:
    return Prompt(Example(row, f"review {row}", "negative"), prefix_ids, query_ids)


prompt_lists = st.lists(st.tuples(prefixes, ids), max_size=20).map(
    lambda drawn: [make_prompt(row, prefix, query_ids) for row, (prefix, query_ids) in enumerate(drawn, start=1)]
)


def whole(prompt):
    return prompt.prefix_ids + prompt.query_ids


@settings(max_examples=50, deadline=None)
@given(prompts=prompt_lists, batch_tokens=tokens, channel=st.booleans())
def test_groups_hold_every_prompt_once_and_share_what_all_of_theirs_begin_with(prompts, batch_tokens, channel):
    groups = group_prompts(prompts, batch_tokens, channel)
    assert sorted(prompt.query.row for group in groups for prompt in group.prompts) == [prompt.query.row for prompt in prompts]
    for group in groups:
        assert len({whole(prompt)[: group.shared] for prompt in group.prompts}) == 1
        assert min(len(whole(prompt)) for prompt in group.prompts) > group.shared  # the state of one token is left to be read


@settings(max_examples=50, deadline=None)
@given(prompts=prompt_lists, batch_tokens=tokens, channel=st.booleans())
def test_groups_hold_so_many_tokens_with_their_padding_or_a_single_prompt(prompts, batch_tokens, channel):
    for group in group_prompts(prompts, batch_tokens, channel):
        longest = max(len(whole(prompt)) for prompt in group.prompts) - group.shared
        assert len(group.prompts) == 1 or longest * len(group.prompts) <= batch_tokens


@settings(max_examples=30, deadline=None)
@given(prompts=prompt_lists, batch_tokens=tokens, channel=st.booleans(), data=st.data())
def test_groups_do_not_depend_on_the_order_of_the_prompts(prompts, batch_tokens, channel, data):
    """But for the order of the groups of different prefixes."""
    ours = group_prompts(data.draw(st.permutations(prompts)), batch_tokens, channel)
    assert set(ours) == set(group_prompts(prompts, batch_tokens, channel))


@settings(max_examples=30, deadline=None)
@given(prompts=prompt_lists, batch_tokens=tokens, channel=st.booleans())
def test_groups_of_one_prefix_follow_one_another_and_go_from_long_to_short(prompts, batch_tokens, channel):
    """So what is shared is encoded once, and padding is short."""
    groups = group_prompts(prompts, batch_tokens, channel)
    shared = [whole(group.prompts[0])[: group.shared] for group in groups]
    if channel:
        changes = sum(left != right for left, right in pairwise(shared))
        assert changes == max(0, len({prompt.prefix_ids for prompt in prompts}) - 1)
    for left, right in pairwise(groups):
        if {prompt.prefix_ids for prompt in left.prompts} == {prompt.prefix_ids for prompt in right.prompts}:
            assert min(len(whole(prompt)) for prompt in left.prompts) >= max(len(whole(prompt)) for prompt in right.prompts)


@settings(max_examples=30, deadline=None)
@given(prompts=prompt_lists, batch_tokens=tokens)
def test_under_the_noisy_channel_exactly_the_demonstrations_are_shared(prompts, batch_tokens):
    for group in group_prompts(prompts, batch_tokens, channel=True):
        assert {prompt.prefix_ids for prompt in group.prompts} == {whole(group.prompts[0])[: group.shared]}


def test_queries_of_one_prefix_share_it_and_the_words_before_the_review():
    prompts = [make_prompt(row, (1, 2), (5, 6, 10 + row)) for row in range(1, 5)]
    assert [group.shared for group in group_prompts(prompts, 1000)] == [4]


def test_the_same_prompts_share_all_but_their_last_token():
    assert [group.shared for group in group_prompts([make_prompt(row, (1, 2), (5, 6)) for row in range(1, 5)], 1000)] == [3]


def test_prompts_whose_demonstrations_hardly_another_shares_go_together():
    """A pass for each prefix would cost more than what it saves."""
    own = [make_prompt(row, (1, row), (5, 6)) for row in range(1, 9)]
    assert [(group.shared, len(group.prompts)) for group in group_prompts(own, 1000)] == [(1, 8)]
    many = [make_prompt(row, (1, 2), (5, row)) for row in range(9, 14)]
    assert Counter((group.shared, len(group.prompts)) for group in group_prompts(own[2:] + many, 1000)) == {(1, 6): 1, (3, 5): 1}


def test_groups_of_many_prompts_are_filled():
    generator = random.Random(0)
    prompts = [make_prompt(row, (), tuple(generator.choices(range(50), k=generator.randint(5, 60)))) for row in range(1, 1001)]
    groups = group_prompts(prompts, 2048)
    padded = [len(group.prompts) * max(len(prompt.query_ids) for prompt in group.prompts) for group in groups]
    assert max(padded) <= 2048
    assert min(padded[:-1]) > 2048 * 0.35  # full enough where the next prompt would be padded much
    assert sum(padded) < 1.05 * sum(len(prompt.query_ids) for prompt in prompts)


def make_batch(queries, prefix=(1, 2), shared=1, **others):
    prompts = tuple(make_prompt(row, prefix, query_ids) for row, query_ids in enumerate(queries, start=1))
    return collate_prompts(Group(shared, prompts), LABEL_IDS, **others)


@settings(max_examples=30, deadline=None)
@given(queries=st.lists(ids, min_size=1, max_size=6), prefix=prefixes, data=st.data())
def test_a_batch_is_padded_on_the_right(queries, prefix, data):
    shared = data.draw(st.integers(0, len(prefix)))
    batch = make_batch(queries, prefix, shared)
    assert batch.prefix_ids.tolist() == list(prefix[:shared])
    assert batch.prefix_ids.dtype == batch.query_ids.dtype == torch.long
    assert batch.label_token_ids == LABEL_IDS
    longest = max(map(len, queries)) + len(prefix) - shared
    assert batch.query_ids.shape == (len(queries), longest)
    for prompt, row, length in zip(batch.prompts, batch.query_ids.tolist(), batch.lengths.tolist(), strict=True):
        assert tuple(batch.prefix_ids.tolist()) + tuple(row[:length]) == whole(prompt)
        assert row[length:] == [0] * (longest - length)


def described(batch):
    return batch.prefix_ids.tolist(), batch.label_token_ids, batch.heads, batch.item, batch.is_last


@settings(max_examples=30, deadline=None)
@given(queries=st.lists(ids, min_size=2, max_size=7))
def test_halves_are_the_batch_in_two(queries):
    batch = make_batch(queries, heads=((3,), (4, 4)), item=Item(2, 5), is_last=False)
    first, second = batch.halves()
    assert abs(len(first.prompts) - len(second.prompts)) <= 1
    assert first.prompts + second.prompts == batch.prompts
    for name in ("query_ids", "lengths"):
        assert torch.equal(torch.cat([getattr(first, name), getattr(second, name)]), getattr(batch, name))
    assert described(first) == described(second) == described(batch)


@settings(max_examples=30, deadline=None)
@given(queries=st.lists(ids, min_size=1, max_size=6), data=st.data())
def test_a_prompt_of_a_batch_alone_has_no_padding(queries, data):
    batch = make_batch(queries, heads=((3,), (4, 4)), item=Item(2, 5))
    place = data.draw(st.integers(0, len(queries) - 1))
    alone = batch.only(place)
    assert alone.prompts == batch.prompts[place : place + 1]
    assert alone.query_ids.tolist() == [list(whole(batch.prompts[place])[1:])]
    assert alone.lengths.tolist() == [alone.query_ids.shape[1]]
    assert described(alone) == described(batch)


@pytest.mark.parametrize("options", [{}, {"non_blocking": True}])
def test_a_batch_moves_with_all_its_tensors(options):
    batch = make_batch([(1, 2), (3,)], heads=((3,), (4, 4)), item=Item(2, 5), is_last=False)
    moved = batch.to("meta", **options)
    assert {tensor.device.type for tensor in (moved.prefix_ids, moved.query_ids, moved.lengths)} == {"meta"}
    assert (moved.prompts, moved.item, moved.is_last, moved.heads) == (batch.prompts, batch.item, batch.is_last, batch.heads)
