"""torch.compile for training: whether it pays, and whether its gradients are those of the code that it was compiled from.

Compilers make mistakes, too, and training on wrong gradients shows late or never.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from rope_gpt2.errors import InputError
from rope_gpt2.sequences import SequenceBatch

PAYS = 300  # optimizer steps
OPTIONS = {"cpp.use_decompose_tanh": True}  # on a CPU, GELU's tanh by one exponential: its kernels take half the time
ALLOWED = 0.05  # of a matrix's gradient, by its norm: joined kernels round bfloat16 in other places, 0.003 to 0.005 in the recipes
TINY = 1e-30  # divides a gap where no gradient is


def compiling_pays(device: str, steps: float) -> bool:
    """Some 20 s of compiling against a third to a half of each step: worth it where a fit is not over in a minute or two.

    Args:
        device: kind of the device that is trained on; a CPU needs a C++ compiler, which is looked for.
        steps: optimizer steps of the fit.
    """
    return steps >= PAYS and (device == "cuda" or shutil.which("c++") is not None)


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compile one by one: the mask is then made outside, found to be plain causal, and left out (fused causal attention)."""
    for block in blocks:
        block.compile(options=OPTIONS)


def check_compiled(loss: Callable[[SequenceBatch], Tensor], batch: SequenceBatch, parameters: Sequence[Tensor], random: bool) -> None:
    """Compare the gradients of one batch, compiled and not; nothing is changed but the state of torch's random numbers.

    Uncompiled, sequences go one by one, so that this takes no more memory than compiled steps do.

    Args:
        loss: of a batch: a sum over its tokens, so that the losses of its sequences add up to it. Compiled code is in it.
        batch: the first of the fit.
        parameters: those that learn; the matrices among them are compared.
        random: the loss draws dropout masks, others in each call: the difference of two uncompiled calls is then allowed, twice.

    Raises:
        InputError: if they differ by more than rounding, or are no numbers where uncompiled ones are.
    """
    matrices = [parameter for parameter in parameters if parameter.dim() > 1]
    compiled = _gradients(loss, [batch], matrices)
    with torch.compiler.set_stance("force_eager"):
        eager = _gradients(loss, _sequences(batch), matrices)
        allowed = ALLOWED + (2 * _gap(_gradients(loss, _sequences(batch), matrices), eager) if random else 0.0)
    found = _gap(compiled, eager)
    if all(bool(gradient.isfinite().all()) for gradient in eager) and not found <= allowed:
        raise InputError(
            f"torch.compile: gradients of the first batch are {found:.0%} from those of uncompiled code ({allowed:.0%} can be rounding"
            f"{' and dropout' if random else ''}), a mistake of the compiler; take --model.compile false, or another compiler (CXX=clang++)"
        )


def _gradients(loss: Callable[[SequenceBatch], Tensor], batches: Iterable[SequenceBatch], of: list[Tensor]) -> list[Tensor]:
    """Gradients of the summed losses; `.grad` and the hooks of distributed training are left alone."""
    total: list[Tensor] = []
    for batch in batches:
        found = torch.autograd.grad(loss(batch), of)
        total = [before + part for before, part in zip(total, found, strict=True)] if total else list(found)
    return total


def _gap(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """The largest norm of a difference, as a share of the second one's norm; NaN if any is.

    A matrix that hardly has a gradient, below a hundredth of the mean one for each weight, counts as if it had that.
    """
    whole = torch.cat([gradient.flatten() for gradient in second]).norm() / sum(gradient.numel() for gradient in second) ** 0.5
    gaps = [(a - b).norm() / b.norm().clamp(min=float(0.01 * whole * b.numel() ** 0.5) + TINY) for a, b in zip(first, second, strict=True)]
    return float(torch.stack(gaps).max())  # a maximum with NaN among it is NaN


def _sequences(batch: SequenceBatch) -> Iterator[SequenceBatch]:
    """One by one."""
    for row in range(len(batch.input_ids)):
        yield SequenceBatch._make(None if part is None else part[row : row + 1] for part in batch)
