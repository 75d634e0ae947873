"""Models of other classes whose positions a cache, padding or a neighbour would change: their scores are those of whole passes alone."""

import copy

import pytest
import torch
from scoring_cases import DYNAMIC, LONGROPE, Case, close, shots, sum_logprobs
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, MptConfig, MptForCausalLM

from rope_gpt2.fewshot.foreign import counts_padding, rotates_by_length
from rope_gpt2.fewshot.scoring import PrefixCache, score_channel, score_labels

CONTEXT = 64  # tokens; prompts lie on both sides of it (tests/fewshot/test_scoring.py)
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "initializer_range": 0.2}


def rotary(config_class, model_class, parameters):
    def make(words):
        # a copy, as transformers writes into it
        return model_class(config_class(vocab_size=words, max_position_embeddings=CONTEXT, rope_parameters={**parameters}, **SIZES))

    return make


def mpt(words):
    return MptForCausalLM(MptConfig(vocab_size=words, d_model=32, n_heads=4, n_layers=2, max_seq_len=256, initializer_range=0.2))


MODELS = {
    "GPT-NeoX, dynamic": rotary(GPTNeoXConfig, GPTNeoXForCausalLM, DYNAMIC | {"partial_rotary_factor": 1.0}),
    "GPT-NeoX, longrope": rotary(GPTNeoXConfig, GPTNeoXForCausalLM, LONGROPE | {"partial_rotary_factor": 1.0}),
    "Llama, longrope": rotary(LlamaConfig, LlamaForCausalLM, LONGROPE),
    "MPT": mpt,
}


@pytest.fixture(params=MODELS)
def foreign(request, tokenizer):
    torch.manual_seed(0)
    return MODELS[request.param](len(tokenizer)).eval()


def alone(model, context, continuation):
    """By a copy, which has seen nothing before."""
    return sum_logprobs(copy.deepcopy(model), list(context), list(continuation))


@shots
def test_scores_are_those_of_whole_passes_alone(foreign, tokenizer, examples, shots):
    case = Case(tokenizer, examples, shots)
    theirs = [[alone(foreign, prompt.prefix_ids + prompt.query_ids, ids) for ids in case.ids] for prompt in case.prompts]
    batches, cache = case.batches(), PrefixCache()
    ours = [score_labels(foreign, batch, cache) for batch in batches]
    close(case.rows(ours, batches), torch.tensor(theirs), atol=1e-4)


@shots
def test_channel_scores_are_those_of_whole_passes_alone(foreign, tokenizer, examples, shots):
    case = Case(tokenizer, examples, shots, channel=True, count=6)
    theirs = [[alone(foreign, prompt.prefix_ids + head, prompt.query_ids) for head in case.heads] for prompt in case.prompts]
    batches = case.batches()
    close(case.rows([score_channel(foreign, batch) for batch in batches], batches), torch.tensor(theirs), atol=1e-4)


def test_other_models_share_their_prefix_as_before(stock_models):
    assert not any(rotates_by_length(model, 10**6) or counts_padding(model) for model in stock_models.values())
    scaled = rotary(GPTNeoXConfig, GPTNeoXForCausalLM, DYNAMIC | {"partial_rotary_factor": 1.0})(300)
    assert [rotates_by_length(scaled, length) for length in (CONTEXT, CONTEXT + 1)] == [False, True]
