"""The progress bar of scoring: prompts done, of how many, how fast, how long still."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rope_gpt2.fewshot.batches import PromptBatch


class ScoringProgress(Callback):
    """Counts prompts: their number is known beforehand, that of batches is not.

    Args:
        total: prompts of this process.
        done: of them, those that an earlier run has scored.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("prompts"))
        self._progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("scoring", total=total, completed=done)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the bar."""
        self._progress.start()

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: PromptBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Advance."""
        self._progress.advance(self._task, len(batch.prompts))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the bar away."""
        self._progress.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Take the bar away, so that the message stands on a line of its own."""
        self._progress.stop()
