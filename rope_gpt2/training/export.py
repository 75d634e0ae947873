"""A fit ends in a folder that `from_pretrained` loads, beside its Lightning checkpoints."""

from pathlib import Path
from typing import Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from rope_gpt2.training.checkpoints import read_lightning_checkpoint, save_pretrained


class ExportPretrained(Callback):
    """Writes the best checkpoint's model and tokenizer as a folder when fit ends.

    Args:
        folder: target; None for `pretrained` in the run's log folder.
        dtype: of the stored weights.
    """

    def __init__(self, folder: str | None = None, dtype: Literal["float32", "bfloat16", "float16"] = "float32") -> None:
        self.folder, self.dtype = folder, dtype

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Export, on the first process."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if best:
            model, tokenizer = read_lightning_checkpoint(Path(best))
        else:
            model, tokenizer = pl_module.model, trainer.datamodule.tokenizer  # type: ignore[assignment, attr-defined]
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            for config in (model.config, model.generation_config):
                setattr(config, name, getattr(tokenizer, name))
        folder = Path(self.folder or Path(trainer.log_dir or trainer.default_root_dir) / "pretrained")
        save_pretrained(model, tokenizer, folder, getattr(torch, self.dtype))
        rank_zero_info(f"Wrote {folder}; evaluate it with: python evaluate.py --checkpoint {folder}")
