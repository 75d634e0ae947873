"""Scoring → what a run leaves: label log-probabilities of rows and of content-free inputs, by condition.

Calibration, metrics and report are computed from this alone, so another calibration needs no forward pass.

Let C be conditions, n queries, K content-free inputs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rope_gpt2.fewshot.conditions import Condition

UNCERTAIN = 2  # index of a prediction that names neither of `LABELS` (generated text only); always wrong


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One labelled example as it stands in the prompt.

    Attributes:
        row: its row in the pool's file.
        review: its text.
        sentiment: its label.
        shown: the label shown, or None where the condition shows none.
    """

    row: int
    review: str
    sentiment: str
    shown: str | None


@dataclass(frozen=True, slots=True)
class ScoredCondition:
    """A condition and what its prompts held.

    Attributes:
        condition: what was held fixed.
        demonstrations: in the order of the prompt, oldest first; None where every query has its own (selection "similar").
        prompts_dropped: prompts that lost demonstrations because they exceeded the context.
        demonstrations_dropped: how many, over all prompts.
        prompts_trimmed: prompts whose review was cut.
    """

    condition: Condition
    demonstrations: tuple[Demonstration, ...] | None
    prompts_dropped: int = 0
    demonstrations_dropped: int = 0
    prompts_trimmed: int = 0


@dataclass(frozen=True, slots=True)
class Scores:
    """All scores of a run.

    Attributes:
        rows: [n] row of each query in its file, from 1, ascending.
        sentiments: [n] index of its label in `LABELS`.
        conditions: the C conditions.
        label_logprobs: [C, n, 2] log-probability of each label word (of the review given the label word, for the noisy channel), in nats.
        generated: [C, n] what was generated, an index into `LABELS` or `UNCERTAIN`; None where label words were scored.
        content_free: kind → [C, K, 2] scores of content-free inputs: "contextual" (Zhao et al. 2021), "domain" (Fei et al. 2023), "pmi"
            (the query's layout without a review; Holtzman et al. 2021). A kind that was not scored is absent.
    """

    rows: NDArray[np.int64]
    sentiments: NDArray[np.int8]
    conditions: tuple[ScoredCondition, ...]
    label_logprobs: NDArray[np.float32]
    generated: NDArray[np.int8] | None
    content_free: dict[str, NDArray[np.float32]]
