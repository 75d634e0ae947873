"""Training sequences: what corpora and episodes become, and what the training step takes.

Let B be batch, L length.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

IGNORED = -100  # a target that torch's cross-entropy leaves out


class TrainingSequence(NamedTuple):
    """One sequence, padded on the right.

    Attributes:
        input_ids: [L] int64 token ids.
        targets: [L] int64, the token that follows each; `IGNORED` where nothing is to be learned: at the end, on padding.
        is_label: [L] bool, whether that token belongs to a label word.
        position_ids: [L] int64, starting again at 0 for each document that must not see the one before it; None for one document.
        others: [L] int64, for a label word of one token, that of the other label; None where no label is in doubt.
        doubts: [L] float32, the probability that the other one should stand there; 0 where there is no doubt.
    """

    input_ids: Tensor
    targets: Tensor
    is_label: Tensor
    position_ids: Tensor | None = None
    others: Tensor | None = None
    doubts: Tensor | None = None


class SequenceBatch(NamedTuple):
    """TrainingSequences, stacked: [B, L] each."""

    input_ids: Tensor
    targets: Tensor
    is_label: Tensor
    position_ids: Tensor | None = None
    others: Tensor | None = None
    doubts: Tensor | None = None

    def counts(self) -> Tensor:
        """[2] float32: how many targets are text, and how many are label words."""
        is_text = (self.targets != IGNORED) & ~self.is_label
        return torch.stack((is_text.sum(), self.is_label.sum())).float()


class SequenceSource(Protocol):
    """Sequences of an epoch, each a function of (epoch, index) alone, so that a resumed run sees what an undisturbed one would."""

    def __len__(self) -> int:
        """Sequences in an epoch; the same in every epoch."""

    @property
    def num_tokens(self) -> int:
        """Tokens of an epoch, padding aside."""

    def get(self, epoch: int, index: int) -> TrainingSequence:
        """Sequence `index` of an epoch."""


def collate_sequences(items: Sequence[TrainingSequence]) -> SequenceBatch:
    """Sequences → one batch.

    Where some have position ids, those without are one document each; where some have doubts, the labels of the others are certain.
    """
    length = len(items[0].input_ids)
    return SequenceBatch(
        torch.stack([item.input_ids for item in items]),
        torch.stack([item.targets for item in items]),
        torch.stack([item.is_label for item in items]),
        _stack_some([item.position_ids for item in items], torch.arange(length)),
        _stack_some([item.others for item in items], torch.zeros(length, dtype=torch.int64)),
        _stack_some([item.doubts for item in items], torch.zeros(length)),
    )


def _stack_some(parts: Sequence[Tensor | None], missing: Tensor) -> Tensor | None:
    """Stack parts, with `missing` in the place of None; None where all are."""
    if all(part is None for part in parts):
        return None
    return torch.stack([missing if part is None else part for part in parts])


class Mixture:
    """Sequences of a main source, with those of another one strewn among them.

    An epoch holds every sequence of the main source once. The other source goes on from epoch to epoch, so that none of its sequences
    comes again before all have come.

    Args:
        main: what an epoch goes by.
        other: what is strewn in.
        share: of the other source among the sequences of an epoch, in [0, 1).
        seed: of the order.
    """

    def __init__(self, main: SequenceSource, other: SequenceSource, share: float, seed: int) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"share must lie in [0, 1), got {share}")
        self.main, self.other, self.seed = main, other, seed
        self._others = round(len(main) * share / (1 - share))
        self._order: tuple[int, list[int]] = (-1, [])

    def __len__(self) -> int:
        """Sequences in an epoch."""
        return len(self.main) + self._others

    @property
    def num_tokens(self) -> int:
        """Tokens of an epoch, padding aside; of the other source on average."""
        return self.main.num_tokens + round(self.other.num_tokens * self._others / len(self.other))

    def get(self, epoch: int, index: int) -> TrainingSequence:
        """Sequence `index` of an epoch."""
        if self._order[0] != epoch:
            order = list(range(len(self)))
            random.Random(f"mixture {self.seed} {epoch}").shuffle(order)
            self._order = (epoch, order)
        place = self._order[1][index]
        if place < len(self.main):
            return self.main.get(epoch, place)
        return self.other.get(*divmod(epoch * self._others + place - len(self.main), len(self.other)))
