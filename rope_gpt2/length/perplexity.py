"""Windows → the loss of every token and the position that predicted it, from any causal language model of transformers.

Let B be batch, L length, S scored positions, E embedding, V vocabulary, R scored tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from rope_gpt2.length.windows import Window, batch_windows

LOGITS = 2**24  # numbers in the logits that are held at once
TABLES = ("wpe", "embed_positions", "position_embeddings", "wpe_embed")  # what models of transformers call a position table


class TokenLosses(NamedTuple):
    """Attributes:
    losses: [R] float64, nats, in the order of the stream.
    positions: [R] int64, the position in its window that predicted each: it saw so many tokens and one more.
    """

    losses: NDArray[np.float64]
    positions: NDArray[np.int64]


def table_length(model: PreTrainedModel) -> int | None:
    """Positions that a learned table holds; None where positions have no end."""
    ends = [
        module.num_embeddings - int(getattr(module, "offset", 0))
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in TABLES and isinstance(module, nn.Embedding)
    ]
    return min(ends, default=None)


@torch.inference_mode()
def score_windows(
    model: PreTrainedModel,
    tokens: Tensor,
    windows: Sequence[Window],
    batch_tokens: int = 8192,
    advance: Callable[[int], Any] = lambda count: None,
) -> TokenLosses:
    """Losses of the tokens that the windows score, window after window.

    Args:
        model: in evaluation mode.
        tokens: [T] int64, on any device.
        windows: of this stream.
        batch_tokens: tokens read at once; one window is read whole in any case.
        advance: told after each batch how many tokens were read.
    """
    score = _Scorer(model)
    losses, positions = [], []
    for batch in batch_windows(windows, batch_tokens):
        length, scored = batch[0].length, batch[0].scored
        spans = torch.stack([tokens[window.start : window.start + length + 1] for window in batch]).to(model.device)
        losses.append(score(spans[:, :-1], spans[:, -scored:]).double().cpu().numpy().ravel())
        positions.append(np.tile(np.arange(length - scored, length), len(batch)))
        advance(len(batch) * length)
    return TokenLosses(np.concatenate(losses), np.concatenate(positions))


class _Scorer:
    """Losses without the logits of a whole batch: the body reads it once, the head a bounded number of tokens at a time."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.head = model.get_output_embeddings()
        self.chunk = max(1, LOGITS // model.config.get_text_config().vocab_size)
        self.is_plain = self._is_plain()

    def _is_plain(self) -> bool:
        """Whether the logits are the head of the body's states: some models scale or cap them on the way."""
        if self.head is None or self.model.base_model is self.model:
            return False
        ids = torch.arange(4, device=self.model.device)[None]
        ours, theirs = self.head(self._states(ids)), self.model(input_ids=ids, use_cache=False).logits
        return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)

    def _states(self, input_ids: Tensor) -> Tensor:
        states: Tensor = self.model.base_model(input_ids=input_ids, use_cache=False)[0]
        return states

    def __call__(self, input_ids: Tensor, targets: Tensor) -> Tensor:
        """[B, L] tokens and the [B, S] that follow the last S → [B, S] float32 losses, nats."""
        scored = targets.shape[1]
        if self.is_plain:
            states = self._states(input_ids)[:, -scored:].flatten(0, 1)  # (batch * scored, embedding)
            pairs = zip(states.split(self.chunk), targets.flatten().split(self.chunk), strict=True)
            return torch.cat([_cross_entropy(self.head(some), wanted) for some, wanted in pairs]).view_as(targets)
        places = torch.arange(input_ids.shape[1] - scored, input_ids.shape[1], device=input_ids.device)
        parts = []
        for some in places.split(max(1, self.chunk // len(input_ids))):  # the body is read once for each part: slow, but right
            logits = self.model(input_ids=input_ids, use_cache=False, logits_to_keep=some).logits
            wanted = targets[:, some - places[0]]
            parts.append(_cross_entropy(logits.flatten(0, 1), wanted.flatten()).view_as(wanted))
        return torch.cat(parts, dim=1)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float(), targets, reduction="none")
