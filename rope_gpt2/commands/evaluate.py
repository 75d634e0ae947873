"""evaluate: few-shot accuracy of a checkpoint on a CSV, through Trainer.predict."""

import argparse
import hashlib
import logging
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.demonstrations import SELECTIONS
from rope_gpt2.fewshot.metrics import evaluate_cells, summarize
from rope_gpt2.fewshot.report import (
    MANIFEST_FILE,
    METRICS_FILE,
    PREDICTIONS_FILE,
    read_predictions,
    summary_table,
    write_json,
    write_metrics,
    write_predictions,
)
from rope_gpt2.fewshot.scoring import MAX_NEW_TOKENS, Prediction
from rope_gpt2.fewshot.sst2 import resolve_data
from rope_gpt2.fewshot.template import DEFAULT_TEMPLATE
from rope_gpt2.model.tokenizer import load_tokenizer
from rope_gpt2.training.checkpoints import load_checkpoint, random_model
from rope_gpt2.training.datamodule import SentimentDataModule
from rope_gpt2.training.module import SCORINGS, FewShotModule
from rope_gpt2.training.notices import silence_notices
from rope_gpt2.training.prediction_writer import PredictionWriter

PRECISIONS = ("auto", "32-true", "bf16-true", "bf16-mixed")
MINI, DEMO = "checkpoints/mini", "data/demo.csv"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, where argparse prints its usage first."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")


def build_parser() -> argparse.ArgumentParser:
    """The options of `evaluate`; every one has a default."""
    parser = _Parser(
        prog="evaluate.py",
        description="Few-shot accuracy of a checkpoint on a CSV of review,sentiment. Prints a table; writes metrics.json, "
        "predictions.csv and manifest.json.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
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
    add("--shots", type=int, nargs="+", default=[0, 4, 16], metavar="N", help="demonstrations in a prompt")
    add("--seeds", type=int, default=5, metavar="N", help="demonstration seeds, 0 up to N")
    add("--selection", choices=SELECTIONS, default="balanced", help="labels of the demonstrations: equal counts, or as drawn")
    add(
        "--scoring",
        choices=SCORINGS,
        default="likelihood",
        help="compare the label words' likelihoods, or generate greedily and look for a label word",
    )
    add("--template", default=DEFAULT_TEMPLATE.replace("\n", "\\n"), help="layout with {text} and {label}; \\n is a line end")
    add(
        "--label-words",
        nargs=2,
        default=["negative", "positive"],
        metavar=("NEGATIVE", "POSITIVE"),
        help="the words for the labels",
    )
    add("--tokenizer", metavar="DIR|NAME", help="tokenizer for 'random'; by default that of checkpoints/mini")
    add("--max-length", type=int, metavar="N", help="tokens in a prompt at most; by default the model's n_positions")
    add("--trim-queries", action="store_true", help="cut the end of a review that exceeds the context alone, instead of refusing it")
    add("--limit", type=int, default=0, metavar="N", help="classify the first N reviews only; 0 for all")
    add("--batch-size", type=int, default=64, metavar="N", help="prompts in a batch")
    add("--precision", choices=PRECISIONS, default="auto", help="auto: float32 on a CPU, bfloat16 on a GPU that has it")
    add("--device", choices=("auto", "cpu", "gpu"), default="auto", help="where to run")
    add("--seed", type=int, default=0, help="of the weights of 'random'")
    add("--output", default="results", metavar="DIR", help="folder for the files; earlier ones of the same names are replaced")
    return parser


def evaluate(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        InputError: for bad input, before anything is written.
    """
    started = time.perf_counter()
    options = build_parser().parse_args(list(arguments))
    output = Path(options.output)
    _check(options, output)
    silence_notices(logging.WARNING)
    model, tokenizer = _load(options)
    data, files = _build_data(options, tokenizer, model)
    trainer = _build_trainer(options, output)
    trainer.predict(FewShotModule(model, options.scoring), data, return_predictions=False)
    if not trainer.is_global_zero:
        return 0
    predictions = repeat_zero_shot(read_predictions(output / PREDICTIONS_FILE), options.seeds)
    write_predictions(predictions, output / PREDICTIONS_FILE)
    cells, summaries = evaluate_cells(predictions), summarize(predictions)
    write_metrics(cells, summaries, output / METRICS_FILE)
    seconds = time.perf_counter() - started
    write_json(_manifest(options, arguments, files, trainer, data, seconds), output / MANIFEST_FILE)

    console = Console()
    console.print(summary_table(summaries, f"{options.checkpoint} on {options.data}, {options.scoring}"))
    for note in data.notes():
        console.print(note, soft_wrap=True)
    if any(cell.uncertain for cell in cells):
        console.print(
            f"{sum(cell.uncertain * cell.n for cell in cells):.0f} answers named neither label and count as wrong.", soft_wrap=True
        )
    console.print(
        f"{len(predictions)} predictions in {seconds:.1f} s; {METRICS_FILE}, {PREDICTIONS_FILE}, {MANIFEST_FILE} in {output}",
        soft_wrap=True,
    )
    return 0


def repeat_zero_shot(predictions: Sequence[Prediction], seeds: int) -> list[Prediction]:
    """Without demonstrations the prompts of all seeds are the same: they are scored once, and stand here for every seed."""
    repeated = [prediction for prediction in predictions if prediction.shots]
    zero_shot = [prediction for prediction in predictions if not prediction.shots]
    return [prediction._replace(seed=seed) for seed in range(seeds) for prediction in zero_shot] + repeated


def _check(options: argparse.Namespace, output: Path) -> None:
    for name in ("seeds", "batch_size"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}; give a larger number")
    if options.limit < 0:
        raise InputError(f"--limit must be 0 (all) or more, got {options.limit}; give another number")
    if options.device == "gpu" and not torch.cuda.is_available():
        raise InputError("--device gpu: this machine has no GPU that torch can use; take --device cpu, or install torch with CUDA")
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output}: is a file; give a folder")


def _load(options: argparse.Namespace) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if options.checkpoint == "random":
        tokenizer = load_tokenizer(options.tokenizer or MINI)
        return random_model(options.seed, tokenizer), tokenizer
    return load_checkpoint(options.checkpoint)


def _build_data(
    options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
) -> tuple[SentimentDataModule, dict[str, Path]]:
    pool = options.pool or ("sst2" if options.data == "sst2" else options.data)
    files = {"data": resolve_data(options.data, "validation"), "pool": resolve_data(pool, "train")}
    data = SentimentDataModule(
        predict=str(files["data"]),
        pool=str(files["pool"]),
        shots=options.shots,
        seeds=options.seeds,
        selection=options.selection,
        template=options.template.replace("\\n", "\n"),
        label_words=options.label_words,
        max_length=_context(options, model),
        eval_batch_size=options.batch_size,
        limit=options.limit,
        trim_queries=options.trim_queries,
    )
    data.tokenizer = tokenizer
    data.prepare_prompts("predict")  # bad input ends here, before anything is written
    return data, files


def _context(options: argparse.Namespace, model: PreTrainedModel) -> int:
    """Tokens of a prompt at most; generation needs room for its answer."""
    config = model.config
    length = options.max_length or getattr(config, "n_positions", None) or getattr(config, "max_position_embeddings", None)
    if not length:
        raise InputError(f"{options.checkpoint}: its config names no context length; give one with --max-length")
    return int(length) - (MAX_NEW_TOKENS - 1 if options.scoring == "generate" else 0)


def _build_trainer(options: argparse.Namespace, output: Path) -> L.Trainer:
    accelerator = options.device if options.device != "auto" else ("gpu" if torch.cuda.is_available() else "cpu")
    precision = options.precision
    if precision == "auto":
        precision = "bf16-true" if accelerator == "gpu" and torch.cuda.is_bf16_supported() else "32-true"
    callbacks: list[Any] = [PredictionWriter(str(output / PREDICTIONS_FILE))]
    interactive = sys.stderr.isatty()
    if interactive:
        callbacks.append(RichProgressBar(leave=False))
    return L.Trainer(
        accelerator=accelerator,
        devices=1,
        precision=precision,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=interactive,
    )


def _manifest(
    options: argparse.Namespace,
    arguments: Sequence[str],
    files: dict[str, Path],
    trainer: L.Trainer,
    data: SentimentDataModule,
    seconds: float,
) -> dict[str, Any]:
    """What one needs to run it again: versions, command, seeds, file hashes, device, precision, time."""
    packages = ("rope-gpt2", "torch", "lightning", "transformers", "tokenizers", "numpy")
    hashed: dict[str, dict[str, Any]] = {name: {"path": str(path), "sha256": _sha256(path)} for name, path in files.items()}
    checkpoint = Path(options.checkpoint)
    if options.checkpoint != "random" and checkpoint.exists():
        members = [checkpoint] if checkpoint.is_file() else sorted(path for path in checkpoint.iterdir() if path.is_file())
        hashed["checkpoint"] = {"path": str(checkpoint), "sha256": {path.name: _sha256(path) for path in members}}
    device = torch.cuda.get_device_name() if trainer.strategy.root_device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "command": ["evaluate.py", *arguments],
        "options": vars(options),
        "demonstration_seeds": list(range(options.seeds)),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "files": hashed,
        "device": {"type": trainer.strategy.root_device.type, "name": device, "threads": torch.get_num_threads()},
        "precision": str(trainer.precision),
        "prompts_with_dropped_demonstrations": data.prompts_dropped,
        "demonstrations_dropped": data.demonstrations_dropped,
        "prompts_trimmed": data.prompts_trimmed,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
