"""Trainings that take turns: each runs in a process of its own, which stays alive and waits between its turns.

The parent says how many optimizer steps to run, the child runs them and answers with their seconds. A clock runs from the end of one step
to the end of another, so that all of a training loop is in it: loader, forward, backward, clipping, optimizer, schedule, callbacks.
"""

import math
import multiprocessing
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from rope_gpt2.errors import InputError


class Pacer:
    """The child's end: what a trainer's callbacks call.

    Args:
        pipe: to the parent.
        device: "cpu" or "cuda".
    """

    def __init__(self, pipe: Connection, device: str) -> None:
        self._pipe, self._device = pipe, device
        self._left, self._started = 0, 0.0
        self._first_loss: Any = None
        self._last_loss: Any = None

    def training_begins(self) -> None:
        """Wait for the first turn."""
        self._wait({"memory_before_training": _memory("VmRSS")})

    def loss_made(self, loss: Any) -> None:
        """Remember the losses of the first and of the last batch."""
        if self._first_loss is None:
            self._first_loss = loss
        self._last_loss = loss

    def losses(self) -> dict[str, float]:
        """Of the first and of the last batch."""
        return {"first_loss": float(self._first_loss), "last_loss": float(self._last_loss)}

    def step_done(self) -> None:
        """Count an optimizer step; at the end of a turn, answer with its seconds and wait for the next."""
        self._left -= 1
        if not self._left:
            if self._device == "cuda":
                torch.cuda.synchronize()
            self._wait(time.perf_counter() - self._started)

    def _wait(self, answer: Any) -> None:
        self._pipe.send(answer)
        self._left = self._pipe.recv()
        self._started = time.perf_counter()


class Contestant:
    """The parent's end of one training.

    Args:
        name: of the training.
        fit: what the child runs, as `fit(pacer, **arguments)`; it must call the pacer's methods, and be importable.
        device: "cpu" or "cuda".
        arguments: of `fit`, pickled.

    Attributes:
        result: what is known of the training besides its turns; complete after `finish`.
    """

    def __init__(self, name: str, fit: Callable[..., None], device: str, arguments: dict[str, Any]) -> None:
        context = multiprocessing.get_context("spawn")  # a forked child would share the state of torch's threads
        self.name = name
        self.result: dict[str, Any] = {}
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(fit, theirs, device, arguments))
        self._process.start()
        theirs.close()

    def wait_until_ready(self) -> None:
        """Until the child stands before its first step."""
        self.result |= self._receive()

    def run(self, steps: int) -> float:
        """Seconds of so many optimizer steps."""
        self._pipe.send(steps)
        return float(self._receive())

    def finish(self) -> None:
        """Let the child end after its last step, and take what it says.

        Raises:
            InputError: if its loss is no finite number any more.
        """
        self._pipe.send(0)
        self.result |= self._receive()
        self._process.join()
        if not math.isfinite(self.result["last_loss"]):
            raise InputError(
                f"{self.name}: the loss of its last step is {self.result['last_loss']}, and the speed of a broken training says nothing; "
                "see whether --no-compile mends it"
            )

    def stop(self) -> None:
        """End the child, wherever it is."""
        if self._process.is_alive():
            self._process.kill()  # Lightning puts a milder signal off until its next step
            self._process.join()

    def _receive(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError as error:
            self._process.join()
            raise RuntimeError(f"{self.name}: its process ended with code {self._process.exitcode} (out of memory, say)") from error
        if isinstance(answer, InputError):
            raise answer
        if isinstance(answer, BaseException):
            raise RuntimeError(f"{self.name} failed") from answer
        return answer


def _run(fit: Callable[..., None], pipe: Connection, device: str, arguments: dict[str, Any]) -> None:
    """The child's life."""
    pacer = Pacer(pipe, device)
    try:
        fit(pacer, **arguments)
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else _memory("VmHWM")
        pipe.send({"peak_memory": peak} | pacer.losses())
    except InputError as error:
        pipe.send(error)
    except Exception:
        pipe.send(RuntimeError(traceback.format_exc()))  # some exceptions cannot be pickled


def _memory(field: str) -> int | None:
    """Bytes of this process, by a line of /proc/self/status; None where there is no such file.

    `resource.getrusage` would not do: what it calls the peak of a process that was started by another begins at that one's own.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
