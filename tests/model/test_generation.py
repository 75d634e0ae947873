"""What callers ask of the model beyond logits: tokens, attentions, losses, gradients, other attention functions, compilation."""

import logging

import pytest
import torch
import transformers
from packaging.version import Version
from tensors import assert_same
from torch.nn.functional import cross_entropy

from rope_gpt2.model.modeling import RopeGPT2Attention


def generate(model, input_ids, **options):
    mask = (input_ids != 0).long()
    return model.generate(input_ids, attention_mask=mask, max_new_tokens=4, **({"do_sample": False} | options))


# Generation.


def test_greedy_generation_takes_the_likeliest_token_again_and_again(rope_parameters, tiny_model, input_ids):
    model, expected = tiny_model(rope_parameters=rope_parameters), input_ids
    with torch.no_grad():
        for _ in range(4):
            expected = torch.cat((expected, model(expected, use_cache=False).logits[:, -1:].argmax(dim=-1)), dim=1)
    assert_same(generate(model, input_ids), expected)


@pytest.mark.parametrize("options", [{"do_sample": False}, {"num_beams": 3}, {"do_sample": True, "top_k": 20}])
@pytest.mark.parametrize("cache", [{"use_cache": False}, {"cache_implementation": "static"}])
def test_generation_is_the_same_with_every_cache(cache, options, tiny_model, input_ids):
    tokens = []
    for kind in ({"cache_implementation": "dynamic"}, cache):
        torch.manual_seed(0)
        tokens.append(generate(tiny_model(), input_ids, disable_compile=True, **options, **kind))
    assert_same(*tokens)


def test_sampling_is_set_by_the_seed(tiny_model, input_ids):
    def sample(seed):
        torch.manual_seed(seed)
        return generate(tiny_model(), input_ids, do_sample=True)

    assert_same(sample(0), sample(0))
    assert not torch.equal(sample(0), sample(1))


@pytest.mark.parametrize("options", [{"do_sample": False}, {"num_beams": 3}])
def test_a_left_padded_batch_generates_what_its_rows_generate_alone(options, rope_parameters, tiny_model, input_ids):
    model, padded = tiny_model(rope_parameters=rope_parameters), input_ids.clone()
    padded[1, :5] = 0
    together = generate(model, padded, **options)
    assert_same(together[:1], generate(model, padded[:1], **options))
    assert_same(together[1:, 5:], generate(model, padded[1:, 5:], **options))


def test_generation_goes_on_beyond_n_positions(tiny_model, input_ids):
    assert_same(generate(tiny_model(n_positions=8), input_ids), generate(tiny_model(n_positions=64), input_ids))


# Inputs and outputs.


@torch.no_grad()
def test_embeddings_may_take_the_place_of_tokens(tiny_model, input_ids):
    model = tiny_model()
    embeddings = model.get_input_embeddings()(input_ids)
    assert_same(model(inputs_embeds=embeddings).logits, model(input_ids).logits)
    assert_same(generate(model, input_ids)[:, 12:], model.generate(inputs_embeds=embeddings, max_new_tokens=4, do_sample=False))


def test_tokens_and_embeddings_together_or_neither_are_refused(tiny_model, input_ids):
    model = tiny_model().transformer
    with pytest.raises(ValueError, match="both input_ids and inputs_embeds"):
        model(input_ids, inputs_embeds=model.wte(input_ids))
    with pytest.raises(ValueError, match="give input_ids or inputs_embeds"):
        model()


def test_attention_without_positions_is_refused(tiny_config):
    with pytest.raises(ValueError, match="position_embeddings is missing; call RopeGPT2Model"):
        RopeGPT2Attention(tiny_config(), layer_idx=0)(torch.zeros(1, 3, 32))


@torch.no_grad()
@pytest.mark.parametrize("keep", [1, 3, 12])
def test_kept_logits_are_the_last_ones(keep, tiny_model, input_ids):
    model = tiny_model()
    whole = model(input_ids).logits
    assert_same(model(input_ids, logits_to_keep=keep).logits, whole[:, -keep:])
    assert_same(model(input_ids, logits_to_keep=torch.tensor([0, keep - 1])).logits, whole[:, [0, keep - 1]])


@torch.no_grad()
def test_attentions_are_distributions_over_the_past(tiny_model, input_ids):
    model = tiny_model(attn_implementation="eager")
    attentions = model(input_ids, output_attentions=True).attentions
    assert [tuple(weights.shape) for weights in attentions] == [(2, 4, 12, 12)] * 2
    for weights in attentions:
        assert_same(weights.sum(dim=-1), torch.ones(2, 4, 12))
        assert not weights.triu(diagonal=1).any()


@torch.no_grad()
def test_hidden_states_are_the_embeddings_and_one_of_each_block(tiny_model, input_ids):
    model = tiny_model(n_layer=3)
    output = model.transformer(input_ids, output_hidden_states=True)
    assert len(output.hidden_states) == 1 + 3
    assert_same(output.hidden_states[0], model.transformer.wte(input_ids))
    assert_same(output.hidden_states[-1], output.last_hidden_state)


@torch.no_grad()
def test_a_tuple_holds_what_the_output_holds(tiny_model, input_ids):
    model = tiny_model()
    assert_same(model(input_ids, return_dict=False)[0], model(input_ids).logits)


# Attention functions and devices.


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # transformers and torch make flex attention's masks in an older way
@pytest.mark.parametrize("other", ["eager", pytest.param("flex_attention", marks=pytest.mark.slow)])
def test_every_attention_function_gives_the_same_logits(other, padded, rope_parameters, tiny_model, input_ids):
    mask = torch.ones_like(input_ids)
    mask[1, : 5 * padded] = 0
    models = [tiny_model(rope_parameters=rope_parameters, attn_implementation=name) for name in ("sdpa", other)]
    ours, theirs = (model(input_ids, attention_mask=mask).logits[mask.bool()] for model in models)
    assert_same(ours, theirs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@torch.no_grad()
@pytest.mark.parametrize("length", [12, 80])
def test_logits_on_the_gpu_are_those_on_the_cpu(length, rope_parameters, tiny_model):
    model, ids = tiny_model(rope_parameters=rope_parameters), torch.randint(1, 97, (2, length))
    expected = model(ids).logits
    assert_same(model.cuda()(ids.cuda()).logits.cpu(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_generation_on_the_gpu_is_that_on_the_cpu(tiny_model, input_ids):
    expected = generate(tiny_model(), input_ids)
    assert_same(generate(tiny_model().cuda(), input_ids.cuda()).cpu(), expected)


@torch.no_grad()
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_model_compiled_as_one_graph_gives_the_same_logits(backend, rope_parameters, tiny_model, input_ids):
    if rope_parameters["rope_type"] == "dynamic":
        pytest.skip("Python decides over its frequencies, by the positions")
    if rope_parameters["rope_type"] == "longrope" and Version(transformers.__version__) < Version("5.22"):
        pytest.skip("so it does over longrope's before transformers 5.22")
    model = tiny_model(rope_parameters=rope_parameters)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    assert_same(compiled(input_ids, use_cache=False).logits, model(input_ids).logits)


# Loss and gradients.


def test_the_loss_is_the_cross_entropy_of_the_next_token(tiny_model, input_ids):
    model, labels = tiny_model(), input_ids.clone()
    labels[0, :6] = -100
    output = model(input_ids, labels=labels)
    by_hand = cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert_same(output.loss, by_hand)
    parameters = list(model.parameters())
    assert_same(torch.autograd.grad(output.loss, parameters, retain_graph=True), torch.autograd.grad(by_hand, parameters))


def test_the_loss_comes_without_a_warning(tiny_model, input_ids, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    logging.getLogger("transformers.modeling_utils").warning_once.cache_clear()  # a warning given once may have been given
    model = tiny_model()
    with caplog.at_level(logging.WARNING):
        model(input_ids, labels=input_ids)
    assert model.loss_type == "ForCausalLM"
    assert not caplog.records


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # its newer name is not in every version allowed
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_activations_give_the_same_gradients(reentrant, tiny_model, input_ids):
    plain, checkpointed = tiny_model().train(), tiny_model().train()
    checkpointed.gradient_checkpointing_enable({"use_reentrant": reentrant})
    for model in (plain, checkpointed):
        model(input_ids, labels=input_ids, use_cache=False).loss.backward()
    assert checkpointed.is_gradient_checkpointing
    assert_same([p.grad for p in checkpointed.parameters()], [p.grad for p in plain.parameters()])
