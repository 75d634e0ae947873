"""LightningCLI with this package's module, data, callbacks and loggers: fit, validate, test, predict."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from rope_gpt2.training.datamodule import SentimentDataModule
from rope_gpt2.training.export import ExportPretrained
from rope_gpt2.training.module import RopeGPT2Module
from rope_gpt2.training.prediction_writer import PredictionWriter

CHECKPOINT_DEFAULTS = {
    "monitor": "val/accuracy",
    "mode": "max",
    "save_last": True,
    "filename": "step={step}-accuracy={val/accuracy:.4f}",
    "auto_insert_metric_name": False,
}
EARLY_STOPPING_DEFAULTS = {"monitor": "val/accuracy", "mode": "max", "patience": 20}


class SentimentCLI(LightningCLI):
    """The command line of `train.py`; callbacks are configured as `--checkpoint.*`, `--early_stopping.*`, `--export.*`, `--predictions.*`."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks with their defaults."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({f"checkpoint.{name}": value for name, value in CHECKPOINT_DEFAULTS.items()})
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.set_defaults({f"early_stopping.{name}": value for name, value in EARLY_STOPPING_DEFAULTS.items()})
        parser.add_lightning_class_args(ExportPretrained, "export")
        parser.add_lightning_class_args(PredictionWriter, "predictions")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """One folder a run, `default_root_dir/version_N`, for TensorBoard and CSV logs, checkpoints and config, unless loggers are given."""
        logger = self._get(self.config_init, "trainer.logger")
        if logger is None or logger is True:
            root = self._get(self.config_init, "trainer.default_root_dir") or "logs"
            if self.subcommand == "fit":
                tensorboard = TensorBoardLogger(root, name="", version=None)
                kwargs["logger"] = [tensorboard, CSVLogger(root, name="", version=tensorboard.version)]
            else:
                kwargs["logger"] = False  # they print or write their result; a run folder each would hold nothing more
        return super().instantiate_trainer(**kwargs)


def run_cli(args: list[str] | None = None) -> SentimentCLI:
    """Parse and run one of fit, validate, test, predict.

    Args:
        args: command line without the program's name; None for `sys.argv`.
    """
    return SentimentCLI(
        RopeGPT2Module,
        SentimentDataModule,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"default_root_dir": "logs"},
        args=args,
    )
