"""LightningCLI with this package's module, data, callbacks and loggers: fit, validate, test, predict."""

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from rope_gpt2.errors import InputError
from rope_gpt2.training.checkpoint_parts import check_parts
from rope_gpt2.training.checkpoints import DATA_MODULES, ExportPretrained
from rope_gpt2.training.companions import watch_companions
from rope_gpt2.training.corpus_datamodule import CorpusDataModule
from rope_gpt2.training.datamodule import SentimentDataModule
from rope_gpt2.training.guards import FiniteGuard, newest_checkpoint
from rope_gpt2.training.module import OWN_OPTIONS, RopeGPT2Module
from rope_gpt2.training.option_checks import check_config_files, check_run_options
from rope_gpt2.training.precision import bearable_precision
from rope_gpt2.training.prediction_writer import PredictionWriter
from rope_gpt2.training.run_checkpoints import RUN_CHECKPOINTS, best_of_run, last_of_newest_run, say, seed_of_run
from rope_gpt2.training.saving import BestCheckpoint, LastCheckpoint, WholeFileIO
from rope_gpt2.training.sharding import FSDP2, META, ShardedStrategy, check_shards
from rope_gpt2.training.tokenized_datamodule import TokenizedDataModule

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
TEXT_DEFAULTS = {  # of a data module of plain text, which has no accuracy
    "checkpoint.monitor": "val/loss",
    "checkpoint.mode": "min",
    "checkpoint.filename": "best-step={step}-loss={val/loss:.4f}",
    "early_stopping.monitor": "val/loss",
    "early_stopping.mode": "min",
}
ROOT = "logs"  # where run folders stand by default
POSITIONS = frozenset({"position_encoding", "rope_type", "rope_theta", "rope_factor", "partial_rotary_factor"})
LIGHTNINGS = ("hpc", "registry")  # words for a checkpoint that Lightning finds itself


class SentimentCLI(LightningCLI):
    """The command line of `train.py`; `--checkpoint.*`, `--last.*`, `--guard.*`, `--early_stopping.*`, `--export.*` and `--predictions.*`
    set its callbacks.

    Beside the best checkpoint, `last.ckpt` is written at every validation, every ten minutes (`--last.every_n_minutes`), if asked for every
    so many steps (`--last.every_n_train_steps`), and when a fit is interrupted: `--ckpt_path` takes it, or the word
    `last` or `best` for that of the newest run in `trainer.default_root_dir`.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks with their defaults."""
        parser.add_lightning_class_args(FiniteGuard, "guard")
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")  # the first of its kind: `trainer.checkpoint_callback` names it
        parser.add_lightning_class_args(LastCheckpoint, "last")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(ExportPretrained, "export")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.set_defaults(DEFAULTS | {"data": {"class_path": f"{SentimentDataModule.__module__}.{SentimentDataModule.__qualname__}"}})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and refuse a checkpoint that cannot be read before anything runs."""
        check_config_files(sys.argv[1:])
        # A first time for the data module and the checkpoint alone, which the defaults of other options hang on: those of the data module's
        # would else be another one's as far as they share names, and a run that goes on keeps what no one changes.
        first = parser.parse_args([part for part in sys.argv[1:] if not part.startswith("--print_config")])
        name = first["subcommand"]
        path, data = checkpoint_path(first[name], name), first[name].get("data")
        stored = stored_options(Path(path)) if path and path not in LIGHTNINGS else {}
        defaults = {f"model.{option}": value for option, value in stored.items()}
        seed = seed_of_run(Path(path)) if name == "fit" and stored and path else None
        defaults |= {} if seed is None else {"seed_everything": seed}
        if data is not None:
            defaults |= {"data": {"class_path": data["class_path"]}}
            defaults |= TEXT_DEFAULTS if data["class_path"].endswith(f".{CorpusDataModule.__name__}") else {}
        self._subcommand_parsers[name].set_defaults(defaults)
        super().parse_arguments(parser, args)
        self.config[name]["ckpt_path"] = path
        if name == "predict":
            self.config["predict"]["return_predictions"] = False  # they stream to disk, and memory stays flat
        if path and path not in LIGHTNINGS:
            check_kind(Path(path), self.config[name]["trainer"]["strategy"] if name == "fit" else None)
        keep_shape(self.config[name]["model"], stored, name)
        if seed is not None and self.config[name]["seed_everything"] != seed:
            given = self.config[name]["seed_everything"]
            say(f"seed_everything {given}: the run of ckpt_path had {seed}, with which the weights would be those of an undisturbed run")
        check_run_options(self.config[name], name)

    def _parse_ckpt_path(self) -> None:
        """Nothing: the checkpoint's options are defaults (see above); the parent would lay them over those of the command line."""

    def before_fit(self) -> None:
        """Tell the data module which checkpoint the run goes on from: its tokenizer is wanted before the trainer restores anything."""
        self.datamodule.ckpt_path = self.config_init["fit"].get("ckpt_path")

    def before_instantiate_classes(self) -> None:
        """Only fit has a run folder to save its configuration in, which names the precision that it computes in."""
        if self.subcommand != "fit":
            self.save_config_callback = None
        trainer = self.config[self.subcommand]["trainer"]
        asked = trainer["precision"]
        trainer["precision"] = bearable_precision(asked, trainer["accelerator"])
        if trainer["precision"] != asked:
            say(
                f"trainer.precision {asked}: this CPU has no instructions for bfloat16 (AMX, AVX-512-BF16) and would be many times slower "
                f"in it; computing in float32 ({trainer['precision']})"
            )

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """One folder a run, `default_root_dir/version_N`, for logs, checkpoints and config, unless loggers are given."""
        logger = self._get(self.config_init, "trainer.logger")
        if logger is None or logger is True:
            kwargs["logger"] = False  # only fit has something to log; the others print or write their result
            if self.subcommand == "fit":
                root = self._get(self.config_init, "trainer.default_root_dir") or ROOT
                tensorboard = TensorBoardLogger(root, name="", version=None)
                kwargs["logger"] = [tensorboard, CSVLogger(root, name="", version=tensorboard.version)]
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except ValueError as error:  # a name that Lightning does not know
            raise error if isinstance(error, InputError) else InputError(f"{str(error).rstrip('. ')}; mend it, see --help") from error
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFileIO()
        watch_companions(trainer, lambda: how_to_go_on(trainer) if self.subcommand == "fit" else "run it again")
        return trainer


def how_to_go_on(trainer: L.Trainer) -> str:
    """After a fit that ended before its time."""
    saved = newest_checkpoint(trainer)
    return f"go on with the same command and --ckpt_path {saved}" if saved else "no checkpoint was written yet: start again"


def keep_shape(model: Any, stored: Mapping[str, Any], command: str) -> None:
    """Give a run that goes on, or scores, the shape and the optimizer of its checkpoint; all else is as the command line says.

    Args:
        model: options of the command line; changed in place.
        stored: options in the checkpoint; none for a run that begins.
        command: fit, or one that scores, for which a YAML of another size is no matter, but another rotation would be believed in.

    Raises:
        InputError: where the command line asks for another shape.
    """
    remedy = "start anew with model.init_from" if command == "fit" else "score with evaluate.py, whose --rope-type switches a scaling on"
    told = set(stored) - OWN_OPTIONS - {"init_from", "new_words"}
    if stored and model["init_from"] is not None:  # the run took its shape from there, whatever the command line said
        told &= {"n_positions", "optimizer", "embedding_rate"}
    if command != "fit":
        told &= POSITIONS
    for name in stored.keys() - OWN_OPTIONS:
        if name in told and model[name] != stored[name]:
            raise InputError(f"the run of ckpt_path has model.{name} {stored[name]}, got {model[name]}; leave it out, or {remedy}")
        model[name] = stored[name]


def check_kind(path: Path, strategy: Any) -> None:
    """Refuse a sharded checkpoint, a folder, where nothing is sharded, and a file where all is.

    Args:
        path: of a checkpoint that is there.
        strategy: `trainer.strategy`, a name or options of a class; None for what cannot be sharded.

    Raises:
        InputError: with what takes that checkpoint.
    """
    sharded = FSDP2 in str(strategy) or ShardedStrategy.__name__ in str(strategy)
    if path.is_dir() and not sharded:
        raise InputError(
            f"{path}: is a sharded checkpoint, which a fit with --trainer.strategy {FSDP2} goes on from; "
            "evaluate.py --checkpoint and --model.init_from take it too"
        )
    if path.is_file() and sharded:
        raise InputError(f"{path}: is no sharded checkpoint, as --trainer.strategy {FSDP2} needs it; start with --model.init_from {path}")


def checkpoint_path(config: Any, command: str) -> str | None:
    """`--ckpt_path`, with `last` and `best` as those of the newest run in `trainer.default_root_dir`.

    Args:
        config: of the command, parsed.
        command: fit, which begins where no run has a checkpoint yet, or another one, which needs one.

    Raises:
        InputError: where there is none and one is needed, or the best one is gone or `last.ckpt` cannot be read.
    """
    word = config.get("ckpt_path")
    if word not in RUN_CHECKPOINTS:
        return cast("str | None", word)
    root = config["trainer"].get("default_root_dir") or ROOT
    path = last_of_newest_run(root)
    if path is None and command != "fit":
        remedy = "fit first, name the runs' folder with --trainer.default_root_dir, or give the path of a .ckpt file"
        raise InputError(f"--ckpt_path {word}: no run in {root} has a last.ckpt; {remedy}")
    if path is not None and word == "best":
        stored_options(path)  # refuses what cannot be read
        path = best_of_run(path)
    say(f"--ckpt_path {word}: {path or f'no run in {root} has a last.ckpt yet; this one begins anew'}")
    return None if path is None else str(path)


def stored_options(path: Path) -> dict[str, Any]:
    """The options of the model in a checkpoint of Lightning's: a file, or the folder of a sharded one.

    Raises:
        InputError: if it is missing, damaged or another program's.
    """
    file = path / META if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{path}: no such checkpoint file; give a .ckpt file that fit wrote")
    try:
        checkpoint = torch.load(file, map_location="meta", weights_only=True, mmap=True)
        if file != path:
            check_shards(path)
    except Exception as error:  # unpickling raises anything
        raise InputError(f"{path}: is no Lightning checkpoint, or is damaged; give another .ckpt file that fit wrote") from error
    tokenizers = [checkpoint[name] for name in DATA_MODULES if name in checkpoint] if isinstance(checkpoint, dict) else []
    if not tokenizers or (file == path and "state_dict" not in checkpoint):
        raise InputError(f"{path}: holds no model and tokenizer of this package; give a .ckpt file that fit wrote")
    check_parts(path, checkpoint, tokenizers[0].get("tokenizer_json"))
    known = inspect.signature(RopeGPT2Module).parameters
    stored = {name: value for name, value in checkpoint["hyper_parameters"].items() if name in known}
    # an option that is younger than the checkpoint had its default there
    return {name: known[name].default for name in known.keys() - OWN_OPTIONS if name != "self"} | stored


def run_cli() -> SentimentCLI:
    """Parse `sys.argv` and run one of fit, validate, test, predict.

    Raises:
        jsonargparse.ArgumentError: for a wrong option.
    """
    parser_options: dict[str, Any] = {"exit_on_error": False}
    return SentimentCLI(
        RopeGPT2Module,
        TokenizedDataModule,  # --data CorpusDataModule for plain text; SentimentDataModule by default
        subclass_mode_data=True,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"default_root_dir": ROOT},
        parser_kwargs={**parser_options, **{name: dict(parser_options) for name in SentimentCLI.subcommands()}},
    )
