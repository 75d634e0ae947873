"""Weights in and out: stock GPT-2 and stock GPT-NeoX, to and from RoPE GPT-2. Every number is moved, none is computed.

GPT-NeoX with a sequential residual is RoPE GPT-2 under other names: its linear layers hold the transpose of GPT-2's `Conv1D`, and q, k
and v stand head by head, (head, 3, head_dim), where GPT-2 has (3, head, head_dim). A learned position table has no counterpart in it; what
stands in one model and not in the other is refused by name. Dropout is training's matter and is carried as far as both have it.

Let E be embedding, N heads, H = E / N head dimension.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedConfig, PreTrainedModel

from rope_gpt2.errors import InputError
from rope_gpt2.model.configuration import RopeGPT2Config
from rope_gpt2.model.modeling import RopeGPT2ForCausalLM

OUTSIDE = {"transformer.wte": "gpt_neox.embed_in", "transformer.ln_f": "gpt_neox.final_layer_norm", "lm_head": "lm_head"}
IN_A_BLOCK = {
    "ln_1": "input_layernorm",
    "attn.c_attn": "attention.query_key_value",
    "attn.c_proj": "attention.dense",
    "ln_2": "post_attention_layernorm",
    "mlp.c_fc": "mlp.dense_h_to_4h",
    "mlp.c_proj": "mlp.dense_4h_to_h",
}
_GPT2_FIELDS = tuple(GPT2Config.__annotations__)
_Config = TypeVar("_Config", bound=PreTrainedConfig)
_Model = TypeVar("_Model", bound=PreTrainedModel)


def from_gpt2(model: PreTrainedModel, position_encoding: str = "rope") -> RopeGPT2ForCausalLM:
    """A GPT-2 as a RoPE GPT-2.

    Args:
        model: a GPT2LMHeadModel.
        position_encoding: "learned" keeps the position table, and every logit. "rope" drops it: the weights have never seen a rotation, so
            the model must be trained on before it is of use.

    Raises:
        InputError: for another model, cross-attention, or heads that RoPE cannot rotate.
    """
    if type(model) is not GPT2LMHeadModel:
        raise InputError(f"from-gpt2 takes a GPT2LMHeadModel, got {type(model).__name__}; give a GPT-2")
    fields = {name: getattr(model.config, name) for name in _GPT2_FIELDS}
    config = _configured(RopeGPT2Config, fields | {"position_encoding": position_encoding})
    weights = {name: weight for name, weight in model.state_dict().items() if position_encoding == "learned" or ".wpe." not in name}
    return _filled(RopeGPT2ForCausalLM, config, weights, model)


def to_gpt2(model: PreTrainedModel) -> GPT2LMHeadModel:
    """A RoPE GPT-2 with a learned position table as the stock GPT-2 that it is.

    Raises:
        InputError: for another position encoding.
    """
    config = _own_config(model, "to-gpt2")
    if config.position_encoding != "learned":
        raise InputError(
            f"GPT-2 has a learned position table alone, and no position_encoding {config.position_encoding!r}; "
            + ("to-gpt-neox takes this model" if config.position_encoding == "rope" else "no stock model has it")
        )
    return _filled(GPT2LMHeadModel, GPT2Config(**{name: getattr(config, name) for name in _GPT2_FIELDS}), model.state_dict(), model)


def to_gpt_neox(model: PreTrainedModel, tie_head: bool = True) -> GPTNeoXForCausalLM:
    """A RoPE GPT-2 as a stock GPT-NeoX: the same function.

    Args:
        model: a RopeGPT2ForCausalLM of any rope type, fully or partly rotated.
        tie_head: keep a tied head tied; else it becomes a matrix of its own, for programs that know no tied GPT-NeoX.

    Raises:
        InputError: for what GPT-NeoX has no counterpart of.
    """
    config = _own_config(model, "to-gpt-neox")
    for name, only in (("position_encoding", "rope"), ("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False)):
        if getattr(config, name) != only:
            raise InputError(f"GPT-NeoX has no {name} {getattr(config, name)!r}, only {only!r}; this model cannot become one")
    parameters = {"partial_rotary_factor": 1.0, **(config.rope_parameters or {})}  # GPT-NeoX's own default is a quarter
    theirs = GPTNeoXConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.n_embd,
        num_hidden_layers=config.n_layer,
        num_attention_heads=config.n_head,
        intermediate_size=config.n_inner or 4 * config.n_embd,
        hidden_act=config.activation_function,
        attention_dropout=config.attn_pdrop,
        hidden_dropout=config.resid_pdrop,
        max_position_embeddings=config.n_positions,
        initializer_range=config.initializer_range,
        layer_norm_eps=config.layer_norm_epsilon,
        use_cache=config.use_cache,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        tie_word_embeddings=config.tie_word_embeddings and tie_head,
        use_parallel_residual=False,
        rope_parameters=parameters,
    )
    # their names before transformers 5, by which programs that read config.json themselves still go
    theirs.rotary_pct, theirs.rotary_emb_base = parameters["partial_rotary_factor"], parameters["rope_theta"]
    state, weights = model.state_dict(), {}
    for ours, name in _names(config.n_layer):
        for kind in ("weight", "bias"):
            if f"{ours}.{kind}" in state:
                weights[f"{name}.{kind}"] = _to_linear(state[f"{ours}.{kind}"], ours, config.n_head)
    return _filled(GPTNeoXForCausalLM, theirs, weights, model)


def from_gpt_neox(model: PreTrainedModel) -> RopeGPT2ForCausalLM:
    """A stock GPT-NeoX with a sequential residual as a RoPE GPT-2: the same function. Biases that it lacks are zero.

    Raises:
        InputError: for another model, a parallel residual, or a rotation that RoPE GPT-2 does not know.
    """
    if type(model) is not GPTNeoXForCausalLM:
        raise InputError(f"from-gpt-neox takes a GPTNeoXForCausalLM, got {type(model).__name__}; give a GPT-NeoX")
    theirs: Any = model.config
    if theirs.use_parallel_residual:
        raise InputError("RoPE GPT-2 has no use_parallel_residual True, only False; this GPT-NeoX cannot become one")
    parameters = dict(theirs.rope_parameters)
    if parameters.get("partial_rotary_factor") == 1.0:
        del parameters["partial_rotary_factor"]  # our default
    inner = None if theirs.intermediate_size == 4 * theirs.hidden_size else theirs.intermediate_size
    fields = {
        "vocab_size": theirs.vocab_size,
        "n_embd": theirs.hidden_size,
        "n_layer": theirs.num_hidden_layers,
        "n_head": theirs.num_attention_heads,
        "n_inner": inner,
        "n_positions": theirs.max_position_embeddings,
        "activation_function": theirs.hidden_act,
        "attn_pdrop": theirs.attention_dropout,
        "resid_pdrop": theirs.hidden_dropout,
        "embd_pdrop": theirs.hidden_dropout,
        "initializer_range": theirs.initializer_range,
        "layer_norm_epsilon": theirs.layer_norm_eps,
        "use_cache": theirs.use_cache,
        "bos_token_id": theirs.bos_token_id,
        "eos_token_id": theirs.eos_token_id,
        "pad_token_id": theirs.pad_token_id,
        "tie_word_embeddings": theirs.tie_word_embeddings,
        "rope_parameters": parameters,
    }
    config = _configured(RopeGPT2Config, fields)
    state, weights = model.state_dict(), {}
    for ours, name in _names(config.n_layer):
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in state:
                weights[f"{ours}.{kind}"] = _to_conv1d(state[f"{name}.{kind}"], ours, config.n_head)
        if ".attn." in ours and f"{ours}.bias" not in weights:  # attention_bias False
            weight = weights[f"{ours}.weight"]
            weights[f"{ours}.bias"] = weight.new_zeros(weight.shape[1])
    return _filled(RopeGPT2ForCausalLM, config, weights, model)


def _names(n_layer: int) -> Iterator[tuple[str, str]]:
    """Names of the modules with weights, in RoPE GPT-2 and in GPT-NeoX."""
    yield from OUTSIDE.items()
    for index in range(n_layer):
        for ours, theirs in IN_A_BLOCK.items():
            yield f"transformer.h.{index}.{ours}", f"gpt_neox.layers.{index}.{theirs}"


def _to_linear(weight: Tensor, name: str, heads: int) -> Tensor:
    """A weight or bias of GPT-2's module `name` as GPT-NeoX has it."""
    if name.endswith("c_attn"):
        weight = weight.unflatten(-1, (3, heads, -1)).transpose(-3, -2).flatten(-3)  # (..., head * 3 * head_dim)
    return weight.T if ".c_" in name and weight.ndim == 2 else weight


def _to_conv1d(weight: Tensor, name: str, heads: int) -> Tensor:
    """The inverse of `_to_linear`."""
    if ".c_" in name and weight.ndim == 2:
        weight = weight.T
    if name.endswith("c_attn"):
        weight = weight.unflatten(-1, (heads, 3, -1)).transpose(-3, -2).flatten(-3)  # (..., 3 * head * head_dim)
    return weight


def _own_config(model: PreTrainedModel, command: str) -> RopeGPT2Config:
    if not isinstance(model, RopeGPT2ForCausalLM):
        raise InputError(f"{command} takes a RoPE GPT-2, got {type(model).__name__}; give a folder or checkpoint of this package")
    config: Any = model.config
    return config


def _configured(config_class: Callable[..., _Config], fields: dict[str, Any]) -> _Config:
    try:
        return config_class(**fields)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"this model cannot become a RoPE GPT-2: {' '.join(str(error).split())}") from error


def _filled(model_class: Callable[[Any], _Model], config: PreTrainedConfig, weights: dict[str, Tensor], source: PreTrainedModel) -> _Model:
    """A model in evaluation mode with weights of its own, and the generation settings of the one that they come from."""
    with torch.random.fork_rng(devices=[]):  # initial weights, soon replaced, must not move the generator
        model = model_class(config)
    model.to(source.dtype)  # type: ignore[arg-type]  # transformers wraps `to` in a decorator that forgets its types
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - set(model.all_tied_weights_keys):
        raise InputError(f"the model's weights do not fit its configuration ({[*unexpected, *missing][0]}); give another one")
    model.generation_config = copy.deepcopy(source.generation_config)
    return model.eval()
