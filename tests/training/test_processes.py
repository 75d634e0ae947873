"""Two processes on a CPU: every row exactly once, and the scores of one process."""

from pathlib import Path

import pytest
from running import DEMO, fit_arguments

from rope_gpt2.fewshot.report import read_predictions

DDP = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]


@pytest.mark.slow
def test_two_processes_predict_every_row_once_with_the_scores_of_one(fitted: Path, tmp_path: Path, run_script):
    arguments = ["train.py", "predict", "--config", "configs/predict.yaml", "--ckpt_path", str(fitted / "checkpoints" / "last.ckpt")]
    shared = ["--data.predict", str(DEMO), "--trainer.enable_progress_bar", "false"]
    results = []
    for name, devices in (("one", []), ("two", DDP)):
        output = tmp_path / f"{name}.csv"
        done = run_script(*arguments, *shared, "--predictions.output", str(output), *devices)
        assert done.returncode == 0, done.stderr
        results.append(read_predictions(output))
    one, two = results
    assert [row.row for row in two] == list(range(1, 457))
    for ours, theirs in zip(two, one, strict=True):
        assert ours.predicted == theirs.predicted
        assert ours.logprob_positive == pytest.approx(theirs.logprob_positive, abs=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.csv", "two.csv"]


@pytest.mark.slow
def test_two_processes_fit_and_leave_one_run_folder(tmp_path: Path, run_script):
    done = run_script("train.py", *fit_arguments(tmp_path), *DDP)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["version_0"]
    assert (tmp_path / "version_0" / "pretrained" / "model.safetensors").is_file()
