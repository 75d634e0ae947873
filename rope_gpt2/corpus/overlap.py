"""Leakage guard: which documents repeat a text that a model will be evaluated on.

Texts are compared as words: lower-cased runs of letters and digits, so that spacing, punctuation and the treebank's way of writing
clitics ("do n't", "it 's") make no difference.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from rope_gpt2.errors import InputError

SHARED_RUN = 10  # words
LEAST_WORDS = 5  # a shorter text is found where it is the whole document, not within one
_WORD = re.compile(r"[^\W_]+")
_TABLE_BITS = 20


def words_of(text: str) -> list[str]:
    """Lower-cased words.

    >>> words_of("Don't MISS it!") == words_of("do n't miss it !")
    True
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text).replace("’", "'")
    return _WORD.findall(text.lower().replace("n't", " n't"))


def content_hash(text: str, words: Sequence[str]) -> int:
    """64-bit hash that texts of the same words share; a text without words has that of its characters."""
    content = " ".join(words) if words else f"\n{text}"
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "little")


class OverlapGuard:
    """Finds documents that equal or contain an evaluated text, or share a run of words with one.

    Runs are looked up by a hash over a window of words, all documents of a piece at once, and what is found is compared word by word.

    Args:
        texts: evaluated texts.
        run: a document that shares so many words in a row with a text overlaps with it.
        least: a text of fewer words than `run`, but so many, overlaps with a document that contains it; a shorter one only with its equal.
    """

    def __init__(self, texts: Iterable[str], run: int = SHARED_RUN, least: int = LEAST_WORDS) -> None:
        if not 1 <= least <= run:
            raise InputError(f"least must lie between 1 and run ({run}), got {least}; choose another")
        self.run, self.least = run, least
        self._numbers: dict[str, int] = {}
        self._texts: set[str] = set()
        self._runs: dict[int, set[tuple[int, ...]]] = {}
        for text in texts:
            self._add(words_of(text))
        random = np.random.default_rng(0)
        self._values = random.integers(2**64, size=len(self._numbers) + 1, dtype=np.uint64)
        self._factors = random.integers(2**64, size=run, dtype=np.uint64) | np.uint64(1)
        self._tables = {length: self._table(length) for length in self._runs}

    def __len__(self) -> int:
        """Different texts."""
        return len(self._texts)

    def overlaps(self, documents: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
        """Which documents, given as words, overlap."""
        found = np.fromiter((" ".join(words) in self._texts for words in documents), np.bool_, len(documents))
        if not self._runs or not documents:
            return found
        ends = np.cumsum([len(words) + 1 for words in documents])  # a 0 after each: no run goes on into the next
        look_up = self._numbers.get
        numbers = np.fromiter(
            (look_up(word, 0) for word in chain.from_iterable((*words, "") for words in documents)), np.int64, int(ends[-1])
        )
        values = self._values[numbers]
        hashes = np.zeros(len(numbers), np.uint64)
        for length in range(1, min(self.run, len(numbers)) + 1):
            hashes = hashes[: len(numbers) - length + 1] + values[length - 1 :] * self._factors[length - 1]
            if length in self._runs:
                for start in np.flatnonzero(self._tables[length][hashes >> np.uint64(64 - _TABLE_BITS)]):
                    if tuple(numbers[start : start + length].tolist()) in self._runs[length]:
                        found[np.searchsorted(ends, start, side="right")] = True
        return found

    def _add(self, words: Sequence[str]) -> None:
        if not words:
            return
        self._texts.add(" ".join(words))
        length = min(len(words), self.run)
        if length >= self.least:
            numbers = [self._numbers.setdefault(word, len(self._numbers) + 1) for word in words]
            runs = self._runs.setdefault(length, set())
            runs.update(tuple(numbers[start : start + length]) for start in range(len(numbers) - length + 1))

    def _table(self, length: int) -> NDArray[np.bool_]:
        """Which leading bits a hash of a run has."""
        runs = np.array(sorted(self._runs[length]))
        hashes = np.zeros(len(runs), np.uint64)
        for place in range(length):
            hashes = hashes + self._values[runs[:, place]] * self._factors[place]
        table = np.zeros(2**_TABLE_BITS, np.bool_)
        table[hashes >> np.uint64(64 - _TABLE_BITS)] = True
        return table
