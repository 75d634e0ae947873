"""The options of evaluate."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rope_gpt2.commands.context import check_max_length
from rope_gpt2.commands.parser import Parser
from rope_gpt2.commands.rope_options import add_rope_options, check_rope_options
from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.calibration import CALIBRATIONS, allowed_calibrations
from rope_gpt2.fewshot.conditions import DEMONSTRATION_LABELS, SELECTIONS
from rope_gpt2.fewshot.scoring import SCORINGS
from rope_gpt2.fewshot.template import DEFAULT_TEMPLATE
from rope_gpt2.training.option_checks import LARGEST_SEED
from rope_gpt2.training.whole_files import check_folder

PRECISIONS = ("auto", "32-true", "bf16-true", "bf16-mixed")
MINI, DEMO = "checkpoints/mini", "data/demo.csv"


def build_parser() -> argparse.ArgumentParser:
    """The options of `evaluate`; every one has a default."""
    parser = Parser(
        prog="evaluate.py",
        description="Few-shot accuracy of a checkpoint on a CSV of review,sentiment, for every combination of the options that take "
        "several values. Prints a table; writes scores, metrics and a report into a folder.",
    )
    add = parser.add_argument_group("model and data").add_argument
    add(
        "--checkpoint",
        default=MINI,
        metavar="DIR|FILE.ckpt|random",
        help="folder of save_pretrained (or hub name), Lightning checkpoint, or 'random': an untrained GPT2Config-shaped RoPE GPT-2",
    )
    add("--data", default=DEMO, metavar="CSV|sst2", help="reviews to classify; sst2 is SST-2's validation set")
    add(
        "--pool",
        metavar="CSV|sst2",
        help="where demonstrations are drawn from; by default SST-2's training set for sst2, else the "
        "data itself, a review never being among its own demonstrations",
    )
    add("--tokenizer", metavar="DIR|NAME", help="tokenizer for 'random'; by default that of checkpoints/mini")
    add("--seed", type=int, default=0, help="of the weights of 'random'")
    add("--limit", type=int, default=0, metavar="N", help="classify the first N reviews only; 0 for all")

    add = parser.add_argument_group("grid").add_argument
    add("--shots", type=int, nargs="+", default=[0, 4, 16], metavar="N", help="demonstrations in a prompt")
    add("--seeds", type=int, default=5, metavar="N", help="demonstration seeds, 0 up to N")
    add("--orders", default="1", metavar="N|all", help="orders of each draw of demonstrations; all: every order, 24 at most")
    add(
        "--demonstration-labels",
        nargs="+",
        choices=DEMONSTRATION_LABELS,
        default=["gold"],
        help="labels that the demonstrations show; random, flipped and none are controls",
    )
    add("--selection", nargs="+", choices=SELECTIONS, default=["balanced"], help="equal label counts, as drawn, or nearest by TF-IDF")
    add("--template", nargs="+", default=[DEFAULT_TEMPLATE.replace("\n", "\\n")], help="layout with {text} and {label}; \\n is a line end")
    add(
        "--label-words",
        nargs=2,
        action="append",
        metavar=("NEGATIVE", "POSITIVE"),
        help="the words for the labels; may be given several times (default: negative positive)",
    )

    add = parser.add_argument_group("scoring").add_argument
    add(
        "--scoring",
        choices=SCORINGS,
        default="likelihood",
        help="compare the label words' likelihoods, or the review's given each label word (noisy channel), or generate greedily and look "
        "for a label word",
    )
    add(
        "--calibration",
        nargs="+",
        choices=CALIBRATIONS,
        default=argparse.SUPPRESS,
        help="calibrations in the report, by default all that the scoring allows; contextual, domain and pmi score content-free inputs too",
    )
    add(
        "--max-length",
        type=int,
        metavar="N",
        help="tokens in a prompt at most; by default the model's n_positions, times the factor of a scaling",
    )
    add("--trim-queries", action="store_true", help="cut the end of a review that exceeds the context alone, instead of refusing it")
    add(
        "--verify",
        type=int,
        nargs="?",
        const=64,
        default=0,
        metavar="N",
        help="score about N prompts (64 without a number) by the plain path as well, each alone, and stop at a difference",
    )

    add_rope_options(parser)
    add = parser.add_argument_group("running").add_argument
    add("--batch-tokens", type=int, default=0, metavar="N", help="tokens in a batch at most; 0 for what suits the device")
    add("--precision", choices=PRECISIONS, default="auto", help="auto: bfloat16 where the device computes with it, else float32")
    add("--device", choices=("auto", "cpu", "gpu"), default="auto", help="where to run")
    add("--devices", type=int, default=1, metavar="N", help="processes, each with a GPU of its own on GPUs")
    add("--output", default="results", metavar="DIR", help="folder for the files; those of an earlier run are replaced at the end")
    add("--report", action=argparse.BooleanOptionalAction, default=True, help="write report.html and plots; later: rope-gpt2 report DIR")
    add("--resume", action="store_true", help="go on with an interrupted run in --output; begins one where there is none")
    return parser


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line's options, each checked by itself; `calibration` holds all that the scoring allows where none is named.

    Raises:
        InputError: for an option that makes no sense, by itself or beside another.
    """
    options = build_parser().parse_args(list(arguments))
    options.calibration = getattr(options, "calibration", None) or list(allowed_calibrations(options.scoring))
    _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    allowed = allowed_calibrations(options.scoring)
    if refused := sorted(set(options.calibration) - set(allowed)):
        raise InputError(f"--calibration {refused[0]}: --scoring {options.scoring} allows {', '.join(allowed)} alone; choose among them")
    for name in ("seeds", "devices"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} must be at least 1, got {getattr(options, name)}; give a larger number")
    for name in ("limit", "verify", "batch_tokens"):
        if getattr(options, name) < 0:
            raise InputError(f"--{name.replace('_', '-')} must be 0 or more, got {getattr(options, name)}; give another number")
    if not 0 <= options.seed <= LARGEST_SEED:
        raise InputError(f"--seed must lie between 0 and {LARGEST_SEED}, got {options.seed}; give another number")
    if options.orders != "all" and not (options.orders.isdecimal() and int(options.orders) >= 1):
        raise InputError(f"--orders must be a number from 1 on, or all, got {options.orders!r}; give another one")
    if options.scoring == "generate" and options.verify:
        raise InputError("--verify compares scores, and --scoring generate makes texts; leave one of them out")
    check_max_length(options.max_length)
    check_rope_options(options)
    if options.checkpoint != "random" and options.tokenizer:
        raise InputError(f"--tokenizer is for --checkpoint random; {options.checkpoint} has its own: leave --tokenizer out")
    check_folder(Path(options.output), "--output")
