"""Text for training.py, real or made up, as the packed sequences that CorpusDataModule serves."""

from pathlib import Path

import numpy as np
from trainings import Shape

from rope_gpt2.corpus.packing import PackedDocuments
from rope_gpt2.corpus.sources import find_sources
from rope_gpt2.corpus.stream import DocumentStream
from rope_gpt2.corpus.token_cache import open_or_build
from rope_gpt2.model.tokenizer import train_tokenizer

LARGEST_TOKENIZER = 8192  # tokens; the rest of a larger vocabulary stays unused, which makes no product smaller
TOKENIZER_DOCUMENTS = 20_000
WORDS, WORDS_IN_LINE = 20_000, 20


def pack_text(path: Path, shape: Shape, cache_dir: Path) -> PackedDocuments:
    """Tokenize a text by a vocabulary of its own, and pack its documents.

    Args:
        path: of the text, one document a line.
        shape: names the vocabulary and the length of a sequence.
        cache_dir: for the tokens, which training maps from there.

    Raises:
        InputError: if the text cannot be read or is too short.
    """
    stream = DocumentStream(find_sources(str(path)))
    tokenizer = train_tokenizer(stream.sample(TOKENIZER_DOCUMENTS), min(shape.vocab_size, LARGEST_TOKENIZER))
    cache = open_or_build(stream, tokenizer, cache_dir)
    return PackedDocuments(cache, np.arange(len(cache)), shape.length)


def write_words(path: Path, tokens: int) -> None:
    """Made-up words under Zipf's law, one document a line, that make so many tokens or more: a word is one at least."""
    rng = np.random.default_rng(0)
    letters = np.array(list("aabcdeeefghiiklmnnooprrsstttuvwxyz"))
    words = np.array(["".join(rng.choice(letters, size)) for size in rng.integers(2, 9, WORDS)])
    odds = 1 / np.arange(1, WORDS + 1)
    lines = rng.choice(words, (tokens // WORDS_IN_LINE + 1, WORDS_IN_LINE), p=odds / odds.sum())
    path.write_text("\n".join(map(" ".join, lines)) + "\n", encoding="utf-8")
