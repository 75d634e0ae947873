"""Position encodings beside RoPE, for comparison: a learned table, sinusoids, linear biases, or nothing.

Let B be batch, N heads, L queries, S keys, E embedding.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

BIASED = ("sdpa", "eager", "rope_gpt2_products")  # attention functions that add a mask of numbers to the scores


class NoPositionTable(nn.Module):
    """Stands where GPT-2 adds its position table, and adds zero: an integer 0 changes neither value nor dtype."""

    def forward(self, position_ids: Tensor) -> Tensor:
        """[B or 1, L] positions to a scalar 0."""
        return position_ids.new_zeros(())


class SinusoidalPositions(nn.Module):
    """Sines and cosines of geometrically spaced wavelengths, 2 pi to 10000 * 2 pi (Vaswani et al. 2017, section 3.5), of any position.

    Sines fill the first half of the dimensions, cosines the second: a permutation of the paper's. The root mean square is `scale`. GPT-2
    starts its embeddings and its learned table at 0.02; unscaled sinusoids (0.7) would drown the tokens.
    """

    like: Tensor

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.width, self.scale = width, scale
        self.register_buffer("like", torch.empty(0), persistent=False)  # has the dtype of the model, of whose weights none is here

    def forward(self, position_ids: Tensor) -> Tensor:
        """[B or 1, L] positions to [B or 1, L, E], computed in float32 and rounded to the model's dtype: GPT-2 adds it as it comes."""
        half = -(-self.width // 2)
        steps = torch.arange(half, device=position_ids.device, dtype=torch.float32)
        angles = position_ids[..., None].float() * torch.exp(steps * (-math.log(10_000.0) / half))
        return torch.cat((angles.sin(), angles.cos()), dim=-1)[..., : self.width].mul(math.sqrt(2) * self.scale).to(self.like.dtype)


def position_table(config: Any) -> nn.Module:
    """What a model adds to its token embeddings: [B or 1, L] positions to [B or 1, L, E], or to a scalar 0."""
    match config.position_encoding:
        case "learned":
            return nn.Embedding(config.n_positions, config.n_embd)
        case "sinusoidal":
            return SinusoidalPositions(config.n_embd, config.initializer_range)
    return NoPositionTable()


def check_table(table: nn.Module, length: int) -> None:
    """Refuse positions that a learned table does not have, which PyTorch names without the table.

    Raises:
        ValueError: if `length` positions exceed it.
    """
    if isinstance(table, nn.Embedding) and length > table.num_embeddings:
        raise ValueError(f"{length} positions exceed the learned position table of {table.num_embeddings}; give a shorter sequence")


def alibi_slopes(heads: int, device: torch.device | None = None) -> Tensor:
    """[N] slopes of ALiBi (Press et al. 2022, section 3): 2^(-8 / N), its square, and so on.

    Where N is no power of two: those of the next smaller power, then every other one of the next larger, as in the paper's own code.
    """
    power = 2 ** int(math.log2(heads))
    exponents = [-8 * (head + 1) / power for head in range(power)]
    exponents += [-8 * (2 * head + 1) / (2 * power) for head in range(heads - power)]
    return torch.tensor(exponents, device=device).exp2()


def alibi_mask(mask: Tensor | None, slopes: Tensor, queries: int, keys: int, seen: int | Tensor, dtype: torch.dtype) -> Tensor:
    """An attention mask with ALiBi's penalty, slope * distance, for attention functions that add it to the scores.

    Distances are those in the sequence, so padding on either side changes nothing, nor do documents that are kept apart.

    Args:
        mask: [B or 1, 1, L, S], True or 0 where a query may look; None for all earlier positions.
        slopes: [N].
        queries, keys: L and S.
        seen: place of the first query among the keys.
        dtype: of the queries.

    Returns:
        [B or 1, N, L, S] in `dtype`; its lowest number where a query may not look, so that a row of padding has no infinity alone.
    """
    places = torch.arange(keys, device=slopes.device)
    distances = (torch.arange(queries, device=slopes.device)[:, None] + seen - places).float()
    bias = (-slopes[:, None, None] * distances)[None]
    lowest = torch.finfo(dtype).min
    if mask is not None and mask.dtype != torch.bool:
        return (mask.float() + bias).clamp(min=lowest).to(dtype)
    allowed = distances >= 0 if mask is None else mask
    return bias.to(dtype).masked_fill(~allowed, lowest)
