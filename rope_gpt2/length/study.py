"""Loss at multiples of the training length: results with intervals, the curve over positions, attention distances.

Let K be stretches, R scored tokens.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from transformers import PreTrainedModel

from rope_gpt2.errors import InputError
from rope_gpt2.length.attention_distance import HeadDistance, attention_distances, longest_measured
from rope_gpt2.length.perplexity import TokenLosses, score_windows, table_length
from rope_gpt2.length.results import Plan, PositionBin, Result, Study
from rope_gpt2.length.windows import Region, Setting, choose_region, lay_windows

RESAMPLES = 9_999
BINS = 8  # of the curve over positions, to a training length


def count_tokens(plan: Plan, num_tokens: int) -> int:
    """Tokens that the windows of a study read, each as often as it is read.

    Raises:
        InputError: if the text is too short or the stride too long.
    """
    settings = [setting for multiple in plan.multiples for setting in plan.settings(multiple)]
    region = choose_region(num_tokens, settings)
    return sum(window.length for setting in settings for window in lay_windows(region, setting))


def run_study(
    model: PreTrainedModel,
    tokens: Tensor,
    plan: Plan,
    prepare: Callable[[float], Any] = lambda multiple: None,
    advance: Callable[[int], Any] = lambda count: None,
) -> Study:
    """Measure.

    Args:
        model: in evaluation mode.
        tokens: [T] int64.
        plan: what to measure.
        prepare: called with a multiple before the model reads windows of it, to switch a scaling, say.
        advance: told how many tokens were read.

    Raises:
        InputError: if the text is too short, or the model can read none of the lengths.
    """
    region = choose_region(len(tokens), [setting for multiple in plan.multiples for setting in plan.settings(multiple)])
    results: list[Result] = []
    shortest: dict[str, TokenLosses] = {}  # by kind
    longest: tuple[float, str, TokenLosses] | None = None
    for multiple in sorted(set(plan.multiples)):
        prepare(multiple)
        for number, setting in enumerate(plan.settings(multiple)):
            windows = lay_windows(region, setting)
            error = refusal(model, setting.length)
            if error is not None:
                advance(sum(window.length for window in windows))
                results.append(Result(multiple, setting.length, setting.kind, setting.stride, error=error))
                continue
            scored = score_windows(model, tokens, windows, plan.batch_tokens, advance)
            results += _summarize(scored, shortest.get(setting.kind), multiple, setting, region, plan)
            shortest.setdefault(setting.kind, scored)
            if number == 0:
                longest = multiple, setting.kind, scored
    if longest is None:
        raise InputError(f"no length can be read: {results[0].error}; give smaller --lengths")
    multiple, kind, losses = longest
    prepare(multiple)
    attention, attended = _attend(model, tokens, region, plan, plan.length(multiple))
    curve = position_curve(losses, shortest[kind], max(1, plan.training_length // BINS))
    return Study(plan, region, tuple(results), curve, plan.length(multiple), attention, attended)


def refusal(model: PreTrainedModel, length: int) -> str | None:
    """Why a model cannot read so many tokens; None where it can."""
    table = table_length(model)
    return None if table is None or length <= table else f"{length} tokens exceed the learned position table of {table}"


def _summarize(
    scored: TokenLosses, shortest: TokenLosses | None, multiple: float, setting: Setting, region: Region, plan: Plan
) -> list[Result]:
    found = []
    for name, chosen in (("all", scored.positions >= 0), ("beyond", scored.positions >= plan.training_length)):
        if not chosen.any():
            continue
        loss, interval = _mean(scored.losses, chosen, region, plan.seed)
        result = Result(multiple, setting.length, setting.kind, setting.stride, name, int(chosen.sum()), loss, math.exp(loss), interval)
        if shortest is not None:
            more, limits = _mean(scored.losses - shortest.losses, chosen, region, plan.seed)
            result = replace(result, ratio=math.exp(more), ratio_interval=limits)
        found.append(result)
    return found


def _mean(losses: NDArray, chosen: NDArray, region: Region, seed: int) -> tuple[float, tuple[float, float] | None]:
    """Mean of the chosen [R] losses, in nats, and the interval of its exponential."""
    shape = region.stretches, region.stretch  # the same stretches of text for every setting, whatever its windows
    sums, counts = np.where(chosen, losses, 0.0).reshape(shape).sum(axis=1), chosen.reshape(shape).sum(axis=1)
    interval = loss_interval(sums, counts, seed)
    return float(sums.sum() / counts.sum()), None if interval is None else (math.exp(interval[0]), math.exp(interval[1]))


def loss_interval(sums: NDArray, counts: NDArray, seed: int) -> tuple[float, float] | None:
    """95 % interval of a mean loss: percentile bootstrap (Efron 1979) over stretches of text, whose tokens hang together.

    Args:
        sums: [K] losses of each stretch, in nats.
        counts: [K] tokens of each.
        seed: of the resamples; the same seed draws the same stretches at every length.

    Returns:
        In nats a token; None for a single stretch.
    """
    if len(sums) < 2:
        return None
    means = sums / np.maximum(counts, 1)
    if np.ptp(means) == 0:  # scipy warns where nothing varies
        return float(means[0]), float(means[0])

    def ratio(some: NDArray, number: NDArray, axis: int = -1) -> NDArray:
        value: NDArray = some.sum(axis=axis) / number.sum(axis=axis)
        return value

    found = stats.bootstrap(
        (sums, counts),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, 2**21 // len(sums)),  # resamples in memory at once
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def position_curve(scored: TokenLosses, reference: TokenLosses, width: int) -> tuple[PositionBin, ...]:
    """Mean loss of every `width` positions that scored a token, and that of the same tokens in other windows."""
    bins = scored.positions // width
    counts, sums, others = np.bincount(bins), np.bincount(bins, scored.losses), np.bincount(bins, reference.losses)
    last = int(scored.positions.max()) + 1
    return tuple(
        PositionBin(
            place * width,
            min((place + 1) * width, last),
            int(counts[place]),
            float(sums[place] / counts[place]),
            float(others[place] / counts[place]),
        )
        for place in np.flatnonzero(counts).tolist()
    )


def _attend(model: PreTrainedModel, tokens: Tensor, region: Region, plan: Plan, length: int) -> tuple[tuple[HeadDistance, ...], int]:
    """Distances in windows spread evenly over the region."""
    if not plan.attention_windows:
        return (), 0
    length = longest_measured(model, length)
    windows = lay_windows(region, Setting(length, "apart", length))
    windows = [window for window in windows if window.length == length]  # the last can be shorter
    places = np.unique(np.linspace(0, len(windows) - 1, min(plan.attention_windows, len(windows))).round().astype(int))
    chosen = [tokens[windows[place].start : windows[place].start + length] for place in places.tolist()]
    return tuple(attention_distances(model, chosen, plan.training_length)), length
