"""Scores of the noisy channel are those of a plain loop, whatever the batch and the padding."""

import torch
from scoring_cases import WORDS, Case, any_batch, channel_one_by_one, close, shots, words

from rope_gpt2.fewshot.batches import PromptBatch
from rope_gpt2.fewshot.scoring import (
    score_channel,
    score_channel_plain,
)


@words
@shots
def test_channel_scores_are_those_of_a_plain_loop(any_model, tokenizer, examples, shots, words):
    case = Case(tokenizer, examples, shots, words, count=6, channel=True)
    theirs = channel_one_by_one(any_model, case)
    assert (theirs[:, 0] - theirs[:, 1]).std() > 1e-2
    batch = case.batch()
    close(case.rows([score_channel(any_model, batch)], [batch]), theirs, atol=1e-4)
    close(case.rows([score_channel_plain(any_model, batch)], [batch]), theirs, atol=1e-4)


@any_batch
def test_batches_do_not_change_channel_scores(any_model, tokenizer, examples, batch_tokens):
    case = Case(tokenizer, examples, 4, WORDS["one and several"], channel=True)
    batches = case.batches(batch_tokens, case.prompts[::-1])
    close(case.rows([score_channel(any_model, batch) for batch in batches], batches), channel_one_by_one(any_model, case), atol=1e-4)


@shots
def test_padding_does_not_change_channel_scores(any_model, tokenizer, examples, shots):
    batch = Case(tokenizer, examples, shots, channel=True).batch()
    ids = torch.cat((batch.query_ids, torch.full((len(batch.prompts), 7), 5)), dim=1)
    more = PromptBatch(batch.prefix_ids, ids, batch.lengths, batch.prompts, batch.label_token_ids, batch.heads)
    close(score_channel(any_model, more), score_channel(any_model, batch), atol=1e-4)


def test_channel_scores_of_halves_are_those_of_the_whole(any_model, tokenizer, examples):
    batch = Case(tokenizer, examples, 4, channel=True).batch()
    close(torch.cat([score_channel(any_model, half) for half in batch.halves()]), score_channel(any_model, batch), atol=1e-4)
