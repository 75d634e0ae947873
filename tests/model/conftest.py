"""Tiny RoPE GPT-2s of every rope type, with weights so large that a wrong rotation, mask or scale shows in the logits."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from rope_gpt2 import RopeGPT2Config, RopeGPT2ForCausalLM

# For heads of 8 dimensions; 16 positions stand for the original context where a scaling has one, 64 for the new one.
ROPE_PARAMETERS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 10_000.0},
    "partial": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
    "linear": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 16},
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.0, 2.0, 3.0, 4.0],
    },
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
}


@pytest.fixture(params=ROPE_PARAMETERS)
def rope_parameters(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Parameters of each rope type in turn, safe to write into."""
    return copy.deepcopy(ROPE_PARAMETERS[request.param])


@pytest.fixture
def no_gradients() -> Iterator[None]:
    """For tests of forward passes alone."""
    with torch.no_grad():
        yield


@pytest.fixture
def tiny_config() -> Callable[..., RopeGPT2Config]:
    """A configuration without dropout and without an end token: every run is deterministic and of full length."""

    def build(**changes: Any) -> RopeGPT2Config:
        fields = {"vocab_size": 97, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
        fields |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        fields |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
        return RopeGPT2Config(**(fields | changes))

    return build


@pytest.fixture
def tiny_model(tiny_config: Callable[..., RopeGPT2Config]) -> Callable[..., RopeGPT2ForCausalLM]:
    """A model in evaluation mode; the same weights whenever the shapes are the same, biases and norms included."""

    def build(**changes: Any) -> RopeGPT2ForCausalLM:
        model = RopeGPT2ForCausalLM(tiny_config(**changes))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator) - parameter * (parameter.ndim > 1))
        return model.eval()

    return build


@pytest.fixture
def input_ids() -> torch.Tensor:
    """[2, 12] tokens, none of them padding."""
    return torch.randint(1, 97, (2, 12), generator=torch.Generator().manual_seed(1))
