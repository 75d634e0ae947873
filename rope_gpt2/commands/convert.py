"""`rope-gpt2 convert TARGET SRC DST`: GPT-2 in, stock GPT-2 and GPT-NeoX out, checkpoints as folders, scoring as a program."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rope_gpt2 import __version__
from rope_gpt2.commands.parser import Parser
from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.exported import export_scorer, write_scorer
from rope_gpt2.fewshot.template import DEFAULT_TEMPLATE, Template
from rope_gpt2.fewshot.verbalizer import Verbalizer
from rope_gpt2.model.conversion import from_gpt2, from_gpt_neox, to_gpt2, to_gpt_neox
from rope_gpt2.training.checkpoints import check_target, load_checkpoint, name_special_tokens, read_lightning_checkpoint, save_pretrained
from rope_gpt2.training.hub import check_hub, push
from rope_gpt2.training.model_card import Origin, read_results, write_card
from rope_gpt2.training.notices import silence_notices
from rope_gpt2.training.whole_files import check_writable

DTYPES = ("float32", "float16", "bfloat16")
EXACT = "The weights are the same numbers in another order, the logits the same."
SAME = "The weights are those of the checkpoint."
DROPPED = (
    "The position table is gone and queries and keys are rotated, which these weights have never seen: train it on before use (in the "
    "package: configs/heal.yaml)."
)
OF_THE_LENGTH = ("dynamic", "longrope")  # rope types whose frequencies hang on the longest position of a batch, padding included


class Target(NamedTuple):
    """What SRC becomes.

    Attributes:
        help: a line of `--help`.
        convert: the loaded model and the options → model to write, and what became of its logits.
        stock: a class of transformers, which loads in the dtype that it is stored in.
    """

    help: str
    convert: Callable[[PreTrainedModel, argparse.Namespace], tuple[PreTrainedModel, str]]
    stock: bool = False


def _from_gpt2(model: PreTrainedModel, options: argparse.Namespace) -> tuple[PreTrainedModel, str]:
    return from_gpt2(model, options.position_encoding), EXACT if options.position_encoding == "learned" else DROPPED


TARGETS = {
    "from-gpt2": Target("a GPT-2 as a RoPE GPT-2: its position table is dropped, or kept", _from_gpt2),
    "to-gpt2": Target("a RoPE GPT-2 with learned positions as the stock GPT-2 that it is", lambda model, _: (to_gpt2(model), EXACT), True),
    "to-gpt-neox": Target(
        "a RoPE GPT-2 as a stock GPT-NeoX, which loads without this package",
        lambda model, options: (to_gpt_neox(model, tie_head=not options.untie_head), EXACT),
        True,
    ),
    "from-gpt-neox": Target("a GPT-NeoX with a sequential residual as a RoPE GPT-2", lambda model, _: (from_gpt_neox(model), EXACT)),
    "from-checkpoint": Target("a checkpoint of fit as a folder that from_pretrained loads", lambda model, _: (model, SAME)),
}
EXPORT = "to-export"


def build_parser() -> argparse.ArgumentParser:
    """The options of `convert`, by target."""
    parser = Parser(prog="rope-gpt2 convert", description="Bring weights into and out of this package; the tokenizer travels along.")
    targets = parser.add_subparsers(dest="target", metavar="TARGET", required=True)
    for name, target in TARGETS.items():
        sub = targets.add_parser(name, help=target.help, description=target.help)
        source = "checkpoint of fit: FILE.ckpt, or the folder of a sharded one" if name == "from-checkpoint" else None
        sub.add_argument("source", metavar="SRC", help=source or "folder of save_pretrained, hub name or FILE.ckpt")
        sub.add_argument("folder", metavar="DST", help="folder to write; a model that stands there is replaced")
        if name == "from-gpt2":
            sub.add_argument("--position-encoding", choices=("rope", "learned"), default="rope", help="learned keeps GPT-2's table")
        if name == "to-gpt-neox":
            sub.add_argument("--untie-head", action="store_true", help="store the head as a matrix of its own, for llama.cpp")
        _add_dtype(sub)
        sub.add_argument("--results", metavar="RUN", help="folder that evaluate wrote; its accuracies go into the model card")
        sub.add_argument("--push-to-hub", metavar="NAME", help="publish the folder as OWNER/NAME on the Hugging Face hub as well")
        sub.add_argument("--private", action="store_true", help="with --push-to-hub: for the owner alone")
    about = "scoring as a program of torch.export, which runs without this package: prompts in, label log-probabilities out"
    sub = targets.add_parser(EXPORT, help=about, description=about)
    sub.add_argument("source", metavar="SRC", help="folder of save_pretrained, hub name or FILE.ckpt")
    sub.add_argument("file", metavar="FILE.pt2", help="file to write")
    sub.add_argument("--label-words", nargs=2, default=list(LABELS), metavar=("NEGATIVE", "POSITIVE"), help="the words for the labels")
    sub.add_argument("--template", default=DEFAULT_TEMPLATE.replace("\n", "\\n"), help="layout with {text} and {label}; \\n is a line end")
    _add_dtype(sub)
    return parser


def _add_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the stored weights")


def convert(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        InputError: for a source that cannot be converted or a place that cannot be written to; nothing is written then.
        VerificationError: if an exported program gives other numbers than the model.
    """
    options = build_parser().parse_args(list(arguments))
    silence_notices()
    if options.target == EXPORT:
        return _export(options)
    folder = Path(options.folder)
    check_target(folder)
    if folder.exists() and folder.resolve() == Path(options.source).resolve():
        raise InputError(f"{folder}: is source and target at once; give another folder to write")
    if options.private and not options.push_to_hub:
        raise InputError("--private is for --push-to-hub; give a name there, or leave it out")
    if options.push_to_hub:
        check_hub(options.push_to_hub)
    results = read_results(Path(options.results)) if options.results else None
    source, tokenizer = _load(options)
    target, dtype = TARGETS[options.target], getattr(torch, options.dtype)
    model, exactness = target.convert(source, options)
    check_range(model, dtype)
    if dtype != torch.float32:
        exactness += f" They are rounded to {options.dtype}."
    origin = Origin(options.target, options.source, exactness, __version__)
    card = write_card(model, folder, dtype, origin, results, options.push_to_hub)
    save_pretrained(model, tokenizer, folder, dtype, dtype if target.stock else torch.float32, card)
    print(f"Wrote {folder} ({type(model).__name__}, {model.num_parameters():,} parameters, {options.dtype})")
    if exactness.startswith(DROPPED):
        print(f"heal it: rope-gpt2 fit --config configs/heal.yaml --model.init_from {folder} --data.train TEXT")
    if options.push_to_hub:
        print(f"Published {push(folder, options.push_to_hub, options.private)}")
    return 0


def check_range(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Refuse a dtype in which a weight becomes infinite.

    Raises:
        InputError: naming the weight.
    """
    largest = torch.finfo(dtype).max
    for name, weight in model.state_dict().items():
        if weight.is_floating_point() and weight.abs().max() > largest:
            raise InputError(f"{name} holds {weight.abs().max():.3g}, more than {dtype} can: {largest:.3g}; take --dtype bfloat16")


def _load(options: argparse.Namespace) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    checkpoint = options.source.rstrip("/").endswith(".ckpt")
    if options.target == "from-checkpoint":
        model, tokenizer = read_lightning_checkpoint(Path(options.source))
    else:
        model, tokenizer = load_checkpoint(options.source.rstrip("/") if checkpoint else options.source)
    if checkpoint or options.target == "from-checkpoint":
        name_special_tokens(model, tokenizer)  # a checkpoint keeps the tokenizer's apart
    return model.eval(), tokenizer


def _export(options: argparse.Namespace) -> int:
    path = Path(options.file)
    if path.suffix != ".pt2":
        raise InputError(f"{path}: torch.export reads files that end in .pt2 alone; name it so")
    template, verbalizer = Template(options.template.replace("\\n", "\n")), Verbalizer(tuple(options.label_words))
    check_writable(path, "FILE.pt2")
    model, tokenizer = _load(options)
    rope_type = (getattr(model.config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope_type in OF_THE_LENGTH:
        raise InputError(f"rope type {rope_type} turns by another angle in longer batches, which no exported program can; take another")
    dtype = getattr(torch, options.dtype)
    check_range(model, dtype)
    network: torch.nn.Module = model  # transformers wraps `to` in a decorator that forgets its types
    network.to(dtype).requires_grad_(False)
    learned = any(name.endswith(("wpe", "embed_positions")) and isinstance(one, torch.nn.Embedding) for name, one in model.named_modules())
    longest = model.config.max_position_embeddings if learned else None
    program = export_scorer(model, verbalizer.token_ids(tokenizer, template), longest)
    write_scorer(program, tokenizer, template, verbalizer, path)
    print(f"Wrote {path} ({type(model).__name__}, {options.dtype}; label words {', '.join(verbalizer.words)})")
    return 0
