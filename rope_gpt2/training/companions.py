"""The processes of one job on one machine watch each other: where one of them dies, all end, with one sentence.

Lightning's launcher looks after its processes every five seconds, and kills the first one along with the others, without a word; nobody
looks after the first one, whose death leaves the others to wait, or to compute for no one.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

EXIT_LOST = 1
FIRST = "ROPE_GPT2_FIRST_PROCESS"  # to the processes that the first one starts: its id
LOOK_SECONDS = 0.5
PATIENCE_SECONDS = 10.0  # a lost connection is noticed before the process that it led to is seen to be gone


class WatchingLauncher(_SubprocessScriptLauncher):
    """Starts the processes of a job as its parent does, and ends the job where one of them dies.

    Args:
        parent: of the trainer's strategy.
        remedy: what to do next, for the sentence.
    """

    def __init__(self, parent: _SubprocessScriptLauncher, remedy: Callable[[], str]) -> None:
        super().__init__(parent.cluster_environment, parent.num_processes, parent.num_nodes)
        self._remedy = remedy
        self._ended = threading.Event()

    def launch(self, function: Callable[..., Any], *args: Any, trainer: L.Trainer | None = None, **kwargs: Any) -> Any:
        """Start the other processes, then call the function."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            os.environ[FIRST] = str(os.getpid())
            self._call_children_scripts()
            del os.environ[FIRST]
        self._ended.clear()
        watch = threading.Thread(target=self._watch, daemon=True, name="companions")
        watch.start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:  # of gloo or NCCL
            if self.num_processes > 1 and _is_lost_connection(error):
                watch.join(PATIENCE_SECONDS)  # it ends this process where it finds one dead
                self._leave("the connection to another process of this job is lost", EXIT_LOST)  # started elsewhere: torchrun, SLURM
            self._end_others(trainer)
            raise
        except BaseException as error:
            # Interrupted, the processes of a fit have agreed to end at the same step, and write their checkpoint together
            if not (isinstance(error, KeyboardInterrupt | SIGTERMException) and trainer and trainer.state.fn == TrainerFn.FITTING):
                self._end_others(trainer)
            raise
        finally:
            self._ended.set()

    def _end_others(self, trainer: L.Trainer | None) -> None:
        self._ended.set()
        self.kill(signal.SIGKILL)  # they would complain of the lost connection

    def _watch(self) -> None:
        first = int(os.environ.get(FIRST, "0"))
        while not self._ended.wait(LOOK_SECONDS):
            if first and os.getppid() != first:
                self._leave("the first process of this job is gone", EXIT_LOST)
            for place, process in enumerate(self.procs, start=2):
                if process.poll():
                    self._lost(place, process)
            if self.procs and all(process.returncode == 0 for process in self.procs):
                return

    def _lost(self, place: int, process: subprocess.Popen[bytes]) -> None:
        code = int(process.returncode)
        self.kill(signal.SIGKILL)
        if code == 2:  # bad input, of which it has told
            self._leave("", code)
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
        self._leave(f"process {place} of {self.num_processes} {how}, and the others with it", EXIT_LOST)

    def _leave(self, what: str, code: int) -> None:
        """End this process, whatever its main thread waits for."""
        if self._ended.is_set():
            return
        if what:
            print(f"error: {what}; {self._remedy()}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(code)


def watch_companions(trainer: L.Trainer, remedy: Callable[[], str]) -> None:
    """Let the processes that this trainer starts watch each other.

    Args:
        trainer: of any strategy; those that start no processes by themselves stay as they are.
        remedy: what to do after one of them died, for the sentence: called then, from any thread.
    """
    launcher = trainer.strategy.launcher
    if type(launcher) is _SubprocessScriptLauncher:
        trainer.strategy._launcher = WatchingLauncher(launcher, remedy)


def _is_lost_connection(error: RuntimeError) -> bool:
    """What gloo, NCCL and torch's store say of a process that is gone."""
    text = str(error).lower()
    return any(words in text for words in ("connection", "socket", "nccl", "gloo", "broken pipe", "timed out", "unreachable"))
