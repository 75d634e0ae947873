"""Predictions → accuracy with intervals: a cell for every shots × seed, a summary for every shots."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from scipy import stats

from rope_gpt2.fewshot.scoring import UNCERTAIN, Prediction


@dataclass(frozen=True, slots=True)
class Cell:
    """One condition: all queries with one number of shots and one demonstration seed.

    Attributes:
        shots, seed: the condition.
        n: number of queries.
        accuracy: fraction right, in [0, 1].
        wilson95: 95 % interval of the accuracy over queries (Wilson 1927), in [0, 1].
        predicted_positive: fraction predicted positive.
        uncertain: fraction that named neither label (generate only), counted as wrong.
    """

    shots: int
    seed: int
    n: int
    accuracy: float
    wilson95: tuple[float, float]
    predicted_positive: float
    uncertain: float


@dataclass(frozen=True, slots=True)
class Summary:
    """All seeds of one number of shots.

    Attributes:
        shots: demonstrations in a prompt.
        n: number of queries, the same for every seed.
        seeds: number of demonstration seeds.
        accuracy_mean: mean of the cells' accuracies.
        accuracy_std: standard deviation over seeds (n - 1 in the denominator), 0 for one seed.
        ci95: 95 % interval of the mean over queries and seeds both; see `summarize`.
        majority_baseline: accuracy of always answering the commoner label of these queries.
    """

    shots: int
    n: int
    seeds: int
    accuracy_mean: float
    accuracy_std: float
    ci95: tuple[float, float]
    majority_baseline: float


def evaluate_cells(predictions: Sequence[Prediction]) -> list[Cell]:
    """A cell for every shots × seed, in that order."""
    cells = []
    for (shots, seed), group in groupby(sorted(predictions, key=_condition), key=_condition):
        rows = list(group)
        right = sum(prediction.is_correct for prediction in rows)
        interval = stats.binomtest(right, len(rows)).proportion_ci(method="wilson")
        counts = Counter(prediction.predicted for prediction in rows)
        cells.append(
            Cell(
                shots=shots,
                seed=seed,
                n=len(rows),
                accuracy=right / len(rows),
                wilson95=(float(interval.low), float(interval.high)),
                predicted_positive=counts["positive"] / len(rows),
                uncertain=counts[UNCERTAIN] / len(rows),
            )
        )
    return cells


def summarize(predictions: Sequence[Prediction]) -> list[Summary]:
    """A summary for every number of shots.

    The interval treats queries and demonstration seeds as two crossed random factors: the variance of the mean is that of the
    queries' means over n plus that of the seeds' means over S (an upper bound in expectation; Owen 2007, "The pigeonhole
    bootstrap"), with a t quantile of S - 1 degrees of freedom for the part of the seeds. A single seed, and 0 shots (where the
    prompts of all seeds are the same), give the Wilson interval over queries alone.
    """
    summaries = []
    for shots, group in groupby(
        sorted(predictions, key=lambda prediction: (*_condition(prediction), prediction.row)), key=lambda prediction: prediction.shots
    ):
        rows = list(group)
        seeds = sorted({prediction.seed for prediction in rows})
        right = np.array([prediction.is_correct for prediction in rows], dtype=float).reshape(len(seeds), -1)  # (seeds, queries)
        by_seed, by_query = right.mean(axis=1), right.mean(axis=0)
        n, mean = right.shape[1], float(right.mean())
        if len(seeds) == 1 or shots == 0:
            interval = stats.binomtest(round(float(right[0].sum())), n).proportion_ci(method="wilson")
            low, high = float(interval.low), float(interval.high)
        else:
            of_queries = float(by_query.var(ddof=1)) / n if n > 1 else 0.0
            of_seeds = float(by_seed.var(ddof=1)) / len(seeds)
            half = math.hypot(stats.norm.ppf(0.975) * math.sqrt(of_queries), stats.t.ppf(0.975, len(seeds) - 1) * math.sqrt(of_seeds))
            low, high = max(0.0, mean - half), min(1.0, mean + half)
            if half == 0.0:  # all right or all wrong: no variance to go by
                interval = stats.binomtest(round(mean * n), n).proportion_ci(method="wilson")
                low, high = float(interval.low), float(interval.high)
        labels = Counter(prediction.sentiment for prediction in rows)
        summaries.append(
            Summary(
                shots=shots,
                n=n,
                seeds=len(seeds),
                accuracy_mean=mean,
                accuracy_std=float(by_seed.std(ddof=1)) if len(seeds) > 1 else 0.0,
                ci95=(low, high),
                majority_baseline=max(labels.values()) / len(rows),
            )
        )
    return summaries


def _condition(prediction: Prediction) -> tuple[int, int]:
    return prediction.shots, prediction.seed
