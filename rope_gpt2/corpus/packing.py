"""Documents of a token cache → training sequences without padding.

An epoch is one stream of tokens: its documents in random order, one after another. Sequence i is the window of tokens
[i L, (i + 1) L) with the token after each as its target, so that every token of an epoch is read once; what does not fill a window at
the end is left out (the next epoch has another order). Everything is a function of (seed, epoch, index) alone.

Let L be length.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rope_gpt2.corpus.token_cache import TokenCache
from rope_gpt2.errors import InputError
from rope_gpt2.sequences import IGNORED, TrainingSequence

KEPT_EPOCHS = 3  # whose orders stay in memory: strewn among other sequences, two of them or more are asked for by turns


class PackedDocuments:
    """Serves windows of the documents (a `SequenceSource`).

    Args:
        cache: their tokens.
        documents: [N] which of them.
        length: tokens in a sequence.
        seed: of the order of the documents in each epoch.
        separate_documents: give position ids that start at 0 with each document, so that none sees the one before it, and no target
            across the border. A document that goes on in the next sequence starts at 0 again there.
        shuffle: False leaves the documents in their order, in every epoch.

    Raises:
        InputError: if the documents do not fill a sequence.
    """

    def __init__(
        self,
        cache: TokenCache,
        documents: NDArray[np.int64],
        length: int,
        seed: int = 0,
        separate_documents: bool = False,
        shuffle: bool = True,
    ) -> None:
        if length < 1:
            raise InputError(f"a training sequence must have at least 1 token, got {length}; raise max_length")
        self.cache, self.documents, self.length, self.seed = cache, np.asarray(documents), length, seed
        self.separate_documents, self.shuffle = separate_documents, shuffle
        self._starts = cache.offsets[self.documents]
        self._lengths = cache.offsets[self.documents + 1] - self._starts
        tokens = int(self._lengths.sum())
        self._count = max(0, tokens - 1) // length
        if not self._count:
            raise InputError(
                f"{len(self.documents)} documents have {tokens} tokens, fewer than a sequence of {length} and its last target; "
                "give more text or a smaller max_length"
            )
        self._epochs: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}  # the one asked for last stands last
        self._no_labels = torch.zeros(length, dtype=torch.bool)

    def __len__(self) -> int:
        """Sequences in an epoch."""
        return self._count

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_epochs": {}}  # made again where it is needed

    @property
    def num_tokens(self) -> int:
        """Tokens of an epoch."""
        return self._count * self.length

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Places in `documents`, in the order of an epoch."""
        if not self.shuffle:
            return np.arange(len(self.documents))
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.documents))

    def get(self, epoch: int, index: int) -> TrainingSequence:
        """Sequence `index` of an epoch."""
        if not 0 <= index < self._count:
            raise IndexError(f"an epoch has {self._count} sequences, there is none of number {index}")
        ends, shifts = self._stream(epoch)
        places = np.arange(index * self.length, (index + 1) * self.length + 1)
        first, last = np.searchsorted(ends, (places[0], places[-1]), side="right")
        borders = ends[first:last] - places[0]  # where the second, third, ... document of this window begins
        members = np.repeat(np.arange(first, last + 1), np.diff(borders, prepend=0, append=len(places)))
        tokens = torch.from_numpy(self.cache.tokens[places + shifts[members]].astype(np.int64))
        input_ids, targets = tokens[:-1], tokens[1:]
        if not self.separate_documents:
            return TrainingSequence(input_ids, targets, self._no_labels)
        begins = np.concatenate(([0], borders))[members - first]
        targets = torch.where(torch.from_numpy(members[1:] != members[:-1]), IGNORED, targets)
        return TrainingSequence(input_ids, targets, self._no_labels, torch.from_numpy((np.arange(len(places)) - begins)[:-1]))

    def _stream(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each document of an epoch's stream ends, and what leads from a place in the stream to the token in the cache."""
        found = self._epochs.pop(epoch, None)
        if found is None:
            if len(self._epochs) == KEPT_EPOCHS:
                del self._epochs[next(iter(self._epochs))]
            order = self.order(epoch)
            ends = np.cumsum(self._lengths[order])
            found = ends, self._starts[order] - (ends - self._lengths[order])
        self._epochs[epoch] = found
        return found
