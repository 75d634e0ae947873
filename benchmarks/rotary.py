"""The rotation of queries and keys, forward and backward, against transformers, torchtune and rotary-embedding-torch.

    python benchmarks/rotary.py            # about ten minutes; --quick: one

All get the same queries and keys, as a fused projection leaves them (strided views of [B, L, 3 N H]), and the same upstream gradients;
angles are computed before the clock runs. Each is used as its models use it: transformers with tables in the dtype of the model, torchtune
with positions before heads, rotary-embedding-torch with its cached angles. Ours and transformers' run eager and compiled. Before the timing
all are checked to agree in float32, to 1e-5, outputs and gradients; torchtune and rotary-embedding-torch turn neighbouring dimensions
instead of halves, and get theirs permuted. The implementations take turns; a ratio is the median of the turns' ratios, above 1 where
ours is faster.

Let B be batch, N heads, L length, H head dimension; every case has the same B * L tokens.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine
from rich.console import Console
from rich.table import Table
from script import run_script
from torch import Tensor
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb  # noqa: TID251  # the peer

from rope_gpt2.errors import InputError
from rope_gpt2.model.configuration import RopeGPT2Config
from rope_gpt2.model.rotary import RopeGPT2RotaryEmbedding, rotate

Pair = tuple[Tensor, Tensor]
Rotation = Callable[[Tensor, Tensor], Pair]  # queries and keys [B, N, L, H] to the same, rotated
PEERS = ("transformers", "transformers compiled", "torchtune", "rotary-embedding-torch")
NEIGHBOURS = ("torchtune", "rotary-embedding-torch")  # turn (2i, 2i + 1), where the others turn (i, i + H/2)
PACKAGES = ("torch", "transformers", "torchtune", "rotary-embedding-torch")
CONSOLE = Console(width=None if sys.stdout.isatty() else 150)


@dataclass(frozen=True, slots=True)
class Case:
    """What is rotated, and the gradients that come back: [B, N, L, H] each."""

    query: Tensor
    key: Tensor
    upstream: Pair


def build_parser() -> argparse.ArgumentParser:
    """The options; every one has a default."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--tokens", type=int, default=8192, metavar="N", help="tokens of a batch; the batch is this divided by the length")
    add("--lengths", type=int, nargs="+", default=[128, 512, 2048, 8192], metavar="N", help="tokens of a sequence")
    add("--heads", type=int, nargs="+", default=[4, 12], metavar="N")
    add("--head-dim", type=int, default=64, metavar="N")
    add("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    add("--turns", type=int, default=100, metavar="N", help="turns of each implementation in each case")
    add("--quick", action="store_true", help="4 heads, lengths 128 and 2048, 15 turns")
    add("--output", default="results/rotary.json", metavar="JSON")
    return parser


def make_case(batch: int, heads: int, length: int, head_dim: int, dtype: torch.dtype) -> Case:
    """Normally distributed queries and keys in the strides that a fused projection gives them, and gradients in attention's."""
    generator = torch.Generator().manual_seed(0)
    fused = torch.randn(batch, length, 3 * heads, head_dim, generator=generator).to(dtype)
    query, key, _ = fused.transpose(1, 2).split(heads, dim=1)
    upstream = torch.randn(2, batch, length, heads, head_dim, generator=generator).to(dtype).transpose(2, 3)
    return Case(query, key, (upstream[0], upstream[1]))


def build_rotations(case: Case) -> dict[str, Rotation]:
    """Every implementation by its name, for the shape and dtype of the case, all with our frequencies."""
    length, head_dim = case.query.shape[-2:]
    rotary = RopeGPT2RotaryEmbedding(RopeGPT2Config(n_embd=head_dim, n_head=1, n_positions=length))
    cos, sin = rotary(case.query, torch.arange(length)[None])  # (1, seq, head_dim)
    tables, cast_tables = (cos[:, None], sin[:, None]), (cos.to(case.query.dtype), sin.to(case.query.dtype))

    def ours(query: Tensor, key: Tensor) -> Pair:
        return rotate(query, *tables), rotate(key, *tables)

    def transformers(query: Tensor, key: Tensor) -> Pair:
        return apply_rotary_pos_emb(query, key, *cast_tables)

    return {
        "ours": ours,
        "ours compiled": torch.compile(ours, dynamic=False),
        "transformers": transformers,
        "transformers compiled": torch.compile(transformers, dynamic=False),
        "torchtune": build_torchtune(length, rotary.inv_freq),
        "rotary-embedding-torch": build_rotary_embedding_torch(rotary.inv_freq),
    }


def build_torchtune(length: int, inv_freq: Tensor) -> Rotation:
    """torchtune's RotaryPositionalEmbeddings, from its file alone: the package cannot be imported without torchao, which this needs not."""
    found = importlib.util.find_spec("torchtune")
    if found is None or found.origin is None:
        raise InputError("torchtune is not installed; install it: pip install -e .[bench]")
    spec = importlib.util.spec_from_file_location(
        "torchtune_position_embeddings", Path(found.origin).parent / "modules" / "position_embeddings.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    embedding = module.RotaryPositionalEmbeddings(2 * len(inv_freq), max_seq_len=length)
    embedding.theta = inv_freq  # it rounds them otherwise, which 8192 positions make visible
    embedding.build_rope_cache(length)

    def rotation(query: Tensor, key: Tensor) -> Pair:
        turned = (embedding(part.transpose(1, 2)).transpose(1, 2) for part in (query, key))  # it takes (batch, seq, head, head_dim)
        return next(turned), next(turned)

    return rotation


def build_rotary_embedding_torch(inv_freq: Tensor) -> Rotation:
    """rotary-embedding-torch's RotaryEmbedding with its cache of angles."""
    try:
        from rotary_embedding_torch import RotaryEmbedding
    except ImportError as error:
        raise InputError(f"rotary-embedding-torch cannot be imported ({error}); install it: pip install -e .[bench]") from error
    embedding = RotaryEmbedding(2 * len(inv_freq), custom_freqs=inv_freq.clone())

    def rotation(query: Tensor, key: Tensor) -> Pair:
        return embedding.rotate_queries_or_keys(query), embedding.rotate_queries_or_keys(key)

    return rotation


def run_both_ways(rotation: Rotation, case: Case) -> tuple[Tensor, ...]:
    """Outputs and gradients: rotated query and key, gradients of query and key."""
    leaves = case.query.detach().requires_grad_(), case.key.detach().requires_grad_()
    outputs = rotation(*leaves)
    return (*outputs, *torch.autograd.grad(outputs, leaves, case.upstream))


def check_agreement(rotations: dict[str, Rotation], case: Case) -> dict[str, float]:
    """Largest difference of each implementation from ours, over outputs and gradients.

    Raises:
        InputError: if one exceeds 1e-5 in float32.
    """
    ours, differences = run_both_ways(rotations["ours"], case), {}
    for name, rotation in rotations.items():
        theirs = run_both_ways(rotation, pair_neighbours(case)) if name in NEIGHBOURS else run_both_ways(rotation, case)
        if name in NEIGHBOURS:
            theirs = tuple(part.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2) for part in theirs)
        differences[name] = max((mine.float() - their.float()).abs().max().item() for mine, their in zip(ours, theirs, strict=True))
        if case.query.dtype == torch.float32 and differences[name] > 1e-5:
            raise InputError(f"all rotations must agree to 1e-5, {name} differs by {differences[name]:.1e}; compare with another version")
    return differences


def pair_neighbours(case: Case) -> Case:
    """The case with dimensions i and i + H/2 brought to 2i and 2i + 1."""
    parts = (case.query, case.key, *case.upstream)
    query, key, *upstream = (part.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2) for part in parts)
    return Case(query, key, (upstream[0], upstream[1]))


def time_turns(rotations: dict[str, Rotation], case: Case, turns: int) -> dict[str, list[float]]:
    """Seconds of forward and backward, turn by turn, after two turns that are not counted; who begins changes from turn to turn."""
    names = list(rotations)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns + 2):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started = time.perf_counter()
            run_both_ways(rotations[name], case)
            if turn >= 2:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def compare(batch: int, heads: int, length: int, head_dim: int, dtype: str, turns: int) -> dict[str, Any]:
    """One case: agreement, median milliseconds, and the ratios of each peer to ours eager, ours compiled, and the faster of the two."""
    torch.compiler.reset()  # or the ninth shape of a function would run eager
    case = make_case(batch, heads, length, head_dim, getattr(torch, dtype))
    rotations = build_rotations(case)
    differences = check_agreement(rotations, case)
    seconds = time_turns(rotations, case, turns)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    best = min(("ours", "ours compiled"), key=lambda name: medians[name])
    return {
        "dtype": dtype,
        "batch": batch,
        "heads": heads,
        "length": length,
        "best": best,
        "milliseconds": {name: 1000 * median for name, median in medians.items()},
        "ratios": {
            form: {peer: statistics.median(b / a for a, b in zip(seconds[mine], seconds[peer], strict=True)) for peer in PEERS}
            for form, mine in (("eager", "ours"), ("compiled", "ours compiled"), ("best", best))
        },
        "largest_difference": differences,
    }


def ratio_table(results: Sequence[dict[str, Any]], title: str) -> Table:
    """One line for each case: our milliseconds, eager to eager, compiled to compiled, and our best form to every peer."""
    table = Table(title=title, title_justify="left")
    headers = ("dtype", "heads", "length", "eager ms", "compiled ms", "eager / eager", "compiled / compiled", "best is")
    headers += tuple(f"{peer} / best" for peer in PEERS)
    for header in headers:
        table.add_column(header, justify="left" if header in ("dtype", "best") else "right")
    for result in results:
        milliseconds, ratios = result["milliseconds"], result["ratios"]
        table.add_row(
            result["dtype"],
            str(result["heads"]),
            str(result["length"]),
            *(f"{milliseconds[name]:.2f}" for name in ("ours", "ours compiled")),
            f"{ratios['eager']['transformers']:.2f}×",
            f"{ratios['compiled']['transformers compiled']:.2f}×",
            "compiled" if result["best"] == "ours compiled" else "eager",
            *(f"{ratios['best'][peer]:.2f}×" for peer in PEERS),
        )
    return table


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark and return its exit code."""
    options = build_parser().parse_args(list(arguments))
    if options.quick:
        options.heads, options.lengths, options.turns = [4], [128, 2048], 15
    results = []
    for dtype in options.dtype:
        for heads in options.heads:
            for length in options.lengths:
                batch = max(1, options.tokens // length)
                results.append(compare(batch, heads, length, options.head_dim, dtype, options.turns))
    CONSOLE.print(
        ratio_table(results, f"Rotation of queries and keys, forward and backward, {options.tokens} tokens of {options.head_dim}")
    )
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    report = {"options": vars(options), "machine": describe_machine(PACKAGES), "results": results}
    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    CONSOLE.print(f"{output} written", highlight=False)
    return 0


if __name__ == "__main__":
    run_script(main)
