"""The words `last` and `best` for `--ckpt_path`: a checkpoint of the newest run of a folder.

Lightning looks for them in the folder that the run is about to write, which is empty: `last` would begin anew, `best` would fail.
"""

import re
import sys
from pathlib import Path

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from rope_gpt2.errors import InputError
from rope_gpt2.training.saving import BestCheckpoint
from rope_gpt2.training.sharding import META

RUN_CHECKPOINTS = ("last", "best")


def checkpoint_of_newest_run(root: str | Path, word: str, needed: bool) -> str | None:
    """The checkpoint that a word stands for.

    Args:
        root: folder of the runs, `version_0`, `version_1` and so on; those without a `last.ckpt` do not count.
        word: `last`, or `best` for the best that this run or those that it goes on from had seen by its last checkpoint.
        needed: whether a run without a checkpoint makes no sense; else it begins, and says so.

    Returns:
        Its path; None where there is none and none is needed.

    Raises:
        InputError: where there is none and one is needed, or the best one is gone.
    """
    runs = [path for path in Path(root).glob("version_*/checkpoints/last.ckpt") if re.fullmatch(r"version_\d+", path.parent.parent.name)]
    if not runs:
        if needed:
            remedy = "fit first, name the runs' folder with --trainer.default_root_dir, or give the path of a .ckpt file"
            raise InputError(f"--ckpt_path {word}: no run in {root} has a last.ckpt; {remedy}")
        _say(f"--ckpt_path {word}: no run in {root} has a last.ckpt yet; this one begins anew")
        return None
    last = max(runs, key=lambda path: int(path.parent.parent.name.removeprefix("version_")))
    path = last if word == "last" else _best(last)
    _say(f"--ckpt_path {word}: {path}")
    return str(path)


@rank_zero_only
def _say(what: str) -> None:
    print(what, file=sys.stderr)


def _best(last: Path) -> Path:
    try:
        stored = torch.load(last / META if last.is_dir() else last, map_location="meta", weights_only=True, mmap=True)
    except Exception:  # unpickling raises anything; what is wrong with it is told where it is loaded
        return last
    states = stored.get("callbacks", {}) if isinstance(stored, dict) else {}
    names = [state["best_model_path"] for key, state in states.items() if key.startswith(BestCheckpoint.__qualname__)]
    named = Path(names[0]) if names and names[0] else None
    beside = [path for path in (last.with_name(named.name), named) if path.exists()] if named else []  # the folder may have been moved
    if not beside:
        raise InputError(f"--ckpt_path best: {last} knows of none that is still there; validate while fitting, or give last or a path")
    return beside[0]
