"""Metrics are torchmetrics', accuracies are counts, and a summary is that of its cells."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_scores import scores_of, scores_where
from torchmetrics.functional import classification

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.calibration import CALIBRATIONS, calibrate
from rope_gpt2.fewshot.conditions import Condition, expand_grid
from rope_gpt2.fewshot.intervals import crossed_interval, wilson_interval
from rope_gpt2.fewshot.metrics import evaluate
from rope_gpt2.fewshot.scores import UNCERTAIN

tables = st.tuples(st.integers(1, 5), st.integers(2, 12), st.integers(0, 2**32 - 1)).map(
    lambda shape: np.random.default_rng(shape[2]).random(shape[:2]) < 0.6
)


def noisy(conditions, n=60, seed=0, **content_free):
    """Scores that know something of the labels."""
    generator = np.random.default_rng(seed)
    sentiments = generator.integers(0, 2, n)
    odds = 2 * sentiments - 1 + 2 * generator.standard_normal((len(conditions), n)) + generator.standard_normal((len(conditions), 1))
    return scores_of(odds, sentiments, conditions, **content_free)


@settings(max_examples=30, deadline=None)
@given(tables)
def test_a_cell_counts_what_is_right(right):
    cells = evaluate(scores_where(right), ["none"]).cells
    assert [(cell.condition, cell.shots, cell.seed, cell.n) for cell in cells] == [
        (seed, 4, seed, right.shape[1]) for seed in range(len(right))
    ]
    assert [cell.accuracy for cell in cells] == right.mean(axis=1).tolist()
    assert [cell.wilson95 for cell in cells] == [wilson_interval(int(line.sum()), len(line)) for line in right]
    assert [np.trace(np.array(cell.confusion)) for cell in cells] == right.sum(axis=1).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_the_metrics_of_a_cell_are_those_of_torchmetrics(seed):
    scores = noisy([Condition(4)], seed=seed)
    (cell,) = evaluate(scores, ["none"]).cells
    probabilities = torch.from_numpy(scores.label_logprobs[0]).double().softmax(dim=1)
    truth = torch.from_numpy(scores.sentiments).long()
    theirs = {
        "accuracy": classification.binary_accuracy(probabilities[:, 1], truth),
        "balanced_accuracy": classification.multiclass_accuracy(probabilities, truth, 2, average="macro"),
        "macro_f1": classification.multiclass_f1_score(probabilities, truth, 2, average="macro"),
        "mcc": classification.binary_matthews_corrcoef(probabilities[:, 1], truth),
        "auroc": classification.binary_auroc(probabilities[:, 1], truth),
        "ece": classification.multiclass_calibration_error(probabilities, truth, 2, n_bins=15),
    }
    assert {name: getattr(cell, name) for name in theirs} == pytest.approx({name: float(value) for name, value in theirs.items()}, abs=1e-6)
    confusion = classification.binary_confusion_matrix(probabilities[:, 1], truth).tolist()
    assert [line[:2] for line in cell.confusion] == confusion


def test_uncertain_counts_as_wrong():
    scores = scores_of(np.zeros((1, 4)), [1, 1, 1, 0], [Condition(0)], generated=[[UNCERTAIN, 1, 0, UNCERTAIN]])
    metrics = evaluate(scores)
    (cell,) = metrics.cells
    assert (cell.accuracy, cell.uncertain, cell.predicted_positive) == (0.25, 0.5, 0.25)
    assert cell.confusion == [[0, 0, 1], [1, 1, 1]]
    assert cell.balanced_accuracy == pytest.approx((0 + 1 / 3) / 2)
    assert cell.macro_f1 == pytest.approx((0 + 2 / (2 + 2)) / 2)
    assert cell.auroc is cell.ece is metrics.reliability is None
    assert metrics.summaries[0].uncertain_mean == 0.5


def test_the_mcc_of_generated_text_is_the_correlation_of_three_outcomes():
    """Gorodkin 2004: the covariance of indicator columns over the root of their variances."""
    generator = np.random.default_rng(0)
    truth, said = generator.integers(0, 2, 50), generator.integers(0, 3, (1, 50))
    (cell,) = evaluate(scores_of(np.zeros((1, 50)), truth, generated=said)).cells
    x, y = np.eye(3)[said[0]] - np.eye(3)[said[0]].mean(axis=0), np.eye(3)[truth] - np.eye(3)[truth].mean(axis=0)
    assert cell.mcc == pytest.approx((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()), abs=1e-6)


@pytest.mark.parametrize("sentiments", [[0, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
def test_a_constant_prediction_has_no_correlation_with_the_labels(sentiments):
    (cell,) = evaluate(scores_of(np.ones((1, 4)), sentiments, [Condition(0)]), ["none"]).cells
    assert cell.mcc == 0


def test_one_label_alone_has_no_auroc_and_everything_else():
    (cell,) = evaluate(scores_of(np.array([[1.0, 2.0, -1.0]]), [1, 1, 1], [Condition(0)]), ["none"]).cells
    assert cell.auroc is None
    assert cell.balanced_accuracy == pytest.approx(2 / 3)
    assert cell.mcc == 0


def test_calibration_moves_the_threshold_and_not_the_auroc():
    conditions = expand_grid([4], seeds=3)
    free = {kind: np.random.default_rng(1).standard_normal((3, 2)) for kind in ("contextual", "domain", "pmi")}
    scores = noisy(conditions, **free)
    metrics = evaluate(scores)
    assert [cell.calibration for cell in metrics.cells[::3]] == list(CALIBRATIONS)
    for cell in metrics.cells:
        odds = np.diff(calibrate(scores, cell.calibration)[cell.condition])[:, 0].astype(np.float64)
        theirs = classification.binary_auroc(torch.from_numpy(odds).sigmoid(), torch.from_numpy(scores.sentiments).long())
        assert cell.auroc == pytest.approx(float(theirs), abs=1e-6)
        assert cell.predicted_positive == np.mean(odds > 0)


@settings(max_examples=50, deadline=None)
@given(tables)
def test_a_summary_is_that_of_its_cells(right):
    metrics = evaluate(scores_where(right), ["none"])
    accuracies = np.array([cell.accuracy for cell in metrics.cells])
    (summary,) = metrics.summaries
    assert (summary.shots, summary.n, summary.seeds, summary.orders) == (4, right.shape[1], len(right), 1)
    assert summary.accuracy_mean == pytest.approx(accuracies.mean())
    assert summary.accuracy_std == (pytest.approx(accuracies.std(ddof=1)) if len(right) > 1 else None)
    assert (summary.accuracy_min, summary.accuracy_max) == (accuracies.min(), accuracies.max())
    assert summary.ci95 == crossed_interval(right)
    for name in ("balanced_accuracy", "macro_f1", "mcc", "auroc", "ece", "predicted_positive", "uncertain"):
        values = [getattr(cell, name) for cell in metrics.cells]
        assert getattr(summary, f"{name}_mean") == pytest.approx(np.mean(values))


def test_the_orders_of_a_seed_are_averaged_first():
    right = np.random.default_rng(0).random((6, 30)) < np.linspace(0.3, 0.9, 6)[:, None]
    conditions = [Condition(4, seed, order) for seed in range(3) for order in range(2)]
    (summary,) = evaluate(scores_where(right, conditions), ["none"]).summaries
    by_seed = right.reshape(3, 2, 30).mean(axis=1)
    assert (summary.seeds, summary.orders) == (3, 2)
    assert summary.accuracy_std == pytest.approx(by_seed.mean(axis=1).std(ddof=1))
    assert summary.ci95 == pytest.approx(crossed_interval(by_seed))


def test_the_orders_of_a_single_seed_stand_for_draws():
    right = np.random.default_rng(0).random((6, 30)) < np.linspace(0.3, 0.9, 6)[:, None]
    (summary,) = evaluate(scores_where(right, [Condition(4, 0, order) for order in range(6)]), ["none"]).summaries
    assert (summary.seeds, summary.orders, summary.accuracy_std) == (1, 6, None)
    assert summary.ci95 == crossed_interval(right)


@settings(max_examples=20, deadline=None)
@given(tables.filter(lambda right: len(right) > 1), st.randoms(use_true_random=False))
def test_a_summary_does_not_depend_on_the_order_of_conditions(right, random):
    shuffled = random.sample(range(len(right)), len(right))
    ours = evaluate(scores_where(right[shuffled], [Condition(4, seed) for seed in shuffled]), ["none"]).summaries
    assert ours == evaluate(scores_where(right), ["none"]).summaries


def test_summaries_come_by_calibration_and_shots():
    scores = noisy(expand_grid([16, 0, 4], seeds=2, demonstration_labels=["flipped", "gold"]))
    summaries = evaluate(scores, ["batch", "none"]).summaries
    ours = [(summary.calibration, summary.demonstration_labels, summary.shots) for summary in summaries]
    theirs = [("gold", 0), ("gold", 4), ("gold", 16), ("flipped", 4), ("flipped", 16)]
    assert ours == [(calibration, *setting) for calibration in ("batch", "none") for setting in theirs]


@pytest.mark.parametrize(("shots", "headline"), [([0, 4, 16], 4), ([0, 1, 2], 2), ([0], 0), ([8, 16], 16)])
def test_the_headline_is_four_shots_or_the_most(shots, headline):
    metrics = evaluate(noisy(expand_grid(shots, seeds=2, demonstration_labels=["gold", "random"])))
    summary = metrics.summaries[metrics.headline]
    assert (summary.shots, summary.demonstration_labels, summary.calibration) == (headline, "gold", "none")


def test_the_verdict_is_under_the_headlines_calibration():
    """Log-odds are shifted by 5 under 0 shots, so that all is predicted positive; batch calibration takes most of it away."""
    generator, sentiments = np.random.default_rng(0), np.arange(400) % 2
    odds = 2 * sentiments - 1 + generator.standard_normal((2, 400))
    scores = scores_of(odds + np.array([[5], [0]]), sentiments, expand_grid([0, 4]))
    plain, both, calibrated = (evaluate(scores, chosen) for chosen in (["none"], ["batch", "none"], ["batch"]))
    assert both.controls == plain.controls
    assert plain.controls[0].demonstrations == "better"
    (control,) = calibrated.controls
    zero, four = calibrated.summaries
    assert control.comparisons[0].difference == pytest.approx(four.accuracy_mean - zero.accuracy_mean)
    assert control.comparisons[0].difference < plain.controls[0].comparisons[0].difference / 2
    assert calibrated.verdict == control.verdict
    assert "with calibration batch" in calibrated.verdict


def test_the_reliability_diagram_pools_the_headlines_predictions():
    scores = noisy(expand_grid([0, 4], seeds=3))
    metrics = evaluate(scores, ["none"])
    bins = metrics.reliability
    assert sum(bins.count) == 3 * 60
    share = np.array(bins.count) / sum(bins.count)
    assert share @ bins.accuracy == pytest.approx(metrics.summaries[metrics.headline].accuracy_mean)
    odds = np.diff(scores.label_logprobs[1:])
    assert share @ bins.confidence == pytest.approx(float((1 / (1 + np.exp(-np.abs(odds)))).mean()))


def test_variance_is_split_where_several_cells_differ():
    grid = expand_grid([0, 4], seeds=3, orders=2, templates=["Review: {text}\nSentiment: {label}\n\n", "{text} It was {label}.\n"])
    zero, four = evaluate(noisy(grid), ["none"]).variance
    assert (zero.shots, zero.seeds, zero.orders) == (0, None, None)
    assert zero.templates == pytest.approx(zero.total)
    assert four.shots == 4
    assert None not in (four.seeds, four.orders, four.templates, four.residual)
    assert evaluate(noisy(expand_grid([4])), ["none"]).variance == ()


@pytest.mark.parametrize("positives", [0, 2, 5, 7])
def test_the_majority_baseline_is_the_share_of_the_commoner_label(positives):
    metrics = evaluate(scores_of(np.ones((3, 7)), [1] * positives + [0] * (7 - positives)))
    assert metrics.majority_baseline == metrics.summaries[0].majority_baseline == pytest.approx(max(positives, 7 - positives) / 7)
    assert metrics.label_counts == {"negative": 7 - positives, "positive": positives}


@pytest.mark.parametrize("generated", [False, True])
@pytest.mark.parametrize("n", [1, 2, 30])
def test_everything_goes_to_json_and_holds_no_nan(generated, n):
    conditions = expand_grid([0, 1, 4], seeds=2, orders=3, demonstration_labels=["gold", "random", "none"])
    free = {kind: np.zeros((len(conditions), 2)) for kind in ("contextual", "domain", "pmi")}
    scores = noisy(conditions, n, **free)
    if generated:
        scores = dataclasses.replace(scores, generated=np.full((len(conditions), n), UNCERTAIN, np.int8))
    content = dataclasses.asdict(evaluate(scores))
    assert json.loads(json.dumps(content, allow_nan=False))["n"] == n


def test_scores_of_nothing_are_refused():
    with pytest.raises(InputError, match="0 rows"):
        evaluate(scores_of(np.zeros((1, 0)), []))
