"""A folder of save_pretrained, perhaps a stranger's → model: weights of a class that is known here, and nothing that runs."""

import contextlib
import json
import logging
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from rope_gpt2.errors import InputError
from rope_gpt2.model.configuration import RopeGPT2Config

INDEX = "model.safetensors.index.json"
ATTENTION = ("eager", "sdpa", "flex_attention")  # torch's own; any other is a program of the hub, or a package that one must install


def load_model_folder(path: str) -> PreTrainedModel:
    """The model of a folder or hub name, in float32; none of its code is run, and it reads no file outside the folder.

    Raises:
        InputError: if there is none, it is damaged, or it is more than weights of a class that transformers or this package has.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{path}: is neither a folder nor a .ckpt file; give a folder of save_pretrained or a Lightning checkpoint")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise InputError(f"{path}: holds no config.json; give a folder that save_pretrained wrote, or a Lightning .ckpt file")
    if not folder.exists() and (beside := _models_in(folder.parent)):  # a slip in a name, for which the hub need not be asked
        raise InputError(f"{path}: no such folder; {folder.parent} holds {', '.join(beside)}; give one of them")
    if not folder.exists() and len(folder.parts) > 2:  # OWNER/NAME is the hub's
        raise InputError(f"{path}: no such folder; give one that an earlier fit or save_pretrained wrote, or a .ckpt file")
    _check_index(folder / INDEX)
    try:
        # None, the default, asks on the terminal whether to run the folder's code, and takes what is piped in for an answer
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        _refuse_kernels(path, config)
        with _without_report():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, with both shapes
            )
    except InputError:
        raise
    except Exception as error:  # transformers raises anything for a damaged or hostile folder
        reason = in_a_line(error)
        if "custom code" in reason:
            raise InputError(f"{path}: holds code of its own, which is never run; give a model of a class that transformers has") from error
        if folder.is_dir():
            raise InputError(f"{path}: the model cannot be loaded ({reason}); copy or train the checkpoint again") from error
        raise InputError(
            f"{path}: no such folder, and no such name could be fetched from the hub; give a folder, a .ckpt file or 'random'"
        ) from error
    model: PreTrainedModel = loaded[0]
    _refuse_other_weights(path, model, loaded[1])
    return model


def _models_in(parent: Path) -> list[str]:
    """Names of the model folders in a folder that is not the current one, where a name could be one of the hub's."""
    if parent == Path():
        return []
    try:
        names = os.listdir(parent)
    except OSError:  # there is no such folder, or it may not be read: then nothing in it can be named
        return []
    return sorted(name for name in names if os.path.isfile(parent / name / "config.json"))  # False where one may not look


def in_a_line(error: Exception) -> str:
    """What went wrong, with the first of what a heading announces; torch's own words for what it does not unpickle advise to do so."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, pickle.UnpicklingError) and lines and lines[0].startswith("Weights only load failed"):
        return "it is more than weights and plain data, and the rest is never unpickled"
    if not lines:
        return type(error).__name__
    return f"{lines[0]} {lines[1]}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]


def _check_index(index: Path) -> None:
    """Weights in several files lie beside the list of them, and nowhere else."""
    if not index.is_file():
        return
    try:
        names = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: is no list of weights ({type(error).__name__}); copy the checkpoint again") from error
    for name in sorted(names):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(f"{index}: names {name!r}, and weights must be .safetensors files beside it; give another checkpoint")
        if not (index.parent / name).is_file():
            raise InputError(f"{index}: names {name}, which is not there; copy the checkpoint again, with all its files")


def _refuse_kernels(path: str, config: PreTrainedConfig) -> None:
    """A config may name a program of the hub to compute attention with; this package computes it with torch."""
    wanted = getattr(config, "_attn_implementation", None)
    if wanted not in (None, *ATTENTION):
        raise InputError(
            f"{path}: its config asks for attention by {str(wanted)!r}, and only {', '.join(ATTENTION)} are run; remove attn_implementation"
        )


@contextlib.contextmanager
def _without_report() -> Iterator[None]:
    """transformers' table of the weights that do not fit is not printed: `_refuse_other_weights` says what is wrong with them.

    A filter and not a level: at a raised level transformers checks plans for tensor parallelism, and warns of models that have none.
    """
    logger = logging.getLogger("transformers.modeling_utils")

    def drop(_: logging.LogRecord) -> bool:
        return False

    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


def _refuse_other_weights(path: str, model: PreTrainedModel, found: Mapping[str, Any]) -> None:
    """Weights that the files lack would be random; of this package's own models, they hold no others either."""
    for name, stored, wanted in sorted(found["mismatched_keys"]):
        raise InputError(
            f"{path}: its weights {name} have the shape {list(stored)}, and its config wants {list(wanted)}; put the two that belong "
            "together there"
        )
    if missing := sorted(found["missing_keys"]):
        raise InputError(f"{path}: its files lack {len(missing)} of the weights, {missing[0]} for one; copy or train the checkpoint again")
    if (others := sorted(found["unexpected_keys"])) and isinstance(model.config, RopeGPT2Config):
        raise InputError(
            f"{path}: its files hold {len(others)} weights that its config knows nothing of, {others[0]} for one; put the two that belong "
            "together there"
        )
