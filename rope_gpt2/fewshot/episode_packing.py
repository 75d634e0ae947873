"""Lengths → which examples stand together in a sequence, anew for every epoch.

Let N be examples, T templates.
"""

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
CONCENTRATION = 4.0  # of the Beta that class proportions come from: most of them between 0.1 and 0.9, few episodes of one class
TRIES = 4  # arrangements of the templates, before the one that is known to fit
PARTNERS = 64  # places tried for an example that stands beside its own text


@dataclass(frozen=True, slots=True)
class Epoch:
    """What stands in the sequences of an epoch.

    Attributes:
        members: examples, sequence by sequence.
        ends: where each sequence ends in `members`.
        templates: number of each sequence's template.
    """

    members: Integers
    ends: Integers
    templates: Integers

    def sequence(self, index: int) -> list[int]:
        """The examples of a sequence, in order."""
        return self.members[self.ends[index - 1] if index else 0 : self.ends[index]].tolist()


class Packing:
    """Every example in one sequence of an epoch, the same number of sequences in every epoch.

    Each example goes, the longest first, into the emptiest sequence. How full they get depends on the lengths alone, so an epoch deals
    examples of one length out anew. Templates are dealt out evenly.

    Args:
        lengths: [T, N] tokens of each example under each template, none above `max_length`.
        is_positive: [N] bool, the examples' classes.
        texts: [N] numbers; examples of one number have the same text.
        max_length: tokens in a sequence.
        balance: share of sequences whose class proportion is drawn at random.
    """

    def __init__(self, lengths: Integers, is_positive: NDArray[np.bool_], texts: Integers, max_length: int, balance: float = 0.0) -> None:
        self.max_length, self.balance = max_length, balance
        self._is_positive, self._texts = is_positive, texts
        shapes, kinds = np.unique(lengths, axis=1, return_inverse=True)
        longest_first = np.argsort(-shapes.max(axis=0), kind="stable")
        self._kind = np.argsort(longest_first)[kinds.reshape(-1)]  # [N]; examples of one kind are as long as each other, 0 the longest
        self._kind_of_place = np.sort(self._kind)  # places of a kind lie side by side, the longest first
        self._lengths: list[list[int]] = shapes[:, longest_first][:, self._kind_of_place].tolist()
        self._repeats = len(np.unique(texts)) < len(texts)
        self._count = -(-int(lengths.sum()) // (max_length * len(lengths)))
        while (filled := self._fill(self._even_templates())) is None:
            self._count += 1 + self._count // 500
        self._even: Integers = filled

    def __len__(self) -> int:
        return self._count

    def epoch(self, generator: np.random.Generator) -> Epoch:
        """Deal the examples out.

        An example that would share a sequence with its own text changes places with another one of its length; where none can be
        found, it is left out of this epoch.
        """
        templates, sequences = self._arrange(generator)
        members = self._deal(sequences, generator)
        keeps = self._part_texts(members, sequences, generator) if self._repeats else slice(None)
        number = generator.permutation(self._count)
        members, places = members[keeps], number[sequences[keeps]]
        shuffled = np.lexsort((generator.random(len(members)), places))
        ends = np.cumsum(np.bincount(places, minlength=self._count))
        return Epoch(members[shuffled], ends, templates[np.argsort(number)])

    def _even_templates(self) -> Integers:
        return np.arange(self._count) % len(self._lengths)

    def _arrange(self, generator: np.random.Generator) -> tuple[Integers, Integers]:
        """Templates of the sequences, and the sequence of each place."""
        even = self._even_templates()
        for _ in range(TRIES if len(self._lengths) > 1 else 0):
            templates = generator.permutation(even)
            if (sequences := self._fill(templates)) is not None:
                return templates, sequences
        return even, self._even

    def _fill(self, templates: Integers) -> Integers | None:
        """Each place, the longest first, in the emptiest sequence: [N] sequences; None if one has no room."""
        rows = [self._lengths[template] for template in templates.tolist()]
        rooms = [(0, sequence) for sequence in range(self._count)]
        sequences = []
        for place in range(len(self._kind_of_place)):
            filled, sequence = rooms[0]
            filled += rows[sequence][place]
            if filled > self.max_length:
                return None
            heapq.heapreplace(rooms, (filled, sequence))
            sequences.append(sequence)
        return np.array(sequences)

    def _deal(self, sequences: Integers, generator: np.random.Generator) -> Integers:
        """Which example stands at each place.

        Among places of one length, positives go where logit(proportion of the sequence) + logistic noise is highest: a draw with those
        proportions, under the condition that every example is dealt out once.
        """
        logits = np.zeros(self._count)
        drawn = generator.random(self._count) < self.balance
        rate = float(self._is_positive.mean())
        if drawn.any() and 0 < rate < 1:
            share = generator.beta(CONCENTRATION * rate, CONCENTRATION * (1 - rate), self._count).clip(1e-9, 1 - 1e-9)
            logits = np.where(drawn, np.log(share / (1 - share)), np.log(rate / (1 - rate)))
        scores = logits[sequences] + generator.logistic(size=len(sequences))
        members = np.empty_like(sequences)
        members[np.lexsort((scores, self._kind_of_place))] = np.lexsort((generator.random(len(members)), self._is_positive, self._kind))
        return members

    def _part_texts(self, members: Integers, sequences: Integers, generator: np.random.Generator) -> NDArray[np.bool_]:
        """Part, in place, examples of one text that share a sequence; return which places keep an example."""
        keeps = np.ones(len(members), dtype=bool)
        texts = self._texts[members]
        order = np.lexsort((texts, sequences))
        repeated = (np.diff(texts[order]) == 0) & (np.diff(sequences[order]) == 0)
        offending = set(order[1:][repeated].tolist())
        if not offending:
            return keeps
        present: list[set[int]] = [set() for _ in range(self._count)]
        for sequence, text in zip(sequences.tolist(), texts.tolist(), strict=True):
            present[sequence].add(text)
        for place in sorted(offending):
            start, end = np.searchsorted(self._kind_of_place, self._kind_of_place[place] + np.arange(2)).tolist()
            ours, mine = present[sequences[place]], int(texts[place])
            for other in generator.integers(start, end, PARTNERS).tolist():
                theirs, its = present[sequences[other]], int(texts[other])
                if other not in offending and its not in ours and mine not in theirs:
                    members[[place, other]], texts[[place, other]] = members[[other, place]], [its, mine]
                    ours.add(its)
                    theirs.remove(its)
                    theirs.add(mine)
                    break
            else:
                keeps[place] = False
        return keeps
