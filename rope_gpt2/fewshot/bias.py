"""Predictions and shown labels → what predictions follow other than the review (Zhao et al. 2021, section 4)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.groups import Group
from rope_gpt2.fewshot.scores import ScoredCondition


@dataclass(frozen=True, slots=True)
class Bias:
    """What predictions of one group follow, under one calibration.

    Zhao et al. 2021 show three biases: to the label of the last demonstrations (recency), to the label that most demonstrations show
    (majority), and to one label whatever is shown (common token). The first two are differences of the fraction predicted positive, in
    [-1, 1], 0 for none: between prompts whose last demonstration shows positive and those where it shows negative, and between prompts
    that show mostly positive and mostly negative. They are fitted together by least squares over the group's conditions,

        predicted positive = constant + recency · last + majority · most,    last ∈ {-1/2, 1/2}, most ∈ {-1/2, 0, 1/2},

    because a prompt with more positive labels ends in one more often. What does not vary has no bias to show: None. Where the two say
    the same (with one shot they do), each is the difference taken alone.

    Attributes:
        shots, demonstration_labels, selection, template, label_words, calibration: the group and how its scores were calibrated.
        recency: None, too, where no labels are shown or every query has its own demonstrations.
        majority: likewise.
        predicted_positive: mean fraction predicted positive; its distance from the true fraction is the bias to one label.
    """

    shots: int
    demonstration_labels: str
    selection: str
    template: str
    label_words: str
    calibration: str
    recency: float | None
    majority: float | None
    predicted_positive: float


def measure_bias(group: Group, conditions: Sequence[ScoredCondition], predicted_positive: NDArray, calibration: str) -> Bias:
    """The bias of a group.

    Args:
        group: of the run.
        conditions: the run's C conditions.
        predicted_positive: [C] fraction predicted positive.
        calibration: of these predictions.
    """
    indices = group.indices
    shares = predicted_positive[indices].astype(np.float64)
    shown = [_shown(conditions[index]) for index in indices]
    recency = majority = None
    if all(len(labels) for labels in shown):
        last = np.array([labels[-1] - 0.5 for labels in shown])
        most = np.array([np.sign(labels.mean() - 0.5) / 2 for labels in shown])
        recency, majority = _fit(shares, last, most)
    return Bias(
        **asdict(group.setting),
        calibration=calibration,
        recency=recency,
        majority=majority,
        predicted_positive=float(shares.mean()),
    )


def _shown(condition: ScoredCondition) -> NDArray[np.int64]:
    """Shown labels as indices into `LABELS`, oldest first; empty where they are not known or not shown."""
    labels = [demonstration.shown for demonstration in condition.demonstrations or ()]
    return np.array([LABELS.index(label) for label in labels if label is not None])


def _fit(shares: NDArray, last: NDArray, most: NDArray) -> tuple[float | None, float | None]:
    predictors = [last, most]
    varying = [bool(np.ptp(predictor) > 0) for predictor in predictors]
    if all(varying):
        table = np.column_stack([np.ones_like(last), last, most])
        if np.linalg.matrix_rank(table) == 3:
            _, recency, majority = np.linalg.lstsq(table, shares)[0]
            return float(recency), float(majority)
    alone = [float(np.polyfit(x, shares, 1)[0]) if varies else None for x, varies in zip(predictors, varying, strict=True)]
    return alone[0], alone[1]
