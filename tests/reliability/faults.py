"""Faults at random moments of a command: kill -9, SIGTERM, Ctrl-C and a disk that is full, each done to a real process.

A moment is a share of the processor time that the undisturbed command takes, not of the time on the clock, so that it is as random on a
machine that is busy.
"""

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from processes import Ended, begun, start

SEED = int(os.environ.get("ROPE_GPT2_FAULT_SEED", "0"))
PATIENCE = 240.0  # seconds that a command may take to end, after a fault or without: then it hangs
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
FULL_DISK = "full disk"
FAULTS = (*SIGNALS, FULL_DISK)
# How a command may end after a fault: by the signal itself before it has begun to work; 0 where nothing was left to do
CODES = {"SIGKILL": (-9,), "SIGTERM": (143, -15, 0), "SIGINT": (130, 0), FULL_DISK: (2, 0)}
_TICKS = os.sysconf("SC_CLK_TCK")


class HangError(AssertionError):
    """A command that did not end in time."""


@dataclass
class Tally:
    """What a test did, for the summary of the suite."""

    faults: int = 0
    rows_lost: int = 0
    hangs: int = 0
    moments: list[str] = field(default_factory=list)


@dataclass
class Disk:
    """A folder on a disk of its own, if a small tmpfs can be mounted; else one where files can be kept from growing (RLIMIT_FSIZE)."""

    folder: Path
    is_own: bool

    def fill(self, process: ForkServerProcess) -> None:
        """Leave no byte, until the process ends."""
        if not self.is_own:
            with suppress(ProcessLookupError):
                resource.prlimit(process.pid or 0, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            _wait(process)
            return
        deadline = time.monotonic() + PATIENCE
        with (self.folder / ".filler").open("wb") as file:
            size = 0
            while process.is_alive() and time.monotonic() < deadline:
                free = os.statvfs(self.folder)
                if free.f_bavail:
                    with suppress(OSError):
                        os.posix_fallocate(file.fileno(), size, free.f_bavail * free.f_frsize)
                        size += free.f_bavail * free.f_frsize
                process.join(0.005)
        (self.folder / ".filler").unlink()
        _wait(process)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Disk]:
    """A disk at a folder that is made for it."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, check=False) if shutil.which("mount") and os.geteuid() == 0 else None
    is_own = done is not None and done.returncode == 0
    try:
        yield Disk(folder, is_own)
    finally:
        if is_own:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


@dataclass
class Command:
    """A command that is started again and again, with faults.

    Attributes:
        arguments: makes them, anew for each start: they name the checkpoint to go on from.
        log: file for what it prints.
        disk: of its output.
        tally: what was done.
        environment: beside that of the tests.
    """

    arguments: Callable[[], Sequence[str]]
    log: Path
    disk: Disk
    tally: Tally
    environment: dict[str, str] = field(default_factory=dict)

    def run(self) -> tuple[Ended, float]:
        """To its end; the second part is its processor time in seconds."""
        process = start(self.arguments(), self.log, self.environment)
        deadline, seconds = time.monotonic() + PATIENCE, 0.0
        while process.is_alive() and time.monotonic() < deadline:
            seconds = max(seconds, _processor_seconds(process))
            process.join(0.02)
        return self._end(process), seconds

    def disturb(self, fault: str, seconds: float) -> Ended | None:
        """Start, and inject a fault once it has computed for so long; None where it ended before that."""
        begun(self.log).unlink(missing_ok=True)
        process = start(self.arguments(), self.log, self.environment)
        deadline = time.monotonic() + PATIENCE
        while process.is_alive() and time.monotonic() < deadline:
            if begun(self.log).exists() and _processor_seconds(process) >= seconds:
                break
            process.join(0.002)
        if not process.is_alive():
            assert self._end(process).code == 0, self.log.read_text()
            return None
        self.tally.faults += 1
        if fault == FULL_DISK:
            self.disk.fill(process)
        else:
            os.kill(process.pid or 0, SIGNALS[fault])
            if fault == "SIGINT":  # Python loses an interrupt that comes while an object is finalized: press again
                process.join(20)
                if process.is_alive():
                    os.kill(process.pid or 0, signal.SIGINT)
        ended = self._end(process)
        assert ended.code in CODES[fault], f"{fault} after {seconds:.2f} s: exit code {ended.code}\n{ended.text}"
        assert "Traceback" not in ended.text, f"{fault} after {seconds:.2f} s\n{ended.text}"
        return ended

    def _end(self, process: ForkServerProcess) -> Ended:
        try:
            _wait(process)
        except HangError:
            self.tally.hangs += 1
            raise
        return Ended(process.exitcode or 0, self.log.read_text() if self.log.is_file() else "")


def random_shares(name: str, count: int) -> list[float]:
    """So many moments of a command, as shares of its time: the same for the same name and seed."""
    chosen = random.Random(f"{SEED} {name}")
    return [chosen.random() for _ in range(count)]


def _processor_seconds(process: ForkServerProcess) -> float:
    """Of the process itself; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH):
            return 0.0
        raise
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _wait(process: ForkServerProcess) -> None:
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
        raise HangError(f"the command had not ended after {PATIENCE:.0f} s")
