"""Two tools' label log-probabilities of the same queries: how far apart, and which predictions differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

# Nats between the two labels below which rounding decides: the tolerance of parity in float32; four steps of bfloat16 at one nat.
TIE = {"float32": 1e-4, "bfloat16": 2**-6}


@dataclass(frozen=True, slots=True)
class Difference:
    """A query that the two tools judge differently.

    Attributes:
        row: its row in the file, from 1.
        ours, theirs: log-probability of " positive" minus that of " negative", in nats.
        tied: whether one tool gives both labels the same score, or both tools nearly so that rounding decides.
    """

    row: int
    ours: float
    theirs: float
    tied: bool


@dataclass(frozen=True, slots=True)
class Parity:
    """How well two tools agree.

    Attributes:
        n: queries compared.
        set_apart: rows that were not, since evaluate.py gives a query whose text is among the demonstrations other ones.
        largest_difference: of a label log-probability, in nats.
        mean_difference: of all of them, in nats.
        differing: queries with another prediction.
    """

    n: int
    set_apart: tuple[int, ...]
    largest_difference: float
    mean_difference: float
    differing: tuple[Difference, ...]

    @property
    def ties(self) -> int:
        """How many of the differing are ties."""
        return sum(difference.tied for difference in self.differing)


def compare_scores(ours: ArrayLike, theirs: ArrayLike, rows: Sequence[int], dtype: str, set_apart: Sequence[int] = ()) -> Parity:
    """Compare two tools' scores.

    Args:
        ours, theirs: [n, 2] label log-probabilities of the same queries, in nats.
        rows: [n] their rows.
        dtype: of the model, a key of `TIE`.
        set_apart: rows that are not compared.

    >>> compare_scores([[-1.0, -2.0], [-1.0, -1.00001]], [[-1.0, -2.5], [-1.00001, -1.0]], [1, 2], "float32").differing
    (Difference(row=2, ours=-1e-05, theirs=1e-05, tied=True),)
    """
    kept = ~np.isin(np.asarray(rows), list(set_apart))
    left, right, numbers = np.asarray(ours, dtype=np.float64)[kept], np.asarray(theirs, dtype=np.float64)[kept], np.asarray(rows)[kept]
    distance = np.abs(left - right)
    margins = [scores[:, 1] - scores[:, 0] for scores in (left, right)]
    differing = tuple(
        Difference(
            int(numbers[index]),
            round(float(margins[0][index]), 9),
            round(float(margins[1][index]), 9),
            any(margin[index] == 0 for margin in margins) or all(abs(margin[index]) <= TIE[dtype] for margin in margins),
        )
        for index in np.flatnonzero(left.argmax(axis=-1) != right.argmax(axis=-1))
    )
    return Parity(int(kept.sum()), tuple(set_apart), float(distance.max()), float(distance.mean()), differing)
