"""What is said of two runs is what the paired tests show, and what makes their comparison unfair is said."""

from dataclasses import replace

import numpy as np
import pytest
from made_scores import right_of, run_of, scored, scores_where

from rope_gpt2.fewshot.comparison import compare_scores
from rope_gpt2.fewshot.comparison_text import notes, sentences, warnings
from rope_gpt2.fewshot.conditions import Condition, expand_grid

OTHER = "{text} It was {label}\n"
ZERO_SHOTS = (Condition(0),)


def wins(only_a, only_b, conditions=ZERO_SHOTS, n=1000):
    """Two runs; in the first condition A alone and B alone have so many right, in the others neither has any."""
    right_a, right_b = np.zeros((len(conditions), n), bool), np.zeros((len(conditions), n), bool)
    right_a[0, :only_a], right_b[0, only_a : only_a + only_b] = True, True
    return scores_where(right_a, conditions), scores_where(right_b, conditions)


@pytest.mark.parametrize(
    ("only_a", "only_b", "begin", "end"),
    [
        (20, 60, "At 0 shots, B is better than A by 4.0 points (95 % interval 2.", "; p < 0.001)."),
        (60, 20, "At 0 shots, B is worse than A by 4.0 points (95 % interval 2.", "; p < 0.001)."),
        (40, 45, "At 0 shots, no difference shown: B less A is +0.5 points, 95 % interval -1.", "points could have been shown."),
        (
            0,
            0,
            "At 0 shots, no difference shown: B less A is 0.0 points, 95 % interval -0.4 to +0.4; p = 1",
            "points could have been shown.",
        ),
    ],
)
def test_a_sentence_claims_what_is_shown_and_no_more(only_a, only_b, begin, end):
    (sentence,) = sentences(compare_scores(*wins(only_a, only_b)))
    assert sentence.startswith(begin)
    assert sentence.endswith(end)


def test_a_difference_that_holm_does_not_let_pass_is_not_claimed():
    (alone,) = compare_scores(*wins(10, 23)).settings
    assert alone.outcome == "better"
    both = compare_scores(*wins(10, 23, [Condition(0), Condition(4)]))
    assert [one.outcome for one in both.settings] == ["not shown", "not shown"]
    assert both.settings[0].ci95[0] > 0
    assert (both.settings[0].p_value, both.settings[0].p_holm) == (alone.p_value, 2 * alone.p_value)
    first, second = sentences(both)
    assert first.startswith("At 0 shots, no difference shown: B less A is +1.3 points")
    assert "p = 0.035, 0.07 by Holm's correction for 2 settings" in first
    assert second.endswith("; one draw of demonstrations.")


def test_a_pairing_across_templates_and_label_words_is_said():
    a, b = run_of([Condition(0)]), run_of([Condition(0, template=OTHER, label_words=("bad", "[good]"))])
    (note,) = notes(compare_scores(a, b))
    assert "another template" in note
    assert "'{text} It was {label}\\n'" in note
    assert "another label words ('negative/positive' and 'bad/[good]')" in note


PLAN = {"precision": "32-true", "accelerator": "cpu", "scoring": "likelihood", "data": {"path": "a.csv", "sha256": "1"}}
PLAN |= {"pool": {"path": "p.csv", "sha256": "3"}}


def warned(a, b, **changes):
    return warnings(compare_scores(a, b), a, b, PLAN, PLAN | changes)


def test_runs_made_alike_are_not_warned_of():
    run = run_of(expand_grid([0, 4], seeds=2))
    assert warned(run, run) == []
    assert warnings(compare_scores(run, run), run, run, PLAN, {}) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"precision": "bf16-true", "accelerator": "gpu"}, "another precision and device (32-true, cpu against bf16-true, gpu)"),
        ({"scoring": "channel"}, "A was scored by likelihood and B by channel"),
        ({"data": {"path": "b.csv", "sha256": "2"}}, "other files (a.csv and b.csv)"),
        ({"pool": {"path": "q.csv", "sha256": "4"}}, "may show other demonstrations: they are drawn from other pools (p.csv and q.csv)"),
    ],
)
def test_what_makes_a_comparison_unfair_is_said(changes, expected):
    run = run_of([Condition(0), Condition(4)])
    (warning,) = warned(run, run, **changes)
    assert expected in warning


def test_the_pool_does_not_matter_without_demonstrations():
    run = run_of([Condition(0)])
    assert warned(run, run, pool={"path": "q.csv", "sha256": "4"}) == []


def test_other_demonstrations_and_other_seeds_are_said():
    conditions = [scored(Condition(2, seed), [0, 1]) for seed in range(3)]
    other = [conditions[0], scored(Condition(2, 1), [1, 1])]
    a, b = (scores_where(right_of(some, 0.7), some) for some in (conditions, other))
    seeds, shown = warned(a, b)
    assert "(at 2 shots): only those of both are compared" in seeds
    assert "other demonstrations in 1 of 2 paired conditions" in shown


def test_demonstrations_lost_in_one_run_are_said():
    a = run_of([Condition(4)], n=100)
    b = replace(a, conditions=(replace(a.conditions[0], prompts_dropped=25, demonstrations_dropped=40),))
    assert warned(a, b) == ["0.0 % of A's prompts and 25.0 % of B's lost demonstrations that exceeded the context."]


def test_lost_demonstrations_are_counted_in_the_settings_compared_alone():
    conditions = expand_grid([0, 64], seeds=1)
    a, b = run_of(conditions), run_of(conditions[1:])
    a, b = (
        replace(run, conditions=tuple(replace(one, prompts_dropped=200 * (one.condition.shots > 0)) for one in run.conditions))
        for run in (a, b)
    )
    assert not [line for line in warnings(compare_scores(a, b), a, b, {}, {}) if "lost demonstrations" in line]


def test_what_several_settings_could_show_is_said_to_be_before_the_correction():
    conditions = expand_grid([1, 4], seeds=1)
    several = sentences(compare_scores(run_of(conditions), run_of(conditions)))
    (alone,) = sentences(compare_scores(run_of(conditions[:1]), run_of(conditions[:1])))
    assert all("could have been shown before that correction" in line for line in several)
    assert "could have been shown;" in alone
