"""Commands in processes that share one import: killed where a test says, or several of them training together.

A server imports the package once and is then forked for each process, which makes a real process cost no more than its work.
"""

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import lightning as L
import torch
from running import ROOT

from rope_gpt2.commands.main import main

ONE_THREAD = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit code (negative for a signal) and what it printed."""

    code: int
    text: str


def start(arguments: Sequence[str], output: Path, environment: Mapping[str, str] | None = None) -> ForkServerProcess:
    """A command in a process of its own: `main(arguments)`, as its script would call it.

    Args:
        arguments: "evaluate" and its options, or those of train.py.
        output: file for what it prints.
        environment: beside that of this process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["processes", "rope_gpt2.training.cli", "rope_gpt2.commands.evaluate"])
    process = context.Process(target=_run, args=(list(arguments), ONE_THREAD | dict(environment or {}), output))
    process.start()
    return process


def begun(output: Path) -> Path:
    """The file that is there once a process is a command: before, a signal would not meet the command."""
    return output.with_name(f"{output.name}.begun")


def run_together(arguments: Sequence[str], world: int = 1, timeout: float = 300) -> list[Ended]:
    """A command in `world` processes, as torchrun starts them: `main(arguments)` in each, rank by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        started = []
        for rank in range(world):
            place = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
            environment = {name: str(value) for name, value in (place | shared).items()} if world > 1 else {}
            started.append(start(arguments, Path(folder) / str(rank), environment))
        for process in started:
            process.join(timeout)
        hanging = [process for process in started if process.is_alive()]
        for process in hanging:
            process.kill()
            process.join()
        texts = [(Path(folder) / str(rank)).read_text() for rank in range(world)]
    assert not hanging, f"processes hang: {texts}"
    return [Ended(process.exitcode or 0, text) for process, text in zip(started, texts, strict=True)]


def _run(arguments: list[str], environment: dict[str, str], output: Path) -> None:
    file = output.open("w", buffering=1)  # open as long as the process lives
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = file
    os.environ.update(environment)
    os.chdir(ROOT)
    torch.set_num_threads(1)
    # What the processes that it starts are started with: its script
    sys.argv = ["evaluate.py" if arguments[0] == "evaluate" else "train.py", *arguments]
    sys.modules["__main__"].__spec__ = None
    begun(output).touch()
    sys.exit(main(arguments))


class KillAt(L.Callback):
    """`kill -9` of its own process.

    Args:
        moment: name of a hook, or "save": when a checkpoint is half written.
        count: at which call.
        rank: of the process; -1 for all of them.
    """

    def __init__(self, moment: str, count: int, rank: int = -1) -> None:
        self._left = count
        if rank not in (-1, int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))):
            return
        if moment == "save":
            fsync = os.fsync
            os.fsync = lambda fd: self._tick(fd) or fsync(fd)  # type: ignore[assignment]
        else:
            setattr(self, moment, lambda trainer, *_: None if trainer.sanity_checking else self._tick())

    def _tick(self, half_written: Any = None) -> None:
        self._left -= 1
        if not self._left:
            if half_written is not None:
                os.ftruncate(half_written, os.fstat(half_written).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)


def kill_at(moment: str, count: int, rank: int = -1) -> list[str]:
    """Options of `fit` and `predict` that put a KillAt in."""
    chosen = {"moment": moment, "count": count, "rank": rank}
    return ["--trainer.callbacks+=processes.KillAt", *(f"--trainer.callbacks.{name}={value}" for name, value in chosen.items())]


class Poison(L.Callback):
    """Makes one weight of one process no number.

    Args:
        rank: which process.
        count: at the start of which training batch, from 1.
    """

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Count down."""
        self.count -= 1
        if not self.count and trainer.global_rank == self.rank:
            with torch.no_grad():
                next(pl_module.parameters()).view(-1)[:] = torch.nan
