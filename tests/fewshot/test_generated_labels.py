"""Generated answers are those of a plain greedy loop."""

import copy

import pytest
import torch
from scoring_cases import DYNAMIC, LONGROPE, Case, longer_model

from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.generation import MAX_NEW_TOKENS, answer_length, generate_labels
from rope_gpt2.fewshot.scores import UNCERTAIN
from rope_gpt2.fewshot.verbalizer import Verbalizer


@torch.no_grad()
def continue_one_by_one(model, prompt, count, end) -> list[int]:
    context = list(prompt.prefix_ids + prompt.query_ids)
    start = len(context)
    while len(context) < start + count and context[-1] != end:
        context.append(int(model(torch.tensor([context])).logits[0, -1].argmax()))
    return context[start:]


def assert_generated_is_greedy(model, tokenizer, examples, shots):
    case, verbalizer = Case(tokenizer, examples, shots, count=24), Verbalizer()
    fluent = copy.deepcopy(model)
    with torch.no_grad():  # a model that often says a label word, and at times the end of the text
        for ids in (*case.ids, (tokenizer.eos_token_id,)):
            fluent.get_output_embeddings().weight[ids[0]] *= 2.0 if fluent.config.tie_word_embeddings else 1.5
    batch = case.batch()
    said = [continue_one_by_one(fluent, prompt, 5, tokenizer.eos_token_id) for prompt in batch.prompts]
    found = [verbalizer.find(tokenizer.decode(ids, skip_special_tokens=True)) for ids in said]
    theirs = [UNCERTAIN if label is None else LABELS.index(label) for label in found]
    assert len(set(theirs)) > 1  # some rows differ, or the test could not fail
    ours = generate_labels(fluent, tokenizer, batch, verbalizer, max_new_tokens=5)
    assert ours.dtype == torch.int8
    assert ours.tolist() == theirs


@pytest.mark.parametrize("shots", [0, 4])
def test_generated_labels_are_those_of_a_plain_greedy_loop(any_model, tokenizer, examples, shots):
    assert_generated_is_greedy(any_model, tokenizer, examples, shots)


def test_a_label_word_of_many_tokens_can_be_generated(model, tokenizer, examples):
    """It could not be found in a text that is shorter than itself."""
    words = ("a complete waste of time for anyone alive", "positive")
    batch = Case(tokenizer, examples, 4, words=words, count=4).batch()
    ids = batch.label_token_ids[0]
    assert len(ids) == answer_length(batch.label_token_ids) > MAX_NEW_TOKENS

    class Says(torch.nn.Module):
        def generate(self, input_ids, max_new_tokens, **_):
            return torch.cat((input_ids, torch.tensor([ids[:max_new_tokens]] * len(input_ids))), dim=1)

    says = Says()
    says.config = model.config
    assert generate_labels(says, tokenizer, batch, Verbalizer(words)).tolist() == [0] * 4


@pytest.mark.parametrize("shots", [0, 4])
@pytest.mark.parametrize("parameters", [DYNAMIC, LONGROPE], ids=["dynamic", "longrope"])
def test_neither_neighbours_nor_the_cache_change_what_is_generated_beyond_the_context(parameters, tokenizer, examples, shots):
    assert_generated_is_greedy(longer_model(tokenizer, rope_parameters=parameters), tokenizer, examples, shots)
