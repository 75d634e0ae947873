"""The sentence says what the made-up model does: a model of its labels, one of its demonstrations, and one that reads neither."""

import numpy as np
import pytest
from made_scores import scores_where

from rope_gpt2.fewshot.conditions import expand_grid
from rope_gpt2.fewshot.controls import compare_controls
from rope_gpt2.fewshot.groups import group_conditions

LABELS = ("gold", "random", "flipped", "none")
UNMOVED = dict.fromkeys(("zero", *LABELS), 0.7)


def controls_of(accuracies, shots=(0, 4), labels=LABELS, seeds=5, n=400):
    """Controls of a model that is right as often as said under each kind of labels; what is equally hard it gets right alike."""
    conditions = expand_grid(shots, seeds, demonstration_labels=labels)
    hardness = np.random.default_rng(0).permutation(n) / n
    wanted = [accuracies["zero" if condition.shots == 0 else condition.demonstration_labels] for condition in conditions]
    right = hardness < np.array(wanted)[:, None]
    scores = scores_where(right, conditions)
    groups = group_conditions([scored.condition for scored in scores.conditions])
    return compare_controls(groups, right)


@pytest.mark.parametrize(
    ("accuracies", "demonstrations", "labels", "claim"),
    [
        (UNMOVED, "not shown", "not shown", "uses neither its demonstrations nor their labels"),
        (UNMOVED | {"zero": 0.5}, "better", "not shown", "gains from its demonstrations but shows no use of the labels of these"),
        (UNMOVED | {"zero": 0.5, "random": 0.5, "flipped": 0.3}, "better", "better", "uses its demonstrations and their labels"),
        (UNMOVED | {"flipped": 0.6}, "not shown", "better", "shows no gain from its demonstrations but uses the labels of these"),
        (UNMOVED | {"zero": 0.9}, "worse", "not shown", "loses by its demonstrations but shows no use of the labels of these"),
        (UNMOVED | {"random": 0.9}, "not shown", "worse", "does worse with right labels on these than with wrong ones"),
        (UNMOVED | {"random": 0.6, "flipped": 0.9}, "not shown", "mixed", "but answers to the labels of these, better by right ones than"),
        (
            UNMOVED | {"none": 0.5},
            "not shown",
            "not shown",
            "shows no use of which labels these have; it does better where they have labels than where they have none",
        ),
        (
            UNMOVED | {"zero": 0.5, "none": 0.9},
            "better",
            "not shown",
            "have; it does worse where they have labels than where they have none",
        ),
    ],
)
@pytest.mark.parametrize("seeds", [1, 5])
def test_the_sentence_says_what_the_model_does(accuracies, demonstrations, labels, claim, seeds):
    (control,) = controls_of(accuracies, seeds=seeds)
    assert (control.demonstrations, control.labels) == (demonstrations, labels)
    assert control.verdict.startswith("At 4 shots this model ")
    assert claim in control.verdict
    assert control.verdict.endswith(".")
    assert "\n" not in control.verdict


def test_each_comparison_is_that_of_gold_labels_with_a_control():
    (control,) = controls_of({"zero": 0.5, "gold": 0.8, "random": 0.7, "flipped": 0.4, "none": 0.6}, n=10_000)
    assert [comparison.name for comparison in control.comparisons] == ["gold - zero", "gold - random", "gold - flipped", "gold - none"]
    assert [comparison.difference for comparison in control.comparisons] == pytest.approx([0.3, 0.1, 0.4, 0.2], abs=0.01)
    assert {(comparison.n, comparison.draws) for comparison in control.comparisons} == {(10_000, 5)}


def test_what_is_not_shown_comes_with_what_could_have_been():
    (control,) = controls_of(UNMOVED, seeds=1)
    smallest = 100 * control.comparisons[0].smallest_detectable
    assert f"+0.0 points against 0 shots (95 % interval -1.0 to +1.0; {smallest:.1f} points could have been shown)" in control.verdict
    assert "n = 400, one draw of demonstrations" in control.verdict
    (decided,) = controls_of(UNMOVED | {"zero": 0.2, "random": 0.2, "flipped": 0.2})
    assert "could have been shown" not in decided.verdict.split("against flipped")[0]


@pytest.mark.parametrize(("flipped", "gold", "follows"), [(0.3, 0.7, True), (0.6, 0.7, False), (0.49, 0.7, False), (0.3, 0.3, False)])
def test_predictions_follow_the_shown_labels_where_flipping_makes_them_wrong(flipped, gold, follows):
    (control,) = controls_of(UNMOVED | {"flipped": flipped, "gold": gold}, seeds=1)
    assert ("predictions follow the shown labels" in control.verdict) == follows


def test_predictions_follow_no_labels_where_flipping_is_not_shown_to_matter():
    conditions = expand_grid((0, 4), 1, demonstration_labels=("gold", "flipped"))
    generator, right = np.random.default_rng(0), []
    for condition in conditions:  # right on 202 or 178 of 400, whichever they are
        right.append(generator.permutation(400) < (178 if condition.demonstration_labels == "flipped" else 202))
    (control,) = compare_controls(group_conditions(conditions), np.array(right))
    assert control.labels == "not shown"
    assert "follow the shown labels" not in control.verdict


def test_orders_of_one_draw_are_no_draws():
    conditions = expand_grid((0, 4), 1, orders=6)
    (control,) = compare_controls(group_conditions(conditions), np.random.default_rng(0).random((len(conditions), 100)) < 0.7)
    assert "n = 100, one draw of demonstrations in 6 orders" in control.verdict


def test_queries_too_few_to_show_anything_say_so():
    (control,) = controls_of(UNMOVED, n=5, seeds=1)
    assert "so few queries cannot show any" in control.verdict
    assert "100.0 points" not in control.verdict


@pytest.mark.parametrize(
    ("shots", "labels", "flags"),
    [
        ((4,), ("gold",), "--shots 0 4 --demonstration-labels gold random flipped"),
        ((8,), ("gold", "none"), "--shots 0 8 --demonstration-labels gold random flipped"),
        ((0, 2), ("gold",), "--shots 0 2 --demonstration-labels gold random flipped"),
        ((2,), ("gold", "flipped"), "--shots 0 2 --demonstration-labels gold random flipped"),
    ],
)
def test_what_was_not_run_comes_with_its_flags(shots, labels, flags):
    (control,) = controls_of(UNMOVED, shots, labels)
    assert f"add {flags}." in control.verdict
    assert "not asked" in (control.demonstrations, control.labels)


def test_controls_for_each_number_of_shots_and_none_without_gold_labels():
    assert [control.shots for control in controls_of(UNMOVED, (0, 1, 4, 8))] == [1, 4, 8]
    assert controls_of(UNMOVED, (0,)) == ()
    assert controls_of(UNMOVED, (4,), ("random",)) == ()


def test_controls_compare_within_a_layout_and_a_selection():
    conditions = expand_grid(
        [0, 4],
        2,
        demonstration_labels=["gold", "flipped"],
        selections=["balanced", "similar"],
        label_words=[("bad", "good"), ("no", "yes")],
    )
    right = np.random.default_rng(0).random((len(conditions), 200)) < 0.5
    for index, condition in enumerate(conditions):  # flipped labels cost everything in one place alone
        if (condition.selection, condition.label_words, condition.demonstration_labels) == ("similar", ("no", "yes"), "flipped"):
            right[index] = False
        elif condition.shots:
            right[index] = right[0]
    controls = compare_controls(group_conditions(conditions), right)
    assert [(c.selection, c.label_words) for c in controls if c.labels == "better"] == [("similar", "no/yes")]
    assert len(controls) == 4
    assert all(len(control.comparisons) == 2 for control in controls)


def test_a_gain_that_the_exact_test_does_not_show_is_no_gain():
    """4 of 872 queries that differ, all of them for gold labels: the interval leaves out 0, and p = 0.125."""
    conditions = expand_grid([0, 4], 1)
    right = np.arange(872) < np.array([[500 if condition.shots == 0 else 504] for condition in conditions])
    (control,) = compare_controls(group_conditions(conditions), right)
    assert control.comparisons[0].ci95[0] > 0
    assert control.demonstrations == "not shown"
    assert "shows no gain from its demonstrations: gold labels make +0.5 points" in control.verdict
    assert "; but p = 0.125; " in control.verdict
    assert "could have been shown)" in control.verdict


def test_the_sentence_names_a_calibration():
    conditions = expand_grid([0, 4], 1)
    (control,) = compare_controls(group_conditions(conditions), np.ones((2, 20), bool), "batch")
    assert control.calibration == "batch"
    assert control.verdict.startswith("At 4 shots with calibration batch this model ")
