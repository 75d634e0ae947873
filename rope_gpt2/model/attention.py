"""Causal attention as two matrix products and a softmax, for short sequences on a CPU.

PyTorch's fused attention on a CPU walks over blocks of keys, which saves memory where sequences are long. At a few hundred positions the
products of the whole score matrix are faster, forward and backward, once torch.compile fuses what lies between them.

Let B be batch, N heads, L length, H head dimension.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

PRODUCTS = "rope_gpt2_products"
LONGEST = 512  # positions; beyond them the score matrix costs more than it saves


def attend_by_products(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """softmax(query · key / sqrt(H)) · value over earlier positions (Vaswani et al. 2017, eq. 1), the softmax in float32.

    Args:
        module: the attention layer, as transformers hands it on; its training mode switches dropout.
        query, key, value: [B, N, L, H]; as many keys as queries.
        attention_mask: [B or 1, 1, L, L], True or 0 where a query may look; None for all earlier positions.
        dropout: probability, in [0, 1), on the attention weights.
        scaling: of the scores; None for 1 / sqrt(H).

    Returns:
        [B, L, N, H], and None: the weights are not kept.
    """
    length = query.shape[2]
    scores = torch.matmul(query * (query.shape[-1] ** -0.5 if scaling is None else scaling), key.transpose(-1, -2)).float()
    if attention_mask is None:
        places = torch.arange(length, device=query.device)
        scores = scores.masked_fill(places[None, :] > places[:, None], float("-inf"))
    elif attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    else:
        scores = scores + attention_mask
    weights = nn.functional.dropout(scores.softmax(dim=-1).to(value.dtype), dropout, module.training)
    return torch.matmul(weights, value).transpose(1, 2), None


AttentionInterface.register(PRODUCTS, attend_by_products)
AttentionMaskInterface.register(PRODUCTS, sdpa_mask)  # without one of its own, packed documents would silently see one another


@contextmanager
def attention_by_products(model: PreTrainedModel) -> Iterator[None]:
    """Have a model attend by products for the time being."""
    before = model.config._attn_implementation
    model.config._attn_implementation = PRODUCTS
    try:
        yield
    finally:
        model.config._attn_implementation = before
