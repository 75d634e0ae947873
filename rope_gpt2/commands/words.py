"""`rope-gpt2 words`: random sequences of words with the labels of a classifier that counts words, to train a small model on."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from rope_gpt2.commands.context import choose_context
from rope_gpt2.commands.devices import choose_device
from rope_gpt2.commands.parser import Parser
from rope_gpt2.errors import InputError
from rope_gpt2.training.checkpoints import load_checkpoint
from rope_gpt2.training.notices import silence_notices
from rope_gpt2.training.pseudo_labels import Labeller, write_labelled
from rope_gpt2.training.review_files import ReviewFiles
from rope_gpt2.training.whole_files import check_writable
from rope_gpt2.training.word_counts import LetterCounts, WordCounts, draw_labels, mean_log_odds, random_sequences

AT_ONCE = 1000  # sequences that a model labels between two looks at the progress bar


def build_parser() -> argparse.ArgumentParser:
    """The options of `words`."""
    parser = Parser(
        prog="rope-gpt2 words",
        description="Train two classifiers, of words (logistic regression weighted by naive Bayes) and of letters, and write random "
        "sequences of words with labels drawn by their mean log odds, as a CSV of review,sentiment,confidence and apostrophe (1 where one "
        "keeps a review from being a formula in a spreadsheet). "
        "`fit --data.more_train FILE --data.soft_labels true` trains on it (distillation).",
    )
    parser.add_argument("--train", default="sst2", help="labelled reviews: a CSV, or sst2")
    parser.add_argument("--output", required=True, help="CSV to write")
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        default=[],
        help="models trained on the same reviews (folder, hub name or .ckpt): they label together with the classifiers",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="where the models of --checkpoint compute")
    parser.add_argument("--count", type=int, default=60_000, help="sequences to write")
    parser.add_argument("--seed", type=int, default=0, help="of the sequences and their labels")
    parser.add_argument("--validation", help="as in fit: its reviews are not counted; without one, reviews of --train are held out")
    parser.add_argument("--test", help="as in fit: its reviews are not counted; by default SST-2's validation set")
    parser.add_argument(
        "--holdout", type=int, default=500, help="as in fit: reviews held out, and so not counted, where there is no --validation"
    )
    parser.add_argument("--order-seed", type=int, default=0, help="as in fit: which are held out")
    return parser


def words(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        InputError: for a wrong option, file or checkpoint.
    """
    options = build_parser().parse_args(list(arguments))
    if options.count < 1:
        raise InputError(f"--count must be at least 1, got {options.count}; 60000 is usual")
    output = Path(options.output)
    check_writable(output, "--output")
    names = {"train": options.train, "validation": options.validation, "test": options.test}
    examples, _ = ReviewFiles(names, options.holdout, options.order_seed, limit=0, clean_html=None).training_split()
    device = "cuda" if choose_device(options.device, "32-true")[0] == "gpu" else "cpu"
    labellers = [_load(checkpoint, device) for checkpoint in options.checkpoint]
    print(f"counting the words and letters of {len(examples)} reviews; of SST-2's that takes a minute", flush=True)
    words_of, letters_of = WordCounts(examples), LetterCounts(examples)
    sequences = random_sequences(examples, options.count, options.seed)
    found = [words_of.probabilities(sequences), letters_of.probabilities(sequences)]
    found += [_probabilities(labeller, sequences) for labeller in labellers]
    write_labelled(draw_labels(sequences, mean_log_odds(found), options.seed), output)
    print(f"{len(sequences)} sequences of their words written to {options.output}")
    return 0


def _load(checkpoint: str, device: str) -> Labeller:
    silence_notices()
    model, tokenizer = load_checkpoint(checkpoint)
    network: torch.nn.Module = model  # transformers wraps `to` in a decorator that forgets its types
    network.to(device=device, dtype=torch.float32)
    return Labeller(model, tokenizer, choose_context(None, model, checkpoint))


def _probabilities(labeller: Labeller, sequences: Sequence[str]) -> NDArray[np.float64]:
    """N sequences → [N] probabilities of `positive`."""
    found = []
    with tqdm(desc="labelling", unit=" sequences", total=len(sequences), disable=not sys.stderr.isatty()) as progress:
        for start in range(0, len(sequences), AT_ONCE):
            piece = sequences[start : start + AT_ONCE]
            found.append(labeller.probabilities(piece).double().numpy())
            progress.update(len(piece))
    return np.concatenate(found)
