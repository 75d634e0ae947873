"""The cross-entropy of each target token, certain or in doubt."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from rope_gpt2.sequences import IGNORED


def token_losses(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each target token, in nats; 0 where the target is `IGNORED`.

    Args:
        hidden: [B, L, E] or [N, E] last hidden states.
        head: [V, E] output embedding.
        targets: [B, L] or [N] token ids.

    Returns:
        [B * L] or [N] float32.
    """
    logits, targets = functional.linear(hidden, head).flatten(0, -2), targets.flatten()
    if torch.compiler.is_compiling():
        return cast("Tensor", _CrossEntropy.apply(logits, targets))
    return functional.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="none")


def doubt_losses(hidden: Tensor, head: Tensor, targets: Tensor, others: Tensor, doubts: Tensor) -> Tensor:
    """What `token_losses` lacks where another token is the target with a probability d (soft targets: Hinton et al. 2015).

    (1 - d) CE(target) + d CE(other) = CE(target) + d (logit of the target - logit of the other).

    Args:
        hidden: [N, E] last hidden states.
        head: [V, E] output embedding.
        targets, others: [N] token ids.
        doubts: [N] d, in [0, 1].

    Returns:
        [N] float32, in nats.
    """
    # Not head[targets]: threads would add up that gradient in any order, and the same seed give other weights.
    words = functional.embedding(targets, head) - functional.embedding(others, head)
    return doubts * (hidden.float() * words.float()).sum(dim=-1)


class _CrossEntropy(torch.autograd.Function):
    """`torch.nn.functional.cross_entropy` for compilers, with a gradient of one pass over the logits.

    The gradient by a logit is softmax - 1 at the target and softmax elsewhere, times that of the loss. torch's own, compiled, goes by way
    of the log-softmax: it first adds up, over the whole vocabulary, a gradient that is 0 everywhere but at the target. Uncompiled, torch's
    own is one kernel, and faster.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        values = logits.float()
        largest = values.amax(dim=-1, keepdim=True)
        totals = (values - largest).exp().sum(dim=-1, keepdim=True).log() + largest
        ctx.save_for_backward(logits, totals, targets)
        counts = targets != IGNORED
        chosen = values.gather(-1, torch.where(counts, targets, 0)[:, None])
        return torch.where(counts, (totals - chosen)[:, 0], 0.0)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        logits, totals, targets = ctx.saved_tensors
        weights = torch.where(targets != IGNORED, upstream[0], 0.0)[:, None]
        places = torch.arange(logits.shape[-1], device=logits.device, dtype=torch.int32)  # half as wide to compare as int64
        at_target = places == targets.to(torch.int32)[:, None]
        return (((logits.float() - totals).exp() - at_target.float()) * weights).to(logits.dtype), None
