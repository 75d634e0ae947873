"""An epoch is its documents in random order, cut into windows: nothing twice, nothing lost but the end."""

import pickle

import numpy as np
import pytest
import torch

from rope_gpt2.corpus.packing import PackedDocuments
from rope_gpt2.errors import InputError
from rope_gpt2.sequences import IGNORED, Mixture, collate_sequences


@pytest.fixture
def cache(texts, make_cache):
    return make_cache(texts)


def stream(cache, packed: PackedDocuments, epoch: int) -> list[int]:
    """The tokens of an epoch, put together one document after another."""
    return [token for place in packed.order(epoch) for token in cache.document(packed.documents[place]).tolist()]


@pytest.mark.parametrize("length", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("documents", [slice(None), slice(5, 300, 3)])
def test_windows_are_the_stream_of_an_epoch_and_targets_the_tokens_that_follow(cache, length, documents):
    packed = PackedDocuments(cache, np.arange(len(cache))[documents], length, seed=3)
    for epoch in (0, 5):
        whole = stream(cache, packed, epoch)
        assert len(packed) == (len(whole) - 1) // length
        assert packed.num_tokens == len(packed) * length
        items = [packed.get(epoch, index) for index in range(len(packed))]
        assert torch.cat([item.input_ids for item in items]).tolist() == whole[: len(packed) * length]
        assert torch.cat([item.targets for item in items]).tolist() == whole[1 : len(packed) * length + 1]
        assert not any(item.is_label.any() or item.position_ids is not None for item in items)


def test_an_epoch_holds_every_document_once_and_another_epoch_or_seed_has_another_order(cache):
    orders = [PackedDocuments(cache, np.arange(len(cache)), 16, seed=seed).order(epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(len(cache))) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_a_sequence_is_a_function_of_seed_epoch_and_index(cache):
    """So that a run that goes on sees what an undisturbed one sees."""
    packed = PackedDocuments(cache, np.arange(len(cache)), 32, seed=1)
    theirs = {(epoch, index): packed.get(epoch, index).input_ids.tolist() for epoch in range(3) for index in range(len(packed))}
    fresh = pickle.loads(pickle.dumps(packed))
    places = list(theirs)
    np.random.default_rng(0).shuffle(places)
    for epoch, index in places[:100]:
        assert fresh.get(epoch, index).input_ids.tolist() == theirs[epoch, index]
        assert fresh.get(epoch, index).targets.tolist()[:-1] == theirs[epoch, index][1:]


def test_epochs_asked_for_by_turns_are_put_in_order_once(cache, monkeypatch):
    """So that text strewn among other sequences costs no order of all its documents for each of them."""
    packed = PackedDocuments(cache, np.arange(len(cache)), 32)
    made, order = [], packed.order
    monkeypatch.setattr(packed, "order", lambda epoch: made.append(epoch) or order(epoch))
    mixture = Mixture(packed, packed, 0.4, seed=0)
    for epoch in range(4):
        for index in range(len(mixture)):
            mixture.get(epoch, index)
    assert len(made) <= 2 * len(set(made))  # of a main and another source


def test_documents_keep_their_order_without_shuffling(cache):
    packed = PackedDocuments(cache, np.arange(len(cache)), 16, shuffle=False)
    tokens = cache.tokens[: packed.num_tokens].tolist()
    for epoch in (0, 1):
        assert torch.cat([packed.get(epoch, index).input_ids for index in range(len(packed))]).tolist() == tokens


@pytest.mark.parametrize("length", [1, 7, 64, 1000])
def test_separate_documents_begin_at_position_0_and_predict_nothing_of_the_next(cache, tokenizer, length):
    documents = np.arange(len(cache))
    together = PackedDocuments(cache, documents, length, seed=2)
    apart = PackedDocuments(cache, documents, length, seed=2, separate_documents=True)
    for index in range(len(apart)):
        item, plain = apart.get(1, index), together.get(1, index)
        assert torch.equal(item.input_ids, plain.input_ids)
        ends = item.input_ids == tokenizer.eos_token_id
        assert torch.equal(item.targets, torch.where(ends, IGNORED, plain.targets))
        position, expected = 0, []
        for is_end in ends.tolist():
            expected.append(position)
            position = 0 if is_end else position + 1
        assert item.position_ids is not None
        assert item.position_ids.tolist() == expected


def test_sequences_collate(cache):
    for separate in (False, True):
        packed = PackedDocuments(cache, np.arange(len(cache)), 16, separate_documents=separate)
        batch = collate_sequences([packed.get(0, index) for index in range(4)])
        assert batch.input_ids.shape == batch.targets.shape == batch.is_label.shape == (4, 16)
        assert batch.input_ids.dtype == batch.targets.dtype == torch.int64
        assert (batch.position_ids is not None) == separate


def test_a_document_may_be_longer_than_many_sequences(make_cache):
    cache = make_cache(["word " * 2000, "b", "c"])
    packed = PackedDocuments(cache, np.arange(3), 50, separate_documents=True)
    assert len(packed) == (cache.num_tokens - 1) // 50
    item = packed.get(0, len(packed) // 2)
    assert item.position_ids is not None
    assert item.position_ids.tolist() == list(range(50))


def test_what_does_not_fill_a_sequence_is_refused(cache):
    with pytest.raises(InputError, match="fewer than a sequence of 100000"):
        PackedDocuments(cache, np.arange(3), 100_000)
    with pytest.raises(InputError, match="at least 1 token, got 0"):
        PackedDocuments(cache, np.arange(3), 0)
    with pytest.raises(InputError, match="0 documents have 0 tokens"):
        PackedDocuments(cache, np.arange(0), 4)
    with pytest.raises(IndexError):
        PackedDocuments(cache, np.arange(9), 4).get(0, 10_000)
