"""Training sequences: batches of them, and two sources mixed."""

from collections import Counter

import pytest
import torch

from rope_gpt2.sequences import Mixture, TrainingSequence, collate_sequences


class Numbered:
    """A source whose sequences say which they are."""

    def __init__(self, name: int, length: int) -> None:
        self.name, self.length = name, length

    def __len__(self) -> int:
        return self.length

    @property
    def num_tokens(self) -> int:
        return 10 * self.length

    def get(self, epoch: int, index: int) -> TrainingSequence:
        assert 0 <= index < self.length
        place = torch.tensor([self.name, epoch, index])
        return TrainingSequence(place, place, place > 0)


def served(mixture: Mixture, epoch: int) -> list[tuple[int, ...]]:
    """(source, epoch, index) of all sequences of an epoch, in order."""
    return [tuple(mixture.get(epoch, index).input_ids.tolist()) for index in range(len(mixture))]


@pytest.mark.parametrize(("main", "share"), [(7, 0.5), (10, 0.3), (1, 0.9), (20, 0.01), (5, 0.0)])
def test_every_main_sequence_comes_once_an_epoch_and_the_other_has_its_share(main: int, share: float):
    mixture = Mixture(Numbered(0, main), Numbered(1, 4), share, seed=3)
    for epoch in range(3):
        sequences = served(mixture, epoch)
        assert sorted(one for one in sequences if one[0] == 0) == [(0, epoch, index) for index in range(main)]
        assert abs(sum(one[0] for one in sequences) - share * len(sequences)) <= 0.5


@pytest.mark.parametrize("other", [1, 3, 4, 50])
def test_no_other_sequence_comes_again_before_all_have_come(other: int):
    mixture = Mixture(Numbered(0, 10), Numbered(1, other), 0.3, seed=0)
    come: Counter[tuple[int, ...]] = Counter()
    for epoch in range(9):
        come += Counter(one[1:] for one in served(mixture, epoch) if one[0] == 1)
    assert set(come.values()) == {1}
    assert sorted(come) == [divmod(place, other) for place in range(come.total())]


def test_a_sequence_is_a_function_of_epoch_and_index_alone():
    whole = {
        (epoch, index): one
        for epoch in range(3)
        for index, one in enumerate(served(Mixture(Numbered(0, 9), Numbered(1, 5), 0.4, 1), epoch))
    }
    mixture = Mixture(Numbered(0, 9), Numbered(1, 5), 0.4, 1)
    for place in [(2, 7), (0, 3), (2, 1), (1, 14), (0, 0)]:
        assert tuple(mixture.get(*place).input_ids.tolist()) == whole[place]


def test_the_two_sources_are_shuffled_together_anew_in_each_epoch_and_for_each_seed():
    orders = {
        (seed, epoch): [one[0] for one in served(Mixture(Numbered(0, 40), Numbered(1, 40), 0.5, seed), epoch)]
        for seed in range(2)
        for epoch in range(2)
    }
    assert len({tuple(order) for order in orders.values()}) == 4
    for order in orders.values():
        assert 8 <= sum(order[:40]) <= 32  # neither source stands in front


def test_the_tokens_of_an_epoch_are_those_of_both_sources():
    mixture = Mixture(Numbered(0, 30), Numbered(1, 7), 0.25, seed=0)
    assert len(mixture) == 40
    assert mixture.num_tokens == 400


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0])
def test_a_share_out_of_range_is_refused(share: float):
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\), got"):
        Mixture(Numbered(0, 3), Numbered(1, 3), share, seed=0)


def test_a_batch_stacks_its_sequences():
    items = [Numbered(0, 3).get(0, index) for index in range(3)]
    batch = collate_sequences(items)
    assert batch.position_ids is None
    for name in ("input_ids", "targets", "is_label"):
        assert torch.equal(getattr(batch, name), torch.stack([getattr(item, name) for item in items]))
    positions = [item._replace(position_ids=torch.arange(3) + index) for index, item in enumerate(items)]
    assert torch.equal(collate_sequences(positions).position_ids, torch.stack([item.position_ids for item in positions]))


def test_a_sequence_without_positions_is_one_document_beside_those_with_them():
    item, apart = Numbered(0, 3).get(0, 0), torch.tensor([0, 0, 1])
    batch = collate_sequences([item, item._replace(position_ids=apart)])
    assert torch.equal(batch.position_ids, torch.stack([torch.arange(3), apart]))


def test_a_sequence_without_doubts_has_none_beside_those_with_them():
    item = Numbered(0, 3).get(0, 0)
    others, doubts = torch.tensor([0, 5, 0]), torch.tensor([0.0, 0.25, 0.0])
    batch = collate_sequences([item, item._replace(others=others, doubts=doubts)])
    assert torch.equal(batch.others, torch.stack([torch.zeros_like(others), others]))
    assert torch.equal(batch.doubts, torch.stack([torch.zeros(3), doubts]))
    assert collate_sequences([item, item]).doubts is None
