"""An interrupted fit, resumed, ends in the weights of an undisturbed one, to the bit."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from rope_gpt2.training.datamodule import SentimentDataModule
from rope_gpt2.training.module import RopeGPT2Module


class Interrupt(L.Callback):
    """Presses Ctrl-C after a number of training batches."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx + 1 == self.after:
            raise KeyboardInterrupt


def fit(folder: Path, interrupt_after: int | None = None, resume: Path | None = None, accumulate: int = 1) -> dict[str, torch.Tensor]:
    L.seed_everything(3, verbose=False)
    module = RopeGPT2Module(vocab_size=400, n_positions=128, n_embd=32, n_layer=2, n_head=4, dropout=0.2, warmup_steps=3)
    data = SentimentDataModule(train="data/demo.csv", test="data/demo.csv", holdout=40, batch_size=8)
    checkpoint = ModelCheckpoint(dirpath=folder, filename="last", save_top_k=1, save_on_exception=True, enable_version_counter=False)
    callbacks = [checkpoint] + ([Interrupt(interrupt_after)] if interrupt_after else [])
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1,
        accumulate_grad_batches=accumulate,
    )
    trainer.fit(module, data, ckpt_path=resume)
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return fit(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("batches", [1, 6, 15, 23], ids=lambda number: f"stopped after {number} batches")
def test_resuming_gives_the_weights_of_not_stopping(undisturbed, tmp_path: Path, batches: int):
    with pytest.raises(SystemExit):
        fit(tmp_path, interrupt_after=batches)
    ours = fit(tmp_path, resume=tmp_path / "last.ckpt")
    for name, theirs in undisturbed.items():
        assert torch.equal(ours[name], theirs), name


def test_the_same_seed_twice_gives_the_same_weights(undisturbed, tmp_path: Path):
    ours = fit(tmp_path)
    assert all(torch.equal(ours[name], theirs) for name, theirs in undisturbed.items())


def test_resuming_works_with_accumulated_gradients(tmp_path: Path):
    theirs = fit(tmp_path / "whole", accumulate=2)
    with pytest.raises(SystemExit):
        fit(tmp_path, interrupt_after=8, accumulate=2)
    ours = fit(tmp_path, resume=tmp_path / "last.ckpt", accumulate=2)
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
