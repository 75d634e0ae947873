"""Documents made of random words, and their caches."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from rope_gpt2.corpus.documents import Reading
from rope_gpt2.corpus.sources import find_sources
from rope_gpt2.corpus.stream import DocumentStream
from rope_gpt2.corpus.token_cache import TokenCache, open_or_build
from rope_gpt2.model.tokenizer import train_tokenizer


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Different documents of 1 to 40 words."""
    generator = random.Random(seed)
    words = ["".join(generator.choices("abcdefghij", k=generator.randint(2, 6))) for _ in range(300)]
    return [f"{index} " + " ".join(generator.choices(words, k=generator.randint(1, 40))) for index in range(count)]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return make_texts(400)


@pytest.fixture(scope="session")
def tokenizer(texts: list[str]) -> PreTrainedTokenizerBase:
    return train_tokenizer(texts, 500)


@pytest.fixture
def make_cache(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> Callable[..., TokenCache]:
    """A cache of some documents, one a line."""

    def make(documents: Sequence[str], exclude: Sequence[str] = (), **options) -> TokenCache:
        path = tmp_path / "made.txt"
        path.write_text("\n".join(documents) + "\n", encoding="utf-8")
        evaluated = tmp_path / "evaluated.txt"
        evaluated.write_text("\n".join(exclude) + "\n", encoding="utf-8")
        stream = DocumentStream(find_sources(str(path)), Reading(**options), find_sources(str(evaluated)) if exclude else ())
        return open_or_build(stream, tokenizer, tmp_path / "made")

    return make
