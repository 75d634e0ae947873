"""Tiny causal models of several families, for the tests of length."""

import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from rope_gpt2.model.configuration import RopeGPT2Config
from rope_gpt2.model.modeling import RopeGPT2ForCausalLM

V = 50
SIZES = {"vocab_size": V, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
FAMILIES = ("rope", "alibi", "gpt2", "gpt_neox", "gemma2")


def make_model(family, n_positions=64):
    """A model with large weights, so that losses differ from token to token."""
    torch.manual_seed(0)
    shape = {"vocab_size": V, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 0}
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_positions=n_positions, **shape)).eval()
    if family == "gpt_neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(max_position_embeddings=n_positions, initializer_range=0.3, **SIZES)).eval()
    if family == "gemma2":  # caps its logits: they are not the head of the states alone
        config = Gemma2Config(num_key_value_heads=2, head_dim=8, final_logit_softcapping=2.0, initializer_range=0.3, **SIZES)
        return Gemma2ForCausalLM(config).eval()
    return RopeGPT2ForCausalLM(RopeGPT2Config(n_positions=n_positions, position_encoding=family, **shape)).eval()
