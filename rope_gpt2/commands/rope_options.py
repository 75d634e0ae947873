"""--rope-type and its like: a scaling of RoPE, without retraining, for the commands that load a checkpoint."""

import argparse
import sys
from typing import Any

from transformers import PreTrainedModel

from rope_gpt2.commands.model_names import ROPE_BOUNDS, describe_rope
from rope_gpt2.errors import InputError
from rope_gpt2.model.configuration import ROPE_TYPES
from rope_gpt2.model.scaling import check_scaling, scale_rope

AUTO = "auto"  # a factor: the multiple of the training length that is measured


def add_rope_options(parser: argparse.ArgumentParser, auto: bool = False) -> None:
    """Give a command the options; `check_rope_options` and `apply_rope_options` read them.

    Args:
        parser: of the command.
        auto: let --rope-factor be `AUTO`; the command puts a number in its place before it checks and applies.
    """
    add = parser.add_argument_group("scaling of RoPE, without retraining").add_argument
    add("--rope-type", choices=ROPE_TYPES, help="in place of the checkpoint's own")
    also = f"; {AUTO}: of each length its own" if auto else ""
    factor = _factor_or_auto if auto else float
    add("--rope-factor", type=factor, metavar="S", help=f"context asked for / training length, from 1 on; the other types need it{also}")
    add("--rope-beta-fast", type=float, metavar="TURNS", help="yarn: dimensions that turn more often in the training length are kept (32)")
    add("--rope-beta-slow", type=float, metavar="TURNS", help="yarn: those that turn less often are interpolated by S (1)")
    add(
        "--rope-attention-factor",
        type=float,
        metavar="F",
        help="yarn, longrope: queries and keys grow by F, at every length (by a rule of S)",
    )


def _factor_or_auto(text: str) -> float | str:
    return AUTO if text == AUTO else float(text)


def check_rope_options(options: argparse.Namespace) -> None:
    """Refuse what no model can do, before one is loaded.

    Raises:
        InputError: with the rule, the value and the remedy.
    """
    given = {name: value for name in ("factor", *ROPE_BOUNDS) if (value := getattr(options, f"rope_{name}")) is not None}
    if options.rope_type is None:
        for name, value in given.items():
            raise InputError(f"--rope-{name.replace('_', '-')} {value:g}: needs --rope-type; give one, or leave it out")
        return
    if options.rope_type != "default" and "factor" not in given:
        raise InputError(f"--rope-type {options.rope_type} needs --rope-factor; 4 is for four times the training length")
    if options.rope_type == "default" and "factor" in given:
        raise InputError("--rope-factor: --rope-type default has none; choose another type, or leave the factor out")
    check_scaling(options.rope_type, **given)


def apply_rope_options(options: argparse.Namespace, model: PreTrainedModel) -> None:
    """Scale a loaded model as the options say; a scaling of the checkpoint's own is replaced, and a note says so.

    Raises:
        InputError: for a model that cannot be scaled.
    """
    if options.rope_type is None:
        return
    own: dict[str, Any] = dict(getattr(model.config, "rope_parameters", None) or {})
    scale_rope(model, options.rope_type, options.rope_factor or 1.0, **{name: getattr(options, f"rope_{name}") for name in ROPE_BOUNDS})
    if own.get("rope_type", "default") != "default":
        was = f"{own['rope_type']} x {own.get('factor', 1.0):g}"
        print(f"{options.checkpoint} was made with {was}: {describe_rope(vars(options))} takes its place", file=sys.stderr)


def record_rope(options: argparse.Namespace) -> dict[str, Any]:
    """What of the options the scores depend on, under transformers' names; empty where the checkpoint is taken as it is."""
    if options.rope_type is None:
        return {}
    found = {name: getattr(options, f"rope_{name}") for name in ("type", "factor", *ROPE_BOUNDS)}
    return {("rope_type" if name == "type" else name): value for name, value in found.items() if value is not None}
