"""Label words: as many tokens as they need, told apart by the tokenizer, found in what a model wrote."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import ROOT

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.template import Template
from rope_gpt2.fewshot.verbalizer import Verbalizer
from rope_gpt2.model.tokenizer import load_tokenizer

WORDS = [("negative", "positive"), ("terrible", "great"), ("utterly dismal", "quite wonderful"), ("bad", "not bad at all"), ("-", "+")]


@pytest.mark.parametrize("words", WORDS)
def test_token_ids_are_those_of_the_word_behind_a_prompt(tokenizer, words):
    template = Template()
    prompt = template.query("Dull.")
    before = tokenizer(prompt)["input_ids"]
    for label, ours in zip(LABELS, Verbalizer(words).token_ids(tokenizer, template), strict=True):
        whole = tokenizer(template.demonstration("Dull.", Verbalizer(words).word(label)))["input_ids"]
        assert list(ours) == whole[len(before) :]


def test_a_label_word_may_be_several_tokens(tokenizer):
    one, several = (Verbalizer(words).token_ids(tokenizer, Template()) for words in (WORDS[0], WORDS[2]))
    assert [len(ids) for ids in one] == [1, 1]
    assert all(len(ids) > 1 for ids in several)


def test_words_stand_for_labels_in_their_order():
    assert [Verbalizer(("terrible", "great")).word(label) for label in LABELS] == ["terrible", "great"]


def test_space_around_words_is_dropped():
    assert Verbalizer((" terrible ", "great\n")) == Verbalizer(("terrible", "great"))


@pytest.mark.parametrize("words", [("bad",), ("bad", "so so", "good"), ("bad", " "), ("", "good"), ("bad", "bad"), ("good", " GOOD")])
def test_words_that_are_not_two_and_different_are_refused(words):
    with pytest.raises(InputError, match=r"label words must be 2 different words, for negative and positive, got .*; mend them"):
        Verbalizer(words)


def test_words_that_the_tokenizer_makes_the_same_are_refused(tokenizer):
    with pytest.raises(InputError, match=r"label words \['good!', 'good !'\] are not told apart by the tokenizer: .*; choose others"):
        Verbalizer(("good!", "good !")).token_ids(tokenizer, Template())


@pytest.mark.parametrize("words", [(":)", "sad"), ("sad", ":)")])
def test_a_template_that_joins_either_label_word_to_what_stands_before_it_is_refused(words):
    tokenizer = load_tokenizer(str(ROOT / "checkpoints/mini"))
    with pytest.raises(InputError, match="joins the label word 'sad' to what stands before it"):
        Verbalizer(words).token_ids(tokenizer, Template("Review: {text}\nSentiment:{label}\n\n"))


@pytest.mark.parametrize(
    ("text", "theirs"),
    [
        (" negative", "negative"),
        (" Positive.\nReview: it was negative", "positive"),
        ("NEGATIVE, not positive", "negative"),
        ("so so", None),
        ("", None),
        (" posit ive", None),
    ],
)
def test_the_label_of_the_first_word_is_found(text, theirs):
    assert Verbalizer().find(text) == theirs


def test_of_two_words_at_one_place_the_longer_is_found():
    verbalizer = Verbalizer(("good", "good fun"))
    assert verbalizer.find("A good fun film") == "positive"
    assert verbalizer.find("A good film, good fun") == "negative"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["negative", "positive", "Positive", "NEGATIVE", "so", "film"])))
def test_the_label_found_is_that_of_the_first_label_word_in_the_text(words):
    theirs = next((word.lower() for word in words if word.lower() in LABELS), None)
    assert Verbalizer().find(" ".join(words)) == theirs
