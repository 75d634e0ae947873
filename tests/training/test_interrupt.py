"""A real Ctrl-C, in a process of its own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from running import ROOT, call, fit_arguments

from rope_gpt2.training.module import RopeGPT2Module


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


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_what_fails_while_a_signal_waits_was_stopped_by_it(number: int, code: int, word: str, tmp_path: Path, monkeypatch, capsys):
    """As a compiler does, which a terminal's Ctrl-C ends as well."""
    step, steps = RopeGPT2Module.training_step, 0

    def fails_in_its_third_step(module: RopeGPT2Module, batch: Any, batch_idx: int) -> Any:
        nonlocal steps
        steps += 1
        if steps == 3:
            os.kill(os.getpid(), number)
            raise RuntimeError("the compiler is gone")
        return step(module, batch, batch_idx)

    monkeypatch.setattr(RopeGPT2Module, "training_step", fails_in_its_third_step)
    arguments = fit_arguments(tmp_path, trainer__max_epochs="40", trainer__limit_train_batches="2", trainer__limit_val_batches="1")
    assert call([*arguments, "--trainer.log_every_n_steps", "1"]) == code
    assert f"{word}; go on with the same command and --ckpt_path" in capsys.readouterr().err
    logged = pd.read_csv(tmp_path / "version_0" / "metrics.csv")
    assert logged["step"].max() == 1, "the second step's row was not yet on disk when the third failed"


def test_what_fails_with_no_signal_is_an_error(tmp_path: Path, monkeypatch):
    def fails(*_: Any) -> None:
        raise RuntimeError("the compiler is gone")

    monkeypatch.setattr(RopeGPT2Module, "training_step", fails)
    with pytest.raises(RuntimeError, match="the compiler is gone"):
        call(fit_arguments(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a compiler")
def test_a_terminals_interrupt_while_the_model_is_compiled(tmp_path: Path):
    """It reaches every process of the group, the compilers too."""
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    arguments = [*fit_arguments(tmp_path / "run", trainer__limit_val_batches="1"), "--model.compile", "true"]
    process = subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "compiled").rglob("*.main.cpp")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "interrupted" in errors


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", str(Path(sys.executable).with_name("rope-gpt2"))])
def test_an_interrupt_while_libraries_are_imported(tmp_path: Path, script: str):
    (tmp_path / "transformers.py").write_text("raise KeyboardInterrupt\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (130, "interrupted\n", "")
