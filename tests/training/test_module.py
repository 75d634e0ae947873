"""The module: its loss, its optimiser, its schedule."""

import math

import lightning as L
import pytest
import torch
from torch.nn import functional

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.episodes import IGNORED, EpisodeBatch
from rope_gpt2.training.module import FewShotModule, RopeGPT2Module, rope_parameters, token_losses


@pytest.fixture
def module() -> RopeGPT2Module:
    torch.manual_seed(0)
    return RopeGPT2Module(vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2, dropout=0.0, lm_loss_weight=0.5)


def test_the_loss_is_the_weighted_sum_of_the_means_over_text_and_labels(module: RopeGPT2Module, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    ids = torch.randint(0, 64, (2, 10))
    targets = ids.roll(-1, dims=1)
    targets[:, -1] = IGNORED
    targets[1, 6:] = IGNORED
    is_label = torch.zeros(2, 10, dtype=torch.bool)
    is_label[0, 4] = is_label[0, 8] = is_label[1, 5] = True
    ours = module.training_step(EpisodeBatch(ids, targets, is_label), 0)
    log_probabilities = module.model(ids).logits.log_softmax(-1)
    text, label = [], []
    for row in range(2):
        for place in range(10):
            if targets[row, place] != IGNORED:
                (label if is_label[row, place] else text).append(-log_probabilities[row, place, targets[row, place]])
    theirs = 0.5 * torch.stack(text).mean() + torch.stack(label).mean()
    torch.testing.assert_close(ours, theirs)


def test_token_losses_are_those_of_the_full_logits():
    hidden, head, targets = torch.randn(2, 5, 8), torch.randn(11, 8), torch.randint(0, 11, (2, 5))
    theirs = functional.cross_entropy((hidden @ head.T).flatten(0, 1), targets.flatten(), reduction="none")
    torch.testing.assert_close(token_losses(hidden, head, targets), theirs)


def test_weight_decay_is_on_matrices_only(module: RopeGPT2Module):
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    module._trainer = trainer
    trainer.__class__ = type("Trainer", (L.Trainer,), {"estimated_stepping_batches": 10})
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert {parameter.ndim for parameter in groups[0]["params"]} == {2}
    assert groups[0]["weight_decay"] == 0.1
    assert {parameter.ndim for parameter in groups[1]["params"]} == {1}
    assert groups[1]["weight_decay"] == 0.0
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters()))


def test_the_schedule_warms_up_and_ends_at_its_floor():
    module = RopeGPT2Module(vocab_size=64, n_embd=16, n_layer=1, n_head=2, learning_rate=1.0, min_learning_rate=0.1, warmup_steps=4)
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.__class__ = type("Trainer", (L.Trainer,), {"estimated_stepping_batches": 20})
    module._trainer = trainer
    factor = module.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert [factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    rates = [factor(step) for step in range(4, 21)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.1)
    assert factor(12) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))


def test_an_unknown_scoring_is_refused(module: RopeGPT2Module):
    with pytest.raises(InputError, match="scoring must be one of likelihood, generate"):
        FewShotModule(module.model, scoring="guess")


@pytest.mark.parametrize("rope_type", ["default", "linear", "dynamic", "yarn", "llama3"])
def test_every_rope_type_is_reached_from_flat_scalars(rope_type: str):
    module = RopeGPT2Module(vocab_size=64, n_positions=32, n_embd=16, n_layer=1, n_head=2, rope_type=rope_type, rope_factor=2.0)
    assert module.model.config.rope_parameters["rope_type"] == rope_type
    assert rope_parameters(rope_type, 10000.0, 2.0, 1.0).get("factor") == (None if rope_type == "default" else 2.0)
