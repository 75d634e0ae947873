"""A real Ctrl-C, in a process of its own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import ROOT, fit_arguments


@pytest.mark.slow
def test_an_interrupted_fit_ends_with_a_checkpoint_that_resumes(tmp_path: Path, run_script):
    arguments = fit_arguments(tmp_path, trainer__max_epochs="40", trainer__limit_val_batches="1")
    process = subprocess.Popen(
        [sys.executable, "train.py", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "version_0" / "metrics.csv"
    deadline = time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    last = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    assert f"--ckpt_path {last}" in errors
    short = ["--trainer.max_epochs", "41", "--trainer.limit_train_batches", "1"]
    done = run_script("train.py", *arguments, *short, "--ckpt_path", str(last))
    assert done.returncode == 0, done.stderr
