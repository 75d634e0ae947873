"""When and how checkpoints are written: the best, the last, and each of them whole or not at all."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from rope_gpt2.errors import InputError

CLOCK_STEPS = 20  # optimizer steps between two looks at the clock where several processes must agree on the time


class BestCheckpoint(ModelCheckpoint):
    """ModelCheckpoint that remembers the best of a run when it is resumed, in a folder of its own."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best, wherever it lies; the parent forgets it where the folder is another one."""
        super().load_state_dict(state_dict | {"dirpath": self.dirpath})


class LastCheckpoint(ModelCheckpoint):
    """`last.ckpt`: at every validation, every so often between two, at the end, and when a fit is interrupted; `--ckpt_path` takes it.

    It is never written between two batches whose gradients make one step: those of the first would be lost.

    Args:
        every_n_train_steps: optimizer steps after which it is written; 0 for none.
        every_n_minutes: minutes after which it is written; 0 for none.
    """

    def __init__(self, every_n_train_steps: int = 0, every_n_minutes: float = 10.0) -> None:
        for name, value in (("every_n_train_steps", every_n_train_steps), ("every_n_minutes", every_n_minutes)):
            if value < 0:
                raise InputError(f"{name} must be 0 or more, got {value}; give another number")
        super().__init__(filename="last", monitor=None, save_top_k=1, enable_version_counter=False, save_on_exception=True)
        self.every_n_steps, self.every_n_minutes = every_n_train_steps, every_n_minutes
        self._steps = 0  # after the last batch
        self._whole_step, self._due = True, False
        self._saved_at = time.monotonic()
        self._interrupted = False
        self._handler: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on a Ctrl-C waits for the end of its step, so that no half a step is saved; a second one ends at once."""
        super().on_train_start(trainer, pl_module)
        self._steps, self._whole_step, self._due = trainer.global_step, True, False
        self._last_global_step_saved, self._saved_at = trainer.global_step, time.monotonic()
        self._interrupted = False
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._interrupt)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """After a whole step: save if it is time, and stop where that was asked for."""
        self._whole_step, self._steps = trainer.global_step != self._steps, trainer.global_step
        if not self._whole_step:
            return
        if self._interrupted:
            raise KeyboardInterrupt
        if not trainer.fast_dev_run and (self._is_time(trainer) or self._due):  # type: ignore[attr-defined]
            # What ends with this step, a validation or an epoch, would be left out when this file is taken up again. A validation saves
            # for itself, and after the end of an epoch the next step will do.
            loop = trainer.fit_loop.epoch_loop
            validates = loop._should_check_val_fx(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]
            self._due = validates or loop.batch_progress.is_last_batch
            if not self._due:
                self._save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, or once the step is whole."""
        if self._whole_step:
            super().on_validation_end(trainer, pl_module)
        else:
            self._due = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save what came after the last validation, and give Ctrl-C back."""
        super().on_train_end(trainer, pl_module)
        if not self._should_skip_saving_checkpoint(trainer):
            self._save(trainer)
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save when interrupted, and name the file; after an error, of one process perhaps, the last file stands."""
        if isinstance(exception, KeyboardInterrupt):
            if self._whole_step:
                super().on_exception(trainer, pl_module, exception)
            path = Path(self.dirpath or "") / "last.ckpt"
            if trainer.is_global_zero and path.exists():
                print(f"interrupted; go on with the same command and --ckpt_path {path}", file=sys.stderr)

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        self._due, self._saved_at = False, time.monotonic()

    def _save(self, trainer: L.Trainer) -> None:
        self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def _is_time(self, trainer: L.Trainer) -> bool:
        if trainer.global_step == trainer.max_steps or (self.every_n_steps and trainer.global_step % self.every_n_steps == 0):
            return True
        if not self.every_n_minutes or (trainer.world_size > 1 and trainer.global_step % CLOCK_STEPS):
            return False
        return bool(trainer.strategy.broadcast(time.monotonic() - self._saved_at >= 60 * self.every_n_minutes))

    def _interrupt(self, *_: Any) -> None:
        self._interrupted = True
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)


class WholeFileIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, then renames it.

    The parent's temporary file lies in the system's folder for them, often on another disk: moving it from there is copying, and a process
    that is killed meanwhile leaves half a file where a whole one stood.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a local file whole or not at all; another place (s3://...) as the parent does."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")  # left behind by a kill, it is overwritten by the next
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
