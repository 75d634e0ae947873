"""Flat scalars to a configuration and back."""

import pytest
import torch

from rope_gpt2 import RopeGPT2Config, RopeGPT2ForCausalLM
from rope_gpt2.errors import InputError
from rope_gpt2.model.configuration import POSITION_ENCODINGS
from rope_gpt2.training.architecture import check_context, model_config, shape_of, shape_to_start_from

SHAPE = {
    "vocab_size": 64,
    "n_positions": 32,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "dropout": 0.2,
    "attention_dropout": 0.3,
    "position_encoding": "rope",
    "rope_type": "default",
    "rope_theta": 500.0,
    "rope_factor": 1.0,
    "partial_rotary_factor": 1.0,
}
TYPES = ["default", "linear", "dynamic", "yarn", "longrope", "llama3"]
WEIGHTS_ALONE = {"n_positions", "dropout", "attention_dropout"}  # what may differ from run to run


@pytest.mark.parametrize("rope_type", TYPES)
def test_every_rope_type_is_reached_from_flat_scalars(rope_type: str):
    config = model_config(SHAPE | {"rope_type": rope_type, "rope_factor": 2.0})
    assert config.rope_parameters["rope_type"] == rope_type
    assert config.rope_parameters["rope_theta"] == 500.0
    assert config.rope_parameters.get("factor") == (None if rope_type == "default" else 2.0)


def test_dropout_goes_where_its_option_says():
    config = model_config(SHAPE)
    assert (config.embd_pdrop, config.resid_pdrop, config.attn_pdrop) == (0.2, 0.2, 0.3)


@pytest.mark.parametrize("fraction", [0.5, 1.0])
@pytest.mark.parametrize("rope_type", TYPES)
def test_the_shape_of_a_configuration_makes_it_again(rope_type: str, fraction: float):
    shape = SHAPE | {"rope_type": rope_type, "partial_rotary_factor": fraction}
    shape["rope_factor"] = 1.0 if rope_type == "default" else 2.0
    config = model_config(shape)
    found = shape_of(config)
    assert found == {name: value for name, value in shape.items() if name not in WEIGHTS_ALONE}
    assert model_config(shape | found).rope_parameters == config.rope_parameters


@pytest.mark.parametrize("encoding", POSITION_ENCODINGS)
def test_every_position_encoding_is_reached_from_flat_scalars_and_found_again(encoding: str):
    config = model_config(SHAPE | {"position_encoding": encoding})
    assert config.position_encoding == shape_of(config)["position_encoding"] == encoding


def test_a_checkpoint_from_before_encodings_had_a_name_is_rope():
    assert model_config({name: value for name, value in SHAPE.items() if name != "position_encoding"}).position_encoding == "rope"


def test_a_learned_table_is_trained_at_its_own_length_alone():
    config = model_config(SHAPE | {"position_encoding": "learned"})
    check_context(32, config)
    with pytest.raises(InputError, match=r"^model\.n_positions must be 32, the length of the position table .*, got 64; "):
        check_context(64, config)


def test_the_shape_of_a_stored_model_is_that_of_the_model(tmp_path):
    shape = SHAPE | {"rope_type": "yarn", "rope_factor": 4.0, "partial_rotary_factor": 0.5}
    RopeGPT2ForCausalLM(model_config(shape)).save_pretrained(tmp_path)
    assert shape_of(RopeGPT2Config.from_pretrained(tmp_path)) == shape_of(model_config(shape))


@pytest.mark.parametrize(
    "changes", [{"n_embd": 17}, {"rope_type": "spiral"}, {"partial_rotary_factor": 2.0}, {"n_layer": 0}, {"vocab_size": 0}]
)
def test_a_shape_that_cannot_be_is_refused_in_one_line(changes: dict):
    with pytest.raises(InputError, match=r"^model: .+") as refused:
        model_config(SHAPE | changes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"n_inner": 40},
        {"activation_function": "relu"},
        {"layer_norm_epsilon": 1e-3},
        {"tie_word_embeddings": False},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"reorder_and_upcast_attn": True},
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 2.0,
                "low_freq_factor": 2.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "beta_fast": 20.0}},
    ],
    ids=str,
)
def test_what_the_scalars_cannot_express_is_refused(fields: dict):
    with pytest.raises(InputError, match=r"^the weights to start from have .*that training has no option for; take others$"):
        shape_of(RopeGPT2Config(**({"vocab_size": 64, "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2} | fields)))


def test_weights_with_the_usual_n_inner_spelled_out_are_taken():
    assert shape_of(RopeGPT2Config(n_embd=16, n_inner=64, n_head=2))["n_embd"] == 16


def test_frequencies_of_the_rebuilt_model_are_those_of_the_weights():
    """A longer context may stretch a scaling that names none of its own; the frequencies of the trained context stay."""
    for rope_type in ("default", "linear", "yarn", "llama3"):
        shape = SHAPE | {"rope_type": rope_type, "rope_factor": 2.0}
        first = RopeGPT2ForCausalLM(model_config(shape))
        again = RopeGPT2ForCausalLM(model_config(shape | shape_of(first.config)))
        torch.testing.assert_close(again.transformer.rotary.inv_freq, first.transformer.rotary.inv_freq)


@pytest.mark.parametrize("rope_type", TYPES[1:])
def test_a_run_may_ask_for_a_scaling_of_the_weights_that_it_starts_from(rope_type: str):
    for own in ("default", "linear"):
        config = model_config(SHAPE | {"rope_type": own, "rope_factor": 3.0})
        asked = SHAPE | {"rope_type": rope_type, "rope_factor": 2.0, "rope_theta": 9.0}
        found = shape_to_start_from(asked, config)
        assert (found["rope_type"], found["rope_factor"], found["rope_theta"]) == (rope_type, 2.0, 500.0)
        with pytest.raises(InputError, match=rf"model\.n_positions must be 32, the context of .* {rope_type} stretches, got 64"):
            shape_to_start_from(asked | {"n_positions": 64}, config)


def test_without_a_scaling_asked_for_that_of_the_weights_holds():
    config = model_config(SHAPE | {"rope_type": "yarn", "rope_factor": 3.0})
    assert shape_to_start_from(SHAPE, config) == shape_of(config)
