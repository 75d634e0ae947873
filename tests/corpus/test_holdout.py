"""Held-out documents and their equals never train, neither a model nor a tokenizer."""

import numpy as np
import pytest

from rope_gpt2.corpus.holdout import drop_same, mix, smallest, split_holdout
from rope_gpt2.corpus.sources import find_sources
from rope_gpt2.corpus.stream import DocumentStream
from rope_gpt2.errors import InputError


def tokens_of(cache, documents) -> set[bytes]:
    return {cache.document(index).tobytes() for index in documents}


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_equal_documents_are_never_on_both_sides(texts, make_cache, seed):
    cache = make_cache([*texts, *texts[::2], *(text.upper() + "!" for text in texts[::5])])
    train, held_out = split_holdout(cache, 50, seed)
    assert len(held_out) == 50
    assert len(tokens_of(cache, held_out)) == 50
    assert not tokens_of(cache, train) & tokens_of(cache, held_out)
    words = [cache.hashes[part, 0].tolist() for part in (train, held_out)]
    assert not set(words[0]) & set(words[1])
    assert set(words[0]) | set(words[1]) == set(cache.hashes[:, 0].tolist())


def test_the_choice_depends_on_the_seed_and_not_on_the_order_of_the_files(texts, make_cache):
    def chosen(documents, seed):
        cache = make_cache(documents)
        return tokens_of(cache, split_holdout(cache, 40, seed)[1])

    assert chosen(texts, 0) == chosen(texts[::-1], 0) != chosen(texts, 1)


def test_every_document_is_as_likely_to_be_held_out(texts, make_cache):
    cache = make_cache(texts)
    counts = np.zeros(len(cache))
    for seed in range(300):
        counts[split_holdout(cache, 100, seed)[1]] += 1
    # binomial: 75 on average, 7.5 standard deviation
    assert 35 < counts.min() < counts.max() < 115
    assert 6 < counts.std() < 9


def test_documents_of_the_same_tokens_are_the_same_even_with_other_words(texts, make_cache):
    cache = make_cache(texts)
    hashes = cache.hashes[:3].copy()
    hashes[0, 0] += 1
    hashes[1, 1] += 1
    hashes[2] += 1
    assert np.array_equal(drop_same(cache, np.arange(len(cache)), hashes), np.arange(2, len(cache)))


@pytest.mark.parametrize("count", [201, -1])
def test_holding_out_more_than_half_is_refused(texts, make_cache, count):
    with pytest.raises(InputError, match=f"holdout must lie between 0 and 200, half of the different documents, got {count}"):
        split_holdout(make_cache(texts), count, 0)
    train, held_out = split_holdout(make_cache(texts), 0, 0)
    assert (len(train), len(held_out)) == (400, 0)


def test_mixing_loses_no_hash():
    values = np.arange(10_000, dtype=np.uint64)
    assert len(np.unique(mix(values, 0))) == 10_000
    assert smallest(np.array([3, 1, 1, 2], np.uint64), 2).tolist() == [1, 2]


@pytest.mark.parametrize("count", [0, 30, 390, 1000])
def test_no_held_out_document_is_in_the_sample_for_a_tokenizer(texts, make_cache, tmp_path, count):
    cache = make_cache(texts)
    _, held_out = split_holdout(cache, 50, 3)
    sample = DocumentStream(find_sources(str(tmp_path / "made.txt"))).sample(count, 50, 3)
    assert len(sample) == min(count or 400, 350)
    assert len(set(sample)) == len(sample)
    assert not set(sample) & {texts[index] for index in held_out}
    assert set(sample) <= set(texts)


def test_a_part_of_the_text_still_gives_no_held_out_document(texts, make_cache, tmp_path):
    cache = make_cache(texts)
    _, held_out = split_holdout(cache, 50, 3)
    part = tmp_path / "part.txt"
    part.write_text("\n".join(texts[:100]))
    sample = DocumentStream(find_sources(str(part))).sample(0, 50, 3)
    assert len(sample) == 50
    assert not set(sample) & {texts[index] for index in held_out}


def test_avoided_documents_are_not_in_the_sample(texts, make_cache, tmp_path):
    cache = make_cache(texts)
    sample = DocumentStream(find_sources(str(tmp_path / "made.txt"))).sample(0, avoid=cache.hashes[:100, 0])
    assert sorted(sample) == sorted(texts[100:])


def test_overlapping_documents_are_not_in_the_sample(texts, tmp_path):
    path, evaluated = tmp_path / "a.txt", tmp_path / "b.txt"
    path.write_text("\n".join(texts))
    evaluated.write_text("\n".join(texts[:40]))
    stream = DocumentStream(find_sources(str(path)), exclude=find_sources(str(evaluated)))
    assert not set(stream.sample(0)) & set(texts[:40])
