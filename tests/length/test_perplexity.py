"""Losses are those of transformers' own loss, and of every token scored by itself from its own context."""

import numpy as np
import pytest
import torch
from length_models import make_model

from rope_gpt2.length import perplexity
from rope_gpt2.length.perplexity import score_windows, table_length
from rope_gpt2.length.windows import Setting, choose_region, lay_windows


def windows_of(tokens, *settings):
    region = choose_region(len(tokens), settings)
    return [lay_windows(region, setting) for setting in settings]


@torch.no_grad()
def test_windows_apart_give_transformers_own_loss(model, tokens):
    (windows,) = windows_of(tokens, Setting(20, "apart", 20))
    ours = score_windows(model, tokens, windows, batch_tokens=60)
    spans = [tokens[None, window.start : window.start + window.length + 1] for window in windows]
    theirs = [model(input_ids=span, labels=span).loss.item() for span in spans]
    np.testing.assert_allclose(ours.losses.reshape(-1, 20).mean(axis=1), theirs, rtol=1e-5)
    np.testing.assert_allclose(np.exp(ours.losses.mean()), np.exp(np.mean(theirs)), rtol=1e-5)


@torch.no_grad()
def test_sliding_windows_give_each_token_the_loss_of_its_own_context(model, tokens):
    (windows,) = windows_of(tokens[:90], Setting(20, "sliding", 7))
    ours = score_windows(model, tokens, windows)
    place = windows[0].start + windows[0].length + 1 - windows[0].scored
    for loss, position in zip(*ours, strict=True):
        assert position >= 20 - 7  # from more than L - S tokens
        context = tokens[None, place - position - 1 : place]
        theirs = -model(input_ids=context).logits[0, -1].log_softmax(dim=-1)[tokens[place]]
        assert loss == pytest.approx(theirs.item(), abs=1e-5)
        place += 1


def test_neither_batches_nor_chunks_of_the_head_change_a_loss(model, tokens, monkeypatch):
    (windows,) = windows_of(tokens, Setting(24, "sliding", 12))
    whole = score_windows(model, tokens, windows, batch_tokens=10_000)
    monkeypatch.setattr(perplexity, "LOGITS", 5 * model.config.vocab_size)
    parts = score_windows(model, tokens, windows, batch_tokens=1)
    np.testing.assert_allclose(parts.losses, whole.losses, atol=1e-5)
    np.testing.assert_array_equal(parts.positions, whole.positions)


def test_the_logits_of_a_long_window_are_never_held_at_once(tokens, monkeypatch):
    model, seen = make_model("rope"), []
    model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: seen.append(output.shape[0]))
    monkeypatch.setattr(perplexity, "LOGITS", 7 * model.config.vocab_size)
    (windows,) = windows_of(tokens, Setting(50, "apart", 50))
    score_windows(model, tokens, windows)
    assert max(seen[2:]) == 7  # the first two are the trial of the head


@pytest.mark.parametrize(("family", "length"), [("gpt2", 64), ("rope", None), ("gpt_neox", None), ("learned", 64)])
def test_a_learned_position_table_is_found_by_its_length(family, length):
    assert table_length(make_model(family)) == length
