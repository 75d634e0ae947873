"""How fast a few-shot evaluation could be if all its arithmetic ran at the speed of one large matrix product.

Counted is what the plain forward pass of a transformer does to queries whose demonstrations are encoded once:

    FLOPs = 2 W T + 4 D E A + 2 E V n + (the same 2 W P + 2 D E P (P + 1) for the demonstrations, once)

with W the weights of all linear layers of the body, T the tokens of all n queries, D layers, E width, V vocabulary, P the tokens of the
demonstrations, and A the pairs of a query's token and a token it attends to (a query of Q tokens has Q P + Q (Q + 1) / 2). One
position of each query goes through the head, for the normaliser of its log-probabilities. Embeddings, norms, activations and softmax
count nothing, nor do tokenization, files and report. The limit is n times the measured FLOP/s of a square product, divided by FLOPs.

It is no bound on cleverness: who computes less than the plain pass (the last layer at one position only, the first layer once for each
different token) can come nearer to it, or pass it.
"""

import time
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

SIZE = 2048  # rows and columns of the square product


def count_flops(model: PreTrainedModel, query_lengths: Sequence[int], prefix_length: int) -> float:
    """FLOPs of all queries and, once, of the demonstrations.

    Args:
        model: a decoder with one head over its vocabulary.
        query_lengths: tokens of each query, up to the place of the label word.
        prefix_length: tokens of the demonstrations, 0 for none.
    """
    config = model.config
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    weights = sum(weight.numel() for weight in model.base_model.parameters() if weight.ndim == 2 and id(weight) not in embeddings)
    pairs = sum(length * prefix_length + length * (length + 1) / 2 for length in query_lengths)
    pairs += prefix_length * (prefix_length + 1) / 2
    body = 2 * weights * (sum(query_lengths) + prefix_length)
    attention = 4 * config.num_hidden_layers * config.hidden_size * pairs
    head = 2 * config.hidden_size * config.vocab_size * len(query_lengths)
    return float(body + attention + head)


def measure_matrix_product(dtype: torch.dtype, device: torch.device, repeats: int = 7) -> float:
    """FLOP/s of a product of two square matrices, the fastest of some repeats after one to warm up."""
    left, right = (torch.randn(SIZE, SIZE, device=device).to(dtype) for _ in range(2))
    fastest = float("inf")
    for repeat in range(repeats + 1):
        started = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if repeat:
            fastest = min(fastest, time.perf_counter() - started)
    return 2 * SIZE**3 / fastest
