"""--ckpt_path last and best: checkpoints of the newest run of a folder."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from running import call, fit_arguments
from safetensors.torch import load_file

from rope_gpt2.training import cli
from rope_gpt2.training.checkpoints import ExportPretrained
from rope_gpt2.training.sharding import META


def last_of(folder: Path, version: int) -> Path:
    return folder / f"version_{version}" / "checkpoints" / "last.ckpt"


def stored(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def validate_arguments(folder: Path, word: str) -> list[str]:
    data = ["--data.validation", "data/demo.csv", "--data.pool", "data/demo.csv", "--trainer.enable_progress_bar", "false"]
    return ["validate", "--trainer.default_root_dir", str(folder), *data, "--ckpt_path", word]


def test_one_command_begins_and_goes_on_as_an_undisturbed_fit(tmp_path: Path, capsys):
    plateau = {"model__schedule": "wsd", "model__decay_fraction": "0.0", "model__warmup_steps": "0"}
    for version, steps in ((0, 3), (1, 5)):
        assert call([*fit_arguments(tmp_path / "a", trainer__max_steps=str(steps), **plateau), "--ckpt_path", "last"]) == 0
        said = f"no run in {tmp_path / 'a'} has a last.ckpt yet; this one begins anew" if version == 0 else last_of(tmp_path / "a", 0)
        assert f"--ckpt_path last: {said}\n" in capsys.readouterr().err
    assert call(fit_arguments(tmp_path / "b", trainer__max_steps="5", **plateau)) == 0
    broken, whole = stored(last_of(tmp_path / "a", 1)), stored(last_of(tmp_path / "b", 0))
    assert broken["global_step"] == whole["global_step"] == 5
    assert all(torch.equal(weight, whole["state_dict"][name]) for name, weight in broken["state_dict"].items())


def test_a_shape_that_is_not_the_last_ones_is_refused(tmp_path: Path, capsys):
    assert call(fit_arguments(tmp_path, trainer__max_steps="1")) == 0
    assert call([*fit_arguments(tmp_path, model__n_embd="64"), "--ckpt_path", "last"]) == 2
    assert "error: the run of ckpt_path has model.n_embd 32, got 64; leave it out" in capsys.readouterr().err


def test_the_newest_run_is_that_of_the_highest_number(tmp_path: Path, capsys):
    assert call(fit_arguments(tmp_path, trainer__max_steps="1")) == 0
    for version in (9, 10):
        (tmp_path / f"version_{version}").symlink_to(tmp_path / "version_0")
    (tmp_path / "version_11").mkdir()  # stopped before its first checkpoint
    (tmp_path / "version_old").symlink_to(tmp_path / "version_0")
    assert call(validate_arguments(tmp_path, "last")) == 0
    assert f"--ckpt_path last: {last_of(tmp_path, 10)}\n" in capsys.readouterr().err


def test_best_is_the_best_that_the_newest_run_knows_of(tmp_path: Path, capsys):
    first, moved = tmp_path / "first", tmp_path / "moved"
    assert call(fit_arguments(first)) == 0
    (best,) = (first / "version_0" / "checkpoints").glob("best-*.ckpt")
    first.rename(moved)
    assert call(validate_arguments(moved, "best")) == 0
    assert f"--ckpt_path best: {moved / best.relative_to(first)}\n" in capsys.readouterr().err


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "pretrained" / "model.safetensors")


def test_a_run_that_goes_on_in_a_moved_folder_exports_the_best_of_the_run_before(tmp_path: Path):
    first, moved = tmp_path / "first", tmp_path / "moved"
    assert call(fit_arguments(first)) == 0
    first.rename(moved)
    still = fit_arguments(moved, trainer__max_epochs="3", model__learning_rate="0")  # nothing better comes
    assert call([*still, "--ckpt_path", "last"]) == 0
    assert all(torch.equal(weight, weights(moved / "version_0")[name]) for name, weight in weights(moved / "version_1").items())


def test_the_best_of_a_run_itself_comes_before_one_of_that_name_in_the_run_before(tmp_path: Path):
    before, own = (tmp_path / f"version_{version}" / "best-step=5.ckpt" for version in (0, 1))
    for path in (before, own):
        path.parent.mkdir()
        path.touch()
    data = SimpleNamespace(ckpt_path=str(before.with_name("last.ckpt")))
    trainer = SimpleNamespace(checkpoint_callback=SimpleNamespace(best_model_path=str(own)), datamodule=data)
    assert ExportPretrained()._best(trainer) == own
    own.unlink()
    assert ExportPretrained()._best(trainer) == before


def test_where_the_best_is_gone_the_last_weights_are_exported_with_a_word(tmp_path: Path, capsys):
    assert call(fit_arguments(tmp_path)) == 0
    (best,) = (tmp_path / "version_0" / "checkpoints").glob("best-*.ckpt")
    best.unlink()
    still = fit_arguments(tmp_path, trainer__max_epochs="3", model__learning_rate="0")
    assert call([*still, "--ckpt_path", "last"]) == 0
    assert f"{best}, the best checkpoint, is gone; the last weights are exported in its place" in capsys.readouterr().err
    last = stored(last_of(tmp_path, 1))["state_dict"]
    assert all(torch.equal(weight, last[f"model.{name}"]) for name, weight in weights(tmp_path / "version_1").items())


def test_the_seed_of_the_run_before_is_kept_where_none_is_given(tmp_path: Path, capsys):
    plateau = {"model__schedule": "wsd", "model__decay_fraction": "0", "model__warmup_steps": "0", "model__dropout": "0.2"}
    assert call([*fit_arguments(tmp_path / "whole", trainer__max_steps="5", **plateau), "--seed_everything", "7"]) == 0
    assert call([*fit_arguments(tmp_path / "parts", trainer__max_steps="3", **plateau), "--seed_everything", "7"]) == 0
    goes_on = [*fit_arguments(tmp_path / "parts", trainer__max_steps="5", **plateau), "--ckpt_path", str(last_of(tmp_path / "parts", 0))]
    capsys.readouterr()
    assert call(goes_on) == 0
    assert "seed_everything" not in capsys.readouterr().err
    ours, theirs = stored(last_of(tmp_path / "parts", 1))["state_dict"], stored(last_of(tmp_path / "whole", 0))["state_dict"]
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())
    assert call([*goes_on, "--seed_everything", "8"]) == 0
    assert "seed_everything 8: the run of ckpt_path had 7, with which" in capsys.readouterr().err
    other = stored(last_of(tmp_path / "parts", 2))["state_dict"]
    assert not all(torch.equal(weight, theirs[name]) for name, weight in other.items())  # the seed matters here


def test_a_sharded_checkpoint_and_a_file_are_not_taken_for_one_another(
    fitted: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    whole = fitted / "checkpoints" / "last.ckpt"
    shards = tmp_path / "last.ckpt"
    shards.mkdir()
    torch.save({name: value for name, value in stored(whole).items() if name not in ("state_dict", "optimizer_states")}, shards / META)
    monkeypatch.setattr(cli, "check_shards", lambda _: None)
    for command in (fit_arguments(tmp_path / "runs"), validate_arguments(tmp_path, "")[:-2]):
        assert call([*command, "--ckpt_path", str(shards)]) == 2
        assert (
            f"error: {shards}: is a sharded checkpoint, which a fit with --trainer.strategy fsdp2 goes on from" in capsys.readouterr().err
        )
    assert call([*fit_arguments(tmp_path / "runs", trainer__strategy="fsdp2"), "--ckpt_path", str(whole)]) == 2
    assert f"error: {whole}: is no sharded checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_without_a_best_or_any_checkpoint_scoring_is_refused(tmp_path: Path, capsys):
    for word in ("last", "best"):
        assert call(validate_arguments(tmp_path, word)) == 2
        assert f"error: --ckpt_path {word}: no run in {tmp_path} has a last.ckpt; fit first" in capsys.readouterr().err
    assert call(fit_arguments(tmp_path, trainer__max_steps="1", trainer__limit_val_batches="0")) == 0
    assert call(validate_arguments(tmp_path, "best")) == 2
    assert f"error: --ckpt_path best: {last_of(tmp_path, 0)} knows of none that is still there" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["last", "best"])
def test_a_damaged_last_checkpoint_is_named(word: str, tmp_path: Path, capsys):
    path = last_of(tmp_path, 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a file")
    assert call(validate_arguments(tmp_path, word)) == 2
    assert f"error: {path}: is no Lightning checkpoint, or is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("callbacks", [None, {}, {"BestCheckpoint{}": {}}, {"BestCheckpoint{}": {"best_model_path": ""}}, {7: {}}])
def test_a_last_checkpoint_that_names_no_best_is_refused(callbacks: Any, fitted: Path, tmp_path: Path, capsys):
    checkpoint = stored(fitted / "checkpoints" / "last.ckpt") | {"callbacks": callbacks}
    path = last_of(tmp_path, 0)
    path.parent.mkdir(parents=True)
    torch.save(checkpoint, path)
    assert call(validate_arguments(tmp_path, "best")) == 2
    assert f"error: --ckpt_path best: {path} knows of none that is still there" in capsys.readouterr().err


def test_a_place_that_is_no_folder_is_not_looked_through(capsys):
    assert call([*fit_arguments(Path(), trainer__default_root_dir="s3://bucket/runs"), "--ckpt_path", "last"]) == 2
    assert "error: --ckpt_path: last and best are not looked for in s3://bucket/runs; give the whole path" in capsys.readouterr().err
