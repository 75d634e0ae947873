import math

import pytest
import torch
from tensors import assert_same
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, StaticCache

from rope_gpt2 import RopeGPT2ForCausalLM
from rope_gpt2.model.conversion import to_gpt_neox

pytestmark = pytest.mark.usefixtures("no_gradients")


def random_ids(length):
    return torch.randint(1, 97, (2, length), generator=torch.Generator().manual_seed(2))


# Two exact oracles.


@pytest.mark.parametrize("position", [0, 1000])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_inner": 48, "activation_function": "relu"},
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False},
        {"attn_implementation": "eager", "reorder_and_upcast_attn": True},
    ],
)
def test_with_equal_positions_the_logits_are_those_of_gpt2_without_its_position_table(changes, position, tiny_model, input_ids):
    ours = tiny_model(**changes)
    fields = {key: value for key, value in ours.config.to_dict().items() if key not in ("model_type", "rope_parameters")}
    theirs = GPT2LMHeadModel(GPT2Config(**fields)).eval()
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert (missing, unexpected) == (["transformer.wpe.weight"], [])
    theirs.transformer.wpe.weight.zero_()
    # The mask is given because ids that do not go up by one, without a mask, mean packed documents to transformers.
    positions, mask = torch.full_like(input_ids, position), torch.ones_like(input_ids)
    assert_same(ours(input_ids, position_ids=positions, attention_mask=mask).logits, theirs(input_ids).logits)


@pytest.mark.parametrize("length", [12, 40, 80])  # within the original context, within n_positions, beyond both
def test_the_logits_are_those_of_gpt_neox_with_the_same_weights(length, rope_parameters, tiny_model):
    ours, ids = tiny_model(rope_parameters=rope_parameters), random_ids(length)
    assert_same(ours(ids).logits, to_gpt_neox(ours)(ids).logits)


# Positions.


def test_shifting_every_position_changes_nothing(rope_parameters, tiny_model, input_ids):
    model, positions = tiny_model(rope_parameters=rope_parameters), torch.arange(12)[None]
    assert_same(model(input_ids, position_ids=positions + 3).logits, model(input_ids).logits)


def test_shifting_far_changes_only_the_last_digits(tiny_model, input_ids):
    model, positions = tiny_model(), torch.arange(12)[None]
    assert_same(model(input_ids, position_ids=positions + 2000).logits, model(input_ids).logits, rtol=1e-2, atol=1e-2)


def test_stretching_positions_changes_the_logits(rope_parameters, tiny_model, input_ids):
    model, positions, mask = tiny_model(rope_parameters=rope_parameters), torch.arange(12)[None], torch.ones_like(input_ids)
    plain = model(input_ids, position_ids=positions, attention_mask=mask).logits
    stretched = model(input_ids, position_ids=2 * positions, attention_mask=mask).logits
    assert_same(stretched[:, 0], plain[:, 0])  # the first token sees itself alone
    assert (stretched - plain)[:, 1:].abs().amax(dim=-1).min() > 1e-3


def test_a_token_does_not_see_what_follows_it(tiny_model, input_ids):
    model = tiny_model()
    assert_same(model(input_ids[:, :5]).logits, model(input_ids).logits[:, :5])


def test_n_positions_does_not_limit_the_length(tiny_model):
    short, long = tiny_model(n_positions=8), tiny_model(n_positions=64)
    assert_same(short(random_ids(30)).logits, long(random_ids(30)).logits)


def test_packed_documents_are_kept_apart_where_positions_restart(tiny_model, input_ids):
    model = tiny_model()
    positions = torch.cat((torch.arange(5), torch.arange(7)))[None]
    alone = torch.cat((model(input_ids[:, :5]).logits, model(input_ids[:, 5:]).logits), dim=1)
    # With a cache transformers looks for no documents, so the cache is off here.
    assert_same(model(input_ids, position_ids=positions, use_cache=False).logits, alone)
    assert (model(input_ids, use_cache=False).logits - alone)[:, 5:].abs().max() > 1e-3


# Padding.


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("positions_given", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_logits(side, positions_given, implementation, tiny_model, input_ids):
    model, lengths = tiny_model(attn_implementation=implementation), (12, 4)
    mask = torch.stack([(torch.arange(12) < length).long() for length in lengths])
    mask = mask.flip(1) if side == "left" else mask
    rows = torch.zeros_like(input_ids).masked_scatter(mask.bool(), torch.cat([input_ids[i, :n] for i, n in enumerate(lengths)]))
    positions = (mask.cumsum(1) - 1).clamp(min=0) if positions_given else None
    padded = model(rows, attention_mask=mask, position_ids=positions).logits
    for row, length in enumerate(lengths):
        assert_same(padded[row, mask[row].bool()], model(input_ids[row : row + 1, :length]).logits[0])


# Cache.


@pytest.mark.parametrize("chunk", [1, 5, 11, 12])
def test_chunks_through_a_cache_give_the_logits_of_the_whole(chunk, rope_parameters, tiny_model, input_ids):
    model, cache = tiny_model(rope_parameters=rope_parameters), DynamicCache()
    parts = [model(part, past_key_values=cache, use_cache=True).logits for part in input_ids.split(chunk, dim=1)]
    assert_same(torch.cat(parts, dim=1), model(input_ids, use_cache=False).logits)
    assert cache.get_seq_length() == 12


def test_a_static_cache_gives_the_logits_of_the_whole(tiny_model, input_ids):
    model = tiny_model()
    cache = StaticCache(config=model.config, max_cache_len=20)
    parts = [model(part, past_key_values=cache, use_cache=True).logits for part in input_ids.split(5, dim=1)]
    assert_same(torch.cat(parts, dim=1), model(input_ids, use_cache=False).logits)


def test_a_left_padded_prefix_can_be_cached(tiny_model, input_ids):
    model = tiny_model()
    mask = torch.ones_like(input_ids)
    mask[1, :3] = 0
    start = model(input_ids[:, :8], attention_mask=mask[:, :8], use_cache=True)
    rest = model(input_ids[:, 8:], attention_mask=mask, past_key_values=start.past_key_values).logits
    assert_same(rest[1:], model(input_ids[1:, 3:]).logits[:, 5:])


def test_cached_keys_are_rotated_once(tiny_model, input_ids):
    model = tiny_model()
    cache = model(input_ids[:, :6], use_cache=True).past_key_values
    before = cache.layers[0].keys.clone()
    model(input_ids[:, 6:], past_key_values=cache)
    assert_same(cache.layers[0].keys[:, :, :6], before, rtol=0, atol=0)
    assert_same(cache.layers[0].keys, model(input_ids, use_cache=True).past_key_values.layers[0].keys)


# Precision.


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_under_bfloat16_autocast_keys_and_values_are_cached_in_bfloat16(implementation, tiny_model, input_ids):
    model = tiny_model(attn_implementation=implementation)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(input_ids, use_cache=True)
    for layer in output.past_key_values.layers:
        assert (layer.keys.dtype, layer.values.dtype) == (torch.bfloat16, torch.bfloat16)
    assert_same(output.logits.float(), model(input_ids).logits, rtol=0.1, atol=0.2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_of_another_precision_computes_in_it(dtype, rope_parameters, tiny_model, input_ids):
    model = tiny_model(rope_parameters=rope_parameters)
    exact = model(input_ids).logits
    output = model.to(dtype)(input_ids, use_cache=True)
    assert {output.logits.dtype, output.past_key_values.layers[0].keys.dtype} == {dtype}
    assert_same(output.logits.float(), exact, **({"rtol": 0.1, "atol": 0.2} if dtype != torch.float64 else {}))


# Weights.


def test_the_weights_are_those_of_gpt2_without_the_position_table(tiny_config):
    ours = RopeGPT2ForCausalLM(tiny_config())
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=64, n_embd=32, n_layer=2, n_head=4))
    assert set(theirs.state_dict()) - set(ours.state_dict()) == {"transformer.wpe.weight"}
    assert not [name for name, _ in (*ours.named_parameters(), *ours.named_buffers()) if "wpe" in name]
    assert ours.num_parameters() == theirs.num_parameters() - 64 * 32
    assert ours.lm_head.weight is ours.transformer.wte.weight


def test_the_residual_projections_are_initialised_as_in_gpt2(tiny_config):
    model = RopeGPT2ForCausalLM(tiny_config(n_embd=64, n_layer=3))
    for name, weight in model.named_parameters():
        if name.endswith("c_proj.weight"):  # Radford et al. 2019, section 2.3: scaled by the number of residual layers
            assert math.isclose(weight.std().item(), 0.02 / math.sqrt(2 * 3), rel_tol=0.05), name


def test_all_other_weights_are_initialised_as_in_gpt2(tiny_config):
    model = RopeGPT2ForCausalLM(tiny_config(n_embd=64, n_layer=3, vocab_size=300))
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "c_proj" not in name:
            assert math.isclose(weight.std().item(), 0.02, rel_tol=0.05), name
        elif weight.ndim == 1:
            assert (weight == ("ln_" in name and name.endswith("weight"))).all(), name


def test_the_blocks_that_must_not_be_split_over_devices_are_those_of_the_model(tiny_config):
    model = RopeGPT2ForCausalLM(tiny_config())
    assert set(model._no_split_modules) <= {type(module).__name__ for module in model.modules()}
