"""Hidden states of many short sequences that follow one shared prefix: the prefix is encoded once, and never copied.

The same function as `RopeGPT2Model.forward` on prefix + sequence, rearranged for inference on many sequences at once:

- queries attend to the prefix's keys as one product for the whole batch, and to their own sequence apart; the two softmaxes are merged
  by their log-sum-exp, as flash attention merges its blocks (Dao et al. 2022, section 3.1; Juravsky et al. 2024, "Hydragen", section 3);
- sequences are padded on the right, behind everything that is read: causal attention then needs no mask;
- the first block's queries, keys and values before rotation depend on the token alone: they are computed once for each different token
  (unless positions are added to the embeddings);
- the last block computes keys and values for all positions, the rest for the positions asked for only.

Let B be batch, L sequence length, P prefix length, N heads, H head dimension, E = N * H, K positions read of each sequence.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers.activations import NewGELUActivation

from rope_gpt2.model.positions import NoPositionTable, alibi_slopes, check_table
from rope_gpt2.model.rotary import rotate

if TYPE_CHECKING:
    from rope_gpt2.model.modeling import RopeGPT2Attention, RopeGPT2Block, RopeGPT2Model


@dataclass(frozen=True, slots=True)
class EncodedPrefix:
    """What sequences after a prefix need of it.

    Attributes:
        length: P, in tokens.
        layers: for every block, rotated keys and values, each [1, N, P, H]; empty for P = 0.
    """

    length: int
    layers: tuple[tuple[Tensor, Tensor], ...] = ()


@dataclass(frozen=True, slots=True)
class _Positions:
    """How positions enter attention.

    Attributes:
        tables: (cos, sin), each [L, 1, R], for every batch row and head alike; None without rotation.
        slopes: [N] of ALiBi, or None.
    """

    tables: tuple[Tensor, Tensor] | None
    slopes: Tensor | None

    def rotate(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        """Turn x [B, L, N, H]; with `places` [B, K], x [B, K, N, H] stands there."""
        if self.tables is None:
            return x
        return rotate(x, *(self.tables if places is None else (table[places] for table in self.tables)))

    def bias(self, start: int, length: int) -> Tensor | None:
        """[N, length] of keys from place `start` on, counted from the end of the prefix.

        ALiBi subtracts slope * (query - key); what hangs on the query alone changes no softmax, nor the share of two that are merged.
        """
        if self.slopes is None:
            return None
        return self.slopes[:, None] * torch.arange(start, start + length, device=self.slopes.device)


@torch.no_grad()
def encode_prefix(model: "RopeGPT2Model", prefix_ids: Tensor) -> EncodedPrefix:
    """Keys and values of a prefix.

    Args:
        model: in evaluation mode.
        prefix_ids: [P] token ids, P may be 0.
    """
    if not prefix_ids.numel():
        return EncodedPrefix(0)
    output = model(prefix_ids[None], use_cache=True)
    return EncodedPrefix(prefix_ids.numel(), tuple((layer.keys, layer.values) for layer in output.past_key_values.layers))


@torch.no_grad()
def encode_sequences(model: "RopeGPT2Model", prefix: EncodedPrefix, ids: Tensor, positions: Tensor | None = None) -> Tensor:
    """Last hidden states (after the final layer norm) of sequences that each follow the prefix.

    Args:
        model: in evaluation mode.
        prefix: of this very model.
        ids: [B, L] token ids, padded on the right with any id.
        positions: [B, K] places in each sequence whose states are wanted, in [0, L); None for all.

    Returns:
        [B, K, E] (or [B, L, E]) in the model's dtype.
    """
    length = ids.shape[1]
    check_table(model.wpe, prefix.length + length)
    places = prefix.length + torch.arange(length, device=ids.device)[None]
    encoding = _positions(model, ids, places)
    if isinstance(model.wpe, NoPositionTable):
        different, back = ids.unique(return_inverse=True)
        embedded = model.wte(different)
        hidden = embedded[back]
    else:
        hidden = embedded = model.wte(ids) + model.wpe(places).to(model.wte.weight.dtype)
        back = None
    for index, block in enumerate(cast("Iterable[RopeGPT2Block]", model.h)):
        shared = prefix.layers[index] if prefix.length else None
        if positions is not None and index == len(model.h) - 1:
            attended = _attend_from(cast("RopeGPT2Attention", block.attn), block.ln_1(hidden), positions, shared, encoding)
            hidden = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))
        else:
            projected = block.attn.c_attn(block.ln_1(hidden if index else embedded))
            if not index and back is not None:
                projected = projected[back]
            parts = _split_heads(projected, encoding, block.attn.num_heads)
            attended = _attend_all(*parts, shared, block.attn.scaling, encoding)
        hidden += block.attn.c_proj(attended.flatten(2))
        hidden += _feed_forward(block, block.ln_2(hidden))
    return model.ln_f(hidden)


def _positions(model: "RopeGPT2Model", ids: Tensor, places: Tensor) -> _Positions:
    if model.rotary is not None:
        cos, sin = model.rotary(ids, places)  # (1, seq, rotary_dim)
        return _Positions((cos[0, :, None], sin[0, :, None]), None)
    return _Positions(None, alibi_slopes(model.config.n_head, ids.device) if model.config.position_encoding == "alibi" else None)


def _split_heads(projected: Tensor, encoding: _Positions, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """[B, L, 3E] → rotated query and key, and value, each [B, L, N, H]."""
    size, length, width = projected.shape
    parts = projected.view(size, length, 3 * heads, width // (3 * heads))
    turned = encoding.rotate(parts[:, :, : 2 * heads])
    return turned[:, :, :heads], turned[:, :, heads:], parts[:, :, 2 * heads :]


def _attend_all(
    query: Tensor, key: Tensor, value: Tensor, shared: tuple[Tensor, Tensor] | None, scaling: float, encoding: _Positions
) -> Tensor:
    """Causal attention of every position, [B, L, N, H] each, to its own sequence and to the shared prefix."""
    own_bias = encoding.bias(0, key.shape[1])
    own, own_lse = _attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), scaling, is_causal=True, bias=own_bias)
    if shared is None:
        return own.transpose(1, 2)
    flat = query.reshape(1, -1, *query.shape[2:]).transpose(1, 2)  # (1, head, batch * seq, head_dim): one product for all
    length = shared[0].shape[2]
    far, far_lse = _attention(flat, *shared, scaling, is_causal=False, bias=encoding.bias(-length, length))
    far, far_lse = far.transpose(1, 2).view_as(query), far_lse.transpose(1, 2).view(query.shape[:3])
    share = torch.sigmoid(far_lse - own_lse.transpose(1, 2))[..., None].to(query.dtype)  # of the softmax's mass, on the prefix
    return torch.lerp(own.transpose(1, 2), far, share)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, is_causal: bool, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention [B, N, L, H] and its log-sum-exp [B, N, L] float32; `bias` [N, S] of the keys is added to the scores."""
    if query.device.type == "cpu" and bias is None:
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return attend(query, key, value, 0.0, is_causal, scale=scaling)
    return _attention_by_products(query, key, value, scaling, is_causal, bias)


def _attention_by_products(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, is_causal: bool, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What `_attention` gives, where no kernel gives the log-sum-exp as well."""
    scores = (query @ key.transpose(-1, -2)).float() * scaling
    if bias is not None:
        scores += bias[:, None]
    if is_causal:
        scores += torch.full(scores.shape[-2:], float("-inf"), device=scores.device).triu(1)
    lse = scores.logsumexp(dim=-1)
    return (scores - lse[..., None]).exp().to(value.dtype) @ value, lse


def _attend_from(
    attention: "RopeGPT2Attention",
    normed: Tensor,
    positions: Tensor,
    shared: tuple[Tensor, Tensor] | None,
    encoding: _Positions,
) -> Tensor:
    """Attention of the wanted positions [B, K] of normed states [B, L, E], each to its sequence up to itself and to the shared prefix.

    Queries are projected for these positions alone, keys and values for all.
    """
    width, heads = attention.embed_dim, attention.num_heads
    weight, bias = attention.c_attn.weight, attention.c_attn.bias
    wanted = normed.gather(1, positions[..., None].expand(-1, -1, width))
    query = functional.linear(wanted, weight[:, :width].T, bias[:width]).unflatten(-1, (heads, -1))  # (batch, wanted, head, head_dim)
    pairs = functional.linear(normed, weight[:, width:].T, bias[width:]).unflatten(-1, (2 * heads, -1))
    query = encoding.rotate(query, positions)
    key, value = encoding.rotate(pairs[:, :, :heads]), pairs[:, :, heads:]
    scores = torch.einsum("bknh,blnh->bknl", query, key).float() * attention.scaling
    behind = torch.arange(key.shape[1], device=key.device) > positions[..., None, None]
    scores = scores.masked_fill(behind, float("-inf"))
    length = 0 if shared is None else shared[0].shape[2]
    if shared is not None:
        scores = torch.cat((torch.einsum("bknh,nph->bknp", query, shared[0][0]).float() * attention.scaling, scores), dim=-1)
    penalty = encoding.bias(-length, scores.shape[-1])
    if penalty is not None:
        scores = scores + penalty
    weights = scores.softmax(dim=-1).to(value.dtype)
    own = torch.einsum("bknl,blnh->bknh", weights[..., length:], value)
    if shared is None:
        return own
    return own + torch.einsum("bknp,nph->bknh", weights[..., :length], shared[1][0])


def _feed_forward(block: "RopeGPT2Block", hidden: Tensor) -> Tensor:
    """GPT-2's MLP; its tanh approximation of GELU by torch's fused kernel, in place, instead of eight passes over memory."""
    mlp = block.mlp
    inner = mlp.c_fc(hidden)
    inner = torch.ops.aten.gelu_(inner, approximate="tanh") if isinstance(mlp.act, NewGELUActivation) else mlp.act(inner)
    return mlp.c_proj(inner)
