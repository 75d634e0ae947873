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
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rope_gpt2.commands.console import stdout_console
from rope_gpt2.commands.context import choose_context
from rope_gpt2.commands.devices import choose_device
from rope_gpt2.commands.evaluate_options import MINI, read_options
from rope_gpt2.commands.manifest import build_manifest, record_plan
from rope_gpt2.commands.model_names import describe_model
from rope_gpt2.commands.report import write_report
from rope_gpt2.commands.rope_options import apply_rope_options
from rope_gpt2.errors import InputError, VerificationError
from rope_gpt2.fewshot.conditions import expand_grid
from rope_gpt2.fewshot.content_free import CONTENT_FREE_KINDS
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.generation import answer_length
from rope_gpt2.fewshot.pieces import JOINED, MANIFEST, PARTIAL, begin, end, finished_plan, pieces_of, publish, write_json
from rope_gpt2.fewshot.report import notes, summary_table
from rope_gpt2.fewshot.run_folder import REVIEWS, read_run, write_reviews, write_scores
from rope_gpt2.fewshot.sst2 import resolve_data
from rope_gpt2.fewshot.template import Template
from rope_gpt2.fewshot.verbalizer import Verbalizer
from rope_gpt2.model.tokenizer import load_tokenizer
from rope_gpt2.training.checkpoints import load_checkpoint, random_model
from rope_gpt2.training.companions import watch_companions
from rope_gpt2.training.datamodule import SentimentDataModule
from rope_gpt2.training.fewshot_module import FewShotModule
from rope_gpt2.training.notices import silence_notices
from rope_gpt2.training.prediction_writer import ScoreWriter
from rope_gpt2.training.progress import ScoringProgress
from rope_gpt2.training.stopping import EXIT_TERMINATED

_TOKENIZERS: dict[str, PreTrainedTokenizerBase] = {}  # by all that they are


def evaluate(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        InputError: for bad input, before anything is written.
    """
    started = time.perf_counter()
    options = read_options(arguments)
    output = Path(options.output)
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
        max_length=_context(options, tokenizer, model),
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
        _templates(options),
        options.label_words or [LABELS],
    )
    return data, files


def _templates(options: argparse.Namespace) -> list[str]:
    return [template.replace("\\n", "\n") for template in options.template]


def _context(options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> int:
    """Tokens of a prompt at most; generation needs room for its answer."""
    context = choose_context(options.max_length, model, options.checkpoint)
    if options.scoring != "generate":
        return context
    layouts = ((Verbalizer(tuple(words)), Template(text)) for words in options.label_words or [LABELS] for text in _templates(options))
    return context + 1 - max(answer_length(verbalizer.token_ids(tokenizer, template)) for verbalizer, template in layouts)


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
    console = stdout_console()
    console.print(summary_table(metrics, f"{describe_model(vars(options))} on {options.data}, {options.scoring}"))
    for note in notes(metrics, run.scores.conditions):
        console.print(note, soft_wrap=True, markup=False)
    prompts = metrics.n * len(run.scores.conditions)
    page = " and report.html" if options.report else ""
    console.print(f"{prompts} predictions in {seconds:.1f} s; scores, metrics{page} in {output}", soft_wrap=True, markup=False)
