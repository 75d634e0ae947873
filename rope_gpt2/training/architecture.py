"""A model's shape as flat, typed scalars, as command lines and checkpoints hold it, and the configuration that they make."""

from collections.abc import Mapping
from typing import Any

from rope_gpt2.errors import InputError
from rope_gpt2.model.configuration import RopeGPT2Config
from rope_gpt2.model.scaling import check_scaling, scaling_parameters

# What no scalar stands for: the same in all models that are trained here
FIXED = (
    "n_inner",
    "rope_parameters",
    "activation_function",
    "layer_norm_epsilon",
    "tie_word_embeddings",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn",
)
OF_CONTEXT = ("dynamic", "yarn", "llama3", "longrope")  # rope types that stretch the context that n_positions names


def model_config(hparams: Mapping[str, Any]) -> RopeGPT2Config:
    """The configuration that the scalars of a RopeGPT2Module describe; the special tokens are the tokenizer's, once it is known.

    Raises:
        InputError: for a shape that cannot be.
    """
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": hparams["rope_theta"]}
    if hparams["partial_rotary_factor"] != 1.0:
        rope["partial_rotary_factor"] = hparams["partial_rotary_factor"]
    try:
        config = RopeGPT2Config(
            vocab_size=hparams["vocab_size"],
            n_positions=hparams["n_positions"],
            n_embd=hparams["n_embd"],
            n_layer=hparams["n_layer"],
            n_head=hparams["n_head"],
            embd_pdrop=hparams["dropout"],
            attn_pdrop=hparams["attention_dropout"],
            resid_pdrop=hparams["dropout"],
            position_encoding=hparams.get("position_encoding", "rope"),  # checkpoints of version 0.3.0 and before are RoPE
            rope_parameters=rope,
            bos_token_id=None,
            eos_token_id=None,
        )
        if (rope_type := hparams["rope_type"]) != "default":
            check_scaling(rope_type, hparams["rope_factor"])
            scaled = scaling_parameters(config, rope_type, hparams["rope_factor"])
            config = RopeGPT2Config.from_dict(config.to_dict() | {"rope_parameters": scaled})
        return config
    except (ValueError, TypeError) as error:
        raise InputError(f"model: {' '.join(str(error).split())}") from error


def shape_of(config: RopeGPT2Config) -> dict[str, Any]:
    """The scalars of a configuration that weights depend on: what a model that starts from others must share with them.

    Raises:
        InputError: for what the scalars cannot express.
    """
    parameters: dict[str, Any] = dict(config.rope_parameters or {})
    shape = {
        "vocab_size": config.vocab_size,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "position_encoding": config.position_encoding,
        "rope_type": parameters.get("rope_type", "default"),
        "rope_theta": parameters.get("rope_theta", 10000.0),
        "rope_factor": parameters.get("factor", 1.0),
        "partial_rotary_factor": parameters.get("partial_rotary_factor", 1.0),
    }
    ours = model_config(shape | {"n_positions": config.n_positions, "dropout": 0.0, "attention_dropout": 0.0})
    if config.n_inner == 4 * config.n_embd:
        ours.n_inner = config.n_inner
    if wrong := next((name for name in FIXED if getattr(config, name) != getattr(ours, name)), ""):
        raise InputError(f"the weights to start from have {wrong} {getattr(config, wrong)!r}, that training has no option for; take others")
    return shape


def shape_to_start_from(shape: Mapping[str, Any], config: RopeGPT2Config) -> dict[str, Any]:
    """The scalars of the weights to start from, under the scaling of RoPE that the run asks for, where it asks for one.

    Args:
        shape: of the run; a rope type other than default, with its factor, takes the place of the weights' own.
        config: of the weights.

    Raises:
        InputError: for what the scalars cannot express, or a scaling at another original context than that of the weights.
    """
    found = shape_of(config)
    if (rope_type := shape["rope_type"]) == "default":
        return found
    if shape["n_positions"] != config.n_positions:
        raise InputError(
            f"model.n_positions must be {config.n_positions}, the context of model.init_from that model.rope_type {rope_type} stretches, "
            f"got {shape['n_positions']}; give that number, and data.max_length for the sequences"
        )
    return found | {"rope_type": rope_type, "rope_factor": shape["rope_factor"]}


def check_context(n_positions: int, config: RopeGPT2Config) -> None:
    """Refuse to train weights at another context than their own where their positions are a function of it.

    Args:
        n_positions: context of the run, in tokens.
        config: configuration of the weights to start from.

    Raises:
        InputError: for rope types that take `n_positions` as their original context, and for a learned position table.
    """
    if config.position_encoding == "learned" and n_positions != config.n_positions:
        raise InputError(
            f"model.n_positions must be {config.n_positions}, the length of the position table of model.init_from, got {n_positions}; "
            "give that number, and data.max_length for the sequences"
        )
    rope_type = (config.rope_parameters or {}).get("rope_type", "default")
    if rope_type in OF_CONTEXT and n_positions != config.n_positions:
        raise InputError(
            f"model.n_positions must be {config.n_positions} for the {rope_type} weights of model.init_from, got {n_positions}: "
            "their rotation hangs on it; give that number, and data.max_length for the sequences"
        )
