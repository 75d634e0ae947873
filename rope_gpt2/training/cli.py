"""LightningCLI with this package's module, data, callbacks and loggers: fit, validate, test, predict."""

import pickle
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from rope_gpt2.errors import InputError
from rope_gpt2.training.checkpoints import ExportPretrained
from rope_gpt2.training.datamodule import SentimentDataModule
from rope_gpt2.training.module import RopeGPT2Module
from rope_gpt2.training.prediction_writer import PredictionWriter

DEFAULTS: dict[str, Any] = {
    "checkpoint.monitor": "val/accuracy",
    "checkpoint.mode": "max",
    "checkpoint.filename": "best-step={step}-accuracy={val/accuracy:.4f}",
    "checkpoint.auto_insert_metric_name": False,
    "early_stopping.monitor": "val/accuracy",
    "early_stopping.mode": "max",
    "early_stopping.patience": 20,
    "early_stopping.strict": False,  # a fit may end before its first validation
}


class SentimentCLI(LightningCLI):
    """The command line of `train.py`; `--checkpoint.*`, `--early_stopping.*`, `--export.*` and `--predictions.*` set its callbacks.

    Beside the best checkpoint, `last.ckpt` is written at every validation and when a fit is interrupted: `--ckpt_path` takes it.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks with their defaults."""
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(ExportPretrained, "export")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.set_defaults(DEFAULTS)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and refuse a checkpoint that cannot be read before anything runs."""
        super().parse_arguments(parser, args)
        if self.config["subcommand"] == "predict":
            self.config["predict"]["return_predictions"] = False  # they stream to disk, and memory stays flat
        path = self.config[self.config["subcommand"]].get("ckpt_path")
        if path and path not in ("best", "last", "hpc", "registry"):
            check_checkpoint(Path(path))

    def before_instantiate_classes(self) -> None:
        """Only fit has a run folder to save its configuration in."""
        if self.subcommand != "fit":
            self.save_config_callback = None

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """One folder a run, `default_root_dir/version_N`, for logs, checkpoints and config, unless loggers are given."""
        logger = self._get(self.config_init, "trainer.logger")
        if logger is None or logger is True:
            kwargs["logger"] = False  # only fit has something to log; the others print or write their result
            if self.subcommand == "fit":
                root = self._get(self.config_init, "trainer.default_root_dir")
                tensorboard = TensorBoardLogger(root, name="", version=None)
                kwargs["logger"] = [tensorboard, CSVLogger(root, name="", version=tensorboard.version)]
        trainer = super().instantiate_trainer(**kwargs)
        if trainer.checkpoint_callbacks:
            # behind the one that keeps the best, which `trainer.checkpoint_callback` names
            trainer.callbacks.append(LastCheckpoint())  # type: ignore[attr-defined]
        return trainer


class BestCheckpoint(ModelCheckpoint):
    """ModelCheckpoint that remembers the best of a run when it is resumed, in a folder of its own."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best, wherever it lies; the parent forgets it where the folder is another one."""
        super().load_state_dict(state_dict | {"dirpath": self.dirpath})


class LastCheckpoint(ModelCheckpoint):
    """`last.ckpt`, at every validation and when a fit is interrupted, with a word on how to go on."""

    def __init__(self) -> None:
        super().__init__(filename="last", monitor=None, save_top_k=1, enable_version_counter=False, save_on_exception=True)
        self._interrupted = False
        self._handler: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on a Ctrl-C waits for the end of its batch, so that no half a step is saved; a second one ends at once."""
        super().on_train_start(trainer, pl_module)
        self._interrupted = False
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._interrupt)

    def on_train_batch_end(self, *arguments: Any) -> None:
        """Save as the parent does, and stop where that was asked for."""
        super().on_train_batch_end(*arguments)
        if self._interrupted:
            raise KeyboardInterrupt

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give Ctrl-C back."""
        super().on_train_end(trainer, pl_module)
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save when interrupted, and name the file; after an error, of one process perhaps, the last validation's file stands."""
        if isinstance(exception, KeyboardInterrupt):
            super().on_exception(trainer, pl_module, exception)
            path = Path(self.dirpath or "") / "last.ckpt"
            if trainer.is_global_zero and path.is_file():
                print(f"interrupted; go on with the same command and --ckpt_path {path}", file=sys.stderr)

    def _interrupt(self, *_: Any) -> None:
        self._interrupted = True
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)


def check_checkpoint(path: Path) -> None:
    """Refuse a Lightning checkpoint that is missing, damaged or another program's.

    Raises:
        InputError: with the remedy.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file; give a .ckpt file that fit wrote")
    try:
        checkpoint = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: is no Lightning checkpoint, or is damaged; give another .ckpt file that fit wrote") from error
    if SentimentDataModule.__qualname__ not in checkpoint or "state_dict" not in checkpoint:
        raise InputError(f"{path}: holds no model and tokenizer of this package; give a .ckpt file that fit wrote")


def run_cli() -> SentimentCLI:
    """Parse `sys.argv` and run one of fit, validate, test, predict.

    Raises:
        jsonargparse.ArgumentError: for a wrong option.
    """
    parser_options: dict[str, Any] = {"exit_on_error": False}
    return SentimentCLI(
        RopeGPT2Module,
        SentimentDataModule,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"default_root_dir": "logs"},
        parser_kwargs={**parser_options, **{name: dict(parser_options) for name in SentimentCLI.subcommands()}},
    )
