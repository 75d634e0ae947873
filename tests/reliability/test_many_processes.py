"""Two processes on a CPU: a job whose first or second process dies ends soon, with one sentence, whatever it was doing.

That two processes fit, predict and evaluate as one does, every row once and every file written by one of them, is shown in
test_distributed_training.py and training/test_processes.py.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
from processes import kill_at, run_together, start
from running import DEMO
from test_interrupted_training import fit_options, last_of

SECONDS = 60.0  # from the death of one process to the end of the job
TWO = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
MINUTES_OF_FIT = {"trainer__max_epochs": "1000", "trainer__limit_val_batches": "0"}
EVALUATE = ["--shots", "0", "2", "4", "--seeds", "100", "--no-report", "--device", "cpu", "--precision", "32-true"]


def commands(fitted: Path, folder: Path) -> dict[str, tuple[list[str], Callable[[], bool], str]]:
    """Of each command: how it is called, whether it is well under way, and what the sentence names to do next.

    Each would go on for minutes.
    """
    checkpoint = ["--ckpt_path", str(fitted / "checkpoints" / "last.ckpt"), "--trainer.accelerator", "cpu", "--data.pool", str(DEMO)]
    predict = ["predict", *checkpoint, "--data.predict", str(DEMO), "--data.shots", "4", "--data.seeds", "300", *TWO]
    predict += ["--trainer.enable_progress_bar", "false", "--predictions.output", f"{folder}/predictions.csv"]
    evaluate = ["evaluate", "--checkpoint", str(fitted / "pretrained"), *EVALUATE, "--output", f"{folder}/run", "--devices", "2"]
    return {
        "fit": (fit_options("episodes", folder / "fit", **MINUTES_OF_FIT) + TWO, last_of(folder / "fit").is_file, "--ckpt_path"),
        "predict": (predict, lambda: has_pieces(folder / ".predictions.csv.pieces"), "run it again"),
        "evaluate": (evaluate, lambda: has_pieces(folder / "run" / ".partial"), "--resume"),
    }


def has_pieces(folder: Path) -> bool:
    return len(list(folder.glob("**/window*.parquet"))) >= 4


def descendants(process: int) -> Iterator[int]:
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            yield child
            yield from descendants(child)


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def is_gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def under_way(arguments: list[str], is_under_way: Callable[[], bool], log: Path) -> tuple[ForkServerProcess, int]:
    """The first process of a job of two, and the id of the second, once they are at work."""
    job = start(arguments, log)
    wait_for(lambda: is_under_way() or not job.is_alive(), 240)
    others = list(descendants(job.pid or 0))
    assert job.is_alive(), log.read_text()
    assert len(others) == 1
    return job, others[0]


def wait_for_end(job: ForkServerProcess, other: int) -> None:
    """Both are gone within the time that is promised."""
    try:
        wait_for(lambda: not job.is_alive() and is_gone(other), SECONDS)
    finally:
        for process in (job.pid or 0, other):
            if not is_gone(process):
                os.kill(process, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("dead", ["first", "second"])
@pytest.mark.parametrize("name", ["fit", "predict", "evaluate"])
def test_a_dead_process_ends_the_job_with_one_sentence(name: str, dead: str, fitted: Path, tmp_path: Path, record_property):
    arguments, is_under_way, remedy = commands(fitted, tmp_path)[name]
    job, other = under_way(arguments, is_under_way, tmp_path / "log")
    os.kill(other if dead == "second" else job.pid or 0, signal.SIGKILL)
    record_property("faults", 1)
    wait_for_end(job, other)
    text = (tmp_path / "log").read_text()
    sentences = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, text
    assert ("process 2 of 2 was killed (SIGKILL)" if dead == "second" else "the first process of this job is gone") in sentences[0]
    assert remedy in sentences[0]
    assert "Traceback" not in text
    assert job.exitcode == (1 if dead == "second" else -signal.SIGKILL)
    assert not (tmp_path / "predictions.csv").exists()


@pytest.mark.slow
def test_a_signal_to_one_process_of_a_fit_ends_both_after_the_same_step(fitted: Path, tmp_path: Path, record_property):
    arguments, is_under_way, _ = commands(fitted, tmp_path)["fit"]
    job, other = under_way(arguments, is_under_way, tmp_path / "log")
    os.kill(other, signal.SIGTERM)
    record_property("faults", 1)
    wait_for_end(job, other)
    text = (tmp_path / "log").read_text()
    assert job.exitcode == 143, text
    assert f"terminated; go on with the same command and --ckpt_path {last_of(tmp_path / 'fit')}" in text
    assert "Traceback" not in text
    assert "error: " not in text
    assert torch.load(last_of(tmp_path / "fit"), weights_only=True)["state_dict"]


def test_where_another_program_starts_the_processes_a_dead_one_ends_the_others_with_a_sentence(tmp_path: Path, record_property):
    """As under torchrun, which ends them itself, or SLURM."""
    options = fit_options("episodes", tmp_path / "fit", **MINUTES_OF_FIT) + TWO
    first, second = run_together(options + kill_at("on_train_batch_start", 5, rank=1), world=2, timeout=120)
    record_property("faults", 1)
    assert second.code == -signal.SIGKILL
    assert first.code == 1, first.text
    assert "error: the connection to another process of this job is lost; go on with the same command and --ckpt_path" in first.text
    assert "Traceback" not in first.text
