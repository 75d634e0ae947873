"""Where and how precisely a command computes."""

import torch

from rope_gpt2.errors import InputError


def choose_device(device: str, precision: str) -> tuple[str, str]:
    """(accelerator, precision) of Lightning's Trainer: auto takes a GPU where there is one, and bfloat16 where it is computed with.

    Raises:
        InputError: if a GPU was asked for and there is none.
    """
    if device == "gpu" and not torch.cuda.is_available():
        raise InputError("--device gpu: this machine has no GPU that torch can use; take --device cpu, or install torch with CUDA")
    accelerator = device if device != "auto" else ("gpu" if torch.cuda.is_available() else "cpu")
    if precision == "auto":
        on_cpu = torch.backends.mkldnn.is_available() and has_bfloat16()
        precision = "bf16-true" if (torch.cuda.is_bf16_supported() if accelerator == "gpu" else on_cpu) else "32-true"
    return accelerator, precision


def has_bfloat16() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 by instructions of its own (AMX or AVX-512-BF16)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # torch has no public name for it
