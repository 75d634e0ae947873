"""Calibration is the matrix of the paper, takes away what is the same for all queries, and changes nothing where there is no bias."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_scores import scores_of
from scipy.special import softmax

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.calibration import CALIBRATIONS, available_calibrations, calibrate, predicted_labels

GENERATOR = np.random.default_rng(0)
SHIFTING = [method for method in CALIBRATIONS if method != "none"]


def biased(conditions=3, n=40, bias=1.5, scale=1.0):
    """Scores with the same preference for positive in queries and content-free inputs."""
    free = {
        kind: bias + 0.3 * GENERATOR.standard_normal((conditions, count)) for kind, count in (("contextual", 3), ("domain", 20), ("pmi", 1))
    }
    odds = bias + scale * GENERATOR.standard_normal((conditions, n))
    return scores_of(odds, [0, 1] * (n // 2), **free)


@pytest.mark.parametrize(("method", "kind"), [("contextual", "contextual"), ("domain", "domain"), ("batch", None)])
def test_calibration_is_the_diagonal_matrix_of_zhao(method, kind):
    scores = biased()
    ours = calibrate(scores, method)
    for index in range(3):
        free = scores.label_logprobs[index] if kind is None else scores.content_free[kind][index]
        weights = np.linalg.inv(np.diag(softmax(free.astype(np.float64), axis=1).mean(axis=0)))
        theirs = softmax(scores.label_logprobs[index].astype(np.float64), axis=1) @ weights.T
        np.testing.assert_array_equal(ours[index].argmax(axis=1), theirs.argmax(axis=1))
        np.testing.assert_allclose(softmax(ours[index], axis=1), theirs / theirs.sum(axis=1, keepdims=True), rtol=1e-5)


def test_pmi_subtracts_the_scores_of_the_premise():
    scores = biased()
    np.testing.assert_allclose(calibrate(scores, "pmi"), scores.label_logprobs - scores.content_free["pmi"], rtol=1e-6)


def test_none_leaves_the_scores_as_they_are():
    scores = biased()
    np.testing.assert_array_equal(calibrate(scores, "none"), scores.label_logprobs)


@pytest.mark.parametrize("method", SHIFTING)
def test_content_free_inputs_without_a_preference_change_no_confidence(method):
    free = {kind: np.zeros((2, 3)) for kind in ("contextual", "domain", "pmi")}
    odds = GENERATOR.standard_normal((2, 30))
    scores = scores_of(np.concatenate([odds, -odds], axis=1), [0, 1] * 30, **free)  # symmetric, so the batch has no preference either
    np.testing.assert_allclose(softmax(calibrate(scores, method), axis=-1), softmax(scores.label_logprobs, axis=-1), rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.floats(-5, 5), st.sampled_from(["contextual", "pmi"]))
def test_a_preference_shared_with_one_content_free_input_vanishes(bias, method):
    odds = np.linspace(-3, 3, 13)[None]
    plain, moved = (scores_of(odds + shift, [0, 1] * 6 + [0], **{method: np.full((1, 1), shift)}) for shift in (0.0, bias))
    ours, theirs = (np.diff(calibrate(scores, method))[..., 0] for scores in (moved, plain))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("method", SHIFTING)
def test_calibration_adds_the_same_to_the_log_odds_of_every_query(method):
    scores = biased()
    added = np.diff(calibrate(scores, method))[..., 0] - np.diff(scores.label_logprobs)[..., 0]
    np.testing.assert_allclose(added, added[:, :1].repeat(added.shape[1], axis=1), atol=2e-6)


def test_the_mean_of_batch_calibration_is_not_moved_by_a_label_without_any_probability():
    scores = scores_of(np.array([[-2000.0, -1500.0, -1000.0]]), [0, 0, 1])
    assert np.isfinite(calibrate(scores, "batch")).all()
    assert predicted_labels(scores, calibrate(scores, "batch")).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("method", ["none", "batch"])
def test_a_tie_goes_to_the_first_label(method):
    scores = scores_of(np.array([[0.0 if method == "none" else 0.7]]), [1])  # a batch of one query has the mean of itself
    assert predicted_labels(scores, calibrate(scores, method)).tolist() == [[0]]


def test_generated_text_is_its_own_prediction_and_is_not_calibrated():
    scores = scores_of(np.zeros((1, 3)), [0, 1, 1], generated=[[0, 2, 1]], pmi=np.zeros((1, 1)))
    assert available_calibrations(scores) == ("none",)
    assert predicted_labels(scores, calibrate(scores, "none")).tolist() == [[0, 2, 1]]
    with pytest.raises(InputError, match="generated"):
        calibrate(scores, "batch")


def test_a_calibration_is_available_with_its_content_free_inputs():
    assert available_calibrations(biased()) == CALIBRATIONS
    assert available_calibrations(scores_of(np.zeros((1, 2)), [0, 1], domain=np.zeros((1, 5)))) == ("none", "domain", "batch")


@pytest.mark.parametrize(("method", "complaint"), [("contextual", "content-free"), ("zhao", "must be one of")])
def test_what_cannot_be_calibrated_is_refused(method, complaint):
    with pytest.raises(InputError, match=complaint):
        calibrate(scores_of(np.zeros((1, 2)), [0, 1]), method)
