"""The model that a training starts from: random weights, or those of a checkpoint, whose tokenizer may get new words."""

from collections.abc import Sequence
from typing import Any

import torch

from rope_gpt2.errors import InputError
from rope_gpt2.model.modeling import RopeGPT2ForCausalLM
from rope_gpt2.model.tokenizer import tokenizer_to_json, with_words
from rope_gpt2.training.architecture import check_context, model_config, shape_to_start_from
from rope_gpt2.training.checkpoints import load_checkpoint

ROWS = 64  # an embedding that grows gets a multiple of so many


def make_model(shape: dict[str, Any], init_from: str | None, new_words: Sequence[str] = ()) -> tuple[RopeGPT2ForCausalLM, str | None]:
    """A model of random weights, or with those of `init_from`, whose shape then replaces what `shape` says.

    Returns:
        (model, the tokenizer of `init_from` as JSON, or None).

    Raises:
        InputError: for weights of another kind of model or for another context, or new words without weights to start from.
    """
    if init_from is None:
        if new_words:
            raise InputError("model.new_words changes the tokenizer of model.init_from; give one, or leave new_words out")
        return RopeGPT2ForCausalLM(model_config(shape)), None
    weights, tokenizer = load_checkpoint(init_from)
    if not isinstance(weights, RopeGPT2ForCausalLM):
        raise InputError(f"{init_from}: is a {type(weights).__name__}, training takes RoPE GPT-2; give another one to model.init_from")
    tokenizer, joined = with_words(tokenizer, new_words)
    if joined and len(tokenizer) > weights.config.vocab_size:
        rows = -(-len(tokenizer) // ROWS) * ROWS  # matrix products like round numbers
        weights.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for token, pieces in joined.items():
            weights.transformer.wte.weight[token] = weights.transformer.wte.weight[pieces].mean(dim=0)
    check_context(shape["n_positions"], weights.config)  # type: ignore[arg-type]  # transformers types the parent
    shape.update(shape_to_start_from(shape, weights.config))  # type: ignore[arg-type]
    model = RopeGPT2ForCausalLM(model_config(shape))
    model.load_state_dict(weights.state_dict())
    return model, tokenizer_to_json(tokenizer)
