"""Ctrl-C, SIGTERM and SLURM's signals, held until what is done can be taken up again from where it stands."""

import signal
import threading
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException

EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143  # 128 + the signal's number, as shells have it


class StopSignals:
    """Takes the signals that ask a job to end, and tells of them when asked.

    Lightning's own handlers would act at once: SLURM's saves in the middle of a step, half of which is then done twice or never, and
    SIGTERM's sends a message to the other processes while they may wait for another one.

    A second Ctrl-C acts at once.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._received = 0
        self._requeues: int | None = None

    def hold(self, trainer: L.Trainer) -> None:
        """From here on signals wait; called again it does nothing. In another thread than the main one no signal arrives."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        self._received = 0
        environment = trainer._accelerator_connector.cluster_environment
        is_slurm = isinstance(environment, SLURMEnvironment) and environment.auto_requeue
        self._requeues = getattr(environment, "requeue_signal", None) if is_slurm else None
        for number in {signal.SIGINT, signal.SIGTERM, self._requeues or signal.SIGTERM}:
            self._before[number] = signal.signal(number, self._receive)

    def release(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def received(self, trainer: L.Trainer | None = None) -> int:
        """The signal that came, 0 for none.

        Args:
            trainer: asks all its processes, which must all call this at the same step; None asks this one alone.
        """
        if trainer is None or trainer.world_size == 1:
            return self._received
        mine = torch.tensor(float(self._received), device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(mine, reduce_op="max"))

    def act(self, number: int) -> None:
        """What the signal asks for, now; under SLURM its requeue signal saves, requeues the job and ends it.

        Raises:
            KeyboardInterrupt: for Ctrl-C.
            SIGTERMException: for every other signal.
        """
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number == self._requeues and callable(self._before.get(number)):
            self._before[number](number, None)
        raise SIGTERMException

    def _receive(self, number: int, _: FrameType | None) -> None:
        self._received = number
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])
