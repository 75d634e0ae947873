"""`rope-gpt2 length`: perplexity at multiples of the training length, with windows apart and sliding; where the heads look.

docs/length.md describes the file that `--output` writes.
"""

import argparse
import copy
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from tqdm import tqdm
from transformers import PreTrainedModel

from rope_gpt2.commands.console import stdout_console
from rope_gpt2.commands.devices import choose_device
from rope_gpt2.commands.model_names import ROPE_BOUNDS, describe_model
from rope_gpt2.commands.parser import Parser
from rope_gpt2.commands.rope_options import AUTO, add_rope_options, check_rope_options
from rope_gpt2.corpus.documents import Reading, read_pieces
from rope_gpt2.corpus.sources import find_sources
from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.pieces import write_json, write_whole
from rope_gpt2.length.perplexity import table_length
from rope_gpt2.length.plot import draw, write_image
from rope_gpt2.length.results import Plan, Study, as_json
from rope_gpt2.length.study import count_tokens, run_study
from rope_gpt2.length.text import read_tokens
from rope_gpt2.length.windows import KINDS
from rope_gpt2.model.scaling import scale_rope
from rope_gpt2.training.checkpoints import load_checkpoint
from rope_gpt2.training.notices import silence_notices
from rope_gpt2.training.whole_files import check_writable

IMAGES = (".png", ".svg")


def build_parser() -> argparse.ArgumentParser:
    """The options of `length`."""
    parser = Parser(
        prog="rope-gpt2 length",
        description="Perplexity of a causal language model at multiples of its training length, with windows apart and sliding, over all "
        "positions and those beyond that length; loss by position; how far back each head looks.",
    )
    parser.add_argument("--checkpoint", required=True, help="folder, hub name or .ckpt")
    parser.add_argument("--text", nargs="+", required=True, help="files (.txt, .jsonl, .csv, also .gz) or data sets of the hub")
    parser.add_argument("--column", help="of CSV, JSON lines and data sets")
    parser.add_argument("--document", choices=("file", "line"), default="file", help="what end-of-text tokens part, of plain text files")
    parser.add_argument("--tokens", type=int, default=0, metavar="N", help="read so many tokens of the text only; 0: all")
    parser.add_argument("--lengths", nargs="+", type=float, default=[1, 2, 4, 8], metavar="M", help="multiples of the training length")
    parser.add_argument("--training-length", type=int, metavar="N", help="in tokens; by default the context that the model's config names")
    parser.add_argument("--windows", nargs="+", choices=KINDS, default=list(KINDS), help="how windows are laid over the text")
    parser.add_argument("--stride", type=int, metavar="N", help="tokens by which sliding windows move on; by default half of each length")
    parser.add_argument("--attention-windows", type=int, default=2, metavar="N", help="windows to measure attention distance in; 0: none")
    parser.add_argument("--batch-tokens", type=int, default=8192, help="tokens read at once, one window at least")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="where to compute")
    parser.add_argument("--precision", choices=("auto", "32-true", "bf16-true"), default="auto", help="bfloat16 where it is computed with")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    add_rope_options(parser, auto=True)
    parser.add_argument("--output", required=True, metavar="FILE.json", help="what was measured")
    parser.add_argument("--plot", metavar="FILE.png", help="draw it as well (.png or .svg)")
    return parser


def length(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        InputError: for a wrong option, checkpoint or text, a text shorter than a window, or lengths that the model cannot read.
    """
    options = build_parser().parse_args(list(arguments))
    _check(options)
    silence_notices()
    sources = find_sources(options.text)
    read_files = [file for source in sources for file in source.files]
    check_writable(Path(options.output), "--output", read_files)
    if options.plot:
        check_writable(Path(options.plot), "--plot", read_files)
    model, tokenizer = load_checkpoint(options.checkpoint)
    plan = _plan(options, model)
    reading = Reading(column=options.column, document=options.document)
    documents = (text for texts in read_pieces(sources, reading) for text in texts)
    tokens = read_tokens(documents, tokenizer, options.tokens)
    total = count_tokens(plan, len(tokens))
    content: dict[str, Any] = {
        "checkpoint": options.checkpoint,
        "text": options.text,
        "document": options.document,
        "position_encoding": _encoding(model),
        "rope_parameters": copy.deepcopy(getattr(model.config, "rope_parameters", None)),
        "tokens": len(tokens),
    }
    accelerator, precision = choose_device(options.device, options.precision)
    network: torch.nn.Module = model  # transformers wraps `to` in a decorator that forgets its types
    network.to(device="cuda" if accelerator == "gpu" else "cpu", dtype=torch.bfloat16 if precision == "bf16-true" else torch.float32)
    with tqdm(desc="length", unit=" tokens", unit_scale=True, total=total, disable=not sys.stderr.isatty()) as progress:
        study = run_study(model, tokens, plan, partial(_scale, options, model), progress.update)
    _write(options, content | {"precision": precision, "seed": options.seed}, study)
    _print(options, study)
    return 0


def _check(options: argparse.Namespace) -> None:
    for multiple in options.lengths:
        if not (math.isfinite(multiple) and multiple > 0):
            raise InputError(f"--lengths are multiples of the training length, each above 0, got {multiple:g}; give 1 2 4 8, say")
    for name, least in (("training_length", 1), ("stride", 1), ("tokens", 0), ("attention_windows", 0), ("batch_tokens", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} must be at least {least}, got {value}; give a larger number")
    check_rope_options(argparse.Namespace(**vars(options) | {"rope_factor": _factor(options, 1.0)}))
    if options.plot and Path(options.plot).suffix not in IMAGES:
        raise InputError(f"--plot {options.plot}: must end in {' or '.join(IMAGES)}; give another name")


def _plan(options: argparse.Namespace, model: PreTrainedModel) -> Plan:
    config = model.config
    named = options.training_length or getattr(config, "n_positions", None) or getattr(config, "max_position_embeddings", None)
    if not named:
        raise InputError(f"{options.checkpoint}: its config names no context length; give the --training-length")
    return Plan(
        int(named),
        tuple(sorted(set(options.lengths))),
        tuple(kind for kind in KINDS if kind in options.windows),
        options.stride,
        options.attention_windows,
        options.batch_tokens,
        options.seed,
    )


def _scale(options: argparse.Namespace, model: PreTrainedModel, multiple: float) -> None:
    """Have the model read so many training lengths by the scaling of the options, if any."""
    if options.rope_type is not None:
        bounds = {name: getattr(options, f"rope_{name}") for name in ROPE_BOUNDS}
        scale_rope(model, options.rope_type, _factor(options, multiple) or 1.0, **bounds)


def _factor(options: argparse.Namespace, multiple: float) -> float | None:
    """Of the scaling at a multiple; None where there is no factor. Of dynamic, 1 follows the length of a window by itself."""
    if options.rope_factor != AUTO:
        factor: float | None = options.rope_factor
        return factor
    return 1.0 if options.rope_type == "dynamic" else max(1.0, multiple)


def _encoding(model: PreTrainedModel) -> str | None:
    """The position encoding by name, as far as a config or a table tells."""
    named: str | None = getattr(model.config, "position_encoding", None)
    if named is None and getattr(model.config, "rope_parameters", None):
        named = "rope"
    return named or ("learned" if table_length(model) else None)


def _write(options: argparse.Namespace, content: dict[str, Any], study: Study) -> None:
    content |= as_json(study)
    for result in content["results"] if options.rope_type is not None else ():
        result |= {"rope_type": options.rope_type, "rope_factor": _factor(options, result["multiple"])}
    asked = f"--output {options.output}"
    try:
        write_json(content, Path(options.output))
        if options.plot:
            asked = f"--plot {options.plot}"
            plot = draw(study)
            write_whole(Path(options.plot), lambda beside: write_image(plot, beside, Path(options.plot).suffix))
    except OSError as error:
        raise InputError(f"{asked}: cannot be written ({error.strerror}); choose another file") from error


def _name(options: argparse.Namespace) -> str:
    if options.rope_factor == AUTO:
        return describe_model(vars(options) | {"rope_factor": None}) + " x multiple"
    return describe_model(vars(options))


def _perplexity(value: float) -> str:
    return f"{value:.{2 if value < 100 else 1 if value < 1000 else 0}f}"


def _ratio(value: float) -> str:
    return f"{value:.3f}"


def _interval(limits: tuple[float, float] | None, write: Callable[[float], str]) -> str:
    return "" if limits is None else f"{write(limits[0])}–{write(limits[1])}"


def _print(options: argparse.Namespace, study: Study) -> None:
    table = Table(title=f"{_name(options)}, trained on {study.plan.training_length} tokens", box=SIMPLE_HEAD, collapse_padding=True)
    for name in ("length", "windows", "tokens", "perplexity", "95 %", "ratio", "95 %"):  # 80 columns hold them
        table.add_column(name, justify="left" if name == "windows" else "right", no_wrap=True)
    for result in study.results:
        cells = [str(result.length), result.windows + (", beyond" if result.positions == "beyond" else "")]
        if result.perplexity is not None:
            cells += [str(result.tokens), _perplexity(result.perplexity), _interval(result.interval, _perplexity)]
            cells += ["" if result.ratio is None else _ratio(result.ratio), _interval(result.ratio_interval, _ratio)]
        table.add_row(*cells)
    console = stdout_console()
    console.print(table)
    failed = (f"Not measured: {result.error}." for result in study.results if result.error)
    lines = list(dict.fromkeys(failed))
    if study.attention:
        distance = sum(head.mean_distance for head in study.attention) / len(study.attention)
        lines.append(f"Attention in windows of {study.attention_length} tokens looks {distance:.0f} tokens back in the mean over heads.")
    elif study.plan.attention_windows:
        lines.append("This model does not give its attention weights away: no distances.")
    if study.region.stretches < 2:
        lines.append("The text holds a single stretch of the longest length: no intervals; give more text or smaller --lengths.")
    lines.append(
        "Ratio: to the perplexity of the same tokens in windows of the shortest length; its interval is paired by stretch of text."
    )
    lines.append(f"All of it in {options.output}" + (f", drawn in {options.plot}" if options.plot else ""))
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
