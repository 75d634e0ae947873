import copy
import dataclasses
from pathlib import Path

import pytest
from transformers import AutoConfig, GPT2Config

from rope_gpt2 import RopeGPT2Config


def test_every_field_of_gpt2_keeps_its_name_and_default():
    ours, theirs = RopeGPT2Config(), GPT2Config()
    for field in dataclasses.fields(GPT2Config):
        assert getattr(ours, field.name) == getattr(theirs, field.name), field.name


@pytest.mark.parametrize("given", [None, {}, {"rope_theta": 10_000.0}, {"rope_type": "default"}])
def test_without_rope_parameters_the_rotation_is_plain_with_base_ten_thousand(given):
    assert RopeGPT2Config(rope_parameters=given).rope_parameters == {"rope_type": "default", "rope_theta": 10_000.0}


def test_the_common_names_of_transformers_reach_the_fields_of_gpt2():
    config = RopeGPT2Config(hidden_size=32, num_attention_heads=4, num_hidden_layers=3, max_position_embeddings=16)
    assert (config.n_embd, config.n_head, config.n_layer, config.n_positions) == (32, 4, 3, 16)
    assert config.head_dim == 8


@pytest.mark.parametrize("key", ["rope_theta", "partial_rotary_factor"])
def test_a_rope_parameter_given_as_a_field_of_its_own_ends_in_rope_parameters(key):
    assert RopeGPT2Config(**{key: 0.5 if key == "partial_rotary_factor" else 500.0}).rope_parameters[key] in (0.5, 500.0)


def test_the_rope_type_may_stand_under_its_older_name():
    assert RopeGPT2Config(rope_parameters={"type": "linear", "factor": 2.0}).rope_parameters["rope_type"] == "linear"


def fields_of(config):
    """What a user sets; transformers writes its version and the folder beside it."""
    return {key: value for key, value in config.to_dict().items() if key not in ("transformers_version", "_name_or_path")}


def test_a_configuration_survives_a_dictionary(rope_parameters, tiny_config):
    config = tiny_config(rope_parameters=rope_parameters)
    again = RopeGPT2Config.from_dict(config.to_dict())
    assert fields_of(again) == fields_of(config)
    assert again.rope_parameters.items() >= rope_parameters.items()


@pytest.mark.parametrize("loader", [RopeGPT2Config, AutoConfig])
def test_a_configuration_survives_a_folder(loader, rope_parameters, tiny_config, tmp_path: Path):
    config = tiny_config(rope_parameters=rope_parameters, dtype="bfloat16", id2label={0: "negative", 1: "positive"})
    config.save_pretrained(tmp_path)
    again = loader.from_pretrained(tmp_path)
    assert type(again) is RopeGPT2Config
    assert again.rope_parameters == config.rope_parameters
    assert fields_of(again) == fields_of(config)


def test_an_override_on_loading_is_taken_and_checked(tiny_config, tmp_path: Path):
    tiny_config().save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path, n_layer=3).n_layer == 3


def test_the_dictionary_of_the_caller_is_not_written_into(rope_parameters, tiny_config):
    del rope_parameters["rope_theta"]
    if rope_parameters["rope_type"] == "default":
        del rope_parameters["rope_type"]
    before = copy.deepcopy(rope_parameters)
    config = tiny_config(rope_parameters=rope_parameters)
    assert rope_parameters == before
    assert config.rope_parameters != before


def test_the_dictionary_of_the_caller_is_not_written_into_under_its_older_name():
    given = {"rope_type": "linear", "factor": 2.0}
    RopeGPT2Config(rope_scaling=given)
    assert given == {"rope_type": "linear", "factor": 2.0}


def test_two_configurations_share_no_rope_parameters():
    first, second = RopeGPT2Config(), RopeGPT2Config()
    first.rope_parameters["rope_theta"] = 500.0
    assert second.rope_parameters["rope_theta"] == 10_000.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_embd": 36, "n_head": 4}, r"rotary dimension must be even and at least 2, got 9 .*n_embd 36 / n_head 4"),
        ({"n_embd": 4, "n_head": 4}, r"rotary dimension must be even and at least 2, got 1 "),
        ({"n_embd": 32, "n_head": 4, "rope_parameters": {"partial_rotary_factor": 0.4}}, r"must be even and at least 2, got 3 "),
        ({"n_embd": 33, "n_head": 4}, r"n_embd must be divisible by n_head, got 33 and 4"),
        ({"add_cross_attention": True}, r"add_cross_attention=True is not supported"),
        ({"rope_parameters": {"rope_type": "spiral"}}, r"rope_type must be one of default, .*, got 'spiral'"),
        ({"rope_parameters": {"type": "spiral"}}, r"rope_type must be one of default, .*, got 'spiral'"),
        ({"rope_parameters": {"rope_type": "proportional"}}, r"rope_type must be one of .*, got 'proportional'"),
        ({"rope_parameters": {"rope_type": None}}, r"rope_type must be one of .*, got None"),
    ],
)
def test_what_cannot_be_rotated_is_refused_with_the_rule_and_the_value(changes, message):
    with pytest.raises(ValueError, match=message):
        RopeGPT2Config(**changes)


@pytest.mark.parametrize("theta", [0, 1, -10_000.0, "10000", None])
def test_a_base_that_is_no_number_above_one_is_refused(theta):
    with pytest.raises(ValueError, match=r"rope_theta must be a finite number above 1, got "):
        RopeGPT2Config(rope_parameters={"rope_theta": theta})


@pytest.mark.parametrize("theta", [float("nan"), float("inf")])
def test_a_base_that_is_not_finite_is_refused(theta):
    with pytest.raises(ValueError, match=r"rope_theta must be"):
        RopeGPT2Config(rope_parameters={"rope_theta": theta})


@pytest.mark.parametrize("fraction", [0, 0.0, -0.5, 1.5, float("nan"), None])
def test_a_rotary_fraction_outside_zero_to_one_is_refused(fraction):
    with pytest.raises(ValueError, match=r"partial_rotary_factor must be a number in \(0, 1\], got "):
        RopeGPT2Config(rope_parameters={"partial_rotary_factor": fraction})


def test_a_rotary_fraction_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"partial_rotary_factor must"):
        RopeGPT2Config(rope_parameters={"partial_rotary_factor": "0.5"})


@pytest.mark.parametrize("key", ["n_layers", "n_heads", "dropout", "rope_parameter", "rotary_pct"])
def test_a_misspelt_field_is_refused_and_named(key, tiny_config):
    with pytest.raises(ValueError, match=f"unknown RopeGPT2Config field '{key}'"):
        tiny_config(**{key: 3})
    with pytest.raises(ValueError, match=f"unknown RopeGPT2Config field '{key}'"):
        RopeGPT2Config.from_dict({key: 3})


@pytest.mark.parametrize("changes", [{"n_layer": "2"}, {"n_embd": 32.0}, {"attn_pdrop": "a"}])
def test_a_value_of_another_type_is_refused(changes, tiny_config):
    with pytest.raises(Exception, match=rf"field '{next(iter(changes))}'"):
        tiny_config(**changes)


@pytest.mark.parametrize("rope_type", ["linear", "dynamic", "yarn", "longrope", "llama3"])
def test_a_rope_type_without_what_it_needs_is_refused(rope_type):
    with pytest.raises((KeyError, ValueError), match="factor"):
        RopeGPT2Config(rope_parameters={"rope_type": rope_type})


@pytest.mark.parametrize("misspelt", [{"rope_typ": "linear", "factor": 2.0}, {"rope_type": "yarn", "factor": 2.0, "beta_fst": 8.0}])
def test_a_misspelt_rope_parameter_is_refused(misspelt):
    with pytest.raises(ValueError, match=r"rope_typ|beta_fst"):
        RopeGPT2Config(rope_parameters=misspelt)
