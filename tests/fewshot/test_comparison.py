"""What two runs share is compared, like with like; what is said is what the paired tests say."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_scores import right_of, run_of, scores_of, scores_where
from scipy import stats

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.comparison import compare_scores, holm_correction
from rope_gpt2.fewshot.comparison_text import notes
from rope_gpt2.fewshot.conditions import Condition, expand_grid
from rope_gpt2.fewshot.groups import group_conditions
from rope_gpt2.fewshot.intervals import paired_comparison
from rope_gpt2.fewshot.pairing import keep_rows, pair_rows, pair_settings, share_draws
from rope_gpt2.fewshot.scores import UNCERTAIN

OTHER = "{text} It was {label}\n"
THIRD = "{text} All in all {label}\n"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holms_correction_is_the_closed_test_of_bonferroni(p_values):
    """Marcus, Peritz & Gabriel 1976: a p-value holds if every set that it belongs to is rejected; Bonferroni tests the sets."""
    places = range(len(p_values))
    sets = [chosen for size in range(1, len(p_values) + 1) for chosen in combinations(places, size)]
    theirs = [max(min(1, len(chosen) * min(p_values[i] for i in chosen)) for chosen in sets if place in chosen) for place in places]
    assert holm_correction(p_values) == pytest.approx(theirs)


def test_one_seed_of_a_selection_that_is_drawn_stands_against_that_seed_alone():
    """Against all seeds of the other run a lucky draw would pass for the selection."""
    one, several = expand_grid([4], seeds=1), expand_grid([4], seeds=5, selections=["random"])
    (found,) = compare_scores(run_of(one), run_of(several, seed=1)).settings
    assert (found.draws, found.seeds, found.left_out) == (1, 1, 4)


def test_single_conditions_are_compared_by_mcnemars_exact_test():
    right_a, right_b = right_of([0], 0.6), right_of([0], 0.8, seed=1)
    (one,) = compare_scores(scores_where(right_a, [Condition(4)]), scores_where(right_b, [Condition(4)])).settings
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    assert (one.only_a, one.only_b, one.draws, one.n) == (only_a, only_b, 1, 200)
    assert one.p_value == one.p_holm == stats.binomtest(only_b, only_a + only_b).pvalue
    assert (one.accuracy_a, one.accuracy_b) == (right_a.mean(), right_b.mean())
    assert one.difference == pytest.approx(right_b.mean() - right_a.mean())


def test_seeds_are_compared_by_the_crossed_interval_after_their_orders_are_averaged():
    conditions = expand_grid([4], seeds=3, orders=2)
    right_a, right_b = right_of(conditions, 0.6), right_of(conditions, 0.7, seed=1)
    (one,) = compare_scores(scores_where(right_a, conditions), scores_where(right_b, conditions)).settings
    draws_a, draws_b = (right.reshape(3, 2, -1).mean(axis=1) for right in (right_a, right_b))
    theirs = paired_comparison(draws_b, draws_a, "")
    assert (one.draws, one.conditions, one.left_out) == (3, 6, 0)
    assert (one.p_value, *one.ci95) == pytest.approx((theirs.p_value, *theirs.ci95), abs=1e-6)
    assert (one.only_a, one.only_b) == ((draws_a > draws_b).sum(), (draws_b > draws_a).sum())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3), st.integers(1, 30))
def test_the_other_way_round_every_sign_turns(seed, seeds_a, seeds_b, n):
    a, b = (run_of(expand_grid([0, 4], seeds), 0.7, n, seed + i) for i, seeds in enumerate((seeds_a, seeds_b)))
    for one, other in zip(compare_scores(a, b).settings, compare_scores(b, a).settings, strict=True):
        assert other.difference == pytest.approx(-one.difference)
        assert (other.p_value, other.p_holm) == pytest.approx((one.p_value, one.p_holm))
        assert (other.only_a, other.only_b, other.left_out) == (one.only_b, one.only_a, one.left_out)
        if one.draws > 1:  # the bootstrap of a single draw has its resamples' noise
            assert other.ci95 == pytest.approx((-one.ci95[1], -one.ci95[0]))
            assert other.outcome == {"better": "worse", "worse": "better", "not shown": "not shown"}[one.outcome]


def test_a_run_does_not_differ_from_itself():
    run = run_of(expand_grid([0, 4], seeds=3, demonstration_labels=["gold", "random"]))
    comparison = compare_scores(run, run)
    assert {(one.difference, one.p_holm, one.outcome, one.only_a, one.only_b) for one in comparison.settings} == {(0, 1, "not shown", 0, 0)}
    assert len(comparison.settings) == 3
    assert comparison.only_a == comparison.only_b == ()


def test_seeds_and_orders_of_one_run_alone_are_left_out():
    conditions_a, conditions_b = expand_grid([4], seeds=5, orders=1), expand_grid([4], seeds=3, orders=2)
    right_a, right_b = right_of(conditions_a, 0.6), right_of(conditions_b, 0.7, seed=1)
    (one,) = compare_scores(scores_where(right_a, conditions_a), scores_where(right_b, conditions_b)).settings
    assert (one.conditions, one.left_out, one.draws) == (3, 2 + 3, 3)
    assert (one.accuracy_a, one.accuracy_b) == pytest.approx((right_a[:3].mean(), right_b[::2].mean()))


def test_demonstrations_that_no_seed_draws_stand_against_every_draw():
    drawn, similar = expand_grid([4], seeds=3), expand_grid([4], seeds=3, selections=["similar"])
    right_a, right_b = right_of(drawn, 0.6), right_of(similar, 0.7, seed=1)
    (one,) = compare_scores(scores_where(right_a, drawn), scores_where(right_b, similar)).settings
    assert (one.differs, one.draws, one.left_out, one.conditions) == (("selection",), 3, 0, 3)
    assert (one.accuracy_a, one.accuracy_b) == pytest.approx((right_a.mean(), right_b.mean()))


@pytest.mark.parametrize(
    ("templates_a", "templates_b", "paired"),
    [
        ([OTHER], [OTHER], [(OTHER, OTHER)]),
        ([OTHER], [THIRD], [(OTHER, THIRD)]),
        ([OTHER, THIRD], [THIRD, OTHER], [(OTHER, OTHER), (THIRD, THIRD)]),
        ([OTHER, THIRD], [OTHER], [(OTHER, OTHER)]),
        ([OTHER, THIRD], ["{text} {label}\n", OTHER], [(OTHER, OTHER)]),
        ([OTHER, THIRD], ["{text} {label}\n"], []),
    ],
)
def test_another_template_is_paired_where_there_is_no_choice(templates_a, templates_b, paired):
    groups_a, groups_b = (group_conditions(expand_grid([4], templates=templates)) for templates in (templates_a, templates_b))
    assert [(a.setting.template, b.setting.template) for a, b in pair_settings(groups_a, groups_b)] == paired


def test_settings_that_differ_in_one_factor_alone_are_paired_by_the_others():
    groups_a, groups_b = (
        group_conditions(expand_grid([0, 4], selections=["balanced", "random"], templates=[template])) for template in (OTHER, THIRD)
    )
    pairs = pair_settings(groups_a, groups_b)
    assert len(pairs) == 3
    assert all((a.setting.shots, a.setting.selection) == (b.setting.shots, b.setting.selection) for a, b in pairs)


def test_shots_and_demonstration_labels_are_never_paired_with_others():
    gold, flipped = (run_of(expand_grid([0, 4], demonstration_labels=[labels])) for labels in ("gold", "flipped"))
    comparison = compare_scores(gold, flipped)
    assert [one.a.shots for one in comparison.settings] == [0]
    (only_a,), (only_b,) = comparison.only_a, comparison.only_b
    assert (only_a.demonstration_labels, only_b.demonstration_labels) == ("gold", "flipped")
    assert "as B has no single counterpart: A's 4 shots, gold labels." in notes(comparison)[0]
    with pytest.raises(InputError, match=r"no setting in common \(A: shots 4 with labels gold; B: shots 8, 16 with labels gold\)"):
        compare_scores(run_of([Condition(4)]), run_of([Condition(8), Condition(16)]))


@pytest.mark.parametrize("generated", [False, True])
def test_shared_draws_are_the_same_seeds_and_orders(generated):
    conditions_a, conditions_b = expand_grid([4], 2, 3), list(reversed(expand_grid([4], 4, 2)))
    a, b = run_of(conditions_a), run_of(conditions_b)
    if generated:
        b = replace(b, generated=np.full(b.label_logprobs.shape[:2], UNCERTAIN, np.int8))
    (group_a,), (group_b,) = group_conditions(conditions_a), group_conditions(conditions_b)
    shared = share_draws(a, group_a, b, group_b)
    found = [
        [(conditions[i].demonstration_seed, conditions[i].order) for i in group.indices]
        for conditions, group in zip((conditions_a, conditions_b), shared, strict=True)
    ]
    assert found == [[(0, 0), (0, 1), (1, 0), (1, 1)]] * 2
    assert compare_scores(a, b).settings[0].accuracy_b == pytest.approx(
        0 if generated else right_of(conditions_b, 0.7)[[7, 6, 5, 4]].mean()
    )


def test_rows_are_paired_by_number_text_and_label():
    a = scores_of(np.zeros((1, 6)), [0, 1, 0, 1, 0, 1])
    texts = {row: f"Review {row}." for row in range(1, 7)}
    b = replace(keep_rows(a, np.array([1, 2, 3, 4])), sentiments=np.array([1, 0, 0, 0], np.int8))  # row 4 changed its label
    pairs = pair_rows(a, texts, b, texts | {3: "Another."})
    assert (pairs.a.tolist(), pairs.b.tolist()) == ([1, 4], [0, 3])
    assert (pairs.only_a, pairs.only_b, pairs.changed, pairs.differing) == (2, 0, 2, 4)
    assert pairs.first == "row 1 is in A alone"
    assert pair_rows(b, texts, keep_rows(a, pairs.a), texts).first == "row 3 is in A alone"
    assert pair_rows(keep_rows(a, np.array([2])), texts, b, texts | {3: "Another."}).first.endswith("in B alone")
    same = pair_rows(a, texts, a, texts)
    assert (same.differing, same.first, same.a.tolist(), same.b.tolist()) == (0, "", list(range(6)), list(range(6)))
    assert pair_rows(a, texts, a, texts | {2: "x" * 99}).first == f"row 2 is 'Review 2.' in A and '{'x' * 37}...' in B"
    turned = replace(a, sentiments=1 - a.sentiments)
    assert pair_rows(a, texts, turned, texts).first == "row 1 is 'negative' in A and 'positive' in B"


def test_batch_calibration_looks_at_the_compared_rows_alone():
    odds = np.random.default_rng(0).standard_normal((1, 60)) + np.linspace(-2, 2, 60)
    a = scores_of(odds, np.arange(60) % 2)
    part = keep_rows(a, np.arange(20))
    alone = scores_of(odds[:, :20], np.arange(20) % 2)
    assert compare_scores(part, part, "batch") == compare_scores(alone, alone, "batch")


def test_scores_of_other_queries_are_refused():
    a = scores_of(np.zeros((1, 4)), [0, 1, 0, 1])
    for b in (keep_rows(a, np.arange(3)), replace(a, rows=a.rows + 1), replace(a, sentiments=1 - a.sentiments)):
        with pytest.raises(InputError, match="same queries"):
            compare_scores(a, b)
