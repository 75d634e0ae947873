"""The module: its losses, its optimiser and schedule, when it compiles, and what it starts from."""

import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from running import call, fit_arguments
from torch import nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from rope_gpt2 import RopeGPT2Config, RopeGPT2ForCausalLM
from rope_gpt2.errors import InputError
from rope_gpt2.model.attention import LONGEST
from rope_gpt2.model.configuration import POSITION_ENCODINGS, ROPE_TYPES
from rope_gpt2.model.tokenizer import tokenizer_to_json, train_tokenizer
from rope_gpt2.sequences import IGNORED, SequenceBatch
from rope_gpt2.training import module as module_file
from rope_gpt2.training.checkpoints import load_checkpoint, save_pretrained
from rope_gpt2.training.module import COMPILING_PAYS, RopeGPT2Module, token_losses
from rope_gpt2.training.optimization import MuonBesideAdamW

SHAPE: dict[str, Any] = {"vocab_size": 64, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "dropout": 0.0}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> RopeGPT2Module:
    torch.manual_seed(0)
    module = RopeGPT2Module(**SHAPE, lm_loss_weight=0.5)
    module._trainer = make_trainer()
    module.logged = {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: module.logged.update({name: value}))
    return module


def make_trainer(steps: float = 10, device: str = "cpu", **parts: Any) -> Any:
    """What the module asks of a trainer."""
    strategy = SimpleNamespace(root_device=torch.device(device))
    return SimpleNamespace(estimated_stepping_batches=steps, strategy=strategy, world_size=1, **parts)


def make_batch(rows: int = 2, length: int = 10, position_ids: torch.Tensor | None = None) -> SequenceBatch:
    """Random tokens, each the target of the one before it, none of them a label word."""
    ids = torch.randint(0, 64, (rows, length))
    targets = ids.roll(-1, dims=1)
    targets[:, -1] = IGNORED
    return SequenceBatch(ids, targets, torch.zeros(rows, length, dtype=torch.bool), position_ids)


# Losses


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


# Optimiser and schedule


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_options_of_the_optimizer_reach_it(name: str):
    module = RopeGPT2Module(**SHAPE, optimizer=name, learning_rate=0.25, weight_decay=0.5, beta2=0.9, warmup_steps=4)
    module._trainer = make_trainer()
    configured = module.configure_optimizers()
    optimizer = configured["optimizer"]
    assert isinstance(optimizer, MuonBesideAdamW) == (name == "muon")
    assert {group["initial_lr"] for group in optimizer.param_groups} == {0.25}
    assert {group["lr"] for group in optimizer.param_groups} == {0.25 / 4}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.5, 0.0}
    assert {group["betas"] for group in optimizer.param_groups if "betas" in group} == {(0.9, 0.9)}
    assert configured["lr_scheduler"]["interval"] == "step"


def test_the_options_of_the_schedule_reach_it():
    options = {"learning_rate": 1.0, "min_learning_rate": 0.1, "warmup_steps": 4}
    for schedule, at_12 in (("cosine", 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2))), ("wsd", 1 - 0.9 * math.sqrt(0.2))):
        module = RopeGPT2Module(**SHAPE, **options, schedule=schedule, decay_fraction=0.5)
        module._trainer = make_trainer(steps=20)
        factor = module.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas[0]
        assert [factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
        assert factor(12) == pytest.approx(at_12)
        assert factor(20) == pytest.approx(0.1)


def test_a_run_without_an_end_is_refused(module: RopeGPT2Module):
    module._trainer = make_trainer(steps=math.inf)
    with pytest.raises(InputError, match=r"the schedule needs an end; give trainer\.max_epochs or trainer\.max_steps"):
        module.configure_optimizers()


# Compiling


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked to be compiled, on a machine with a compiler; nothing is."""
    asked: list[Any] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *_, **__: asked.append(self))
    monkeypatch.setattr(torch, "compile", lambda function, *_, **__: asked.append(function) or function)
    monkeypatch.setattr(module_file.shutil, "which", lambda name: f"/usr/bin/{name}")
    return asked


def fitted_module(trainer: Any, **options: Any) -> RopeGPT2Module:
    module = RopeGPT2Module(**(SHAPE | options))
    module._trainer = trainer
    module.setup("fit")
    return module


@pytest.mark.parametrize(
    ("compile", "steps", "compiles"),
    [
        (None, COMPILING_PAYS - 1, False),
        (None, COMPILING_PAYS, True),
        (None, math.inf, True),
        (True, 1, True),
        (False, 10**6, False),
    ],
)
def test_compiling_is_for_long_fits_unless_it_is_asked_for(compiled: list[Any], compile: bool | None, steps: float, compiles: bool):
    module = fitted_module(make_trainer(steps), compile=compile)
    assert compiled == ([*module.model.transformer.h, token_losses] if compiles else [])
    assert module._by_products == compiles


def test_nothing_is_compiled_unasked_where_there_is_no_compiler(compiled: list[Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module_file.shutil, "which", lambda name: None)
    fitted_module(make_trainer(10**6))
    assert not compiled
    fitted_module(make_trainer(10**6, device="cuda"))  # Triton brings its own
    assert compiled


@pytest.mark.parametrize(
    ("device", "length", "checkpointing", "expected"),
    [("cpu", LONGEST, False, True), ("cpu", LONGEST + 1, False, False), ("cuda", 32, False, False), ("cpu", 32, True, False)],
)
def test_short_sequences_on_a_cpu_attend_by_products(
    compiled: list[Any], monkeypatch: pytest.MonkeyPatch, device: str, length: int, checkpointing: bool, expected: bool
):
    """The length of the sequences decides, not the context of the model; checkpointed blocks run again once that attention is gone."""
    asked: list[Any] = []
    monkeypatch.setattr(module_file, "attention_by_products", lambda model: asked.append(model) or nullcontext())
    module = fitted_module(make_trainer(device=device), compile=True, n_positions=2 * LONGEST, gradient_checkpointing=checkpointing)
    module.log = lambda *_, **__: None
    module.training_step(make_batch(rows=1, length=length), 0).backward()
    assert bool(asked) == expected


def test_only_fit_compiles(compiled: list[Any]):
    module = RopeGPT2Module(**SHAPE, compile=True)
    module._trainer = make_trainer(10**6)
    for stage in ("validate", "test", "predict"):
        module.setup(stage)
    assert not compiled


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_a_compiled_step_has_the_loss_and_the_gradients_of_an_eager_one(packed: bool):
    torch.manual_seed(0)
    eager, compiled = (RopeGPT2Module(**SHAPE, compile=compile) for compile in (False, True))
    compiled.load_state_dict(eager.state_dict())
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1, 2, 3], [0, 1, 2, 0, 1, 2, 3, 4, 5, 6]]) if packed else None
    batch = make_batch(position_ids=positions)
    batch.is_label[:, 3] = True
    losses = []
    for module in (eager, compiled):
        module._trainer = make_trainer()
        module.setup("fit")
        module.log = lambda *_, **__: None
        loss = module.training_step(batch, 0)
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(losses[1], losses[0])
    for (name, theirs), ours in zip(eager.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4, msg=name)


# What a run starts from


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(["a fine film", "a dull film"], 270)


@pytest.fixture
def folder(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    """A stored model of another shape than the options say."""
    torch.manual_seed(1)
    shape = {"vocab_size": 300, "n_positions": 48, "n_embd": 24, "n_layer": 3, "n_head": 3, "resid_pdrop": 0.3}
    rope = {"rope_type": "default", "rope_theta": 777.0, "partial_rotary_factor": 0.5}
    save_pretrained(RopeGPT2ForCausalLM(RopeGPT2Config(**shape, rope_parameters=rope)), tokenizer, tmp_path / "weights")
    return tmp_path / "weights"


def test_a_run_starts_from_the_weights_and_the_shape_of_a_folder(folder: Path, tokenizer: PreTrainedTokenizerBase):
    module = RopeGPT2Module(**(SHAPE | {"dropout": 0.2}), init_from=str(folder))
    theirs, _ = load_checkpoint(str(folder))
    for (name, ours), weight in zip(module.model.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(ours, weight), name
    ids = torch.randint(0, 300, (2, 12))
    torch.testing.assert_close(module.eval().model(ids).logits, theirs(ids).logits)
    expected = {"vocab_size": 300, "n_embd": 24, "n_layer": 3, "n_head": 3, "rope_theta": 777.0, "partial_rotary_factor": 0.5}
    assert {name: module.hparams[name] for name in expected} == expected
    assert (module.hparams["n_positions"], module.hparams["dropout"]) == (32, 0.2)  # this run's own
    assert (module.model.config.n_positions, module.model.config.resid_pdrop) == (32, 0.2)
    assert module.hparams["init_from"] is None
    assert module.tokenizer_json == tokenizer_to_json(tokenizer)


def test_without_init_from_a_run_brings_no_tokenizer(module: RopeGPT2Module):
    assert module.tokenizer_json is None


def test_the_weights_to_start_from_stay_as_they_are_when_the_run_goes_on(folder: Path):
    module = RopeGPT2Module(**SHAPE, init_from=str(folder))
    with torch.no_grad():
        module.model.transformer.wte.weight.zero_()
    assert load_checkpoint(str(folder))[0].transformer.wte.weight.any()


@pytest.mark.parametrize("source", ["folder", "checkpoint"])
def test_a_fit_from_other_weights_leaves_a_checkpoint_that_needs_them_no_more(folder: Path, fitted: Path, tmp_path: Path, source: str):
    start = str(folder if source == "folder" else fitted / "checkpoints" / "last.ckpt")
    options = {"trainer__max_steps": "1", "trainer__limit_val_batches": "0", "model__vocab_size": "1024", "model__learning_rate": "0.0"}
    if source == "folder":
        options["model__n_positions"] = "256"  # its tokenizer has hardly a word
    assert call([*fit_arguments(tmp_path, **options), "--model.init_from", start]) == 0
    theirs, their_tokenizer = load_checkpoint(start)
    last = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    stored = torch.load(last, weights_only=True)
    assert stored["hyper_parameters"]["init_from"] is None
    assert stored["hyper_parameters"]["n_layer"] == theirs.config.n_layer
    for path in (str(last), str(tmp_path / "version_0" / "pretrained")):
        ours, tokenizer = load_checkpoint(path)
        assert tokenizer_to_json(tokenizer) == tokenizer_to_json(their_tokenizer)
        for (name, weight), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert torch.equal(weight, other), name  # the learning rate was 0


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda: GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2)),
            "is a GPT2LMHeadModel, training takes RoPE GPT-2",
        ),
        (lambda: RopeGPT2ForCausalLM(RopeGPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_inner=40)), "n_inner"),
    ],
    ids=["another kind", "another n_inner"],
)
def test_weights_that_training_has_no_options_for_are_refused(make, expected: str, tokenizer, tmp_path: Path):
    save_pretrained(make(), tokenizer, tmp_path / "other")
    with pytest.raises(InputError, match=expected) as refused:
        RopeGPT2Module(**SHAPE, init_from=str(tmp_path / "other"))
    assert "\n" not in str(refused.value)


def test_weights_whose_rotation_hangs_on_their_context_keep_it(tokenizer: PreTrainedTokenizerBase, tmp_path: Path):
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0}
    theirs = RopeGPT2ForCausalLM(RopeGPT2Config(vocab_size=300, n_positions=48, n_embd=16, n_layer=1, n_head=2, rope_parameters=rope))
    save_pretrained(theirs, tokenizer, tmp_path / "yarn")
    with pytest.raises(InputError, match=r"^model\.n_positions must be 48 for the yarn weights of model\.init_from, got 32: "):
        RopeGPT2Module(**SHAPE, init_from=str(tmp_path / "yarn"))
    ours = RopeGPT2Module(**(SHAPE | {"n_positions": 48}), init_from=str(tmp_path / "yarn")).eval()
    ids = torch.randint(0, 300, (1, 90))
    torch.testing.assert_close(ours.model(ids).logits, theirs.eval()(ids).logits)


@pytest.mark.parametrize("name", ["nowhere", "nowhere.ckpt"])
def test_weights_that_are_not_there_are_refused(name: str):
    with pytest.raises(InputError, match=rf"^{name}: no such f"):
        RopeGPT2Module(**SHAPE, init_from=name)
