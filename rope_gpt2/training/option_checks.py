"""Configuration files and options that would be found wrong late, or not at all: refused before a run writes anything."""

import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch
import yaml

from rope_gpt2.errors import InputError
from rope_gpt2.training.whole_files import check_folder

CONFIG = "--config"
LARGEST_SEED = 2**32 - 1  # NumPy's
NO_GPU = "this machine has no GPU that torch can use; install a build of torch for it, or"
SECTIONS = ("trainer", "model")  # of a configuration file; `data` may be the name of a class
# name → (least, largest, what it must be)
MODEL_RANGES = {
    "dropout": (0.0, math.nextafter(1.0, 0.0), "a probability in [0, 1)"),
    "attention_dropout": (0.0, math.nextafter(1.0, 0.0), "a probability in [0, 1)"),
    "learning_rate": (0.0, math.nextafter(math.inf, 0.0), "a finite number from 0 on"),
    "min_learning_rate": (0.0, 1.0, "a fraction in [0, 1]"),
    "embedding_rate": (0.0, math.nextafter(math.inf, 0.0), "a finite number from 0 on"),
    "weight_decay": (0.0, math.nextafter(math.inf, 0.0), "a finite number from 0 on"),
    "beta2": (0.0, math.nextafter(1.0, 0.0), "a number in [0, 1)"),
    "warmup_steps": (0, math.inf, "0 or more"),
    "decay_fraction": (0.0, 1.0, "a fraction in [0, 1]"),
    "lm_loss_weight": (0.0, math.nextafter(math.inf, 0.0), "a finite number from 0 on"),
    "label_loss_weight": (0.0, math.nextafter(math.inf, 0.0), "a finite number from 0 on"),
}
TRAINER_RANGES = {
    "accumulate_grad_batches": (1, math.inf, "at least 1"),
    "check_val_every_n_epoch": (1, math.inf, "at least 1"),
    "val_check_interval": (math.nextafter(0.0, 1.0), math.inf, "above 0"),
    "log_every_n_steps": (0, math.inf, "0 or more"),
    "gradient_clip_val": (0.0, math.inf, "0 (no clipping) or more"),
}


def check_ranges(options: Mapping[str, Any], ranges: Mapping[str, tuple[float, float, str]], where: str) -> None:
    """Refuse numbers out of their ranges, NaN among them; what is no number, or not there, is passed over.

    Raises:
        InputError: naming the option as `where.name`.
    """
    for name, (least, largest, rule) in ranges.items():
        value = options.get(name)
        if isinstance(value, Real) and not least <= float(value) <= largest:
            raise InputError(f"{where}.{name} must be {rule}, got {value}; give another number")


def check_run_options(config: Mapping[str, Any], command: str) -> None:
    """Refuse options of the trainer and a seed that Lightning takes and stumbles over.

    Args:
        config: of the command, parsed.
        command: fit, validate, test or predict.

    Raises:
        InputError: with the rule, the value and the remedy.
    """
    trainer = dict(config["trainer"])
    check_ranges(trainer, TRAINER_RANGES, "trainer")
    seed = config.get("seed_everything")
    if isinstance(seed, int) and not isinstance(seed, bool) and not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"seed_everything must lie between 0 and {LARGEST_SEED}, got {seed}; give another number")
    if trainer.get("accelerator") in ("gpu", "cuda") and not torch.accelerator.is_available():
        raise InputError(f"trainer.accelerator {trainer['accelerator']}: {NO_GPU}, take --trainer.accelerator cpu")
    if command == "fit" and "://" not in str(trainer.get("default_root_dir")):
        check_folder(Path(trainer.get("default_root_dir") or "."), "--trainer.default_root_dir")
    if command != "fit" and not config.get("ckpt_path") and config["model"].get("init_from") is None:
        raise InputError(f"{command} needs weights; give --ckpt_path (a .ckpt file, last or best) or --model.init_from")
    if trainer.get("overfit_batches"):
        raise InputError("trainer.overfit_batches cannot be had here; take trainer.limit_train_batches")
    batches = trainer.get("limit_predict_batches")
    if command == "predict" and (trainer.get("fast_dev_run") or not (batches is None or (isinstance(batches, float) and batches == 1))):
        raise InputError("predict writes all rows; leave trainer.limit_predict_batches and fast_dev_run out, and take data.limit for fewer")
    endless = trainer.get("max_epochs") == -1 and trainer.get("max_steps") == -1
    if command == "fit" and endless and trainer.get("max_time") is None:
        raise InputError("the schedule needs an end, got trainer.max_epochs -1; give trainer.max_epochs or trainer.max_steps")


def check_config_files(arguments: Sequence[str]) -> None:
    """Refuse a file of `--config` that is none, by its name, which jsonargparse does not tell.

    Raises:
        InputError: for a file that is missing, no UTF-8, no YAML (tags that make objects are none), or no options by their names.
    """
    for name in _config_names(arguments):
        path = Path(name)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError as error:
            raise InputError(f"{CONFIG} {name}: not UTF-8; save the file as UTF-8") from error
        except yaml.YAMLError as error:
            raise InputError(f"{CONFIG} {name}: is no YAML of options ({' '.join(str(error).split())}); mend it") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{CONFIG} {name}: cannot be read ({reason}); give the path of a YAML file") from error
        if not isinstance(content, dict):
            what = "nothing" if content is None else f"a {type(content).__name__}"
            raise InputError(f"{CONFIG} {name}: must hold options by their names, holds {what}; begin with model:, data: or trainer:")
        for section in SECTIONS:
            if section in content and not isinstance(content[section], dict):
                raise InputError(f"{CONFIG} {name}: {section} must hold options by their names, got {content[section]!r}; mend it")


def _config_names(arguments: Sequence[str]) -> Iterator[str]:
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{CONFIG}="):
            yield argument.removeprefix(f"{CONFIG}=")
        elif argument == CONFIG and place + 1 < len(arguments):
            yield arguments[place + 1]
