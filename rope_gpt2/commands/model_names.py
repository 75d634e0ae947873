"""What a run's model is called in tables and reports: the checkpoint, and the scaling of RoPE that it was given."""

from collections.abc import Mapping
from typing import Any

ROPE_BOUNDS = ("beta_fast", "beta_slow", "attention_factor")  # transformers' names; options have `rope_` before them


def describe_rope(options: Mapping[str, Any]) -> str:
    """`yarn x 4`, with the bounds that were given; empty without a rope type.

    >>> describe_rope({"rope_type": "yarn", "rope_factor": 4.0, "rope_beta_fast": 16.0})
    'yarn x 4, beta_fast 16'
    """
    if not options.get("rope_type"):
        return ""
    factor = f" x {options['rope_factor']:g}" if options.get("rope_factor") else ""
    bounds = [f", {name} {options[f'rope_{name}']:g}" for name in ROPE_BOUNDS if options.get(f"rope_{name}") is not None]
    return f"{options['rope_type']}{factor}{''.join(bounds)}"


def describe_model(options: Mapping[str, Any], unknown: str = "unknown") -> str:
    """A run's model by the options in its manifest: the checkpoint, and the scaling that it was given.

    >>> describe_model({"checkpoint": "checkpoints/mini", "rope_type": "linear", "rope_factor": 2.0})
    'checkpoints/mini with rope linear x 2'
    """
    scaling = describe_rope(options)
    return str(options.get("checkpoint", unknown)) + (f" with rope {scaling}" if scaling else "")
