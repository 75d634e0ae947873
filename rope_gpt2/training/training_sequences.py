"""Reviews and plain text → what a fit of SentimentDataModule is trained on, with nothing in it that it is judged by."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from rope_gpt2.corpus.documents import Reading
from rope_gpt2.corpus.overlap import OverlapGuard, words_of
from rope_gpt2.corpus.packing import PackedDocuments
from rope_gpt2.corpus.sources import find_sources
from rope_gpt2.corpus.stream import DocumentStream
from rope_gpt2.corpus.token_cache import TokenCache, known_revisions, open_or_build
from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.episodes import EpisodeOptions, Episodes
from rope_gpt2.fewshot.examples import Example, read_examples
from rope_gpt2.fewshot.template import Template
from rope_gpt2.fewshot.verbalizer import Verbalizer
from rope_gpt2.sequences import Mixture, SequenceSource


class TrainingSequences(NamedTuple):
    """What is trained on, and the sentence that says so."""

    source: SequenceSource
    summary: str


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """What is trained on beside the training file, and how all of it becomes sequences.

    Attributes:
        more_train: CSVs of more reviews; those that overlap with a judged review are left out (see `OverlapGuard`).
        soft_labels: the column `confidence` of `more_train` is how likely its labels are as targets.
        min_words: shortest review that is trained on, in words.
        episodes: how episodes differ.
        text: sources of plain text; documents that overlap with a judged review are left out.
        text_share: of the text among the sequences, in [0, 1).
        text_drop: regular expressions whose matches are cut out of every document of the text.
        cache_dir: where the tokens of the text are kept.
        seed: of every order.
        clean_html: remove HTML tags of `more_train`; None: in files that have them.
    """

    more_train: tuple[str, ...]
    soft_labels: bool
    min_words: int
    episodes: EpisodeOptions
    text: tuple[str, ...]
    text_share: float
    text_drop: tuple[str, ...]
    cache_dir: Path
    seed: int
    clean_html: bool | None

    def __post_init__(self) -> None:
        if not 0 <= self.text_share < 1:
            raise InputError(f"text_share must lie in [0, 1), got {self.text_share}; give another number")
        if self.soft_labels and not self.more_train:
            raise InputError("data.soft_labels is of the reviews of data.more_train, and there are none; name a CSV or leave it out")

    @property
    def has_text(self) -> bool:
        """Whether text is strewn among the episodes."""
        return bool(self.text and self.text_share)

    def build(
        self,
        train: Sequence[Example],
        judged: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        verbalizer: Verbalizer,
        context: int,
    ) -> TrainingSequences:
        """Episodes, and the text among them.

        Args:
            train: training examples, none of them judged.
            judged: held-out and evaluated reviews.
            tokenizer, template, verbalizer: as for prompts.
            context: tokens in a sequence.

        Raises:
            InputError: if a file cannot be read or the cache not be written, or nothing is left or fits.
        """
        examples, overlapping = self.read(train, judged)
        episodes = Episodes(examples, tokenizer, template, verbalizer, context, self.seed, self.episodes)
        source: SequenceSource = episodes
        left_out = [f"{overlapping} reviews of data.more_train"] if self.more_train else []
        strewn = ""
        if self.has_text:
            cache = self.open_text(judged, tokenizer)
            packed = PackedDocuments(cache, np.arange(len(cache)), context, self.seed)
            source = Mixture(episodes, packed, self.text_share, self.seed)
            strewn = f", {len(source) - len(episodes)} of text"
            left_out.append(f"{cache.excluded} documents of data.text")
        too_long = f", {episodes.left_out} too long and left out" if episodes.left_out else ""
        summary = (
            f"Training on {len(examples)} reviews{too_long}: {len(episodes)} sequences of episodes{strewn}, "
            f"{source.num_tokens} tokens an epoch"
        )
        if left_out:
            summary += f". Left out, for they overlap with held-out or evaluated reviews: {', '.join(left_out)}"
        if self.more_train and overlapping and len(examples) <= len(train):
            summary += "; nothing of data.more_train is left to train on"
        return TrainingSequences(source, summary)

    def read(self, train: Sequence[Example], judged: Sequence[str]) -> tuple[list[Example], int]:
        """All reviews to train on, and how many more there were that overlap with judged ones."""
        more = [example for name in self.more_train for example in read_examples(Path(name), self.clean_html, self.soft_labels)]
        kept = more
        if more and judged:
            overlaps = OverlapGuard(judged).overlaps([words_of(example.review) for example in more])
            kept = [example for example, overlap in zip(more, overlaps.tolist(), strict=True) if not overlap]
        examples = [example for example in (*train, *kept) if len(example.review.split()) >= self.min_words]
        if not examples and not (train or kept):
            raise InputError("no training review is left: all overlap with held-out or evaluated ones; lower data.holdout, or give others")
        if not examples:
            raise InputError(f"no training review has the {self.min_words} words of data.min_words; lower it")
        return examples, len(more) - len(kept)

    def open_text(self, judged: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> TokenCache:
        """The tokens of the text, on disk; one process writes them where they are not there yet."""
        sources = find_sources(self.text, known_revisions(self.cache_dir))
        stream = DocumentStream(sources, Reading(drop=self.text_drop), exclude_texts=judged)
        return open_or_build(stream, tokenizer, self.cache_dir)
