"""What prompts begin with is encoded once, and its use changes nothing."""

import copy

import torch
from scoring_cases import MANY, WORDS, Case, close

from rope_gpt2.fewshot.batches import Group, collate_prompts, group_prompts
from rope_gpt2.fewshot.scoring import (
    PrefixCache,
    score_labels,
)
from rope_gpt2.model.modeling import RopeGPT2ForCausalLM


def test_a_prefix_cache_is_not_changed_by_its_use(any_model, tokenizer, examples):
    cache = PrefixCache()
    first, second = (Case(tokenizer, examples, 4, WORDS["several tokens"], count=8, seed=seed).batch() for seed in (0, 1))
    theirs = score_labels(any_model, first, cache)
    assert torch.equal(score_labels(any_model, first, cache), theirs)
    others = score_labels(any_model, second, cache)
    assert not torch.equal(others, theirs)
    assert torch.equal(score_labels(any_model, first, cache), theirs)
    assert torch.equal(score_labels(any_model, second, cache), others)


def test_demonstrations_are_encoded_once_for_all_batches_of_a_condition(model, tokenizer, examples, monkeypatch):
    case, encoded, encode = Case(tokenizer, examples, 4), [], RopeGPT2ForCausalLM.encode_prefix

    def count(self, prefix_ids):
        encoded.append(prefix_ids.tolist())
        return encode(self, prefix_ids)

    monkeypatch.setattr(RopeGPT2ForCausalLM, "encode_prefix", count)
    cache = PrefixCache()
    (family,) = group_prompts(case.prompts, MANY)
    for prompt in case.prompts:
        score_labels(model, collate_prompts(Group(family.shared, (prompt,)), case.ids), cache)
    assert encoded == [list((case.prompts[0].prefix_ids + case.prompts[0].query_ids)[: family.shared])]
    assert family.shared >= len(case.prompts[0].prefix_ids)


def test_models_that_cannot_share_encode_demonstrations_once_as_well(stock_models, tokenizer, examples):
    case = Case(tokenizer, examples, 4)
    (family,) = group_prompts(case.prompts, MANY)
    batches = [collate_prompts(Group(family.shared, (prompt,)), case.ids) for prompt in case.prompts]
    for model in stock_models.values():
        fed: list[int] = []
        hook = model.get_input_embeddings().register_forward_pre_hook(lambda module, inputs, fed=fed: fed.append(inputs[0].numel()))
        cache = PrefixCache()
        for batch in batches:
            score_labels(model, batch, cache)
        hook.remove()
        assert sum(fed) == family.shared + sum(batch.query_ids.numel() for batch in batches)


def test_a_prefix_cache_tells_models_apart(any_model, tokenizer, examples):
    other = copy.deepcopy(any_model)
    with torch.no_grad():
        other.get_input_embeddings().weight.mul_(1.5)
    batch, cache = Case(tokenizer, examples, 4).batch(), PrefixCache()
    score_labels(any_model, batch, cache)
    close(score_labels(other, batch, cache), score_labels(other, batch))
