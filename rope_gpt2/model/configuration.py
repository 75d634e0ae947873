"""The shape of a RoPE GPT-2: `GPT2Config` plus `rope_parameters`, with what would fail silently refused.

GPT-2's fields keep their names and defaults (Radford et al. 2019); `rope_parameters` is transformers' own dictionary, so that
every rope type of transformers works here. `n_positions` is the length of the training context, in tokens: it limits nothing in
the model, and is what the scalings (yarn, longrope, llama3, dynamic) take as the original context.
"""

import math
from typing import Any

from transformers import AutoConfig, GPT2Config
from transformers.modeling_rope_utils import RopeParameters

POSITION_ENCODINGS = ("rope", "learned", "sinusoidal", "none", "alibi")
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")

# Keys that transformers itself writes or passes and that are no fields of the class.
_TRANSFORMERS_KEYS = frozenset(
    {
        *("_name_or_path", "name_or_path", "_commit_hash", "_attn_implementation", "attn_implementation", "experts_implementation"),
        *("_attn_implementation_internal", "_experts_implementation", "model_type", "torch_dtype", "num_labels", "auto_map"),
        *("output_attentions", "rope_scaling", "rope_theta", "partial_rotary_factor", "use_cache", "quantization_config"),
        *("is_decoder", "tie_last_hidden_states", "per_layer_config", "id2label", "label2id"),
    }
)


class RopeGPT2Config(GPT2Config):
    """Configuration of `RopeGPT2ForCausalLM`; all fields of `transformers.GPT2Config`, and:

    Args:
        rope_parameters: `{"rope_type": ..., "rope_theta": ..., ...}` as transformers defines it; None for
            `{"rope_type": "default", "rope_theta": 10000.0}` (Su et al. 2021, section 3.2.2). `partial_rotary_factor` in (0, 1]
            rotates only the first part of each head.
        position_encoding: "rope", or for comparison in the same body: "learned" (GPT-2's own table, of n_positions), "sinusoidal"
            (Vaswani et al. 2017), "alibi" (Press et al. 2022), "none" (the causal mask alone; Haviv et al. 2022).

    Raises:
        ValueError: for an unknown position encoding, a scaling of RoPE with another encoding, an odd rotary dimension, an unknown
            rope type, an unknown key, cross-attention, or heads that do not divide the embedding.
    """

    model_type = "rope_gpt2"

    rope_parameters: RopeParameters | dict[str, Any] | None = None
    position_encoding: str = "rope"

    def __post_init__(self, **kwargs: Any) -> None:
        # transformers would set an unknown key as an attribute and go on: a misspelt field would train another model.
        known = _TRANSFORMERS_KEYS | set(self.attribute_map)
        if unknown := sorted(key for key in kwargs if key not in known):
            raise ValueError(f"unknown RopeGPT2Config field {unknown[0]!r}; fields are those of GPT2Config and 'rope_parameters'")
        # transformers completes the dictionary in place: never the caller's own
        if self.rope_parameters is not None:
            self.rope_parameters = checked_copy(dict(self.rope_parameters))
        if kwargs.get("rope_scaling") is not None:  # its older name
            kwargs["rope_scaling"] = checked_copy(kwargs["rope_scaling"])
        super().__post_init__(**kwargs)
        self.check_rope()

    def check_rope(self) -> None:
        """Refuse what the rotation cannot do.

        Raises:
            ValueError: with the rule, the value and the remedy.
        """
        if self.add_cross_attention:
            raise ValueError("add_cross_attention=True is not supported: RopeGPT2 is a decoder alone; set it to False")
        for name in ("n_embd", "n_head", "n_layer", "n_positions", "vocab_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}; choose a larger one")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd must be divisible by n_head, got {self.n_embd} and {self.n_head}; choose another n_head")
        if self.position_encoding not in POSITION_ENCODINGS:
            known = ", ".join(POSITION_ENCODINGS)
            raise ValueError(f"position_encoding must be one of {known}, got {self.position_encoding!r}; choose one of them")
        parameters: dict[str, Any] = dict(self.rope_parameters or {})
        if self.position_encoding != "rope":
            if (rope_type := parameters.get("rope_type", "default")) != "default":
                raise ValueError(f"rope_type {rope_type!r} needs position_encoding 'rope', got {self.position_encoding!r}; leave one out")
            return
        theta = parameters.get("rope_theta", 10_000.0)
        if not _is_number(theta) or theta <= 1:
            raise ValueError(f"rope_theta must be a finite number above 1, got {theta!r}; 10000.0 is usual")
        fraction = parameters.get("partial_rotary_factor", 1.0)
        if not _is_number(fraction) or not 0 < fraction <= 1:
            raise ValueError(f"partial_rotary_factor must be a number in (0, 1], got {fraction!r}; 1.0 rotates the whole head")
        rotary_dim = int(self.head_dim * fraction)
        if rotary_dim < 2 or rotary_dim % 2:
            raise ValueError(
                f"the rotary dimension must be even and at least 2, got {rotary_dim} (n_embd {self.n_embd} / n_head {self.n_head} "
                f"* partial_rotary_factor {fraction}); choose n_embd and n_head for an even head size"
            )
        try:
            self.validate_rope()  # the keys that each type needs; transformers itself runs it on saving only
        except KeyError as error:
            raise ValueError(f"{error.args[0]}; add them to rope_parameters") from error

    @property
    def head_dim(self) -> int:
        """Size of one attention head, in dimensions."""
        return self.n_embd // self.n_head


def checked_copy(parameters: dict[str, Any]) -> dict[str, Any]:
    """A copy of `rope_parameters`, refused with an unknown rope type or key: transformers passes over a misspelt one.

    Raises:
        ValueError: with the rule, the value and the remedy.
    """
    rope_type = parameters.get("rope_type", parameters.get("type", "default"))
    if rope_type not in ROPE_TYPES:
        raise ValueError(f"rope_type must be one of {', '.join(ROPE_TYPES)}, got {rope_type!r}; choose one of them")
    known = {*RopeParameters.__annotations__, "type"}
    if unknown := sorted(set(parameters) - known):
        raise ValueError(f"unknown key {unknown[0]!r} in rope_parameters; known are {', '.join(sorted(known))}")
    return dict(parameters)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


AutoConfig.register("rope_gpt2", RopeGPT2Config)
