"""GPT-2 with rotary position embeddings, as a difference on transformers' own GPT-2 classes.

GPT-2's model hands its keyword arguments to each block and each block to its attention. So positions become (cos, sin) once a
forward pass, travel down as `position_embeddings`, and turn queries and keys inside the attention; the position table is gone.
For comparison, `position_encoding` takes the same body with another encoding (`rope_gpt2.model.positions`), or with none.
Everything else (weights and their names, initialisation, MLP, masks, `generate`, the loss) is inherited.

Let B be batch, N heads, L length, S length with the cache, H head dimension, E = N * H, V vocabulary.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, GPT2LMHeadModel, GPT2Model
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention, GPT2Block, GPT2PreTrainedModel, eager_attention_forward
from transformers.utils.output_capturing import OutputRecorder

from rope_gpt2.model.configuration import RopeGPT2Config
from rope_gpt2.model.positions import BIASED, alibi_mask, alibi_slopes, check_table, position_table
from rope_gpt2.model.rotary import RopeGPT2RotaryEmbedding, rotate
from rope_gpt2.model.shared_prefix import EncodedPrefix, encode_prefix, encode_sequences

# what GPT-2 calls its cache; the newer name came with transformers 5.24
CACHE = "cache" if "cache" in inspect.signature(GPT2Model.forward).parameters else "past_key_values"


class RopeGPT2Attention(GPT2Attention):
    """GPT-2's self-attention with rotated queries and keys, or ALiBi's biases; weights, scaling and dropout are the parent's."""

    def forward(  # type: ignore[override]  # the parent's cross-attention arguments do not exist here
        self,
        hidden_states: Tensor,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        seen: int | Tensor = 0,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            hidden_states: [B, L, E].
            past_key_values, cache: one of the two; keys are stored after rotation, so a cached key is never rotated again.
            attention_mask: whatever the attention function takes ([B, 1, L, S] for sdpa and eager), or None for causal.
            position_embeddings: (cos, sin), each [B or 1, 1, L, R] float32; None for all encodings but rope.
            seen: tokens in the cache before these.

        Returns:
            output [B, L, E], and the attention weights [B, N, L, S] where the attention function makes them.
        """
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = (part.view(heads).transpose(1, 2) for part in self.c_attn(hidden_states).split(self.split_size, dim=2))
        if position_embeddings is not None:
            query, key = (rotate(part, *position_embeddings) for part in (query, key))
        elif self.config.position_encoding == "rope":
            raise ValueError("position_embeddings is missing; call RopeGPT2Model, which computes it from position_ids")
        cache = past_key_values if cache is None else cache
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)

        implementation = self.config._attn_implementation
        if self.config.position_encoding == "alibi":
            if implementation not in BIASED:
                raise ValueError(f"alibi needs attention that adds biases ({', '.join(BIASED)}), got {implementation}; choose one of them")
            slopes = alibi_slopes(self.num_heads, query.device)
            attention_mask = alibi_mask(attention_mask, slopes, query.shape[2], key.shape[2], seen, query.dtype)
        if implementation == "eager" and self.reorder_and_upcast_attn:
            output, weights = self._upcast_and_reordered_attn(query, key, value, attention_mask)
        else:
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
            dropout = self.attn_dropout.p if self.training else 0.0
            output, weights = attend(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
        output = self.c_proj(output.reshape(*hidden_states.shape).contiguous())
        return self.resid_dropout(output), weights


class RopeGPT2Block(GPT2Block):
    """GPT-2's block around the rotary attention."""

    def __init__(self, config: RopeGPT2Config, layer_idx: int | None = None) -> None:
        super().__init__(config, layer_idx=layer_idx)
        self.attn = RopeGPT2Attention(config, layer_idx=layer_idx)


class RopeGPT2PreTrainedModel(GPT2PreTrainedModel):
    """Names and abilities that transformers looks up on the class."""

    config_class = RopeGPT2Config
    _no_split_modules = ["RopeGPT2Block"]
    _supports_flex_attn = True
    _can_record_outputs = {
        "hidden_states": RopeGPT2Block,
        "attentions": OutputRecorder(RopeGPT2Attention, layer_name=".attn", index=1),
    }

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # For classes outside transformers the parent passes over modules without weights of their own, attention and MLP among
        # them, and GPT-2's scaling of c_proj by 1 / sqrt(2 * n_layer) would silently not take place.
        super()._initialize_weights(module)


class RopeGPT2Model(RopeGPT2PreTrainedModel, GPT2Model):
    """GPT-2 without a position table: positions enter as rotations only, or as `config.position_encoding` says."""

    def __init__(self, config: RopeGPT2Config) -> None:
        GPT2PreTrainedModel.__init__(self, config)  # not GPT2Model's, which would make the table and the plain blocks
        self.embed_dim = config.n_embd
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = position_table(config)  # type: ignore[assignment]
        self.rotary = RopeGPT2RotaryEmbedding(config) if config.position_encoding == "rope" else None
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList([RopeGPT2Block(config, layer_idx=index) for index in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """GPT2Model's forward, with (cos, sin) computed once and handed to every block.

        Args:
            input_ids, inputs_embeds: [B, L] or [B, L, E], one of the two.
            past_key_values, cache: one of the two, a cache of rotated keys, and of values.
            attention_mask: [B, S], 1 for a token and 0 for padding on either side; or 4-dimensional as transformers takes it.
            position_ids: [B or 1, L]; by default they go on from the cache. Only their differences matter, so left padding needs
                none (it does for the encodings learned and sinusoidal). As in all of transformers, ids that jump mark documents kept
                apart, where neither mask nor cache is used.

        Returns:
            transformers' output with `last_hidden_state` [B, L, E].
        """
        tokens = input_ids if inputs_embeds is None else inputs_embeds
        if tokens is None:
            raise ValueError("give input_ids or inputs_embeds")
        cache = past_key_values if cache is None else cache
        seen = cache.get_seq_length() + 0 if cache is not None else 0  # a static cache's own count goes on
        if position_ids is None:
            check_table(self.wpe, seen + tokens.shape[1])
            position_ids = (torch.arange(tokens.shape[1], device=tokens.device) + seen).unsqueeze(0)
        rotation = None
        if self.rotary is not None:
            cos, sin = self.rotary(tokens, position_ids.view(-1, position_ids.shape[-1]))
            rotation = (cos.unsqueeze(1), sin.unsqueeze(1))  # (batch, 1, seq, rotary_dim)
        return super().forward(
            input_ids=input_ids,
            **{CACHE: cache},
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            position_embeddings=rotation,
            seen=seen,
            **kwargs,
        )


class RopeGPT2ForCausalLM(RopeGPT2PreTrainedModel, GPT2LMHeadModel):
    """RoPE GPT-2 with the tied language-model head; `forward`, `generate` and the loss are GPT2LMHeadModel's.

    The name matters: transformers takes the loss from the ending `ForCausalLM`, and warns at each loss for `LMHeadModel`.
    """

    transformer: RopeGPT2Model

    def __init__(self, config: RopeGPT2Config) -> None:
        GPT2PreTrainedModel.__init__(self, config)
        self.transformer = RopeGPT2Model(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    def shares_prefix(self, length: int) -> bool:
        """Whether `encode_sequences` gives the states of a whole pass, for prefix and sequence of so many tokens together.

        `dynamic` and `longrope` choose their frequencies by the longest position of a pass: the keys of a prefix that was encoded alone
        differ from those of a whole pass once that exceeds the original context.
        """
        if self.config.reorder_and_upcast_attn:
            return False
        if self.transformer.rotary is None:
            return True
        match self.transformer.rotary.rope_type:
            case "dynamic":
                return length <= self.config.n_positions
            case "longrope":
                return length <= self.config.rope_parameters["original_max_position_embeddings"]
        return True

    def encode_prefix(self, prefix_ids: Tensor) -> EncodedPrefix:
        """[P] token ids → what `encode_sequences` needs of them; see `rope_gpt2.model.shared_prefix`."""
        return encode_prefix(self.transformer, prefix_ids)

    def encode_sequences(self, prefix: EncodedPrefix, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """[B, L] token ids behind the prefix → [B, K, E] last hidden states at `positions` [B, K], or at all."""
        return encode_sequences(self.transformer, prefix, ids, positions)


AutoModel.register(RopeGPT2Config, RopeGPT2Model)
AutoModelForCausalLM.register(RopeGPT2Config, RopeGPT2ForCausalLM)
