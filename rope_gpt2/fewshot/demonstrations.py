"""Examples → demonstrations: which examples stand in the prompt, and in which order.

A *condition* is what is held fixed while all queries are scored. Its demonstrations are drawn once from the pool by its own seed
(not the seed of weights and data order), so all queries share them; only a query that is itself among them gets others.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.examples import LABELS, Example

SELECTIONS = ("balanced", "random")


@dataclass(frozen=True, slots=True)
class Condition:
    """What is held fixed while all queries are scored.

    Attributes:
        shots: number of demonstrations, 0 for none.
        demonstration_seed: which draw of demonstrations and of their order.
        selection: "balanced" (equal label counts; an odd one goes to a label chosen by the seed) or "random".
    """

    shots: int
    demonstration_seed: int
    selection: str = "balanced"

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise InputError(f"shots must be 0 or more, got {self.shots}; give how many demonstrations a prompt holds")
        if self.selection not in SELECTIONS:
            raise InputError(f"selection must be one of {', '.join(SELECTIONS)}, got {self.selection!r}; choose one of them")


class DemonstrationSampler:
    """Draws the demonstrations of one condition from a pool.

    The draw walks through a seeded permutation of the pool, so 4 shots are among the 16 of the same seed; their order in the
    prompt is shuffled by seed and shots.

    Args:
        pool: examples to draw from; never those that are evaluated, unless each query is excluded by its row.
        condition: shots, seed and selection.

    Raises:
        InputError: if the pool is too small for the condition.
    """

    def __init__(self, pool: Sequence[Example], condition: Condition) -> None:
        self.condition = condition
        permuted = random.Random(f"pool {condition.demonstration_seed}").sample(list(pool), len(pool)) if condition.shots else []
        if condition.selection == "random":
            self._queues = [(permuted, condition.shots)]
        else:
            labels = random.Random(f"odd {condition.demonstration_seed}").sample(LABELS, len(LABELS))
            counts = [condition.shots // len(labels) + (index < condition.shots % len(labels)) for index in range(len(labels))]
            self._queues = [
                ([example for example in permuted if example.sentiment == label], count)
                for label, count in zip(labels, counts, strict=True)
            ]
        for queue, count in self._queues:
            if count and len(queue) < count + 1:  # one more, to take the place of a query
                raise InputError(
                    f"{condition.shots} shots ({condition.selection}) need {count + 1} examples"
                    f"{'' if condition.selection == 'random' else ' of each label'} in the pool, it has {len(queue)}; "
                    "give a larger pool or fewer shots"
                )
        self._shared = self._draw(None, None)
        self._rows = {example.row for example in self._shared}
        self._texts = {_folded(example) for example in self._shared}

    def sample(self, query: Example, from_pool: bool) -> tuple[Example, ...]:
        """Demonstrations for a query, in the order of the prompt.

        Args:
            query: left out of its own demonstrations by its row, and any example with the very same text as well.
            from_pool: whether the query is a row of the pool's own file.
        """
        excluded_row = query.row if from_pool else None
        if _folded(query) not in self._texts and excluded_row not in self._rows:
            return self._shared
        return self._draw(excluded_row, _folded(query))

    def _draw(self, excluded_row: int | None, excluded_text: str | None) -> tuple[Example, ...]:
        chosen: list[Example] = []
        for queue, count in self._queues:
            fitting = (example for example in queue if example.row != excluded_row and _folded(example) != excluded_text)
            chosen += [example for example, _ in zip(fitting, range(count), strict=False)]
        if len(chosen) < self.condition.shots:
            raise InputError(
                f"{self.condition.shots} shots: the pool holds the text of a query so often that too few other examples are left; "
                "give a larger pool or fewer shots"
            )
        random.Random(f"order {self.condition.demonstration_seed} {self.condition.shots}").shuffle(chosen)
        return tuple(chosen)


def _folded(example: Example) -> str:
    return " ".join(example.review.split())
