"""How precisely this machine computes: in bfloat16 where its processor has instructions for that, else in float32."""

import platform
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

FLOAT32 = "32-true"
HALF_MIXED = ("16", "16-mixed")  # on a CPU Lightning computes in bfloat16 for them
X86 = ("x86_64", "amd64", "i686")


def has_bfloat16() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 by instructions of its own: on x86 AMX or AVX-512-BF16, else what oneDNN takes.

    Without them a product in bfloat16 takes ten to a hundred times as long as in float32 (RESULTS.md, Speed).
    """
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    if platform.machine().lower() not in X86:
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # torch has no public name for either


def bearable_precision(precision: str | int | None, accelerator: str) -> str | int | None:
    """The precision that a run is asked for, or `32-true` in the place of bfloat16 on a CPU that has no instructions for it.

    float32 rounds less and holds all that bfloat16 does, so that a recipe written for bfloat16 trains alike; it takes more memory.
    16-mixed counts as bfloat16, which Lightning takes for it on a CPU.

    Args:
        precision: as Lightning's Trainer takes it.
        accelerator: as Lightning's Trainer takes it; auto is a CPU where torch finds nothing else.
    """
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    return FLOAT32 if on_cpu and (str(precision).startswith("bf16") or str(precision) in HALF_MIXED) and not has_bfloat16() else precision


class Float32ForBfloat16(TorchFunctionMode):
    """While this is entered, `Tensor.bfloat16`, and `Tensor.to` with that dtype, copy a CPU's tensor in float32.

    For code of others that takes bfloat16 whatever the processor, as torch's Muon does for its products (by `to` since torch 2.15).
    """

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call what was called, or make the copy; a copy it must be, as callers write into what they get."""
        named = kwargs or {}
        asks = func is torch.Tensor.bfloat16 or (func is torch.Tensor.to and torch.bfloat16 in (*args[1:2], named.get("dtype")))
        if asks and args[0].device.type == "cpu":
            return args[0].to(torch.float32, copy=True)
        return func(*args, **named)
