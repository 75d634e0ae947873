"""Stored scores → calibrated scores: what a label gains over what the prompt gives it without the review.

Every method subtracts one log-score for each label and condition, so it moves the threshold between the labels and never the order of
the queries (the AUROC stays). Nothing here needs the model.

Let C be conditions, n queries, K content-free inputs.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.scores import Scores

CALIBRATIONS = ("none", "contextual", "domain", "batch", "pmi")
_CONTENT_FREE = ("contextual", "domain", "pmi")


def allowed_calibrations(scoring: str) -> tuple[str, ...]:
    """Those of `CALIBRATIONS` that make sense of what a scoring gives.

    Under the noisy channel an input without content has no likelihood to speak of, and generated text has no scores.
    """
    return {"generate": ("none",), "channel": ("none", "batch")}.get(scoring, CALIBRATIONS)


def available_calibrations(scores: Scores) -> tuple[str, ...]:
    """Those of `CALIBRATIONS` that these scores allow: generated text has no scores to calibrate, others need their content-free inputs."""
    if scores.generated is not None:
        return ("none",)
    return tuple(method for method in CALIBRATIONS if method not in _CONTENT_FREE or method in scores.content_free)


def calibrate(scores: Scores, method: str) -> NDArray[np.float32]:
    """Calibrated log-scores: the largest is the prediction, their softmax the confidence.

    - none: the scores as they are.
    - contextual (Zhao et al. 2021, section 5): W = diag(p_cf)^-1, b = 0, with p_cf the mean over content-free inputs ("N/A", "[MASK]", "")
      of the label probabilities, normalised over the two labels. Here W p is normalised, not passed through another softmax as in the
      paper: the predictions are the same, and the confidence stays a probability.
    - domain (Fei et al. 2023): the same, with inputs of random words of the task's own texts.
    - batch (Zhou et al. 2023): the same, with p_cf the mean over this run's queries; it looks at all of them, never at their labels.
    - pmi (Holtzman et al. 2021): log p(label | query) - log p(label | premise), the premise being the layout without a review.

    Args:
        scores: of a run.
        method: one of `CALIBRATIONS`.

    Returns:
        [C, n, 2], in nats up to a constant for each query.

    Raises:
        InputError: for an unknown method, or one that these scores do not allow.
    """
    if method not in CALIBRATIONS:
        raise InputError(f"calibration must be one of {', '.join(CALIBRATIONS)}, got {method!r}; choose one of them")
    if method == "none":
        return scores.label_logprobs
    if scores.generated is not None:
        raise InputError(f"calibration {method!r} needs label scores, and these labels were generated; score label words instead")
    if method in _CONTENT_FREE and method not in scores.content_free:
        raise InputError(
            f"calibration {method!r} needs the scores of its content-free inputs, which this run has not; evaluate with it again"
        )
    if method == "pmi":
        return scores.label_logprobs - _log_mean(scores.content_free["pmi"].astype(np.float64)).astype(np.float32)
    calibrated = np.empty(scores.label_logprobs.shape, np.float32)
    for index, logprobs in enumerate(scores.label_logprobs):  # one condition at a time: memory stays that of the result
        normalised = log_softmax(logprobs.astype(np.float64), axis=-1)
        free = normalised if method == "batch" else log_softmax(scores.content_free[method][index].astype(np.float64), axis=-1)
        calibrated[index] = normalised - _log_mean(free)
    return calibrated


def predicted_labels(scores: Scores, calibrated: NDArray[np.float32]) -> NDArray[np.int8]:
    """[C, n] index into `LABELS` of the larger score, the first (negative) for a tie; of generated text, what it named."""
    if scores.generated is not None:
        return scores.generated
    return (calibrated[..., 1] > calibrated[..., 0]).astype(np.int8)


def _log_mean(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., K, 2] → [..., 1, 2]: log of the mean over K; in logs, so that a label without any probability does not become a zero."""
    mean: NDArray[np.float64] = logsumexp(logs, axis=-2, keepdims=True) - np.log(logs.shape[-2])
    return mean
