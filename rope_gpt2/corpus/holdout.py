"""Which documents are held out: those whose seeded hash is smallest.

So the choice is random, needs one pass, does not depend on the order of the files, and documents of the same words are never on both
sides.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rope_gpt2.errors import InputError

if TYPE_CHECKING:
    from rope_gpt2.corpus.token_cache import TokenCache


def mix(hashes: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Another hash of each for every seed: the finalizer of SplitMix64 (Steele et al. 2014), a bijection."""
    with np.errstate(over="ignore"):
        mixed = hashes + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def smallest(values: NDArray[np.uint64], count: int) -> NDArray[np.uint64]:
    """The `count` smallest different values, sorted; all of them where there are fewer."""
    return np.unique(values)[:count]


def split_holdout(cache: "TokenCache", count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Set documents apart.

    Args:
        cache: all documents.
        count: how many to hold out; 0 for none.
        seed: which.

    Returns:
        Indices of the training documents and of the held-out ones, each in the order of the cache. What says the same as a held-out
        document, or has the same tokens, is in neither.

    Raises:
        InputError: if fewer than half of the documents would be left to train on.
    """
    mixed = mix(cache.hashes[:, 0], seed)
    values, first = np.unique(mixed, return_index=True)
    if not 0 <= count <= len(values) // 2:
        raise InputError(
            f"holdout must lie between 0 and {len(values) // 2}, half of the different documents, got {count}; "
            "choose a smaller one or give a validation file"
        )
    held_out = np.sort(first[:count])
    return drop_same(cache, np.arange(len(mixed)), cache.hashes[held_out]), held_out


def drop_same(cache: "TokenCache", documents: NDArray[np.int64], hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Documents without those that share a hash, of their words or of their tokens, with one of `hashes` ([N, 2])."""
    same = np.isin(cache.hashes[documents, 0], hashes[:, 0]) | np.isin(cache.hashes[documents, 1], hashes[:, 1])
    return documents[~same]
