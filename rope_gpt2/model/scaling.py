"""RoPE's scalings, switched on without retraining: a loaded model gets other frequencies, for contexts longer than it was trained at.

Let L be the original context in tokens, s the factor, R the rotary dimension, theta_i the frequencies of the default type.

- linear: theta_i / s, position interpolation (Chen et al. 2023, "Extending context window of LLMs via positional interpolation");
- dynamic: NTK-aware interpolation of a pass's own length beyond L, the default type up to L (Peng et al. 2023, "YaRN", on dynamic
  scaling); transformers takes the base b (s n / L - s + 1)^(R / (R - 2)) for a pass of n tokens;
- yarn: theta_i where a dimension turns more than beta_fast times in L, theta_i / s where fewer than beta_slow, a ramp between, and larger
  products of queries and keys at every length (Peng et al. 2023, section on YaRN; its bounds 32 and 1 are transformers' defaults);
- longrope: factors of each dimension, `short_factor` for passes up to L, `long_factor` beyond (Ding et al. 2024, "LongRoPE"). The paper
  searches for them; here they are one of its search's starting points, by a rule: short 1, long s^(2i / (R - 2)), i = 0 .. R/2 - 1,
  which is NTK-aware interpolation, the base b s^(R / (R - 2)) (Peng et al. 2023, definition 1);
- llama3: yarn's idea with Llama 3.1's own ramp and without its larger products (Dubey et al. 2024, as transformers computes it).
"""

import copy
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel

from rope_gpt2.errors import InputError
from rope_gpt2.model.configuration import ROPE_TYPES, RopeGPT2Config, checked_copy
from rope_gpt2.model.modeling import RopeGPT2ForCausalLM
from rope_gpt2.model.rotary import RopeGPT2RotaryEmbedding

YARN_BOUNDS = {"beta_slow": 1.0, "beta_fast": 32.0}  # transformers' defaults
LLAMA3_BOUNDS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}  # Llama 3.1's own
BOUNDS = {  # what a scaling may be told beside its factor, under transformers' names
    "yarn": ("beta_fast", "beta_slow", "attention_factor"),
    "longrope": ("attention_factor",),
    "llama3": tuple(LLAMA3_BOUNDS),
}
_NAMES_ORIGINAL = ("yarn", "longrope", "llama3")  # their parameters name the original context; n_positions is that of the others


def scale_rope(model: PreTrainedModel, rope_type: str, factor: float = 1.0, **bounds: float | None) -> None:
    """Switch a model to another rope type in place; its weights stay, and a scaling that it had is replaced.

    Keys that were computed before (a cache, an encoded prefix) are those of the other rotation: encode again.

    Args:
        model: a RopeGPT2ForCausalLM with the position encoding rope.
        rope_type: one of `ROPE_TYPES`; default goes back to the frequencies of an unscaled model.
        factor: s, of the original context; 1 for the default type.
        bounds: of `BOUNDS[rope_type]`; None leaves one at its default.

    Raises:
        InputError: for another kind of model, or a scaling that cannot be; the model is then as it was.
    """
    check_scaling(rope_type, factor, **bounds)
    if not isinstance(model, RopeGPT2ForCausalLM):
        raise InputError(f"rope type {rope_type}: only RoPE GPT-2 can be scaled, got a {type(model).__name__}; leave the rope type out")
    config: RopeGPT2Config = model.config  # type: ignore[assignment]  # transformers types the parent
    if config.position_encoding != "rope":
        raise InputError(
            f"rope type {rope_type}: the position encoding of the model is {config.position_encoding}; leave the rope type out"
        )
    scaled = copy.deepcopy(config)
    scaled.rope_parameters = checked_copy(scaling_parameters(config, rope_type, factor, **bounds))
    try:
        with _quiet():
            scaled.standardize_rope_params()
            scaled.check_rope()
    except ValueError as error:
        raise InputError(f"rope type {rope_type}: {' '.join(str(error).split())}") from error
    config.rope_parameters = scaled.rope_parameters
    model.transformer.rotary = RopeGPT2RotaryEmbedding(config).to(model.transformer.wte.weight.device)


def check_scaling(rope_type: str, factor: float = 1.0, **bounds: float | None) -> None:
    """Refuse what no model can be scaled by.

    Args:
        rope_type, factor, bounds: as `scale_rope` takes them.

    Raises:
        InputError: with the rule, the value and the remedy.
    """
    if rope_type not in ROPE_TYPES:
        raise InputError(f"rope type must be one of {', '.join(ROPE_TYPES)}, got {rope_type!r}; choose one of them")
    if not math.isfinite(factor) or factor < 1:
        raise InputError(f"rope factor must be a finite number from 1 on, got {factor:g}; 4 is for four times the training length")
    if rope_type == "default" and factor != 1:
        raise InputError(f"rope factor {factor:g}: the rope type default has none; choose {', '.join(ROPE_TYPES[1:])}, or leave it out")
    allowed = BOUNDS.get(rope_type, ())
    given = {name: value for name, value in bounds.items() if value is not None}
    for name, value in given.items():
        if name not in allowed:
            takes = f"takes {', '.join(allowed)} alone" if allowed else "takes none"
            raise InputError(f"{name} is no bound of the rope type {rope_type}, which {takes}; leave it out")
        if not math.isfinite(value) or value <= 0:
            raise InputError(f"{name} must be a finite number above 0, got {value:g}; leave it out for the paper's own")
    for usual in (YARN_BOUNDS, LLAMA3_BOUNDS):
        (low, least), (high, most) = ((name, given.get(name, value)) for name, value in usual.items())
        if least >= most:
            raise InputError(
                f"{low} must be below {high}, got {least:g} and {most:g}; {' and '.join(f'{v:g}' for v in usual.values())} are usual"
            )


def scaling_parameters(config: RopeGPT2Config, rope_type: str, factor: float, **bounds: float | None) -> dict[str, Any]:
    """`rope_parameters` of a model's shape under a scaling.

    Args:
        config: shape, base and original context of the model.
        rope_type, factor, bounds: as `check_scaling` passes them.

    Raises:
        InputError: for rotary dimensions or an original context that the type cannot do with.
    """
    own: dict[str, Any] = dict(config.rope_parameters or {})
    parameters = {name: own[name] for name in ("rope_theta", "partial_rotary_factor") if name in own} | {"rope_type": rope_type}
    length = original_context(config)
    if rope_type in _NAMES_ORIGINAL:
        parameters["original_max_position_embeddings"] = length
    elif length != config.n_positions:
        raise InputError(
            f"rope type {rope_type} takes n_positions as the original context, which is {config.n_positions} here and was {length}; "
            f"choose {', '.join(_NAMES_ORIGINAL)}"
        )
    if rope_type != "default":
        parameters["factor"] = float(factor)
    rotary_dim = int(config.head_dim * own.get("partial_rotary_factor", 1.0))
    if rope_type in ("dynamic", "longrope") and rotary_dim < 4:
        raise InputError(f"rope type {rope_type} needs a rotary dimension of at least 4, got {rotary_dim}; choose linear")
    if rope_type == "longrope":
        parameters |= {"short_factor": [1.0] * (rotary_dim // 2), "long_factor": ntk_factors(factor, rotary_dim)}
    if rope_type == "llama3":
        parameters |= LLAMA3_BOUNDS
    parameters |= {name: float(value) for name, value in bounds.items() if value is not None}
    if rope_type == "yarn":
        _check_ramp(parameters, rotary_dim)
    return parameters


def _check_ramp(parameters: dict[str, Any], rotary_dim: int) -> None:
    """Refuse bounds that lie beside all dimensions: transformers' ramp would run backwards, or interpolate nothing."""
    length = parameters["original_max_position_embeddings"]
    fastest = length / (2 * math.pi)  # turns within the original context
    slowest = fastest * parameters.get("rope_theta", 10_000.0) ** (2 / rotary_dim - 1)
    if (slow := parameters.get("beta_slow", YARN_BOUNDS["beta_slow"])) >= fastest:
        raise InputError(
            f"yarn's beta_slow must be below {fastest:.4g}, the turns of the fastest dimension in {length} tokens, got {slow:g}; "
            "choose linear"
        )
    if (fast := parameters.get("beta_fast", YARN_BOUNDS["beta_fast"])) <= slowest:
        raise InputError(
            f"yarn's beta_fast must be above {slowest:.4g}, the turns of the slowest dimension in {length} tokens, got {fast:g}; "
            "give a larger one"
        )


def ntk_factors(factor: float, rotary_dim: int) -> list[float]:
    """s^(2i / (R - 2)), i = 0 .. R/2 - 1: what divides each frequency under NTK-aware interpolation (Peng et al. 2023, definition 1).

    The fastest dimension stays as it is, the slowest is interpolated by the whole factor.
    """
    return [factor ** (2 * index / (rotary_dim - 2)) for index in range(rotary_dim // 2)]


def original_context(config: RopeGPT2Config) -> int:
    """L, in tokens: what the scaling in the config names, else `n_positions`."""
    return int((config.rope_parameters or {}).get("original_max_position_embeddings") or config.n_positions)


def scaled_context(config: RopeGPT2Config) -> int:
    """The context that a config is meant for, in tokens: L s under a scaling, rounded down, else `n_positions`."""
    factor = (config.rope_parameters or {}).get("factor")
    return int(original_context(config) * factor) if factor else config.n_positions


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers warns where the original context is not below `n_positions`; here it is `n_positions`, and values are checked above."""
    logger = logging.getLogger("transformers.modeling_rope_utils")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
