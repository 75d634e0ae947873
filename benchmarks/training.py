"""Training throughput: RopeGPT2Module under Lightning against transformers' GPT2LMHeadModel under its Trainer, on the same shape and text.

    python benchmarks/training.py                                   # checkpoints/mini's shape, about 10 minutes on two cores
    python benchmarks/training.py --shape gpt2 --batch-size 8 --device cuda

Each training is a process of its own that stays alive; they take turns (A B C A B C ...), so that drift hits all alike, and a ratio is the
median of the turns' ratios. First steps, in which compilers work, stand apart. Ours is what `train.py fit` runs on a corpus: bf16-mixed,
blocks compiled, the package's packed sequences and loader, with AdamW for the comparison, and with Muon for information. Theirs is the
Trainer at its defaults (float32, AdamW), with bf16=True, and with torch_compile=True as well. No training has dropout, logs, or saves.
On a CPU without bfloat16 instructions all is float32, as `train.py fit` is there: theirs at its defaults, and with torch_compile=True.

What rotation costs is measured in our own loop, with stock GPT-2 in the place of the model, by turns of few steps in pairs (AB BA AB ...).
What share of the hardware our training uses is told against matrix products in its own precision, timed between the turns.

Prints ratios, then tokens a second; writes JSON. Text is generated, or --text FILE.
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine
from pacing import Contestant
from rich.console import Console
from script import run_script
from training_figures import (
    MatrixProducts,
    cost_of_rotation,
    flops_per_token,
    ratio_of_turns,
    ratio_table,
    shares_of_product,
    speed_table,
    weights_in_products,
)
from training_text import pack_text, write_words
from trainings import LEARNED, OURS, TRAININGS, Shape, usual_trainings

from rope_gpt2.corpus.packing import PackedDocuments
from rope_gpt2.errors import InputError

SHAPES = {
    "mini": {"vocab_size": 8192, "n_embd": 256, "n_layer": 4, "n_head": 4, "length": 256, "batch_size": 32},
    "gpt2": {"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "length": 1024, "batch_size": 8},
}
PACKAGES = ("torch", "lightning", "transformers", "accelerate")
CONSOLE = Console(width=None if sys.stdout.isatty() else 120)


def build_parser() -> argparse.ArgumentParser:
    """The options; every one has a default."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--shape", choices=tuple(SHAPES), default="mini", help="checkpoints/mini's, or GPT2Config's own; the next six change it")
    for name in SHAPES["mini"]:
        add(f"--{name.replace('_', '-')}", type=int, metavar="N")
    add("--trainings", nargs="+", choices=tuple(TRAININGS), metavar="NAME", help=f"of {', '.join(TRAININGS)}; by default see above")
    add("--turns", type=int, default=6, metavar="N", help="turns of each training")
    add("--steps", type=int, default=6, metavar="N", help="optimizer steps in a turn; the first, behind the other trainings, is a slow one")
    add("--pairs", type=int, default=40, metavar="N", help="pairs of turns for what rotation costs; 0 leaves it out")
    add("--pair-steps", type=int, default=1, metavar="N", help="optimizer steps in such a turn")
    add("--warm-up", type=int, default=3, metavar="N", help="steps after the first that are not timed either")
    add("--no-compile", action="store_true", help="ours without torch.compile, and the compiled peer left out")
    add("--text", metavar="FILE", help="text to train on, one document a line; by default random words")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--output", default="results/training.json", metavar="JSON")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark and return its exit code."""
    options = build_parser().parse_args(list(arguments))
    check(options)
    options.trainings = options.trainings or usual_trainings(options.device)
    shape = Shape(**{name: getattr(options, name) or size for name, size in SHAPES[options.shape].items()})
    products = MatrixProducts(shape, options.device)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        # empty, so that first steps compile; what one training has compiled another may use
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "compiled")
        path = Path(options.text or Path(folder) / "words.txt")
        if not options.text:
            longest = max(steps_of(name, options) for name in TRAININGS)
            write_words(path, longest * shape.batch_size * shape.length)
        source = pack_text(path, shape, Path(folder) / "tokens")
        with start(options, shape, source) as contestants:
            seconds = take_turns(contestants, products, options)
            pairs = take_pairs(contestants, options)
            for contestant in contestants.values():
                contestant.finish()
    report = {"options": vars(options), "shape": asdict(shape), "machine": describe_machine(PACKAGES, options.device)}
    report |= summarize(shape, options, contestants, seconds, products)
    report["rotation"] = cost_of_rotation(*pairs) | contestants[LEARNED].result if pairs[0] else None
    report["seconds"] = time.perf_counter() - started
    title = f"{shape.n_layer} layers of {shape.n_embd}, {shape.batch_size} × {shape.length} tokens a step, {report['machine']['processor']}"
    CONSOLE.print(ratio_table(report, title), speed_table(report))
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    CONSOLE.print(f"{output} written after {report['seconds']:.0f} s", highlight=False)
    return 0


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot be run.

    Raises:
        InputError: with the remedy.
    """
    for name, least in (
        ("turns", 1),
        ("steps", 1),
        ("pairs", 0),
        ("pair_steps", 1),
        ("warm_up", 0),
        *((name, 1) for name in SHAPES["mini"]),
    ):
        value = getattr(options, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} must be {least} or more, got {value}; give a larger number")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU; take --device cpu, or install a torch with CUDA")


def steps_of(name: str, options: argparse.Namespace) -> int:
    """All optimizer steps of a training: the first, warm-up, turns and pairs."""
    pairs = options.pairs * options.pair_steps if name in (OURS, LEARNED) else 0
    return 1 + options.warm_up + (0 if name == LEARNED else options.turns * options.steps) + pairs


@contextlib.contextmanager
def start(options: argparse.Namespace, shape: Shape, source: PackedDocuments) -> Iterator[dict[str, Contestant]]:
    """The processes of all trainings, each before its first step; none of them outlives this block."""
    contestants: dict[str, Contestant] = {}
    try:
        for name in options.trainings:
            theirs_compiled = name.startswith("transformers") and "compiled" in name
            if (theirs_compiled and options.no_compile) or (name == LEARNED and not options.pairs):
                continue
            arguments = {"shape": shape, "source": source, "steps": steps_of(name, options), "device": options.device}
            if name.startswith("ours"):
                arguments["compile"] = not options.no_compile
            contestants[name] = Contestant(name, TRAININGS[name], options.device, arguments)
        for contestant in contestants.values():
            contestant.wait_until_ready()
        yield contestants
    finally:
        for contestant in contestants.values():
            contestant.stop()


def take_turns(contestants: dict[str, Contestant], products: MatrixProducts, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every turn, by training; first step and warm-up before them. Learned positions have their turns in pairs."""
    for name, contestant in contestants.items():
        contestant.result["seconds_first_step"] = contestant.run(1)
        if options.warm_up:
            contestant.run(options.warm_up)
        CONSOLE.print(f"{name}: first step after {contestant.result['seconds_first_step']:.1f} s", highlight=False)
    seconds: dict[str, list[float]] = {name: [] for name in contestants if name != LEARNED}
    for _ in range(options.turns):
        products.run()
        for name, taken in seconds.items():
            taken.append(contestants[name].run(options.steps))
    return seconds


def take_pairs(contestants: dict[str, Contestant], options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Seconds of neighbouring turns with rotation and with learned positions, each first in every other pair."""
    taken: dict[str, list[float]] = {OURS: [], LEARNED: []}
    if taken.keys() <= contestants.keys():
        for pair in range(options.pairs):
            for name in list(taken) if pair % 2 == 0 else reversed(taken):
                taken[name].append(contestants[name].run(options.pair_steps))
    return taken[OURS], taken[LEARNED]


def summarize(
    shape: Shape,
    options: argparse.Namespace,
    contestants: dict[str, Contestant],
    seconds: dict[str, list[float]],
    products: MatrixProducts,
) -> dict[str, Any]:
    """Ratios, shares of the matrix product, and the figures of each training, for the JSON."""
    tokens = shape.batch_size * shape.length
    trainings = {}
    for name, taken in seconds.items():
        step = statistics.median(taken) / options.steps
        figures = {"tokens_per_second": tokens / step, "seconds_per_step": step, "seconds_of_turns": taken}
        trainings[name] = figures | contestants[name].result
    speeds = {name: figures["tokens_per_second"] for name, figures in trainings.items()}
    others = {name: taken for name, taken in seconds.items() if name != OURS and OURS in seconds}
    return {
        "ratios": {name: ratio_of_turns(taken, seconds[OURS]) for name, taken in others.items()},
        "share_of_product": shares_of_product(speeds, shape, products.best),
        "model": {"weights_in_products": weights_in_products(shape), "flops_per_token": flops_per_token(shape)},
        "product": {
            "dtype": str(products.dtype).removeprefix("torch."),
            "best": products.best,
            "flops_per_second": {" × ".join(map(str, size)): rate for size, rate in products.flops_per_second.items()},
        },
        "loss_of_even_guesses": math.log(shape.vocab_size),
        "trainings": trainings,
    }


if __name__ == "__main__":
    run_script(main)
