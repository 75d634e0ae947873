"""A model of any class → whether a prefix in a cache, or a longer neighbour in its batch, would change the scores of a prompt."""

from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

_BY_LENGTH = ("dynamic", "longrope")  # rope types that rotate by the longest prompt of a pass
_COUNT_PADDING = ("mpt",)  # their ALiBi counts places in the cache, padding behind a prefix among them


def rotates_by_length(model: PreTrainedModel, length: int) -> bool:
    """Whether a pass of so many tokens has other frequencies than a shorter one, as those of RoPE beyond its original context may."""
    config = model.config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    layers = [one for one in parameters.values() if isinstance(one, Mapping)] or [parameters]
    return any(one.get("rope_type") in _BY_LENGTH and length > _original_context(one, config) for one in layers)


def _original_context(parameters: Mapping[str, object], config: object) -> int:
    named = (parameters.get("original_max_position_embeddings"), getattr(config, "max_position_embeddings", None))
    return min((one for one in named if isinstance(one, int)), default=0)


def counts_padding(model: PreTrainedModel) -> bool:
    """Whether padding between a cached prefix and what follows it would count as distance."""
    return getattr(model.config, "model_type", "") in _COUNT_PADDING


def forget_length(model: PreTrainedModel) -> None:
    """Undo what transformers' dynamic scaling keeps of a pass before: it goes on with the frequencies of the longest one."""
    for module in model.modules():
        if getattr(module, "rope_type", None) == "dynamic" and hasattr(module, "original_inv_freq"):
            with torch.inference_mode(False):  # as in RopeGPT2RotaryEmbedding: a training may go on with this buffer
                module.inv_freq = module.original_inv_freq.clone()  # type: ignore[operator]
            module.max_seq_len_cached = module.original_max_seq_len
