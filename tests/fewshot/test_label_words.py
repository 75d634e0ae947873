"""Random label words: one token each, after every layout, never a word that evaluations or the usual labels use."""

import re

import pytest

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.label_words import common_label_words, label_token_ids, random_label_words
from rope_gpt2.fewshot.template import DEFAULT_TEMPLATE, Template
from rope_gpt2.fewshot.verbalizer import Verbalizer
from rope_gpt2.model.tokenizer import load_tokenizer, train_tokenizer

TEMPLATES = [Template(text) for text in (DEFAULT_TEMPLATE, "{text} =>{label}\n", "Text: {text} It was {label} \n")]


@pytest.fixture(params=["trained", "GPT-2's"])
def any_tokenizer(request, tokenizer):
    if request.param == "trained":
        return tokenizer
    return load_tokenizer(str(request.getfixturevalue("sst2_folder").parent / "gpt2_tokenizer"))


@pytest.mark.parametrize("template", TEMPLATES)
def test_each_word_is_one_token_after_a_prompt_and_they_come_by_token_id(any_tokenizer, template):
    words = random_label_words(any_tokenizer, template, [])
    assert len(words) > 30
    assert all(re.fullmatch("[a-z]{2,}", word) for word in words)
    (query,) = any_tokenizer([template.query("Dull.")])["input_ids"]
    prompts = any_tokenizer([template.demonstration("Dull.", word) for word in words])["input_ids"]
    assert all(ids[:-1] == query for ids in prompts)
    last = [ids[-1] for ids in prompts]
    assert last == sorted(set(last))
    assert [any_tokenizer.decode([token]) for token in last] == [template.label_space + word for word in words]


def test_no_other_token_of_the_vocabulary_is_such_a_word(any_tokenizer):
    words = set(random_label_words(any_tokenizer, Template(), []))
    missing = [
        text[1:]
        for text in any_tokenizer.batch_decode([[token] for token in range(len(any_tokenizer))])
        if re.fullmatch(" [a-z]{2,}", text) and text[1:] not in words
    ]
    assert all(len(any_tokenizer(" " + word)["input_ids"]) > 1 for word in missing)  # BPE never comes to such a token


def test_held_out_words_are_left_out_whatever_their_case(any_tokenizer):
    everything = random_label_words(any_tokenizer, Template(), [])
    held_out = [everything[0].upper(), f" {everything[5]}", everything[9]]
    rest = random_label_words(any_tokenizer, Template(), held_out)
    assert rest == [word for word in everything if word not in {word.strip().lower() for word in held_out}]


def test_words_of_several_templates_are_words_of_each(any_tokenizer):
    words = common_label_words(any_tokenizer, TEMPLATES, LABELS)
    assert not set(words) & set(LABELS)
    for template in TEMPLATES:
        assert set(words) <= set(random_label_words(any_tokenizer, template, LABELS))
    assert common_label_words(any_tokenizer, TEMPLATES, LABELS, 7) == words[:7]


def test_a_tokenizer_without_words_is_refused():
    with pytest.raises(InputError, match=r"random label words need at least 2 words that are one token each, the tokenizer has 0"):
        common_label_words(train_tokenizer(["ab"], 258), [Template()], [])


@pytest.mark.parametrize("words", [LABELS, ("bad", "utterly wonderful"), ("so-so", "!")])
@pytest.mark.parametrize("template", TEMPLATES)
def test_label_words_have_the_tokens_that_are_scored(any_tokenizer, template, words):
    assert label_token_ids(any_tokenizer, template, words) == list(Verbalizer(words).token_ids(any_tokenizer, template))
