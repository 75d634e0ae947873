"""Prompts → padded tensors with their row ids.

Let B be batch, P prefix length, Q query length.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from rope_gpt2.fewshot.prompts import Prompt


class PromptBatch(NamedTuple):
    """Prompts that share their demonstrations. A named tuple, so that Lightning moves its tensors to the device.

    Attributes:
        prefix_ids: [P] token ids of the shared demonstrations; P = 0 for none.
        query_ids: [B, Q] token ids, padded on the left.
        query_mask: [B, Q], 1 for a token and 0 for padding.
        prompts: the B prompts, in the order of the rows of the tensors.
    """

    prefix_ids: Tensor
    query_ids: Tensor
    query_mask: Tensor
    prompts: tuple[Prompt, ...]


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
