"""Prompts → padded tensors with their rows, as few tokens as the scores need.

What all prompts of a batch begin with (their demonstrations, and the words of the template before the review) is its prefix and stands
there once. Let B be batch, P prefix length, Q query length, C labels.
"""

from collections.abc import Iterator, Sequence
from os.path import commonprefix
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rope_gpt2.fewshot.prompts import Ids, Prompt
from rope_gpt2.fewshot.verbalizer import Verbalizer

_FULL_ENOUGH, _EVEN = 0.35, 0.95  # on SST-2: 3 % padding instead of 8, for nine more passes
_SHARED_BY = 3  # prompts; a prefix that fewer of them share is cheaper as a part of each than as a pass of its own


class Item(NamedTuple):
    """A piece of work that is written to disk at once: some rows under one condition.

    Attributes:
        window: which rows, as the number of their piece of the file.
        condition: index of the condition in the run's grid.
    """

    window: int
    condition: int


class PromptBatch:
    """Prompts that share a prefix.

    An ordinary class with `to`, which Lightning calls; tuples and dataclasses it takes apart, down to the frozen prompts.

    Attributes:
        prefix_ids: [P] token ids of the shared prefix; P = 0 for none.
        query_ids: [B, Q] token ids, padded on the right.
        lengths: [B] tokens of each query, at least 1.
        prompts: the B prompts, in the order of the rows of the tensors.
        label_token_ids: token ids of each label word.
        heads: for the noisy channel, what stands between prefix and query for each label; else empty.
        item: the work that these prompts are a part of.
        is_last: whether they complete it.
        verbalizer: the label words, for what looks for them in a generated text.
    """

    def __init__(
        self,
        prefix_ids: Tensor,
        query_ids: Tensor,
        lengths: Tensor,
        prompts: tuple[Prompt, ...],
        label_token_ids: tuple[Ids, ...],
        heads: tuple[Ids, ...] = (),
        item: Item = Item(0, 0),  # noqa: B008  # a constant
        is_last: bool = True,
        verbalizer: Verbalizer | None = None,
    ) -> None:
        self.prefix_ids, self.query_ids, self.lengths, self.prompts = prefix_ids, query_ids, lengths, prompts
        self.label_token_ids, self.heads, self.item, self.is_last = label_token_ids, heads, item, is_last
        self.verbalizer = verbalizer or Verbalizer()

    def to(self, device: torch.device | str, **_: Any) -> "PromptBatch":
        """The batch with its tensors on a device; token ids have no other dtype to go to."""
        return self._with(self.prefix_ids.to(device), self.query_ids.to(device), self.lengths.to(device), self.prompts)

    def halves(self) -> "tuple[PromptBatch, PromptBatch]":
        """Two batches with half of the prompts each, for less memory."""
        middle = len(self.prompts) // 2
        parts = (slice(None, middle), slice(middle, None))
        first, second = (self._with(self.prefix_ids, self.query_ids[part], self.lengths[part], self.prompts[part]) for part in parts)
        return first, second

    def only(self, place: int) -> "PromptBatch":
        """The batch of one of its prompts, without padding."""
        length = int(self.lengths[place])
        part = slice(place, place + 1)
        return self._with(self.prefix_ids, self.query_ids[part, :length], self.lengths[part], self.prompts[part])

    def _with(self, prefix_ids: Tensor, query_ids: Tensor, lengths: Tensor, prompts: tuple[Prompt, ...]) -> "PromptBatch":
        return PromptBatch(
            prefix_ids, query_ids, lengths, prompts, self.label_token_ids, self.heads, self.item, self.is_last, self.verbalizer
        )


class Group(NamedTuple):
    """Prompts to score together.

    Attributes:
        shared: how many tokens all of them begin with, which are encoded once.
        prompts: of about equal lengths.
    """

    shared: int
    prompts: tuple[Prompt, ...]


def group_prompts(prompts: Sequence[Prompt], batch_tokens: int, channel: bool = False) -> list[Group]:
    """Groups of prompts that share their demonstrations, each of about equal lengths, so that padding is short.

    Prompts whose demonstrations hardly another one shares go together, each with its own.

    Args:
        prompts: prompts of one condition, in any order.
        batch_tokens: tokens of queries in a group, padding included, at most (but one query at least).
        channel: the noisy channel puts a label between demonstrations and review, so only the demonstrations are shared.
    """
    by_prefix: dict[Ids, list[Prompt]] = {}
    for prompt in prompts:
        by_prefix.setdefault(prompt.prefix_ids, []).append(prompt)
    families = list(by_prefix.values())
    if not channel:
        few = [prompt for family in families if len(family) < _SHARED_BY for prompt in family]
        families = [family for family in families if len(family) >= _SHARED_BY] + ([few] if few else [])
    groups: list[Group] = []
    for family in families:
        # one token is left to every query: its state is what the label is read from
        whole = [prompt.prefix_ids + prompt.query_ids for prompt in family]
        shared = len(family[0].prefix_ids) if channel else min(len(commonprefix(whole)), min(map(len, whole)) - 1)  # noqa: RUF071
        groups += [Group(shared, members) for members in _pack(family, [len(ids) - shared for ids in whole], batch_tokens)]
    return groups


def _pack(prompts: Sequence[Prompt], lengths: Sequence[int], batch_tokens: int) -> Iterator[tuple[Prompt, ...]]:
    """The longest first, so that the first of a group tells its padded length.

    A group ends when it is full, or full enough while the next prompt would be padded by more than a twentieth.
    """
    group: list[Prompt] = []
    longest = 0
    for length, prompt in sorted(zip(lengths, prompts, strict=True), key=lambda pair: (-pair[0], pair[1].query.row)):
        is_full = longest * (len(group) + 1) > batch_tokens
        if group and (is_full or (longest * len(group) > batch_tokens * _FULL_ENOUGH and length < longest * _EVEN)):
            yield tuple(group)
            group = []
        longest = longest if group else length
        group.append(prompt)
    if group:
        yield tuple(group)


def collate_prompts(
    group: Group,
    label_token_ids: Sequence[Ids],
    heads: Sequence[Ids] = (),
    item: Item = Item(0, 0),  # noqa: B008  # a constant
    is_last: bool = True,
    verbalizer: Verbalizer | None = None,
) -> PromptBatch:
    """A group of prompts → tensors, padded on the right with 0.

    Args:
        group: prompts of one condition.
        label_token_ids, heads, item, is_last, verbalizer: as in `PromptBatch`.
    """
    whole = [prompt.prefix_ids + prompt.query_ids for prompt in group.prompts]
    rest = [ids[group.shared :] for ids in whole]
    length = max(map(len, rest))
    return PromptBatch(
        torch.tensor(whole[0][: group.shared], dtype=torch.long),
        torch.tensor([ids + (0,) * (length - len(ids)) for ids in rest]),
        torch.tensor([len(ids) for ids in rest]),
        group.prompts,
        tuple(label_token_ids),
        tuple(heads),
        item,
        is_last,
        verbalizer,
    )
