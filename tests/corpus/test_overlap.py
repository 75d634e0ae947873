"""The guard finds what a plain search finds."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_gpt2.corpus.overlap import OverlapGuard, content_hash, words_of
from rope_gpt2.errors import InputError

TEXT = "one two three four five six seven eight nine ten eleven twelve"


def overlaps(guard: OverlapGuard, *texts: str) -> list[bool]:
    return guard.overlaps([words_of(text) for text in texts]).tolist()


def contains(document: list[str], run: list[str]) -> bool:
    return any(document[start : start + len(run)] == run for start in range(len(document) - len(run) + 1))


def plain(document: list[str], evaluated: list[list[str]], run: int, least: int) -> bool:
    """The rule, word by word."""
    for text in evaluated:
        if text and document == text:
            return True
        if least <= len(text) < run and contains(document, text):
            return True
        if any(contains(document, text[start : start + run]) for start in range(len(text) - run + 1)):
            return True
    return False


WORDS = st.lists(st.sampled_from("abc"), max_size=12)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=6), st.lists(WORDS, max_size=6), st.integers(1, 5), st.integers(0, 4))
def test_the_guard_finds_what_a_plain_search_finds(documents, evaluated, least, more):
    guard = OverlapGuard([" ".join(text) for text in evaluated], least + more, least)
    assert guard.overlaps(documents).tolist() == [plain(document, evaluated, least + more, least) for document in documents]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (TEXT, True),
        (TEXT.upper().replace(" ", ", ") + "!", True),
        ("before " + " ".join(TEXT.split()[1:11]) + " after", True),
        ("before " + " ".join(TEXT.split()[1:10]) + " after", False),
        ("one two three four five, it is", False),
        ("nothing", False),
        ("", False),
        ("...", False),
    ],
)
def test_ten_words_in_a_row_are_an_overlap_and_nine_are_none(document: str, expected: bool):
    assert overlaps(OverlapGuard([TEXT]), document) == [expected]


def test_a_short_text_is_found_within_a_document_from_five_words_on():
    guard = OverlapGuard(["it is a good film", "a bad film", "!!!"])
    assert len(guard) == 2
    assert overlaps(guard, "I say it's: it is a GOOD film.", "it is a good, good film", "this is a bad film", "A bad film!") == [
        True,
        False,
        False,
        True,
    ]


def test_spacing_and_the_treebanks_clitics_make_no_difference():
    treebank = "`` do n't miss it , '' it 's a gem you wo n't forget , café included ."
    typed = "“Don’t miss it,” it’s a gem you won’t forget, cafe\u0301 included."
    assert words_of(treebank) == words_of(typed)
    assert content_hash(treebank, words_of(treebank)) == content_hash(typed, words_of(typed))
    assert overlaps(OverlapGuard([treebank]), typed) == [True]


def test_texts_without_words_differ_by_their_characters():
    assert content_hash("!", []) != content_hash("?", [])
    assert content_hash("!", []) == content_hash("!", [])


def test_a_run_does_not_go_on_from_one_document_into_the_next():
    words = TEXT.split()
    assert overlaps(OverlapGuard([TEXT]), " ".join(words[:6]), " ".join(words[6:])) == [False, False]


def test_a_piece_of_many_documents_is_looked_through_in_place():
    generator = random.Random(0)
    evaluated = [" ".join(generator.choices("abcdefgh", k=12)) for _ in range(50)]
    documents = [[*generator.choices("abcdefgh", k=generator.randint(0, 30))] for _ in range(500)]
    for place in (0, 77, 499):
        documents[place] = ["x", *evaluated[place % 50].split()[1:11], "y"]
    ours = OverlapGuard(evaluated).overlaps(documents).tolist()
    assert ours == [plain(document, [text.split() for text in evaluated], 10, 5) for document in documents]
    assert [ours[place] for place in (0, 77, 499)] == [True] * 3


def test_no_text_overlaps_with_nothing():
    assert overlaps(OverlapGuard([]), "a", "") == [False, False]
    assert overlaps(OverlapGuard([TEXT])) == []


def test_a_run_shorter_than_the_least_is_refused():
    with pytest.raises(InputError, match="least must lie between 1 and run"):
        OverlapGuard([], 4, 5)
