"""Examples → training sequences: labelled examples packed one after another, every label a target.

The first label of a sequence is a 0-shot task, the second a 1-shot task, and so on: one sequence trains every number of shots
(in-context tuning, Min et al. 2022; Chen et al. 2022). Every epoch shuffles the examples anew; what stands in a sequence is a
function of (seed, epoch, index) alone, so a resumed run sees what an undisturbed one would have seen.

Let B be batch, L length.
"""

import heapq
import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.examples import Example
from rope_gpt2.fewshot.template import Template
from rope_gpt2.fewshot.verbalizer import Verbalizer

IGNORED = -100  # a target that torch's cross-entropy leaves out


class EpisodeBatch(NamedTuple):
    """Training sequences, padded on the right.

    Attributes:
        input_ids: [B, L] token ids.
        targets: [B, L], the token that follows each; `IGNORED` at the end and on padding.
        is_label: [B, L] bool, whether that token belongs to a label word.
    """

    input_ids: Tensor
    targets: Tensor
    is_label: Tensor


class Episodes:
    """Packs examples into sequences of at most `max_length` tokens; each example stands in an epoch once, whole.

    Args:
        examples: training examples; a longer one than `max_length` is left out and counted in `left_out`.
        tokenizer, template, verbalizer: as for prompts.
        max_length: tokens in a sequence.
        seed: of the order of the examples.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        verbalizer: Verbalizer,
        max_length: int,
        seed: int,
    ) -> None:
        self.max_length, self.seed = max_length, seed
        self.pad_token_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        texts = [template.demonstration(example.review, verbalizer.word(example.sentiment)) for example in examples]
        labels = dict(zip(verbalizer.words, verbalizer.token_ids(tokenizer, template), strict=True))
        self._label_lengths = [len(labels[verbalizer.word(example.sentiment)]) for example in examples]
        self._first = _tokenize(tokenizer, texts)
        self._later = _tokenize(tokenizer, [template.separator + text for text in texts])
        self._fitting = [index for index, ids in enumerate(self._later) if len(ids) <= max_length]
        self.left_out = len(examples) - len(self._fitting)
        if not self._fitting:
            raise InputError(f"no training review fits {max_length} tokens; raise data.max_length or shorten the reviews")
        self._count = self._fewest_sequences()
        self._packed: tuple[int, list[list[int]]] = (-1, [])

    def __len__(self) -> int:
        """Sequences in an epoch."""
        return self._count

    @property
    def num_tokens(self) -> int:
        """Tokens of an epoch, padding aside."""
        return sum(len(self._later[index]) for index in self._fitting)

    def get(self, epoch: int, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sequence `index` of an epoch: input ids, targets and label mask, [max_length] each."""
        if self._packed[0] != epoch:
            self._packed = (epoch, self._pack(epoch))
        ids: list[int] = []
        is_label: list[bool] = []
        for member in self._packed[1][index]:
            piece = self._later[member] if ids else self._first[member]
            ids += piece
            is_label += [False] * (len(piece) - self._label_lengths[member]) + [True] * self._label_lengths[member]
        padding = self.max_length - len(ids)
        tokens = torch.tensor(ids + [self.pad_token_id] * padding)
        targets = torch.tensor([*ids[1:], IGNORED] + [IGNORED] * padding)
        return tokens, targets, torch.tensor([*is_label[1:], False] + [False] * padding)

    def _pack(self, epoch: int) -> list[list[int]]:
        """The members of every sequence of an epoch, in random order within and among the sequences."""
        generator = random.Random(f"episodes {self.seed} {epoch}")
        order = generator.sample(self._fitting, len(self._fitting))
        sequences = self._fill(order, self._count) or []
        for sequence in sequences:
            generator.shuffle(sequence)
        generator.shuffle(sequences)
        return sequences

    def _fewest_sequences(self) -> int:
        count = -(-self.num_tokens // self.max_length)
        while self._fill(self._fitting, count) is None:
            count += 1 + count // 500
        return count

    def _fill(self, order: Sequence[int], count: int) -> list[list[int]] | None:
        """Each example, the longest first, into the emptiest of `count` sequences; None if one has no room.

        How full the sequences get depends on the lengths alone, not on `order`: so every epoch has the same number of sequences.
        """
        rooms = [(0, place) for place in range(count)]
        sequences: list[list[int]] = [[] for _ in rooms]
        for index in sorted(order, key=lambda index: -len(self._later[index])):
            filled, place = heapq.heappop(rooms)
            filled += len(self._later[index])
            if filled > self.max_length:
                return None
            sequences[place].append(index)
            heapq.heappush(rooms, (filled, place))
        return sequences


def _tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    options = {"add_special_tokens": False, "split_special_tokens": True, "return_attention_mask": False, "verbose": False}
    return tokenizer(texts, **options)["input_ids"]


def collate_episodes(items: Sequence[tuple[Tensor, Tensor, Tensor]]) -> EpisodeBatch:
    """Sequences → one batch."""
    return EpisodeBatch(*(torch.stack(tensors) for tensors in zip(*items, strict=True)))
