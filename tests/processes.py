"""Commands in processes that share one import: killed where a test says, or several of them training together.

A server imports the package once and is then forked for each process, which makes a real process cost no more than its work.
"""

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
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


def run_together(arguments: Sequence[str], world: int = 1, timeout: float = 300) -> list[Ended]:
    """A command in `world` processes, as torchrun starts them: `main(arguments)` in each, rank by rank."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["processes", "rope_gpt2.training.cli"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        started = []
        for rank in range(world):
            place = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
            environment = ONE_THREAD | ({name: str(value) for name, value in (place | shared).items()} if world > 1 else {})
            process = context.Process(target=_run, args=(list(arguments), environment, Path(folder) / str(rank)))
            process.start()
            started.append(process)
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
    sys.exit(main(arguments))


class KillAt(L.Callback):
    """`kill -9` of its own process.

    Args:
        moment: name of a hook, or "save": when a checkpoint is half written.
        count: at which call.
    """

    def __init__(self, moment: str, count: int) -> None:
        self._left = count
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


def kill_at(moment: str, count: int) -> list[str]:
    """Options of `fit` that put a KillAt in."""
    return ["--trainer.callbacks+=processes.KillAt", f"--trainer.callbacks.moment={moment}", f"--trainer.callbacks.count={count}"]


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
