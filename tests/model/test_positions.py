"""Position encodings beside RoPE: each against another implementation, or against the law that it is named for."""

import math

import pytest
import torch
from tensors import assert_same
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from rope_gpt2 import RopeGPT2Config, RopeGPT2ForCausalLM
from rope_gpt2.model.attention import attention_by_products
from rope_gpt2.model.configuration import POSITION_ENCODINGS
from rope_gpt2.model.positions import SinusoidalPositions, alibi_mask, alibi_slopes

pytestmark = pytest.mark.usefixtures("no_gradients")

ENCODINGS = pytest.mark.parametrize("encoding", POSITION_ENCODINGS)
IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["eager", "sdpa"])


def padded_left(ids, padding):
    """Ids and mask with so many pads before the second row's own."""
    ids, mask = ids.clone(), torch.ones_like(ids)
    ids[1, :padding], mask[1, :padding] = 0, 0
    return ids, mask


# Each encoding is what its name says.


@IMPLEMENTATIONS
def test_a_learned_table_makes_it_gpt2_to_the_bit(implementation, tiny_model, tiny_config, input_ids):
    ours = tiny_model(position_encoding="learned", attn_implementation=implementation)
    fields = {name: getattr(ours.config, name) for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "pad_token_id")}
    special = {"bos_token_id": None, "eos_token_id": None}
    theirs = GPT2LMHeadModel(GPT2Config(**fields, **special, attn_implementation=implementation)).eval()
    theirs.load_state_dict(ours.state_dict())
    ids, mask = padded_left(input_ids, 5)
    assert torch.equal(ours(input_ids).logits, theirs(input_ids).logits)
    assert torch.equal(ours(ids, attention_mask=mask).logits, theirs(ids, attention_mask=mask).logits)
    options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False}
    assert torch.equal(ours.generate(ids, **options), theirs.generate(ids, **options))
    with torch.enable_grad():
        gradients = [torch.autograd.grad(model(input_ids, labels=input_ids).loss, list(model.parameters())) for model in (ours, theirs)]
    assert all(torch.equal(mine, its) for mine, its in zip(*gradients, strict=True))


def test_new_weights_are_those_of_gpt2_with_the_same_seed():
    fields = {"vocab_size": 97, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": None, "eos_token_id": None}
    models = []
    for build in (
        lambda: GPT2LMHeadModel(GPT2Config(**fields)),
        lambda: RopeGPT2ForCausalLM(RopeGPT2Config(**fields, position_encoding="learned")),
    ):
        torch.manual_seed(0)
        models.append(build())
    ours, theirs = models[1].state_dict(), models[0].state_dict()
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():  # drawn in another order of modules: the same distribution, not the same numbers
        assert abs(float(weight.std()) - float(theirs[name].std())) <= 0.2 * float(theirs[name].std()) + 1e-12, name


def test_sinusoids_are_those_of_the_paper_in_another_order():
    width, places = 8, torch.arange(50)
    ours = SinusoidalPositions(width, scale=math.sqrt(0.5))(places)  # that scale leaves them as they are
    for pair in range(width // 2):
        angles = places / 10_000 ** (2 * pair / width)
        assert_same(ours[:, pair], angles.sin())
        assert_same(ours[:, width // 2 + pair], angles.cos())


@pytest.mark.parametrize("width", [7, 8, 64])
def test_sinusoids_have_the_size_of_the_embeddings_that_they_are_added_to(width):
    table = SinusoidalPositions(width, scale=0.02)(torch.arange(500)[None])
    assert table.shape == (1, 500, width)
    assert float(table.pow(2).mean().sqrt()) == pytest.approx(0.02, rel=0.1)


def test_without_an_encoding_the_order_of_earlier_tokens_is_not_known(tiny_model):
    """One block is a function of the set of tokens before (Haviv et al. 2022 need more than one to count)."""
    model = tiny_model(position_encoding="none", n_layer=1)
    ids = torch.tensor([[5, 6, 7, 8, 9], [8, 6, 5, 7, 9]])
    states = model.transformer(ids).last_hidden_state[:, -1]
    assert_same(states[0], states[1])


@pytest.mark.parametrize("encoding", [name for name in POSITION_ENCODINGS if name != "none"])
def test_with_one_it_is(encoding, tiny_model):
    model = tiny_model(position_encoding=encoding, n_layer=1)
    states = model.transformer(torch.tensor([[5, 6, 7, 8, 9], [8, 6, 5, 7, 9]])).last_hidden_state[:, -1]
    assert float((states[0] - states[1]).abs().max()) > 1e-2


@pytest.mark.parametrize("heads", [1, 2, 4, 8, 12, 16, 20])
def test_alibis_slopes_are_those_of_another_implementation(heads):
    theirs = -build_mpt_alibi_tensor(heads, 2)[:, 0, 0]  # the bias at distance 1
    assert_same(alibi_slopes(heads), theirs, atol=1e-7)


@pytest.mark.parametrize(("queries", "seen"), [(5, 0), (2, 3), (1, 4)])
def test_alibis_mask_takes_slope_times_distance_from_what_may_be_seen(queries, seen):
    slopes, keys = torch.tensor([0.5, 0.25]), queries + seen
    allowed = torch.rand(3, 1, queries, keys, generator=torch.Generator().manual_seed(0)) < 0.7
    numbers = torch.randn(3, 1, queries, keys, generator=torch.Generator().manual_seed(1))
    by_default, by_bool, by_numbers = (alibi_mask(mask, slopes, queries, keys, seen, torch.float32) for mask in (None, allowed, numbers))
    for head, slope in enumerate(slopes.tolist()):
        for query in range(queries):
            for key in range(keys):
                penalty = -slope * (seen + query - key)
                assert float(by_default[0, head, query, key]) == (penalty if key <= seen + query else torch.finfo(torch.float32).min)
                for row in range(3):
                    expected = penalty if allowed[row, 0, query, key] else torch.finfo(torch.float32).min
                    assert float(by_bool[row, head, query, key]) == expected
                    assert float(by_numbers[row, head, query, key]) == pytest.approx(float(numbers[row, 0, query, key]) + penalty)


@IMPLEMENTATIONS
def test_alibi_in_bfloat16_leaves_no_row_of_padding_without_a_number(implementation, tiny_model, input_ids):
    ids, mask = padded_left(input_ids, 5)
    model = tiny_model(position_encoding="alibi", attn_implementation=implementation)
    exact = model(ids, attention_mask=mask).logits
    rough = model.bfloat16()(ids, attention_mask=mask).logits
    assert rough.isfinite().all()
    seen = mask.bool()
    assert float((rough.float() - exact)[seen].abs().max()) < 0.1 * float(exact[seen].abs().max())


@ENCODINGS
@pytest.mark.parametrize("loaded", [False, True])
def test_every_encoding_computes_in_bfloat16(encoding, loaded, tiny_model, input_ids, tmp_path):
    model = tiny_model(position_encoding=encoding)
    exact = model(input_ids).logits
    model.save_pretrained(tmp_path)
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16) if loaded else model.bfloat16()
    rough = half(input_ids).logits
    assert rough.dtype == torch.bfloat16
    assert float((rough.float() - exact).abs().max()) < 0.1 * float(exact.abs().max())


@pytest.mark.parametrize("implementation", ["flex_attention"])
def test_alibi_refuses_attention_that_would_leave_it_out(implementation, tiny_model, input_ids):
    model = tiny_model(position_encoding="alibi")
    model.config._attn_implementation = implementation
    with pytest.raises(ValueError, match=f"alibi needs attention that adds biases .*got {implementation}"):
        model(input_ids)


# What holds for all of them.


@ENCODINGS
def test_eager_fused_and_product_attention_agree(encoding, tiny_model, input_ids):
    models = [tiny_model(position_encoding=encoding, attn_implementation=name) for name in ("eager", "sdpa")]
    ids, mask = padded_left(input_ids, 4)
    seen = mask.bool()
    assert_same(models[0](ids, attention_mask=mask).logits[seen], models[1](ids, attention_mask=mask).logits[seen])
    with attention_by_products(models[1]):
        products = models[1](input_ids).logits
    assert_same(models[0](input_ids).logits, products)


@ENCODINGS
def test_a_cache_changes_nothing(encoding, tiny_model, input_ids):
    model = tiny_model(position_encoding=encoding)
    whole = model(input_ids).logits
    begun = model(input_ids[:, :5], use_cache=True)
    assert_same(model(input_ids[:, 5:], past_key_values=begun.past_key_values).logits, whole[:, 5:])


@ENCODINGS
@pytest.mark.parametrize(
    "options", [{"do_sample": False}, {"num_beams": 3}, {"do_sample": False, "cache_implementation": "static"}], ids=str
)
def test_a_left_padded_row_generates_what_it_generates_alone(options, encoding, tiny_model, input_ids):
    model = tiny_model(position_encoding=encoding)
    ids, mask = padded_left(input_ids, 5)
    options = {"max_new_tokens": 5, "disable_compile": True} | options
    together = model.generate(ids, attention_mask=mask, **options)
    alone = model.generate(ids[1:, 5:], attention_mask=mask[1:, 5:], **options)
    assert_same(together[1:, 5:], alone)


@ENCODINGS
@pytest.mark.parametrize("prefix_length", [0, 1, 30])
@pytest.mark.parametrize("positions", [None, [[8], [2], [0]]], ids=["all", "some"])
def test_sequences_behind_a_shared_prefix_have_the_states_of_a_whole_pass(positions, prefix_length, encoding, tiny_model):
    model = tiny_model(position_encoding=encoding, n_layer=3)
    generator = torch.Generator().manual_seed(2)
    prefix, ids = torch.randint(1, 97, (prefix_length,), generator=generator), torch.randint(1, 97, (3, 9), generator=generator)
    theirs = torch.cat([model.transformer(torch.cat((prefix, row))[None]).last_hidden_state for row in ids])[:, prefix_length:]
    assert model.shares_prefix(prefix_length + 9)
    wanted = None if positions is None else torch.tensor(positions)
    ours = model.encode_sequences(model.encode_prefix(prefix), ids, wanted)
    assert_same(ours, theirs if wanted is None else theirs.gather(1, wanted[..., None].expand(-1, -1, theirs.shape[-1])))


@ENCODINGS
def test_packed_documents_are_documents_alone(encoding, tiny_model, input_ids):
    model = tiny_model(position_encoding=encoding)
    packed = torch.cat((input_ids[0, :7], input_ids[1]))[None]
    together = model(packed, position_ids=torch.cat((torch.arange(7), torch.arange(12)))[None], use_cache=False).logits
    assert_same(together[0, :7], model(input_ids[:1, :7]).logits[0])
    assert_same(together[0, 7:], model(input_ids[1:]).logits[0])


@ENCODINGS
def test_a_stored_model_is_loaded_with_its_encoding(encoding, tiny_model, input_ids, tmp_path):
    model = tiny_model(position_encoding=encoding)
    model.save_pretrained(tmp_path)
    again = RopeGPT2ForCausalLM.from_pretrained(tmp_path).eval()
    assert again.config.position_encoding == encoding
    assert torch.equal(again(input_ids).logits, model(input_ids).logits)


@ENCODINGS
def test_gradients_reach_every_weight(encoding, tiny_model, input_ids):
    model = tiny_model(position_encoding=encoding)
    with torch.enable_grad():
        model(input_ids, labels=input_ids).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


# Lengths.


@pytest.mark.parametrize("encoding", [name for name in POSITION_ENCODINGS if name != "learned"])
def test_positions_beyond_the_training_context_are_taken(encoding, tiny_model):
    ids = torch.randint(1, 97, (1, 200), generator=torch.Generator().manual_seed(0))
    assert tiny_model(position_encoding=encoding)(ids).logits.isfinite().all()


def test_a_learned_table_names_its_end(tiny_model):
    model, ids = tiny_model(position_encoding="learned"), torch.ones(1, 70, dtype=torch.long)
    with pytest.raises(ValueError, match="70 positions exceed the learned position table of 64"):
        model(ids)
    with pytest.raises(ValueError, match="70 positions exceed the learned position table of 64"):
        model.encode_sequences(model.encode_prefix(ids[0, :60]), ids[:, :10])
    begun = model(ids[:, :60], use_cache=True)
    with pytest.raises(ValueError, match="70 positions exceed"):
        model(ids[:, :10], past_key_values=begun.past_key_values)


# Configurations.


def test_an_unknown_encoding_is_refused(tiny_config):
    with pytest.raises(ValueError, match=r"position_encoding must be one of rope, learned, .*got 'spiral'"):
        tiny_config(position_encoding="spiral")


@pytest.mark.parametrize("encoding", [name for name in POSITION_ENCODINGS if name != "rope"])
def test_a_scaling_of_rope_is_refused_without_rope(encoding, tiny_config):
    parameters = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(ValueError, match=f"rope_type 'linear' needs position_encoding 'rope', got '{encoding}'"):
        tiny_config(position_encoding=encoding, rope_parameters=parameters)


def test_heads_of_odd_size_are_for_all_encodings_but_rope(tiny_config):
    for encoding in POSITION_ENCODINGS:
        if encoding == "rope":
            with pytest.raises(ValueError, match="rotary dimension must be even"):
                tiny_config(n_embd=36, n_head=4)
        else:
            assert tiny_config(n_embd=36, n_head=4, position_encoding=encoding).head_dim == 9


def test_a_configuration_without_the_field_is_rope():
    assert RopeGPT2Config.from_dict({"n_embd": 32, "n_head": 4}).position_encoding == "rope"
