"""Scores stream to disk as they are made, each row once; `predict` joins them into one CSV at the end."""

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.batches import Item, PromptBatch
from rope_gpt2.fewshot.pieces import Pieces, write_whole
from rope_gpt2.fewshot.prompts import Prompt
from rope_gpt2.fewshot.run_folder import write_predictions
from rope_gpt2.fewshot.scoring import ScoredBatch, join
from rope_gpt2.training.stopping import StopSignals
from rope_gpt2.training.whole_files import check_no_source


class ScoreWriter(BasePredictionWriter):
    """Writes every piece of work (some rows under one condition) as a file of its own once all of it is scored.

    Ctrl-C and SIGTERM wait for the end of a batch; a second Ctrl-C does not.

    Args:
        pieces: where.
    """

    def __init__(self, pieces: Pieces) -> None:
        super().__init__(write_interval="batch")
        self.pieces = pieces
        self._prompts: list[Prompt] = []
        self._scored: list[ScoredBatch] = []
        self._signals = StopSignals()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on signals wait."""
        self._signals.hold(trainer)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the signals back."""
        self._signals.release()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._signals.release()

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: ScoredBatch,
        batch_indices: Sequence[int] | None,
        batch: PromptBatch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep the rows of a batch; write those of a complete piece."""
        self._prompts += batch.prompts
        self._scored.append(prediction)
        if batch.is_last:
            try:
                self.pieces.write(batch.item, self._prompts, join(self._scored))
            except OSError as error:
                folder = self.pieces.folder.parent
                raise InputError(f"{folder}: cannot be written to ({error.strerror}); make room or choose another output") from error
            self._prompts, self._scored = [], []
        if number := self._signals.received():
            self._signals.act(number)


class PredictionWriter(ScoreWriter):
    """Writes `predictions.csv`: row, sentiment, predicted, condition and its settings, logprob_negative, logprob_positive.

    Every process writes its pieces beside the target; at the end they become the target, sorted by condition and row, in one rename. A
    run that fails leaves the target as it was.

    Args:
        output: path of the CSV.
    """

    def __init__(self, output: str = "predictions.csv") -> None:
        self.output = Path(output)
        super().__init__(Pieces(self.output.with_name(f".{self.output.name}.pieces")))

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with no piece."""
        if os.path.isdir(self.output):  # False for a name that is too long
            raise InputError(f"{self.output}: is a folder; give the path of a CSV to write")
        files = trainer.datamodule.files.options.values()  # type: ignore[attr-defined]
        check_no_source(self.output, "--predictions.output", [name for name in files if name])
        try:
            if trainer.is_global_zero:
                shutil.rmtree(self.pieces.folder, ignore_errors=True)
                self.pieces.folder.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"{self.output}: cannot be written to ({error.strerror}); choose another output") from error
        trainer.strategy.barrier("pieces begun")
        super().on_predict_start(trainer, pl_module)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Join the pieces of all processes."""
        trainer.strategy.barrier("predictions written")
        if trainer.is_global_zero:
            plan = trainer.datamodule.plan_prompts("predict")  # type: ignore[attr-defined]
            items = [Item(window, index) for index in range(len(plan.conditions)) for window in range(plan.num_windows)]
            try:
                write_whole(self.output, lambda path: write_predictions(path, self.pieces, items, plan.conditions))
            except OSError as error:
                raise InputError(f"{self.output}: cannot be written ({error.strerror}); make room or choose another output") from error
            shutil.rmtree(self.pieces.folder)
            print(f"{plan.num_prompts} predictions written to {self.output}")
        trainer.strategy.barrier("predictions joined")
        super().on_predict_end(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave nothing half written."""
        super().on_exception(trainer, pl_module, exception)
        with contextlib.suppress(OSError):  # the folder may be what failed
            shutil.rmtree(self.pieces.folder, ignore_errors=True)
