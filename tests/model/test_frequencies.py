"""The frequencies of the rotation, their scalings, and models that come back from a folder with them."""

import math
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from rope_gpt2 import RopeGPT2Config, RopeGPT2ForCausalLM, RopeGPT2Model
from rope_gpt2.model.rotary import RopeGPT2RotaryEmbedding

CONFIG = RopeGPT2Config(n_embd=32, n_head=4, n_positions=64)


@pytest.mark.parametrize("head_dim", [2, 8, 64])
def test_frequencies_fall_geometrically_from_one_radian_per_position(head_dim):
    inv_freq = RopeGPT2RotaryEmbedding(RopeGPT2Config(n_embd=head_dim, n_head=1)).inv_freq
    assert inv_freq[0] == 1
    ratios = inv_freq[1:] / inv_freq[:-1]
    torch.testing.assert_close(ratios, torch.full_like(ratios, 10_000.0 ** (-2 / head_dim)))


def theirs_of(family, config):
    """The rotary embedding of another model of transformers for the same head and rope parameters."""
    make = {"gpt_neox": (GPTNeoXConfig, GPTNeoXRotaryEmbedding), "llama": (LlamaConfig, LlamaRotaryEmbedding)}[family]
    parameters = {"partial_rotary_factor": 1.0, **config.rope_parameters}
    sizes = {"hidden_size": config.n_embd, "num_attention_heads": config.n_head, "max_position_embeddings": config.n_positions}
    return make[1](make[0](**sizes, rope_parameters=parameters))


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_frequencies_and_angles_are_those_of_transformers(family, rope_parameters):
    if family == "llama" and rope_parameters["rope_type"] == "default" and "partial_rotary_factor" in rope_parameters:
        pytest.skip("Llama's plain rotation knows no partial_rotary_factor")
    config = RopeGPT2Config(n_embd=32, n_head=4, n_positions=64, rope_parameters=rope_parameters)
    ours, theirs = RopeGPT2RotaryEmbedding(config), theirs_of(family, config)
    torch.testing.assert_close(ours.inv_freq, theirs.inv_freq)
    assert ours.attention_scaling == theirs.attention_scaling
    for length in (10, 64, 200, 10):  # within the original context, the context, beyond both, and back
        positions = torch.arange(length)[None]
        torch.testing.assert_close(ours(torch.zeros(1), positions), theirs(torch.zeros(1), positions), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_a_partial_rotation_has_the_frequencies_of_transformers_for_every_scaling(fraction, rope_parameters):
    rope_parameters |= {"partial_rotary_factor": fraction}
    for key in ("short_factor", "long_factor"):
        if key in rope_parameters:
            rope_parameters[key] = rope_parameters[key][: int(4 * fraction)]
    config = RopeGPT2Config(n_embd=32, n_head=4, n_positions=64, rope_parameters=rope_parameters)
    ours, theirs = RopeGPT2RotaryEmbedding(config), theirs_of("gpt_neox", config)
    assert len(ours.inv_freq) == int(4 * fraction)
    torch.testing.assert_close(ours.inv_freq, theirs.inv_freq)


def test_a_linear_scaling_divides_positions():
    scaled = RopeGPT2RotaryEmbedding(RopeGPT2Config(n_embd=32, n_head=4, rope_parameters={"rope_type": "linear", "factor": 4.0}))
    plain = RopeGPT2RotaryEmbedding(CONFIG)
    torch.testing.assert_close(scaled(torch.zeros(1), torch.tensor([[0, 4, 40]])), plain(torch.zeros(1), torch.tensor([[0, 1, 10]])))


def test_a_long_sequence_leaves_no_trace_in_a_short_one_after_it(rope_parameters):
    config = RopeGPT2Config(n_embd=32, n_head=4, n_positions=64, rope_parameters=rope_parameters)
    used, fresh, short = RopeGPT2RotaryEmbedding(config), RopeGPT2RotaryEmbedding(config), torch.arange(10)[None]
    used(torch.zeros(1), torch.arange(200)[None])
    torch.testing.assert_close(used(torch.zeros(1), short), fresh(torch.zeros(1), short), rtol=0, atol=0)


def test_what_a_validation_leaves_can_be_broadcast_by_the_training_after_it(rope_parameters):
    """DDP writes buffers in place, which no tensor made under inference_mode allows outside of it."""
    rotary = RopeGPT2RotaryEmbedding(RopeGPT2Config(n_embd=32, n_head=4, n_positions=64, rope_parameters=rope_parameters))
    with torch.inference_mode():
        rotary(torch.zeros(1), torch.arange(200)[None])
    assert not any(buffer.is_inference() for buffer in rotary.buffers())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cosines_and_sines_are_float32_whatever_the_dtype_of_the_model(dtype, rope_parameters):
    config = RopeGPT2Config(n_embd=32, n_head=4, n_positions=64, rope_parameters=rope_parameters)
    rotary = RopeGPT2RotaryEmbedding(config).to(dtype)
    for table in rotary(torch.zeros(1, dtype=dtype), torch.arange(20)[None]):
        assert table.dtype == torch.float32
        assert table.shape == (1, 20, 2 * len(rotary.inv_freq))
        assert not table.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_cast_to_half_precision_keeps_its_angles(dtype):
    exact, cast, positions = RopeGPT2RotaryEmbedding(CONFIG), RopeGPT2RotaryEmbedding(CONFIG).to(dtype), torch.arange(1024)[None]
    torch.testing.assert_close(cast(torch.zeros(1), positions), exact(torch.zeros(1), positions))


def test_no_table_is_part_of_the_weights():
    rotary = RopeGPT2RotaryEmbedding(CONFIG)
    assert not rotary.state_dict()
    assert not list(rotary.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_far_positions_stay_apart(dtype):
    cos, sin = RopeGPT2RotaryEmbedding(CONFIG)(torch.zeros(1, dtype=dtype), torch.tensor([[100_000, 100_001]]))
    step = (cos[0, 0] * cos[0, 1] + sin[0, 0] * sin[0, 1])[0]  # cosine of the angle between the two, first frequency
    assert math.isclose(step, math.cos(1.0), abs_tol=0.01)


# Saving and loading: no frequency is in the file, so each is computed again.


@pytest.mark.parametrize("loader", [RopeGPT2ForCausalLM, AutoModelForCausalLM])
@torch.no_grad()
def test_a_saved_model_comes_back_with_its_frequencies_and_logits(loader, rope_parameters, tiny_model, input_ids, tmp_path):
    model = tiny_model(rope_parameters=rope_parameters)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "inv_freq" in name or "wpe" in name]  # noqa: SIM118
    again = loader.from_pretrained(tmp_path)
    assert type(again) is RopeGPT2ForCausalLM
    for buffer in ("inv_freq", "original_inv_freq"):
        ours, theirs = getattr(again.transformer.rotary, buffer), getattr(model.transformer.rotary, buffer)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert again.transformer.rotary.attention_scaling == model.transformer.rotary.attention_scaling
    assert again.lm_head.weight is again.transformer.wte.weight
    torch.testing.assert_close(again(input_ids).logits, model(input_ids).logits, rtol=0, atol=0)


@torch.no_grad()
def test_the_body_of_a_saved_model_loads_alone(tiny_model, input_ids, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    body = AutoModel.from_pretrained(tmp_path)
    assert type(body) is RopeGPT2Model
    theirs = model.transformer(input_ids).last_hidden_state
    torch.testing.assert_close(body(input_ids).last_hidden_state, theirs, rtol=0, atol=0)


@torch.no_grad()
def test_a_model_loaded_in_bfloat16_keeps_exact_frequencies(rope_parameters, tiny_model, input_ids, tmp_path):
    model = tiny_model(rope_parameters=rope_parameters)
    model.save_pretrained(tmp_path)
    half = RopeGPT2ForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    torch.testing.assert_close(half.transformer.rotary.inv_freq, model.transformer.rotary.inv_freq, rtol=0, atol=0)
    assert half(input_ids).logits.dtype == torch.bfloat16
    torch.testing.assert_close(half(input_ids).logits.float(), model(input_ids).logits, rtol=0.1, atol=0.2)


@pytest.mark.slow
def test_importing_the_package_is_enough_for_the_auto_classes(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    code = f"import rope_gpt2, transformers as t; print(type(t.AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})).__name__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "RopeGPT2ForCausalLM"
