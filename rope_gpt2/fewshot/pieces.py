"""Scores → the pieces of work that a run has done, so that one that was killed can go on.

While a run goes on, everything stands in `DIR/.partial`: `plan.json` (all that the scores depend on), and in a folder named by the plan's
hash a Parquet file for every piece of work (some rows under one condition) that is done, each written beside its place and renamed. The
files of an earlier run stand as they were until the pieces are joined (`run_folder.py`) and all is published at once. A run locks its
folder: a second one is refused.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.batches import Item
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.prompts import Prompt
from rope_gpt2.fewshot.scoring import ScoredBatch, predict_labels

try:
    import fcntl
except ImportError:  # not on Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

MANIFEST, METRICS, PARTIAL, PLAN, JOINED = "manifest.json", "metrics.json", ".partial", "plan.json", "joined"
_LOCKS: dict[Path, int] = {}  # open folders, for as long as this process lives

_PIECE = pa.schema(
    [("row", pa.int64()), ("sentiment", pa.int8()), ("predicted", pa.int8()), ("negative", pa.float32()), ("positive", pa.float32())]
)


class Pieces:
    """The pieces of work of a run that are done, a file each.

    Args:
        folder: where they stand.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, item: Item) -> Path:
        """The file of a piece."""
        return self.folder / f"window{item.window:06d}-condition{item.condition:06d}.parquet"

    def is_done(self, item: Item) -> bool:
        """Whether a piece was scored."""
        return self.path(item).is_file()

    def write(self, item: Item, prompts: Sequence[Prompt], scored: ScoredBatch) -> None:
        """Write the rows of a piece, in their order in the file, whole or not at all."""
        order = sorted(range(len(prompts)), key=lambda place: prompts[place].query.row)
        logprobs = scored.label_logprobs.cpu()
        predicted = (predict_labels(logprobs) if scored.generated is None else scored.generated.cpu()).to(torch.int8)
        chosen = torch.tensor(order, dtype=torch.long)
        columns = [
            np.array([prompts[place].query.row for place in order]),
            np.array([LABELS.index(prompts[place].query.sentiment) for place in order], dtype=np.int8),
            predicted[chosen].numpy(),
            *logprobs[chosen].T.numpy(),
        ]
        real = [prompt for prompt in prompts if prompt.query.row > 0]
        counts = {
            "prompts_dropped": sum(prompt.dropped > 0 for prompt in real),
            "demonstrations_dropped": sum(prompt.dropped for prompt in real),
            "prompts_trimmed": sum(prompt.trimmed for prompt in real),
        }
        table = pa.table([pa.array(column) for column in columns], schema=_PIECE.with_metadata({"counts": json.dumps(counts)}))
        write_whole(self.path(item), lambda path: pq.write_table(table, path))

    def read(self, item: Item) -> pa.Table:
        """The rows of a piece."""
        return pq.read_table(self.path(item))

    def counts(self, item: Item) -> dict[str, int]:
        """Prompts that lost something."""
        return dict(json.loads(pq.read_schema(self.path(item)).metadata[b"counts"]))


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place and rename it, so that it is never half there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_left_over(folder: Path) -> None:
    """Remove what `write_whole` was writing into a folder, or its plots, when its process was killed."""
    for path in (*folder.glob(".*.tmp"), *folder.glob("plots/.*.tmp")):
        process = path.name.removesuffix(".tmp").rpartition(".")[2]
        if process.isdecimal() and not _is_alive(int(process)):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    if fcntl is None:
        return True  # not to be asked on Windows, where the question is a signal
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # of another user, or no process's number
    return True


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Indented JSON with a line end."""
    write_whole(path, lambda partial: partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"))


def pieces_of(folder: Path, plan: dict[str, Any]) -> Pieces:
    """The pieces of a plan, wherever it stands: what another run wrote is never taken for this one's."""
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
    return Pieces(folder / PARTIAL / digest[:16])


def begin(folder: Path, plan: dict[str, Any], resume: bool) -> Pieces:
    """The pieces of a run that begins or goes on; the folder is locked until this process ends or calls `end`.

    Args:
        folder: of the run.
        plan: what the scores depend on; JSON values.
        resume: go on with what is there.

    Raises:
        InputError: if what is there was begun with another plan, another process runs there, or the folder cannot be written to.
    """
    partial = folder / PARTIAL
    plan = json.loads(json.dumps(plan))
    made: list[Path] = []
    try:
        made = [path for path in (partial, folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        _lock(folder)
        if partial.exists() and not (partial / PLAN).is_file() and not list(partial.glob("*/window*.parquet")) and any(partial.iterdir()):
            raise InputError(f"--output {folder}: its {PARTIAL} is none of this package's; move it away or choose another folder")
        begun = (_read_plan(folder) or finished_plan(folder)) if resume else None
        if begun is not None:
            if differing := sorted(name for name in {*plan, *begun} if plan.get(name) != begun.get(name)):
                name = differing[0]
                then, now = _short(begun.get(name)), _short(plan.get(name))
                raise InputError(
                    f"--resume: the run in {folder} was begun with another {name} ({then}, now {now}); give the same options, or "
                    "another --output"
                )
        else:
            if next(partial.glob("*/window*.parquet"), None) is not None:
                print(f"--output {folder}: what an interrupted run had scored there is dropped; --resume goes on with it", file=sys.stderr)
            shutil.rmtree(partial, ignore_errors=True)
            write_json(plan, partial / PLAN)
        shutil.rmtree(partial / JOINED, ignore_errors=True)  # written anew as a whole; `publish` takes all that stands there
        remove_left_over(folder)
    except BaseException as error:
        _unlock(folder)
        for path in made:  # the innermost first
            with contextlib.suppress(OSError):
                path.rmdir()
        if not isinstance(error, OSError):
            raise
        raise InputError(f"--output {folder}: cannot be written to ({error.strerror}); choose another folder") from error
    return pieces_of(folder, plan)


def _read_plan(folder: Path) -> dict[str, Any] | None:
    """The plan of the run that was begun in a folder; None where there is none."""
    path = folder / PARTIAL / PLAN
    try:
        plan = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError as error:
        plan, reason = [], str(error)
    else:
        reason = "no plan"
    if plan is not None and not isinstance(plan, dict):
        raise InputError(f"--resume: {path} is damaged ({reason}); leave --resume out to begin again, or give another --output")
    return plan


def _lock(folder: Path) -> None:
    if fcntl is None or folder in _LOCKS:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InputError(f"--output {folder}: another run writes there; wait for it or choose another folder") from error
    except OSError:  # a file system without locks
        os.close(descriptor)
        return
    _LOCKS[folder] = descriptor


def finished_plan(folder: Path) -> dict[str, Any] | None:
    """The plan of the finished run in a folder; None where there is none, or another one is under way."""
    try:
        return None if (folder / PARTIAL / PLAN).exists() else json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["plan"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def publish(folder: Path) -> None:
    """Put what was joined in the place of an earlier run's files: its manifest goes first, the new one comes last.

    In between there is no manifest, so that no reader takes the files of two runs for one.
    """
    joined = folder / PARTIAL / JOINED
    for name in (MANIFEST, METRICS):
        (folder / name).unlink(missing_ok=True)
    for path in sorted(joined.iterdir(), key=lambda path: path.name == MANIFEST):
        os.replace(path, folder / path.name)


def end(folder: Path) -> None:
    """Forget the pieces of a run whose files are published, and unlock its folder."""
    (folder / PARTIAL / PLAN).unlink(missing_ok=True)
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    _unlock(folder)


def _unlock(folder: Path) -> None:
    if (descriptor := _LOCKS.pop(folder, None)) is not None:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _short(value: Any, limit: int = 80) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 1] + "…"
