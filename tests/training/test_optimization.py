"""The optimisers against torch's own, the schedules against transformers'."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_cosine_schedule_with_warmup

from rope_gpt2 import RopeGPT2Config, RopeGPT2ForCausalLM
from rope_gpt2.errors import InputError
from rope_gpt2.training import optimization
from rope_gpt2.training.optimization import (
    OPTIMIZERS,
    MuonBesideAdamW,
    OptimizerOptions,
    build_optimizer,
    group_options,
    schedule_factor,
    set_group_options,
)

MUON = OptimizerOptions("muon", learning_rate=0.01, weight_decay=0.3, beta2=0.9, momentum=0.8)


@pytest.fixture
def model() -> RopeGPT2ForCausalLM:
    torch.manual_seed(0)
    return RopeGPT2ForCausalLM(RopeGPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2))


def set_gradients(model: nn.Module, step: int) -> None:
    """Random gradients, the same for models of the same shape at the same step."""
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def run(model: nn.Module, optimizers: list[Optimizer], steps: range, schedules: tuple[LambdaLR, ...] = ()) -> None:
    for step in steps:
        set_gradients(model, step)
        for stepper in (*optimizers, *schedules):
            stepper.step()


def assert_same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, mine), its in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, its), name


def halving(optimizer: Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: 0.5**step)


def apart(model: RopeGPT2ForCausalLM) -> list[Optimizer]:
    """What `MUON` describes, written down by hand: torch's Muon and AdamW, each for itself."""
    blocks = dict(model.transformer.h.named_parameters())
    matrices = [parameter for name, parameter in blocks.items() if name.endswith("weight") and ".ln_" not in name]
    vectors = [parameter for name, parameter in blocks.items() if name.endswith("bias") or ".ln_" in name]
    muon = Muon(matrices, lr=0.01, weight_decay=0.3, momentum=0.8, adjust_lr_fn="match_rms_adamw")
    groups = [
        {"params": [model.transformer.wte.weight], "weight_decay": 0.3},
        {"params": [*vectors, *model.transformer.ln_f.parameters()], "weight_decay": 0.0},
    ]
    return [muon, AdamW(groups, lr=0.01, betas=(0.9, 0.9), fused=True)]


@pytest.mark.parametrize("scheduled", [False, True])
def test_muon_beside_adamw_takes_the_steps_of_the_two_apart(model: RopeGPT2ForCausalLM, scheduled: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(optimization, "has_bfloat16", lambda: True)
    twin = copy.deepcopy(model)
    ours, theirs = [build_optimizer(model, MUON)], apart(twin)
    schedules = [tuple(map(halving, optimizers)) if scheduled else () for optimizers in (ours, theirs)]
    run(model, ours, range(4), schedules[0])
    run(twin, theirs, range(4), schedules[1])
    assert_same_weights(model, twin)


@pytest.mark.parametrize(("bfloat16", "least", "largest"), [(True, 1e-3, 1e-1), (False, 0.0, 1e-5)])
def test_muon_orthogonalizes_in_float32_where_a_cpu_has_no_bfloat16(
    model: RopeGPT2ForCausalLM, monkeypatch: pytest.MonkeyPatch, bfloat16: bool, least: float, largest: float
):
    """Its polynomial changes the singular values of a gradient alone: what stands beside them afterwards is rounding."""
    monkeypatch.setattr(optimization, "has_bfloat16", lambda: bfloat16)
    weight = model.transformer.h[0].attn.c_proj.weight
    before = weight.detach().double()
    run(model, [build_optimizer(model, MUON)], range(1))
    assert weight.grad is not None
    left, _, right = torch.linalg.svd(weight.grad.double())
    update = left.T @ (before * (1 - 0.01 * 0.3) - weight.detach().double()) @ right.T
    beside = (update - update.diag().diag()).norm() / update.norm()
    assert least <= beside <= largest


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_optimizer_and_schedule_go_on_to_the_same_weights(model: RopeGPT2ForCausalLM, name: str):
    options = OptimizerOptions(name, 0.01, 0.3, 0.9)
    optimizer = build_optimizer(model, options)
    schedule = halving(optimizer)
    run(model, [optimizer], range(3), (schedule,))
    twin = copy.deepcopy(model)
    restored = build_optimizer(twin, options)
    restored_schedule = halving(restored)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    restored_schedule.load_state_dict(schedule.state_dict())
    run(model, [optimizer], range(3, 6), (schedule,))
    run(twin, [restored], range(3, 6), (restored_schedule,))
    assert_same_weights(model, twin)
    assert all(group["lr"] == pytest.approx(0.01 * 0.5**6) for group in restored.param_groups)


def test_the_state_survives_a_file_that_is_loaded_as_weights_alone(model: RopeGPT2ForCausalLM, tmp_path):
    optimizer = build_optimizer(model, MUON)
    run(model, [optimizer], range(2))
    twin = copy.deepcopy(model)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    restored = build_optimizer(twin, MUON)
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    run(model, [optimizer], range(2, 4))
    run(twin, [restored], range(2, 4))
    assert_same_weights(model, twin)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_optimizer_takes_other_options_at_the_step_it_reached(model: RopeGPT2ForCausalLM, name: str):
    """From then on it is the one that had them from the start, moments aside."""
    optimizer = build_optimizer(model, OptimizerOptions(name, 0.01, 0.3, 0.9))
    schedule = halving(optimizer)
    run(model, [optimizer], range(3), (schedule,))
    other = build_optimizer(copy.deepcopy(model), OptimizerOptions(name, 0.04, 0.1, 0.8))
    others = LambdaLR(other, lambda step: 0.1**step)
    asked = group_options(other)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    others.load_state_dict(schedule.state_dict())
    set_group_options(other, others, asked)
    assert group_options(other) == asked
    assert [group["lr"] for group in other.param_groups] == pytest.approx([0.04 * 0.1**3] * len(other.param_groups))
    run(model, [other], range(3, 4), (others,))
    assert [group["lr"] for group in other.param_groups] == pytest.approx([0.04 * 0.1**4] * len(other.param_groups))
    assert other.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_embeddings_have_a_rate_of_their_own(model: RopeGPT2ForCausalLM, name: str, rate: float):
    """AdamW's first step is as long as its rate, whatever the gradient; all else moves as it did."""
    twin = copy.deepcopy(model)
    before = model.transformer.wte.weight.detach().clone()
    run(model, [build_optimizer(model, OptimizerOptions(name, 0.01, 0.0, 0.9, embedding_rate=rate))], range(1))
    run(twin, [build_optimizer(twin, OptimizerOptions(name, 0.01, 0.0, 0.9))], range(1))
    torch.testing.assert_close(model.transformer.wte.weight - before, rate * (twin.transformer.wte.weight - before), rtol=1e-4, atol=1e-6)
    assert not torch.equal(twin.transformer.wte.weight, before)
    assert_same_weights(model.transformer.h, twin.transformer.h)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_schedule_moves_the_embeddings_rate_too(model: RopeGPT2ForCausalLM, name: str):
    optimizer = build_optimizer(model, OptimizerOptions(name, 0.01, 0.3, 0.9, embedding_rate=0.1))
    schedule = halving(optimizer)
    run(model, [optimizer], range(2), (schedule,))
    assert sorted({round(group["lr"], 6) for group in optimizer.param_groups}) == [0.00025, 0.0025]
    assert all(group["weight_decay"] == 0.3 for group in optimizer.param_groups if group["lr"] < 0.001)


def test_an_unknown_optimizer_is_refused(model: RopeGPT2ForCausalLM):
    with pytest.raises(InputError, match="optimizer must be one of adamw, muon, got 'sgd'"):
        build_optimizer(model, OptimizerOptions("sgd", 0.01, 0.0, 0.9))


def test_a_closure_is_called_once_with_gradients_on(model: RopeGPT2ForCausalLM):
    optimizer, calls = build_optimizer(model, MUON), []

    def closure() -> torch.Tensor:
        loss = sum(parameter.square().sum() for parameter in model.parameters())
        optimizer.zero_grad()
        loss.backward()
        calls.append(loss)
        return loss

    before = copy.deepcopy(model.state_dict())
    assert optimizer.step(closure) is calls[0]
    assert len(calls) == 1
    assert not torch.equal(model.transformer.wte.weight, before["transformer.wte.weight"])


def test_zeroing_gradients_reaches_every_parameter(model: RopeGPT2ForCausalLM):
    optimizer = build_optimizer(model, MUON)
    set_gradients(model, 0)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_all_else(model: RopeGPT2ForCausalLM):
    optimizer = build_optimizer(model, MUON)
    assert isinstance(optimizer, MuonBesideAdamW)
    names = {parameter: name for name, parameter in model.named_parameters()}
    muon, embeddings, vectors = ({names[parameter] for parameter in group["params"]} for group in optimizer.param_groups)
    kinds = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert muon == {f"transformer.h.{block}.{kind}.weight" for block in range(2) for kind in kinds}
    assert embeddings == {"transformer.wte.weight"}
    assert vectors == set(names.values()) - muon - embeddings
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3, 0.0]


def test_adamw_alone_decays_matrices_and_embeddings_and_nothing_else(model: RopeGPT2ForCausalLM):
    optimizer = build_optimizer(model, OptimizerOptions("adamw", 0.01, 0.3, 0.95))
    assert type(optimizer) is AdamW
    decayed, kept = optimizer.param_groups
    assert {parameter.ndim for parameter in decayed["params"]} == {2}
    assert {parameter.ndim for parameter in kept["params"]} == {1}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    assert len(decayed["params"]) + len(kept["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_frozen_parameter_is_left_alone(model: RopeGPT2ForCausalLM, name: str):
    model.transformer.h[0].requires_grad_(False)
    optimizer = build_optimizer(model, OptimizerOptions(name, 0.01, 0.3, 0.95))
    optimized = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    assert optimized == {parameter for parameter in model.parameters() if parameter.requires_grad}


def test_muon_without_a_matrix_in_the_blocks_is_refused():
    with pytest.raises(InputError, match=r"muon found no matrix in the blocks .*; take --model.optimizer adamw"):
        build_optimizer(nn.Linear(3, 3), MUON)


# Schedules


@pytest.mark.parametrize(("total", "warmup"), [(100, 10), (50, 0), (7, 3)])
def test_the_cosine_is_that_of_transformers_behind_the_warm_up(total: int, warmup: int):
    factor = schedule_factor("cosine", total, warmup, 0.0, 0.2)
    theirs = get_cosine_schedule_with_warmup(AdamW([nn.Parameter(torch.zeros(1))]), warmup, total).lr_lambdas[0]
    for step in range(warmup, total + 1):
        assert factor(step) == pytest.approx(theirs(step), abs=1e-12)
    for step in range(warmup):  # theirs begins at 0, which is a step for nothing
        assert factor(step) == pytest.approx(theirs(step + 1))


@given(
    schedule=st.sampled_from(["cosine", "wsd"]),
    total=st.integers(1, 400),
    warmup=st.integers(0, 100),
    floor=st.floats(0, 1),
    decay_fraction=st.floats(0, 1),
)
def test_a_schedule_rises_to_the_peak_and_falls_from_it_without_a_jump(schedule, total, warmup, floor, decay_fraction):
    factor = schedule_factor(schedule, total, warmup, floor, decay_fraction)
    rates = [factor(step) for step in range(total + 1)]
    peak = min(warmup, total)
    assert all(0 <= rate <= 1 for rate in rates)
    assert rates[:peak] == [(step + 1) / peak for step in range(peak)]
    falling = rates[max(0, peak - 1) :]
    assert falling == sorted(falling, reverse=True)
    length = (total - peak) if schedule == "cosine" else min(round(total * decay_fraction), total - peak)
    if length:
        assert rates[-1] == pytest.approx(floor)
        # the steepest step of a cosine is its middle, of 1 - sqrt its first
        steepest = math.pi / 2 / length if schedule == "cosine" else 1 / math.sqrt(length)
        assert max(first - second for first, second in itertools.pairwise(falling)) <= steepest * (1 - floor) + 1e-9
    else:
        assert set(falling) == {1.0}


def test_a_plateau_without_decay_is_left_at_its_peak_so_that_it_can_go_on():
    factor = schedule_factor("wsd", total=100, warmup=10, floor=0.1, decay_fraction=0.0)
    assert {factor(step) for step in range(9, 1000)} == {1.0}


def test_the_decay_takes_the_last_part_of_the_steps():
    factor = schedule_factor("wsd", total=100, warmup=10, floor=0.1, decay_fraction=0.3)
    assert {factor(step) for step in range(9, 71)} == {1.0}
    for step in range(70, 101):
        assert factor(step) == pytest.approx(0.1 + 0.9 * (1 - math.sqrt((step - 70) / 30)))


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_past_its_end_the_rate_stays_at_the_floor(schedule: str):
    factor = schedule_factor(schedule, total=20, warmup=2, floor=0.2, decay_fraction=0.5)
    assert {round(factor(step), 12) for step in range(20, 40)} == {0.2}


@pytest.mark.parametrize(("floor", "decay_fraction"), [(-0.1, 0.5), (1.1, 0.5), (0.1, -0.5), (0.1, 1.5)])
def test_fractions_out_of_range_are_refused(floor: float, decay_fraction: float):
    with pytest.raises(InputError, match=r"must lie in \[0, 1\], got"):
        schedule_factor("wsd", 10, 2, floor, decay_fraction)


def test_an_unknown_schedule_and_a_negative_warm_up_are_refused():
    with pytest.raises(InputError, match="schedule must be one of cosine, wsd, got 'linear'"):
        schedule_factor("linear", 10, 2, 0.1, 0.5)
    with pytest.raises(InputError, match="warmup_steps must be 0 or more, got -1"):
        schedule_factor("cosine", 10, -1, 0.1, 0.5)
