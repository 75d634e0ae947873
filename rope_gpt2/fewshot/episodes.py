"""Examples → training sequences: labelled examples packed one after another, every label that can be known a target.

The first label of an episode is a 0-shot task, the second a 1-shot task, and so on: one episode trains every number of shots
(in-context tuning, Min et al. 2022; Chen et al. 2022). So that the demonstrations must be read, a share of the episodes can have label
words of its own (symbol tuning, Wei et al. 2023), or the usual ones exchanged. Every epoch shuffles the examples anew; what stands in a
sequence is a function of (seed, epoch, index) alone, so a resumed run sees what an undisturbed one would have seen.

Let N be examples, L length.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.episode_layout import EpisodeLayout, Tokens, same_texts
from rope_gpt2.fewshot.episode_packing import Epoch, Packing
from rope_gpt2.fewshot.examples import LABELS, Example
from rope_gpt2.fewshot.label_words import common_label_words
from rope_gpt2.fewshot.template import Template
from rope_gpt2.fewshot.verbalizer import Verbalizer
from rope_gpt2.sequences import IGNORED, TrainingSequence


@dataclass(frozen=True, slots=True)
class EpisodeOptions:
    """How episodes differ from one another; the defaults give one episode a sequence, with the usual label words.

    Attributes:
        templates: layouts, dealt out evenly to the sequences; none for the one of the prompts.
        balance: share, in [0, 1], of sequences whose proportion of positives is drawn from a Beta about that of the examples, so that
            even and uneven demonstrations are seen; the others take examples as they come.
        max_shots: demonstrations before the last label of an episode, at most; 0 for as many as fit. Shorter episodes stand several in a
            sequence, each with `position_ids` of its own.
        random_words: share, in [0, 1], of episodes with two label words drawn for them. A label counts once both words have been shown.
        random_words_pool: draw from the first words of the tokenizer alone, this many (the most frequent); 0 for all.
        held_out_words: words that are never drawn, whatever their case, so that evaluations can use them.
        flipped: share, in [0, 1], of episodes with the usual label words exchanged. Their first label does not count: nothing shown
            tells it yet, and with no demonstration the usual words hold. From the second on, the demonstrations tell.
    """

    templates: tuple[str, ...] = ()
    balance: float = 0.0
    max_shots: int = 0
    random_words: float = 0.0
    random_words_pool: int = 0
    held_out_words: tuple[str, ...] = ()
    flipped: float = 0.0

    def __post_init__(self) -> None:
        for name in ("templates", "held_out_words"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        for name in ("balance", "random_words", "flipped"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be a share in [0, 1], got {getattr(self, name)}; give another number")
        if self.random_words + self.flipped > 1 + 1e-9:
            raise InputError(f"random_words and flipped must be at most 1 together, got {self.random_words} and {self.flipped}; lower one")
        if self.max_shots < 0:
            raise InputError(f"max_shots must be 0 (as many as fit) or more, got {self.max_shots}; give another number")
        if self.random_words_pool < 0 or self.random_words_pool == 1:
            raise InputError(f"random_words_pool must be 0 (all words) or at least 2, got {self.random_words_pool}; give another number")


class Episodes:
    """Packs examples into sequences of at most `max_length` tokens; each example stands in an epoch once, whole.

    No text stands twice in a sequence, whatever its case and label: a repeated one changes places with another example of its length, and
    is left out of an epoch in which it finds none.

    Args:
        examples: training examples; a longer one than `max_length` under any template is left out and counted in `left_out`. A
            confidence below 1 puts the label in doubt: the other one is a target with the rest of the probability (soft targets:
            Hinton et al. 2015). Demonstrations show the label.
        tokenizer, template, verbalizer: as for prompts.
        max_length: tokens in a sequence.
        seed: of the order of the examples and of all that is drawn.
        options: how episodes differ.

    Raises:
        InputError: if no example fits, a template joins the label word to the review, there are no words to draw from, or a label in
            doubt has not one token for each of its words.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        verbalizer: Verbalizer,
        max_length: int,
        seed: int,
        options: EpisodeOptions | None = None,
    ) -> None:
        self.max_length, self.seed, self.options = max_length, seed, options or EpisodeOptions()
        self.pad_token_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        templates = [Template(text) for text in dict.fromkeys(self.options.templates)] or [template]
        self.random_words: list[str] = []
        if self.options.random_words:
            held_out = (*self.options.held_out_words, *verbalizer.words)
            self.random_words = common_label_words(tokenizer, templates, held_out, self.options.random_words_pool)
        self._layouts = [EpisodeLayout(examples, tokenizer, layout, verbalizer, self.random_words) for layout in templates]
        self._is_positive = np.array([example.sentiment == LABELS[1] for example in examples], dtype=bool)
        self._signs: list[bool] = self._is_positive.tolist()
        self._doubts: list[float] = []
        if any(example.confidence < 1 for example in examples):
            self._doubts = [1 - example.confidence for example in examples]
            self._check_doubts(verbalizer)
        lengths = np.stack([self._needed(layout) for layout in self._layouts])
        self._fitting = np.flatnonzero((lengths <= max_length).all(axis=0))
        self.left_out = len(examples) - len(self._fitting)
        if not len(self._fitting):
            raise InputError(f"no training review fits {max_length} tokens; raise data.max_length or shorten the reviews")
        self._num_tokens = int(lengths[:, self._fitting].sum()) // len(lengths)
        texts = same_texts(examples, tokenizer, self._layouts[0])
        fitting = self._fitting
        self._packing = Packing(lengths[:, fitting], self._is_positive[fitting], texts[fitting], max_length, self.options.balance)
        self._packed: tuple[int, Epoch | None] = (-1, None)

    def __len__(self) -> int:
        """Sequences in an epoch."""
        return len(self._packing)

    @property
    def num_tokens(self) -> int:
        """Tokens of an epoch, padding aside; under several templates, of a mean epoch."""
        return self._num_tokens

    def members(self, epoch: int, index: int) -> list[list[int]]:
        """Places in `examples` of what stands in each episode of sequence `index`."""
        members = self._fitting[self._epoch(epoch).sequence(index)].tolist()
        size = self.options.max_shots + 1 if self.options.max_shots else max(1, len(members))
        return [members[start : start + size] for start in range(0, len(members), size)]

    def get(self, epoch: int, index: int) -> TrainingSequence:
        """Sequence `index` of an epoch; `position_ids` only where `max_shots` keeps several episodes apart."""
        layout = self._layouts[self._epoch(epoch).templates[index]]
        generator = random.Random(f"episode {self.seed} {epoch} {index}")
        sequence = _Sequence(self.max_length, self.pad_token_id, with_doubts=bool(self._doubts))
        for members in self.members(epoch, index):
            self._write(sequence, members, layout, generator)
        return sequence.finish(with_positions=self.options.max_shots > 0)

    def _epoch(self, epoch: int) -> Epoch:
        """What stands in the sequences of an epoch; the last one asked for stays in memory."""
        known, packed = self._packed
        if packed is None or known != epoch:
            packed = self._packing.epoch(np.random.default_rng(random.Random(f"episodes {self.seed} {epoch}").getrandbits(128)))
            self._packed = (epoch, packed)
        return packed

    def _write(self, sequence: "_Sequence", members: list[int], layout: EpisodeLayout, generator: random.Random) -> None:
        """One episode. A label counts once as many of its two words have been shown as must be, to know which stands for what."""
        labels, needed = self._draw_labels(layout, generator)
        sequence.begin()
        shown: set[bool] = set()
        for place, member in enumerate(members):
            is_positive = self._signs[member]
            sequence.add((layout.later if place else layout.first)[member], labels[is_positive], len(shown) >= needed)
            if self._doubts:
                sequence.doubt(labels[not is_positive], self._doubts[member])
            shown.add(is_positive)

    def _check_doubts(self, verbalizer: Verbalizer) -> None:
        """Soft targets are of one token: of several, each would be in doubt by itself."""
        words = [len(label) for layout in self._layouts for label in (*layout.labels, *layout.random_labels)]
        if max(words) > 1:
            which = " and ".join(map(repr, verbalizer.words)) if not self.random_words else "the drawn ones"
            raise InputError(
                f"soft labels need label words of one token each, and of {which} some have {max(words)}; "
                "make them one with model.new_words, take other words, or leave data.soft_labels out"
            )

    def _draw_labels(self, layout: EpisodeLayout, generator: random.Random) -> tuple[Sequence[Tokens], int]:
        """Label tokens of negative and positive, and how many of the two words must have been shown before a label counts."""
        if not self.options.random_words and not self.options.flipped:
            return layout.labels, 0
        draw = generator.random()
        if draw < self.options.random_words:
            negative, positive = generator.sample(range(len(self.random_words)), 2)
            return (layout.random_labels[negative], layout.random_labels[positive]), 2
        if draw < self.options.random_words + self.options.flipped:
            return layout.labels[::-1], 1
        return layout.labels, 0

    def _needed(self, layout: EpisodeLayout) -> Tokens:
        """[N] tokens of each example, wherever it may stand; with the longest label where it may be shown with any.

        At the beginning of an episode it can be longer than behind a separator that joins its first word: " word" may be one token.
        """
        labels = [len(label) for label in layout.labels]
        if self.options.balance or self.options.random_words or self.options.flipped:
            labels = [max(labels)] * 2
        return np.maximum(layout.first.lengths, layout.later.lengths) + np.where(self._is_positive, labels[1], labels[0])


class _Sequence:
    """A training sequence that is being filled."""

    def __init__(self, max_length: int, pad_token_id: int, with_doubts: bool) -> None:
        self._tokens = np.full(max_length, pad_token_id)
        self._is_label = np.zeros(max_length, dtype=bool)
        self._is_hidden = np.zeros(max_length, dtype=bool)  # nothing tells these tokens
        self._others = np.zeros(max_length, dtype=np.int64) if with_doubts else None
        self._doubts = np.zeros(max_length, dtype=np.float32)
        self._filled = 0
        self._begins: list[int] = []

    def begin(self) -> None:
        """Begin an episode; the one before it does not foretell its first token."""
        self._begins.append(self._filled)
        self._is_hidden[self._filled : self._filled + 1] = True

    def add(self, head: NDArray[np.int32], label: Tokens, counts: bool) -> None:
        """Write an example; `counts` tells whether its label is to be learned."""
        start = self._filled + len(head)
        self._tokens[self._filled : start] = head
        self._filled = start + len(label)
        self._tokens[start : self._filled] = label
        (self._is_label if counts else self._is_hidden)[start : self._filled] = True

    def doubt(self, other: Tokens, probability: float) -> None:
        """Put the label just written, of one token, in doubt."""
        if self._others is not None:
            self._others[self._filled - 1] = other[0]
            self._doubts[self._filled - 1] = probability

    def finish(self, with_positions: bool) -> TrainingSequence:
        """The sequence, padded; padding counts its positions as an episode of its own."""
        targets = np.full(len(self._tokens), IGNORED)
        is_label = np.zeros(len(self._tokens), dtype=bool)
        last = self._filled - 1
        if last > 0:
            targets[:last] = np.where(self._is_hidden[1 : self._filled], IGNORED, self._tokens[1 : self._filled])
            is_label[:last] = self._is_label[1 : self._filled]
        positions = None
        if with_positions:
            begins = np.array([*self._begins, self._filled, len(targets)])
            positions = torch.from_numpy(np.arange(len(targets)) - np.repeat(begins[:-1], np.diff(begins)))
        parts = torch.from_numpy(self._tokens), torch.from_numpy(targets), torch.from_numpy(is_label), positions
        if self._others is None:
            return TrainingSequence(*parts)
        # beside the target, at the place before the label word; the first place is no label's
        return TrainingSequence(*parts, torch.from_numpy(np.roll(self._others, -1)), torch.from_numpy(np.roll(self._doubts, -1)))
