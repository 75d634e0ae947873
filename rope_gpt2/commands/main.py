"""`rope-gpt2 COMMAND`: fit, validate, test and predict as `train.py`, evaluate as `evaluate.py`."""

import importlib
import os
import sys
from collections.abc import Sequence

from rope_gpt2.errors import InputError, VerificationError

COMMANDS = {
    "fit": "train on episodes from a CSV",
    "validate": "few-shot accuracy on the validation examples",
    "test": "few-shot accuracy on the test examples",
    "predict": "write predictions.csv",
    "evaluate": "few-shot accuracy of a checkpoint over a grid of conditions, with intervals and controls",
    "report": "metrics and report of a run of evaluate, computed again without the model",
    "label": "label unlabelled text with a checkpoint, to train the next one on (self-training)",
    "words": "label random sequences of words by counts of words, to train a small model on (distillation)",
    "length": "perplexity at multiples of the training length, loss by position, attention distance",
    "convert": "GPT-2 in, stock GPT-2 and GPT-NeoX out, checkpoints as folders, scoring as a program of torch.export",
    "compare": "is one run of evaluate better than another, on the same reviews",
}
OF_TRAIN = ("fit", "validate", "test", "predict")  # subcommands of `train`
EXIT_FAILED, EXIT_INPUT, EXIT_INTERRUPTED = 1, 2, 130


def usage() -> str:
    """The commands, a line each."""
    lines = [f"  {name:10}{text}" for name, text in COMMANDS.items()]
    return "\n".join(("usage: rope-gpt2 COMMAND [options]   (rope-gpt2 COMMAND --help lists a command's options)", "", *lines))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the command and its options; `train` before fit, validate, test or predict is allowed.

    Returns:
        Exit code: 0; 1 where --verify found a difference; 2 for bad input, after one sentence on standard error; 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        # oneDNN keeps a compiled kernel for each shape of a matrix, 1024 by default: half a gigabyte where every batch has its own
        os.environ.setdefault(name, "64")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    try:
        if arguments[0] not in ("train", *COMMANDS):
            raise InputError(f"unknown command {arguments[0]!r}; choose one of {', '.join(COMMANDS)}")
        # imported when called: each needs libraries of its own, which take seconds
        name = "train" if arguments[0] in OF_TRAIN else arguments[0]
        run = getattr(importlib.import_module(f"rope_gpt2.commands.{name}"), name)
        return int(run(arguments if arguments[0] in OF_TRAIN else arguments[1:]))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INPUT
    except VerificationError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
