"""The mathematics of RoPE: angles from positions, and the rotation of queries and keys (Su et al. 2021, section 3).

A pair of dimensions (i, i + R/2) of a head is turned by the angle position * theta_i; the product of a rotated query and a
rotated key then depends on the difference of their positions alone (eq. 16). Dimensions are paired as halves, as in GPT-NeoX,
not interleaved as in the paper's eq. 15 or Llama's own code: the two differ by a fixed permutation of the head's dimensions.

Let B be batch, N heads, L length, H head dimension, R rotary dimension (R <= H, even).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update


class RopeGPT2RotaryEmbedding(nn.Module):
    """Cosines and sines of the angles position * inv_freq, for every rope type of transformers.

    transformers finds this class by `RotaryEmbedding` in its name and by the buffer `original_inv_freq`, and computes
    `inv_freq` again on loading; without either, `from_pretrained` would leave it uninitialised memory.
    """

    inv_freq: Tensor
    original_inv_freq: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.rope_type: str = config.rope_parameters["rope_type"]
        self.max_seq_len_cached = config.n_positions
        self.original_max_seq_len = config.n_positions
        init_fn = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        inv_freq, self.attention_scaling = init_fn(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)  # [R / 2], radians per position
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> "RopeGPT2RotaryEmbedding":
        # `model.to(torch.bfloat16)` would round the frequencies, and no cast brings them back: they move, and stay float32.
        exact = {name: buffer for name, buffer in self.named_buffers(recurse=False) if buffer.dtype == torch.float32}
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            moved = getattr(self, name)
            if moved.dtype != torch.float32:
                setattr(self, name, buffer.to(moved.device))
        return self

    @staticmethod
    def compute_default_rope_parameters(config: Any, device: Any = None, **_: Any) -> tuple[Tensor, float]:
        """theta_i = base^(-2i / R), i = 0 .. R/2 - 1, radians per position (Su et al. 2021, section 3.2.2)."""
        rotary_dim = int(config.head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))
        exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=device) / rotary_dim
        return config.rope_parameters["rope_theta"] ** -exponents, 1.0

    @torch.no_grad()
    @dynamic_rope_update  # dynamic and longrope choose their frequencies by the largest position seen
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Angles to (cos, sin).

        Args:
            x: any tensor on the model's device.
            position_ids: [B or 1, L], integer positions in tokens.

        Returns:
            cos, sin: [B or 1, L, R] float32, whatever the dtype of the model: bf16 tables lose far positions.
        """
        angles = position_ids[..., None].float() * self.inv_freq.to(device=x.device, dtype=torch.float32)
        angles = torch.cat((angles, angles), dim=-1)
        if self.rope_type == "dynamic":  # transformers would go on with the frequencies of the longest pass so far
            self.inv_freq, self.max_seq_len_cached = self.original_inv_freq.clone(), self.original_max_seq_len
        return angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first R dimensions of each head (Su et al. 2021, eq. 34; halves paired as in GPT-NeoX).

    Args:
        x: [B, N, L, H] queries or keys, any float dtype.
        cos, sin: [B or 1, 1, L, R] float32; the last H - R dimensions of `x` pass through.

    Returns:
        [B, N, L, H] in the promoted dtype of x and cos (float32 for half-precision x); the caller casts back.
    """
    rotary_dim, half = cos.shape[-1], cos.shape[-1] // 2
    turned = x[..., :rotary_dim]
    first, second = turned[..., :half], turned[..., half:]
    if torch.is_grad_enabled():
        turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    else:  # the same to the bit in three passes over memory instead of five; autograd has no use for results written in place
        turned = turned * cos
        turned[..., :half] -= second * sin[..., :half]
        turned[..., half:] += first * sin[..., half:]
    return turned if rotary_dim == x.shape[-1] else torch.cat((turned, x[..., rotary_dim:]), dim=-1)
