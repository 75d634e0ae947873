"""Running `rope-gpt2 convert` in tests, and reading what it writes."""

from pathlib import Path

import torch
from running import call
from safetensors.torch import load_file

from rope_gpt2 import RopeGPT2Config, RopeGPT2ForCausalLM
from rope_gpt2.training.checkpoints import save_pretrained

SHAPE = {"vocab_size": 300, "n_positions": 128, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}


def make_rope(folder: Path, tokenizer, **changes) -> Path:
    """Store a RoPE GPT-2 with random weights; changes are to its configuration."""
    torch.manual_seed(0)
    save_pretrained(RopeGPT2ForCausalLM(RopeGPT2Config(**SHAPE, initializer_range=0.2, **changes)), tokenizer, folder)
    return folder


def convert(*arguments: str | Path) -> None:
    """The command, which must succeed."""
    assert call(["convert", *map(str, arguments)]) == 0


def refused(capsys, *arguments: str | Path) -> str:
    """The command, which must end in exit code 2 after one sentence; returns the sentence."""
    capsys.readouterr()
    assert call(["convert", *map(str, arguments)]) == 2
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return sentence


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Name → tensor, as stored."""
    return load_file(folder / "model.safetensors")
