"""Prompts → padded tensors with their row ids.

Let B be batch, P prefix length, Q query length.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from rope_gpt2.fewshot.prompts import Prompt


class PromptBatch:
    """Prompts that share their demonstrations.

    An ordinary class with `to`, which Lightning calls; tuples and dataclasses it takes apart, down to the frozen prompts.

    Attributes:
        prefix_ids: [P] token ids of the shared demonstrations; P = 0 for none.
        query_ids: [B, Q] token ids, padded on the left.
        query_mask: [B, Q], 1 for a token and 0 for padding.
        prompts: the B prompts, in the order of the rows of the tensors.
    """

    def __init__(self, prefix_ids: Tensor, query_ids: Tensor, query_mask: Tensor, prompts: tuple[Prompt, ...]) -> None:
        self.prefix_ids, self.query_ids, self.query_mask, self.prompts = prefix_ids, query_ids, query_mask, prompts

    def to(self, device: torch.device | str, **_: Any) -> "PromptBatch":
        """The batch with its tensors on a device; token ids have no other dtype to go to."""
        return PromptBatch(self.prefix_ids.to(device), self.query_ids.to(device), self.query_mask.to(device), self.prompts)


def group_prompts(prompts: Iterable[Prompt], batch_size: int) -> list[tuple[Prompt, ...]]:
    """Groups of prompts with one condition and one prefix, the longest queries first, so that padding is short.

    Args:
        prompts: prompts of one or more conditions, in any order.
        batch_size: prompts in a group, at most.
    """

    def key(prompt: Prompt) -> tuple[int, int, tuple[int, ...], int, int]:
        condition = prompt.condition
        return condition.shots, condition.demonstration_seed, prompt.prefix_ids, -len(prompt.query_ids), prompt.query.row

    groups: list[tuple[Prompt, ...]] = []
    for _, shared in groupby(sorted(prompts, key=key), key=lambda prompt: key(prompt)[:3]):
        members = tuple(shared)
        groups += [members[start : start + batch_size] for start in range(0, len(members), batch_size)]
    return groups


def collate_prompts(prompts: Sequence[Prompt], pad_token_id: int) -> PromptBatch:
    """Prompts with one prefix → tensors, padded on the left so that the last position is the label's."""
    length = max(len(prompt.query_ids) for prompt in prompts)
    ids = [[pad_token_id] * (length - len(prompt.query_ids)) + list(prompt.query_ids) for prompt in prompts]
    mask = [[0] * (length - len(prompt.query_ids)) + [1] * len(prompt.query_ids) for prompt in prompts]
    prefix = torch.tensor(prompts[0].prefix_ids, dtype=torch.long)
    return PromptBatch(prefix, torch.tensor(ids), torch.tensor(mask), tuple(prompts))
