"""How far back each head looks: mean distance of its attention in tokens, and its share beyond a length.

Let B be batch, N heads, L length.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

WEIGHTS = 2**28  # numbers in the attention weights of one layer, which are held at once


@dataclass(frozen=True, slots=True)
class HeadDistance:
    """Where a head looks.

    Attributes:
        layer, head: counted from 0.
        mean_distance: tokens between a query and what it looks at, averaged by attention weight, then over all positions of a window;
            0 for a head that looks at its own token, (L - 1) / 4 for one that looks everywhere alike.
        beyond: share of the attention that goes to tokens more than `far` away, averaged over the positions that have such tokens; None
            where no position has.
    """

    layer: int
    head: int
    mean_distance: float
    beyond: float | None


def longest_measured(model: PreTrainedModel, length: int) -> int:
    """The length up to `length` at which the weights of a layer can be held."""
    return min(length, int((WEIGHTS / model.config.get_text_config().num_attention_heads) ** 0.5))


@torch.inference_mode()
def attention_distances(model: PreTrainedModel, windows: Sequence[Tensor], far: int) -> list[HeadDistance]:
    """Distances by layer and head, averaged over windows of one length.

    The weights are those of transformers' `eager` attention, what `output_attentions` would give; each layer's are summed up and
    forgotten before the next layer's are made.

    Args:
        model: its attention implementation is `eager` for the time being.
        windows: [L] int64 token ids each.
        far: tokens; `beyond` counts what is farther.

    Returns:
        All heads of a layer after those of the layer before; empty where the model does not give its weights away.
    """
    layers: dict[int, list[Tensor]] = {}
    with _eager(model), _watch(model, layers, far):
        for window in windows:
            model.base_model(input_ids=window[None].to(model.device), use_cache=False)
    found = []
    for layer, measured in sorted(layers.items()):
        for head, (distance, beyond) in enumerate(torch.stack(measured).mean(dim=0).tolist()):
            found.append(HeadDistance(layer, head, distance, beyond if far + 1 < len(windows[0]) else None))
    return found


@contextmanager
def _eager(model: PreTrainedModel) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def _watch(model: PreTrainedModel, layers: dict[int, list[Tensor]], far: int) -> Iterator[None]:
    """Have every attention module that knows its layer leave a summary of its weights."""

    def summarize(module: nn.Module, _: Any, output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if isinstance(weights, Tensor) and weights.dim() == 4:
            layers.setdefault(int(module.layer_idx), []).append(_measure(weights[0], far))  # type: ignore[arg-type]

    handles = [module.register_forward_hook(summarize) for module in model.modules() if isinstance(getattr(module, "layer_idx", None), int)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _measure(weights: Tensor, far: int) -> Tensor:
    """[N, L, L] weights of queries over keys → [N, 2]: mean distance, share farther than `far`."""
    length = weights.shape[-1]
    places = torch.arange(length, device=weights.device, dtype=torch.float32)
    measured = []
    for head in weights.float():
        distance = places * head.sum(dim=-1) - head @ places
        beyond = head.tril(-far - 1).sum(dim=-1)[far + 1 :]
        measured.append(torch.stack([distance.mean(), beyond.mean() if len(beyond) else beyond.new_zeros(())]))
    return torch.stack(measured).double().cpu()
