"""The mathematics of RoPE: angles from positions, and the rotation of queries and keys (Su et al. 2021, section 3).

A pair of dimensions (i, i + R/2) of a head is turned by the angle position * theta_i; the product of a rotated query and a
rotated key then depends on the difference of their positions alone (eq. 16). Dimensions are paired as halves, as in GPT-NeoX,
not interleaved as in the paper's eq. 15 or Llama's own code: the two differ by a fixed permutation of the head's dimensions.

Let B be batch, N heads, L length, H head dimension, R rotary dimension (R <= H, even).
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update

CHUNK = 2**17  # elements for each thread: few enough for a core's cache, many enough to hide the cost of a call


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
            with torch.inference_mode(False):  # a buffer that is made in a validation is broadcast by DDP in the training that follows
                self.inv_freq, self.max_seq_len_cached = self.original_inv_freq.clone(), self.original_max_seq_len
        return angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first R dimensions of each head (Su et al. 2021, eq. 34; halves paired as in GPT-NeoX).

    Forward and backward keep nothing but the tables: the gradient of a rotation is the rotation by the negative angle.

    Args:
        x: [B, N, L, H] queries or keys, any float dtype, any strides.
        cos, sin: float32, of a shape that broadcasts over x: [B or 1, 1, L, R], or [L, 1, R] for x as [B, L, N, H]. The last H - R
            dimensions of x pass through.

    Returns:
        The shape and dtype of x; computed in float32 (float64 for such x) and rounded once.
    """
    if _needs_formula(x, cos, sin):
        return _rotate_by_formula(x, cos, sin)
    if torch.is_grad_enabled() and x.requires_grad:
        return cast("Tensor", _Rotation.apply(x, cos, sin))
    if x.device.type == "cpu" and x.dim() == 4 and x.numel() > CHUNK:
        return _rotate_in_chunks(x, cos, sin)
    return _rotate_at_once(x, cos, sin)


def _needs_formula(x: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether somebody reads the operations or replaces them: compilers, tracers, torch.func, tensor subclasses, learned angles."""
    return (
        torch.compiler.is_compiling()  # inductor makes one pass of the formula, forward and backward
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or type(x) is not Tensor
        or cos.requires_grad
        or sin.requires_grad
    )


def _rotate_by_formula(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x cos + rotate_half(x) sin, half by half and cast before they are joined: inductor then writes each half in one pass.

    Halves are split off, not sliced: the gradient of a split is joined in one pass, that of slices is padded, added and read element by
    element. Compiled attention, forward and backward, takes less time so than with the formula as it is written (RESULTS.md, Speed).
    """
    rotary_dim, half = cos.shape[-1], cos.shape[-1] // 2
    first, second, *rest = x.split([half, half, x.shape[-1] - rotary_dim] if rotary_dim < x.shape[-1] else half, dim=-1)
    turned = [first * cos[..., :half] - second * sin[..., :half], second * cos[..., half:] + first * sin[..., half:]]
    return torch.cat([part.to(x.dtype) for part in turned] + rest, dim=-1)


class _Rotation(torch.autograd.Function):
    """`rotate` as one node of the graph. Its backward is `rotate` again, so that second derivatives are right as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return rotate(x, cos, sin)  # gradients are off in here

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return rotate(upstream[0], cos, -sin), None, None


def _rotate_at_once(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The formula to the bit, in fewer passes over memory, for results that autograd does not see."""
    rotary_dim, half = cos.shape[-1], cos.shape[-1] // 2
    turned = x[..., :rotary_dim] * cos
    turned[..., :half] -= x[..., half:rotary_dim] * sin[..., :half]
    turned[..., half:] += x[..., :half] * sin[..., half:]
    turned = turned.to(x.dtype)
    return turned if rotary_dim == x.shape[-1] else torch.cat((turned, x[..., rotary_dim:]), dim=-1)


def _rotate_in_chunks(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The formula to the bit, a chunk at a time, so that all passes but the first and the last stay in the processor's cache."""
    result = torch.empty_like(x)  # the memory order of x
    rotary_dim, half = cos.shape[-1], cos.shape[-1] // 2
    result[..., rotary_dim:] = x[..., rotary_dim:]
    signed = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)  # of rotate_half, whose first half is negative
    parts = [x[..., :rotary_dim], result[..., :rotary_dim], *(table.expand(*x.shape[:-1], -1) for table in (cos, signed))]
    if cos.shape[-2] == 1:
        parts = [part.transpose(1, 2) for part in parts]  # (batch, head, seq, rotary_dim)
    batch, heads, length, _ = parts[0].shape
    rows = CHUNK * torch.get_num_threads() // rotary_dim
    seqs = min(length, max(1, rows // heads))
    batches = min(batch, max(1, rows // (heads * seqs)))
    room = _Room(parts[0][:batches, :, :seqs], cos.dtype)
    for block in zip(*(part.split(batches) for part in parts), strict=True):
        for chunk in zip(*(part.split(seqs, dim=2) for part in block), strict=True):
            if chunk[0].shape != room.shape:  # the last ones are smaller
                room = _Room(chunk[0], cos.dtype)
            room.rotate(*chunk)
    return result


class _Room:
    """Buffers for the passes over one chunk.

    All have (seq, rotary_dim) innermost like the tables, so that torch runs over both as one long row. Casts are made on whole buffers,
    where torch has a fast loop for them.
    """

    def __init__(self, chunk: Tensor, dtype: torch.dtype) -> None:
        dtype = torch.promote_types(chunk.dtype, dtype)
        self.shape = chunk.shape
        self.turned, self.crossed = (chunk.new_empty(self.shape, dtype=dtype) for _ in range(2))
        self.halves = self.turned.split(self.shape[-1] // 2, dim=-1)
        self.crossed_halves = self.crossed.split(self.shape[-1] // 2, dim=-1)
        self.staged = None if dtype == chunk.dtype else chunk.new_empty(self.shape)

    def rotate(self, x: Tensor, result: Tensor, cos: Tensor, signed: Tensor) -> None:
        """Rotate x into result; `signed` holds the sines, those of the first half negative."""
        size = cos.shape[-1] // 2
        first, second = x.split(size, dim=-1) if self.staged is None else self.halves
        if self.staged is not None:
            x = self.turned.copy_(self.staged.copy_(x))
        left, right = signed.split(size, dim=-1)
        torch.mul(second, left, out=self.crossed_halves[0])
        torch.mul(first, right, out=self.crossed_halves[1])
        torch.mul(x, cos, out=self.turned).add_(self.crossed)
        result.copy_(self.turned if self.staged is None else self.staged.copy_(self.turned))
