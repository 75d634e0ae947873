"""Scores made up for the tests of plots, page and report: the shape of a run's, from a seeded generator."""

from collections.abc import Sequence

import numpy as np

from rope_gpt2.fewshot.conditions import Condition, expand_grid
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.scores import Demonstration, ScoredCondition, Scores

EFFECTS = {"gold": 0.0, "random": -0.5, "flipped": -1.1, "none": -0.3}  # log-odds of the right label, against gold


def sample_scores(
    shots: Sequence[int] = (0, 1, 4, 16),
    seeds: int = 3,
    orders: int = 2,
    labels: Sequence[str] = ("gold", "random", "flipped", "none"),
    n: int = 120,
    content_free: Sequence[str] = ("contextual", "domain", "pmi"),
    generated: bool = False,
) -> Scores:
    """Scores of a grid of conditions on n made-up queries; 1 of 10 generated answers names neither label."""
    generator = np.random.default_rng(0)
    conditions = expand_grid(shots, seeds, orders, labels)
    sentiments = (np.arange(n) % 9 < 5).astype(np.int8)
    hardness = generator.normal(0, 1.2, n)
    odds = np.stack([_odds(condition, sentiments, hardness, generator) for condition in conditions])
    logprobs = np.stack([-np.logaddexp(0, odds), -np.logaddexp(0, -odds)], axis=-1).astype(np.float32) - 0.1
    named = (odds > 0).astype(np.int8)
    named[:, ::10] = 2
    return Scores(
        rows=np.arange(1, n + 1),
        sentiments=sentiments,
        conditions=tuple(ScoredCondition(condition, _demonstrations(condition, generator)) for condition in conditions),
        label_logprobs=logprobs,
        generated=named if generated else None,
        content_free={kind: generator.normal(-1, 0.2, (len(conditions), 3, 2)).astype(np.float32) for kind in content_free},
    )


def sample_reviews(scores: Scores) -> dict[int, str]:
    """Row → text."""
    return {
        int(row): f"The film of the {row}th day is {('bad', 'good')[label]}."
        for row, label in zip(scores.rows, scores.sentiments, strict=True)
    }


def _odds(condition: Condition, sentiments: np.ndarray, hardness: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    gain = (
        0.1
        + 0.5 * np.log2(1 + condition.shots)
        + (EFFECTS[condition.demonstration_labels] + 0.1 * generator.normal()) * bool(condition.shots)
    )
    right = gain + hardness + generator.normal(0, 0.6, len(sentiments))
    return np.where(sentiments == 1, right, -right) + 0.15 * generator.normal()


def _demonstrations(condition: Condition, generator: np.random.Generator) -> tuple[Demonstration, ...]:
    rows = generator.permutation(200)[: condition.shots]
    truths = [LABELS[row % 2] for row in rows]
    shown = {
        "gold": truths,
        "random": [LABELS[generator.integers(2)] for _ in rows],
        "flipped": [LABELS[1 - LABELS.index(truth)] for truth in truths],
        "none": [None] * len(rows),
    }[condition.demonstration_labels]
    return tuple(
        Demonstration(int(row) + 1, f"Example {row} is  here.", truth, word) for row, truth, word in zip(rows, truths, shown, strict=True)
    )
