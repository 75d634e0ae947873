"""Two processes on a CPU: every row exactly once, and the scores of one process."""

from pathlib import Path

import numpy as np
import pytest
from running import DEMO, fit_arguments, predictions

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
        results.append(predictions(output))
    one, two = results
    assert two.row.tolist() == list(range(1, 457))
    assert two.predicted.equals(one.predicted)
    np.testing.assert_allclose(two.logprob_positive, one.logprob_positive, atol=1e-4, rtol=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.csv", "two.csv"]


@pytest.mark.slow
def test_two_processes_evaluate_every_row_once_with_the_scores_of_one(fitted: Path, tmp_path: Path, run_script):
    arguments = [
        "--checkpoint",
        str(fitted / "pretrained"),
        "--device",
        "cpu",
        "--precision",
        "32-true",
        "--shots",
        "0",
        "2",
        "--seeds",
        "2",
    ]
    for name, devices in (("one", "1"), ("two", "2")):
        done = run_script("evaluate.py", *arguments, "--devices", devices, "--output", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
    one, two = predictions(tmp_path / "one"), predictions(tmp_path / "two")
    settings = ["row", "sentiment", "predicted", "shots", "seed"]
    assert two[settings].equals(one[settings])
    np.testing.assert_allclose(two.logprob_positive, one.logprob_positive, atol=1e-4, rtol=0)
    assert {path.name for path in (tmp_path / "one").iterdir()} == {path.name for path in (tmp_path / "two").iterdir()}


@pytest.mark.slow
def test_two_processes_fit_and_leave_one_run_folder(tmp_path: Path, run_script):
    done = run_script("train.py", *fit_arguments(tmp_path), *DDP)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["version_0"]
    assert (tmp_path / "version_0" / "pretrained" / "model.safetensors").is_file()
