"""What the tests of convert share: a small tokenizer, and folders of a GPT-2 and of a RoPE GPT-2."""

from pathlib import Path

import pytest
import torch
from converting import SHAPE, make_rope
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from rope_gpt2.model.tokenizer import train_tokenizer
from rope_gpt2.training.checkpoints import save_pretrained


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """Of hardly a word."""
    return train_tokenizer(["a fine film", "a dull film"], 300)


@pytest.fixture(scope="module")
def gpt2_folder(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock GPT-2, as save_pretrained leaves it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("gpt2") / "gpt2"
    save_pretrained(GPT2LMHeadModel(GPT2Config(**SHAPE, initializer_range=0.2)), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def rope_folder(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoPE GPT-2, as save_pretrained leaves it."""
    return make_rope(tmp_path_factory.mktemp("rope") / "rope", tokenizer)
