"""Inputs that say nothing, whose label probabilities show what a prompt prefers by itself: calibration is computed from them.

- contextual: "N/A", "[MASK]" and the empty text (Zhao et al. 2021, section 5);
- domain: random words of the pool, as many as a review has on average (Fei et al. 2023, section 4.2);
- pmi: what asks for the label, without any review (Holtzman et al. 2021, section 3).
"""

import random
from collections.abc import Collection, Sequence
from typing import NamedTuple

from rope_gpt2.fewshot.examples import Example

CONTENT_FREE_KINDS = ("contextual", "domain", "pmi")
_CONTEXTUAL = ("N/A", "[MASK]", "")
_DOMAIN_TEXTS = 20  # as in Fei et al. 2023


class ContentFree(NamedTuple):
    """One input: its kind, and the text that stands for the review."""

    kind: str
    text: str


def content_free_inputs(kinds: Collection[str], pool: Sequence[Example]) -> list[ContentFree]:
    """The inputs of some kinds, always the same for one pool.

    Args:
        kinds: of `CONTENT_FREE_KINDS`.
        pool: whose words make up the domain's texts; never the examples that are evaluated, unless they are the pool.
    """
    inputs = [ContentFree("contextual", text) for text in _CONTEXTUAL if "contextual" in kinds]
    if "domain" in kinds:
        generator = random.Random("content-free")
        some = [example.review.split() for example in generator.choices(pool, k=2_000)]
        length = max(1, round(sum(map(len, some)) / len(some)))
        for _ in range(_DOMAIN_TEXTS):
            inputs.append(ContentFree("domain", " ".join(generator.choice(words) for words in generator.choices(some, k=length))))
    if "pmi" in kinds:
        inputs.append(ContentFree("pmi", ""))
    return inputs
