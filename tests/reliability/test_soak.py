"""Evaluation after evaluation in one process: its memory and its open files stay as they are.

Three minutes long; `ROPE_GPT2_SOAK_MINUTES=60` for an hour.
"""

import gc
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from running import ROOT, call
from safetensors import safe_open

MINUTES = float(os.environ.get("ROPE_GPT2_SOAK_MINUTES", "3"))
RISE = 16.0  # MiB by which the straight line through all measurements may rise from the first to the last, however many there are
READS = 4000  # of the weights by safetensors alone, to see what those leave behind: up to 0.8.0 it keeps something of every tensor
WARM = 0.25  # share of the evaluations before memory is judged: allocators and caches fill
COMMON = ["--no-report", "--device", "cpu", "--precision", "32-true", "--limit", "40", "--seeds", "1"]
VARIANTS = (
    ["--shots", "0", "1"],
    ["--shots", "2", "--scoring", "channel"],
    ["--shots", "1", "--scoring", "generate"],
    ["--shots", "3", "--verify", "4"],
)


def evaluate_for(minutes: float, checkpoint: Path, folder: Path) -> None:
    """Evaluate in turn with all variants, each time on other rows, and note [MiB of memory, open files, threads] after every round."""
    os.chdir(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    with (folder / "printed").open("w") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    lines = (ROOT / "data" / "demo.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    measured, deadline, count = [], time.monotonic() + 60 * minutes, 0
    while time.monotonic() < deadline or len(measured) < 8:
        count += 1
        start = count * 37 % (len(lines) - 61)
        (folder / "data.csv").write_text("".join([lines[0], *lines[1 + start : 61 + start]]), encoding="utf-8")
        for variant in VARIANTS:
            output = ["--checkpoint", str(checkpoint), "--data", str(folder / "data.csv"), "--output", str(folder / "run")]
            assert call(["evaluate", *output, *COMMON, *variant]) == 0
        gc.collect()
        measured.append((memory(), len(os.listdir("/proc/self/fd")), threading.active_count()))
    (folder / "measured.json").write_text(json.dumps(measured))


def read_weights(weights: Path, folder: Path) -> None:
    """Read a file of weights again and again, without this package, and note the MiB that each time leaves behind."""

    def read(times: int) -> float:
        for _ in range(times):
            with safe_open(weights, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is no dictionary
                    tensors.get_tensor(name)
        gc.collect()
        return memory()

    before = read(READS // 4)
    (folder / "left.json").write_text(json.dumps((read(READS) - before) / READS))


def memory() -> float:
    """MiB that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def in_a_fresh_process(target: Callable[..., None], *arguments: object, seconds: float) -> None:
    """Run a function whose memory is not that of these tests, and wait for it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["processes", "rope_gpt2.training.cli", "rope_gpt2.commands.evaluate"])
    process = context.Process(target=target, args=arguments)
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        pytest.fail("the process hangs")
    assert process.exitcode == 0


@pytest.mark.slow
@pytest.mark.timeout(60 * MINUTES + 600)
def test_memory_and_open_files_stay_as_they_are_however_often_one_evaluates(
    fitted: Path, tmp_path: Path, record_property: Callable[[str, object], None]
):
    in_a_fresh_process(read_weights, fitted / "pretrained" / "model.safetensors", tmp_path, seconds=500)
    left = max(0.0, json.loads((tmp_path / "left.json").read_text()))
    in_a_fresh_process(evaluate_for, MINUTES, fitted / "pretrained", tmp_path, seconds=60 * MINUTES + 500)
    measured = np.array(json.loads((tmp_path / "measured.json").read_text()))  # [rounds, 3]
    warm = measured[int(WARM * len(measured)) :]
    rounds = np.arange(len(warm))
    slope, _ = np.polyfit(rounds, warm[:, 0], 1)
    rise = slope * (len(warm) - 1)
    evaluations = len(measured) * len(VARIANTS)
    record_property("evaluations", evaluations)
    kibibytes = f"{1024 * slope:+.1f} KiB a round of {len(VARIANTS)}, of which safetensors keeps {1024 * left * len(VARIANTS):.1f}"
    print(
        f"{evaluations} evaluations in {MINUTES:g} minutes: memory {warm[0, 0]:.1f} to {warm[-1, 0]:.1f} MiB, {kibibytes}; "
        f"{warm[-1, 1]:.0f} open files, {warm[-1, 2]:.0f} threads"
    )
    assert rise < RISE + left * len(warm) * len(VARIANTS), f"memory rises by {kibibytes}: {warm[:, 0].round(1).tolist()}"
    assert set(warm[:, 1]) == {warm[0, 1]}, f"open files: {warm[:, 1].tolist()}"
    assert set(warm[:, 2]) == {warm[0, 2]}, f"threads: {warm[:, 2].tolist()}"
