"""Predictions stream to disk as they are made, each row once, and become one sorted CSV at the end."""

import contextlib
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.report import write_predictions
from rope_gpt2.fewshot.scoring import Prediction, prediction_from_row


class PredictionWriter(BasePredictionWriter):
    """Writes `predictions.csv`: row, sentiment, predicted, shots, seed, logprob_negative, logprob_positive.

    Every process appends its rows to a part file beside the target; at the end the parts become the target, sorted by shots,
    seed and row, in one rename. A run that fails leaves the target as it was.

    Args:
        output: path of the CSV.
    """

    def __init__(self, output: str = "predictions.csv") -> None:
        super().__init__(write_interval="batch")
        self.output = Path(output)

    def part(self, rank: int) -> Path:
        """The part file of a process."""
        return self.output.with_name(f".{self.output.name}.{rank}.part")

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the part of this process."""
        if self.output.is_dir():
            raise InputError(f"{self.output}: is a folder; give the path of a CSV to write")
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self.part(trainer.global_rank).write_text("")
        except OSError as error:
            raise InputError(f"{self.output.parent}: cannot be written to ({error.strerror}); choose another output") from error

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Sequence[Prediction],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Append the rows of a batch."""
        with self.part(trainer.global_rank).open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(prediction)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Join the parts of all processes."""
        trainer.strategy.barrier("predictions written")
        if trainer.is_global_zero:
            parts = [self.part(rank) for rank in range(trainer.world_size)]
            predictions = sorted((row for part in parts for row in _read_part(part)), key=lambda row: (row.shots, row.seed, row.row))
            write_predictions(predictions, self.output)
            for part in parts:
                part.unlink()
        trainer.strategy.barrier("predictions joined")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave nothing half written."""
        with contextlib.suppress(OSError):  # the folder may be what failed
            self.part(trainer.global_rank).unlink()


def _read_part(path: Path) -> Iterator[Prediction]:
    with path.open(encoding="utf-8", newline="") as file:
        for values in csv.reader(file):
            yield prediction_from_row(dict(zip(Prediction._fields, values, strict=True)))
