"""Causal attention as two matrix products and a softmax, for short sequences on a CPU.

PyTorch's fused attention on a CPU walks over blocks of keys, which saves memory where sequences are long. At a few hundred positions the
products of the whole score matrix are faster, forward and backward, once torch.compile fuses what lies between them.

Let B be batch, N heads, L length, H head dimension.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

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
        attention_mask: [B or 1, 1, L, L], True or 0 where a query may look; None for all earlier positions. It gets no gradient.
        dropout: probability, in [0, 1), on the attention weights.
        scaling: of the scores; None for 1 / sqrt(H).

    Returns:
        [B, L, N, H], and None: the weights are not kept.
    """
    scores = _Scores.apply(query * (query.shape[-1] ** -0.5 if scaling is None else scaling), key)
    weights = nn.functional.dropout(cast("Tensor", _Weights.apply(scores, attention_mask)), dropout, module.training)
    return torch.matmul(weights, value).transpose(1, 2), None


class _Scores(torch.autograd.Function):
    """query · key. Its backward writes the gradient of a key as it does that of a query, [B, N, L, H].

    torch's own writes it as [B, N, H, L]. What reads that turns tiles of it, and where a compiled kernel turns two, as the two halves of
    a rotation, GCC 12 at -O3 makes wrong code for some processors: the gradients are garbage (RESULTS.md, Speed).
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor) -> Tensor:
        ctx.save_for_backward(query, key)
        return torch.matmul(query, key.transpose(-1, -2))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor]:
        query, key = ctx.saved_tensors
        gradient = upstream[0].to(key.dtype)
        return torch.matmul(gradient, key), torch.matmul(gradient.transpose(-1, -2), query)


class _Weights(torch.autograd.Function):
    """The softmax over the positions that a mask allows. Its backward reads the weights and nothing else of the forward pass.

    Left to autograd, compiled code would keep the scores, and exponentiate and mask them again. Forward, the steps of the softmax are
    named one by one: torch.compile then takes them row by row, where `softmax` writes all exponentials to memory in float32.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            places = torch.arange(scores.shape[-1], device=scores.device, dtype=torch.int32)  # half as wide to compare as int64
            mask = places[None, :] <= places[:, None]
        values = scores.float()
        values = values.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else values + mask
        largest = values.amax(dim=-1, keepdim=True)
        totals = (values - largest).exp().sum(dim=-1, keepdim=True)
        weights = ((values - largest).exp() / totals).to(scores.dtype)
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        products = weights.float() * upstream[0].float()
        return (products - weights * products.sum(dim=-1, keepdim=True)).to(weights.dtype), None


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
