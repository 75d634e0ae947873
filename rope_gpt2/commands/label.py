"""`rope-gpt2 label`: reviews with the labels that a model is sure of, out of unlabelled text, to train the next model on."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from rope_gpt2.commands.context import check_max_length, choose_context
from rope_gpt2.commands.devices import choose_device
from rope_gpt2.commands.parser import Parser
from rope_gpt2.commands.rope_options import add_rope_options, apply_rope_options, check_rope_options
from rope_gpt2.corpus.documents import Reading
from rope_gpt2.corpus.sources import find_sources
from rope_gpt2.corpus.stream import DocumentStream
from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.sst2 import resolve_data
from rope_gpt2.training.checkpoints import load_checkpoint
from rope_gpt2.training.notices import silence_notices
from rope_gpt2.training.pseudo_labels import Labeller, choose, limited, write_labelled
from rope_gpt2.training.whole_files import check_writable


def build_parser() -> argparse.ArgumentParser:
    """The options of `label`."""
    parser = Parser(
        prog="rope-gpt2 label",
        description="Label unlabelled text with a checkpoint, and write what it is sure of as a CSV of review,sentiment,confidence and "
        "apostrophe (1 where one keeps a review from being a formula in a spreadsheet): as many positive as negative ones. "
        "`fit --data.more_train FILE` trains on it (self-training).",
    )
    parser.add_argument("--checkpoint", required=True, help="of the model that labels: folder, hub name or .ckpt")
    parser.add_argument(
        "--text", nargs="+", required=True, help="unlabelled text: files (.txt, .jsonl, .csv, also .gz) or data sets of the hub"
    )
    parser.add_argument("--output", required=True, help="CSV to write")
    parser.add_argument("--column", help="of CSV, JSON lines and data sets")
    parser.add_argument("--drop", nargs="+", default=[], metavar="REGEX", help="cut what matches out of every document")
    parser.add_argument(
        "--exclude", nargs="+", default=[], help="files (of CSVs the column review, then text), or sst2: no document may overlap with these"
    )
    parser.add_argument("--limit", type=int, default=0, help="read so many documents only; 0: all")
    parser.add_argument(
        "--count", type=int, default=0, help="write so many at most, from 2 on; 0: as many as there are of the rarer label, twice"
    )
    parser.add_argument("--min-confidence", type=float, default=0.9, help="least probability of the label, from 0.5 to 1")
    parser.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="tokens read of a document at most; by default the model's context, times the factor of a scaling",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="where to compute")
    parser.add_argument("--precision", choices=("auto", "32-true", "bf16-true"), default="auto", help="bfloat16 where it is computed with")
    parser.add_argument("--seed", type=int, default=0, help="of the choice among the sure ones")
    add_rope_options(parser)
    return parser


def label(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        InputError: for a wrong option, checkpoint or text, or where nothing is sure enough.
    """
    options = build_parser().parse_args(list(arguments))
    _check(options)
    output = Path(options.output)
    silence_notices()
    exclude = [str(resolve_data(name, "validation")) for name in options.exclude]
    sources = find_sources(options.text, {})
    read_files = [*map(Path, exclude), *(file for source in sources for file in source.files)]
    stream = DocumentStream(
        sources,
        Reading(column=options.column, drop=tuple(options.drop)),
        find_sources(exclude, {}) if exclude else [],
    )
    check_writable(output, "--output", read_files)
    model, tokenizer = load_checkpoint(options.checkpoint)
    apply_rope_options(options, model)
    accelerator, precision = choose_device(options.device, options.precision)
    network: torch.nn.Module = model  # transformers wraps `to` in a decorator that forgets its types
    network.to(device="cuda" if accelerator == "gpu" else "cpu", dtype=torch.bfloat16 if precision == "bf16-true" else torch.float32)
    labeller = Labeller(model, tokenizer, choose_context(options.max_length, model, options.checkpoint))
    read: list[int] = []
    chosen = choose(_labelled(stream, labeller, options.limit, read), options.min_confidence, options.count, options.seed)
    write_labelled(chosen, output)
    print(f"{sum(read)} documents read, {len(chosen)} written to {options.output}, half of them positive")
    return 0


def _check(options: argparse.Namespace) -> None:
    if not 0.5 <= options.min_confidence <= 1:
        raise InputError(f"--min-confidence must lie between 0.5 and 1, got {options.min_confidence}; 0.9 is usual")
    if options.limit < 0:
        raise InputError(f"--limit must be 0 (all documents) or more, got {options.limit}; give another number")
    if options.count < 0 or options.count == 1:
        raise InputError(f"--count must be 0 (as many as there are) or at least 2, one of each label, got {options.count}; give another")
    check_max_length(options.max_length)
    check_rope_options(options)


def _labelled(stream: DocumentStream, labeller: Labeller, limit: int, read: list[int]) -> Iterator[tuple[Sequence[str], torch.Tensor]]:
    with tqdm(desc="labelling", unit=" documents", total=limit or None, disable=not sys.stderr.isatty()) as progress:
        for documents in limited((piece.texts for piece in stream), limit):
            yield documents, labeller.probabilities(documents)
            read.append(len(documents))
            progress.update(len(documents))
