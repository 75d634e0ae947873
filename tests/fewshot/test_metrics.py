"""Accuracies are counts, intervals are those of the formulas, and a 95 % interval holds the truth about 95 times in 100."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.metrics import evaluate_cells, summarize
from rope_gpt2.fewshot.scoring import UNCERTAIN, Prediction

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


def make(right, shots=4) -> list[Prediction]:
    """Predictions from rows of booleans: a row for each seed, a column for each query."""
    return [
        Prediction(
            row,
            LABELS[row % 2],
            LABELS[row % 2] if is_right else LABELS[1 - row % 2],
            shots,
            seed,
            logprob_negative=-1.0,
            logprob_positive=-2.0,
        )
        for seed, line in enumerate(right)
        for row, is_right in enumerate(line, start=1)
    ]


def wilson(right: int, n: int) -> tuple[float, float]:
    """Wilson 1927, in closed form."""
    centre = (right + Z**2 / 2) / (n + Z**2)
    half = Z / (n + Z**2) * math.sqrt(right * (n - right) / n + Z**2 / 4)
    return centre - half, centre + half


grids = st.tuples(st.integers(1, 5), st.integers(2, 12)).flatmap(
    lambda shape: st.lists(st.lists(st.booleans(), min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0])
)


@settings(max_examples=30, deadline=None)
@given(grids)
def test_a_cell_counts_what_is_right(right):
    cells = evaluate_cells(make(right))
    assert [(cell.shots, cell.seed, cell.n) for cell in cells] == [(4, seed, len(right[0])) for seed in range(len(right))]
    assert [cell.accuracy for cell in cells] == [sum(line) / len(line) for line in right]


@pytest.mark.parametrize(("right", "n"), [(0, 7), (7, 7), (1, 2), (50, 60), (800, 872)])
def test_the_interval_of_a_cell_is_wilsons(right, n):
    (cell,) = evaluate_cells(make([[True] * right + [False] * (n - right)]))
    assert cell.wilson95 == pytest.approx(wilson(right, n), abs=1e-12)


def test_cells_come_in_the_order_of_shots_and_seeds():
    predictions = make([[True], [False]], shots=16) + make([[True], [True]], shots=0)
    ours = evaluate_cells(predictions[::-1])
    assert [(cell.shots, cell.seed) for cell in ours] == [(0, 0), (0, 1), (16, 0), (16, 1)]
    assert [cell.accuracy for cell in ours] == [1, 1, 1, 0]


def test_uncertain_counts_as_wrong():
    predictions = [
        Prediction(row, "positive", said, 0, 0, -1.0, -2.0) for row, said in enumerate((UNCERTAIN, "positive", "negative", UNCERTAIN))
    ]
    (cell,) = evaluate_cells(predictions)
    assert (cell.accuracy, cell.uncertain, cell.predicted_positive) == (0.25, 0.5, 0.25)
    (summary,) = summarize(predictions)
    assert summary.accuracy_mean == 0.25


@settings(max_examples=50, deadline=None)
@given(grids, st.sampled_from([0, 4]))
def test_a_summary_is_that_of_its_cells_and_its_interval_holds_the_mean(right, shots):
    if shots == 0:
        right = [right[0]] * len(right)  # without demonstrations the prompts of all seeds are the same
    predictions = make(right, shots)
    accuracies = np.array([cell.accuracy for cell in evaluate_cells(predictions)])
    (summary,) = summarize(predictions)
    assert (summary.shots, summary.n, summary.seeds) == (shots, len(right[0]), len(right))
    assert summary.accuracy_mean == pytest.approx(accuracies.mean())
    assert summary.accuracy_std == pytest.approx(accuracies.std(ddof=1) if len(right) > 1 else 0)
    low, high = summary.ci95
    assert 0 <= low <= summary.accuracy_mean + 1e-12
    assert summary.accuracy_mean - 1e-12 <= high <= 1


@settings(max_examples=30, deadline=None)
@given(grids, st.randoms(use_true_random=False))
def test_a_summary_does_not_depend_on_the_order_of_predictions(right, random):
    predictions = make(right)
    shuffled = random.sample(predictions, len(predictions))
    (ours,), (theirs,) = summarize(shuffled), summarize(predictions)
    assert ours.ci95 == pytest.approx(theirs.ci95)
    assert ours.accuracy_std == pytest.approx(theirs.accuracy_std)


@pytest.mark.parametrize(("shots", "seeds"), [(4, 1), (0, 1), (0, 5)])
def test_one_seed_or_no_shots_give_wilsons_interval_over_queries(shots, seeds):
    (summary,) = summarize(make([[True] * 30 + [False] * 10] * seeds, shots))
    assert summary.ci95 == pytest.approx(wilson(30, 40))
    assert summary.accuracy_std == 0


def test_seeds_that_differ_widen_the_interval():
    same, different = [[True, False] * 20] * 4, [[True] * 40, [False] * 40] * 2
    widths = [high - low for low, high in (summarize(make(right))[0].ci95 for right in (same, different))]
    assert widths[1] > 2 * widths[0]


def test_a_summary_for_each_number_of_shots():
    predictions = make([[True, True]], 16) + make([[False, True]], 0) + make([[False, False]], 4)
    assert [(summary.shots, summary.accuracy_mean) for summary in summarize(predictions)] == [(0, 0.5), (4, 0.0), (16, 1.0)]


@pytest.mark.parametrize("positives", [0, 2, 5, 7])
def test_the_majority_baseline_is_the_share_of_the_commoner_label(positives):
    labels = ["positive"] * positives + ["negative"] * (7 - positives)
    predictions = [
        Prediction(row, label, "positive", 4, seed, -1.0, -2.0) for seed, (row, label) in product(range(3), enumerate(labels, start=1))
    ]
    assert summarize(predictions)[0].majority_baseline == pytest.approx(max(positives, 7 - positives) / 7)


@pytest.mark.parametrize(("of_queries", "of_seeds"), [(1.0, 0.5), (0.2, 1.0), (2.0, 0.1), (0.0, 0.0)])
def test_the_interval_holds_the_truth(of_queries, of_seeds):
    """Queries and seeds drawn anew 300 times: accuracy in logits is a mean, plus an effect of the query, plus one of the seed."""
    generator = np.random.default_rng(0)

    def chance(queries, seeds):
        return 1 / (1 + np.exp(-(1.0 + of_queries * queries + of_seeds * seeds)))

    truth = chance(*generator.standard_normal((2, 400_000))).mean()
    held = 0
    for _ in range(300):
        queries, seeds = generator.standard_normal(60), generator.standard_normal((5, 1))
        (summary,) = summarize(make(generator.random((5, 60)) < chance(queries, seeds)))
        held += summary.ci95[0] <= truth <= summary.ci95[1]
    assert held / 300 >= 0.92
