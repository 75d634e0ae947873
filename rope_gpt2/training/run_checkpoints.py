"""The words `last` and `best` for `--ckpt_path`: a checkpoint of the newest run of a folder.

Lightning looks for them in the folder that the run is about to write, which is empty: `last` would begin anew, `best` would fail.
"""

import re
import sys
from pathlib import Path

import torch
import yaml
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from rope_gpt2.errors import InputError
from rope_gpt2.training.saving import BestCheckpoint
from rope_gpt2.training.sharding import META

RUN_CHECKPOINTS = ("last", "best")


def last_of_newest_run(root: str | Path) -> Path | None:
    """The `last.ckpt` of the run `version_N` with the highest number, of those in this folder that have one.

    Raises:
        InputError: for a place that is no folder (s3://...).
    """
    if "://" in str(root):
        raise InputError(f"--ckpt_path: last and best are not looked for in {root}; give the whole path of a .ckpt file")
    runs = [path for path in Path(root).glob("version_*/checkpoints/last.ckpt") if re.fullmatch(r"version_\d+", path.parent.parent.name)]
    return max(runs, key=lambda path: int(path.parent.parent.name.removeprefix("version_")), default=None)


def best_of_run(last: Path) -> Path:
    """The best checkpoint that a run, or one that it goes on from, had seen when its `last.ckpt` was written.

    Args:
        last: a checkpoint that can be read.

    Raises:
        InputError: where it knows of none, or that one is gone.
    """
    stored = torch.load(last / META if last.is_dir() else last, map_location="meta", weights_only=True, mmap=True)
    states = [state for key, state in dict(stored.get("callbacks") or {}).items() if str(key).startswith(BestCheckpoint.__qualname__)]
    named = Path(str(dict(states[0]).get("best_model_path") or "")) if states else Path()
    best = first_there(last.with_name(named.name), named) if named.name else None  # the folder may have been moved
    if best is None:
        raise InputError(f"--ckpt_path best: {last} knows of none that is still there; validate while fitting, or give last or a path")
    return best


def first_there(*places: Path) -> Path | None:
    """The first of the places where something is; None where nothing is."""
    return next((path for path in places if path.exists()), None)


def seed_of_run(path: Path) -> int | None:
    """`seed_everything` of the run that wrote a checkpoint, by the `config.yaml` of its folder; None where there is none."""
    try:
        config = yaml.safe_load((path.parent.parent / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    seed = config.get("seed_everything") if isinstance(config, dict) else None
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


@rank_zero_only
def say(what: str) -> None:
    """Tell the user of it, once for all processes."""
    print(what, file=sys.stderr)
