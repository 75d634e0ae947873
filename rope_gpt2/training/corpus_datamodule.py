"""CorpusDataModule: plain text, tokenized once into a memory-mapped cache, packed without padding."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from transformers import PreTrainedTokenizerBase

from rope_gpt2.corpus.documents import Reading
from rope_gpt2.corpus.holdout import drop_same, split_holdout
from rope_gpt2.corpus.packing import PackedDocuments
from rope_gpt2.corpus.sources import find_sources
from rope_gpt2.corpus.stream import DocumentStream
from rope_gpt2.corpus.token_cache import TokenCache, hash_of, known_revisions, open_or_build
from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.examples import strip_html
from rope_gpt2.fewshot.sst2 import resolve_data
from rope_gpt2.model.tokenizer import tokenizer_from_json, tokenizer_to_json, train_tokenizer
from rope_gpt2.sequences import TrainingSequence, collate_sequences
from rope_gpt2.training.loaders import SequenceLoader
from rope_gpt2.training.tokenized_datamodule import TokenizedDataModule
from rope_gpt2.training.whole_files import open_whole


class CorpusDataModule(TokenizedDataModule):
    """Serves packed documents for fit and validate.

    Args:
        train: text to train on: files (.txt, .jsonl, .csv, plain or as .gz), folders or globs of them, or data sets of the hub as
            "owner/name" or "owner/name:config".
        validation: text that the loss is measured on; None holds out documents of `train`. What says the same leaves training.
        holdout: how many documents to hold out where `validation` is None.
        exclude: files of texts (of CSVs the column `review`, then `text`), or "sst2" for its validation set; training documents that
            equal or contain one, or share ten words in a row with one, are left out.
        tokenizer: "train" learns a byte-level BPE on training documents; else a folder or hub name such as "gpt2".
        tokenizer_documents: how many documents, drawn at random, the tokenizer is learned on; 0 for all.
        normalize: a learned tokenizer brings typed text to the form of SST-2 (lower case, spaced punctuation).
        column: of CSV, JSON lines and data sets; None for `text`, then `review`, then the only column that holds text.
        split: of data sets.
        document: what a document is in a plain text file: a "line", or the whole "file".
        drop: regular expressions whose matches are cut out of every document.
        clean_html: remove HTML tags from every document.
        max_length: tokens in a sequence; None for the model's n_positions.
        batch_size: sequences in a training step, on each device.
        eval_batch_size: sequences in a batch of validation, on each device.
        separate_documents: position ids start again with each document of a sequence, and none sees the one before it.
        cache_dir: where tokens are kept; a corpus is tokenized once for a tokenizer.
        order_seed: of the order of the documents and of those held out.
    """

    def __init__(
        self,
        train: list[str] | str,
        validation: str | None = None,
        holdout: int = 2000,
        exclude: list[str] | str | None = None,
        tokenizer: str = "train",
        tokenizer_documents: int = 200_000,
        normalize: bool = True,
        column: str | None = None,
        split: str = "train",
        document: Literal["line", "file"] = "line",
        drop: list[str] | str | None = None,
        clean_html: bool = False,
        max_length: int | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 32,
        separate_documents: bool = False,
        cache_dir: str = "data/cache",
        order_seed: int = 0,
    ) -> None:
        super().__init__(tokenizer, normalize, max_length)
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}; give a larger number")
        for name, value in (("holdout", holdout), ("tokenizer_documents", tokenizer_documents), ("order_seed", order_seed)):
            if value < 0:
                raise InputError(f"{name} must be 0 or more, got {value}; give another number")
        self.train_names, self.validation_name, self.exclude_names = _listed(train), validation, _listed(exclude)
        self.holdout, self.tokenizer_documents, self.order_seed = 0 if validation else holdout, tokenizer_documents, order_seed
        self.reading = Reading(column, split, document, tuple(_listed(drop)), strip_html if clean_html else None)
        self.batch_size, self.eval_batch_size, self.separate_documents = batch_size, eval_batch_size, separate_documents
        self.cache_dir = Path(cache_dir)
        self._caches: list[TokenCache] = []  # of the training text, and of the validation text where it has a name
        self._documents: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    # Files

    def prepare_data(self) -> None:
        """On one process a node: have the tokens on disk."""
        self._open_caches(tokenizer_from_json(self._find_tokenizer()))

    def setup(self, stage: str) -> None:
        """Have the tokenizer and map the tokens, the same on every process."""
        tokenizer = self._make_tokenizer()
        if self._process()[0] == 0 and not self._caches:
            self._open_caches(tokenizer)
        # nobody else need hash the sources, unless the disk is another one
        folders = self._broadcast([cache.folder for cache in self._caches])
        if not self._caches:
            if all(folder.is_dir() for folder in folders):
                self._caches = [TokenCache(folder) for folder in folders]
            else:
                self._open_caches(tokenizer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the tokenizer of a checkpoint, and its tokens."""
        before = None if self.tokenizer is None else tokenizer_to_json(self.tokenizer)
        super().load_state_dict(state_dict)
        if self.tokenizer is not None and tokenizer_to_json(self.tokenizer) != before:
            self._caches, self._documents = [], None

    @cached_property
    def _streams(self) -> list[DocumentStream]:
        """Of the training text, and of the validation text where it has a name."""
        revisions = known_revisions(self.cache_dir)
        excluded = [str(resolve_data(name, "validation")) for name in self.exclude_names]
        exclude = find_sources(excluded, revisions) if excluded else []
        streams = [DocumentStream(find_sources(self.train_names, revisions), self.reading, exclude)]
        if self.validation_name is not None:
            streams.append(DocumentStream(find_sources(self.validation_name, revisions), self.reading))
        return streams

    def _open_caches(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._caches = [open_or_build(stream, tokenizer, self.cache_dir) for stream in self._streams]

    def _learn_tokenizer(self, vocab_size: int) -> PreTrainedTokenizerBase:
        """Learned once for a corpus and kept beside its tokens; held-out documents have no part in it."""
        options = [vocab_size, self.tokenizer_documents, self.holdout, self.order_seed]
        untrained = tokenizer_to_json(train_tokenizer([], 258, self.normalize))  # says how a text is split and normalized
        key = hash_of([[stream.description for stream in self._streams], options, untrained])
        path = self.cache_dir / f"tokenizer-{key}.json"
        if not path.is_file():
            train, *others = self._streams
            avoid = np.concatenate([piece.hashes for stream in others for piece in stream]) if others else None
            texts = train.sample(self.tokenizer_documents, self.holdout, self.order_seed, avoid)
            rank_zero_info(f"Learning a tokenizer on {len(texts)} documents")
            learned = tokenizer_to_json(train_tokenizer(texts, vocab_size, self.normalize))
            with open_whole(path, "data.cache_dir") as file:
                file.write(learned)
        return tokenizer_from_json(path.read_text(encoding="utf-8"))

    def _split(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices of the training documents in the first cache and of the validation documents in the last."""
        if not self._caches:
            self._open_caches(self._make_tokenizer())
        if self._documents is None:
            train, *others = self._caches
            if others:
                kept = drop_same(train, np.arange(len(train)), others[0].hashes)
                if not len(kept):
                    raise InputError(f"{self.validation_name}: holds every training document; give another validation or leave it out")
                self._documents = kept, np.arange(len(others[0]))
            else:
                self._documents = split_holdout(train, self.holdout, self.order_seed)
        return self._documents

    # Loaders

    def train_dataloader(self) -> SequenceLoader:
        """Packed documents, in an order that depends on the seed and the epoch alone."""
        documents, held_out = self._split()
        cache = self._caches[0]
        packed = PackedDocuments(cache, documents, self._context(), self.order_seed, self.separate_documents)
        apart = 0 if self.validation_name else len(held_out)
        rank_zero_info(
            f"Training on {len(documents)} documents: {len(packed)} sequences, {packed.num_tokens} tokens an epoch. Left out: "
            f"{apart} held out, {len(cache) - len(documents) - apart} equal to held-out ones, {cache.excluded} that overlap with "
            f"excluded texts. Tokens: {cache.folder}"
        )
        rank, world = self._process()
        return SequenceLoader(packed, self.batch_size, rank, world, self._reached)

    def val_dataloader(self) -> "DataLoader[Any]":
        """SequenceBatches of the held-out documents in their order, each process its share."""
        _, documents = self._split()
        if not len(documents):
            raise InputError("no document is held out; raise data.holdout, give data.validation, or set trainer.limit_val_batches to 0")
        windows = _Windows(PackedDocuments(self._caches[-1], documents, self._context(), 0, self.separate_documents, shuffle=False))
        rank, world = self._process()
        if len(windows) < world:
            raise InputError(f"{len(windows)} validation sequences are too few for {world} processes; raise data.holdout")
        # what is left over when each process has as many as the others would be counted twice, so it is left out
        sampler: DistributedSampler[TrainingSequence] = DistributedSampler(windows, world, rank, shuffle=False, drop_last=True)
        return DataLoader(windows, self.eval_batch_size, sampler=sampler, collate_fn=collate_sequences)

    def test_dataloader(self) -> Any:
        """Refuse: there is nothing to score."""
        raise InputError("corpus data has no labelled reviews; for test and predict use --data SentimentDataModule")

    predict_dataloader = test_dataloader


class _Windows(Dataset[TrainingSequence]):
    """Sequences by index."""

    def __init__(self, packed: PackedDocuments) -> None:
        self.packed = packed

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: int) -> TrainingSequence:
        return self.packed.get(0, index)


def _listed(names: Sequence[str] | str | None) -> list[str]:
    return [] if names is None else [names] if isinstance(names, str) else list(names)
