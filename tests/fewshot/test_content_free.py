"""Content-free inputs are those of the papers, always the same for one pool, and made of its words."""

import pytest

from rope_gpt2.fewshot.content_free import CONTENT_FREE_KINDS, content_free_inputs
from rope_gpt2.fewshot.examples import LABELS, Example

POOL = [Example(row, " ".join(f"word{(row * place) % 50}" for place in range(5 + row % 11)), LABELS[row % 2]) for row in range(1, 500)]


def test_contextual_inputs_are_the_three_of_the_paper():
    assert content_free_inputs(["contextual"], POOL) == [("contextual", "N/A"), ("contextual", "[MASK]"), ("contextual", "")]


def test_domain_inputs_are_twenty_texts_of_the_average_length_in_words_of_the_pool():
    ours = content_free_inputs(["domain"], POOL)
    assert [item.kind for item in ours] == ["domain"] * 20
    words = {word for example in POOL for word in example.review.split()}
    average = sum(len(example.review.split()) for example in POOL) / len(POOL)
    assert len({item.text for item in ours}) == 20
    for item in ours:
        assert set(item.text.split()) <= words
        assert abs(len(item.text.split()) - average) <= 1


def test_pmi_has_one_input_without_a_text():
    assert content_free_inputs(["pmi"], POOL) == [("pmi", "")]


@pytest.mark.parametrize("kinds", [(), ("pmi",), ("pmi", "contextual"), ("domain", "contextual", "pmi")])
def test_kinds_are_those_asked_for_in_one_order(kinds):
    ours = content_free_inputs(kinds, POOL)
    assert list(dict.fromkeys(item.kind for item in ours)) == [kind for kind in CONTENT_FREE_KINDS if kind in kinds]
    assert ours == [item for kind in CONTENT_FREE_KINDS if kind in kinds for item in content_free_inputs([kind], POOL)]


def test_inputs_are_a_function_of_the_pool():
    assert content_free_inputs(CONTENT_FREE_KINDS, POOL) == content_free_inputs(list(CONTENT_FREE_KINDS), list(POOL))
    assert content_free_inputs(["domain"], POOL) != content_free_inputs(["domain"], POOL[:50])


def test_a_pool_of_one_word_is_enough():
    assert {item.text for item in content_free_inputs(["domain"], [Example(1, " Dull ", "negative")])} == {"Dull"}
