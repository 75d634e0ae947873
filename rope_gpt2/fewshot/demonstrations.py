"""Examples → demonstrations: which examples stand in the prompt of a condition, in which order, under which labels.

The demonstrations of a condition are drawn once from the pool by their own seed (not the seed of weights and data order), so all queries
share them; only a query that is itself among them gets others. With the selection "similar" every query has its own.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.conditions import Condition
from rope_gpt2.fewshot.examples import LABELS, Example
from rope_gpt2.fewshot.scores import Demonstration

_NEIGHBOUR_ROWS = 256  # queries compared with the whole pool at once: bounds the memory of their similarities


class Pool:
    """The examples that demonstrations are drawn from, with what all conditions share: seeded permutations, and a TF-IDF index.

    Args:
        examples: never those that are evaluated, unless each query is excluded by its row.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples
        self.label_counts = {label: sum(example.sentiment == label for example in examples) for label in LABELS}
        self._permutations: dict[int, list[int]] = {}
        self._found: tuple[list[str], int, list[list[Example]]] = ([], 0, [])

    def holds_text_of(self, queries: Iterable[Example]) -> bool:
        """Whether one of the queries has the text of an example."""
        texts = {_folded(example.review) for example in self.examples}
        return any(_folded(query.review) in texts for query in queries)

    def permuted(self, seed: int) -> Iterator[Example]:
        """All examples in the order of a seed."""
        if seed not in self._permutations:
            self._permutations[seed] = random.Random(f"pool {seed}").sample(range(len(self.examples)), len(self.examples))
        return (self.examples[index] for index in self._permutations[seed])

    @cached_property
    def _index(self) -> tuple[Any, Any]:
        from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]  # a second, for this selection alone

        vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+", dtype=np.float32)
        return vectorizer, vectorizer.fit_transform(example.review for example in self.examples).T.tocsr()

    def nearest(self, queries: Sequence[Example], count: int) -> list[list[Example]]:
        """What `search` finds, remembered: conditions ask for the same queries one after another."""
        texts = [query.review for query in queries]
        if self._found[0] == texts and self._found[1] >= count:
            return [line[:count] for line in self._found[2]]
        self._found = (texts, count, self.search(queries, count))
        return self._found[2]

    def search(self, queries: Sequence[Example], count: int) -> list[list[Example]]:
        """The examples most like each query by the cosine of their TF-IDF vectors, the most similar first.

        Args:
            queries: n reviews.
            count: how many for each; ties go to the earlier example.
        """
        vectorizer, transposed = self._index
        found: list[list[Example]] = []
        for start in range(0, len(queries), _NEIGHBOUR_ROWS):
            vectors = vectorizer.transform(query.review for query in queries[start : start + _NEIGHBOUR_ROWS])
            similarities = (vectors @ transposed).toarray()  # (queries, pool)
            order = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
            found += [[self.examples[index] for index in line] for line in order]
        return found


class DemonstrationSampler:
    """Draws the demonstrations of one condition from a pool.

    The draw walks through a seeded permutation of the pool, so 4 shots are among the 16 of the same seed; their first order in the prompt
    is shuffled by seed and shots, further orders are other permutations of the same examples. "similar" puts the nearest last, next to
    the query (Liu et al. 2022, "What makes good in-context examples for GPT-3?").

    Args:
        pool: where to draw from.
        condition: shots, seed, order, labels and selection.
        spare: examples beyond those of the condition that must be there, to take the place of a query.

    Raises:
        InputError: if the pool is too small for the condition.
    """

    def __init__(self, pool: Pool, condition: Condition, spare: int = 1) -> None:
        self.pool, self.condition, self._spare = pool, condition, spare
        self._neighbours: dict[int, list[Example]] = {}
        if condition.selection == "balanced":
            labels = random.Random(f"odd {condition.demonstration_seed}").sample(LABELS, len(LABELS))
            self._counts = {
                label: condition.shots // len(labels) + (index < condition.shots % len(labels)) for index, label in enumerate(labels)
            }
        self._check_size()
        self.shared = None if self._differ else self._label(self._draw(None, None))
        self._rows = {demonstration.row for demonstration in self.shared or ()}
        self._texts = {_folded(demonstration.review) for demonstration in self.shared or ()}

    @property
    def _differ(self) -> bool:
        return self.condition.selection == "similar" and self.condition.shots > 0

    def prepare(self, queries: Sequence[Example]) -> None:
        """Find the neighbours of many queries at once, where the selection needs them."""
        if self._differ:
            spare = self.condition.shots + 8  # the query itself, and copies of its text, are passed over
            found = self.pool.nearest(queries, spare)
            self._neighbours = {query.row: examples for query, examples in zip(queries, found, strict=True)}

    def sample(self, query: Example, from_pool: bool) -> tuple[Demonstration, ...]:
        """Demonstrations for a query, in the order of the prompt.

        Args:
            query: left out of its own demonstrations by its row, and any example with the very same text as well.
            from_pool: whether the query is a row of the pool's own file.
        """
        if query.row < 0 and self._differ:  # no neighbours of what says nothing: as drawn
            return self._label(self._draw(None, None))
        excluded_row = query.row if from_pool else None
        text = _folded(query.review)
        if self.shared is not None:
            if text not in self._texts and excluded_row not in self._rows:
                return self.shared
            return self._label(self._draw(excluded_row, text))
        if query.row not in self._neighbours:
            self.prepare((query,))
        fitting = _others(self._neighbours[query.row], excluded_row, text)
        if len(fitting) < self.condition.shots:  # more copies of the text than were allowed for
            fitting = _others(self.pool.search((query,), len(self.pool.examples))[0], excluded_row, text)
        return self._label(self._reorder(self._enough(fitting[: self.condition.shots])[::-1]))

    def _check_size(self) -> None:
        condition, balanced = self.condition, self.condition.selection == "balanced"
        if not condition.shots:
            return
        needs = [(label, self.pool.label_counts[label], count) for label, count in self._counts.items()] if balanced else []
        for label, available, count in needs or [("", len(self.pool.examples), condition.shots)]:
            if count and available < count + self._spare:
                each, ones = (" of each label", f" {label} ones") if balanced else ("", "")
                raise InputError(
                    f"{condition.shots} shots ({condition.selection}) need {count + self._spare} examples{each} in the pool, "
                    f"it has {available}{ones}; give a larger pool or fewer shots"
                )

    def _draw(self, excluded_row: int | None, excluded_text: str | None) -> list[Example]:
        """Examples of the condition, in the order of the prompt."""
        condition = self.condition
        if not condition.shots:
            return []
        left = dict(self._counts) if condition.selection == "balanced" else {}
        chosen: dict[str, list[Example]] = {label: [] for label in left} or {"": []}
        for example in self.pool.permuted(condition.demonstration_seed):
            label = example.sentiment if left else ""
            is_wanted = len(chosen[label]) < left.get(label, condition.shots) and example.row != excluded_row
            if is_wanted and _folded(example.review) != excluded_text:
                chosen[label].append(example)
                if sum(map(len, chosen.values())) == condition.shots:
                    break
        drawn = self._enough([example for examples in chosen.values() for example in examples])
        random.Random(f"order {condition.demonstration_seed} {condition.shots}").shuffle(drawn)
        return self._reorder(drawn)

    def _enough(self, examples: list[Example]) -> list[Example]:
        if len(examples) < self.condition.shots:
            raise InputError(
                f"{self.condition.shots} shots: the pool holds the text of a query so often that too few other examples are left; "
                "give a larger pool or fewer shots"
            )
        return examples

    def _reorder(self, examples: list[Example]) -> list[Example]:
        return [examples[place] for place in permutation(len(examples), self.condition.order, self.condition.demonstration_seed)]

    def _label(self, examples: Sequence[Example]) -> tuple[Demonstration, ...]:
        return tuple(Demonstration(example.row, example.review, example.sentiment, self._shown(example)) for example in examples)

    def _shown(self, example: Example) -> str | None:
        match self.condition.demonstration_labels:
            case "none":
                return None
            case "flipped":
                return LABELS[1 - LABELS.index(example.sentiment)]
            case "random":  # stays with the example, in every order and number of shots of this seed
                return random.Random(f"label {self.condition.demonstration_seed} {example.row}").choice(LABELS)
        return example.sentiment


def make_samplers(pool: Pool, conditions: Sequence[Condition], queries: Iterable[Example], from_pool: bool) -> list[DemonstrationSampler]:
    """A sampler for each condition. Four examples of one's own are enough for 4 shots where no query is among them.

    Args:
        pool: where all draw from.
        conditions: c of them.
        queries: looked through where the pool has nothing to spare.
        from_pool: whether they are rows of the pool's own file.

    Raises:
        InputError: if the pool is too small for one of the conditions.
    """
    largest = max((condition.shots for condition in conditions), default=0)
    is_tight = 0 < largest >= min(pool.label_counts.values())
    spare = int(from_pool or (is_tight and pool.holds_text_of(queries)))
    return [DemonstrationSampler(pool, condition, spare) for condition in conditions]


def permutation(count: int, order: int, seed: int) -> list[int]:
    """The permutation of `count` places that is number `order`; number 0 leaves all in place, and no two numbers give the same.

    Args:
        count: places.
        order: less than count!.
        seed: of the demonstrations.

    >>> permutation(3, 0, seed=7), len({tuple(permutation(3, order, seed=7)) for order in range(6)})
    ([0, 1, 2], 6)
    """
    places = list(range(count))
    generator, seen = random.Random(f"orders {seed} {count}"), {tuple(places)}
    while len(seen) <= order:
        places = generator.sample(range(count), count)
        seen.add(tuple(places))
    return places


def _others(examples: Sequence[Example], excluded_row: int | None, excluded_text: str) -> list[Example]:
    return [example for example in examples if example.row != excluded_row and _folded(example.review) != excluded_text]


def _folded(review: str) -> str:
    return " ".join(review.split())
