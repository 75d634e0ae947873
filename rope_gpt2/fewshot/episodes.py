"""Examples → training sequences: labelled examples packed one after another, every label a target.

The first label of a sequence is a 0-shot task, the second a 1-shot task, and so on: one sequence trains every number of shots
(in-context tuning, Min et al. 2022; Chen et al. 2022). Every epoch shuffles the examples anew; what stands in a sequence is a
function of (seed, epoch, index) alone, so a resumed run sees what an undisturbed one would have seen.

Let B be batch, L length.
"""

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
        texts = [template.separator + template.demonstration(example.review, verbalizer.word(example.sentiment)) for example in examples]
        encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        labels = dict(zip(verbalizer.words, verbalizer.token_ids(tokenizer, template), strict=True))
        self._label_lengths = [len(labels[verbalizer.word(example.sentiment)]) for example in examples]
        self._separator_length = len(tokenizer(template.separator + template.before, add_special_tokens=False)["input_ids"]) - len(
            tokenizer(template.before, add_special_tokens=False)["input_ids"]
        )
        self._pieces = [ids if len(ids) <= max_length else None for ids in encoded]
        self.left_out = sum(ids is None for ids in self._pieces)
        if self.left_out == len(encoded):
            raise InputError(f"no training review fits {max_length} tokens; raise data.max_length or shorten the reviews")
        self._packed_epoch = -1
        self._packed: list[list[int]] = []
        self._count = len(self._pack(0))

    def __len__(self) -> int:
        """Sequences in an epoch."""
        return self._count

    @property
    def num_tokens(self) -> int:
        """Tokens of an epoch, padding aside."""
        return sum(len(ids) for ids in self._pieces if ids is not None)

    def get(self, epoch: int, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sequence `index` of an epoch: input ids, targets and label mask, [max_length] each."""
        packed = self._pack(epoch)
        members = packed[index % len(packed)]  # the number of sequences differs a little between epochs
        ids: list[int] = []
        is_label: list[bool] = []
        for place, member in enumerate(members):
            piece = self._pieces[member] or []
            piece = piece[self._separator_length :] if place == 0 else piece
            ids += piece
            is_label += [False] * (len(piece) - self._label_lengths[member]) + [True] * self._label_lengths[member]
        padding = self.max_length - len(ids)
        tokens = torch.tensor(ids + [self.pad_token_id] * padding)
        targets = torch.tensor([*ids[1:], IGNORED] + [IGNORED] * padding)
        return tokens, targets, torch.tensor([*is_label[1:], False] + [False] * padding)

    def _pack(self, epoch: int) -> list[list[int]]:
        if epoch != self._packed_epoch:
            order = [index for index, ids in enumerate(self._pieces) if ids is not None]
            random.Random(f"episodes {self.seed} {epoch}").shuffle(order)
            packed: list[list[int]] = [[]]
            length = 0
            for index in order:
                size = len(self._pieces[index] or ())
                if length + size > self.max_length:
                    packed.append([])
                    length = 0
                packed[-1].append(index)
                length += size
            self._packed_epoch, self._packed = epoch, packed
        return self._packed


def collate_episodes(items: Sequence[tuple[Tensor, Tensor, Tensor]]) -> EpisodeBatch:
    """Sequences → one batch."""
    return EpisodeBatch(*(torch.stack(tensors) for tensors in zip(*items, strict=True)))
