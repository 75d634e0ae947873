"""A made-up model that repeats what it was shown last, or most, has this bias and not the other."""

from itertools import product

import numpy as np
import pytest
from made_scores import scored

from rope_gpt2.fewshot.bias import measure_bias
from rope_gpt2.fewshot.conditions import Condition
from rope_gpt2.fewshot.groups import group_conditions


def bias_of(shown, positive, labels="gold"):
    """Bias where prompts show these labels and this share is predicted positive."""
    conditions = [scored(Condition(4, seed, demonstration_labels=labels), line) for seed, line in enumerate(shown)]
    (group,) = group_conditions([condition.condition for condition in conditions])
    return measure_bias(group, conditions, np.array(positive, float), "none")


@pytest.mark.parametrize(("recency", "majority"), [(0.3, 0.0), (0.0, 0.2), (0.2, 0.3), (-0.1, 0.1)])
def test_the_two_biases_are_told_apart(recency, majority):
    shown = list(product((0, 1), repeat=3))
    positive = [0.5 + recency * (line[-1] - 0.5) + majority * np.sign(sum(line) - 1.5) / 2 for line in shown]
    bias = bias_of(shown, positive)
    assert (bias.recency, bias.majority) == pytest.approx((recency, majority))
    assert bias.predicted_positive == pytest.approx(np.mean(positive))


def test_balanced_demonstrations_show_recency_alone():
    bias = bias_of([(0, 1), (1, 0), (0, 1), (1, 0)], [0.8, 0.5, 0.6, 0.3])
    assert bias.recency == pytest.approx(0.7 - 0.4)
    assert bias.majority is None


def test_with_one_shot_last_and_most_are_the_same():
    bias = bias_of([(0,), (1,), (1,)], [0.3, 0.7, 0.9])
    assert bias.recency == bias.majority == pytest.approx(0.5)


@pytest.mark.parametrize("shown", [[None, None], [(), ()], [(0, 1), (0, 1)]])
def test_what_is_not_known_or_does_not_vary_is_none(shown):
    bias = bias_of(shown, [0.3, 0.7])
    assert bias.recency is bias.majority is None
    assert bias.predicted_positive == 0.5
