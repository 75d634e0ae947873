"""FiniteGuard: a fit whose loss or weights are no numbers any more ends with a sentence, and writes no checkpoint of them."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from rope_gpt2.errors import InputError


class FiniteGuard(Callback):
    """Ends a fit at a NaN or an infinity, on all processes alike; what was saved before stays.

    The losses are judged where they are, on the device, and read only now and then: reading waits for the device. Weights are judged
    before each validation and each checkpoint, so that neither sees what is no number.

    Args:
        every_n_batches: training batches between two looks at the loss on a device other than a CPU, where a look at each costs nothing.
    """

    def __init__(self, every_n_batches: int = 20) -> None:
        if every_n_batches < 1:
            raise InputError(f"every_n_batches must be at least 1, got {every_n_batches}; give a larger number")
        self.every_n_batches = every_n_batches
        self._first: Tensor | None = None  # [2] float64: optimizer step of the first bad loss, infinity for none, and that loss

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Nothing bad yet."""
        self._first = None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Judge the loss of a batch; look at the judgement when its turn has come."""
        loss = outputs["loss"].detach().double()
        now = torch.stack((torch.where(loss.isfinite(), math.inf, float(trainer.global_step)), loss))
        self._first = now if self._first is None else torch.where(self._first[0] <= now[0], self._first, now)
        if loss.device.type == "cpu" or (batch_idx + 1) % self.every_n_batches == 0:
            self._refuse_bad_loss(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look before a validation within a fit."""
        if _is_within_fit(trainer):
            self._refuse_bad_loss(trainer)
            self._refuse_bad_weights(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A validation loss that is no number ends the fit before it is taken for the best."""
        loss = trainer.callback_metrics.get("val/loss")
        if _is_within_fit(trainer) and loss is not None and not math.isfinite(float(loss)):
            self._stop(trainer, f"at optimizer step {trainer.global_step} the validation loss is {float(loss)}")

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look before a checkpoint; every process is asked, whichever writes."""
        self._refuse_bad_weights(trainer, pl_module)

    def _refuse_bad_loss(self, trainer: L.Trainer) -> None:
        if self._first is None:
            return
        first, loss = (_gathered(trainer, self._first) if trainer.world_size > 1 else self._first).tolist()
        if first < math.inf:
            self._stop(trainer, f"at optimizer step {int(first)} the loss is {loss}")

    def _refuse_bad_weights(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        bad = torch.stack([~torch.isfinite(_own_part(parameter)).all() for parameter in pl_module.parameters()]).any()
        if trainer.world_size > 1:
            bad = trainer.strategy.reduce(bad.float(), reduce_op="sum")
        if bool(bad):
            self._stop(trainer, f"at optimizer step {trainer.global_step} there are weights that are no finite numbers")

    def _stop(self, trainer: L.Trainer, what: str) -> None:
        """End all processes; only the first has something to say.

        Raises:
            InputError: on the first process. The others leave in peace, since Lightning kills the first when another one fails.
        """
        if not trainer.is_global_zero:
            raise SystemExit(0)
        saved = newest_checkpoint(trainer)
        stands = f"the last good checkpoint is {saved}" if saved else "no checkpoint was written yet"
        start = f"start again (from its weights: --model.init_from {saved})" if saved else "start again"
        remedy = "a lower model.learning_rate, trainer.gradient_clip_val 1.0, trainer.precision 32-true or model.compile false"
        raise InputError(f"{what}; {stands}: {start} with {remedy}")


def newest_checkpoint(trainer: L.Trainer) -> Path | None:
    """The checkpoint that was written last in this run, or the one that it goes on from; None where there is neither."""
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    paths = [Path(callback._last_checkpoint_saved) for callback in callbacks if callback._last_checkpoint_saved]
    found = [path for path in paths if path.exists()]
    if found:
        return max(found, key=lambda path: path.stat().st_mtime_ns)
    return Path(trainer.ckpt_path) if trainer.ckpt_path else None


def _is_within_fit(trainer: L.Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def _own_part(parameter: nn.Parameter) -> Tensor:
    """What this process holds of a parameter: all of it, or its shard."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter.detach()


def _gathered(trainer: L.Trainer, first: Tensor) -> Tensor:
    """The earliest of what all processes have."""
    everyone = trainer.strategy.all_gather(first).view(-1, 2)
    return everyone[everyone[:, 0].argmin()]
