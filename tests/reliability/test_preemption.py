"""SIGTERM and SLURM's signals: a fit saves at the end of a step, a job of SLURM's is requeued through Lightning, and goes on by itself."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import Ended, start
from test_interrupted_training import fit, fit_options, last_of, same_to_the_bit, weights_of

JOB = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "fit", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
STEPS = {"trainer__max_steps": "60", "trainer__val_check_interval": "12", "last__every_n_train_steps": "0"}
ON_SIGTERM = ["--trainer.plugins=SLURMEnvironment", "--trainer.plugins.requeue_signal=SIGTERM"]


def signalled(options: list[str], number: signal.Signals, folder: Path, environment: dict[str, str]) -> Ended:
    """Start, and send a signal once some steps are done."""
    log = folder / "log"
    process = start(options, log, environment)
    deadline = time.monotonic() + 240
    while process.is_alive() and not last_of(folder / "runs").is_file() and time.monotonic() < deadline:
        process.join(0.002)
    assert process.is_alive(), log.read_text()
    os.kill(process.pid or 0, number)
    process.join(120)
    hangs = process.is_alive()
    process.kill()
    process.join()
    assert not hangs
    return Ended(process.exitcode or 0, log.read_text())


@pytest.fixture
def slurm(tmp_path: Path) -> tuple[dict[str, str], Callable[[], str]]:
    """The environment of a job, and what was asked of scontrol in it."""
    asked = tmp_path / "asked"
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    program.chmod(0o755)
    return JOB | {"PATH": f"{program.parent}:{os.environ['PATH']}"}, lambda: asked.read_text() if asked.is_file() else ""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "options"), [(signal.SIGUSR1, []), (signal.SIGTERM, ON_SIGTERM)], ids=["SIGUSR1", "SIGTERM"])
def test_a_preempted_job_saves_is_requeued_and_ends_in_the_weights_of_an_undisturbed_one(
    number: signal.Signals, options: list[str], slurm: tuple[dict[str, str], Callable[[], str]], tmp_path: Path, record_property
):
    """The job runs the same command again, without a word of a checkpoint."""
    environment, asked = slurm
    command = fit_options("episodes", tmp_path / "runs", **STEPS) + options
    ended = signalled(command, number, tmp_path, environment)
    record_property("faults", 1)
    assert ended.code == 143, ended.text
    assert "Traceback" not in ended.text
    assert asked() == "requeue 4711\n"
    saved = torch.load(tmp_path / "runs" / "hpc_ckpt_1.ckpt", weights_only=True)
    assert 12 <= saved["global_step"] < 60
    again = start(command, tmp_path / "log", environment)
    again.join(240)
    assert again.exitcode == 0, (tmp_path / "log").read_text()
    assert "Restored all states" in (tmp_path / "log").read_text()
    assert not list((tmp_path / "runs").glob("hpc_ckpt_*"))  # a later job with this folder begins anew
    assert fit(fit_options("episodes", tmp_path / "whole", **STEPS)).code == 0
    assert same_to_the_bit(weights_of(tmp_path / "runs", 1), weights_of(tmp_path / "whole"))


@pytest.mark.slow
def test_a_terminated_fit_saves_says_how_to_go_on_and_is_not_requeued(
    slurm: tuple[dict[str, str], Callable[[], str]], tmp_path: Path, record_property
):
    """A job that was cancelled gets SIGTERM as well: only the signal that was chosen for it requeues."""
    environment, asked = slurm
    command = fit_options("episodes", tmp_path / "runs", **STEPS)
    ended = signalled(command, signal.SIGTERM, tmp_path, environment)
    record_property("faults", 1)
    assert ended.code == 143, ended.text
    assert f"terminated; go on with the same command and --ckpt_path {last_of(tmp_path / 'runs')}" in ended.text
    assert asked() == ""
    assert torch.load(last_of(tmp_path / "runs"), weights_only=True)["global_step"] >= 12
