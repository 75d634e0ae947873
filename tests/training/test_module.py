"""The module: its optimiser and schedule, and when it compiles."""

import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_modules import SHAPE, make_batch, make_trainer
from torch import nn

from rope_gpt2.errors import InputError
from rope_gpt2.model.attention import LONGEST
from rope_gpt2.sequences import IGNORED
from rope_gpt2.training import compilation
from rope_gpt2.training import module as module_file
from rope_gpt2.training.losses import token_losses
from rope_gpt2.training.module import RopeGPT2Module
from rope_gpt2.training.optimization import MuonBesideAdamW

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
    monkeypatch.setattr(compilation.shutil, "which", lambda name: f"/usr/bin/{name}")
    return asked


def fitted_module(trainer: Any, **options: Any) -> RopeGPT2Module:
    module = RopeGPT2Module(**(SHAPE | options))
    module._trainer = trainer
    module.setup("fit")
    return module


@pytest.mark.parametrize(
    ("compile", "steps", "compiles"),
    [
        (None, compilation.PAYS - 1, False),
        (None, compilation.PAYS, True),
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
    monkeypatch.setattr(compilation.shutil, "which", lambda name: None)
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


def test_torch_knows_the_compilers_options():
    nn.Linear(2, 2).compile(options=compilation.OPTIONS)  # refuses others
    with pytest.raises(RuntimeError):
        nn.Linear(2, 2).compile(options={"cpp.no_such_option": True})


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


COMPILE = torch.compile


def before_the_first_batch(monkeypatch: pytest.MonkeyPatch, factor: float, dropout: float, targets: bool = True) -> RopeGPT2Module:
    """A fit up to its first batch, by a compiler that multiplies the losses, and so their gradients."""
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: None)
    monkeypatch.setattr(
        torch, "compile", lambda function: COMPILE(function, backend=lambda graph, _: lambda *inputs: (factor * graph(*inputs)[0],))
    )
    precision, loop = SimpleNamespace(train_step_context=nullcontext), SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=0))
    torch.manual_seed(0)
    module = fitted_module(make_trainer(precision_plugin=precision, fit_loop=loop, global_rank=0), compile=True, dropout=dropout)
    batch = make_batch(rows=4)
    if not targets:
        batch.targets.fill_(IGNORED)
    module.on_train_batch_start(batch, 0)
    return module


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_fit_ends_where_compiled_code_has_other_gradients(monkeypatch: pytest.MonkeyPatch, dropout: float):
    for factor in (math.nan, 1.3 if not dropout else 10.0):
        with pytest.raises(InputError, match=r"gradients of the first batch are \w+% from .* take --model.compile false"):
            before_the_first_batch(monkeypatch, factor, dropout)


@pytest.mark.parametrize("targets", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_where_they_are_the_same_the_check_leaves_no_trace(monkeypatch: pytest.MonkeyPatch, dropout: float, targets: bool):
    module = before_the_first_batch(monkeypatch, 1.0, dropout, targets)
    drawn = torch.rand(1)
    assert all(parameter.grad is None for parameter in module.parameters())
    module.on_train_batch_start(make_batch(), 0)  # checked once
    assert torch.rand(1) == drawn
