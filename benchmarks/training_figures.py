"""What training.py makes of seconds: FLOPs of a token, FLOP/s of matrix products, ratios, their interval, and tables.

Counted for each token is what a training step needs of a transformer's matrix products (Chowdhery et al. 2022, appendix B):

    FLOPs = 6 W + 12 D E L / 2

with W the weights of all linear layers and of the head (2 FLOPs each forward, 4 backward), D layers, E width, L tokens in a sequence, half
of which a causal model attends to on average. Embeddings, norms, activations, softmax, clipping and optimizer count nothing, nor
does the other half of the score matrix where an implementation computes it.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rich.table import Table
from scipy import stats
from trainings import MUON, OURS, Shape

from rope_gpt2.training.precision import has_bfloat16

RESAMPLES = 9999
FIRST_LOSS = 0.5  # nats that a first loss may differ from that of even guesses; a random model's logits are near 0, not 0


def weights_in_products(shape: Shape) -> int:
    """Weights of the linear layers (4 E² in attention, 8 E² in the MLP) and of the head."""
    return 12 * shape.n_layer * shape.n_embd**2 + shape.vocab_size * shape.n_embd


def flops_per_token(shape: Shape) -> float:
    """FLOPs of a training step, for each of its tokens."""
    return 6 * weights_in_products(shape) + 12 * shape.n_layer * shape.n_embd * shape.length / 2


class MatrixProducts:
    """Products of square matrices and of the shapes that training has: for each, the best rate of all that were timed.

    They are in bfloat16, or in float32 on a CPU that has no instructions for it.

    Args:
        shape: of the training.
        device: "cpu" or "cuda".
    """

    def __init__(self, shape: Shape, device: str) -> None:
        tokens, width, vocabulary = shape.batch_size * shape.length, shape.n_embd, shape.vocab_size
        largest = 8192 if device == "cuda" else 4096
        sizes = [(size, size, size) for size in (largest // 4, largest // 2, largest)]
        sizes += [(tokens, width, 3 * width), (tokens, width, 4 * width), (tokens, 4 * width, width), (tokens, width, vocabulary)]
        sizes += [(width, tokens, 4 * width), (vocabulary, tokens, width)]  # gradients of weights
        self._device = device
        self.dtype = torch.bfloat16 if device == "cuda" or has_bfloat16() else torch.float32
        self.flops_per_second: dict[tuple[int, int, int], float] = dict.fromkeys(sizes, 0.0)

    @property
    def best(self) -> float:
        """FLOP/s of the fastest shape."""
        return max(self.flops_per_second.values())

    def run(self, repeats: int = 2) -> None:
        """Time each shape so many times, after one to warm up."""
        for rows, inner, columns in self.flops_per_second:
            left, right, product = (
                torch.ones(size, dtype=self.dtype, device=self._device) for size in ((rows, inner), (inner, columns), (rows, columns))
            )
            if self._device == "cuda":  # equal numbers would draw less power there, and let the clock rise
                left.normal_()
                right.normal_()
            for repeat in range(repeats + 1):
                seconds = self._time(left, right, product)
                if repeat:
                    rate = 2 * rows * inner * columns / seconds
                    self.flops_per_second[rows, inner, columns] = max(self.flops_per_second[rows, inner, columns], rate)

    def _time(self, left: torch.Tensor, right: torch.Tensor, product: torch.Tensor) -> float:
        if self._device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        torch.mm(left, right, out=product)
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started


def ratio_of_turns(theirs: Sequence[float], mine: Sequence[float]) -> dict[str, Any]:
    """Their seconds over mine turn by turn, and their median."""
    found = [their / my for their, my in zip(theirs, mine, strict=True)]
    return {"ratio": statistics.median(found), "ratios": found}


def cost_of_rotation(rotary: Sequence[float], learned: Sequence[float]) -> dict[str, Any]:
    """The fraction of throughput that rotation costs: 1 less the median ratio of neighbouring turns, with a 95 % bootstrap interval.

    The interval covers jitter and drift; what another start of both processes would change (where their memory lies) it does not see.

    Args:
        rotary, learned: seconds of as many steps with either, turn by turn.
    """
    ratio = ratio_of_turns(learned, rotary)
    interval: list[float] | None = None
    if len(rotary) > 1 and len(set(ratio["ratios"])) > 1:
        found = stats.bootstrap((ratio["ratios"],), np.median, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0))
        interval = [1 - float(found.confidence_interval.high), 1 - float(found.confidence_interval.low)]
    return {"cost": 1 - ratio["ratio"], "interval_95": interval, "ratios": ratio["ratios"], "rotary": rotary, "learned": learned}


def ratio_table(report: Mapping[str, Any], title: str) -> Table:
    """Ratios, each with the range of its turns, the share of a matrix product and the cost of rotation.

    Args:
        report: as training.py writes it to its JSON.
        title: stands above the table.
    """
    table = Table("", "", "", title=title, title_justify="left", show_header=False)
    for name, ratio in report["ratios"].items():
        spread = f"{min(ratio['ratios']):.2f} to {max(ratio['ratios']):.2f} in {len(ratio['ratios'])} turns"
        table.add_row(f"tokens/s, {OURS} over {name}", f"{ratio['ratio']:.2f}×", spread)
    for name, share in report["share_of_product"].items():
        table.add_row(
            f"FLOP/s, {name} over a {report['product']['dtype']} matrix product",
            f"{share:.1%}",
            f"of {report['product']['best'] / 1e9:.0f} GFLOP/s",
        )
    rotation = report["rotation"]
    if rotation:
        low, high = rotation["interval_95"] or (float("nan"), float("nan"))
        note = f"95 %: {low:.2%} to {high:.2%}, {len(rotation['ratios'])} pairs of turns"
        table.add_row("throughput that rotation costs against learned positions", f"{rotation['cost']:.2%}", note)
    return table


def speed_table(report: Mapping[str, Any]) -> Table:
    """Tokens a second, seconds of a step and of the first (which compiles), peak memory, first and last loss of each training.

    A first loss far from that of even guesses is marked. transformers divides its by all labels of a sequence, while the first of them is
    no target: with L tokens its loss is 1/L lower than ours.
    """
    table = Table("training")
    for header in ("tokens/s", "s/step", "first step", "peak memory", "first loss", "last"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, result in report["trainings"].items():
        peak, loss = result["peak_memory"], result["first_loss"]
        table.add_row(
            name,
            f"{result['tokens_per_second']:.0f}",
            f"{result['seconds_per_step']:.3f}",
            f"{result['seconds_first_step']:.1f} s",
            "" if peak is None else f"{peak / 2**20:.0f} MiB",
            f"{loss:.3f}" + ("" if abs(loss - report["loss_of_even_guesses"]) < FIRST_LOSS else " (!)"),
            f"{result['last_loss']:.3f}",
        )
    return table


def shares_of_product(speeds: Mapping[str, float], shape: Shape, product: float) -> dict[str, float]:
    """Model FLOPs of a second over those of a matrix product, of our trainings."""
    return {name: speeds[name] * flops_per_token(shape) / product for name in (OURS, MUON) if name in speeds}
