"""Where and how precisely a command computes."""

import sys

import torch

from rope_gpt2.errors import InputError
from rope_gpt2.training.option_checks import NO_GPU
from rope_gpt2.training.precision import FLOAT32, bearable_precision, has_bfloat16


def choose_device(device: str, precision: str) -> tuple[str, str]:
    """(accelerator, precision) of Lightning's Trainer: auto takes a GPU where there is one, and bfloat16 where it is computed with.

    bfloat16 by name is obeyed on a CPU without instructions for it, and a line on standard error says that it takes long there.

    Raises:
        InputError: if a GPU was asked for and there is none.
    """
    if device == "gpu" and not torch.cuda.is_available():
        raise InputError(f"--device gpu: {NO_GPU}, take --device cpu")
    accelerator = device if device != "auto" else ("gpu" if torch.cuda.is_available() else "cpu")
    if precision == "auto":
        precision = "bf16-true" if (torch.cuda.is_bf16_supported() if accelerator == "gpu" else has_bfloat16()) else FLOAT32
    elif bearable_precision(precision, accelerator) != precision:
        print(
            f"--precision {precision}: this CPU has no instructions for bfloat16 and is many times slower in it; "
            f"--precision {FLOAT32} is faster",
            file=sys.stderr,
        )
    return accelerator, precision
