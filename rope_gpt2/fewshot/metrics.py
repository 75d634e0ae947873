"""Scores → metrics: a cell for every condition and calibration, a summary for every setting, and what they mean together.

Everything is computed from `Scores`; all results go to JSON through `dataclasses.asdict` (None where a number is undefined).
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.bias import Bias, measure_bias
from rope_gpt2.fewshot.calibration import available_calibrations
from rope_gpt2.fewshot.cells import Cell, Reliability, evaluate_cells, measure_reliability, predict_calibrated, roc_areas
from rope_gpt2.fewshot.controls import Controls, compare_controls, unasked_verdict
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.groups import Group, Setting, group_conditions
from rope_gpt2.fewshot.intervals import crossed_interval, variance_components
from rope_gpt2.fewshot.order_choice import OrderChoice, choose_orders
from rope_gpt2.fewshot.scores import Scores

HEADLINE_SHOTS = 4


@dataclass(frozen=True, slots=True)
class Summary:
    """All seeds and orders of one setting under one calibration.

    Attributes:
        shots, demonstration_labels, selection, template, label_words, calibration: the setting and the calibration.
        n, seeds: number of queries and of demonstration seeds.
        orders: largest number of orders of a seed.
        accuracy_mean: mean over seeds of the mean over orders.
        accuracy_std: standard deviation over seeds of the mean over orders (n - 1 in the denominator), None for one seed.
        accuracy_min, accuracy_max: of the cells.
        ci95: 95 % interval of the mean over queries and seeds (with a single seed: orders); see `crossed_interval`.
        majority_baseline: accuracy of always answering the commoner label of these queries.
        balanced_accuracy_mean, macro_f1_mean, mcc_mean, auroc_mean, ece_mean, predicted_positive_mean, uncertain_mean: over the cells.
    """

    shots: int
    demonstration_labels: str
    selection: str
    template: str
    label_words: str
    calibration: str
    n: int
    seeds: int
    orders: int
    accuracy_mean: float
    accuracy_std: float | None
    accuracy_min: float
    accuracy_max: float
    ci95: tuple[float, float]
    majority_baseline: float
    balanced_accuracy_mean: float
    macro_f1_mean: float
    mcc_mean: float
    auroc_mean: float | None
    ece_mean: float | None
    predicted_positive_mean: float
    uncertain_mean: float


@dataclass(frozen=True, slots=True)
class Variance:
    """Where the variance of accuracy comes from, over all cells that differ in seed, order, template and label words alone.

    Attributes:
        shots, demonstration_labels, selection, calibration: what the cells share.
        total: variance of the cells' accuracies, in accuracy squared.
        seeds, orders, templates, residual: components of variance, see `variance_components`; None where one level alone was run.
            Templates stand for templates and label words together.
    """

    shots: int
    demonstration_labels: str
    selection: str
    calibration: str
    total: float
    seeds: float | None
    orders: float | None
    templates: float | None
    residual: float | None


@dataclass(frozen=True, slots=True)
class Metrics:
    """All that is computed from the scores of a run.

    Attributes:
        n: number of queries.
        label_counts: label → number of queries.
        majority_baseline: accuracy of always answering the commoner label.
        headline: index into `summaries`: gold labels, calibration none if asked for, 4 shots if scored, else the most.
        cells: calibration by calibration, in the order of the run's conditions.
        summaries: calibration by calibration, in the order of `group_conditions`.
        variance: of settings with several cells.
        bias: of every summary.
        order_choices: of every summary with several orders; none for generated text.
        controls: of every setting with gold labels and demonstrations, under the headline's calibration.
        verdict: the controls' sentence for the headline, or what to run to get one.
        reliability: of the headline; None for generated text.
    """

    n: int
    label_counts: dict[str, int]
    majority_baseline: float
    headline: int
    cells: tuple[Cell, ...]
    summaries: tuple[Summary, ...]
    variance: tuple[Variance, ...]
    bias: tuple[Bias, ...]
    order_choices: tuple[OrderChoice, ...]
    controls: tuple[Controls, ...]
    verdict: str
    reliability: Reliability | None


def evaluate(scores: Scores, calibrations: Sequence[str] | None = None) -> Metrics:
    """All metrics of a run.

    Args:
        scores: of at least one query and one condition.
        calibrations: some of `CALIBRATIONS`; None: all that the scores allow.

    Raises:
        InputError: for scores without queries or conditions, or a calibration that they do not allow.
    """
    if not len(scores.rows) or not scores.conditions:
        raise InputError(f"metrics need scores, got {len(scores.conditions)} conditions of {len(scores.rows)} rows; score some rows first")
    chosen = tuple(dict.fromkeys(calibrations or available_calibrations(scores)))
    groups = group_conditions([scored.condition for scored in scores.conditions])
    areas = roc_areas(scores)
    cells: list[Cell] = []
    summaries: list[Summary] = []
    variance: list[Variance] = []
    bias: list[Bias] = []
    choices: list[OrderChoice] = []
    for calibration in chosen:
        predicted, odds = predict_calibrated(scores, calibration)
        new = evaluate_cells(scores, calibration, predicted, odds, areas)
        accuracies, positive = np.array([cell.accuracy for cell in new]), np.array([cell.predicted_positive for cell in new])
        right = predicted == scores.sentiments
        summaries += [_summarize(group, calibration, new, right, _majority(scores)) for group in groups]
        variance += _variances(groups, calibration, accuracies)
        bias += [measure_bias(group, scores.conditions, positive, calibration) for group in groups]
        if scores.generated is None:
            choices += [choice for group in groups for choice in choose_orders(group, odds, accuracies, calibration)]
        cells += new
    headline = _headline(summaries)
    group, calibration = groups[headline % len(groups)], summaries[headline].calibration
    controls = compare_controls(groups, predict_calibrated(scores, calibration)[0] == scores.sentiments, calibration)
    return Metrics(
        n=len(scores.rows),
        label_counts={label: int((scores.sentiments == index).sum()) for index, label in enumerate(LABELS)},
        majority_baseline=_majority(scores),
        headline=headline,
        cells=tuple(cells),
        summaries=tuple(summaries),
        variance=tuple(variance),
        bias=tuple(bias),
        order_choices=tuple(choices),
        controls=controls,
        verdict=_verdict(group.setting, controls),
        reliability=measure_reliability(scores, group, calibration) if scores.generated is None else None,
    )


def _majority(scores: Scores) -> float:
    return float(np.bincount(scores.sentiments, minlength=2).max() / len(scores.rows))


def _summarize(group: Group, calibration: str, cells: Sequence[Cell], right: NDArray[np.bool_], majority: float) -> Summary:
    members = [cells[index] for index in group.indices]
    accuracies = np.array([cell.accuracy for cell in cells])
    by_seed = group.by_seed(accuracies)
    return Summary(
        **asdict(group.setting),
        calibration=calibration,
        n=right.shape[1],
        seeds=len(by_seed),
        orders=max(len(orders) for orders in group.members),
        accuracy_mean=float(by_seed.mean()),
        accuracy_std=float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None,
        accuracy_min=min(cell.accuracy for cell in members),
        accuracy_max=max(cell.accuracy for cell in members),
        ci95=crossed_interval(group.draws(right)),
        majority_baseline=majority,
        balanced_accuracy_mean=float(np.mean([cell.balanced_accuracy for cell in members])),
        macro_f1_mean=float(np.mean([cell.macro_f1 for cell in members])),
        mcc_mean=float(np.mean([cell.mcc for cell in members])),
        auroc_mean=_mean(cell.auroc for cell in members),
        ece_mean=_mean(cell.ece for cell in members),
        predicted_positive_mean=float(np.mean([cell.predicted_positive for cell in members])),
        uncertain_mean=float(np.mean([cell.uncertain for cell in members])),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _variances(groups: Sequence[Group], calibration: str, accuracies: NDArray[np.float64]) -> list[Variance]:
    """For every setting but its layout; one whose seeds or layouts have unlike numbers of cells has no balanced analysis, and none here."""
    by_layout: dict[tuple[int, str, str], list[Group]] = {}
    for group in groups:
        setting = group.setting
        by_layout.setdefault((setting.shots, setting.demonstration_labels, setting.selection), []).append(group)
    variances = []
    for (shots, labels, selection), layouts in by_layout.items():
        shapes = {(len(group.members), len(orders)) for group in layouts for orders in group.members}
        if len(shapes) == 1 and sum(len(group.indices) for group in layouts) > 1:
            table = np.stack([accuracies[np.array(group.members)] for group in layouts], axis=2)  # (seeds, orders, layouts)
            variances.append(Variance(shots, labels, selection, calibration, **asdict(variance_components(table))))
    return variances


def _headline(summaries: Sequence[Summary]) -> int:
    """The first of the best: gold labels, then the first calibration (none where it is there), then 4 shots, then the most."""

    def rank(index: int) -> tuple[bool, bool, bool, int, int]:
        summary = summaries[index]
        gold, plain = summary.demonstration_labels == "gold", summary.calibration == "none"
        return gold, plain, summary.shots == HEADLINE_SHOTS, summary.shots, -index

    return max(range(len(summaries)), key=rank)


def _verdict(headline: Setting, controls: Sequence[Controls]) -> str:
    keys = (headline.shots, headline.selection, headline.template, headline.label_words)
    for control in controls:
        if (control.shots, control.selection, control.template, control.label_words) == keys:
            return control.verdict
    return unasked_verdict(headline.shots)
