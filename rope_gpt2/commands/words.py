"""`rope-gpt2 words`: random sequences of words with the labels of classifiers that count words and letters, to train a small model on."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from rope_gpt2.commands.parser import Parser
from rope_gpt2.errors import InputError
from rope_gpt2.training.pseudo_labels import write_labelled
from rope_gpt2.training.review_files import ReviewFiles
from rope_gpt2.training.whole_files import check_writable
from rope_gpt2.training.word_counts import LetterCounts, WordCounts, draw_labels, mean_log_odds, random_sequences

CLASSIFIERS: dict[str, type[WordCounts] | type[LetterCounts]] = {"words": WordCounts, "letters": LetterCounts}


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
        InputError: for a wrong option or file.
    """
    options = build_parser().parse_args(list(arguments))
    if options.count < 1:
        raise InputError(f"--count must be at least 1, got {options.count}; 60000 is usual")
    output = Path(options.output)
    names = {"train": options.train, "validation": options.validation, "test": options.test}
    check_writable(output, "--output", [name for name in names.values() if name])
    examples, _ = ReviewFiles(names, options.holdout, options.order_seed, limit=0, clean_html=None).training_split()
    print(f"counting the words and letters of {len(examples)} reviews; of SST-2's that takes a minute", flush=True)
    sequences = random_sequences(examples, options.count, options.seed)
    found = []
    with tqdm(total=len(CLASSIFIERS), unit=" classifiers", disable=not sys.stderr.isatty()) as progress:
        for what, classifier in CLASSIFIERS.items():
            progress.set_description(f"counting {what}")
            found.append(classifier(examples).probabilities(sequences))
            progress.update()
    write_labelled(draw_labels(sequences, mean_log_odds(found), options.seed), output)
    print(f"{len(sequences)} sequences of their words written to {options.output}")
    return 0
