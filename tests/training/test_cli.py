"""What the command line adds to Lightning's: best and last checkpoints across resumes, fits without validation."""

from pathlib import Path

import torch
from running import call, fit_arguments

from rope_gpt2.training.cli import BestCheckpoint


def test_a_fit_may_end_before_its_first_validation(tmp_path: Path):
    assert call([*fit_arguments(tmp_path), "--trainer.max_steps", "1", "--trainer.limit_val_batches", "0"]) == 0
    assert (tmp_path / "version_0" / "pretrained" / "config.json").is_file()


def test_the_best_of_a_run_is_remembered_when_it_is_resumed_elsewhere(tmp_path: Path):
    first = BestCheckpoint(dirpath=tmp_path / "version_0", monitor="val/accuracy", mode="max")
    first.best_model_path, first.best_model_score = str(tmp_path / "version_0" / "best.ckpt"), torch.tensor(0.9)
    first.best_k_models = {first.best_model_path: first.best_model_score}
    second = BestCheckpoint(dirpath=tmp_path / "version_1", monitor="val/accuracy", mode="max")
    second.load_state_dict(first.state_dict())
    assert second.best_model_path == first.best_model_path
    assert second.best_model_score == 0.9


def test_scoring_leaves_no_run_folder(fitted: Path, tmp_path: Path, monkeypatch):
    checkpoint = str(fitted / "checkpoints" / "last.ckpt")
    options = ["--data.test", "data/demo.csv", "--data.pool", "data/demo.csv", "--trainer.enable_progress_bar", "false"]
    assert call(["test", "--ckpt_path", checkpoint, *options, "--trainer.default_root_dir", str(tmp_path)]) == 0
    assert not list(tmp_path.iterdir())


def test_resuming_goes_on_in_a_folder_of_its_own(fitted: Path, tmp_path: Path):
    arguments = fit_arguments(tmp_path, trainer__max_epochs="3")
    assert call([*arguments, "--ckpt_path", str(fitted / "checkpoints" / "last.ckpt")]) == 0
    assert (tmp_path / "version_0" / "pretrained" / "model.safetensors").is_file()
