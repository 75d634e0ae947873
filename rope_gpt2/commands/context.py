"""How many tokens a model reads at once: those it was trained at, and where RoPE is scaled that many times the factor."""

import torch
from transformers import PreTrainedModel

from rope_gpt2.errors import InputError
from rope_gpt2.model.configuration import RopeGPT2Config
from rope_gpt2.model.scaling import scaled_context


def check_max_length(max_length: int | None) -> None:
    """Refuse what no context can be.

    Raises:
        InputError: if it is below 1.
    """
    if max_length is not None and max_length < 1:
        raise InputError(f"--max-length must be at least 1, got {max_length}; give a larger number")


def choose_context(max_length: int | None, model: PreTrainedModel, checkpoint: str) -> int:
    """Tokens that a model reads at most: those asked for, else those that its config names (GPT-2's and Llama's way).

    Under a scaling of RoPE, the checkpoint's own or one of the options, the config names the training length times the factor.

    Raises:
        InputError: if the config names none, or the model's position table is shorter than what was asked for.
    """
    config = model.config
    if isinstance(config, RopeGPT2Config):
        named: int | None = scaled_context(config)
    else:
        named = getattr(config, "n_positions", None) or getattr(config, "max_position_embeddings", None)
    length = max_length or named
    if not length:
        raise InputError(f"{checkpoint}: its config names no context length; give one with --max-length")
    for name, table in model.named_modules():
        if name.endswith(("wpe", "embed_positions")) and isinstance(table, torch.nn.Embedding) and table.num_embeddings < length:
            raise InputError(f"--max-length {length}: the position table of {checkpoint} ends at {table.num_embeddings}; give at most that")
    return int(length)
