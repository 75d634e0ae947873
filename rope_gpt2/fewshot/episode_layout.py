"""Examples → token ids in pieces, from which episodes are put together: what stands before a label word, and the label words.

Let N be examples.
"""

import itertools
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.examples import Example
from rope_gpt2.fewshot.label_words import label_token_ids, tokenize, tokenize_demonstrations
from rope_gpt2.fewshot.template import Template
from rope_gpt2.fewshot.verbalizer import Verbalizer

Tokens = NDArray[np.int64]
SHOWN = 256  # reviews that show whether the separator's tokens stand apart


class Pieces:
    """Token ids of many texts in one array, without the first `skip` of each."""

    def __init__(self, ids: NDArray[np.int32], lengths: Tokens, skip: int = 0) -> None:
        self.ids, self.lengths = ids, lengths
        ends = np.cumsum(lengths)
        self._starts: list[int] = (ends - lengths + skip).tolist()
        self._ends: list[int] = ends.tolist()

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]]) -> "Pieces":
        """Join the token ids of texts."""
        lengths = np.array([len(ids) for ids in texts])
        return cls(np.fromiter(itertools.chain.from_iterable(texts), np.int32, int(lengths.sum())), lengths)

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        return self.ids[self._starts[index] : self._ends[index]]


class EpisodeLayout:
    """Examples and label words as token ids under one template.

    Attributes:
        first: examples up to their label word, where they begin an episode.
        later: the same behind another example, from the separator on.
        labels: the usual label words, in the order of `LABELS`.
        random_labels: the words to draw from.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        verbalizer: Verbalizer,
        random_words: Sequence[str],
    ) -> None:
        verbalizer.token_ids(tokenizer, template)  # refuses words that are not told apart
        self.template, self._word = template, verbalizer.words[0]
        usual = label_token_ids(tokenizer, template, verbalizer.words)
        if not all(usual):
            raise InputError(f"template {template.text!r} joins the label word to what stands before it; put a space before {{label}}")
        self.labels = [np.array(ids, dtype=np.int64) for ids in usual]
        drawn = tokenize(tokenizer, [template.label_space + word for word in random_words])
        self.random_labels = [np.array(ids, dtype=np.int64) for ids in drawn]
        reviews = [example.review for example in examples]
        self.later = Pieces.of(self.heads(tokenizer, reviews, template.separator))
        self.first = self._without_separator(tokenizer, reviews)

    def _without_separator(self, tokenizer: PreTrainedTokenizerBase, reviews: Sequence[str]) -> Pieces:
        """Where the separator's tokens stand before words of the template, no review can change them: then nothing is tokenized twice."""
        shown = self.heads(tokenizer, reviews[:SHOWN])
        skip = len(self.later[0]) - len(shown[0]) if shown else 0
        fixed = bool(self.template.before.strip()) and skip >= 0
        if fixed and all(self.later[index][skip:].tolist() == ids for index, ids in enumerate(shown)):
            return Pieces(self.later.ids, self.later.lengths, skip)
        return Pieces.of([*shown, *self.heads(tokenizer, reviews[SHOWN:])])

    def heads(self, tokenizer: PreTrainedTokenizerBase, reviews: Sequence[str], before: str = "") -> list[list[int]]:
        """Reviews up to their label word, cut from the tokens of whole demonstrations."""
        texts = [before + self.template.demonstration(review, self._word) for review in reviews]
        label = self.labels[0].tolist()
        heads = []
        for ids, review in zip(tokenize_demonstrations(tokenizer, self.template, texts), reviews, strict=True):
            if ids[len(ids) - len(label) :] != label:
                raise InputError(
                    f"template {self.template.text!r} joins the label word to the review {review[:60]!r}; put a line end before it"
                )
            heads.append(ids[: len(ids) - len(label)])
        return heads


def same_texts(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, layout: EpisodeLayout) -> Tokens:
    """[N] numbers, the same for texts that a tokenizer reads the same, case and compatible characters aside."""
    keys = [layout.first[index].tobytes() for index in range(len(examples))]
    folded = {}
    for index, example in enumerate(examples):
        text = " ".join(example.review.split())
        fold = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
        if fold != text:
            folded[index] = fold
    for index, ids in zip(folded, layout.heads(tokenizer, list(folded.values())), strict=True):
        keys[index] = np.array(ids, dtype=np.int32).tobytes()
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])
