"""Scores made by hand, without a model."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rope_gpt2.fewshot.conditions import Condition
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.scores import Demonstration, ScoredCondition, Scores


def scored(condition: Condition, shown: Sequence[int] | None = None) -> ScoredCondition:
    """A condition whose demonstrations show these labels (indices into `LABELS`), oldest first."""
    if shown is None:
        return ScoredCondition(condition, None)
    return ScoredCondition(
        condition, tuple(Demonstration(row, "A review.", LABELS[label], LABELS[label]) for row, label in enumerate(shown, start=1))
    )


def scores_of(
    odds: NDArray,
    sentiments: Sequence[int],
    conditions: Sequence[Condition | ScoredCondition] | None = None,
    generated: NDArray | None = None,
    **content_free: NDArray,
) -> Scores:
    """Scores with these log-odds of positive.

    Args:
        odds: [C, n].
        sentiments: [n] indices into `LABELS`.
        conditions: C conditions; None: 4 shots, a seed for each.
        generated: [C, n], instead of scores.
        **content_free: kind → [C, K] log-odds of content-free inputs.
    """
    odds = np.asarray(odds, np.float64)
    if conditions is None:
        conditions = [Condition(4, seed) for seed in range(len(odds))]

    def logprobs(values: NDArray) -> NDArray[np.float32]:
        values = np.asarray(values, np.float64)
        return -np.logaddexp(0, np.stack([values, -values], axis=-1)).astype(np.float32)

    return Scores(
        rows=np.arange(1, odds.shape[1] + 1),
        sentiments=np.array(sentiments, np.int8),
        conditions=tuple(scored(condition) if isinstance(condition, Condition) else condition for condition in conditions),
        label_logprobs=logprobs(odds),
        generated=None if generated is None else np.array(generated, np.int8),
        content_free={kind: logprobs(values) for kind, values in content_free.items()},
    )


def scores_where(right: NDArray, conditions: Sequence[Condition | ScoredCondition] | None = None) -> Scores:
    """Scores whose predictions are right where asked, [C, n]; labels alternate, positive first."""
    right = np.asarray(right, bool)
    sentiments = (np.arange(right.shape[1]) + 1) % 2
    return scores_of(np.where(right == (sentiments == 1), 1.0, -1.0), sentiments.tolist(), conditions)


def right_of(conditions, accuracy, n=200, seed=0):
    """[C, n] right or wrong, drawn."""
    return np.random.default_rng(seed).random((len(conditions), n)) < accuracy


def run_of(conditions, accuracy=0.7, n=200, seed=0):
    """Scores of a run that is right so often."""
    return scores_where(right_of(conditions, accuracy, n, seed), conditions)
