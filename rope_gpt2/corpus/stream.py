"""Sources → the documents to train on, cleaned, without those that overlap with an evaluated text."""

import hashlib
import heapq
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rope_gpt2.corpus.documents import COLUMNS, Reading, read_pieces
from rope_gpt2.corpus.holdout import mix, smallest
from rope_gpt2.corpus.overlap import OverlapGuard, content_hash, words_of
from rope_gpt2.corpus.sources import CorpusSource

EVALUATED = Reading(preferred=("review", "text"))  # how texts to exclude are read: files of reviews before files of text


class Piece(NamedTuple):
    """Some documents.

    Attributes:
        texts: N documents.
        hashes: [N] uint64, equal for documents of the same words.
        excluded: how many documents of the piece overlapped and are not among them.
    """

    texts: list[str]
    hashes: NDArray[np.uint64]
    excluded: int


class DocumentStream:
    """The documents of some sources, read anew by every iteration.

    Args:
        sources: where they lie.
        reading: how they are read.
        exclude: sources of texts that no document may overlap with; see `OverlapGuard`. Of CSV, JSON lines and data sets the column
            `review` is read, then `text`, then the only one that holds text.
        exclude_texts: more of such texts.
    """

    def __init__(
        self,
        sources: Sequence[CorpusSource],
        reading: Reading | None = None,
        exclude: Sequence[CorpusSource] = (),
        exclude_texts: Iterable[str] = (),
    ) -> None:
        self.sources, self.reading = tuple(sources), reading or Reading()
        self.exclude, self.exclude_texts = tuple(exclude), tuple(exclude_texts)

    @cached_property
    def guard(self) -> OverlapGuard | None:
        """Knows the excluded texts; None where there are none."""
        if not self.exclude and not self.exclude_texts:
            return None
        return OverlapGuard(chain(chain.from_iterable(read_pieces(self.exclude, EVALUATED)), self.exclude_texts))

    def __iter__(self) -> Iterator[Piece]:
        for texts in read_pieces(self.sources, self.reading):
            words = [words_of(text) for text in texts]
            kept = list(range(len(texts)))
            if self.guard is not None:
                overlaps = self.guard.overlaps(words)
                kept = np.flatnonzero(~overlaps).tolist()
            hashes = np.fromiter((content_hash(texts[index], words[index]) for index in kept), np.uint64, len(kept))
            yield Piece([texts[index] for index in kept], hashes, len(texts) - len(kept))

    @cached_property
    def description(self) -> dict[str, Any]:
        """What determines the documents: the content of the files, not where they lie; the commit of a data set on the hub."""
        reading = self.reading
        clean = None if reading.clean is None else f"{reading.clean.__module__}.{reading.clean.__qualname__}"
        guarded: dict[str, Any] | None = None
        if self.guard is not None:
            guarded = {"sources": _describe(self.exclude), "column": None, "run": self.guard.run, "least": self.guard.least}
            if self.exclude_texts:  # by their content, wherever they come from
                guarded["texts"] = hashlib.sha256(json.dumps(sorted(set(self.exclude_texts))).encode()).hexdigest()
        return {
            "sources": _describe(self.sources),
            "column": reading.column or (None if reading.preferred == COLUMNS else list(reading.preferred)),
            "split": reading.split,
            "document": reading.document,
            "drop": list(reading.drop),
            "clean": clean,
            "exclude": guarded,
        }

    def sample(self, count: int, holdout: int = 0, seed: int = 0, avoid: NDArray[np.uint64] | None = None) -> list[str]:
        """Documents to learn a tokenizer from, none of them held out.

        `split_holdout` holds out the documents whose seeded hash is smallest, so those of largest hash are a sample beside them; and the
        held-out documents of a whole are among the smallest of each of its parts.

        Args:
            count: how many; 0 for all. They are held in memory.
            holdout, seed: as for `split_holdout`.
            avoid: hashes of documents that are none of the sample, a validation file's.
        """
        seen: list[NDArray[np.uint64]] = []

        def mixed() -> Iterator[tuple[int, str]]:
            for texts, hashes, _ in self:
                seen.append(mix(hashes, seed))
                if avoid is not None:
                    kept = np.flatnonzero(~np.isin(hashes, avoid)).tolist()
                    texts, hashes = [texts[index] for index in kept], hashes[kept]
                yield from zip(mix(hashes, seed).tolist(), texts, strict=True)

        chosen = heapq.nlargest(count or sys.maxsize, mixed())
        held_out = set(smallest(np.concatenate(seen), holdout).tolist()) if holdout else set()
        return [text for value, text in chosen if value not in held_out]


def _describe(sources: Sequence[CorpusSource]) -> list[dict[str, Any]]:
    described: list[dict[str, Any]] = []
    for source in sources:
        if source.files:
            for path in source.files:
                described.append({"kind": source.kind, "bytes": path.stat().st_size, "sha256": _sha256(path)})
        else:
            described.append({"kind": source.kind, "name": source.name, "revision": source.revision})
    return described


def _sha256(path: Any) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
