"""The demonstrations that are nearest to a review."""

import numpy as np
import pytest
from drawing import draw, make_pool, rows
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from rope_gpt2.fewshot import demonstrations as module
from rope_gpt2.fewshot.conditions import Condition
from rope_gpt2.fewshot.demonstrations import DemonstrationSampler, Pool
from rope_gpt2.fewshot.examples import LABELS, Example

WORDS = [
    "a",
    "dull",
    ",",
    "long",
    "film",
    "with",
    "one",
    "fine",
    "scene",
    "and",
    "no",
    "end",
    "to",
    "it",
    ";",
    "best",
    "joke",
    "told",
    "twice",
]


def made_up_reviews(count: int, seed: int) -> list[Example]:
    generator = np.random.default_rng(seed)
    texts = [" ".join(generator.choice(WORDS, size=generator.integers(2, 9))) for _ in range(count)]
    return [Example(row, text, LABELS[row % 2]) for row, text in enumerate(texts, start=1)]


def similarities(pool, query) -> np.ndarray:
    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+")
    vectors = vectorizer.fit_transform([example.review for example in pool]).toarray()
    wanted = vectorizer.transform([query.review]).toarray()[0]
    return np.array([vector @ wanted / max(1e-12, np.linalg.norm(vector) * np.linalg.norm(wanted)) for vector in vectors])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100), st.integers(1, 6), st.booleans(), st.booleans())
def test_the_nearest_are_those_of_a_brute_force_search_nearest_last(seed, shots, from_pool, prepared):
    pool = made_up_reviews(40, seed)
    queries = pool[:10] if from_pool else made_up_reviews(10, seed + 1000)
    sampler = DemonstrationSampler(Pool(pool), Condition(shots, selection="similar"))
    if prepared:
        sampler.prepare(queries)
    for query in queries:
        likeness = dict(zip((example.row for example in pool), similarities(pool, query), strict=True))
        allowed = [example for example in pool if example.review != query.review and not (from_pool and example.row == query.row)]
        theirs = sorted((likeness[example.row] for example in allowed), reverse=True)[:shots]
        ours = rows(sampler.sample(query, from_pool))
        assert len(set(ours)) == shots
        assert set(ours) <= {example.row for example in allowed}
        np.testing.assert_allclose([likeness[row] for row in reversed(ours)], theirs, atol=1e-6)


def test_of_equally_near_examples_the_earlier_is_taken():
    pool = [Example(row, text, LABELS[row % 2]) for row, text in enumerate(["x y", "a b", "b a", "a b ", "x"], start=1)]
    assert rows(draw(pool, 2, 0, "similar", query=Example(1, "a b c", "negative"))) == [3, 2]


def test_queries_are_told_apart_by_their_texts():
    """Files number their rows alike."""
    pool = Pool(made_up_reviews(40, 0))
    first, second = (made_up_reviews(10, seed) for seed in (1, 2))
    condition = Condition(4, selection="similar")
    for queries in (first, second, first):
        sampler = DemonstrationSampler(pool, condition)
        sampler.prepare(queries)
        for query in queries:
            assert sampler.sample(query, False) == DemonstrationSampler(Pool(pool.examples), condition).sample(query, False)


def test_neighbours_are_found_piece_by_piece_and_once_for_all_conditions(monkeypatch):
    pool, queries = Pool(made_up_reviews(40, 0)), made_up_reviews(25, 1)
    theirs = pool.nearest(queries, 12)
    monkeypatch.setattr(module, "_NEIGHBOUR_ROWS", 4)
    assert Pool(pool.examples).nearest(queries, 12) == theirs
    monkeypatch.setattr(TfidfVectorizer, "transform", None)
    assert pool.nearest(queries, 5) == [line[:5] for line in theirs]


def test_a_text_of_unknown_words_has_neighbours_too():
    assert len(draw(make_pool(20), 4, 0, "similar", query=Example(1, "Ω", "negative"))) == 4
    assert len(draw(make_pool(20), 4, 0, "similar", query=Example(-1, "", "negative"))) == 4


@pytest.mark.parametrize("labels", ["gold", "random"])
def test_the_nearest_do_not_depend_on_the_seed_but_for_random_labels(labels):
    pool = made_up_reviews(40, 0)
    ours = [draw(pool, 6, seed, "similar", demonstration_labels=labels) for seed in range(10)]
    assert len(set(map(tuple, map(rows, ours)))) == 1
    assert (len(set(ours)) == 1) == (labels == "gold")


def test_the_nearest_are_not_shared():
    assert DemonstrationSampler(Pool(make_pool(20)), Condition(4, selection="similar")).shared is None
    assert DemonstrationSampler(Pool(make_pool(20)), Condition(0, selection="similar")).shared == ()
