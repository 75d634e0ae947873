"""Scores are those of a plain loop, whatever the batch, the padding and the sharing of demonstrations."""

import copy

import pytest
import torch

from rope_gpt2.fewshot.batches import PromptBatch, collate_prompts, group_prompts
from rope_gpt2.fewshot.demonstrations import Condition, DemonstrationSampler
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.prompts import Prompt, PromptBuilder
from rope_gpt2.fewshot.scoring import UNCERTAIN, PrefixCache, generate_labels, predict, predict_labels, score_labels
from rope_gpt2.fewshot.template import Template
from rope_gpt2.fewshot.verbalizer import Verbalizer

WORDS = {
    "one token": LABELS,
    "several tokens": ("utterly dismal", "quite wonderful"),
    "one and several": ("negative", "quite wonderful"),
}
words = pytest.mark.parametrize("words", WORDS.values(), ids=WORDS.keys())
shots = pytest.mark.parametrize("shots", [0, 1, 4])


def build(tokenizer, examples, shots, words=LABELS, count=12, seed=0) -> list[Prompt]:
    sampler = DemonstrationSampler(examples[100:], Condition(shots, seed))
    builder = PromptBuilder(tokenizer, Template(), Verbalizer(words), sampler, max_length=256)
    return [builder.build(query) for query in examples[:count]]


def label_ids(tokenizer, words=LABELS):
    return Verbalizer(words).token_ids(tokenizer, Template())


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def score_one_by_one(model, prompts, label_token_ids) -> torch.Tensor:
    """Prompt and word fed whole, one at a time, without padding or cache; the log-softmax of each token of the word is summed."""
    scores = []
    for prompt in prompts:
        for ids in label_token_ids:
            context = prompt.prefix_ids + prompt.query_ids
            logprobs = model(torch.tensor([context + tuple(ids)])).logits[0].log_softmax(dim=-1)
            scores.append(sum(logprobs[len(context) - 1 + place, token] for place, token in enumerate(ids)))
    return torch.stack(scores).reshape(len(prompts), -1)


@words
@shots
@pytest.mark.parametrize("cache", [None, PrefixCache()], ids=["plain", "shared prefix"])
def test_scores_are_those_of_a_plain_loop(model, tokenizer, examples, shots, words, cache):
    prompts, ids = build(tokenizer, examples, shots, words), label_ids(tokenizer, words)
    theirs = score_one_by_one(model, prompts, ids)
    assert theirs.std(dim=0).min() > 1e-2  # the scores tell prompts apart
    close(score_labels(model, collate_prompts(prompts, tokenizer.pad_token_id), ids, cache), theirs)


@words
@shots
def test_sharing_the_demonstrations_does_not_change_the_scores(model, tokenizer, examples, shots, words):
    batch = collate_prompts(build(tokenizer, examples, shots, words), tokenizer.pad_token_id)
    ids = label_ids(tokenizer, words)
    close(score_labels(model, batch, ids, PrefixCache()), score_labels(model, batch, ids))


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("batch_size", [1, 5, 12])
@shots
def test_batches_do_not_change_the_scores(model, tokenizer, examples, shots, batch_size, share):
    """Neither their size, nor the order of rows, nor the other rows."""
    prompts, ids = build(tokenizer, examples, shots, WORDS["one and several"]), label_ids(tokenizer, WORDS["one and several"])
    theirs = dict(zip((prompt.query.row for prompt in prompts), score_one_by_one(model, prompts, ids), strict=True))
    cache = PrefixCache() if share else None
    seen = []
    for group in group_prompts(reversed(prompts), batch_size):
        ours = score_labels(model, collate_prompts(group, tokenizer.pad_token_id), ids, cache)
        for prompt, scores in zip(group, ours, strict=True):
            seen.append(prompt.query.row)
            close(scores, theirs[prompt.query.row])
    assert sorted(seen) == sorted(theirs)


@pytest.mark.parametrize("share", [False, True])
@shots
def test_padding_and_its_token_do_not_change_the_scores(model, tokenizer, examples, shots, share):
    batch = collate_prompts(build(tokenizer, examples, shots), tokenizer.pad_token_id)
    ids = label_ids(tokenizer)
    more = PromptBatch(
        batch.prefix_ids,
        torch.cat((torch.full((len(batch.prompts), 7), 5), batch.query_ids), dim=1),
        torch.cat((torch.zeros(len(batch.prompts), 7, dtype=torch.long), batch.query_mask), dim=1),
        batch.prompts,
    )
    scores = [score_labels(model, padded, ids, PrefixCache() if share else None) for padded in (batch, more)]
    close(*scores)


def test_a_prefix_cache_is_not_changed_by_its_use(model, tokenizer, examples):
    cache, ids = PrefixCache(), label_ids(tokenizer, WORDS["several tokens"])
    first, second = (collate_prompts(build(tokenizer, examples, 4, count=8, seed=seed), tokenizer.pad_token_id) for seed in (0, 1))
    theirs = score_labels(model, first, ids, cache)
    assert torch.equal(score_labels(model, first, ids, cache), theirs)
    others = score_labels(model, second, ids, cache)
    assert not torch.equal(others, theirs)
    assert torch.equal(score_labels(model, first, ids, cache), theirs)
    assert torch.equal(score_labels(model, second, ids, cache), others)


def test_demonstrations_are_encoded_once_for_all_batches_of_a_condition(model, tokenizer, examples):
    prompts, ids = build(tokenizer, examples, 4), label_ids(tokenizer)
    fed: list[int] = []
    hook = model.transformer.wte.register_forward_pre_hook(lambda module, inputs: fed.append(inputs[0].numel()))
    cache = PrefixCache()
    batches: list[PromptBatch] = [collate_prompts(group, tokenizer.pad_token_id) for group in group_prompts(prompts, 3)]
    for batch in batches:
        score_labels(model, batch, ids, cache)
    hook.remove()
    assert sum(fed) == len(prompts[0].prefix_ids) + sum(batch.query_ids.numel() for batch in batches)


def test_a_prefix_cache_tells_models_apart(model, tokenizer, examples):
    other = copy.deepcopy(model)
    torch.nn.init.normal_(other.transformer.h[0].attn.c_attn.weight)
    batch, ids, cache = collate_prompts(build(tokenizer, examples, 4), tokenizer.pad_token_id), label_ids(tokenizer), PrefixCache()
    score_labels(model, batch, ids, cache)
    close(score_labels(other, batch, ids, cache), score_labels(other, batch, ids))


@torch.no_grad()
def continue_one_by_one(model, prompt, count, end) -> list[int]:
    context = list(prompt.prefix_ids + prompt.query_ids)
    start = len(context)
    while len(context) < start + count and context[-1] != end:
        context.append(int(model(torch.tensor([context])).logits[0, -1].argmax()))
    return context[start:]


@pytest.mark.parametrize("shots", [0, 4])
def test_generated_labels_are_those_of_a_plain_greedy_loop(model, tokenizer, examples, shots):
    prompts, verbalizer = build(tokenizer, examples, shots, count=24), Verbalizer()
    fluent = copy.deepcopy(model)
    with torch.no_grad():  # a model that often says a label word, and at times the end of the text
        for ids in (*label_ids(tokenizer), (tokenizer.eos_token_id,)):
            fluent.transformer.wte.weight[ids[0]] *= 2
    said = [continue_one_by_one(fluent, prompt, 5, tokenizer.eos_token_id) for prompt in prompts]
    theirs = [verbalizer.find(tokenizer.decode(ids, skip_special_tokens=True)) for ids in said]
    assert len(set(theirs)) > 1  # some rows differ, or the test could not fail
    ours = generate_labels(fluent, tokenizer, collate_prompts(prompts, tokenizer.pad_token_id), verbalizer, max_new_tokens=5)
    assert ours == theirs


def test_the_likeliest_label_is_predicted_and_a_tie_goes_to_the_first():
    assert predict_labels(torch.tensor([[-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0]])) == ["negative", "positive", "negative"]


def test_predictions_carry_row_condition_and_scores(tokenizer, examples):
    prompts = build(tokenizer, examples, 4, count=3, seed=7)
    scores = torch.tensor([[-1.0, -2.0], [-3.0, -0.5], [-4.0, -5.0]])
    ours = predict(collate_prompts(prompts, 0), scores)
    assert [prediction.predicted for prediction in ours] == predict_labels(scores)
    assert [(prediction.logprob_negative, prediction.logprob_positive) for prediction in ours] == [tuple(row) for row in scores.tolist()]
    for prediction, prompt in zip(ours, prompts, strict=True):
        assert (prediction.row, prediction.sentiment) == (prompt.query.row, prompt.query.sentiment)
        assert (prediction.shots, prediction.seed) == (4, 7)
        assert prediction.is_correct == (prediction.predicted == prompt.query.sentiment)


def test_a_generated_text_without_a_label_word_is_uncertain_and_wrong(tokenizer, examples):
    prompts = build(tokenizer, examples, 0, count=2)
    ours = predict(collate_prompts(prompts, 0), torch.zeros(2, 2), [None, prompts[1].query.sentiment])
    assert [prediction.predicted for prediction in ours] == [UNCERTAIN, prompts[1].query.sentiment]
    assert [prediction.is_correct for prediction in ours] == [False, True]
