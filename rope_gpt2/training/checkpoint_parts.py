"""Whether the parts of a checkpoint fit one another, and its weights are numbers: found out before anything is written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rope_gpt2.errors import InputError
from rope_gpt2.model.modeling import RopeGPT2ForCausalLM
from rope_gpt2.model.tokenizer import tokenizer_from_json
from rope_gpt2.training.architecture import model_config
from rope_gpt2.training.model_folders import in_a_line


def model_weights(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Those of the model in a checkpoint of Lightning's, by their names in the model."""
    return {name.removeprefix("model."): tensor for name, tensor in checkpoint["state_dict"].items() if name.startswith("model.")}


def check_parts(path: Path, checkpoint: Mapping[str, Any], tokenizer_json: str) -> None:
    """Refuse a checkpoint whose options, weights and tokenizer are not of one model.

    Args:
        path: what the message names.
        checkpoint: as Lightning stored it; its tensors may be on the meta device. A sharded one has no weights here.
        tokenizer_json: the tokenizer in it.

    Raises:
        InputError: naming what does not fit, and what was expected.
    """
    try:
        tokenizer, config = tokenizer_from_json(tokenizer_json), model_config(checkpoint["hyper_parameters"])
        if len(tokenizer) > config.vocab_size:
            raise ValueError(f"its tokenizer has {len(tokenizer)} tokens, its model {config.vocab_size}")
        if "state_dict" in checkpoint:
            with torch.device("meta"):
                model = RopeGPT2ForCausalLM(config)
            model.load_state_dict({name: tensor.to("meta") for name, tensor in model_weights(checkpoint).items()})
    except KeyError as error:
        raise InputError(f"{path}: holds no {error.args[0]}, which fit writes; give another .ckpt file") from error
    except Exception as error:  # tokenizers raises bare ones
        raise InputError(f"{path}: is damaged, or its parts are not of one model ({in_a_line(error)}); give another .ckpt file") from error


def check_finite(weights: Mapping[str, Any], path: str) -> None:
    """Refuse weights that are no finite numbers, before anything is scored with them.

    Raises:
        InputError: naming the first of them.
    """
    for name, weight in weights.items():
        if isinstance(weight, torch.Tensor) and weight.is_floating_point() and not weight.isfinite().all():
            raise InputError(f"{path}: its weight {name} holds numbers that are not finite; give an earlier checkpoint, or train again")
