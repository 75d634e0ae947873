"""evaluate: few-shot accuracy of a checkpoint on a CSV, through Trainer.predict: a grid of conditions in one run."""

import argparse
import gc
import logging
import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rope_gpt2.commands.context import check_max_length, choose_context
from rope_gpt2.commands.devices import choose_device
from rope_gpt2.commands.manifest import build_manifest, record_plan
from rope_gpt2.commands.model_names import describe_model
from rope_gpt2.commands.parser import Parser
from rope_gpt2.commands.report import write_report
from rope_gpt2.commands.rope_options import add_rope_options, apply_rope_options, check_rope_options
from rope_gpt2.errors import InputError, VerificationError
from rope_gpt2.fewshot.calibration import CALIBRATIONS, allowed_calibrations
from rope_gpt2.fewshot.conditions import DEMONSTRATION_LABELS, SELECTIONS, expand_grid
from rope_gpt2.fewshot.content_free import CONTENT_FREE_KINDS
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.pieces import JOINED, MANIFEST, PARTIAL, begin, end, finished_plan, pieces_of, publish, write_json
from rope_gpt2.fewshot.report import notes, summary_table
from rope_gpt2.fewshot.run_folder import REVIEWS, read_run, write_reviews, write_scores
from rope_gpt2.fewshot.scoring import MAX_NEW_TOKENS, SCORINGS
from rope_gpt2.fewshot.sst2 import resolve_data
from rope_gpt2.fewshot.template import DEFAULT_TEMPLATE
from rope_gpt2.model.tokenizer import load_tokenizer
from rope_gpt2.training.checkpoints import load_checkpoint, random_model
from rope_gpt2.training.companions import watch_companions
from rope_gpt2.training.datamodule import SentimentDataModule
from rope_gpt2.training.fewshot_module import FewShotModule
from rope_gpt2.training.notices import silence_notices
from rope_gpt2.training.prediction_writer import ScoreWriter
from rope_gpt2.training.progress import ScoringProgress
from rope_gpt2.training.stopping import EXIT_TERMINATED
from rope_gpt2.training.whole_files import check_folder

PRECISIONS = ("auto", "32-true", "bf16-true", "bf16-mixed")
MINI, DEMO = "checkpoints/mini", "data/demo.csv"
_TOKENIZERS: dict[str, PreTrainedTokenizerBase] = {}  # by all that they are


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


def evaluate(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        InputError: for bad input, before anything is written.
    """
    started = time.perf_counter()
    options = build_parser().parse_args(list(arguments))
    output, allowed = Path(options.output), allowed_calibrations(options.scoring)
    options.calibration = getattr(options, "calibration", None) or list(allowed)
    if refused := sorted(set(options.calibration) - set(allowed)):
        raise InputError(f"--calibration {refused[0]}: --scoring {options.scoring} allows {', '.join(allowed)} alone; choose among them")
    _check(options, output)
    if options.devices > 1:  # the processes that DDP starts repeat the command line
        sys.argv = [sys.argv[0], *([] if sys.argv[0].endswith("evaluate.py") else ["evaluate"]), *arguments]
    silence_notices(logging.WARNING)
    if not gc.get_freeze_count():  # once: a second time it would keep what the run before left to be collected
        gc.freeze()  # what the imports made stays: collections no longer walk through it, a quarter of a second each
    model, tokenizer = _load(options)
    apply_rope_options(options, model)
    data, files = _build_data(options, tokenizer, model)
    accelerator, precision = choose_device(options.device, options.precision)
    plan = data.plan_prompts("predict")
    plan.check()  # bad input ends here, before anything is written
    if len(plan.queries) < options.devices:
        raise InputError(f"--devices {options.devices}: {options.data} has {len(plan.queries)} reviews to share among them; take fewer")
    recorded = record_plan(options, plan, files, accelerator, precision)
    if options.resume and finished_plan(output) == recorded:
        verified = " (nor verified)" if options.verify else ""
        print(f"--resume: the run in {output} is complete; nothing is scored again{verified}", file=sys.stderr)
    elif not _score(options, arguments, model, data, recorded, started):
        return 0  # a process beside the first
    _report(options, output, time.perf_counter() - started)
    return 0


def _check(options: argparse.Namespace, output: Path) -> None:
    for name in ("seeds", "devices"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} must be at least 1, got {getattr(options, name)}; give a larger number")
    for name in ("limit", "verify", "batch_tokens"):
        if getattr(options, name) < 0:
            raise InputError(f"--{name.replace('_', '-')} must be 0 or more, got {getattr(options, name)}; give another number")
    if options.orders != "all" and not (options.orders.isdecimal() and int(options.orders) >= 1):
        raise InputError(f"--orders must be a number from 1 on, or all, got {options.orders!r}; give another one")
    if options.scoring == "generate" and options.verify:
        raise InputError("--verify compares scores, and --scoring generate makes texts; leave one of them out")
    check_max_length(options.max_length)
    check_rope_options(options)
    if options.checkpoint != "random" and options.tokenizer:
        raise InputError(f"--tokenizer is for --checkpoint random; {options.checkpoint} has its own: leave --tokenizer out")
    check_folder(output, "--output")


def _load(options: argparse.Namespace) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if options.checkpoint == "random":
        tokenizer = load_tokenizer(options.tokenizer or MINI)
        return random_model(options.seed, tokenizer), _reused(tokenizer)
    model, tokenizer = load_checkpoint(options.checkpoint)
    return model, _reused(tokenizer)


def _reused(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The same one for all evaluations of a process: tokenizers (0.23) never frees the words that one has seen."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return tokenizer if backend is None else _TOKENIZERS.setdefault(backend.to_str() + repr(tokenizer), tokenizer)


def _build_data(
    options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
) -> tuple[SentimentDataModule, dict[str, Path]]:
    pool = options.pool or ("sst2" if options.data == "sst2" else options.data)
    files = {"data": resolve_data(options.data, "validation"), "pool": resolve_data(pool, "train")}
    data = SentimentDataModule(
        predict=str(files["data"]),
        pool=str(files["pool"]),
        max_length=_context(options, model),
        eval_batch_tokens=options.batch_tokens,
        limit=options.limit,
        trim_queries=options.trim_queries,
    )
    data.tokenizer = tokenizer
    data.processes = options.devices
    data.channel = options.scoring == "channel"
    data.content_free_kinds = tuple(kind for kind in CONTENT_FREE_KINDS if kind in options.calibration)
    data.conditions = expand_grid(
        options.shots,
        options.seeds,
        options.orders,
        options.demonstration_labels,
        options.selection,
        [template.replace("\\n", "\n") for template in options.template],
        options.label_words or [LABELS],
    )
    return data, files


def _context(options: argparse.Namespace, model: PreTrainedModel) -> int:
    """Tokens of a prompt at most; generation needs room for its answer."""
    return choose_context(options.max_length, model, options.checkpoint) - (MAX_NEW_TOKENS - 1 if options.scoring == "generate" else 0)


def _score(
    options: argparse.Namespace,
    arguments: Sequence[str],
    model: PreTrainedModel,
    data: SentimentDataModule,
    recorded: dict[str, Any],
    started: float,
) -> bool:
    """Score what is not scored yet and write the run's folder; False on the processes beside the first."""
    output, plan = Path(options.output), data.plan_prompts("predict")
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    pieces = begin(output, recorded, options.resume) if is_first else pieces_of(output, recorded)
    data.is_done = pieces.is_done
    progress = [ScoringProgress(plan.num_prompts // options.devices, plan.num_done(pieces.is_done) // options.devices)]
    module = FewShotModule(model, options.scoring, verify_every=-(-plan.num_prompts // options.verify) if options.verify else 0)
    trainer = L.Trainer(
        accelerator=recorded["accelerator"],
        devices=options.devices,
        # a process that is done waits for the others, however long they take
        strategy=DDPStrategy(timeout=timedelta(days=7)) if options.devices > 1 else "auto",
        precision=recorded["precision"],
        callbacks=[ScoreWriter(pieces), *(progress if sys.stderr.isatty() else [])],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    kept = f"what is scored so far is kept in {output}; go on with the same command and --resume"
    watch_companions(trainer, lambda: kept)
    try:
        trainer.predict(module, data, return_predictions=False)
    except VerificationError:
        end(output)  # nothing of it is to be trusted, nor resumed
        raise
    except SystemExit as error:  # Lightning's way to end on Ctrl-C
        if trainer.is_global_zero:
            print(kept, file=sys.stderr)
        if isinstance(error, SIGTERMException):
            raise SystemExit(EXIT_TERMINATED) from error
        raise KeyboardInterrupt from error
    if not trainer.is_global_zero:
        return False
    if options.verify:
        counted = f"{module.verified} prompts by both paths, largest difference {module.largest_difference:.1e} nats"
        print(f"--verify: {counted}", file=sys.stderr)
    joined = output / PARTIAL / JOINED
    try:
        write_reviews(plan.queries, joined / REVIEWS)
        demonstrations = [sampler.shared for sampler in plan.samplers]
        write_scores(joined, pieces, plan.num_windows, plan.conditions, demonstrations, plan.content_free, options.scoring == "generate")
        write_json(build_manifest(options, arguments, recorded, time.perf_counter() - started), joined / MANIFEST)
        publish(output)
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written to ({error.strerror}); make room, then go on with --resume") from error
    end(output)
    return True


def _report(options: argparse.Namespace, output: Path, seconds: float) -> None:
    run = read_run(output)
    metrics = write_report(run, options.calibration, pages=options.report)
    console = Console()
    console.print(summary_table(metrics, f"{describe_model(vars(options))} on {options.data}, {options.scoring}"))
    for note in notes(metrics, run.scores.conditions):
        console.print(note, soft_wrap=True, markup=False)
    prompts = metrics.n * len(run.scores.conditions)
    page = " and report.html" if options.report else ""
    console.print(f"{prompts} predictions in {seconds:.1f} s; scores, metrics{page} in {output}", soft_wrap=True, markup=False)
