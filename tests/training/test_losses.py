"""The module's losses: what they are means over, and what changes none of them."""

from typing import Any

import pytest
import torch
from compiled_graphs import backward_operations
from small_modules import SHAPE, make_batch, make_trainer
from torch.nn import functional

from rope_gpt2.model.configuration import POSITION_ENCODINGS, ROPE_TYPES
from rope_gpt2.sequences import IGNORED, SequenceBatch
from rope_gpt2.training.losses import doubt_losses, token_losses
from rope_gpt2.training.module import RopeGPT2Module


@pytest.mark.parametrize("weight", [0.5, 0.0])  # without a loss of the text, logits of the labels alone are computed
def test_the_loss_is_the_weighted_sum_of_the_means_over_text_and_labels(weight: float, module: RopeGPT2Module):
    module.hparams["lm_loss_weight"] = weight
    ids = torch.randint(0, 64, (2, 10))
    targets = ids.roll(-1, dims=1)
    targets[:, -1] = IGNORED
    targets[1, 6:] = IGNORED
    is_label = torch.zeros(2, 10, dtype=torch.bool)
    is_label[0, 4] = is_label[0, 8] = is_label[1, 5] = True
    ours = module.training_step(SequenceBatch(ids, targets, is_label), 0)
    log_probabilities = module.model(ids).logits.log_softmax(-1)
    text, label = [], []
    for row in range(2):
        for place in range(10):
            if targets[row, place] != IGNORED:
                (label if is_label[row, place] else text).append(-log_probabilities[row, place, targets[row, place]])
    theirs = weight * torch.stack(text).mean() + torch.stack(label).mean()
    torch.testing.assert_close(ours, theirs)
    weights = list(module.parameters())
    torch.testing.assert_close(torch.autograd.grad(ours, weights), torch.autograd.grad(theirs, weights))


@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_a_label_in_doubt_has_the_loss_of_both_words_by_their_probability(weight: float, module: RopeGPT2Module):
    module.hparams["lm_loss_weight"] = weight
    batch = make_batch()
    batch.is_label[0, [3, 7]] = batch.is_label[1, 5] = True
    others, doubts = torch.randint(0, 64, (2, 10)), torch.zeros(2, 10)
    doubts[0, 3], doubts[1, 5] = 0.2, 0.9
    ours = module.training_step(batch._replace(others=others, doubts=doubts), 0)
    losses = -module.model(batch.input_ids).logits.log_softmax(-1)
    certain, doubted = (losses.gather(-1, tokens.clamp(min=0)[..., None])[..., 0] for tokens in (batch.targets, others))
    label = ((1 - doubts) * certain + doubts * doubted)[batch.is_label].mean()
    text = certain[(batch.targets != IGNORED) & ~batch.is_label].mean()
    torch.testing.assert_close(ours, weight * text + label)
    torch.testing.assert_close(module.logged["train/label_loss"], label.detach())
    weights = list(module.parameters())
    torch.testing.assert_close(torch.autograd.grad(ours, weights), torch.autograd.grad(weight * text + label, weights))


@pytest.mark.parametrize("by_products", [False, True])
def test_packed_documents_have_the_losses_of_the_documents_alone(module: RopeGPT2Module, by_products: bool):
    module._by_products = by_products
    documents = [(0, 0, 6), (0, 6, 10), (1, 0, 3), (1, 3, 10)]
    positions = torch.zeros(2, 10, dtype=torch.long)
    batch = make_batch()
    batch.is_label[:, [1, 4, 7]] = True
    for row, start, end in documents:
        positions[row, start:end] = torch.arange(end - start)
        batch.targets[row, end - 1] = IGNORED
    ours = module.training_step(batch._replace(position_ids=positions), 0)
    sums, counts = {"text": 0.0, "label": 0.0}, {"text": 0, "label": 0}
    for row, start, end in documents:
        alone = SequenceBatch(*(part[row : row + 1, start:end] for part in batch[:3]))
        module.training_step(alone, 0)
        number = {
            "text": ((alone.targets != IGNORED) & ~alone.is_label).sum(),
            "label": ((alone.targets != IGNORED) & alone.is_label).sum(),
        }
        for kind in sums:
            sums[kind] += module.logged[f"train/{kind}_loss"] * number[kind]
            counts[kind] += number[kind]
    torch.testing.assert_close(ours, 0.5 * sums["text"] / counts["text"] + sums["label"] / counts["label"])
    assert not torch.allclose(ours, module.training_step(batch, 0), rtol=1e-4)


KINDS = [{"position_encoding": name} for name in POSITION_ENCODINGS]
KINDS += [{"rope_type": name, "rope_factor": 2.0} for name in ROPE_TYPES if name != "default"]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_encoding_and_rope_type_is_trained_on_the_models_own_loss(kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    module = RopeGPT2Module(**SHAPE, **kind)
    module._trainer = make_trainer()
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    batch = make_batch(length=40)  # beyond the 32 of the original context, where a scaling tells; but for a table, which ends there
    if kind.get("position_encoding") == "learned":
        batch = make_batch(length=32)
    for module._by_products in (False, True):
        ours = module.training_step(batch, 0)
        torch.testing.assert_close(ours, module.model(batch.input_ids, labels=batch.input_ids).loss)
        gradients = torch.autograd.grad(ours, list(module.model.parameters()))
        assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in gradients)


def test_a_batch_without_label_words_has_a_label_loss_of_nothing(module: RopeGPT2Module):
    loss = module.training_step(make_batch(), 0)
    assert float(module.logged["train/label_loss"]) == 0.0
    torch.testing.assert_close(loss, 0.5 * module.logged["train/text_loss"])
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


def test_what_is_logged_is_the_loss_and_its_parts(module: RopeGPT2Module):
    batch = make_batch()
    batch.is_label[:, 4] = True
    loss = module.training_step(batch, 0)
    logged = module.logged
    torch.testing.assert_close(logged["train/loss"], loss.detach())
    torch.testing.assert_close(logged["train/loss"], 0.5 * logged["train/text_loss"] + logged["train/label_loss"])
    assert not any(value.requires_grad for value in logged.values())


def test_a_batch_without_any_target_has_no_loss_and_no_nan(module: RopeGPT2Module):
    batch = make_batch()
    batch.targets[:] = IGNORED
    loss = module.training_step(batch, 0)
    loss.backward()
    assert float(loss) == 0.0
    assert all(not parameter.grad.any() for parameter in module.parameters())


def test_what_stands_behind_the_last_target_changes_no_loss(module: RopeGPT2Module):
    batch = make_batch()
    batch.targets[:, 5:] = IGNORED
    changed = batch._replace(input_ids=batch.input_ids.clone())
    changed.input_ids[:, 6:] = 0
    torch.testing.assert_close(module.training_step(changed, 0), module.training_step(batch, 0))


@torch.no_grad()
def test_the_validation_loss_on_text_is_the_mean_over_tokens(module: RopeGPT2Module):
    losses, count = 0.0, 0
    for rows, length, targets in [(2, 10, 9), (1, 32, 31), (3, 10, 2)]:
        batch = make_batch(rows, length)
        batch.targets[:, targets:] = IGNORED
        module.validation_step(batch, 0)
        logits = module.model(batch.input_ids).logits
        losses += float(functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED, reduction="sum"))
        count += rows * targets
    assert float(module.val_loss.compute()) == pytest.approx(losses / count, rel=1e-5)


def test_token_losses_are_those_of_the_full_logits():
    hidden, head, targets = torch.randn(2, 5, 8), torch.randn(11, 8), torch.randint(0, 11, (2, 5))
    theirs = functional.cross_entropy((hidden @ head.T).flatten(0, 1), targets.flatten(), reduction="none")
    torch.testing.assert_close(token_losses(hidden, head, targets), theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiler_gets_the_same_token_losses_and_gradients_by_its_own_formula(dtype: torch.dtype):
    hidden, head = (torch.randn(*size).to(dtype).requires_grad_() for size in ((2, 5, 8), (11, 8)))
    targets = torch.randint(0, 11, (2, 5))
    targets[0, 3:] = IGNORED
    weights = torch.rand(10) + 0.5
    results = []
    for function in (token_losses, torch.compile(token_losses, fullgraph=True, backend="aot_eager")):
        losses = function(hidden, head, targets)
        results.append((losses, *torch.autograd.grad(losses, (hidden, head), weights)))
    assert torch.equal(results[1][0] == 0, targets.flatten() == IGNORED)
    tolerance = {"atol": 2e-2, "rtol": 2e-2} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(results[1], results[0], **tolerance)


def test_the_gradient_of_labels_in_doubt_is_the_same_every_time():
    hidden, head, doubts = torch.randn(4000, 64), torch.randn(11, 64, requires_grad=True), torch.rand(4000)
    targets, others = torch.randint(0, 11, (2, 4000))
    gradients = [torch.autograd.grad(doubt_losses(hidden, head, targets, others, doubts).sum(), head)[0] for _ in range(20)]
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


def test_a_compiler_has_one_pass_for_the_gradient_of_token_losses():
    hidden, head = torch.randn(2, 5, 8, requires_grad=True), torch.randn(11, 8)
    operations = backward_operations(token_losses, hidden, head, torch.randint(0, 11, (2, 5)))
    assert operations.count("aten.exp.default") == 1
    assert not any("sum" in name or "scatter" in name for name in operations), operations
