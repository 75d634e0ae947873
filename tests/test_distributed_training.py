"""Two processes on a CPU with gloo, DDP and FSDP: the losses and weights of one process with the same global batch."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from processes import Ended, kill_at, run_together
from running import call
from safetensors.torch import load_file
from test_interrupted_training import KILLED, fit_options, last_of

from rope_gpt2.training.checkpoints import load_checkpoint

SAME = {"model__dropout": "0.0", "trainer__max_epochs": "2"}
ONE = {"data__batch_size": "8"}
TOGETHER = {"ddp": {"trainer__strategy": "ddp", "trainer__devices": "2"}, "fsdp2": {"trainer__strategy": "fsdp2", "trainer__devices": "2"}}


def fit(kind: str, folder: Path, strategy: str | None = None, *more: str, **changes: str) -> list[Ended]:
    """One process with a batch of eight, or two with four each."""
    options = fit_options(kind, folder, **(SAME | (TOGETHER[strategy] if strategy else ONE) | changes))
    return run_together([*options, *more], world=2 if strategy else 1)


def fit_well(kind: str, folder: Path, strategy: str | None = None, *more: str, **changes: str) -> None:
    for ended in fit(kind, folder, strategy, *more, **changes):
        assert ended.code == 0, ended.text


def losses_of(folder: Path) -> pd.DataFrame:
    table = pd.read_csv(folder / "version_0" / "metrics.csv")
    return table[["train/loss", "train/text_loss", "train/label_loss"]].dropna().reset_index(drop=True)


def exported(folder: Path, version: int = 0) -> dict[str, torch.Tensor]:
    return load_file(folder / f"version_{version}" / "pretrained" / "model.safetensors")


def assert_same(ours: Path, theirs: Path, version: int = 0, tolerance: float = 1e-5) -> None:
    """The same losses, where this run made all of them, and the same weights."""
    if not version:
        assert len(losses_of(ours)) > 20
        pd.testing.assert_frame_equal(losses_of(ours), losses_of(theirs), rtol=0, atol=1e-5)
    weights = exported(theirs)
    for name, weight in exported(ours, version).items():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


def test_two_processes_train_as_one_does_with_batches_twice_as_large(tmp_path: Path):
    """Episodes: processes have different numbers of label words, so a mean of their means would differ."""
    short = {"trainer__max_steps": "25", "trainer__limit_val_batches": "0"}
    fit_well("episodes", tmp_path / "one", **short)
    fit_well("episodes", tmp_path / "two", "ddp", **short)
    assert_same(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["corpus", "episodes"])
@pytest.mark.parametrize(("strategy", "optimizer"), [("ddp", "adamw"), ("ddp", "muon"), ("fsdp2", "adamw")])
def test_two_processes_train_as_one_does_killed_and_resumed_as_well(tmp_path: Path, kind: str, strategy: str, optimizer: str):
    fit_well(kind, tmp_path / "one", model__optimizer=optimizer)
    fit_well(kind, tmp_path / "two", strategy, model__optimizer=optimizer)
    # Muon makes matrices orthogonal in bfloat16, where a last bit of the gradient can move a weight by a hundredth of its step
    tolerance = 1e-5 if optimizer == "adamw" else 3e-4
    assert_same(tmp_path / "two", tmp_path / "one", tolerance=tolerance)
    killed = fit(kind, tmp_path / "killed", strategy, *kill_at("on_train_batch_start", 12), model__optimizer=optimizer)
    assert [ended.code for ended in killed] == [KILLED, KILLED]
    fit_well(kind, tmp_path / "killed", strategy, f"--ckpt_path={last_of(tmp_path / 'killed')}", model__optimizer=optimizer)
    assert_same(tmp_path / "killed", tmp_path / "two", version=1, tolerance=0)


@pytest.mark.slow
def test_a_sharded_checkpoint_becomes_one_model(tmp_path: Path):
    fit_well("episodes", tmp_path / "one")
    fit_well("episodes", tmp_path / "two", "fsdp2")
    folder = last_of(tmp_path / "two")
    assert folder.is_dir()
    model, tokenizer = load_checkpoint(str(folder))
    for name, weight in exported(tmp_path / "two").items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert model.lm_head.weight is model.transformer.wte.weight
    assert len(tokenizer) <= model.config.vocab_size
    scored = ["--checkpoint", str(folder), "--data", "data/demo.csv", "--shots", "0", "--limit", "8", "--output", str(tmp_path / "scored")]
    assert call(["evaluate", *scored, "--device", "cpu"]) == 0


def test_a_list_of_shards_that_would_run_code_is_refused(tmp_path: Path, fitted: Path, capsys):
    stored: dict[str, Any] = torch.load(fitted / "checkpoints" / "last.ckpt", weights_only=True)
    folder = tmp_path / "bad.ckpt"
    folder.mkdir()
    torch.save({name: value for name, value in stored.items() if name not in ("state_dict", "optimizer_states")}, folder / "meta.pt")
    (folder / ".metadata").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    assert call(["evaluate", "--checkpoint", str(folder), "--data", "data/demo.csv", "--output", str(tmp_path / "scored")]) == 2
    assert "it is more than data, and the rest is never unpickled" in capsys.readouterr().err


@pytest.mark.slow
def test_muon_refuses_shards(tmp_path: Path):
    first, _ = fit("corpus", tmp_path / "two", "fsdp2", model__optimizer="muon")
    assert first.code == 2
    assert "muon needs whole matrices" in first.text
    assert "Traceback" not in first.text
