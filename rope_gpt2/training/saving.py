"""When and how checkpoints are written: the best, the last, and each of them whole or not at all."""

import contextlib
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from rope_gpt2.errors import InputError
from rope_gpt2.training.stopping import StopSignals

CLOCK_STEPS = 20  # optimizer steps between two looks at the clock where several processes must agree on the time


class _OwnFiles(ModelCheckpoint):
    """ModelCheckpoint that removes files of its own folder alone.

    What to remove is named by the checkpoint that a run goes on from, perhaps a stranger's, and the parent compares names as they are
    written: `checkpoints/../../kept.csv` begins like a file in `checkpoints`.
    """

    def _should_remove_checkpoint(self, trainer: L.Trainer, previous: str, current: str) -> bool:
        if "://" in previous:
            inside = previous.startswith(f"{str(self.dirpath).rstrip('/')}/") and ".." not in previous.split("/")
        else:
            inside = Path(str(self.dirpath)).resolve() in Path(previous).resolve().parents
        return inside and super()._should_remove_checkpoint(trainer, previous, current)


class BestCheckpoint(_OwnFiles):
    """ModelCheckpoint that remembers the best of a run when it is resumed, in a folder of its own."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best, wherever it lies; the parent forgets it where the folder is another one."""
        super().load_state_dict(state_dict | {"dirpath": self.dirpath})


class LastCheckpoint(_OwnFiles):
    """`last.ckpt`: at every validation, every so often between two, at the end, and when a fit is interrupted; `--ckpt_path` takes it.

    It is never written between two batches whose gradients make one step: those of the first would be lost. Ctrl-C, SIGTERM and the signal
    upon which Lightning saves and requeues a job of SLURM's wait for the end of a step, the same one on all processes.

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
        self._signals = StopSignals()
        self._stop = 0  # the signal upon which this fit is about to end

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on signals wait."""
        self._signals.hold(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on a signal waits for the end of its step, so that no half a step is saved; a second Ctrl-C ends at once."""
        super().on_train_start(trainer, pl_module)
        self._steps, self._whole_step, self._due = trainer.global_step, True, False
        self._last_global_step_saved, self._saved_at = trainer.global_step, time.monotonic()
        self._stop = 0
        self._signals.hold(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """After a whole step: save if it is time, and stop where that was asked for."""
        self._whole_step, self._steps = trainer.global_step != self._steps, trainer.global_step
        if not self._whole_step:
            return
        # What ends with this step, a validation or an epoch, would be left out when this file is taken up again. A validation saves
        # for itself, and after the end of an epoch the next step will do.
        loop = trainer.fit_loop.epoch_loop
        validates = loop._should_check_val_fx(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]
        is_between = not validates and not loop.batch_progress.is_last_batch
        asked_before, self._stop = self._stop, self._stop or self._signals.received(trainer)
        if self._stop and (is_between or (asked_before and not validates)):  # epochs may be of one step
            self._signals.act(self._stop)
        if not trainer.fast_dev_run and (self._is_time(trainer) or self._due):  # type: ignore[attr-defined]
            self._due = not is_between
            if not self._due:
                self._save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, or once the step is whole; end a fit that was to end."""
        if self._whole_step:
            super().on_validation_end(trainer, pl_module)
            if self._stop and not trainer.sanity_checking:
                self._signals.act(self._stop)
        else:
            self._due = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save what came after the last validation, and give the signals back."""
        super().on_train_end(trainer, pl_module)
        if not self._should_skip_saving_checkpoint(trainer):
            self._save(trainer)
        self._signals.release()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove what Lightning wrote for a requeued job of SLURM's: the next job with this folder would go on from it."""
        path = Path(trainer.ckpt_path or "")
        if not trainer.is_global_zero or not re.fullmatch(r"hpc_ckpt_\d+\.ckpt", path.name):
            return
        for old in path.parent.glob("hpc_ckpt_*.ckpt"):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save when interrupted, and name the file; after an error, of one process perhaps, the last file stands.

        A terminal's Ctrl-C ends compilers and workers as well: what fails without them while the signal waits was interrupted.
        """
        number = self._signals.received() if isinstance(exception, RuntimeError) else 0
        if number or isinstance(exception, KeyboardInterrupt | SIGTERMException):
            if self._whole_step:
                super().on_exception(trainer, pl_module, exception)
            path = Path(self.dirpath or "") / "last.ckpt"
            if trainer.is_global_zero and path.exists():
                how = "interrupted" if isinstance(exception, KeyboardInterrupt) or number == signal.SIGINT else "terminated"
                print(f"{how}; go on with the same command and --ckpt_path {path}", file=sys.stderr)
        if number:
            self._signals.act(number)

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
        partial = target.with_name(f".{target.name}.partial")  # left behind by a kill, it is overwritten by the next
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        except (OSError, RuntimeError) as error:
            reason = _why_not_written(error)
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            if reason is None:
                raise
            stands = "; the one that was there before stands" if target.exists() else ""
            raise InputError(f"{target}: cannot be written ({reason}){stands}; make room, then go on with --ckpt_path") from error


def _why_not_written(error: BaseException) -> str | None:
    """What the file system said; None where it was not the file system. torch's writer wraps it in an error of its own."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen.strerror or str(seen)
        seen = seen.__cause__ or seen.__context__
    return "its disk may be full" if "writ" in str(error) else None
