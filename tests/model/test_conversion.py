"""GPT-2 in, stock GPT-2 and GPT-NeoX out, and back: the same numbers, or a refusal by name."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig

from rope_gpt2.errors import InputError
from rope_gpt2.model.configuration import POSITION_ENCODINGS
from rope_gpt2.model.conversion import from_gpt2, from_gpt_neox, to_gpt2, to_gpt_neox

pytestmark = pytest.mark.usefixtures("no_gradients")

SHAPE = {"vocab_size": 97, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
NEOX_SHAPE = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80}
TOKENS = {"bos_token_id": None, "eos_token_id": None}
KEPT = [
    {},
    {"tie_word_embeddings": False},
    {"n_inner": 48, "activation_function": "relu", "layer_norm_epsilon": 1e-3},
    {"attn_pdrop": 0.3, "resid_pdrop": 0.2, "embd_pdrop": 0.2, "use_cache": False, "eos_token_id": 5, "initializer_range": 0.1},
]


def stirred(model):
    """Weights so large that each of them shows in the logits, biases and norms included."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator) - parameter * (parameter.ndim > 1))
    return model.eval()


def gpt2(**changes):
    return stirred(GPT2LMHeadModel(GPT2Config(**SHAPE | TOKENS | changes)))


def gpt_neox(**changes):
    return stirred(GPTNeoXForCausalLM(GPTNeoXConfig(**NEOX_SHAPE | TOKENS | {"use_parallel_residual": False} | changes)))


def assert_same_weights(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert torch.equal(weight, theirs[name]), name


# Stock GPT-2.


@pytest.mark.parametrize("changes", [*KEPT, {"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}])
def test_a_gpt2_with_its_table_kept_gives_the_same_logits_and_comes_back_whole(changes, input_ids):
    theirs = gpt2(**changes)
    ours = from_gpt2(theirs, "learned")
    assert torch.equal(ours(input_ids).logits, theirs(input_ids).logits)
    back = to_gpt2(ours)
    assert_same_weights(back, theirs)
    assert back.config.to_diff_dict() == theirs.config.to_diff_dict()


@pytest.mark.parametrize("changes", KEPT)
def test_a_gpt2_without_its_table_keeps_every_other_weight_through_gpt_neox_and_back(changes):
    theirs = gpt2(**changes)
    ours = from_gpt2(theirs)
    weights = theirs.state_dict()
    del weights["transformer.wpe.weight"]
    assert ours.state_dict().keys() == weights.keys()
    back = from_gpt_neox(to_gpt_neox(ours))
    for name, weight in weights.items():
        assert torch.equal(ours.state_dict()[name], weight), name
    assert_same_weights(back, ours)
    assert back.config == ours.config


def test_extra_keys_of_a_hub_configuration_do_no_harm():
    theirs = gpt2()
    theirs.config.task_specific_params, theirs.config.n_ctx = {"text-generation": {"max_length": 50}}, 64
    assert from_gpt2(theirs).config.n_positions == 64


def test_conversion_keeps_the_dtype_the_generation_settings_and_the_random_state():
    theirs = gpt2().to(torch.bfloat16)
    theirs.generation_config.max_new_tokens = 7
    before = torch.get_rng_state()
    for model in (from_gpt2(theirs), to_gpt_neox(from_gpt2(theirs)), to_gpt2(from_gpt2(theirs, "learned"))):
        assert (model.dtype, model.generation_config.max_new_tokens, model.training) == (torch.bfloat16, 7, False)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_converted_model_shares_no_memory_with_its_source(tiny_model):
    ours = tiny_model()
    before = copy.deepcopy(ours.state_dict())
    for parameter in to_gpt_neox(ours).parameters():
        parameter.zero_()
    assert all(torch.equal(weight, before[name]) for name, weight in ours.state_dict().items())


# Stock GPT-NeoX. Its logits for every rope type and length stand in test_modeling.py.


@pytest.mark.parametrize("changes", [*KEPT, {"attn_implementation": "eager", "reorder_and_upcast_attn": True}])
def test_gpt_neox_gives_the_same_logits(changes, tiny_model, input_ids):
    ours = tiny_model(**changes)
    torch.testing.assert_close(to_gpt_neox(ours)(input_ids).logits, ours(input_ids).logits, atol=1e-5, rtol=0)


def test_every_rope_type_comes_back_from_gpt_neox_bit_for_bit(rope_parameters, tiny_model):
    ours = tiny_model(rope_parameters=rope_parameters)
    back = from_gpt_neox(to_gpt_neox(ours))
    assert_same_weights(back, ours)
    assert back.config == ours.config


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_gpt_neox_loads_with_the_same_logits(tied, rope_parameters, tiny_model, input_ids, tmp_path):
    ours = tiny_model(rope_parameters=rope_parameters, tie_word_embeddings=tied)
    to_gpt_neox(ours).save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs) is GPTNeoXForCausalLM
    torch.testing.assert_close(theirs(input_ids).logits, ours(input_ids).logits, atol=1e-5, rtol=0)


def test_a_head_that_is_untied_holds_the_embedding(tiny_model, input_ids):
    ours = tiny_model()
    theirs = to_gpt_neox(ours, tie_head=False)
    assert torch.equal(theirs.lm_head.weight, theirs.gpt_neox.embed_in.weight)
    assert theirs.lm_head.weight.data_ptr() != theirs.gpt_neox.embed_in.weight.data_ptr()
    torch.testing.assert_close(theirs(input_ids).logits, ours(input_ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0}}])
@pytest.mark.parametrize("bias", [True, False])
def test_a_gpt_neox_comes_in_with_the_same_logits(bias, changes, input_ids):
    theirs = gpt_neox(attention_bias=bias, **changes)
    torch.testing.assert_close(from_gpt_neox(theirs)(input_ids).logits, theirs(input_ids).logits, atol=1e-5, rtol=0)


# Refused by name.


@pytest.mark.parametrize("encoding", [one for one in POSITION_ENCODINGS if one != "rope"])
def test_gpt_neox_has_rope_alone(encoding, tiny_model):
    with pytest.raises(InputError, match=f"position_encoding '{encoding}'"):
        to_gpt_neox(tiny_model(position_encoding=encoding))


@pytest.mark.parametrize("encoding", [one for one in POSITION_ENCODINGS if one != "learned"])
def test_gpt2_has_a_learned_table_alone(encoding, tiny_model):
    with pytest.raises(InputError, match=f"position_encoding '{encoding}'"):
        to_gpt2(tiny_model(position_encoding=encoding))


@pytest.mark.parametrize("changes", [{"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}])
def test_a_scaling_of_attention_that_gpt_neox_lacks_is_named(changes, tiny_model):
    with pytest.raises(InputError, match=next(iter(changes))):
        to_gpt_neox(tiny_model(**changes))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: gpt_neox(use_parallel_residual=True), "use_parallel_residual"),
        (lambda: gpt_neox(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.4}), "rotary dimension"),
        (gpt2, "GPT2LMHeadModel"),
    ],
)
def test_a_gpt_neox_that_is_no_rope_gpt2_is_named(make, named):
    with pytest.raises(InputError, match=named):
        from_gpt_neox(make())


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: gpt2(add_cross_attention=True), "add_cross_attention"),
        (lambda: gpt2(n_embd=20), "rotary dimension"),
        (gpt_neox, "GPTNeoXForCausalLM"),
        (lambda: AutoModelForCausalLM.from_config(LlamaConfig(**NEOX_SHAPE)), "LlamaForCausalLM"),
    ],
)
def test_what_is_no_gpt2_for_rope_is_named(make, named):
    with pytest.raises(InputError, match=named):
        from_gpt2(make())


@pytest.mark.parametrize("convert", [to_gpt2, to_gpt_neox])
def test_only_a_rope_gpt2_goes_out(convert):
    with pytest.raises(InputError, match="takes a RoPE GPT-2, got GPT2LMHeadModel"):
        convert(gpt2())
