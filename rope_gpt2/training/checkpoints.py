"""Checkpoints in and out: a folder of `save_pretrained`, or a Lightning file. Weights are only ever loaded as weights."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rope_gpt2.errors import InputError
from rope_gpt2.model.configuration import RopeGPT2Config
from rope_gpt2.model.modeling import RopeGPT2ForCausalLM
from rope_gpt2.model.tokenizer import load_tokenizer, tokenizer_from_json
from rope_gpt2.training.architecture import model_config
from rope_gpt2.training.checkpoint_parts import check_finite, model_weights
from rope_gpt2.training.model_folders import in_a_line, load_model_folder
from rope_gpt2.training.run_checkpoints import first_there, say
from rope_gpt2.training.sharding import META, is_sharded, read_sharded_weights, whole_copy
from rope_gpt2.training.whole_files import check_writable

DATA_MODULES = ("SentimentDataModule", "CorpusDataModule")  # the names under which Lightning stores their state
CARD = "README.md"
# endings of files that belong to the model or the tokenizer that stood in a folder before, and would be taken for the new one's
OF_A_MODEL = (".safetensors", ".safetensors.index.json", ".bin", "vocab.json", "merges.txt", "tokens.json", "tokens_map.json", ".model")


def load_checkpoint(path: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model (float32, evaluation mode) and tokenizer of a folder, a hub name, or a Lightning checkpoint `FILE.ckpt`.

    Raises:
        InputError: if there is nothing there, it is damaged, or its parts do not fit one another.
    """
    if path.endswith(".ckpt"):
        model, tokenizer = read_lightning_checkpoint(Path(path))
    else:
        model, tokenizer = load_model_folder(path), load_tokenizer(path)
    if len(tokenizer) > model.config.vocab_size:
        raise InputError(
            f"{path}: the tokenizer has {len(tokenizer)} tokens, the model {model.config.vocab_size}; put the tokenizer of this model there"
        )
    check_finite(model.state_dict(), path)
    return model.eval(), tokenizer


def random_model(seed: int, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """An untrained RoPE GPT-2 of GPT2Config's own shape (124 M parameters): the baseline at chance."""
    torch.manual_seed(seed)
    config = RopeGPT2Config(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    return RopeGPT2ForCausalLM(config).eval()


def read_lightning_checkpoint(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a checkpoint that `fit` wrote: a file, or the folder of a sharded one."""
    if not path.exists():
        raise InputError(f"{path}: no such file; give the path of a checkpoint that fit wrote")
    try:
        checkpoint: dict[str, Any] = torch.load(path / META if path.is_dir() else path, map_location="cpu", weights_only=True)
        tokenizer = tokenizer_from_json(next(checkpoint[name]["tokenizer_json"] for name in DATA_MODULES if name in checkpoint))
        model = RopeGPT2ForCausalLM(model_config(checkpoint["hyper_parameters"]))
        if path.is_dir():
            read_sharded_weights(path, model)
        else:
            model.load_state_dict(model_weights(checkpoint))
    except Exception as error:  # unpickling raises anything
        raise InputError(f"{path}: is no checkpoint of this package, or is damaged ({in_a_line(error)}); give another one") from error
    return model, tokenizer


def save_pretrained(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    loads_as: torch.dtype = torch.float32,
    card: str | None = None,
) -> None:
    """Write a folder that `from_pretrained` loads, whole or not at all; what stood there before is replaced.

    Args:
        model: of any class of transformers; its own dtype stays as it is.
        tokenizer: travels along.
        folder: target. Files and folders beside the model that lie there (a model card, a `.git`) stay.
        dtype: of the stored weights.
        loads_as: what config.json names, and programs that ask for no dtype load.
        card: text of README.md; None leaves the one that is there.
    """
    check_target(folder)
    folder = folder.resolve()  # of a link, what it points to is replaced
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    aside = partial.with_name(f"{partial.name}.old")  # a folder is replaced by two renames, between which there is none
    try:
        tied = set(model.all_tied_weights_keys) if model.config.tie_word_embeddings else set()
        weights = {name: tensor.detach().to(dtype) for name, tensor in model.state_dict().items() if name not in tied}
        model.save_pretrained(partial, state_dict=weights)
        tokenizer.save_pretrained(partial)
        config_file = partial / "config.json"
        config = json.loads(config_file.read_text()) | {"dtype": str(loads_as).removeprefix("torch.")}
        config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        if card is not None:
            (partial / CARD).write_text(card, encoding="utf-8")
        partial.chmod(0o755)  # mkdtemp and safetensors write for the owner alone
        for path in partial.iterdir():
            path.chmod(0o644)
        if folder.exists():
            for path in folder.iterdir():
                if (partial / path.name).exists() or (path.is_file() and path.name.endswith(OF_A_MODEL)):
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.copytree(path, partial / path.name, symlinks=True)
                else:
                    shutil.copy2(path, partial / path.name, follow_symlinks=False)
            folder.rename(aside)
        partial.replace(folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).strip()
        raise InputError(f"{folder}: cannot be written ({reason}); make room, or choose another folder") from error
    finally:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(partial, ignore_errors=True)


def check_target(folder: Path) -> None:
    """Refuse to replace what is no model folder, and a place where no folder can be made.

    Raises:
        InputError: if something else stands there, or nothing can be written.
    """
    if os.path.exists(folder) and not (folder.is_dir() and ((folder / "config.json").is_file() or not any(folder.iterdir()))):
        raise InputError(f"{folder}: exists and is no model folder; choose another one")
    check_writable(folder / "config.json", "folder")


def name_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Put the tokenizer's special tokens into the model's configurations, as what reads the folder expects."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        for config in (model.config, model.generation_config):
            setattr(config, name, getattr(tokenizer, name))


class ExportPretrained(Callback):
    """Writes model and tokenizer as a folder when fit ends.

    Args:
        which: "best" checkpoint by the monitored metric, or the "last" weights.
        folder: target; None for `pretrained` in the run's log folder.
        dtype: of the stored weights.
    """

    def __init__(
        self,
        which: Literal["best", "last"] = "best",
        folder: str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        self.which, self.folder, self.dtype = which, folder, dtype
        if folder is not None:
            check_target(Path(folder))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Export, on the first process."""
        log_dir = trainer.log_dir  # every process must ask: the first one's answer is broadcast
        whole = whole_copy(pl_module.model) if is_sharded(pl_module) else pl_module.model  # type: ignore[arg-type]
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        best = self._best(trainer) if self.which == "best" else None
        if best is not None:
            model, tokenizer = read_lightning_checkpoint(best)
        else:
            model, tokenizer = whole, trainer.datamodule.tokenizer  # type: ignore[assignment, attr-defined]
        name_special_tokens(model, tokenizer)
        folder = Path(self.folder or Path(log_dir or trainer.default_root_dir) / "pretrained")
        save_pretrained(model, tokenizer, folder, getattr(torch, self.dtype))
        rank_zero_info(f"Wrote {folder}; evaluate it with: python evaluate.py --checkpoint {folder}")

    def _best(self, trainer: L.Trainer) -> Path | None:
        """The best checkpoint of this run and of those that it goes on from; None where there was none, or it is gone."""
        named = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if not named:
            return None
        went_on_from = getattr(trainer.datamodule, "ckpt_path", None)  # type: ignore[attr-defined]
        beside = [Path(went_on_from).with_name(Path(named).name)] if went_on_from else []  # where that run's folder was moved
        best = first_there(Path(named), *beside)
        if best is None:
            say(f"{named}, the best checkpoint, is gone; the last weights are exported in its place")
        return best
