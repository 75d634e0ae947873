"""A loss that is no number ends a fit with a sentence; the checkpoints before it stay."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from processes import run_together
from running import call
from test_interrupted_training import fit_options, last_of

from rope_gpt2.errors import InputError
from rope_gpt2.training.guards import FiniteGuard

EXPLODES = {"model__learning_rate": "1e6", "model__warmup_steps": "0", "trainer__gradient_clip_val": "null"}


def poison(rank: int, count: int) -> list[str]:
    return ["--trainer.callbacks+=processes.Poison", f"--trainer.callbacks.rank={rank}", f"--trainer.callbacks.count={count}"]


def is_finite(checkpoint: Path) -> bool:
    stored: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    return all(tensor.isfinite().all() for tensor in stored["state_dict"].values())


def test_a_fit_that_explodes_ends_with_a_sentence_and_a_finite_last_checkpoint(tmp_path: Path, capfd):
    options = fit_options("episodes", tmp_path / "run", **EXPLODES, last__every_n_train_steps="1", trainer__limit_val_batches="0")
    assert call(options) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "at optimizer step" in error
    for remedy in ("model.learning_rate", "trainer.gradient_clip_val", "32-true", f"--model.init_from {last_of(tmp_path / 'run')}"):
        assert remedy in error
    assert is_finite(last_of(tmp_path / "run"))
    assert not (tmp_path / "run" / "version_0" / "pretrained").exists()


@pytest.mark.slow
def test_what_was_the_best_and_the_last_before_the_end_stay(tmp_path: Path):
    options = fit_options("corpus", tmp_path / "run", trainer__val_check_interval="2", last__every_n_train_steps="0")
    ended = run_together(options + poison(rank=0, count=6))[0]
    assert ended.code == 2
    assert f"at optimizer step 6 the loss is nan; the last good checkpoint is {tmp_path}" in ended.text
    assert "Traceback" not in ended.text
    checkpoints = list((tmp_path / "run" / "version_0" / "checkpoints").glob("*.ckpt"))
    assert len(checkpoints) == 2
    assert all(is_finite(checkpoint) for checkpoint in checkpoints)
    assert torch.load(last_of(tmp_path / "run"), weights_only=True)["global_step"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_loss_that_is_no_number_on_one_process_ends_all_of_them(tmp_path: Path, rank: int):
    options = fit_options("corpus", tmp_path / "run", trainer__strategy="ddp", trainer__devices="2")
    first, second = run_together(options + poison(rank, count=5), world=2, timeout=120)
    assert first.code == 2
    assert "at optimizer step 5 the loss is nan" in first.text
    assert second.code == 0, second.text  # it has nothing to say that the first has not said
    assert "Traceback" not in first.text + second.text
    assert is_finite(last_of(tmp_path / "run"))


def test_weights_that_are_no_numbers_are_not_written(tmp_path: Path):
    class Two(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.layer(batch[0]).mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = L.Trainer(accelerator="cpu", max_steps=3, callbacks=[FiniteGuard()], logger=False, default_root_dir=tmp_path)
    module = Two()
    trainer.fit(module, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(3, 2))))
    module.layer.weight.data.fill_(torch.inf)
    with pytest.raises(InputError, match="weights that are no finite numbers"):
        trainer.save_checkpoint(tmp_path / "bad.ckpt")
    assert not (tmp_path / "bad.ckpt").exists()


def test_on_a_device_that_must_be_waited_for_losses_are_judged_at_once_and_read_later(monkeypatch):
    class Still:
        """A trainer that tells where it stands."""

        world_size, is_global_zero, global_step = 1, True, 7
        checkpoint_callbacks, ckpt_path = (), None

    read: list[int] = []
    guard = FiniteGuard(every_n_batches=4)
    look = guard._refuse_bad_loss
    monkeypatch.setattr(guard, "_refuse_bad_loss", lambda trainer: read.append(trainer.global_step) or look(trainer))

    class OnDevice(torch.Tensor):
        """A tensor that says it lies elsewhere."""

        @property
        def device(self) -> torch.device:
            return torch.device("meta")

    trainer: Any = Still()

    def train(losses: list[float]) -> None:
        for batch, loss in enumerate(losses):
            trainer.global_step = 7 + batch
            guard.on_train_batch_end(trainer, trainer, {"loss": torch.tensor(loss).as_subclass(OnDevice)}, None, batch)

    with pytest.raises(InputError, match="at optimizer step 8 the loss is nan; no checkpoint was written yet"):
        train([1.0, float("nan"), 2.0, float("inf")])
    assert read == [10]
