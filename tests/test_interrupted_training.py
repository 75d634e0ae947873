"""kill -9 at any moment, then the same command with --ckpt_path: the weights of an undisturbed run, to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Ended, kill_at, run_together
from safetensors.torch import load_file

KILLED = -9
SMALL = {
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.enable_model_summary": "false",
    "trainer.num_sanity_val_steps": "0",
    "trainer.log_every_n_steps": "1",
    "trainer.gradient_clip_val": "1.0",
    "model.vocab_size": "300",
    "model.n_positions": "128",
    "model.n_embd": "16",
    "model.n_layer": "1",
    "model.n_head": "2",
    "model.dropout": "0.2",
    "model.warmup_steps": "2",
    "model.compile": "false",
    "data.normalize": "false",
    "data.batch_size": "4",
    "export.which": "last",
    "last.every_n_train_steps": "2",
}
EPISODES = {
    "data.train": "data/demo.csv",
    "data.test": "data/demo.csv",
    "data.holdout": "20",
    "data.trim_queries": "true",
    "trainer.limit_val_batches": "1",
}


def fit_options(kind: str, folder: Path, **changes: str) -> list[str]:
    """`fit` of a tiny model on made documents ("corpus") or on the demo sentences ("episodes")."""
    options = SMALL | {"trainer.default_root_dir": str(folder)}
    if kind == "corpus":
        corpus = folder.parent / "corpus.txt"
        if not corpus.is_file():
            folder.parent.mkdir(parents=True, exist_ok=True)
            lines = (f"Document {number} tells of {number * 7 % 31} and {number * number % 83} things." for number in range(400))
            corpus.write_text("\n".join(lines) + "\n")
        own = {
            "data": "CorpusDataModule",
            "data.train": str(corpus),
            "data.holdout": "40",
            "data.max_length": "32",
            "data.cache_dir": str(folder.parent / "cache"),
        }
        monitor = {"checkpoint.monitor": "val/loss", "checkpoint.mode": "min", "checkpoint.filename": "best-{step}"}
        own |= monitor | {"early_stopping.monitor": "val/loss", "early_stopping.mode": "min"}
    else:
        own = {"data": "SentimentDataModule"} | EPISODES
    options |= {name.replace("__", "."): value for name, value in changes.items()}
    ordered = own | options  # the class of the data comes before its options
    return ["fit", *(f"--{name}={value}" for name, value in ordered.items())]


def fit(options: list[str]) -> Ended:
    """One process, as typed."""
    return run_together(options)[0]


def last_of(folder: Path, version: int = 0) -> Path:
    return folder / f"version_{version}" / "checkpoints" / "last.ckpt"


def weights_of(folder: Path, version: int = 0) -> dict[str, torch.Tensor]:
    """Exported weights and those of last.ckpt, which are the same."""
    exported = load_file(folder / f"version_{version}" / "pretrained" / "model.safetensors")
    saved: dict[str, Any] = torch.load(last_of(folder, version), weights_only=True)
    assert all(torch.equal(saved["state_dict"][f"model.{name}"], tensor) for name, tensor in exported.items())
    return exported


def same_to_the_bit(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def check_killed_and_resumed(kind: str, folder: Path, moments: list[tuple[str, int]], **changes: str) -> None:
    """Kill at each moment, resume from what that left, and compare the end with an undisturbed run's."""
    undisturbed = fit(fit_options(kind, folder / "whole", **changes))
    assert undisturbed.code == 0, undisturbed.text
    resume: list[str] = []
    for version, moment in enumerate(moments):
        killed = fit(fit_options(kind, folder / "killed", **changes) + kill_at(*moment) + resume)
        assert killed.code == KILLED, killed.text
        if last_of(folder / "killed", version).is_file():
            resume = [f"--ckpt_path={last_of(folder / 'killed', version)}"]
    assert resume
    ended = fit(fit_options(kind, folder / "killed", **changes) + resume)
    assert ended.code == 0, ended.text
    assert same_to_the_bit(weights_of(folder / "killed", len(moments)), weights_of(folder / "whole"))


def test_a_killed_fit_ends_in_the_weights_of_an_undisturbed_one(tmp_path: Path):
    check_killed_and_resumed("corpus", tmp_path, [("on_train_batch_end", 6), ("save", 2)], trainer__max_epochs="2")


VARIANTS = {
    "AdamW, cosine": {},
    "Muon, wsd": {"model__optimizer": "muon", "model__schedule": "wsd"},
    "AdamW, wsd, accumulated": {"model__schedule": "wsd", "trainer__accumulate_grad_batches": "2"},
    "Muon, cosine, accumulated": {"model__optimizer": "muon", "trainer__accumulate_grad_batches": "2", "trainer__val_check_interval": "3"},
}
MOMENTS = [("on_before_optimizer_step", 5), ("on_validation_start", 1), ("on_train_batch_start", 4), ("save", 3), ("on_train_epoch_end", 1)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["corpus", "episodes"])
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_wherever_it_is_killed_a_fit_ends_in_the_same_weights(tmp_path: Path, kind: str, changes: dict[str, str]):
    check_killed_and_resumed(kind, tmp_path, MOMENTS, **({"trainer__max_epochs": "3"} | changes))


BY_STEPS = {"trainer__max_epochs": "-1", "trainer__limit_train_batches": "5", "last__every_n_train_steps": "0"}


@pytest.mark.parametrize("kind", ["corpus", "episodes"])
def test_a_fit_by_steps_goes_on_from_an_epochs_end_with_the_next_epoch(tmp_path: Path, kind: str):
    """Its newest checkpoint is that of the validation after two epochs."""
    check_killed_and_resumed(kind, tmp_path, [("on_train_batch_end", 13)], trainer__max_steps="18", **BY_STEPS)


@pytest.mark.parametrize("kind", ["corpus", "episodes"])
def test_a_fit_that_ended_with_an_epoch_goes_on_for_more_steps(tmp_path: Path, kind: str):
    changes = BY_STEPS | {"model__schedule": "wsd", "model__decay_fraction": "0"}  # a rate that does not depend on the steps to come
    whole = fit(fit_options(kind, tmp_path / "whole", trainer__max_steps="12", **changes))
    first = fit(fit_options(kind, tmp_path / "parts", trainer__max_steps="5", **changes))
    then = fit([*fit_options(kind, tmp_path / "parts", trainer__max_steps="12", **changes), f"--ckpt_path={last_of(tmp_path / 'parts')}"])
    assert [whole.code, first.code, then.code] == [0, 0, 0], whole.text + first.text + then.text
    assert same_to_the_bit(weights_of(tmp_path / "parts", 1), weights_of(tmp_path / "whole"))
