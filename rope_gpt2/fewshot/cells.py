"""Scores → cells: how good the predictions of one condition under one calibration are.

Metrics come from torchmetrics and scipy, but for the ECE: torchmetrics' needs as long as all the others together, and its bins are
needed for the reliability diagram as well. The tests compare the two.

Let C be conditions, n queries.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit
from torchmetrics.functional import classification

from rope_gpt2.fewshot.calibration import calibrate, predicted_labels
from rope_gpt2.fewshot.groups import Group, setting_of
from rope_gpt2.fewshot.intervals import wilson_interval
from rope_gpt2.fewshot.scores import Scores

BINS = 15  # of equal width (Guo et al. 2017)


@dataclass(frozen=True, slots=True)
class Cell:
    """One condition under one calibration: all queries.

    Attributes:
        condition: index into the run's conditions.
        shots, seed, order, demonstration_labels, selection, template: the condition; label_words: joined by "/".
        calibration: one of `CALIBRATIONS`.
        n: number of queries.
        accuracy: fraction right; what names neither label is wrong.
        wilson95: 95 % interval of the accuracy over queries (Wilson 1927).
        balanced_accuracy: mean over the labels that occur of the fraction of their queries that are right.
        macro_f1: mean F1 of the labels that occur or are predicted.
        mcc: Matthews' correlation coefficient (its multi-class form where a query can be uncertain), in [-1, 1], 0 where undefined.
        auroc: area under the ROC curve of the log-odds of positive; None with one label only, and for generated text.
        ece: expected calibration error of the predicted label's probability, 15 bins (Guo et al. 2017); None for generated text.
        confusion: counts; rows: true negative, positive; columns: predicted negative, positive, uncertain.
        predicted_positive, uncertain: fractions.
    """

    condition: int
    shots: int
    seed: int
    order: int
    demonstration_labels: str
    selection: str
    template: str
    label_words: str
    calibration: str
    n: int
    accuracy: float
    wilson95: tuple[float, float]
    balanced_accuracy: float
    macro_f1: float
    mcc: float
    auroc: float | None
    ece: float | None
    confusion: list[list[int]]
    predicted_positive: float
    uncertain: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """Confidence against accuracy, the headline's cells pooled; the bins of the ECE that hold anything, ascending.

    Attributes:
        confidence, accuracy: means of each bin.
        count: predictions in each bin.
    """

    confidence: list[float]
    accuracy: list[float]
    count: list[int]


def predict_calibrated(scores: Scores, calibration: str) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """[C, n] predicted labels and log-odds of positive."""
    calibrated = calibrate(scores, calibration)
    return predicted_labels(scores, calibrated), calibrated[..., 1] - calibrated[..., 0]


def evaluate_cells(
    scores: Scores, calibration: str, predicted: NDArray[np.int8], odds: NDArray[np.float32], areas: Sequence[float | None]
) -> list[Cell]:
    """A cell for each condition, in their order.

    Args:
        scores: of a run.
        calibration: of these predictions.
        predicted, odds: [C, n] from `predict_calibrated`.
        areas: [C] from `roc_areas`.
    """
    return [_cell(scores, index, calibration, predicted[index], odds[index], areas[index]) for index in range(len(scores.conditions))]


def roc_areas(scores: Scores) -> list[float | None]:
    """The AUROC of each condition: U / (positives · negatives) (Mann & Whitney 1947), ties counted half.

    Calibration adds the same to the log-odds of all queries, so it is one and the same under each.
    """
    positive = scores.sentiments == 1
    if scores.generated is not None or positive.all() or not positive.any():
        return [None] * len(scores.conditions)
    pairs = float(positive.sum()) * float((~positive).sum())
    areas: list[float | None] = []
    for logprobs in scores.label_logprobs:
        odds = logprobs[:, 1] - logprobs[:, 0]
        areas.append(float(stats.mannwhitneyu(odds[positive], odds[~positive], method="asymptotic").statistic) / pairs)
    return areas


def _cell(
    scores: Scores, index: int, calibration: str, predicted: NDArray[np.int8], odds: NDArray[np.float32], auroc: float | None
) -> Cell:
    condition, n = scores.conditions[index].condition, len(predicted)
    confusion = np.bincount(3 * scores.sentiments.astype(np.int64) + predicted, minlength=6).reshape(2, 3)
    right = int(np.trace(confusion))
    classes = 2 if scores.generated is None else 3
    ours, truth = torch.from_numpy(predicted.astype(np.int64)), torch.from_numpy(scores.sentiments.astype(np.int64))
    occurs, found = confusion.sum(axis=1) > 0, confusion[:, :2].sum(axis=0) > 0
    recall = classification.multiclass_recall(ours, truth, classes, average=None, validate_args=False)[:2].numpy()
    f1 = classification.multiclass_f1_score(ours, truth, classes, average=None, validate_args=False)[:2].numpy()
    return Cell(
        condition=index,
        seed=condition.demonstration_seed,
        order=condition.order,
        **asdict(setting_of(condition)),
        calibration=calibration,
        n=n,
        accuracy=right / n,
        wilson95=wilson_interval(right, n),
        balanced_accuracy=float(recall[occurs].mean(dtype=np.float64)),
        macro_f1=float(f1[occurs | found].mean(dtype=np.float64)),
        # three classes always: for two, torchmetrics puts a limit where the coefficient is undefined, of up to 1 for a constant prediction
        mcc=float(classification.multiclass_matthews_corrcoef(ours, truth, 3, validate_args=False)),
        auroc=auroc,
        ece=_ece(odds, predicted == scores.sentiments) if scores.generated is None else None,
        confusion=confusion.tolist(),
        predicted_positive=float(confusion[:, 1].sum() / n),
        uncertain=float(confusion[:, 2].sum() / n),
    )


def _bin(odds: NDArray[np.float32], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[3, BINS] by the predicted label's probability: number of predictions, sum of these probabilities, number that is right."""
    confidence = expit(np.abs(odds).astype(np.float64))
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    return np.stack([np.bincount(bins, weights, BINS) for weights in (None, confidence, right)])


def _ece(odds: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """Sum over bins of the bin's share times |accuracy - mean confidence| (Guo et al. 2017, eq. 3)."""
    _, confidence, accurate = _bin(odds, right)
    return float(np.abs(accurate - confidence).sum() / len(odds))


def measure_reliability(scores: Scores, group: Group, calibration: str) -> Reliability:
    """Of the predictions of a group, pooled.

    Args:
        scores: of a run; label scores, not generated text.
        group: of its conditions.
        calibration: one of `CALIBRATIONS`.
    """
    predicted, odds = predict_calibrated(scores, calibration)
    sums = np.sum([_bin(odds[index], predicted[index] == scores.sentiments) for index in group.indices], axis=0)
    count, confidence, right = sums[:, sums[0] > 0]
    return Reliability((confidence / count).tolist(), (right / count).tolist(), count.astype(int).tolist())
