"""Distances are those of uniform attention where attention is uniform, and of transformers' own `output_attentions` everywhere."""

import pytest
import torch
from length_models import make_model

from rope_gpt2.length.attention_distance import attention_distances, longest_measured

L, FAR = 24, 9


@torch.no_grad()
def test_uniform_attention_looks_back_a_quarter_of_the_window(tokens):
    model = make_model("gpt2")
    for block in model.transformer.h:
        block.attn.c_attn.weight[:, : 2 * model.config.n_embd] = 0  # queries and keys
    found = attention_distances(model, [tokens[:L], tokens[L : 2 * L]], FAR)
    assert [(one.layer, one.head) for one in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    beyond = sum((query - FAR) / (query + 1) for query in range(FAR + 1, L)) / (L - FAR - 1)
    for one in found:
        assert one.mean_distance == pytest.approx((L - 1) / 4, rel=1e-5)
        assert one.beyond == pytest.approx(beyond, rel=1e-5)


@torch.no_grad()
def test_distances_are_those_of_the_weights_that_transformers_gives(model, tokens):
    before = model.config._attn_implementation
    found = attention_distances(model, [tokens[:L]], FAR)
    assert model.config._attn_implementation == before
    model.set_attn_implementation("eager")
    attentions = model(input_ids=tokens[None, :L], output_attentions=True).attentions
    places = torch.arange(L)
    distances = (places[:, None] - places).clamp(min=0)
    for one in found:
        weights = attentions[one.layer][0, one.head]
        assert one.mean_distance == pytest.approx((weights * distances).sum(dim=-1).mean().item(), rel=1e-4)
        far = (weights * (distances > FAR)).sum(dim=-1)[FAR + 1 :]
        assert one.beyond == pytest.approx(far.mean().item(), rel=1e-4)
    assert len(found) == 4


def test_no_share_is_given_where_no_token_lies_so_far(tokens):
    found = attention_distances(make_model("rope"), [tokens[:L]], far=L - 1)
    assert {one.beyond for one in found} == {None}


def test_a_window_whose_weights_no_machine_holds_is_shortened():
    model = make_model("gpt_neox")
    assert longest_measured(model, 512) == 512
    assert longest_measured(model, 10**6) == 11_585  # 2 heads: 2 * 11585^2 is below 2^28
