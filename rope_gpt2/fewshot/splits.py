"""Examples → examples to train on and examples held out, with nothing of the latter in the former."""

import random
from collections.abc import Iterable, Sequence

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.examples import Example

SHARED_RUN = 8  # words; a training review that shares so long a run with an evaluated one is dropped


def hold_out(examples: Sequence[Example], count: int, seed: int, min_words: int = 8) -> tuple[list[Example], list[Example]]:
    """Set whole reviews apart for tuning, and drop from the rest whatever stands in them.

    SST-2's training rows are phrases of one another: a random split would leave the phrases of a held-out sentence in training,
    with their labels. So a training row goes if it is a part of a held-out review, or shares a run of `SHARED_RUN` words with one.

    Args:
        examples: all examples.
        count: how many to hold out.
        seed: which.
        min_words: shortest review that is held out, in words: evaluation sets hold sentences, not phrases.

    Returns:
        (training examples, held-out examples), both in the order of `examples`.
    """
    long_enough = [index for index, example in enumerate(examples) if len(example.review.split()) >= min_words]
    if len(long_enough) < 2:
        raise InputError(
            f"no review can be held out: {len(long_enough)} of {len(examples)} have {min_words} words or more, 2 are needed; "
            "give more reviews, or a validation CSV"
        )
    if not 0 < count <= len(long_enough) // 2:
        raise InputError(
            f"holdout must lie between 1 and {len(long_enough) // 2}, half of the reviews of at least {min_words} words, got {count}; "
            "choose a smaller one or give a validation CSV"
        )
    chosen = set(random.Random(f"holdout {seed}").sample(long_enough, count))
    held_out = [example for index, example in enumerate(examples) if index in chosen]
    rest = [example for index, example in enumerate(examples) if index not in chosen]
    return drop_overlap(rest, held_out), held_out


def drop_overlap(examples: Iterable[Example], evaluated: Iterable[Example]) -> list[Example]:
    """Examples that are no part of an evaluated review and share no run of `SHARED_RUN` words with one."""
    parts: set[tuple[str, ...]] = set()
    for example in evaluated:
        words = _words(example)
        parts.update(words[start:end] for start in range(len(words)) for end in range(start + 1, min(start + SHARED_RUN, len(words)) + 1))
    return [example for example in examples if not _overlaps(_words(example), parts)]


def drop_same_texts(examples: Iterable[Example], evaluated: Iterable[Example]) -> list[Example]:
    """Examples whose text, case and white space aside, is none of the evaluated ones."""
    texts = {_words(example) for example in evaluated}
    return [example for example in examples if _words(example) not in texts]


def _words(example: Example) -> tuple[str, ...]:
    return tuple(example.review.lower().split())


def _overlaps(words: tuple[str, ...], parts: set[tuple[str, ...]]) -> bool:
    return words in parts or any(words[start : start + SHARED_RUN] in parts for start in range(len(words) - SHARED_RUN + 1))
