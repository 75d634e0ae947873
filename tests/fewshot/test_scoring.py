"""Scores are those of a plain loop, whatever the model, the batch, the padding and what is shared."""

import copy
from os.path import commonprefix

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scoring_cases import DYNAMIC, LONGROPE, WORDS, Case, any_batch, channel_one_by_one, close, longer_model, score_one_by_one, shots, words

from rope_gpt2.fewshot import scoring
from rope_gpt2.fewshot.batches import Group, PromptBatch, collate_prompts
from rope_gpt2.fewshot.scores import UNCERTAIN
from rope_gpt2.fewshot.scoring import (
    PrefixCache,
    ScoredBatch,
    join,
    predict_labels,
    score_channel,
    score_channel_plain,
    score_labels,
    score_plain,
)


@words
@shots
def test_scores_are_those_of_a_plain_loop(any_model, tokenizer, examples, shots, words):
    case = Case(tokenizer, examples, shots, words)
    theirs = score_one_by_one(any_model, case)
    assert theirs.std(dim=0).min() > 1e-2  # the scores tell prompts apart
    batches = case.batches()
    for cache in (None, PrefixCache()):
        close(case.rows([score_labels(any_model, batch, cache) for batch in batches], batches), theirs)


@words
@pytest.mark.parametrize("shots", [0, 4])
@pytest.mark.parametrize("cached", [False, True])
def test_the_plain_path_gives_the_same_scores(any_model, tokenizer, examples, shots, words, cached):
    case = Case(tokenizer, examples, shots, words, count=6)
    batches = case.batches()
    ours = [score_plain(any_model, batch, PrefixCache() if cached else None) for batch in batches]
    close(case.rows(ours, batches), score_one_by_one(any_model, case))


@any_batch
@shots
@pytest.mark.parametrize("labels", ["gold", "none"])
def test_batches_do_not_change_the_scores(any_model, tokenizer, examples, shots, batch_tokens, labels):
    """Neither their size, nor the order of rows, nor the other rows."""
    case = Case(tokenizer, examples, shots, WORDS["one and several"], demonstration_labels=labels)
    cache = PrefixCache()
    batches = case.batches(batch_tokens, case.prompts[::-1])
    close(case.rows([score_labels(any_model, batch, cache) for batch in batches], batches), score_one_by_one(any_model, case))


def test_prompts_with_demonstrations_of_their_own_share_a_batch(any_model, tokenizer, examples):
    case = Case(tokenizer, examples, 3, selection="similar")
    assert len({prompt.prefix_ids for prompt in case.prompts}) > 6
    close(case.rows([score_labels(any_model, case.batch())], [case.batch()]), score_one_by_one(any_model, case))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), shots=st.sampled_from([0, 1, 4]))
def test_any_part_of_what_prompts_begin_with_may_be_shared(model, tokenizer, examples, data, shots):
    case = Case(tokenizer, examples, shots, WORDS["one and several"], count=4)
    common = len(commonprefix([prompt.prefix_ids + prompt.query_ids for prompt in case.prompts]))  # noqa: RUF071
    shared = data.draw(st.integers(0, common))
    close(score_labels(model, collate_prompts(Group(shared, tuple(case.prompts)), case.ids)), score_one_by_one(model, case))


@shots
@words
def test_padding_and_its_token_do_not_change_the_scores(any_model, tokenizer, examples, shots, words):
    case = Case(tokenizer, examples, shots, words)
    batch = case.batch()
    behind = torch.arange(batch.query_ids.shape[1] + 7) >= batch.lengths[:, None]
    ids = torch.cat((batch.query_ids, torch.zeros(len(batch.prompts), 7, dtype=torch.long)), dim=1).masked_fill(behind, 5)
    more = PromptBatch(batch.prefix_ids, ids, batch.lengths, batch.prompts, batch.label_token_ids)
    close(score_labels(any_model, more), score_labels(any_model, batch))
    close(score_plain(any_model, more), score_plain(any_model, batch))


def test_halves_and_single_prompts_of_a_batch_have_its_scores(any_model, tokenizer, examples):
    batch = Case(tokenizer, examples, 4, WORDS["one and several"]).batch()
    whole = score_labels(any_model, batch)
    close(torch.cat([score_labels(any_model, half) for half in batch.halves()]), whole)
    close(torch.cat([score_labels(any_model, batch.only(place)) for place in range(len(batch.prompts))]), whole)


@pytest.mark.parametrize("at_once", [1, 5])
def test_how_many_positions_meet_the_vocabulary_at_once_does_not_change_the_scores(model, tokenizer, examples, at_once, monkeypatch):
    batch = Case(tokenizer, examples, 1, WORDS["one and several"]).batch()
    channel = Case(tokenizer, examples, 1, channel=True).batch()
    theirs = score_labels(model, batch), score_channel(model, channel)
    monkeypatch.setattr(scoring, "_HEAD_TOKENS", at_once)
    close(score_labels(model, batch), theirs[0])
    close(score_channel(model, channel), theirs[1], atol=1e-4)


# Where sharing would not be exact.


@shots
@pytest.mark.parametrize(
    "changes",
    [{"rope_parameters": DYNAMIC}, {"rope_parameters": LONGROPE}, {"reorder_and_upcast_attn": True, "attn_implementation": "eager"}],
    ids=["dynamic", "longrope", "another order of operations"],
)
@pytest.mark.parametrize("channel", [False, True])
def test_where_a_model_refuses_to_share_scores_are_those_of_a_plain_loop(tokenizer, examples, changes, shots, channel):
    """A prompt's length alone decides its frequencies, not that of its neighbours in a batch, nor what was scored before."""
    model = longer_model(tokenizer, **changes)
    case = Case(tokenizer, examples, shots, channel=channel)
    batches = case.batches()
    score, theirs = (score_channel, channel_one_by_one(model, case)) if channel else (score_labels, score_one_by_one(model, case))
    close(case.rows([score(model, batch) for batch in batches], batches), theirs, atol=1e-4)


def test_prompts_of_that_test_are_on_both_sides_of_the_context(tokenizer, examples):
    lengths = [len(prompt.prefix_ids + prompt.query_ids) for shots in (0, 1, 4) for prompt in Case(tokenizer, examples, shots).prompts]
    assert min(lengths) < 32 < 64 < max(lengths)


# Half precision.


@shots
@pytest.mark.parametrize("autocast", [False, True])
def test_labels_are_compared_in_float32_in_half_precision_too(model, tokenizer, examples, shots, autocast):
    """The difference of two labels' scores is that of the exact products of one state, so rounding makes no ties."""
    half = model if autocast else copy.deepcopy(model).to(torch.bfloat16)
    batch = Case(tokenizer, examples, shots).batch()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        ours = score_labels(half, batch)
        states = half.encode_sequences(half.encode_prefix(batch.prefix_ids), batch.query_ids, batch.lengths[:, None] - 1)[:, 0]
    rows = half.lm_head.weight[[ids[0] for ids in batch.label_token_ids]].float()
    assert ours.dtype == torch.float32
    close(ours[:, 0] - ours[:, 1], states.float() @ (rows[0] - rows[1]), atol=1e-4, rtol=1e-4)


@words
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("channel", [False, True])
def test_half_precision_is_as_near_as_that_of_the_plain_path(model, tokenizer, examples, words, autocast, channel):
    half = model if autocast else copy.deepcopy(model).to(torch.bfloat16)
    batch = Case(tokenizer, examples, 4, words, channel=channel).batch()
    score, plain = (score_channel, score_channel_plain) if channel else (score_labels, score_plain)
    exact = score(model, batch)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours, theirs = score(half, batch), plain(half, batch)
    assert ours.dtype == torch.float32
    assert (ours - exact).square().mean() < 4 * (theirs - exact).square().mean()


# What follows from scores.


def test_the_likeliest_label_is_predicted_and_a_tie_goes_to_the_first():
    assert predict_labels(torch.tensor([[-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0]])).tolist() == [0, 1, 0]


def test_batches_are_joined_in_their_order():
    parts = [ScoredBatch(torch.full((size, 2), float(size))) for size in (1, 3, 2)]
    assert join(parts).label_logprobs[:, 0].tolist() == [1.0, 3.0, 3.0, 3.0, 2.0, 2.0]
    assert join(parts).generated is None
    answered = [ScoredBatch(torch.zeros(2, 2), torch.tensor([label, UNCERTAIN], dtype=torch.int8)) for label in (0, 1)]
    assert join(answered).generated.tolist() == [0, UNCERTAIN, 1, UNCERTAIN]
