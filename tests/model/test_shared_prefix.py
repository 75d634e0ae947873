"""Sequences behind a shared prefix have the states of the model's own forward pass over prefix and sequence."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensors import assert_same

from rope_gpt2.model import shared_prefix

pytestmark = pytest.mark.usefixtures("no_gradients")

ORIGINAL = 16  # tokens: original context of the rope types that have one, in these tests
CHANGES = {
    "as it is": {},
    "one layer": {"n_layer": 1},
    "three layers": {"n_layer": 3},
    "one head": {"n_head": 1},
    "a scale for each layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    "no scale": {"scale_attn_weights": False},
    "the exact GELU": {"activation_function": "gelu"},
    "ReLU and a narrow MLP": {"activation_function": "relu", "n_inner": 48},
    "a head of its own": {"tie_word_embeddings": False},
    "eager attention": {"attn_implementation": "eager"},
}


def random_ids(*shape, seed=2):
    return torch.randint(1, 97, shape, generator=torch.Generator().manual_seed(seed))


def encode(model, prefix, ids, positions=None):
    return model.encode_sequences(model.encode_prefix(prefix), ids, positions)


def whole_states(model, prefix, ids):
    """The model's own pass over each prefix and sequence, alone."""
    passes = [model.transformer(torch.cat((prefix, row))[None]).last_hidden_state for row in ids]
    return torch.cat(passes)[:, len(prefix) :]


def pick(states, positions):
    return torch.stack([row[places] for row, places in zip(states, positions, strict=True)])


PREFIXES = pytest.mark.parametrize("prefix_length", [0, 1, 40])
POSITIONS = pytest.mark.parametrize(
    "positions", [None, [[8], [8], [8]], [[3], [0], [8]], [[1, 2, 3], [8, 0, 8], [5, 6, 7]]], ids=["all", "last", "one", "several"]
)


@PREFIXES
@POSITIONS
@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES.keys())
def test_states_are_those_of_a_whole_pass(changes, positions, prefix_length, tiny_model):
    model, prefix, ids = tiny_model(**changes), random_ids(prefix_length), random_ids(3, 9, seed=3)
    wanted = None if positions is None else torch.tensor(positions)
    theirs = whole_states(model, prefix, ids)
    assert_same(encode(model, prefix, ids, wanted), theirs if wanted is None else pick(theirs, wanted))


@pytest.mark.parametrize("prefix_length", [0, 1, 7])
@pytest.mark.parametrize("positions", [None, [[8], [2], [0]]])
def test_states_are_those_of_a_whole_pass_under_every_rope_type(positions, prefix_length, rope_parameters, tiny_model):
    model = tiny_model(rope_parameters=rope_parameters)
    prefix, ids = random_ids(prefix_length), random_ids(3, 9, seed=3)
    assert model.shares_prefix(prefix_length + 9)
    wanted = None if positions is None else torch.tensor(positions)
    theirs = whole_states(model, prefix, ids)
    assert_same(encode(model, prefix, ids, wanted), theirs if wanted is None else pick(theirs, wanted))


@pytest.mark.parametrize("length", [ORIGINAL, ORIGINAL + 1, 40, 64, 65, 100])
def test_where_sharing_is_said_to_be_exact_it_is(length, rope_parameters, tiny_model):
    """At, below and beyond the contexts at which a rope type changes its frequencies."""
    model = tiny_model(rope_parameters=rope_parameters)
    prefix, ids = random_ids(length - 5), random_ids(2, 5, seed=3)
    if model.shares_prefix(length):
        assert_same(encode(model, prefix, ids), whole_states(model, prefix, ids))
    elif model.shares_prefix(length - 5):  # the prefix alone has other frequencies than the whole: there was a reason to refuse
        assert (encode(model, prefix, ids) - whole_states(model, prefix, ids)).abs().max() > 1e-3


def test_lengths_beyond_the_original_context_are_refused_where_frequencies_depend_on_it(rope_parameters, tiny_model):
    model, rope_type = tiny_model(rope_parameters=rope_parameters), rope_parameters["rope_type"]
    limit = {"dynamic": 64, "longrope": ORIGINAL}.get(rope_type, 10**6)
    assert model.shares_prefix(limit)
    assert model.shares_prefix(limit + 1) == (rope_type not in ("dynamic", "longrope"))


def test_an_attention_of_another_order_of_operations_is_refused(tiny_model):
    assert not tiny_model(reorder_and_upcast_attn=True, attn_implementation="eager").shares_prefix(5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), prefix_length=st.integers(0, 24), size=st.integers(1, 7), length=st.integers(1, 24))
def test_states_are_those_of_a_whole_pass_at_any_length_and_size(tiny_model, data, prefix_length, size, length):
    model = tiny_model()
    prefix, ids = random_ids(prefix_length, seed=length), random_ids(size, length, seed=prefix_length)
    wanted = torch.tensor(data.draw(st.lists(st.lists(st.integers(0, length - 1), min_size=2, max_size=2), min_size=size, max_size=size)))
    theirs = whole_states(model, prefix, ids)
    assert_same(encode(model, prefix, ids), theirs)
    assert_same(encode(model, prefix, ids, wanted), pick(theirs, wanted))


@PREFIXES
def test_padding_on_the_right_and_its_ids_change_nothing(prefix_length, tiny_model):
    model, prefix, ids = tiny_model(), random_ids(prefix_length), random_ids(3, 9, seed=3)
    last = torch.tensor([[4], [8], [0]])
    padded = [torch.cat((ids, random_ids(3, more, seed=more)), dim=1) for more in (1, 6)]
    for row, place in enumerate(last.flatten().tolist()):
        padded[1][row, place + 1 :] = 11 + row
    theirs = encode(model, prefix, ids, last)
    for some in padded:
        assert_same(encode(model, prefix, some, last), theirs)


def test_other_rows_change_nothing(tiny_model):
    model, prefix, ids, last = tiny_model(), random_ids(20), random_ids(6, 9, seed=3), torch.full((6, 1), 8)
    theirs = encode(model, prefix, ids, last)
    for row in range(6):
        assert_same(encode(model, prefix, ids[row : row + 1], last[:1]), theirs[row : row + 1])


def test_one_prefix_serves_many_batches_and_stays_as_it_was(tiny_model):
    model, prefix = tiny_model(), random_ids(20)
    encoded = model.encode_prefix(prefix)
    before = copy.deepcopy(encoded.layers)
    for seed in range(3):
        ids = random_ids(2, 9, seed=seed)
        assert_same(model.encode_sequences(encoded, ids), whole_states(model, prefix, ids))
    assert encoded.length == 20
    for ours, theirs in zip(encoded.layers, before, strict=True):
        assert all(map(torch.equal, ours, theirs))


def test_a_prefix_is_not_copied_for_every_sequence(tiny_model):
    encoded = tiny_model().encode_prefix(random_ids(20))
    assert {tensor.shape for layer in encoded.layers for tensor in layer} == {(1, 4, 20, 8)}


@PREFIXES
@pytest.mark.parametrize("positions", [None, [[8], [2], [0]]])
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_as_near_to_float32_as_the_whole_pass_is(positions, prefix_length, autocast, tiny_model):
    model, prefix, ids = tiny_model(), random_ids(prefix_length), random_ids(3, 9, seed=3)
    wanted = None if positions is None else torch.tensor(positions)
    exact = whole_states(model, prefix, ids)
    half = model if autocast else copy.deepcopy(model).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        theirs, ours = whole_states(half, prefix, ids), encode(half, prefix, ids, wanted)
    assert ours.dtype == theirs.dtype
    if wanted is not None:
        exact, theirs = pick(exact, wanted), pick(theirs, wanted)
    error = (theirs.float() - exact).square().mean().sqrt()
    assert error > 0
    assert (ours.float() - exact).square().mean().sqrt() < 2 * error


@PREFIXES
@pytest.mark.parametrize("changes", [{}, {"scale_attn_weights": False}, {"n_head": 1}])
def test_attention_without_a_kernel_of_its_own_gives_the_same_states(changes, prefix_length, tiny_model, monkeypatch):
    """What devices other than a CPU run."""
    model, prefix, ids = tiny_model(**changes), random_ids(prefix_length), random_ids(3, 9, seed=3)
    theirs = encode(model, prefix, ids)
    monkeypatch.setattr(shared_prefix, "_attention", shared_prefix._attention_by_products)
    assert_same(encode(model, prefix, ids), theirs)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("length", "far"), [(1, 1), (9, 9), (70, 70), (9, 33)])
def test_both_attentions_are_softmax_and_log_sum_exp(is_causal, length, far):
    if is_causal and length != far:
        return
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 3, length, 8, generator=generator)
    key, value = torch.randn(2, 2, 3, far, 8, generator=generator)
    scores = 0.3 * torch.einsum("bnlh,bnsh->bnls", query, key).double()
    if is_causal:
        scores = scores.masked_fill(torch.ones(length, far).tril() == 0, float("-inf"))
    weights = scores.softmax(dim=-1).float()
    for attend in (shared_prefix._attention, shared_prefix._attention_by_products):
        output, lse = attend(query, key, value, 0.3, is_causal)
        assert_same(output, weights @ value)
        assert_same(lse, scores.exp().sum(dim=-1).log().float())


def test_the_model_in_training_mode_is_left_as_it_is(tiny_model):
    """No gradient is recorded, and no parameter changes."""
    model = tiny_model()
    before = copy.deepcopy(model.state_dict())
    with torch.enable_grad():
        states = encode(model, random_ids(4), random_ids(2, 5))
    assert not states.requires_grad
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
