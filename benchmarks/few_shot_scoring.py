"""evaluate.py against lm-evaluation-harness: same machine, checkpoint, CSV, demonstrations and dtype, the whole evaluation timed.

    python benchmarks/few_shot_scoring.py --checkpoint checkpoints/mini --data sst2

For each dtype and number of shots the two take turns (harness, ours, harness, ours, ...); the ratio is the median of the turns' ratios.
Both load the checkpoint, read CSVs, build prompts, score all queries with both label words and compute accuracy; imports are left out.
evaluate.py also reads the whole pool, while the harness is handed the demonstrations that evaluate.py drew, at the best of the batch
sizes tried; the ratio until the scores are on disk stands beside the whole's. Then each tool *as it comes*: the harness with its batch
size of 1 and float32, evaluate.py with its defaults, which add four calibrations with their content-free inputs, plots and a report.
Beside each stand the limit of the arithmetic (arithmetic_limit.py) and how well the scores agree (parity.py).

Prints a table of ratios; writes JSON, and a plot of queries a second against shots.
"""

import argparse
import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from arithmetic_limit import count_flops, measure_matrix_product
from harness import HarnessRun, run_harness
from machine import describe_machine
from ours import OurRun, run_ours
from parity import Parity, compare_scores
from ratio_report import plot_throughput, ratio_table
from rich.console import Console
from script import run_script
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rope_gpt2.fewshot.examples import Example, read_examples
from rope_gpt2.fewshot.sst2 import resolve_data
from rope_gpt2.fewshot.template import Template
from rope_gpt2.model.tokenizer import load_tokenizer
from rope_gpt2.training.checkpoints import load_checkpoint, random_model
from rope_gpt2.training.notices import silence_notices

PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-true"}
WARM_UP = 16  # queries
PACKAGES = ("lm_eval", "torch", "transformers", "tokenizers", "lightning")
CONSOLE = Console(width=None if sys.stdout.isatty() else 120)
Shown = Sequence[tuple[str, str]]  # review and label of each demonstration, in the order of the prompt


def build_parser() -> argparse.ArgumentParser:
    """The options; every one has a default."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add(
        "--checkpoint",
        default="checkpoints/mini",
        metavar="DIR|random",
        help="folder of the model; random: GPT2Config's own shape, untrained",
    )
    add("--data", default="sst2", metavar="CSV|sst2", help="reviews to classify")
    add("--pool", metavar="CSV|sst2", help="where demonstrations are drawn from; by default SST-2's training set for sst2, else the data")
    add("--shots", type=int, nargs="+", default=[0, 4, 16, 32], metavar="N")
    add("--dtype", nargs="+", choices=tuple(PRECISIONS), default=list(PRECISIONS))
    add("--repeats", type=int, default=3, metavar="N", help="turns of each tool")
    add("--batch-sizes", type=int, nargs="+", default=[4, 8, 16, 32, 64], metavar="N", help="tried for the harness, the fastest is taken")
    add("--trial-queries", type=int, default=128, metavar="N", help="queries of such a trial")
    add("--as-it-comes-shots", type=int, default=16, metavar="N", help="shots of the comparison of defaults")
    add("--as-it-comes-queries", type=int, default=200, metavar="N", help="queries of the harness in it; 0 leaves it out")
    add("--max-length", type=int, default=2048, metavar="N", help="tokens of a prompt at most, for both: no demonstration may be dropped")
    add("--limit", type=int, default=0, metavar="N", help="the first N reviews only; 0 for all")
    add("--ours-only", action="store_true", help="do not run the harness: queries a second and the share of the limit alone")
    add("--output", default="results/few_shot_scoring.json", metavar="JSON", help="the plot goes beside it, as .png")
    return parser


def load(checkpoint: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that evaluate.py loads by the same name."""
    if checkpoint == "random":
        tokenizer = load_tokenizer("checkpoints/mini")
        return random_model(0, tokenizer), tokenizer
    return load_checkpoint(checkpoint)


def find_best_batch_size(options: argparse.Namespace, queries: Sequence[Example], shown: Shown, dtype: str) -> tuple[int, dict[int, float]]:
    """The fastest of the batch sizes for the harness, and queries a second of each, on queries evenly taken."""
    model, tokenizer = load(options.checkpoint)
    model = model.to(getattr(torch, dtype))
    sample = take_evenly(queries, options.trial_queries)
    speeds = {}
    for size in options.batch_sizes:
        run = run_harness(model, tokenizer, sample, shown, size, options.max_length)
        speeds[size] = round(len(sample) / run.seconds, 1)
    return max(speeds, key=lambda size: speeds[size]), speeds


def time_harness(
    checkpoint: str, queries: Sequence[Example], shown: Shown, dtype: str, batch_size: int, max_length: int | None
) -> HarnessRun:
    """A run of the harness with the loading of its checkpoint in its seconds, as evaluate.py has it; None: its own context length."""
    started = time.perf_counter()
    model, tokenizer = load(checkpoint)
    model = model.to(getattr(torch, dtype))
    loading = time.perf_counter() - started
    run = run_harness(model, tokenizer, queries, shown, batch_size, max_length)
    return run._replace(seconds=run.seconds + loading)


def compare(options: argparse.Namespace, paths: tuple[Path, Path], queries: Sequence[Example], dtype: str, shots: int, speed: float) -> Any:
    """Both tools in turn on one dtype and number of shots.

    Args:
        options: of the command.
        paths: of the queries and of the pool.
        queries: what both judge.
        dtype, shots: what is compared.
        speed: FLOP/s of a matrix product in this dtype.

    Returns:
        A dict for the JSON.
    """

    def ours(limit: int = options.limit) -> OurRun:
        return run_ours(options.checkpoint, *paths, shots, PRECISIONS[dtype], "none", options.max_length, limit, report=False)

    shown = ours(WARM_UP).demonstrations
    limit = speed_limit(options.checkpoint, queries, shown, speed)
    batch_size, trials = (0, {}) if options.ours_only else find_best_batch_size(options, queries, shown, dtype)
    mine, theirs = [], []
    for _ in range(options.repeats):
        if not options.ours_only:
            theirs.append(time_harness(options.checkpoint, queries, shown, dtype, batch_size, options.max_length))
        mine.append(ours())
    result: dict[str, Any] = {"dtype": dtype, "shots": shots, "n": len(queries), "harness": None, "parity": None}
    result["ours"] = summarize(mine, len(queries)) | {"seconds_to_scores": [our.seconds_to_scores for our in mine]}
    result["limit_queries_per_second"] = limit
    result["fraction_of_limit"] = result["ours"]["queries_per_second"] / limit
    if theirs:
        result["harness"] = summarize(theirs, len(queries)) | {"batch_size": batch_size, "trials": trials}
        result |= ratios(theirs, mine)
        to_scores = [our._replace(seconds=our.seconds_to_scores) for our in mine]
        result["ratio_to_scores"] = ratios(theirs, to_scores)["ratio"]
        result["limit_ratio"] = limit / result["harness"]["queries_per_second"]
        result["parity"] = asdict(check_parity(queries, shown, mine[-1], theirs[-1], dtype))
    return result


def check_parity(queries: Sequence[Example], shown: Shown, mine: OurRun, theirs: HarnessRun, dtype: str) -> Parity:
    """How well the scores agree, on the queries that both tools give the same demonstrations."""
    texts = {" ".join(review.split()) for review, _ in shown}
    set_apart = [query.row for query in queries if " ".join(query.review.split()) in texts]
    return compare_scores(mine.label_logprobs, theirs.label_logprobs, [query.row for query in queries], dtype, set_apart)


def summarize(runs: Sequence[HarnessRun] | Sequence[OurRun], n: int) -> dict[str, Any]:
    """Seconds of every run, and queries a second by their median."""
    seconds = [run.seconds for run in runs]
    return {"n": n, "seconds": seconds, "queries_per_second": n / statistics.median(seconds), "accuracy": runs[-1].accuracy}


def ratios(theirs: Sequence[HarnessRun], mine: Sequence[OurRun], scale: float = 1.0) -> dict[str, Any]:
    """The harness's seconds over ours turn by turn, times `scale`, and their median."""
    found = [scale * their.seconds / our.seconds for their, our in zip(theirs, mine, strict=True)]
    return {"ratios": found, "ratio": statistics.median(found)}


def take_evenly(queries: Sequence[Example], count: int) -> Sequence[Example]:
    """So many queries, from all over the file."""
    return queries[:: max(1, len(queries) // count)][:count]


def compare_as_they_come(options: argparse.Namespace, paths: tuple[Path, Path], queries: Sequence[Example]) -> dict[str, Any]:
    """Each tool with its own defaults, in seconds a query: the harness on some queries, evaluate.py on all."""
    some = take_evenly(queries, options.as_it_comes_queries)

    def ours(limit: int = options.limit) -> OurRun:
        return run_ours(options.checkpoint, *paths, options.as_it_comes_shots, None, None, None, limit)

    shown = ours(WARM_UP).demonstrations
    mine, theirs = [], []
    for _ in range(options.repeats):
        theirs.append(time_harness(options.checkpoint, some, shown, "float32", 1, None))
        mine.append(ours())
    return {
        "shots": options.as_it_comes_shots,
        "note": f"the harness ran {len(some)} of the {len(queries)} queries, evenly taken; ratios compare seconds a query",
        "harness": summarize(theirs, len(some)) | {"batch_size": 1, "dtype": "float32"},
        "ours": summarize(mine, len(queries)),
    } | ratios(theirs, mine, len(queries) / len(some))


def speed_limit(checkpoint: str, queries: Sequence[Example], shown: Shown, speed: float) -> float:
    """Queries a second if the arithmetic were all, at `speed` FLOP/s."""
    model, tokenizer = load(checkpoint)
    template = Template()
    before = template.separator if shown else ""
    texts = [before + template.query(query.review) for query in queries]
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
    prefix = template.separator.join(template.demonstration(review, label) for review, label in shown)
    prefix_length = len(tokenizer(prefix, add_special_tokens=False, verbose=False)["input_ids"]) if prefix else 0
    return len(queries) * speed / count_flops(model, lengths, prefix_length)


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark and return its exit code."""
    options = build_parser().parse_args(list(arguments))
    silence_notices(logging.WARNING)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    pool = options.pool or ("sst2" if options.data == "sst2" else options.data)
    paths = resolve_data(options.data, "validation"), resolve_data(pool, "train")
    queries = read_examples(paths[0])[: options.limit or None]
    if not options.ours_only:
        run_harness(*load(options.checkpoint), queries[:WARM_UP])
    speeds = {dtype: measure_matrix_product(getattr(torch, dtype), torch.device("cpu")) for dtype in options.dtype}
    report: dict[str, Any] = {"options": vars(options), "machine": describe_machine(PACKAGES), "matrix_product_flops_per_second": speeds}
    report |= {"results": [], "as_it_comes": None}
    for dtype in options.dtype:
        for shots in options.shots:
            report["results"].append(result := compare(options, paths, queries, dtype, shots, speeds[dtype]))
            CONSOLE.print(f"{dtype}, {shots} shots: {result['ours']['queries_per_second']:.0f} queries a second", highlight=False)
    if options.as_it_comes_queries and not options.ours_only:
        report["as_it_comes"] = compare_as_they_come(options, paths, queries)
    CONSOLE.print(ratio_table(report["results"], report["as_it_comes"], f"{options.checkpoint} on {options.data}, {len(queries)} queries"))
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    plot_throughput(report["results"], output.with_suffix(".png"))
    CONSOLE.print(f"{output} and {output.with_suffix('.png')} written", highlight=False)
    return 0


if __name__ == "__main__":
    run_script(main)
