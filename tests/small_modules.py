"""The shape of a small module, and the trainer and the batches that its steps take."""

from types import SimpleNamespace
from typing import Any

import torch

from rope_gpt2.sequences import IGNORED, SequenceBatch

SHAPE: dict[str, Any] = {"vocab_size": 64, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "dropout": 0.0}


def make_trainer(steps: float = 10, device: str = "cpu", **parts: Any) -> Any:
    """What the module asks of a trainer."""
    strategy = SimpleNamespace(root_device=torch.device(device))
    return SimpleNamespace(estimated_stepping_batches=steps, strategy=strategy, world_size=1, **parts)


def make_batch(rows: int = 2, length: int = 10, position_ids: torch.Tensor | None = None) -> SequenceBatch:
    """Random tokens, each the target of the one before it, none of them a label word."""
    ids = torch.randint(0, 64, (rows, length))
    targets = ids.roll(-1, dims=1)
    targets[:, -1] = IGNORED
    return SequenceBatch(ids, targets, torch.zeros(rows, length, dtype=torch.bool), position_ids)
